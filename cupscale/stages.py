"""The stages of one run: captions, base upscale, encode, denoise, decode, correct. Each is a generator of events."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cupscale import images, machine, offload, upscalers
from cupscale.backbones import Backbone, Tiles
from cupscale.backbones.own import unheard
from cupscale.backbones.texts import readable
from cupscale.captioners import (
    Cache,
    Captioned,
    Captioning,
    CaptionProgress,
    NoCaptioner,
    caption_regions,
)
from cupscale.captioners.memory import room_for
from cupscale.captions import match, within_budget
from cupscale.correct import correct_wrapped, is_grey
from cupscale.errors import CupscaleError
from cupscale.events import Drawn, Event, Finished, Planned, Preview, Progress, Result
from cupscale.images import wrapping
from cupscale.images.tensors import padded, put, to_float, to_int16, to_uint16
from cupscale.method.bands import by_bands
from cupscale.method.guidance import LowGuidance, flat_kept, flat_share, guidance_map, richness
from cupscale.method.lowpass import LowPass
from cupscale.method.memory import empty_cache, fitting, is_out_of_memory
from cupscale.method.regions import Size
from cupscale.method.sampler import Notice, RegionsDone, StepDone, denoise, generator
from cupscale.method.structure import GlobalStructure
from cupscale.method.windows import FlatPlaces
from cupscale.planning import (
    LEAST_TILE_PX,
    Plan,
    counted,
    device_bytes,
    fitting_scale,
    per_cell,
    placement,
)
from cupscale.preview import Pace, PreviewMap
from cupscale.processes import Together
from cupscale.protect import protect
from cupscale.run_plan import asks, captions_wanted, looked_at, speed_name
from cupscale.settings import CHOICES, SAVINGS, Settings
from cupscale.speed import Run
from cupscale.upscalers.choose import settle
from cupscale.upscalers.restore import REACH_PX

PREVIEW_SECONDS = 0.5  # least time from one to the next
CaptionEvent = CaptionProgress | Notice | Captioned


class Equipment(Protocol):
    """What a run needs of its pipeline; see `CUpscalePipeline`."""

    pipe: Any
    backbone: Backbone
    model: str
    own_scheduler: bool
    batch: int
    tiles: Tiles
    preview_px: int
    bits: int
    cache: upscalers.Cache
    share: Together | None

    @property
    def how(self) -> str: ...


class Latents(NamedTuple):
    """What `Stages._encode` gives.

    base: (1, C, H, W) on the canvas. flat: the windows that stay as they are. overview: (1, C, h, w), None where nothing asks for
    it. enlarged: what a ControlNet sees.
    """

    base: Tensor
    flat: FlatPlaces | None
    structure: GlobalStructure | None
    overview: Tensor | None
    preview: PreviewMap | None
    enlarged: dict[Size, Tensor]


@dataclass
class Stages:
    """One run: a chain of stages, each a generator of events that returns what the next one needs."""

    pipeline: Equipment
    source: images.Picture | None
    settings: Settings
    plan: Plan
    captioning: Captioning
    other_loras: Sequence[str] = ()
    mask: Image.Image | None = None
    named_mask: str = ""  # by the settings that the run was given

    def __post_init__(self) -> None:
        self._began = time.perf_counter()
        self._network_seconds = self._enlarge_seconds = 0.0
        self._known: dict[str, Any] = {}  # texts that are encoded already
        self._tiles = self.pipeline.tiles
        self._stage = ""
        self._protected: Image.Image | None = None  # the base upscale, where a mask asks for it
        self._deep: np.ndarray | None = None

    @property
    def picture(self) -> images.Picture:
        """The input, given or drawn."""
        assert self.source is not None
        return self.source

    def events(self) -> Generator[Event, None, None]:
        """The events of the run.

        Raises:
            CupscaleError: The memory holds neither one region at once nor the smallest tiles; the line says what would fit.
        """
        self._began = time.perf_counter()
        yield Planned(self.plan, self.settings)
        for message in self._first_notices():
            yield Notice(message)
        try:
            yield from self._stages()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise CupscaleError(self._no_room()) from error

    def _stages(self) -> Generator[Event, None, None]:
        if self.source is None:
            yield from self._draw()
            if self.settings.scale == 1:
                yield self._finished(self.picture.rgb)
                return
        read, texts = yield from self._captions()
        captioned, drawn = self._elapsed(), self._network_seconds
        try:
            yield from self._restore()
            plain, base = yield from self._base_upscale()
            plain, base = self._extended(plain, base)
            latents = yield from self._encode(plain, base)
            self._protected = base.crop((0, 0, *self.plan.output)) if self.mask else None
            del plain, base
            z = yield from self._denoise(latents, read, texts)
            del latents
            pixels = yield from self._decode(z)
            del z
            image = yield from self._correct(pixels)
        finally:
            self.pipeline.backbone.release()
        self._remember_run(self._elapsed() - captioned - (self._network_seconds - drawn))
        yield self._finished(image)

    def _first_notices(self) -> Iterator[str]:
        """What a person should know before the work begins."""
        if self.other_loras:
            names = ", ".join(self.other_loras)
            yield f"the settings name LoRAs that this model was not loaded with: {names}; it goes on without them"
        if self.named_mask not in ("", self.settings.mask):
            given = "another one is given, and counts" if self.mask else "it goes on without it"
            yield f"the settings are of a result that was made under a mask, which they do not hold: {given}"
        yield from unheard(self.pipeline.pipe, self.settings, self.pipeline.own_scheduler)
        if self.source is not None:
            yield from self.source.notices

    def _finished(self, image: Image.Image) -> Finished:
        total = self._elapsed()
        if self.pipeline.bits == 16 and self._deep is None:  # drawn, and not enlarged
            self._deep = np.asarray(image, np.uint16) * np.uint16(257)
        plan = replace(self.plan, seconds=round(total, 1))
        return Finished(Result(image, self.settings, plan, total, self.picture.kept, self._deep))

    def written(self, *, regions: bool) -> Generator[CaptionEvent, None, None]:
        """`caption_regions`, with room made on the device, and its speed remembered."""
        began = time.perf_counter()
        backbone, captioning = self.pipeline.backbone, self.captioning
        captioner = captioning.captioner or NoCaptioner()
        needed = device_bytes(self.plan, backbone.geometry)
        events = caption_regions(
            captioning,
            self.picture.rgb,
            self.plan,
            prompt=self.settings.prompt,
            regions=regions,
            budget=backbone.budget,
            cache=Cache(),
            room=lambda: room_for(captioner, self.pipeline.pipe, backbone.device, needed),
        )
        with contextlib.closing(events):
            for event in events:
                if isinstance(event, Captioned) and (asked := event.calls - event.cached) > 0:
                    speed = {"call": (time.perf_counter() - began) / asked}
                    machine.remember_speed(speed_name(captioner), captioner.device, speed)
                yield event

    # The stages

    def _draw(self) -> Generator[Event, None, None]:
        """The input from the prompt, as the pipeline's own text-to-image call: one window, no prior, the whole schedule."""
        backbone, plan = self.pipeline.backbone, self.plan
        nothing_added = {name: Settings.model_fields[name].default for name in (*CHOICES, *SAVINGS)}
        plain = self.settings.replace(**nothing_added, strength=1.0, attention=0.0, detail=0.0, captions=())
        read, _ = readable(plain, backbone)
        canvas = Size(*(side // plan.cell_px for side in reversed(plan.input)))
        schedule = backbone.schedule(plain, canvas)
        source = generator(plain.seed, 0)
        noise = torch.randn((1, backbone.geometry.channels, *canvas), generator=source).to(backbone.device)
        schedule.draws_from(source)
        try:
            with backbone.denoiser(read, (), canvas, canvas, known=self._known) as denoiser:
                start = schedule.from_noise(noise)
                loop = denoise(
                    denoiser, schedule, noise, window=canvas, overlap=0.0, seed=plain.seed, sample=start
                )
                z = yield from self._looped("draw", loop)
            pixels = yield from self._tiled(lambda tiles: backbone.decode(z, tiles))
            image = images.to_image(pixels[0])
        finally:
            backbone.release()
        self.source = images.Picture(image)
        self.settings, why = settle(self.settings, self.source)
        rich = looked_at(self.settings, self.source)
        self.plan = replace(counted(plan, self.settings, rich), upscaler=self.settings.upscaler, why=why)
        yield Drawn(image)

    def _captions(self) -> Generator[Event, None, tuple[Settings, tuple[str | None, ...]]]:
        """Write what is missing, and cut it to what the text encoder reads.

        Returns:
            The settings with their prompts as they are read, and a caption per region, None for the prompt.
        """
        if asks(self.captioning, self.settings):
            regions = captions_wanted(self.settings)
            for event in self.written(regions=regions):
                if isinstance(event, CaptionProgress):
                    yield event
                    yield self._progress(
                        "caption",
                        regions=event.done,
                        total=event.calls,
                        left=event.left,
                        fraction=event.done / event.calls,
                    )
                    continue
                if isinstance(event, Captioned):
                    kept = [caption for caption in event.captions if caption.caption]
                    captions = kept if regions else self.settings.captions
                    self.settings = self.settings.replace(prompt=event.prompt, captions=captions)
                yield event
        if self.pipeline.share is not None:  # one process asks for captions, and all go on with them
            self.settings = self.pipeline.share.same(self.settings)
        backbone = self.pipeline.backbone
        prompt = self.settings.prompt if self.captioning.prepend else ""
        budget = within_budget(self.settings.captions, prompt, backbone.budget)
        if budget.message:
            yield Notice(budget.message)
        if budget.captions != self.settings.captions:
            self.settings = self.settings.replace(captions=budget.captions)
        matched = match(self.settings.captions, self.plan.boxes, self.plan.output)
        if self.settings.captions and (report := matched.report()):
            yield Notice(report)
        read, cuts = readable(self.settings, backbone)
        for message in cuts:
            yield Notice(message)
        return read, matched.texts

    def _base_upscale(self) -> Generator[Event, None, tuple[Image.Image, Image.Image]]:
        """The plainly resized input, and what the diffusion starts from; they may be one."""
        yield self._progress("enlarge")
        kind = self.settings.upscaler
        method: images.Method = "bicubic" if kind == "bicubic" else "lanczos"
        plain = wrapping.resized(
            self._input, self.plan.output, self.settings.seamless, images.METHODS[method]
        )
        if side := self.pipeline.preview_px:
            shrink = min(1.0, side / max(plain.size))
            small = (max(1, round(plain.width * shrink)), max(1, round(plain.height * shrink)))
            yield Preview(images.resize(self._input, small, method), 0, self.plan.steps)
        if kind in upscalers.PLAIN:
            return plain, plain
        rgb, output, cache = self._input, self.plan.output, self.pipeline.cache
        small, large = wrapping.margins(rgb.size, output, self.settings.seamless)
        whole = (output[0] + 2 * large[0], output[1] + 2 * large[1])
        steps = upscalers.base_upscale_steps(wrapping.surrounded(rgb, small), whole, kind, cache=cache)
        began, worked = time.perf_counter(), False
        with contextlib.closing(steps):
            while True:
                try:
                    fraction = next(steps)
                except StopIteration as stop:
                    if worked:  # and was not kept from before
                        self._enlarge_seconds = time.perf_counter() - began
                    return plain, wrapping.inner(stop.value, large, output)
                worked = True
                yield self._progress("enlarge", fraction=fraction)

    def _restore(self) -> Generator[Event, None, None]:
        """Sets what is enlarged, and what the result is corrected towards: the input, restored where the settings say so."""
        assert self.settings.restore != "auto"
        self._input = self.picture.rgb
        if self.settings.restore == 0:
            return
        yield self._progress("restore")
        sides = zip("xy", self._input.size, strict=True)
        x, y = (min(side, REACH_PX) if axis in self.settings.seamless else 0 for axis, side in sides)
        steps = upscalers.restored(wrapping.surrounded(self._input, (x, y)), self.settings.restore)
        with contextlib.closing(steps):
            while True:
                try:
                    yield self._progress("restore", fraction=next(steps))
                except StopIteration as stop:
                    self._input = wrapping.inner(stop.value, (x, y), self._input.size)
                    return

    def _extended(self, plain: Image.Image, base: Image.Image) -> tuple[Image.Image, Image.Image]:
        """Both with what is repeated behind them."""
        if self.plan.seam is None:
            return plain, base
        longer = wrapping.repeated(base, (0, 0), self.plan.extended)
        return (longer if plain is base else wrapping.repeated(plain, (0, 0), self.plan.extended)), longer

    def _encode(self, plain: Image.Image, base: Image.Image) -> Generator[Event, None, Latents]:
        yield self._progress("encode")
        backbone, settings, plan = self.pipeline.backbone, self.settings, self.plan

        z = yield from self._encoded(base, plan.canvas)
        if not torch.isfinite(z).all():
            raise CupscaleError(
                f"the VAE of {self.pipeline.model} gives NaN or infinity in {dtype_name(self.pipeline.pipe.vae)}: "
                "load the model with dtype float32, or for SDXL with the VAE madebyollin/sdxl-vae-fp16-fix"
            )
        structure = None
        if settings.structure > 0:
            reference = z if base is plain else (yield from self._encoded(plain, plan.canvas))
            structure = GlobalStructure(
                reference,
                settings.cutoff,
                settings.structure,
                backbone.shuffle,
                kind=settings.structure_filter,
                falls=settings.structure_decay,
                space=settings.structure_space,
                source=settings.structure_reference,
            )
        overview = None
        if settings.passes_overview:
            overview = yield from self._encoded(overview_image(plain, plan), plan.overview)
        enlarged = yield from self._enlarged(base, z)
        flat = self._flat(z)
        side = self.pipeline.preview_px
        preview = PreviewMap(z, base.crop((0, 0, *plan.output)), side, plan) if side else None
        return Latents(z, flat, structure, overview, preview, enlarged)

    def _encoded(self, image: Image.Image, size: Size) -> Generator[Event, None, Tensor]:
        """Latents (1, C, h, w) of an image that is padded to `size` in cells."""
        backbone = self.pipeline.backbone
        pixels = padded(image, size, backbone.geometry.cell)
        return self._tiled(lambda tiles: backbone.encode(pixels, tiles))

    def _enlarged(self, base: Image.Image, z: Tensor) -> Generator[Event, None, dict[Size, Tensor]]:
        """What a ControlNet looks at, in the sizes of canvas and overview; nothing where there is none. z: of `base`."""
        if self.settings.control == 0:
            return {}
        backbone, plan = self.pipeline.backbone, self.plan
        small = overview_image(base, plan)
        if backbone.control_sees_latents:
            seen = yield from self._encoded(small, plan.overview)
            return {plan.overview: seen[0], plan.canvas: z[0]}
        sizes = {plan.overview: small, plan.canvas: base}
        cell = backbone.geometry.cell
        return {size: padded(image, size, cell)[0] for size, image in sizes.items()}

    def _denoise(
        self, latents: Latents, read: Settings, texts: tuple[str | None, ...]
    ) -> Generator[Event, None, Tensor]:
        """Returns the canvas' latents (1, C, H, W)."""
        backbone, settings, plan = self.pipeline.backbone, self.settings, self.plan
        guidance = self._guidance()
        denoiser_of_run = backbone.denoiser(
            read, texts, plan.canvas, plan.overview, guidance, self._known, latents.enlarged
        )
        with denoiser_of_run as denoiser:
            loop = denoise(
                denoiser,
                backbone.schedule(settings),
                latents.base,
                window=plan.window,
                overlap=settings.overlap,
                seed=settings.seed,
                placement=placement(plan, settings),
                flat=latents.flat,
                guided_steps=settings.guided_steps,
                structure=latents.structure,
                overview=latents.overview,
                low_guidance=self._low_guidance(),
                seam=plan.seam,
                batch=self.pipeline.batch,
                share=self.pipeline.share,
            )
            z = yield from self._looped("denoise", loop, latents.preview)
        if settings.flat_strength == 1:
            return z
        rich, strength = self._rich().to(z.device), settings.flat_strength
        if strength == "auto":
            strength = flat_share(z, latents.base, rich)
        return by_bands(partial(flat_kept, flat_strength=strength), z, latents.base, rich, out=z)

    def _decode(self, z: Tensor) -> Generator[Event, None, Tensor]:
        """Returns (3, H, W) int16, as of `to_int16`: a picture of 8192 x 8192 is large."""
        yield self._progress("decode")
        width, height = self.plan.output
        pixels = yield from self._tiled(lambda tiles: self.pipeline.backbone.decode(z, tiles, to_int16))
        if seam := self.plan.seam:
            put(seam.scaled(self.plan.cell_px).fold(to_float(pixels)), pixels)
        return pixels[0, :, :height, :width]

    def _correct(self, pixels: Tensor) -> Generator[Event, None, Image.Image]:
        """What the result keeps of the input."""
        yield self._progress("correct")
        assert self.settings.fidelity != "auto"
        if self.mask is not None and self._protected is not None:
            protect(pixels, self._protected, self.mask, self.settings.seamless)
        correct_wrapped(pixels, self._input, self.settings.fidelity, self.settings.seamless)
        image = images.to_image(pixels)
        grey = is_grey(self._input)
        if self.pipeline.bits == 16:
            self._deep = to_uint16(pixels)[..., 1 if grey else slice(None)]
        if grey:
            image = image.convert("L")
        return images.finish(image, self.picture.alpha, self.settings.seamless)

    # Helpers

    def _tiled(self, work: Callable[[Tiles], Tensor]) -> Generator[Event, None, Tensor]:
        """A pass through the VAE; tiles that the memory did not hold are smaller for the rest of the run."""

        def smaller(side: int) -> Notice:
            self._tiles = replace(self._tiles, side=side)
            return Notice(f"out of memory: going on with VAE tiles of {side} px")

        found, _ = yield from fitting(
            lambda side: work(replace(self._tiles, side=side)), self._tiles.side, smaller, LEAST_TILE_PX
        )
        return found

    def _looped(
        self,
        stage: str,
        loop: Generator[RegionsDone | StepDone | Notice, None, None],
        preview: PreviewMap | None = None,
    ) -> Generator[Event, None, Tensor]:
        """The events of `denoise` as those of a stage; returns its last state (1, C, H, W)."""
        self._stage = stage
        began, pace = time.perf_counter(), Pace(PREVIEW_SECONDS)
        with contextlib.closing(loop), self._finite():
            for event in loop:
                if isinstance(event, RegionsDone):
                    yield self._denoised(stage, event, time.perf_counter() - began)
                elif isinstance(event, StepDone):
                    z = event.sample
                    if preview and (pace.due() or event.step + 1 == event.steps):
                        yield Preview(preview(event.x0), event.step + 1, event.steps)
                        pace.shown()
                else:
                    yield event
        self._network_seconds += time.perf_counter() - began
        return z

    def _no_room(self) -> str:
        """What did not fit, and what would."""
        backbone, plan = self.pipeline.backbone, self.plan
        empty_cache()
        device, pipe = str(backbone.device), self.pipeline.pipe
        remedy = offload.fitting_way(pipe, device, device_bytes(plan, backbone.geometry))
        if not remedy and self._stage in ("encode", "decode", "correct"):
            scale = fitting_scale(plan.input, self.settings, backbone.geometry, offload.room(pipe, device))
            remedy = f"choose a scale of at most {scale:g}" if scale else ""
        return (
            f"out of memory on {device} ({self._stage}) with one region at once and VAE tiles of {self._tiles.side} px: "
            f"{remedy or 'use a smaller model, or a machine with more memory'}"
        )

    def _guidance(self) -> Tensor | None:
        """The scale of guidance per cell of the canvas (1, 1, H, W), where flat places get less of it."""
        settings = self.settings
        if settings.guidance <= 1 or settings.flat_guidance >= 1:
            return None
        return guidance_map(self._rich(), settings.guidance, settings.flat_guidance)

    def _rich(self) -> Tensor:
        """How much the input, restored if it was, has to show in each cell of the canvas, (1, 1, H, W)."""
        return self._per_cell(richness(images.to_tensor(self._input)))

    def _low_guidance(self) -> LowGuidance | None:
        settings, backbone = self.settings, self.pipeline.backbone
        if settings.guidance <= 1 or settings.guidance_low == 0:
            return None
        lowpass = LowPass(
            self.plan.canvas, settings.cutoff, settings.structure_filter, backbone.shuffle, backbone.device
        )
        return LowGuidance(lowpass, settings.guidance_low - settings.guidance)

    def _per_cell(self, of_input: Tensor) -> Tensor:
        """A map over the input's pixels (1, 1, h, w), on the canvas (1, 1, H, W)."""
        return per_cell(of_input, self.plan)

    def _flat(self, z: Tensor) -> FlatPlaces | None:
        """The windows that show nothing, where they are to stay as they are. z: of the base upscale."""
        rich = looked_at(self.settings, self.picture)  # as the plan counted them
        return None if rich is None else FlatPlaces(self._per_cell(rich), z)

    @contextlib.contextmanager
    def _finite(self) -> Iterator[None]:
        """NaN from the network, in words."""
        try:
            yield
        except FloatingPointError:
            network = self.pipeline.backbone.network
            raise CupscaleError(
                f"the network of {self.pipeline.model} gives NaN or infinity in {dtype_name(network)} at the first step: "
                "load it with dtype bfloat16 or float32"
            ) from None

    def _elapsed(self) -> float:
        return time.perf_counter() - self._began

    def _progress(self, stage: str, *, regions: int = 0, total: int | None = None, **rest: Any) -> Progress:
        self._stage = stage
        total = len(self.plan.regions) if total is None else total
        return Progress(stage, 0, self.plan.steps, regions, total, self._elapsed(), **rest)

    def _denoised(self, stage: str, event: RegionsDone, seconds: float) -> Progress:
        fraction = (event.step + event.done / event.total) / event.steps
        left = seconds * (1 / fraction - 1)
        return Progress(
            stage,
            event.step + 1,
            event.steps,
            event.done,
            event.total,
            self._elapsed(),
            left,
            fraction,
        )

    def _remember_run(self, rest: float) -> None:
        """rest: seconds of everything but captions and network."""
        pipeline, plan, geometry = self.pipeline, self.plan, self.pipeline.backbone.geometry
        native = (geometry.native // geometry.cell) ** 2
        run = Run(
            input=plan.input[0] * plan.input[1] / 1e6 if self._enlarge_seconds else 0.0,
            samples=plan.work * plan.window.h * plan.window.w / native,
            output=plan.canvas.h * plan.canvas.w * plan.cell_px**2 / 1e6,
            enlarge=self._enlarge_seconds,
            network=self._network_seconds,
            rest=max(0.0, rest - self._enlarge_seconds),
        )
        machine.remember_run(pipeline.model, pipeline.backbone.device.type, pipeline.how, run)


def overview_image(plain: Image.Image, plan: Plan) -> Image.Image:
    """The resized input shrunk to the network's native size, the share of the canvas' padding left out."""
    width = max(1, round(plan.overview.w * plan.extended[0] / plan.canvas.w))
    height = max(1, round(plan.overview.h * plan.extended[1] / plan.canvas.h))
    return images.resize(plain, (width, height), "lanczos")


def dtype_name(module: Any) -> str:
    return str(module.dtype).removeprefix("torch.")
