"""Image to image on the whole canvas: what everyone tries first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from cupscale.method.regions import Region, Size
from cupscale.peers.base import Task, check_whole_canvas
from cupscale.peers.windows import ImageToImage
from cupscale.planning import Plan


@dataclass(frozen=True)
class Img2Img(ImageToImage):
    """SDEdit of the enlarged picture, the whole canvas as one window.

    The paper noises an image to a part of the schedule and denoises it from there. Guessed: the strength, which is that of
    C-Upscale here so that the two begin alike, and the Lanczos enlargement. Far above its native size a network repeats what
    it knows; that is the failure the other peers treat.
    """

    name: ClassVar = "img2img"
    title: ClassVar = "Image to image"
    paper: ClassVar = (
        "Meng et al., SDEdit: Guided Image Synthesis and Editing with Stochastic Differential Equations, 2021, "
        "arXiv 2108.01073"
    )

    def check(self, task: Task, plan: Plan) -> None:
        check_whole_canvas(self.title, task, plan.canvas)

    def windows(self, canvas: Size, window: Size) -> list[Region]:
        """One."""
        return [Region(0, 0, *canvas)]
