"""CUpscalePipeline: settings + image or words -> plan -> captions -> base upscale -> encode -> denoise -> decode -> picture.

From words, the picture that is enlarged is drawn first, by the same pipeline.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Mapping
from typing import Any

from PIL import Image

from cupscale import images, models, offload, upscalers
from cupscale.backbones import Backbone, Tiles, adapt
from cupscale.backbones.maps import check_maps
from cupscale.captioners import Captioning
from cupscale.captions import match
from cupscale.errors import CupscaleError
from cupscale.events import Event, Finished, Result
from cupscale.planning import Plan, drawn_size, take_target
from cupscale.processes import Together
from cupscale.protect import name_of, read_mask
from cupscale.run_plan import plan_run
from cupscale.settings import Settings
from cupscale.stages import CaptionEvent, Stages, dtype_name
from cupscale.upscalers.choose import settle

Source = images.Source | images.Picture


class CUpscalePipeline:
    """C-Upscale around a diffusers pipeline, which comes back as it was.

    Args:
        pipe: A pipeline of a class that `cupscale.backbones.adapt` knows, with whatever LoRAs and scheduler it has.
        batch: Regions per network call. Decides memory and time, not the picture.
        tiles: Of the VAE.
        preview_px: Longer side of previews in pixels, 0 for none.
        bits: Of a sample of the result: 8, or 16 for what is printed or edited, which `Result.deep` holds.
        cache: Where the base upscaler's results are kept; the user's cache folder by default.
        share: This process, where several make each picture; None where one does.

    Raises:
        CupscaleError: The pipeline's class is not supported.
    """

    def __init__(
        self,
        pipe: Any,
        *,
        batch: int | None = None,
        tiles: Tiles | None = None,
        preview_px: int = 512,
        bits: int = 8,
        cache: upscalers.Cache | None = None,
        share: Together | None = None,
    ):
        if bits not in (8, 16):
            raise CupscaleError(f"bits is {bits}: choose 8 or 16")
        self.bits = bits
        self.backbone: Backbone = adapt(pipe)
        offload.check(pipe, offload.current(pipe))
        self.pipe = pipe
        self.model = models.name_of(pipe)
        self.loras: tuple[str, ...] = getattr(pipe, "cupscale_loras", ())
        self.own_scheduler = models.has_own_scheduler(pipe)
        self.batch = batch or (1 if self.backbone.device.type == "cpu" else 4)
        self.tiles = tiles or Tiles()
        self.preview_px = preview_px
        self.cache = cache or upscalers.Cache()
        self.share = share

    @classmethod
    def from_pretrained(
        cls, model: str = "tiny", *, batch: int | None = None, **options: Any
    ) -> CUpscalePipeline:
        """`cupscale.models.load`, wrapped."""
        return cls(models.load(model, **options), batch=batch)

    @property
    def how(self) -> str:
        """Precision and offload, on which the speed depends."""
        return f"{dtype_name(self.backbone.network)} {offload.current(self.pipe)}"

    def settings(self, preset: str | None = None, **fields: Any) -> Settings:
        """This model's defaults, overridden by a preset, and both by `fields`.

        Raises:
            CupscaleError: An unknown preset or field, or a value outside its range.
        """
        usual = models.defaults(self.model, self.backbone.defaults)
        if self.own_scheduler:
            usual = usual | {"scheduler": "model"}
        return Settings.build(usual, self._preset(preset), **fields)

    def plan(
        self,
        image: tuple[int, int] | Image.Image | images.Picture | None,
        settings: Settings,
        *,
        captioning: Captioning | None = None,
    ) -> Plan:
        """What a run would do, its cost, and its time where this machine has run the model before.

        Args:
            image: Its (width, height), or itself, which a captioner's calls and the base upscaler depend on. None: it is
                drawn from the prompt.
            settings: Of the run.
            captioning: Of the run.

        Raises:
            CupscaleError: The image or the output is outside the limits.
        """
        geometry, device = self.backbone.geometry, self.backbone.device.type
        return plan_run(image, settings, geometry, self.model, device, captioning, self.how)

    def upscale(
        self,
        image: Source | None = None,
        settings: Settings | None = None,
        *,
        preset: str | None = None,
        captioning: Captioning | None = None,
        mask: Source | None = None,
        **fields: Any,
    ) -> Result:
        """Upscale one image, or one drawn from the prompt. See `stream` for the arguments.

        Raises:
            CupscaleError: Bad input, before any work is done.
        """
        events = self.stream(image, settings, preset=preset, captioning=captioning, mask=mask, **fields)
        with contextlib.closing(events):
            for event in events:
                if isinstance(event, Finished):
                    return event.result
        raise RuntimeError("the run ended without a result")

    def stream(
        self,
        image: Source | None = None,
        settings: Settings | None = None,
        *,
        preset: str | None = None,
        captioning: Captioning | None = None,
        mask: Source | None = None,
        **fields: Any,
    ) -> Generator[Event, None, None]:
        """The events of a run, `Finished` last. Closing it stops the work within one network call and leaves no hook.

        Args:
            image: A path, bytes, an open file, or a PIL image, 16 px a side at least. None: the prompt is drawn first, at
                `settings.size`, as the pipeline itself would draw it with this seed, and at scale 1 that is the result.
            settings: Whole; None for the model's defaults.
            preset: Its fields come over `settings`.
            captioning: Who writes what is not given, the captions and the prompt, before anything else.
            mask: A picture of the image's size, white where the base upscale stays: see `cupscale.protect`.
            **fields: Single settings, over everything else; `width`, `height`, `megapixels`, `fit` or `to` in place of `scale`,
                as of `cupscale.planning.Target.named`.

        Raises:
            CupscaleError: Bad input, at the call.
        """
        target = take_target(fields)
        chosen = self._chosen(settings, preset, fields)
        other = [lora for lora in chosen.loras if lora not in self.loras]
        chosen, picture = self._input(chosen.replace(loras=self.loras), image)
        if target is not None:
            size = picture.size if picture else drawn_size(chosen.size, self.backbone.geometry)
            chosen = chosen.at_scale(target.scale(size))
        upscalers.check(chosen.upscaler)
        if chosen.attention_form == "screen" and chosen.attention > 0:
            check_maps("attention_form screen", self.backbone.network)
        if chosen.control > 0:
            self.backbone.check_control()
        plan = self.plan(picture, chosen, captioning=captioning)
        if picture is not None:
            chosen, _ = settle(chosen, picture)
        match(chosen.captions, plan.boxes, plan.output)  # refuses captions that lie outside
        protected = None if mask is None else read_mask(mask, plan.input, chosen.seamless)
        named, chosen = chosen.mask, chosen.replace(mask=name_of(protected))
        run = Stages(self, picture, chosen, plan, captioning or Captioning(), other, protected, named)
        return run.events()

    def caption(
        self,
        image: Source,
        captioning: Captioning,
        settings: Settings | None = None,
        *,
        preset: str | None = None,
        **fields: Any,
    ) -> Generator[CaptionEvent, None, None]:
        """Only the captions of a run: events, `Captioned` last. Its captions and prompt go into the settings of the run.

        Raises:
            CupscaleError: Bad input, at the call.
        """
        target = take_target(fields)
        chosen = self._chosen(settings, preset, fields)
        picture = _opened(image)
        if target is not None:
            chosen = chosen.at_scale(target.scale(picture.size))
        run = Stages(self, picture, chosen, self.plan(picture, chosen), captioning)
        return run.written(regions=True)

    def _chosen(self, settings: Settings | None, preset: str | None, fields: Mapping[str, Any]) -> Settings:
        if settings is None:
            return self.settings(preset, **fields)
        return settings.replace(**self._preset(preset) | dict(fields)) if preset or fields else settings

    def _preset(self, name: str | None) -> dict[str, Any]:
        return models.preset(self.model, name, self.backbone.defaults)

    def _input(self, settings: Settings, image: Source | None) -> tuple[Settings, images.Picture | None]:
        """The settings with the size of what is drawn, and the picture; one of the two is empty."""
        if image is not None:
            return settings.replace(size="") if settings.size else settings, _opened(image)
        models.check_words(self.model, settings.prompt)
        width, height = drawn_size(settings.size, self.backbone.geometry)
        return settings.replace(size=f"{width}x{height}"), None


def _opened(image: Source) -> images.Picture:
    return image if isinstance(image, images.Picture) else images.read(image)
