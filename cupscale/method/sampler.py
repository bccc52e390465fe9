"""The loop: denoise a canvas larger than the network's native size, region by region, under the priors.

One scheduler step per step, on the whole canvas: the regions' outputs are fused first. So any sampler
works, multistep ones too (ours; MultiDiffusion and DemoFusion step per window).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from cupscale.method.bands import by_bands
from cupscale.method.guidance import LowGuidance
from cupscale.method.memory import fitting
from cupscale.method.regions import Feathers, Fusion, Region, Size
from cupscale.method.seam import Seam
from cupscale.method.structure import GlobalStructure
from cupscale.method.windows import FlatPlaces, Grid, Placement, even_grid, feathers


class Schedule(Protocol):
    """The part of a sampler's schedule that is run, from step S on. `i` counts its steps from 0.

    `from_noise` gives the state that a picture made from words alone begins with, at strength 1; `draws_from` lets its steps
    draw their noise, where they do, from the generator that drew the canvas.
    """

    timesteps: Tensor

    def from_noise(self, noise: Tensor) -> Tensor: ...
    def draws_from(self, source: torch.Generator) -> None: ...
    def noised(self, x0: Tensor, noise: Tensor, i: int) -> Tensor: ...
    def model_input(self, sample: Tensor, i: int) -> Tensor: ...
    def to_x0(self, output: Tensor, sample: Tensor, i: int) -> Tensor: ...
    def from_x0(self, x0: Tensor, sample: Tensor, i: int) -> Tensor: ...
    def step(self, output: Tensor, sample: Tensor, i: int) -> Tensor: ...


class Denoiser(Protocol):
    """A network with its prompts, for one run."""

    def capture(self, latents: Tensor, t: Tensor) -> Tensor:
        """The pass over the overview (1, C, h, w), the whole picture at native size, that feeds RAP: its output, unguided."""

    def predict(
        self, latents: Tensor, t: Tensor, regions: Sequence[Region], ids: Sequence[int], guided: bool = True
    ) -> Tensor:
        """Outputs (R, C, h, w) of a batch of regions; `ids` are their places in the plan (their captions).

        Those that are guided, where guidance for low frequencies is one of its own, are (R, 2 C, h, w): behind them, what the
        prompt adds, conditional minus unconditional.
        """


class Share(Protocol):
    """The part of one process among several that denoise one canvas."""

    def own(self, batches: int) -> Sequence[int]:
        """Which of a step's batches are this process' own."""

    def gather(self, own: Sequence[Tensor], sizes: Sequence[int]) -> list[Tensor]:
        """The outputs of all batches in their order, in every process, from those of its own: one exchange.

        Args:
            own: Outputs of this process' batches, in their order, each (R, C, h, w).
            sizes: R of every batch.
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


JITTER = 3  # the stream of the windows' places


