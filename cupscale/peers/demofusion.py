"""DemoFusion: progressive upscaling, skip residual and dilated sampling."""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from cupscale import images
from cupscale.backbones import GuidedDenoiser
from cupscale.method.regions import Region, Size
from cupscale.peers.base import TRAIN_STEPS, Diffusion, Mean, Progress, Run, Work, cells_of, doubled, layout
from cupscale.peers.phases import Phase, enlarged, phases
from cupscale.peers.windows import part_of, strided
from cupscale.planning import Geometry
from cupscale.settings import Settings


def cosine(t: float) -> float:
    """1 at t = T, falling to 0 at t = 0: (1 + cos(pi (T - t) / T)) / 2."""
    return 0.5 * (1 + math.cos(math.pi * (TRAIN_STEPS - t) / TRAIN_STEPS))


def jittered(canvas: Size, regions: Sequence[Region], reach: Size, random: torch.Generator) -> list[Region]:
    """Windows moved by up to `reach` cells, each on its own, on a canvas with a margin of `reach` cells on every side.

    Windows at an edge move outwards only, so that every cell stays covered; a window as long as the canvas does not move.
    """

    def moved(start: int, side: int, length: int, most: int) -> int:
        low = -most if start + side < length else 0
        high = most if start > 0 else 0
        return start + most + int(torch.randint(low, high + 1, (), generator=random))

    return [
        Region(moved(y, h, canvas.h, reach.h), moved(x, w, canvas.w, reach.w), h, w) for y, x, h, w in regions
    ]


def split(z: Tensor, k: int) -> list[Tensor]:
    """Dilated sampling's views: k x k pictures of every k-th cell, (1, C, k h, k w) to (1, C, h, w) each, row by row."""
    return [z[..., down::k, right::k] for down in range(k) for right in range(k)]


