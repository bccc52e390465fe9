"""SpotDiffusion, as image to image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch

from cupscale.method.regions import Region, Size
from cupscale.peers.base import Work
from cupscale.peers.windows import ImageToImage, Views, strided


def spots(canvas: Size, window: Size, random: torch.Generator) -> Views:
    """Windows side by side on a canvas that is rolled at random, each side onto the opposite one."""
    shift = Size(*(int(torch.randint(side, (), generator=random)) for side in canvas))
    return Views(strided(canvas, window, window), shift)


@dataclass(frozen=True)
class SpotDiffusion(ImageToImage):
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

    def windows(self, canvas: Size, window: Size) -> list[Region]:
        """Side by side."""
        return strided(canvas, window, window)

    def views(self, work: Work) -> Callable[[], Views]:
        random = work.random(3)
        return lambda: spots(work.canvas, work.window, random)