def draw_noise(shape: Sequence[int], seed: int, stream: int = 0) -> Tensor:
    """Standard normal float32 noise, drawn on the CPU so that a seed means the same on every device.

    `stream` 0 is the canvas, 1 the overview, 2 the sampler's own noise, 3 the jitter.
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
    placement: Placement | None = None,
    flat: FlatPlaces | None = None,
    guided_steps: int | None = None,
    sample: Tensor | None = None,
    structure: GlobalStructure | None = None,
    overview: Tensor | None = None,
    low_guidance: LowGuidance | None = None,
    seam: Seam | None = None,
    batch: int = 1,
    share: Share | None = None,
) -> Generator[RegionsDone | StepDone | Notice, None, None]:
    """Diffuse a canvas to the schedule's first step, then denoise it to the end.

    Args:
        denoiser: The network with its prompts.
        schedule: The steps to run.
        latent: (1, C, H, W) float32, the latent of the base upscale, at canvas size.
        window: Size of a region in cells.
        overlap: Of neighbouring windows, a fraction of a window, 0 to 0.75.
        seed: Of all noise and of the places of the windows.
        placement: How the windows move from step to step; None for the jittered ones.
        flat: Windows that show nothing and need no network; None where all are denoised.
        guided_steps: How many of the steps are guided, from the first on; None for all.
        sample: (1, C, H, W), the state to begin with in place of the diffused `latent`, as `Schedule.from_noise` gives it.
        structure: The global structure prior; None leaves it out.
        overview: (1, C, h, w), the low-resolution latent at native size; None leaves the regional attention prior out.
        low_guidance: Another scale of guidance for low frequencies; None for one scale.
        seam: Of a picture that repeats; `latent` holds what is repeated behind it.
        batch: Regions per network call. Halved, with a Notice, when the memory does not hold it.
        share: This process' part, where several denoise the same canvas; None where one does.

    Yields:
        RegionsDone after every network call, StepDone after every step.

    Raises:
        FloatingPointError: The first step's output is not finite. Later steps are not checked: a check stalls the device.
    """
    steps = len(schedule.timesteps)
    loop = _Loop(
        schedule=schedule,
        network=_Network(denoiser, batch, share),
        windows=_Windows.over(latent, window, overlap, placement or Placement(), steps, seed),
        flat=flat,
        guided_steps=steps if guided_steps is None else guided_steps,
        structure=structure,
        overview=None if overview is None else _Overview(overview, draw_noise(overview.shape, seed, 1)),
        low_guidance=low_guidance,
        seam=seam,
        seed=seed,
        sample=sample,
    )
    yield from loop.run(latent)


class _Windows(NamedTuple):
    """The windows of a run: their grid and their weights at each step, and the grid of the plan, which names them."""

    grids: Sequence[Grid]
    weights: Sequence[Feathers]
    named: Grid

    @classmethod
    def over(
        cls, latent: Tensor, window: Size, overlap: float, placement: Placement, steps: int, seed: int
    ) -> _Windows:
        """The windows over a canvas of the size of `latent`, placed by `placement`."""
        canvas = Size(*latent.shape[-2:])
        grids = placement.grids(canvas, window, overlap, steps, generator(seed, JITTER))
        return cls(grids, feathers(canvas, grids, latent.device), even_grid(canvas, window, overlap))


@dataclass
class _Loop:
    """The canvas between two steps, and what every step of a run shares."""

    schedule: Schedule
    network: _Network
    windows: _Windows
    flat: FlatPlaces | None
    guided_steps: int
    structure: GlobalStructure | None
    overview: _Overview | None
    low_guidance: LowGuidance | None
    seam: Seam | None
    seed: int
    sample: Tensor | None

    def run(self, latent: Tensor) -> Generator[RegionsDone | StepDone | Notice, None, None]:
        """Every step, from the state that was given or else from `latent` (1, C, H, W), noised."""
        if self.sample is None:
            self.diffuse(latent)
        for i in range(len(self.schedule.timesteps)):
            yield from self.step(i)

    def diffuse(self, latent: Tensor) -> None:
        """Noise `latent` (1, C, H, W) to the schedule's first step."""
        noise = self._repeat(draw_noise(latent.shape, self.seed).to(latent.device))
        self.sample = by_bands(partial(self.schedule.noised, i=0), self._fold(latent), noise, out=noise)

    def step(self, i: int) -> Generator[RegionsDone | StepDone | Notice, None, None]:
        """Step `i`: the overview, the regions and their fusion, guidance and structure of the whole, the sampler's step."""
        schedule, structure, steps = self.schedule, self.structure, len(self.schedule.timesteps)
        if self.overview is not None:
            self.overview.capture(self.network.denoiser, schedule, i, structure)
        w = 0.0 if structure is None else structure.weight(i, steps)
        if structure is not None and structure.space == "z_t" and w > 0:
            moved = self._state.clone()  # the last step's event holds the state
            self.sample = structure.apply_(moved, w, self._noised_reference(structure, i))
        output = yield from self._predicted(i)
        _check_first(output, i)
        output = self._fold(output)
        if self.low_guidance is not None and output.shape[1] > self._state.shape[1]:
            output = self.low_guidance.apply(output)
        mover = structure if structure is not None and structure.space == "x0" and w > 0 else None
        x0 = by_bands(partial(schedule.to_x0, i=i), output, self._state, out=output if mover else None)
        if mover:
            x0 = self._fold(mover.apply_(x0, w))
            output = by_bands(partial(schedule.from_x0, i=i), x0, self._state)
        self.sample = self._repeat(schedule.step(output, self._state, i))
        yield StepDone(i, steps, x0, self.sample)

    def _predicted(self, i: int) -> Generator[RegionsDone | Notice, None, Tensor]:
        """The fused outputs of step `i`'s windows, (1, C, H, W), or (1, 2 C, H, W) as in `Denoiser.predict`."""
        windows = self.windows
        schedule, state = self.schedule, self._state
        kept = _Kept(self.flat, windows.grids[i])

        def inputs(regions: Sequence[Region]) -> Tensor:
            return schedule.model_input(torch.cat([region.crop(state) for region in regions]), i)

        steps, guided = len(schedule.timesteps), i < self.guided_steps
        step = _Step(i, steps, schedule.timesteps[i], guided, kept.left_over(windows.named), inputs)
        fusion = Fusion(Size(*state.shape[-2:]), windows.weights[i])
        yield from self.network.predict(step, fusion)
        kept.add_to(fusion, lambda region, x0: schedule.from_x0(x0, region.crop(state), i))
        return fusion.result()

    @property
    def _state(self) -> Tensor:
        assert self.sample is not None  # since `diffuse`
        return self.sample

    def _fold(self, x: Tensor) -> Tensor:
        return x if self.seam is None else self.seam.fold(x)

    def _repeat(self, x: Tensor) -> Tensor:
        return x if self.seam is None else self.seam.repeat(x)

    def _noised_reference(self, structure: GlobalStructure, i: int) -> Tensor:
        """z^L_t at step i: the reference under the canvas' own noise, drawn again, since few runs ask for it."""
        reference = structure.reference
        noise = draw_noise(reference.shape, self.seed).to(reference.device)
        return by_bands(partial(self.schedule.noised, i=i), reference, noise, out=noise)


