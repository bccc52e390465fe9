"""CUpscalePipeline: Settings + image -> plan -> captions -> denoise -> decode -> picture."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from cupscale import images, models
from cupscale.backbones import Backbone, Tiles, adapt
from cupscale.backbones.texts import readable
from cupscale.captioners import (
    SHARE,
    Cache,
    Captioned,
    Captioner,
    CaptionProgress,
    NoCaptioner,
    caption_calls,
    caption_regions,
)
from cupscale.captioners.memory import room_for
from cupscale.captions import match, within_budget
from cupscale.method.guidance import guidance_map, richness
from cupscale.method.regions import Size
from cupscale.method.sampler import Notice, RegionsDone, StepDone, denoise
from cupscale.method.structure import GlobalStructure
from cupscale.planning import Plan, make_plan
from cupscale.settings import MAX_CAPTIONS, Caption, Settings, preset as preset_fields
from cupscale.upscalers import base_upscale_steps

Source = str | Path | bytes | BinaryIO | Image.Image | images.Picture


@dataclass(frozen=True)
class Result:
    """image: PIL, RGB or RGBA, of exactly round(scale x input). settings: with the captions that were used."""

    image: Image.Image
    settings: Settings
    plan: Plan
    seconds: float

    @property
    def captions(self) -> tuple[Caption, ...]:
        return self.settings.captions

    def save(self, path: str | Path) -> None:
        """Write PNG, WebP or JPEG, by the path's suffix, with the settings inside."""
        images.write(self.image, path, self.settings.to_json())


@dataclass(frozen=True)
class Planned:
    """First event: what will be done."""

    plan: Plan
    settings: Settings


@dataclass(frozen=True)
class Progress:
    """How far the run is.

    stage: "caption", "enlarge", "encode", "denoise", "decode". step of steps and regions of total count within "denoise",
    from 1;
    in "caption" regions of total count the captioner's calls.
    elapsed, left: seconds; left is None until there is something to judge by. fraction: of the stage, 0..1.
    """

    stage: str
    step: int
    steps: int
    regions: int
    total: int
    elapsed: float
    left: float | None = None
    fraction: float = 0.0


@dataclass(frozen=True)
class Preview:
    """The estimate of the result after a step, small: PIL RGB."""

    image: Image.Image
    step: int
    steps: int


@dataclass(frozen=True)
class Finished:
    """Last event."""

    result: Result


Event = Planned | Captioned | Progress | Preview | Notice | Finished


