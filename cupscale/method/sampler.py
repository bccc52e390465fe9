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

from cupscale.method.guidance import LowGuidance
from cupscale.method.memory import fitting
from cupscale.method.regions import Fusion, Region, Size, plan_regions
from cupscale.method.seam import Seam
from cupscale.method.structure import GlobalStructure


class Schedule(Protocol):
    """The part of a sampler's schedule that is run, from step S on. `i` counts its steps from 0.

    `from_noise` gives the state that a picture made from words alone begins with, at strength 1.
    """

    timesteps: Tensor

    def from_noise(self, noise: Tensor) -> Tensor: ...
    def noised(self, x0: Tensor, noise: Tensor, i: int) -> Tensor: ...
    def model_input(self, sample: Tensor, i: int) -> Tensor: ...
    def to_x0(self, output: Tensor, sample: Tensor, i: int) -> Tensor: ...
    def from_x0(self, x0: Tensor, sample: Tensor, i: int) -> Tensor: ...
    def step(self, output: Tensor, sample: Tensor, i: int) -> Tensor: ...


class Denoiser(Protocol):
    """A network with its prompts, for one run."""

    def capture(self, latents: Tensor, t: Tensor) -> Tensor:
        """The pass over the overview (1, C, h, w), the whole picture at native size, that feeds RAP: its output, unguided."""

    def predict(self, latents: Tensor, t: Tensor, regions: Sequence[Region], ids: Sequence[int]) -> Tensor:
        """Guided outputs (R, C, h, w) of a batch of regions; `ids` are their places in the plan (their captions).

        For a guidance of its own for low frequencies, (R, 2 C, h, w): behind them, what the prompt adds, conditional minus
        unconditional.
        """


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

    `stream` 0 is the canvas, 1 the overview, 2 the sampler's own noise, 3 the jitter, 4 the noise on edges.
    """
    return torch.randn(tuple(shape), generator=generator(seed, stream))


def generator(seed: int, stream: int) -> torch.Generator:
    """A generator on the CPU. It looks at the lower 32 bits of its seed only, so the streams differ in those."""
    return torch.Generator().manual_seed((seed + stream * 0x9E3779B9) % 2**32)


def denoise(
    denoiser: Denoiser,
    schedule: Schedule,
    latent: Tensor,
    *,
    window: Size,
    overlap: float,
    seed: int,
    sample: Tensor | None = None,
    structure: GlobalStructure | None = None,
    overview: Tensor | None = None,
    low_guidance: LowGuidance | None = None,
    seam: Seam | None = None,
    batch: int = 1,
) -> Generator[RegionsDone | StepDone | Notice, None, None]:
    """Diffuse a canvas to the schedule's first step, then denoise it to the end.

    Args:
        denoiser: The network with its prompts.
        schedule: The steps to run.
        latent: (1, C, H, W) float32, the latent of the base upscale, at canvas size.
        window: Size of a region in cells.
        overlap: Of neighbouring windows, a fraction of a window, 0 to 0.75.
        seed: Of all noise and of the jitter of the windows.
        sample: (1, C, H, W), the state to begin with in place of the diffused `latent`, as `Schedule.from_noise` gives it.
        structure: The global structure prior; None leaves it out.
        overview: (1, C, h, w), the low-resolution latent at native size; None leaves the regional attention prior out.
        low_guidance: Another scale of guidance for low frequencies; None for one scale.
        seam: Of a picture that repeats; `latent` holds what is repeated behind it.
        batch: Regions per network call. Halved, with a Notice, when the memory does not hold it.

    Yields:
        RegionsDone after every network call, StepDone after every step.

    Raises:
        FloatingPointError: The network's first output holds NaN or infinity. Later ones are not looked at, since a look
            makes an accelerator wait.
    """
    canvas = Size(*latent.shape[-2:])
    fold, repeat = (seam.fold, seam.repeat) if seam else (_as_it_is, _as_it_is)
    if sample is None:
        noise = repeat(draw_noise(latent.shape, seed).to(latent.device))
        sample = schedule.noised(fold(latent), noise, 0)
    whole = None if overview is None else _Overview(overview, draw_noise(overview.shape, seed, 1))
    jitter = generator(seed, 3)
    steps = len(schedule.timesteps)
    for i, t in enumerate(schedule.timesteps):
        if whole is not None:
            whole.capture(denoiser, schedule, i, structure)
        w = 0.0 if structure is None else structure.weight(i, steps)
        if structure is not None and structure.space == "z_t" and w > 0:
            sample = structure.apply(sample, w, _noised_reference(structure, schedule, seed, i))
        regions = plan_regions(canvas, window, overlap, jitter)
        model_input = schedule.model_input(sample, i)
        output, batch = yield from _predict(denoiser, model_input, t, regions, batch, (i, steps))
        _check_first(output, i)
        output = fold(output)
        if low_guidance is not None:
            output = low_guidance.apply(output)
        x0 = schedule.to_x0(output, sample, i)
        if structure is not None and structure.space == "x0" and w > 0:
            x0 = fold(structure.apply(x0, w))
            output = schedule.from_x0(x0, sample, i)
        sample = repeat(schedule.step(output, sample, i))
        yield StepDone(i, steps, x0, sample)


def _as_it_is(x: Tensor) -> Tensor:
    return x


def _noised_reference(structure: GlobalStructure, schedule: Schedule, seed: int, i: int) -> Tensor:
    """z^L_t at step i: the reference under the canvas' own noise, drawn again, since few runs ask for it."""
    reference = structure.reference
    return schedule.noised(reference, draw_noise(reference.shape, seed).to(reference.device), i)


