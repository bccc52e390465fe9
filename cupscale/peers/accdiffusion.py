"""AccDiffusion: DemoFusion with a prompt for each window, and views that exchange their cells."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from cupscale import images
from cupscale.backbones import GuidedDenoiser
from cupscale.backbones.maps import MapKeeper, Maps, check_maps, kept
from cupscale.method.attention import token_grid
from cupscale.method.regions import Region, Size
from cupscale.method.sampler import draw_noise
from cupscale.peers.base import Progress, Run, Task, Work
from cupscale.peers.demofusion import Ascent, DemoFusion
from cupscale.peers.phases import phases
from cupscale.planning import Geometry, Plan
from cupscale.settings import Settings


def coarsest(maps: Maps, cells: Size) -> Tensor:
    """The mean map of the coarsest layers, (tokens, h, w), those in the middle of a U-Net left out where there are others.

    Args:
        maps: Of one row, layer by layer.
        cells: Of the latents they were made for.
    """
    outer = {name: each for name, each in maps.items() if not name.startswith("mid_block")} or maps
    fewest = min(each.shape[1] for each in outer.values())
    mean = torch.stack([each[-1] for each in outer.values() if each.shape[1] == fewest]).mean(0)
    return mean.T.reshape(-1, *token_grid(fewest, cells))


def opened(maps: Tensor) -> Tensor:
    """Where each map is above its own mean, opened: eroded and dilated, each h // 16 times by 3 x 3. (n, h, w) to bool."""
    mask = (maps > maps.mean((-2, -1), keepdim=True)).float()[:, None]
    times = maps.shape[-2] // 16
    for _ in range(times):
        mask = -F.max_pool2d(-mask, 3, stride=1, padding=1)  # beyond the edge there is nothing that erodes
    for _ in range(times):
        mask = F.max_pool2d(mask, 3, stride=1, padding=1)
    return mask[:, 0] > 0.5


def window_prompts(
    words: Sequence[str], masks: Tensor, canvas: Size, regions: Sequence[Region], reach: Size, share: float
) -> list[str]:
    """The prompt of each window: the words whose mask covers at least `share` of it, in their order; it may be empty.

    Args:
        words: Of the prompt.
        masks: (words, h, w) bool, over the whole picture.
        canvas: Which they are enlarged to, in cells.
        regions: On the canvas with a margin of `reach` cells, where there is no word.
        reach: See `cupscale.peers.demofusion.jittered`.
        share: 0 to 1.
    """
    if not words:
        return [""] * len(regions)
    wide = F.interpolate(masks[None].float(), canvas, mode="nearest")[0]
    wide = F.pad(wide, (reach.w, reach.w, reach.h, reach.h))
    covered = [region.crop(wide).mean((-2, -1)) >= share for region in regions]
    return [
        " ".join(word for word, there in zip(words, each.tolist(), strict=True) if there) for each in covered
    ]


def exchanged(views: Sequence[Tensor], random: torch.Generator) -> tuple[list[Tensor], Tensor]:
    """Views whose cells are permuted among them, at every place on its own, and the order, which `returned` takes back."""
    stacked = torch.cat(list(views))
    order = torch.rand(stacked.shape, generator=random).argsort(0).to(stacked.device)
    return list(stacked.gather(0, order).split(1)), order


def returned(views: Sequence[Tensor], order: Tensor) -> list[Tensor]:
    """Each cell back in the view that it came from."""
    return list(torch.cat(list(views)).gather(0, order.argsort(0)).split(1))


