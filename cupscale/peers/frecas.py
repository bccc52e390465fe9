"""FreCaS: a cascade of sizes that shares one schedule, with more guidance for what each size is new to."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from cupscale import images
from cupscale.backbones import GuidedDenoiser
from cupscale.backbones.maps import MapKeeper, check_maps, kept
from cupscale.errors import CupscaleError
from cupscale.images.tensors import to_tensor
from cupscale.method.attention import fused
from cupscale.method.regions import Region, Size
from cupscale.method.sampler import draw_noise
from cupscale.peers.base import Diffusion, Progress, Run, Task, Work, check_whole_canvas, layout
from cupscale.peers.levels import Levels
from cupscale.peers.phases import stages
from cupscale.planning import Geometry, Plan
from cupscale.settings import Settings


class Cascade(NamedTuple):
    """The stages after the first.

    Attributes:
        ends: The timestep, of 1000, at which the stage before each of them ends.
        steps: Of each of them.
        gamma: The power of the sizes' ratio by which the ratio of signal to noise falls from one to the next.
    """

    ends: tuple[int, ...]
    steps: tuple[int, ...]
    gamma: float


def low_band(x: Tensor, cells: Size) -> Tensor:
    """What of x (B, C, H, W) a canvas of `cells` can hold: resized to it and back, bilinearly."""
    return F.interpolate(F.interpolate(x, cells, mode="bilinear"), x.shape[-2:], mode="bilinear")


def guided_by_band(
    unconditional: Tensor, conditional: Tensor, cells: Size, low: float, high: float
) -> Tensor:
    """FA-CFG: guidance of scale `low` for the band that the stage before, of `cells`, could hold, and `high` for the rest."""
    apart = conditional - unconditional
    known = low_band(apart, cells)
    return unconditional + low * known + high * (apart - known)


@dataclass(frozen=True)
class FreCaS(Diffusion):
    """Stages of growing size on the whole canvas.

    The paper: the steps are shared out among the sizes. A stage ends before its noise is gone; its estimate of the picture
    is decoded, enlarged (to the nearest pixel), encoded, and noised to where the ratio of signal to noise is gamma octaves
    lower for each octave of size. Guidance is 7.5 for the band that the stage before could hold, 25 for the rest
    (FA-CFG). Cross-attention reads its values by the maps of the end of the stage before too, with weight 0.6.
    From the authors' program: the stages' ends and steps, for 2048 px (40 and 10 steps) and for 4096 px (30, 5 and 15), and
    how the bands and the maps are made. Its commands guide the new band by 35, where its read-me has 25.

    Ours: the input stands for the picture that the first stage's 40 or 30 steps would draw, and one guided pass over it, noised
    to that stage's end, gives the maps. Maps are resized over the two sides of the picture; the program resizes them
    over their flattened places. Outputs above four native sizes go through their half.
    """

    name: ClassVar = "frecas"
    title: ClassVar = "FreCaS"
    paper: ClassVar = (
        "Zhang, Li, Zhang, FreCaS: Efficient Higher-Resolution Image Generation via Frequency-aware Cascaded Sampling, ICLR "
        "2025, arXiv 2410.18410"
    )

    one: Cascade = Cascade((200,), (10,), 1.5)  # to at most twice the size at once
    two: Cascade = Cascade((400, 200), (5, 15), 2.0)  # further, by way of half of it
    guidance: float = 7.5
    guidance_new: float = 25.0
    maps: float = 0.6

    def samples(self, size: tuple[int, int], scale: float, geometry: Geometry) -> int:
        _, rest = stages(size, layout(size, scale, geometry).output, geometry.native)
        return 2 * sum(self.cascade(len(rest)).steps) + 2 * (self.maps > 0)

    def cascade(self, count: int) -> Cascade:
        """Of as many stages."""
        return self.one if count == 1 else self.two

    def check(self, task: Task, plan: Plan) -> None:
        if self.guidance <= 1:
            raise CupscaleError(
                f"{self.title} guides two bands apart: choose a guidance above 1, not {self.guidance:g}"
            )
        check_whole_canvas(self.title, task, plan.canvas)
        if self.maps > 0:
            check_maps(self.title, task.backbone.network)

    def enlarge(self, work: Work) -> Run:
        settings = work.settings(guidance=self.guidance)
        start, rest = stages(work.task.image.size, work.output, work.geometry.native)
        cascade = self.cascade(len(rest))
        keeper = MapKeeper(keep=False, weight=self.maps)
        noise = work.random(0)
        pixels = to_tensor(images.resize(work.task.image.convert("RGB"), start, "bicubic"))
        hooks = kept(work.backbone.network, keeper) if self.maps > 0 else nullcontext()
        with hooks:
            if self.maps > 0:
                yield from self.first_maps(work, settings, keeper, pixels, cascade.ends[0])
            before = start
            for n, size in enumerate(rest):
                keeper.keep = False
                leg = Leg(work, settings, before, size, cascade, n, last=n + 1 == len(rest))
                pixels = yield from self.stage(leg, keeper, pixels, noise)
                before = size
        return images.to_image(pixels)

    def first_maps(
        self, work: Work, settings: Settings, keeper: MapKeeper, pixels: Tensor, end: float
    ) -> Generator[Progress, None, None]:
        """The maps that the first stage would end with: one pass over the input, noised to its end."""
        cells = work.cells((pixels.shape[-1], pixels.shape[-2]))
        levels = Levels(work.backbone, settings, cells)
        i = levels.nearest(end)
        z = work.encode_pixels(pixels, cells)
        sample = levels.schedule.noised(z, draw_noise(z.shape, settings.seed, 1).to(z.device), i)
        with work.backbone.denoiser(settings, (), cells, cells) as denoiser:
            keeper.keep = True
            yield self.halves(work, denoiser, levels, sample, i)[1]
        keeper.shared = fused(keeper.maps, cells)

    def stage(
        self, leg: Leg, keeper: MapKeeper, pixels: Tensor, random: torch.Generator
    ) -> Generator[Progress, None, Tensor]:
        """One stage: from the picture of the stage before, (1, 3, h, w), to its own, (1, 3, H, W)."""
        work = leg.work
        cells = keeper.cells = work.cells(leg.size)
        levels = Levels(work.backbone, leg.settings, cells)
        places = leg.places(levels)
        wide = F.interpolate(pixels.clamp(-1, 1), leg.size[::-1], mode="nearest")
        z = work.encode_pixels(wide, cells)
        z = levels.schedule.noised(z, torch.randn(z.shape, generator=random).to(z.device), places[0])
        with work.backbone.denoiser(leg.settings, (), cells, cells) as denoiser:
            for n, i in enumerate(places):
                ends = n + 1 == len(places)
                keeper.keep = ends and not leg.last and self.maps > 0
                (unconditional, conditional), progress = self.halves(work, denoiser, levels, z, i)
                yield progress
                output = guided_by_band(
                    unconditional, conditional, leg.known(cells), self.guidance, self.guidance_new
                )
                z = levels.x0(output, z, i) if ends else levels.step(output, z, i, places[n + 1])
        if keeper.keep:
            keeper.shared = fused(keeper.maps, cells)
        return work.decode_pixels(z, leg.size)

    def halves(
        self, work: Work, denoiser: GuidedDenoiser, levels: Levels, sample: Tensor, i: int
    ) -> tuple[tuple[Tensor, Tensor], Progress]:
        """The network's two outputs for a whole canvas."""
        whole = Region(0, 0, *sample.shape[-2:])
        schedule = levels.schedule
        latents = schedule.model_input(sample, i)
        unconditional, conditional = denoiser.halves(latents, schedule.timesteps[i], [whole], [0])
        assert unconditional is not None, "guidance is above 1"
        return (unconditional.float(), conditional.float()), work.advanced(2)


@dataclass(frozen=True)
class Leg:
    """The numbers of one stage: the `n`th after the first, from `before` to `size`, (width, height) in pixels."""

    work: Work
    settings: Settings
    before: tuple[int, int]
    size: tuple[int, int]
    cascade: Cascade
    n: int
    last: bool

    def places(self, levels: Levels) -> list[int]:
        """The levels of its steps, evenly spread from its first to its last."""
        ratio = max(self.before) / max(self.size)
        first = levels.shifted(levels.nearest(self.cascade.ends[self.n]), ratio**self.cascade.gamma)
        end = levels.nearest(0.0 if self.last else self.cascade.ends[self.n + 1])
        count = self.cascade.steps[self.n]
        return [round(place) for place in torch.linspace(first, end, count).tolist()]

    def known(self, cells: Size) -> Size:
        """The cells that the stage before had for the same part of the canvas."""
        ratio = max(self.before) / max(self.size)
        return Size(*(max(1, round(side * ratio)) for side in cells))