def _check_first(output: Tensor, i: int) -> None:
    # Without a mask as large as the canvas: where there is a NaN, it is both the least and the greatest.
    if i == 0 and not torch.stack(output.aminmax()).isfinite().all():
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


class _Place(NamedTuple):
    """A window and its place in the plan."""

    region: Region
    id: int


class _Step(NamedTuple):
    """Step `i` of `steps`, and what the network is asked in it; `inputs` cuts regions (R, C, h, w) as it is given them."""

    i: int
    steps: int
    t: Tensor
    guided: bool
    places: Sequence[_Place]
    inputs: Callable[[Sequence[Region]], Tensor]


class _Kept:
    """The windows of one step that show nothing: x0 = z_L in them, and no network is asked."""

    def __init__(self, flat: FlatPlaces | None, grid: Grid):
        self._flat, self._grid = flat, grid
        self._empty = [False] * grid.total if flat is None else flat.empty(grid)

    def left_over(self, named: Grid) -> list[_Place]:
        """The other windows, each with its place among those of the plan."""
        every = zip(self._grid.regions, self._grid.nearest(named), self._empty, strict=True)
        return [_Place(region, place) for region, place, empty in every if not empty]

    def add_to(self, fusion: Fusion, meant: Callable[[Region, Tensor], Tensor]) -> None:
        """Add the output that means z_L in them: `meant` gives that of a region's x0, (1, C, h, w)."""
        if self._flat is None:
            return
        for region, empty in zip(self._grid.regions, self._empty, strict=True):
            if empty:
                fusion.add(region, meant(region, region.crop(self._flat.latent))[0])


@dataclass
class _Network:
    """The network over the windows of a step, `batch` at once: it shrinks to what the memory holds."""

    denoiser: Denoiser
    batch: int
    share: Share | None

    def __post_init__(self) -> None:
        self.first_batch = self.batch

    def predict(self, step: _Step, fusion: Fusion) -> Generator[RegionsDone | Notice, None, None]:
        """Add the outputs of a step's windows to their fusion."""
        places, total = step.places, len(step.places)
        if self.share is not None and total:
            yield from self._shared(self.share, step, fusion)
            return
        done = 0
        while done < total:
            some = places[done : done + self.batch]
            outputs = yield from self._called(step, some)
            for place, output in zip(some, outputs, strict=False):
                fusion.add(place.region, output)
            done += len(outputs)
            yield RegionsDone(step.i, step.steps, done, total)

    def _shared(
        self, share: Share, step: _Step, fusion: Fusion
    ) -> Generator[RegionsDone | Notice, None, None]:
        """The same where other processes have a part of the batches, the same ones whatever memory this one has."""
        places = step.places
        batches = [places[k : k + self.first_batch] for k in range(0, len(places), self.first_batch)]
        own = share.own(len(batches))
        outputs, done = [], 0
        for k in own:
            left, found = batches[k], []
            while left:
                some = yield from self._called(step, left[: self.batch])
                left = left[len(some) :]
                found.append(some)
            outputs.append(torch.cat(found))
            done += len(batches[k])
            yield RegionsDone(step.i, step.steps, done, sum(len(batches[k]) for k in own))
        everything = torch.cat(share.gather(outputs, [len(batch) for batch in batches]))
        for place, output in zip(places, everything, strict=True):
            fusion.add(place.region, output)

    def _called(self, step: _Step, places: Sequence[_Place]) -> Generator[Notice, None, Tensor]:
        """One call: the outputs of as many of `places` as the memory holds, from the first on."""

        def call(count: int) -> Tensor:
            regions, ids = zip(*places[:count], strict=True)
            return self.denoiser.predict(step.inputs(regions), step.t, regions, ids, step.guided)

        outputs, held = yield from fitting(call, len(places), _fewer)
        if held < len(places):
            self.batch = held
        if len(outputs) != held:
            raise ValueError(f"{len(outputs)} outputs for {held} regions")
        return outputs


def _fewer(count: int) -> Notice:
    return Notice(f"out of memory: going on with {count} region{'s' * (count > 1)} at once")