@dataclass(frozen=True)
class AccDiffusion(DemoFusion):
    """DemoFusion, with two changes of the paper.

    The paper: a window's prompt is made of the words of the prompt whose cross-attention, averaged over the steps of phase 1
    and over layers, is above its mean in at least a share c of the window, once erosion and dilation have cleaned it; so a
    window is not asked for what lies elsewhere. And the dilated views exchange their cells at random, at every place and step,
    before the network sees them, and take its outputs back (window interaction).
    From the authors' program: 3 x 3 and two iterations on maps of 32 x 32 tokens, layers on the way down and up alone, and
    windows that are moved once in a phase and not at every step.

    Ours: the input is given, so no phase 1 draws it; its maps come from one pass, without guidance, over the noised input at
    each of the steps. A word of several tokens has the mean of their maps, where the program takes each token for a word.
    """

    name: ClassVar[str] = "accdiffusion"
    title: ClassVar[str] = "AccDiffusion"
    paper: ClassVar[str] = (
        "Lin et al., AccDiffusion: An Accurate Method for Higher-Resolution Image Generation, 2024, arXiv 2407.10738"
    )

    share: float = 0.3  # c

    def samples(self, size: tuple[int, int], scale: float, geometry: Geometry) -> int:
        return self.steps + super().samples(size, scale, geometry)

    def check(self, task: Task, plan: Plan) -> None:
        check_maps(self.title, task.backbone.network)

    def enlarge(self, work: Work) -> Run:
        settings = work.settings(strength=1.0, steps=self.steps, guidance=self.guidance)
        masks = opened((yield from self.word_maps(work, settings)))
        words = [word for word, _ in work.backbone.word_tokens(settings.prompt)]
        ascent = AccurateAscent(self, work, settings)
        ascent.plan(words, masks)
        with ExitStack() as stack:
            ascent.open(stack)
            return (yield from ascent.climb())

    def word_maps(self, work: Work, settings: Settings) -> Generator[Progress, None, Tensor]:
        """The map of each word of the prompt over the whole picture, (words, h, w), averaged over the steps."""
        longer, native = max(work.task.image.size), work.geometry.native
        width, height = (max(1, round(side * native / longer)) for side in work.task.image.size)
        z = work.encode(images.resize(work.task.image.convert("RGB"), (width, height), "bicubic"))
        cells = Size(*z.shape[-2:])
        schedule = work.backbone.schedule(settings, work.window)
        noise = draw_noise(z.shape, settings.seed, 1).to(z.device)
        total: Any = 0.0
        with work.backbone.denoiser(settings, (), work.canvas, cells) as denoiser:
            keeper = MapKeeper()
            with kept(work.backbone.network, keeper):
                for i, t in enumerate(schedule.timesteps):
                    denoiser.capture(schedule.model_input(schedule.noised(z, noise, i), i), t)
                    total = total + coarsest(keeper.maps, cells).cpu()
                    yield work.advanced(1)
        tokens = work.backbone.word_tokens(settings.prompt)
        return torch.stack([total[places].mean(0) for _, places in tokens]) if tokens else total[:0]


class AccurateAscent(Ascent):
    """A run whose windows, and their prompts, are settled before it begins."""

    def __init__(self, peer: AccDiffusion, work: Work, settings: Settings):
        super().__init__(peer, work, settings)
        self.share = peer.share
        self.order = work.random(2)
        self.places: dict[Size, tuple[list[Region], list[str]]] = {}
        self.denoisers: Mapping[str, GuidedDenoiser] = {}

    def plan(self, words: Sequence[str], masks: Tensor) -> None:
        """Move the windows of each phase, and find their prompts."""
        _, rest = phases(self.work.task.image.size, self.work.output, self.work.geometry.native)
        reach = self.peer.reach(self.work.window)
        for phase in rest:
            canvas = self.work.cells(phase.size)
            regions = super().moved(canvas)
            self.places[canvas] = (
                regions,
                window_prompts(words, masks, canvas, regions, reach, self.share),
            )

    def open(self, stack: ExitStack) -> None:
        """A denoiser for each prompt, which live as long as `stack`."""
        work, prompt = self.work, self.settings.prompt
        wanted = [prompt, *(text for _, texts in self.places.values() for text in texts)]
        wanted = list(dict.fromkeys(wanted))
        known: dict[str, Any] = {}
        # All texts are encoded before the first denoiser sends the encoders away: the empty one, and the others as captions.
        for first in (self.settings.replace(prompt=""), self.settings.replace(detail=1.0)):
            with work.backbone.denoiser(first, wanted, work.canvas, work.canvas, known=known):
                pass
        self.denoisers = {
            text: stack.enter_context(
                work.backbone.denoiser(
                    self.settings.replace(prompt=text), (), work.canvas, work.canvas, known=known
                )
            )
            for text in wanted
        }
        self.denoiser = self.denoisers[prompt]

    def moved(self, canvas: Size) -> list[Region]:
        return self.places[canvas][0]

    def predict_windows(
        self, t: Tensor, latents: Sequence[Tensor], regions: Sequence[Region], canvas: Size
    ) -> Generator[Progress, None, list[Tensor]]:
        outputs = []
        for text, window, region in zip(self.places[canvas][1], latents, regions, strict=True):
            outputs += yield from self.work.predict(self.denoisers[text], t, [window], [region])
        return outputs

    def dilated(self, views: Sequence[Tensor], t: Tensor) -> Generator[Progress, None, list[Tensor]]:
        mixed, order = exchanged(views, self.order)
        return returned((yield from super().dilated(mixed, t)), order)