class CUpscalePipeline:
    """C-Upscale around a diffusers pipeline, which comes back as it was.

    pipe: of a class that `cupscale.backbones.adapt` knows, with whatever LoRAs and scheduler it has.
    batch: regions per network call. tiles: of the VAE. preview_px: longer side of previews, 0 for none.
    """

    def __init__(
        self, pipe: Any, *, batch: int | None = None, tiles: Tiles | None = None, preview_px: int = 512
    ):
        self.backbone: Backbone = adapt(pipe)
        self._pipe = pipe
        self.model = models.name_of(pipe)
        self.batch = batch or (1 if self.backbone.device.type == "cpu" else 4)
        self.tiles = tiles or Tiles()
        self.preview_px = preview_px

    @classmethod
    def from_pretrained(
        cls, model: str = "tiny", *, batch: int | None = None, **options: Any
    ) -> CUpscalePipeline:
        """`cupscale.models.load`, wrapped."""
        return cls(models.load(model, **options), batch=batch)

    def settings(self, preset: str | None = None, **fields: Any) -> Settings:
        """This model's defaults, under a preset, under `fields`."""
        return Settings.build(
            models.defaults(self.model, self.backbone.defaults), preset_fields(preset), **fields
        )

    def plan(
        self,
        image: tuple[int, int] | Image.Image,
        settings: Settings,
        *,
        captioner: Captioner | None = None,
        share: float = SHARE,
    ) -> Plan:
        """What a run would do, its cost, and its time where this machine has run the model before.

        image: its (width, height), or itself, which a captioner's calls are counted on.
        """
        speed = models.known_speed(self.model, self.backbone.device.type)
        size = image.size if isinstance(image, Image.Image) else image
        plan = make_plan(size, settings, self.backbone.geometry, speed)
        if not isinstance(image, Image.Image) or not asks(captioner, settings):
            return plan
        assert captioner is not None
        calls = caption_calls(
            image, plan, prompt=settings.prompt, share=share, regions=captions_wanted(settings)
        )
        if speed and (call := models.known_speed(f"captioner {captioner.name}", captioner.device)):
            speed = dict(speed) | call
        return make_plan(size, settings, self.backbone.geometry, speed, caption_calls=calls)

    def upscale(
        self,
        image: Source,
        *,
        settings: Settings | None = None,
        preset: str | None = None,
        captioner: Captioner | None = None,
        share: float = SHARE,
        prepend: bool = False,
        fresh: bool = False,
        **fields: Any,
    ) -> Result:
        """Upscale one image. `settings` whole, or a preset and single fields over the model's defaults.

        captioner, share, prepend, fresh: see `stream`. Raises CupscaleError for bad input, before any work is done.
        """
        for event in self.stream(
            image,
            settings=settings,
            preset=preset,
            captioner=captioner,
            share=share,
            prepend=prepend,
            fresh=fresh,
            **fields,
        ):
            if isinstance(event, Finished):
                return event.result
        raise RuntimeError("the run ended without a result")

    def stream(
        self,
        image: Source,
        *,
        settings: Settings | None = None,
        preset: str | None = None,
        captioner: Captioner | None = None,
        share: float = SHARE,
        prepend: bool = False,
        fresh: bool = False,
        **fields: Any,
    ) -> Generator[Event, None, None]:
        """The events of a run. Closing the generator stops the work within one network call and leaves no hook.

        captioner: writes what is not given, the captions and the prompt, before anything else. share: its threshold for
        regions that share a caption. prepend: put the prompt before every caption, given ones too. fresh: do not use answers
        that are known from before.
        """
        if settings is None:
            settings = self.settings(preset, **fields)
        elif preset or fields:
            settings = settings.replace(**preset_fields(preset) | fields)
        picture = image if isinstance(image, images.Picture) else images.read(image)
        plan = self.plan(picture.rgb, settings, captioner=captioner, share=share)
        match(settings.captions, plan.boxes, plan.output)  # refuses captions that lie outside
        return self._run(picture, settings, plan, captioner, share, prepend, fresh)

    def caption(
        self,
        image: Source,
        captioner: Captioner,
        *,
        settings: Settings | None = None,
        preset: str | None = None,
        share: float = SHARE,
        prepend: bool = False,
        fresh: bool = False,
        **fields: Any,
    ) -> Generator[CaptionProgress | Notice | Captioned, None, None]:
        """Only the captions of a run: events, `Captioned` last. Its captions and prompt go into the settings of the run.

        share, prepend, fresh: as in `stream`. A page shows them to be edited.
        """
        if settings is None:
            settings = self.settings(preset, **fields)
        elif preset or fields:
            settings = settings.replace(**preset_fields(preset) | fields)
        picture = image if isinstance(image, images.Picture) else images.read(image)
        plan = self.plan(picture.rgb, settings)
        return self._written(picture, settings, plan, captioner, share, prepend, fresh, True)

    def _written(
        self,
        picture: images.Picture,
        settings: Settings,
        plan: Plan,
        captioner: Captioner,
        share: float,
        prepend: bool,
        fresh: bool,
        regions: bool,
    ) -> Generator[CaptionProgress | Notice | Captioned, None, None]:
        """`caption_regions`, with room made on the device, and its speed remembered."""
        began = time.perf_counter()
        needed = max(0, plan.bytes - self.backbone.geometry.weights)
        events = caption_regions(
            captioner, picture.rgb, plan, prompt=settings.prompt, share=share, prepend=prepend, regions=regions,
            count_tokens=self.backbone.count_tokens, text_limit=self.backbone.text_limit, cache=Cache(), fresh=fresh,
            room=lambda: room_for(captioner, self._pipe, self.backbone.device, needed),
        )  # fmt: skip
        with contextlib.closing(events):
            for event in events:
                if isinstance(event, Captioned) and (fresh_calls := event.calls - event.cached) > 0:
                    call = (time.perf_counter() - began) / fresh_calls
                    models.remember_speed(f"captioner {captioner.name}", captioner.device, {"call": call})
                yield event

    def _run(
        self,
        picture: images.Picture,
        settings: Settings,
        plan: Plan,
        captioner: Captioner | None,
        share: float,
        prepend: bool,
        fresh: bool,
    ) -> Generator[Event, None, None]:
        began = time.perf_counter()

        def elapsed() -> float:
            return time.perf_counter() - began

        def at(stage: str) -> Progress:
            return Progress(stage, 0, plan.steps, 0, len(plan.regions), elapsed())

        yield Planned(plan, settings)
        if captioner is not None and asks(captioner, settings):
            regions = captions_wanted(settings)
            steps = self._written(picture, settings, plan, captioner, share, prepend, fresh, regions)
            with contextlib.closing(steps):
                for step in steps:
                    if isinstance(step, CaptionProgress):
                        yield Progress(
                            "caption", 0, plan.steps, step.done, step.calls, elapsed(), step.left, step.done / step.calls
                        )  # fmt: skip
                        continue
                    if isinstance(step, Captioned):
                        kept = [caption for caption in step.captions if caption.caption][:MAX_CAPTIONS]
                        settings = settings.replace(
                            prompt=step.prompt, captions=kept if regions else settings.captions
                        )
                    yield step
        captioned = elapsed()
        prompt = settings.prompt if prepend else ""
        budget = within_budget(
            settings.captions, prompt, self.backbone.count_tokens, self.backbone.text_limit
        )
        if budget.message:
            yield Notice(budget.message)
        if budget.captions != settings.captions:
            settings = settings.replace(captions=budget.captions)
        matched = match(settings.captions, plan.boxes, plan.output)
        if settings.captions and (report := matched.report()):
            yield Notice(report)
        backbone = self.backbone
        read, cuts = readable(settings, backbone)
        for message in cuts:
            yield Notice(message)
        try:
            yield at("enlarge")
            plain_kind = settings.upscaler if settings.upscaler != "realesrgan" else "lanczos"
            plain = images.resize(picture.rgb, plan.output, plain_kind)
            first = plain
            if settings.upscaler == "realesrgan":
                first = yield from self._enlarged(picture.rgb, plan, at)
            yield at("encode")

            def encode(image: Image.Image, size: Size) -> Tensor:
                return backbone.encode(_padded(image, size, backbone.geometry.cell), self.tiles)

            z = encode(first, plan.canvas)
            structure = None
            if settings.structure > 0:
                reference = z if first is plain else encode(plain, plan.canvas)
                structure = GlobalStructure(reference, settings.cutoff, settings.structure, backbone.shuffle)
            overview = encode(_overview(plain, plan), plan.overview) if settings.attention > 0 else None
            preview = _PreviewMap(z, first, self.preview_px, plan) if self.preview_px else None
            del plain, first
            guidance = None
            if settings.guidance > 1 and settings.flat_guidance < 1:
                guidance = guidance_map(
                    _richness(picture.rgb, plan, backbone.geometry.cell),
                    settings.guidance,
                    settings.flat_guidance,
                )
            with backbone.denoiser(read, matched.texts, plan.canvas, plan.overview, guidance) as denoiser:
                network_began = time.perf_counter()
                loop = denoise(
                    denoiser, backbone.schedule(settings), z, window=plan.window, overlap=settings.overlap,
                    seed=settings.seed, structure=structure, overview=overview,
                    batch=self.batch,
                )  # fmt: skip
                with contextlib.closing(loop):
                    for event in loop:
                        if isinstance(event, RegionsDone):
                            fraction = (event.step + event.done / event.total) / event.steps
                            left = (time.perf_counter() - network_began) * (1 / fraction - 1)
                            yield Progress(
                                "denoise",
                                event.step + 1,
                                event.steps,
                                event.done,
                                event.total,
                                elapsed(),
                                left,
                                fraction,
                            )
                        elif isinstance(event, StepDone):
                            z = event.sample
                            if preview:
                                yield Preview(preview(event.x0), event.step + 1, event.steps)
                        else:
                            yield event
                network = time.perf_counter() - network_began
            yield at("decode")
            pixels = backbone.decode(z, self.tiles)[..., : plan.output[1], : plan.output[0]]
            image = images.finish(images.to_image(pixels), picture.alpha)
        finally:
            backbone.release()
        total = elapsed()
        models.remember_speed(
            self.model,
            backbone.device.type,
            {
                "sample": network / plan.samples,
                "cells": plan.window.h * plan.window.w,
                "megapixel": (total - captioned - network) / (plan.output[0] * plan.output[1] / 1e6),
            },
        )
        yield Finished(Result(image, settings, replace(plan, seconds=round(total, 1)), total))

    def _enlarged(
        self, image: Image.Image, plan: Plan, at: Callable[[str], Progress]
    ) -> Generator[Progress, None, Image.Image]:
        """Real-ESRGAN's image, an event per tile."""
        steps = base_upscale_steps(image, plan.output, "realesrgan")
        with contextlib.closing(steps):
            while True:
                try:
                    fraction = next(steps)
                except StopIteration as stop:
                    enlarged: Image.Image = stop.value
                    return enlarged
                yield replace(at("enlarge"), fraction=fraction)