def merge(views: Sequence[Tensor], k: int) -> Tensor:
    """The inverse of `split`."""
    height, width = views[0].shape[-2:]
    z = views[0].new_empty(*views[0].shape[:-2], height * k, width * k)
    for place, view in enumerate(views):
        z[..., place // k :: k, place % k :: k] = view
    return z


def blurred(z: Tensor, k: int, sigma: float) -> Tensor:
    """A Gaussian blur of 2 k - 1 cells a side, beyond the edge zeros, brought back to the mean and deviation of `z` as a whole.

    The views of `split` then look at what lies between their cells too, where noise would make them differ at random.
    """
    x = torch.arange(2 * k - 1, dtype=torch.float32) - (k - 1)
    weights = torch.exp(-(x**2) / (2 * sigma**2))
    weights = (weights / weights.sum()).to(z.device)
    channels = z.shape[1]
    soft = F.conv2d(z, weights[:, None].expand(channels, 1, -1, 1), padding=(k - 1, 0), groups=channels)
    soft = F.conv2d(soft, weights[None].expand(channels, 1, 1, -1), padding=(0, k - 1), groups=channels)
    return restandardised(soft, z)


def restandardised(z: Tensor, like: Tensor) -> Tensor:
    """`z` with the mean and the deviation of `like`, each over the whole tensor."""
    return (z - z.mean()) / z.std() * like.std() + like.mean()


@dataclass(frozen=True)
class DemoFusion(Diffusion):
    """Phases k = 2 .. K from native size upwards; in each, all steps, from pure noise, of local windows and dilated views.

    The paper, with c = `cosine` of the step's t: the last phase's latents, bicubically enlarged, are noised to every t with
    one noise, and the state is mixed with that, by c^3 (skip residual). Local windows, half a window apart and each moved at
    random by up to a quarter of that, are averaged uniformly (MultiDiffusion). The global branch denoises the k x k sub-grids
    of a Gaussian-blurred state (sigma 0.8 times a factor that falls with c); the two are mixed by 1 - c and c.
    From the authors' program: the margin of zeros around the moved windows, which count their micro-conditioning from its
    corner; the blur's size; and the end of a phase, which is brought to the mean and deviation of the first latent.

    As in their program for real images, the input's latent stands where the picture of phase 1 would. Ours: inputs that are
    not of native size (`phases`); one step of the canvas on the mixed outputs, which for samplers of first order equals
    mixing the steps; and views padded to whole multiples of what the network takes, where theirs are padded to k.
    """

    name: ClassVar[str] = "demofusion"
    title: ClassVar[str] = "DemoFusion"
    paper: ClassVar[str] = (
        "Du et al., DemoFusion: Democratising High-Resolution Image Generation With No $$$, 2023, arXiv 2311.16973"
    )

    steps: int = 50
    guidance: float = 7.5
    stride: float = 0.5  # of a window's side
    cosine_skip: float = 3.0  # the exponents of c: of the skip residual,
    cosine_mix: float = 1.0  # of the dilated views' share,
    cosine_blur: float = 1.0  # and of the blur
    sigma: float = 0.8

    def samples(self, size: tuple[int, int], scale: float, geometry: Geometry) -> int:
        plan = layout(size, scale, geometry)
        _, rest = phases(size, plan.output, geometry.native)
        windows = sum(
            len(self.windows(cells_of(phase.size, geometry), plan.window)) + phase.k**2 for phase in rest
        )
        return doubled(self.steps * windows, self.guidance)

    def windows(self, canvas: Size, window: Size) -> list[Region]:
        """The local windows before they are moved."""
        window = Size(min(window.h, canvas.h), min(window.w, canvas.w))
        return strided(canvas, window, part_of(window, self.stride))

    def reach(self, window: Size) -> Size:
        """How far a window may move, in cells."""
        return Size(
            *((side - step) // 4 for side, step in zip(window, part_of(window, self.stride), strict=True))
        )

    def enlarge(self, work: Work) -> Run:
        settings = work.settings(strength=1.0, steps=self.steps, guidance=self.guidance)
        ascent = Ascent(self, work, settings)
        with ExitStack() as stack:
            ascent.open(stack)
            return (yield from ascent.climb())


class Ascent:
    """One run, phase after phase.

    Args:
        peer: Its options.
        work: The run.
        settings: With the prompts as they are read.

    Attributes:
        denoiser: With the prompt of the whole picture, from `open` on.
    """

    denoiser: GuidedDenoiser

    def __init__(self, peer: DemoFusion, work: Work, settings: Settings):
        self.peer = peer
        self.work = work
        self.settings = settings
        self.noise = work.random(0)
        self.jitter = work.random(3)

    def open(self, stack: ExitStack) -> None:
        """The network with its prompts, as long as `stack` lives."""
        canvas = self.work.canvas
        self.denoiser = stack.enter_context(self.work.backbone.denoiser(self.settings, (), canvas, canvas))

    def climb(self) -> Run:
        """All phases."""
        work = self.work
        start, rest = phases(work.task.image.size, work.output, work.geometry.native)
        z = first = work.encode(images.resize(work.task.image.convert("RGB"), start.size, "bicubic"))
        size = start.size
        for phase in rest:
            z = enlarged(z, size, phase.size, work.cells(phase.size))
            z = restandardised((yield from self.denoise(z, phase)), first)
            size = phase.size
        return work.decode(z, work.output)

    def denoise(self, z: Tensor, phase: Phase) -> Generator[Progress, None, Tensor]:
        """One phase: z (1, C, H, W), enlarged, to its end."""
        peer = self.peer
        schedule = self.work.backbone.schedule(self.settings, self.work.window)
        noise = torch.randn(z.shape, generator=self.noise).to(z.device)
        state = schedule.noised(z, noise, 0)
        for i, t in enumerate(schedule.timesteps):
            c = cosine(float(t))
            skip, mix = c**peer.cosine_skip, c**peer.cosine_mix
            state = (1 - skip) * state + skip * schedule.noised(z, noise, i)
            local = yield from self.local(schedule.model_input(state, i), t)
            wide = self.padded(state, phase.k)
            soft = blurred(wide, phase.k, peer.sigma * (0.99 * c**peer.cosine_blur + 0.01))
            views = yield from self.dilated(split(schedule.model_input(soft, i), phase.k), t)
            dilated = merge(views, phase.k)[..., -z.shape[-2] :, -z.shape[-1] :]
            state = schedule.step((1 - mix) * local + mix * dilated, state, i)
        return state

    def local(self, x: Tensor, t: Tensor) -> Generator[Progress, None, Tensor]:
        """MultiDiffusion over the local windows: the canvas' output (1, C, H, W)."""
        canvas = Size(*x.shape[-2:])
        regions = self.moved(canvas)
        reach = self.peer.reach(self.work.window)
        margin = F.pad(x, (reach.w, reach.w, reach.h, reach.h))
        outputs = yield from self.predict_windows(
            t, [region.crop(margin) for region in regions], regions, canvas
        )
        mean = Mean(Size(*margin.shape[-2:]))
        for region, output in zip(regions, outputs, strict=True):
            mean.add(region, output)
        return Region(reach.h, reach.w, *canvas).crop(mean.result())

    def moved(self, canvas: Size) -> list[Region]:
        """This step's local windows, on the canvas with its margin."""
        window = self.work.window
        return jittered(canvas, self.peer.windows(canvas, window), self.peer.reach(window), self.jitter)

    def predict_windows(
        self, t: Tensor, latents: Sequence[Tensor], regions: Sequence[Region], canvas: Size
    ) -> Generator[Progress, None, list[Tensor]]:
        """The outputs of the local windows of a canvas."""
        return (yield from self.work.predict(self.denoiser, t, latents, regions))

    def dilated(self, views: Sequence[Tensor], t: Tensor) -> Generator[Progress, None, list[Tensor]]:
        """The outputs of the dilated views, each of which shows the whole picture."""
        whole = Region(0, 0, *views[0].shape[-2:])
        return (yield from self.work.predict(self.denoiser, t, views, [whole] * len(views)))

    def padded(self, z: Tensor, k: int) -> Tensor:
        """Zeros above and to the left, so that the dilated views come out whole."""
        unit = k * self.work.geometry.align // self.work.geometry.cell
        return F.pad(z, (-z.shape[-1] % unit, 0, -z.shape[-2] % unit, 0))
