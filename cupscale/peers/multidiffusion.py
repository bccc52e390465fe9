"""MultiDiffusion, as image to image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from cupscale.method.regions import Region, Size
from cupscale.peers.windows import ImageToImage, part_of, strided


@dataclass(frozen=True)
class MultiDiffusion(ImageToImage):
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

    stride: float = 0.125  # of a window's side

    def windows(self, canvas: Size, window: Size) -> list[Region]:
        """The same at every step."""
        return strided(canvas, window, part_of(window, self.stride))
