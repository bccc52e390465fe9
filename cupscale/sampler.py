"""The loop: denoise a canvas larger than the network's native size, region by region, under the priors.

One scheduler step per step, on the whole canvas: the regions' outputs are fused first. So any sampler
works, multistep ones too (ours; MultiDiffusion and DemoFusion step per window).
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from cupscale.priors.structure import GlobalStructure, strength_at
from cupscale.regions import Fusion, Region, Size, plan_regions


class Schedule(Protocol):
    """The part of a sampler's schedule that is run, from step S on. `i` counts its steps from 0."""

    timesteps: Tensor

    def noised(self, x0: Tensor, noise: Tensor, i: int) -> Tensor: ...
    def model_input(self, sample: Tensor, i: int) -> Tensor: ...
    def to_x0(self, output: Tensor, sample: Tensor, i: int) -> Tensor: ...
    def from_x0(self, x0: Tensor, sample: Tensor, i: int) -> Tensor: ...
    def step(self, output: Tensor, sample: Tensor, i: int) -> Tensor: ...


class Denoiser(Protocol):
    """A network with its prompts, for one run."""

    def look(self, latents: Tensor, t: Tensor) -> None:
        """The pass over the whole picture at native size (1, C, h, w) that feeds the regional attention prior."""

    def predict(self, latents: Tensor, t: Tensor, regions: Sequence[Region], ids: Sequence[int]) -> Tensor:
        """Guided outputs (R, C, h, w) of a batch of regions; `ids` are their places in the plan (their captions)."""


@dataclass(frozen=True)
class RegionsDone:
    """Some regions of step `step` (from 0) of `steps` were denoised: `done` of `total` in this step."""

    step: int
    steps: int
    done: int
    total: int


@dataclass(frozen=True)
class StepDone:
    """Step `step` (from 0) of `steps` ended. x0: (1, C, H, W) float32, the estimate of the result; sample: the state."""

    step: int
    steps: int
    x0: Tensor
    sample: Tensor


@dataclass(frozen=True)
class Notice:
    """Something a person should know; the run goes on."""

    message: str


def draw_noise(shape: Sequence[int], seed: int, stream: int = 0) -> Tensor:
    """Standard normal float32 noise, drawn on the CPU so that a seed means the same on every device.

    `stream` 0 is the canvas, 1 the picture at native size, 2 the sampler's own noise, 3 the jitter.
    """
    return torch.randn(tuple(shape), generator=generator(seed, stream))


def generator(seed: int, stream: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed + stream * 2**32)


def denoise(
    denoiser: Denoiser,
    schedule: Schedule,
    initial: Tensor,
    *,
    window: Size,
    overlap: float,
    seed: int,
    structure: GlobalStructure | None = None,
    strength: float = 0.0,
    picture: Tensor | None = None,
    batch: int = 1,
) -> Generator[RegionsDone | StepDone | Notice, None, None]:
    """Diffuse `initial` (1, C, H, W) to the schedule's first step, then denoise it to the end.

    window: size of a region in cells. overlap: of neighbouring windows, a fraction of a window.
    structure, strength: the global structure prior and its w_0; None or 0 leaves it out.
    picture: (1, C, h, w), the low-resolution latent at native size; None leaves the regional attention prior out.
    batch: regions per network call. Halved, with a Notice, when the memory does not hold it.
    """
    device = initial.device
    canvas = Size(*initial.shape[-2:])
    sample = schedule.noised(initial, draw_noise(initial.shape, seed).to(device), 0)
    picture_noise = None if picture is None else draw_noise(picture.shape, seed, 1).to(device)
    jitter = generator(seed, 3)
    steps = len(schedule.timesteps)
    for i, t in enumerate(schedule.timesteps):
        if picture is not None and picture_noise is not None:
            denoiser.look(schedule.model_input(schedule.noised(picture, picture_noise, i), i), t)
        regions = plan_regions(canvas, window, overlap, jitter)
        model_input = schedule.model_input(sample, i)
        fusion = Fusion(canvas, regions)
        done = 0
        while done < len(regions):
            ids = range(done, min(done + batch, len(regions)))
            some = [regions[k] for k in ids]
            try:
                latents = torch.cat([region.crop(model_input) for region in some])
                outputs = denoiser.predict(latents, t, some, ids)
            except torch.OutOfMemoryError:
                if batch == 1:
                    raise
                batch = max(1, len(some) // 2)
                torch.cuda.empty_cache()
                yield Notice(f"out of memory: going on with {batch} region{'s' * (batch > 1)} at once")
                continue
            for region, output in zip(some, outputs, strict=True):
                fusion.add(region, output)
            done += len(some)
            yield RegionsDone(i, steps, done, len(regions))
        output = fusion.result()
        x0 = schedule.to_x0(output, sample, i)
        if structure is not None and (w := strength_at(i, steps, strength)) > 0:
            x0 = structure.apply(x0, w)
            output = schedule.from_x0(x0, sample, i)
        sample = schedule.step(output, sample, i)
        yield StepDone(i, steps, x0, sample)