def _check_first(output: Tensor, i: int) -> None:
    if i == 0 and not torch.isfinite(output).all():
        raise FloatingPointError("the network's output is not finite")


class _Overview:
    """The pass over the whole picture at native size, (1, C, h, w), with a noise of its own that it keeps."""

    def __init__(self, latent: Tensor, noise: Tensor):
        self._latent = latent
        self._noise = noise.to(latent.device)

    def capture(
        self, denoiser: Denoiser, schedule: Schedule, i: int, structure: GlobalStructure | None
    ) -> None:
        """Step i. A structure prior that follows this pass takes its x0."""
        sample = schedule.noised(self._latent, self._noise, i)
        output = denoiser.capture(schedule.model_input(sample, i), schedule.timesteps[i])
        if structure is not None and structure.source == "overview":
            structure.follow(schedule.to_x0(output, sample, i))


def _predict(
    denoiser: Denoiser,
    model_input: Tensor,
    t: Tensor,
    regions: Sequence[Region],
    batch: int,
    step: tuple[int, int],
) -> Generator[RegionsDone | Notice, None, tuple[Tensor, int]]:
    """The network's output for the whole canvas, region by region.

    Args:
        denoiser: The network with its prompts.
        model_input: (1, C, H, W).
        t: The timestep.
        regions: That cover the canvas.
        batch: Regions per network call.
        step: Its number, from 0, and how many there are, for the events.

    Returns:
        The fused output (1, C, H, W), and the regions per call that the memory held.
    """
    fusion = Fusion(Size(*model_input.shape[-2:]), regions)
    done = 0

    def call(count: int) -> tuple[Sequence[Region], Tensor]:
        ids = range(done, done + count)
        some = [regions[k] for k in ids]
        latents = torch.cat([region.crop(model_input) for region in some])
        return some, denoiser.predict(latents, t, some, ids)

    while done < len(regions):
        count = min(batch, len(regions) - done)
        (some, outputs), held = yield from fitting(call, count, _fewer)
        if held < count:
            batch = held
        for region, output in zip(some, outputs, strict=True):
            fusion.add(region, output)
        done += held
        yield RegionsDone(*step, done, len(regions))
    return fusion.result(), batch


def _fewer(count: int) -> Notice:
    return Notice(f"out of memory: going on with {count} region{'s' * (count > 1)} at once")
