"""Image to image on the whole canvas: what everyone tries first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from cupscale import images
from cupscale.method.regions import Region
from cupscale.peers.base import Diffusion, Run, Task, Work, check_whole_canvas, doubled, run_steps
from cupscale.peers.windows import Views, img2img_in_windows
from cupscale.planning import Geometry, Plan


@dataclass(frozen=True)
class Img2Img(Diffusion):
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

    strength: float = 0.45
    steps: int = 50
    guidance: float = 7.5

    def samples(self, size: tuple[int, int], scale: float, geometry: Geometry) -> int:
        return doubled(run_steps(self.strength, self.steps), self.guidance)

    def check(self, task: Task, plan: Plan) -> None:
        check_whole_canvas(self.title, task, plan.canvas)

    def enlarge(self, work: Work) -> Run:
        settings = work.settings(strength=self.strength, steps=self.steps, guidance=self.guidance)
        latent = work.encode(images.resize(work.task.image, work.output))
        whole = Views([Region(0, 0, *work.canvas)])
        z = yield from img2img_in_windows(work, settings, latent, work.canvas, lambda: whole)
        return work.decode(z, work.output)