def captions_wanted(settings: Settings) -> bool:
    """Whether a captioner should write the regions' captions: none are given, and they would be read."""
    return not settings.captions and settings.detail > 0


def asks(captioner: Captioner | None, settings: Settings) -> bool:
    """Whether a run asks its captioner for anything."""
    if captioner is None or isinstance(captioner, NoCaptioner):
        return False
    return captions_wanted(settings) or not settings.prompt.strip()


def _overview(plain: Image.Image, plan: Plan) -> Image.Image:
    """The canvas shrunk to the network's native size, the padding's share left out."""
    canvas_h, canvas_w = plan.canvas
    width = max(1, round(plan.overview.w * plan.output[0] / canvas_w))
    height = max(1, round(plan.overview.h * plan.output[1] / canvas_h))
    return images.resize(plain, (width, height), "lanczos")


def _padded(image: Image.Image, cells: Size, cell_px: int) -> Tensor:
    """(1, 3, H, W) of `cells`, the image in its top left, its last row and column carried on."""
    return _carried_on(images.to_tensor(image), cells.h * cell_px, cells.w * cell_px)


def _richness(image: Image.Image, plan: Plan, cell_px: int) -> Tensor:
    """(1, 1, H, W) in cells of the canvas: how much the input has to show there, from 0 to 1."""
    height, width = (max(1, round(side / cell_px)) for side in (plan.output[1], plan.output[0]))
    rich = F.interpolate(richness(images.to_tensor(image)), (height, width), mode="bilinear")
    return _carried_on(rich, *plan.canvas)


