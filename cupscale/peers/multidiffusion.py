"""MultiDiffusion, as image to image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from cupscale import images
from cupscale.method.regions import Region, Size
from cupscale.peers.base import Diffusion, Run, Work, doubled, layout, run_steps
from cupscale.peers.windows import Views, img2img_in_windows, strided
from cupscale.planning import Geometry


@dataclass(frozen=True)
class MultiDiffusion(Diffusion):
    """Overlapping windows, averaged uniformly.

    The paper: a canvas is denoised from pure noise, and its next state is, of all canvases, the one that agrees best (least
    squares) with what the windows step to: their uniform average. In the authors' code windows lie an eighth of a window
    apart.

    Ours: there is an image to enlarge, so it begins from the noised enlargement, as image to image with the strength of
    C-Upscale, and not from pure noise. The last window of a row is moved back onto the canvas, where the code leaves a rest
    that is no multiple of the stride unpainted.
    """

    name: ClassVar = "multidiffusion"
    title: ClassVar = "MultiDiffusion"
    paper: ClassVar = (
        "Bar-Tal et al., MultiDiffusion: Fusing Diffusion Paths for Controlled Image Generation, 2023, "
        "arXiv 2302.08113"
    )

    strength: float = 0.45
    steps: int = 50
    guidance: float = 7.5
    stride: float = 0.125  # of a window's side

    def samples(self, size: tuple[int, int], scale: float, geometry: Geometry) -> int:
        plan = layout(size, scale, geometry)
        steps = run_steps(self.strength, self.steps)
        return doubled(steps * len(self.windows(plan.canvas, plan.window)), self.guidance)

    def windows(self, canvas: Size, window: Size) -> list[Region]:
        """The same at every step."""
        return strided(canvas, window, Size(*(max(1, round(side * self.stride)) for side in window)))

    def enlarge(self, work: Work) -> Run:
        settings = work.settings(strength=self.strength, steps=self.steps, guidance=self.guidance)
        latent = work.encode(images.resize(work.task.image, work.output))
        views = Views(self.windows(work.canvas, work.window))
        z = yield from img2img_in_windows(work, settings, latent, work.window, lambda: views)
        return work.decode(z, work.output)
