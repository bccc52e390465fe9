"""SpotDiffusion, as image to image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from cupscale import images
from cupscale.method.regions import Size
from cupscale.peers.base import Diffusion, Run, Work, doubled, layout, run_steps
from cupscale.peers.windows import Views, img2img_in_windows, strided
from cupscale.planning import Geometry


def spots(canvas: Size, window: Size, random: torch.Generator) -> Views:
    """Windows side by side on a canvas that is rolled at random, each side onto the opposite one."""
    shift = Size(*(int(torch.randint(side, (), generator=random)) for side in canvas))
    return Views(strided(canvas, window, window), shift)


@dataclass(frozen=True)
class SpotDiffusion(Diffusion):
    """Windows that do not overlap, on a grid that moves at random at every step, so that seams are mended in the next.

    The paper draws panoramas: the grid moves along the width, cyclically, by any number of cells, one window high. Guessed:
    the same along the height; the image to image start with the strength of C-Upscale, in place of pure noise; and, where
    a side is no multiple of the window's, the last window is moved back and averaged with its neighbour. A window that
    reaches over an edge sees the opposite edge beside it, as in the paper, where the panorama is closed.
    """

    name: ClassVar = "spotdiffusion"
    title: ClassVar = "SpotDiffusion"
    paper: ClassVar = (
        "Frolov, Moser, Dengel, SpotDiffusion: A Fast Approach For Seamless Panorama Generation Over Time, 2024, "
        "arXiv 2407.15507"
    )

    strength: float = 0.45
    steps: int = 50
    guidance: float = 7.5

    def samples(self, size: tuple[int, int], scale: float, geometry: Geometry) -> int:
        plan = layout(size, scale, geometry)
        steps = run_steps(self.strength, self.steps)
        return doubled(steps * len(strided(plan.canvas, plan.window, plan.window)), self.guidance)

    def enlarge(self, work: Work) -> Run:
        settings = work.settings(strength=self.strength, steps=self.steps, guidance=self.guidance)
        latent = work.encode(images.resize(work.task.image, work.output))
        random = work.random(3)
        z = yield from img2img_in_windows(
            work, settings, latent, work.window, lambda: spots(work.canvas, work.window, random)
        )
        return work.decode(z, work.output)