def _carried_on(x: Tensor, height: int, width: int) -> Tensor:
    """(B, C, height, width): `x` in the top left, its last row and column carried on."""
    return F.pad(x, (0, width - x.shape[-1], 0, height - x.shape[-2]), mode="replicate")


class _PreviewMap:
    """Latents to small RGB pictures without the decoder: the linear map that fits the base upscale best.

    It is fitted on the run's own image and latents, so it serves any VAE (ours).
    """

    def __init__(self, latents: Tensor, image: Image.Image, side: int, plan: Plan):
        cells_w = max(1, plan.output[0] // plan.cell_px)
        cells_h = max(1, plan.output[1] // plan.cell_px)
        self._crop = Size(cells_h, cells_w)
        shrink = min(1.0, side / max(cells_w, cells_h))
        self._size = Size(max(1, round(cells_h * shrink)), max(1, round(cells_w * shrink)))
        small = images.resize(image, (self._size.w, self._size.h), "lanczos")
        pixels = images.to_tensor(small)[0].flatten(1).T  # (n, 3)
        z = self._features(latents)
        ridge = 1e-3 * torch.eye(z.shape[1]) * len(z)
        self._map = torch.linalg.solve(z.T @ z + ridge, z.T @ pixels)  # (C + 1, 3)

    def _features(self, latents: Tensor) -> Tensor:
        z = latents[..., : self._crop.h, : self._crop.w].float()
        z = F.interpolate(z, size=self._size, mode="area")[0].flatten(1).T.cpu()
        return torch.cat((z, torch.ones(len(z), 1)), dim=1)

    def __call__(self, latents: Tensor) -> Image.Image:
        pixels = (self._features(latents) @ self._map).T.reshape(1, 3, *self._size)
        return images.to_image(pixels.clamp(-1, 1))
