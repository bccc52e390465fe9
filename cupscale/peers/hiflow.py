"""HiFlow: a low-resolution flow guides the high-resolution one in its start, its direction and its acceleration."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from cupscale import images
from cupscale.backbones.schedules import FlowSchedule
from cupscale.errors import CupscaleError
from cupscale.images.tensors import to_tensor
from cupscale.method.regions import Region
from cupscale.method.sampler import Schedule
from cupscale.method.structure import GlobalStructure
from cupscale.peers.base import Diffusion, Progress, Run, Task, Work, check_whole_canvas, doubled, layout
from cupscale.peers.diffusehigh import any_sigma, sharpened
from cupscale.peers.phases import enlarged, stages
from cupscale.planning import Geometry, Plan


class Stage(NamedTuple):
    """Options of one size.

    Attributes:
        steps: The last of the schedule, that are run.
        alpha: Of the direction alignment at the first of them; it falls linearly.
        beta: Of the acceleration alignment, likewise.
        guidance: Its scale.
    """

    steps: int
    alpha: float
    beta: float
    guidance: float


class Flow:
    """The aligned velocities of one stage.

    Args:
        schedule: Of the stage.
        stage: Its options.
        cutoff: Of the low-pass filter, a fraction of Nyquist.
        shuffle: See `GlobalStructure`.
    """

    def __init__(self, schedule: Schedule, stage: Stage, cutoff: float, shuffle: int):
        self._schedule = schedule
        self._stage = stage
        self._cutoff = cutoff
        self._shuffle = shuffle
        self._before: tuple[Tensor, Tensor] | None = None

    def aligned(self, output: Tensor, z: Tensor, reference: Tensor, i: int) -> Tensor:
        """The network's velocity, aligned to a reference flow at step i.

        x0 <- x0 + alpha_i LP(x0_ref - x0), and of its velocity v and the reference's, v_ref = (z - x0_ref) / s,
        v <- v + beta_i (v' + v_ref - v_ref' - v), where v' and v_ref' are those of the step before.

        Args:
            output: (1, C, H, W).
            z: The state.
            reference: x0_ref.
            i: Of the stage's steps, from 0.
        """
        left = (self._stage.steps - i) / self._stage.steps
        filter_ = GlobalStructure(reference, self._cutoff, shuffle=self._shuffle)
        x0 = filter_.apply_(self._schedule.to_x0(output, z, i), self._stage.alpha * left)
        v, v_ref = self._schedule.from_x0(x0, z, i), self._schedule.from_x0(reference, z, i)
        if self._before is not None:
            before, before_ref = self._before
            v = v + self._stage.beta * left * (before + v_ref - before_ref - v)
        self._before = v, v_ref
        return v


@dataclass(frozen=True)
class HiFlow(Diffusion):
    """Stages of growing size on the whole canvas; flow models only.

    The paper: a reference flow is made of the estimates x0 of the low-resolution run, enlarged, at the same steps. The large
    flow begins from its noised end (initialization alignment); its estimates take the reference's low frequencies
    (direction alignment), and its velocity changes from step to step as the reference's does (acceleration alignment). From
    the authors' program: the last 16 and 10 of 30 steps for 2048 and 4096 px, alpha 1 and 0.25, beta 0.5, both falling
    linearly, Butterworth of order 4 at 0.2, the picture sharpened before it is noised, and guidance 4.5 and 6.

    Ours: the input is given, so there is no flow that drew it, and its latent, enlarged, is the first stage's reference at every
    step; the second stage refers to the first one's own estimates. The guidance is FLUX's distilled one there, and
    classifier-free guidance of the same scale here. What the program does for FLUX alone is left out: NTK positions, scaled
    attention, and the shift of its patches. The filter's border is mirrored (`GlobalStructure`).
    """

    name: ClassVar = "hiflow"
    title: ClassVar = "HiFlow"
    paper: ClassVar = (
        "Bu et al., HiFlow: Training-free High-Resolution Image Generation with Flow-Aligned Guidance, 2025, "
        "arXiv 2504.06232"
    )

    steps: int = 30
    first: Stage = Stage(16, 1.0, 0.5, 4.5)
    second: Stage = Stage(10, 0.25, 0.5, 6.0)
    cutoff: float = 0.2

    def samples(self, size: tuple[int, int], scale: float, geometry: Geometry) -> int:
        _, sizes = stages(size, layout(size, scale, geometry).output, geometry.native)
        options = (self.first, self.second)[: len(sizes)]
        return sum(doubled(stage.steps, stage.guidance) for stage in options)

    def check(self, task: Task, plan: Plan) -> None:
        if not isinstance(task.backbone.schedule(task.settings), FlowSchedule):
            raise CupscaleError(
                f"{self.title} aligns flows, and this model is one of diffusion: choose sd3 or z-image, or another peer"
            )
        check_whole_canvas(self.title, task, plan.canvas)

    def enlarge(self, work: Work) -> Run:
        before, sizes = stages(work.task.image.size, work.output, work.geometry.native)
        pixels = to_tensor(images.resize(work.task.image.convert("RGB"), before, "bicubic"))
        estimates = [work.encode_pixels(pixels, work.cells(before))] * self.first.steps
        random = work.random(0)
        for size, stage in zip(sizes, (self.first, self.second), strict=False):
            cells = work.cells(size)
            references = [enlarged(x0, before, size, cells) for x0 in estimates[-stage.steps :]]
            pixels, estimates = yield from self.stage(work, stage, pixels, size, references, random)
            before = size
        return images.to_image(pixels)

    def stage(
        self,
        work: Work,
        stage: Stage,
        pixels: Tensor,
        size: tuple[int, int],
        references: Sequence[Tensor],
        random: torch.Generator,
    ) -> Generator[Progress, None, tuple[Tensor, list[Tensor]]]:
        """One size.

        Args:
            work: The run.
            stage: Its options.
            pixels: (1, 3, h, w), of the size before.
            size: (width, height) in pixels.
            references: x0_ref at each of its steps, (1, C, H, W).
            random: Of the noise.

        Returns:
            Its picture (1, 3, H, W), and the network's own estimates at each of its steps.
        """
        settings = work.settings(strength=stage.steps / self.steps, steps=self.steps, guidance=stage.guidance)
        cells = work.cells(size)
        schedule = work.backbone.schedule(settings, cells)
        wide = F.interpolate(pixels, size[::-1], mode="bicubic", align_corners=False)
        z = work.encode_pixels(sharpened(wide, any_sigma(random), 1.0), cells)
        z = schedule.noised(z, torch.randn(z.shape, generator=random).to(z.device), 0)
        flow = Flow(schedule, stage, self.cutoff, work.backbone.shuffle)
        estimates = []
        with work.backbone.denoiser(settings, (), cells, cells) as denoiser:
            for i, t in enumerate(schedule.timesteps):
                (output,) = yield from work.predict(denoiser, t, [z], [Region(0, 0, *cells)])
                estimates.append(schedule.to_x0(output, z, i))
                z = schedule.step(flow.aligned(output, z, references[i], i), z, i)
        return work.decode_pixels(z, size), estimates
