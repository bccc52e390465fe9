"""The same functions by name: for `gradio_client`, for plain HTTP, and as MCP tools.

Each takes and returns files and plain values; nothing of one caller is kept for another.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Generator, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import gradio as gr

from cupscale import images, models
from cupscale.bounded import parse_object
from cupscale.errors import CupscaleError
from cupscale.page import (
    agents,
    bounds,
    calls,
    captions as captions_module,
    engine,
    light,
    queue,
    references,
    regions,
    run,
    source,
    writers,
)
from cupscale.page.limits import Limits
from cupscale.page.session import RUN, refusal
from cupscale.page.source import SourceImage
from cupscale.planning import LONG_SIDES, drawn_size, take_target
from cupscale.settings import MAX_SIDE_PX, PRESETS, Settings

FORMATS = ["png", "webp", "jpg"]
_SCALE = 2.0  # where none is given


def mcp_installed() -> bool:
    """Whether the extra that serves MCP tools is there."""
    return find_spec("mcp") is not None


def _report(shot: run.Shot, size: tuple[int, int] | None) -> dict[str, Any]:
    """What came with a result. size: of the input, None where it was drawn from words."""
    return {
        "status": "done",
        "settings": shot.settings.model_dump(mode="json"),
        "plan": engine.planned(size, shot.settings).to_dict(),
        "note": shot.note,
    }


class Endpoints:
    """/upscale, /plan, /caption, /read_settings, /models."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits

    def _settings(
        self,
        prompt: str,
        negative_prompt: str,
        scale: float,
        seed: float,
        model: str,
        preset: str,
        more: str,
        *,
        picture: images.Picture | None,
        sizes: Mapping[str, Any],
    ) -> Settings:
        """Return the settings of a call.

        sizes: of the result, by the names of `planning.SIZES`; one of them, here or among `more`, takes the place of
        the scale.
        """
        given = parse_object(more or "{}", "settings")
        asked = {name: value for name, value in sizes.items() if value not in (None, "")}
        if asked.keys() & given.keys():
            raise CupscaleError(f"{', '.join(asked.keys() & given.keys())} is given twice: give it once")
        given |= asked
        target = take_target(given)
        if target is not None and scale != _SCALE:
            raise CupscaleError("a scale and a size are given: leave one of them out")
        model = engine.check_model(str(given.pop("model", None) or model or engine.default_model()))
        fields: dict[str, Any] = {"prompt": prompt, "scale": scale, "seed": int(seed)}
        fields["negative_prompt"] = negative_prompt or None  # an empty one leaves the model's own
        chosen = models.preset(model, None if preset in ("", "none", None) else preset)
        settings = Settings.build(engine.defaults(model), chosen, fields, given, model=model)
        if target is not None:
            size = picture.size if picture else drawn_size(settings.size, engine.geometry(model))
            settings = settings.at_scale(target.scale(size))
        if len(settings.captions) > self._limits.captions:
            raise CupscaleError(f"{len(settings.captions)} captions: the limit is {self._limits.captions}")
        if any(len(caption.caption) > self._limits.caption_chars for caption in settings.captions):
            raise CupscaleError(
                f"a caption is too long: the limit is {self._limits.caption_chars} characters"
            )
        return settings

    @agents.described
    @queue.attended
    def upscale(
        self,
        image: str | None = None,
        prompt: str = "",
        negative_prompt: str = "",
        scale: float = _SCALE,
        seed: float = 0,
        model: str = "",
        preset: str = "none",
        settings: str = "{}",
        format: str = "png",
        mask: str | None = None,
        width: float | None = None,
        height: float | None = None,
        megapixels: float | None = None,
        fit: str = "",
        to: str = "",
    ) -> Generator[tuple[Any, Any], None, None]:
        """Enlarge a picture with a text-to-image model that adds detail and keeps the picture what it is.

        Args:
            image: The picture to enlarge, at least 16 px a side, as a data URL (data:image/png;base64,...) or as the address
                of a file that this server gave; no other address is fetched. It is never cropped, padded or resized
                silently. Left out: one is drawn from the prompt first, at the model's own size or at "size" among the
                settings.
            prompt: What the whole picture shows, in plain words. May be empty where there is an image.
            negative_prompt: What the picture should not show; empty for the model's own. Needs a guidance above 1.
            scale: Output size over input size, each side, from 1 to 16. The output is exactly round(scale * input).
            seed: Seed of the noise, a whole number from 0. The same seed and settings give the same picture.
            model: Name of the model; empty for this server's default. See the endpoint "models".
            preset: "none" for the model's own defaults, "quick", "turbo" or "paper".
            settings: Any further settings, by name. They win over the arguments of the same names.
            format: "png", "webp" or "jpg". The settings are written inside the file.
            mask: A picture of the image's size, given like it, white where nothing may be invented: there the base upscale
                stays, as on faces and letters. Left out: nowhere.
            width: Of the result in pixels, in place of the scale; the aspect stays, and the scale that it takes has to be from 1
                to 16.
            height: Of the result in pixels, likewise.
            megapixels: Of the result in millions of pixels, likewise.
            fit: WIDTHxHEIGHT of a frame, such as "3840x2160": the largest result that fits into it, likewise.
            to: "4k" or "8k": a longer side of 4096 or 8192 pixels, likewise.

        Returns:
            The enlarged picture, as {"url": address} to an agent, and a JSON report: settings as used, plan, seconds; while
                it waits or runs, the status: runs ahead, seconds to wait, or the fraction done.
        """
        given = (prompt, negative_prompt, scale, seed, model, preset, settings)
        sizes = {"width": width, "height": height, "megapixels": megapixels, "fit": fit, "to": to}
        try:
            yield from self._checked(image, given, sizes, mask, format)
        except CupscaleError as error:
            raise refusal(error) from None

    def _checked(
        self, image: str | None, given: Sequence[Any], sizes: Mapping[str, Any], mask: str | None, format: str
    ) -> Generator[tuple[Any, Any], None, None]:
        """Read and check a call before it waits. given: see `_settings`."""
        if format not in FORMATS:
            raise CupscaleError(f"unknown format '{str(format)[:20]}': choose one of {', '.join(FORMATS)}")
        picture = source.read(image, self._limits) if image else None
        chosen = self._settings(*given, picture=picture, sizes=sizes)
        name = source.name(image) if image else "words"
        held = self._mask(mask, picture)
        if format == "jpg" and picture and picture.alpha:
            raise CupscaleError("the image is transparent, which a jpg cannot be: choose format png or webp")
        yield from self._upscaled(picture, chosen, name, held, format)

    def _upscaled(
        self,
        picture: images.Picture | None,
        chosen: Settings,
        name: str,
        held: images.Picture | None,
        format: str,
    ) -> Generator[tuple[Any, Any], None, None]:
        """Wait, and run. held: the mask."""
        plan = bounds.allowed_plan(picture, chosen, self._limits)
        for place in queue.turn(engine.expected_seconds(plan, chosen)):
            yield None, place.report
        with contextlib.closing(run.watch(picture, chosen, self._limits, name, mask=held)) as sights:
            for sight in sights:
                if sight.shot is None:
                    yield None, {"status": sight.status, "fraction": round(sight.fraction, 3)}
                    continue
                shot = sight.shot
                path = shot.png if format == "png" else run.encode(shot, format)
                yield path, _report(shot, picture.size if picture else None)

    def _mask(self, mask: str | None, picture: images.Picture | None) -> images.Picture | None:
        """A mask that fits, decoded. Refused before anything is run."""
        if not mask:
            return None
        if picture is None:
            raise CupscaleError("a mask needs an image: what is drawn from words is not known before")
        return source.read(mask, self._limits, picture.size)

    @agents.described
    def plan(
        self,
        image: str | None = None,
        scale: float = _SCALE,
        model: str = "",
        preset: str = "none",
        settings: str = "{}",
        width: float | None = None,
        height: float | None = None,
        megapixels: float | None = None,
        fit: str = "",
        to: str = "",
    ) -> Any:
        """What a run would do and cost, with nothing run: output size, regions, network evaluations, bytes, seconds.

        Args:
            image: The picture to enlarge, as for "upscale". Left out: one is drawn from "prompt" among the settings.
            scale: Output size over input size, each side, from 1 to 16.
            model: Name of the model; empty for this server's default.
            preset: "none", "quick", "turbo" or "paper".
            settings: Any further settings, as for "upscale".
            width: Of the result in pixels, in place of the scale, as for "upscale".
            height: Of the result in pixels, likewise.
            megapixels: Of the result in millions of pixels, likewise.
            fit: WIDTHxHEIGHT of a frame that the result fits into, likewise.
            to: "4k" or "8k", likewise.

        Returns:
            The plan as JSON. `seconds` is null where this model never ran here.
        """
        try:
            sizes = {"width": width, "height": height, "megapixels": megapixels, "fit": fit, "to": to}
            with calls.alone(self._limits):
                picture = source.read(image, self._limits) if image else None
                chosen = self._settings(
                    "", "", scale, 0, model, preset, settings, picture=picture, sizes=sizes
                )
                plan = bounds.allowed_plan(picture, chosen, self._limits)
        except CupscaleError as error:
            raise refusal(error) from None
        return {**plan.to_dict(), "line": plan.line() + bounds.line(self._limits)}

    @agents.described
    @queue.attended
    def caption(
        self,
        image: str,
        scale: float = _SCALE,
        prompt: str = "",
        captioner: str = "",
        model: str = "",
        settings: str = "{}",
        width: float | None = None,
        height: float | None = None,
        megapixels: float | None = None,
        fit: str = "",
        to: str = "",
    ) -> Generator[Any, None, None]:
        """Write a caption for every region of a run, to be read, edited and given to "upscale" among its settings.

        Args:
            image: The picture, as for "upscale".
            scale: Output size over input size, each side: it decides the regions.
            prompt: What the whole picture shows. Empty, the captioner writes it.
            captioner: Name of the captioner; empty for this server's default. See the endpoint "models".
            model: Name of the model whose regions are meant; empty for this server's default.
            settings: Any further settings, as for "upscale".
            width: Of the result in pixels, in place of the scale, as for "upscale".
            height: Of the result in pixels, likewise.
            megapixels: Of the result in millions of pixels, likewise.
            fit: WIDTHxHEIGHT of a frame that the result fits into, likewise.
            to: "4k" or "8k", likewise.

        Returns:
            A captions file as JSON: {"size", "prompt", "regions": [{"box", "caption", "source"}], "notes"}.
        """
        try:
            picture = source.read(image, self._limits)
            sizes = {"width": width, "height": height, "megapixels": megapixels, "fit": fit, "to": to}
            chosen = self._settings(
                prompt, "", scale, 0, model, "none", settings, picture=picture, sizes=sizes
            )
            plan = engine.planned(picture.size, chosen)
            self._limits.check_output(plan)
            kind = captioner or writers.kinds()[0]
            notes = []
            found: tuple[Any, ...] = ()
            text = prompt
            for place in queue.turn():
                yield place.report
            with contextlib.closing(
                captions_module.write(kind, picture, plan, chosen, self._limits)
            ) as steps:
                for step in steps:
                    if step.warning:
                        notes.append(step.warning)
                    if step.captions is not None:
                        found, text = step.captions, step.prompt or prompt
                    yield {"status": "writing"}
            yield {**regions.captions_file(found, plan.output, text), "notes": notes}
        except CupscaleError as error:
            raise refusal(error) from None

    @agents.described
    def read_settings(self, result: str) -> Any:
        """The settings inside a picture that was made here or by the command line.

        Args:
            result: A PNG, WebP or JPEG file as it was downloaded, as a data URL or as the address that "upscale" gave.

        Returns:
            The settings as JSON, or null where the file holds none.
        """
        try:
            if not result:
                raise CupscaleError("no file was given")
            with calls.alone(self._limits):
                return images.read_settings(references.content(result))
        except CupscaleError as error:
            raise refusal(error) from None

    @agents.described
    def models(self) -> Any:
        """The models, presets, captioners and limits of this server, and the default settings of each model.

        Returns:
            JSON: {"default", "models": {name: settings}, "presets": {model: {name: settings}}, "captioners",
                "limits"}.
        """
        every = {name: json.loads(Settings.build(engine.defaults(name)).to_json()) for name in engine.names()}
        return {
            "default": engine.default_model(),
            "models": every,
            "presets": {name: models.presets(name) for name in every},
            "captioners": writers.kinds(),
            "limits": vars(self._limits),
        }

    def build(self) -> None:
        """The endpoints' components, which no one sees, and their events."""
        with gr.Row(visible=False) as unseen:
            image = SourceImage(type="filepath", image_mode=None, label="image")
            prompt = gr.Textbox("", label="prompt", max_length=2000)
            negative = gr.Textbox("", label="negative_prompt", max_length=2000)
            scale = agents.Ranged(_SCALE, label="scale", minimum=1, maximum=16)
            seed = agents.Ranged(0, label="seed", precision=0, minimum=0, maximum=2**32 - 1)
            model = agents.Choice(["", *engine.names()], "", label="model", max_length=200)
            preset = agents.Choice(["none", *PRESETS], "none", label="preset", max_length=40)
            more = agents.MoreSettings("{}", label="settings")
            kind = agents.Choice(FORMATS, "png", label="format", max_length=20)
            captioner = agents.Choice(["", *writers.kinds()], "", label="captioner", max_length=200)
            mask = SourceImage(type="filepath", image_mode=None, label="mask")
            sizes = [
                agents.Ranged(None, label="width", precision=0, minimum=1, maximum=MAX_SIDE_PX),
                agents.Ranged(None, label="height", precision=0, minimum=1, maximum=MAX_SIDE_PX),
                agents.Ranged(None, label="megapixels", minimum=0.001, maximum=1000),
                gr.Textbox("", label="fit", max_length=40),
                agents.Choice(["", *LONG_SIDES], "", label="to", max_length=20),
            ]
            picture = gr.Image(label="result", type="filepath", format="png")
            report = gr.JSON(label="report")
            dropped = gr.File(label="result file", type="filepath")
            trigger = gr.Button("call")
        light.never(unseen)
        call = [trigger.click]
        inputs = [image, prompt, negative, scale, seed, model, preset, more, kind, mask, *sizes]
        gr.on(call, self.upscale, inputs, [picture, report], api_name="upscale", **RUN)
        gr.on(call, self.plan, [image, scale, model, preset, more, *sizes], report, api_name="plan")
        inputs = [image, scale, prompt, captioner, model, more, *sizes]
        gr.on(call, self.caption, inputs, report, api_name="caption", **RUN)
        gr.on(call, self.read_settings, dropped, report, api_name="read_settings")
        gr.on(call, self.models, None, report, api_name="models")
