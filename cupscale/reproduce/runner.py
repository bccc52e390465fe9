"""One row on one item: the picture, its cost, and its figures."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from PIL import Image

from cupscale import images, upscalers
from cupscale.captioners import Captioned, Captioner, Captioning, NoCaptioner
from cupscale.errors import CupscaleError
from cupscale.events import Finished, Progress
from cupscale.metrics import Case, Cost, Metric, window_borders
from cupscale.metrics.learned import Unavailable
from cupscale.peers import Task
from cupscale.pipeline import CUpscalePipeline
from cupscale.planning import Plan, output_size
from cupscale.reproduce.cost import peak_memory
from cupscale.reproduce.folder import GOES_ON, Folder, digest
from cupscale.reproduce.inputs import Item, reduced
from cupscale.reproduce.rows import Row
from cupscale.settings import Caption, Settings

Steps = Generator[float, None, Any]
"""Yields the share that is done, 0 to 1."""


class NotKept(CupscaleError):
    """A result cannot be written: the run ends."""


class _Fresh(upscalers.Cache):
    """Keeps nothing, so that each row takes the time of its base upscale."""

    def get(self, key: str, size: tuple[int, int]) -> Image.Image | None:
        return None

    def put(self, key: str, image: Image.Image) -> None:
        return None


@dataclass(frozen=True)
class Options:
    """What all rows of a run share.

    Attributes:
        scale: Of every row.
        preset: Of the rows of C-Upscale that name none.
        settings: Over the preset, under the row's own.
        reduce: The images are originals, reduced by this first; 1 where they are inputs.
        metrics: Of single pictures, by name.
        captioner: Writes captions, and the prompt of an image that has none.
    """

    scale: float = 4.0
    preset: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    reduce: int = 1
    metrics: Sequence[Metric] = ()
    captioner: Captioner = field(default_factory=NoCaptioner)


@dataclass(frozen=True)
class Prepared:
    """What the rows of an item enlarge. original: of the results' size."""

    picture: images.Picture
    original: Image.Image | None
    prompt: str
    captions: tuple[Caption, ...]


@dataclass(frozen=True)
class Made:
    """A result that is not measured yet.

    Attributes:
        image: Of the output's size.
        evaluations: See `Cost`.
        used: Settings, or a peer's options, as JSON data.
        boxes: Windows of the network, (left, top, right, bottom) in pixels.
        settings_json: Goes into the picture, where it is ours.
    """

    image: Image.Image
    evaluations: int
    used: dict[str, Any]
    boxes: Sequence[tuple[int, int, int, int]]
    settings_json: str | None = None


class Runner:
    """Runs rows on items with one model, and keeps what they make.

    Args:
        pipeline: The model, loaded.
        options: Of the run.
        folder: Of the run.
    """

    def __init__(self, pipeline: CUpscalePipeline, options: Options, folder: Folder):
        self.pipeline = pipeline
        pipeline.cache = _Fresh()
        self.options = options
        self.folder = folder

    def settings(self, row: Row | None = None, **fields: Any) -> Settings:
        """Of one row, or of the run: the model's defaults, the preset, the run's settings, the row's, `fields`.

        Raises:
            CupscaleError: The model cannot do the preset, or a setting is out of its range.
        """
        preset = (row.preset if row else "") or self.options.preset or None
        own = dict(row.settings) if row else {}
        own = dict(self.options.settings) | own | {"scale": self.options.scale} | fields
        return self.pipeline.settings(preset, **own)

    def prepare(self, item: Item) -> Prepared:
        """Read or draw an input, and write its captions; or take what an earlier run kept of it.

        Raises:
            CupscaleError: The image cannot be used, or the words cannot be drawn from.
            NotKept: A file cannot be written.
        """
        folder, name = self.folder, item.source_name
        path, original = folder.input_path(name), None
        words = folder.words(name)
        if words is None or not path.is_file():
            picture, original = self._opened(item)
            with _kept():
                folder.keep_picture(path, images.finish(picture.rgb, picture.alpha))
                if original is not None:
                    folder.keep_picture(folder.original_path(name), original)
            words = self._words(item, picture)
            with _kept():
                folder.keep_words(name, words)
        picture = replace(images.read(path), quality=words["quality"])
        if self.options.reduce > 1:
            original = images.read(folder.original_path(name)).rgb
            size = output_size(picture.size, self.options.scale)
            original = original if original.size == size else images.resize(original, size, "lanczos")
        captions = Settings.build(captions=words["captions"]).captions
        return Prepared(picture, original, str(words["prompt"]), captions)

    def run(self, row: Row, item: Item, prepared: Prepared) -> Generator[float, None, dict[str, Any]]:
        """Make, measure and keep one result.

        Args:
            row: The method.
            item: Which input and seed.
            prepared: The input.

        Yields:
            The share that is done.

        Returns:
            The record.

        Raises:
            CupscaleError: The row cannot do this input.
            NotKept: A file cannot be written: the run ends.
        """
        path = self.folder.result_path(row.name, item.name)
        began = time.perf_counter()
        with peak_memory(self.pipeline.backbone.device) as peak:
            made: Made = yield from self._made(row, item, prepared)
        seconds = 0.0 if row.original else time.perf_counter() - began
        with _kept():
            self.folder.keep_picture(path, made.image, made.settings_json)
        cost = Cost(made.evaluations, seconds, None if row.original else peak.bytes)
        found, missing = self._measured(prepared, made, cost)
        record = {
            "row": row.name,
            "image": item.input.name,
            "seed": item.seed,
            "size": list(made.image.size),
            "sha256": digest(path),
            "input_sha256": digest(self.folder.input_path(item.source_name)),
            "used": made.used,
            "metrics": found,
            "missing": missing,
        }
        with _kept():
            self.folder.keep_record(row.name, item.name, record)
        return record

    def samples(self, row: Row, size: tuple[int, int]) -> int:
        """Network samples of a row on an input of (width, height) px; 0 where it cannot do it."""
        geometry = self.pipeline.backbone.geometry
        try:
            if row.original:
                return 0
            if row.peer:
                return row.method().samples(size, self.options.scale, geometry)
            settings = self.settings(row)
            if row.runs == 1:
                return self.pipeline.plan(size, settings).samples
            part = settings.replace(scale=settings.scale**0.5)
            middle = output_size(size, part.scale)
            return sum(self.pipeline.plan(each, part).samples for each in (size, middle))
        except CupscaleError:
            return 0

    # Steps

    def _opened(self, item: Item) -> tuple[images.Picture, Image.Image | None]:
        if item.input.source is None:
            return self._drawn(item), None
        picture = images.read(item.input.source)
        if self.options.reduce == 1:
            return picture, None
        small, whole = reduced(picture.rgb, self.options.reduce)
        return images.Picture(small), whole

    def _drawn(self, item: Item) -> images.Picture:
        settings = self.settings(scale=1.0, seed=item.seed, prompt=item.input.prompt)
        return images.Picture(self.pipeline.upscale(None, settings).image)

    def _words(self, item: Item, picture: images.Picture) -> dict[str, Any]:
        """The prompt and the regions' captions, as JSON data."""
        words: dict[str, Any] = {
            "source": str(item.input.source or ""),
            "quality": picture.quality,
            "prompt": item.input.prompt or self.settings().prompt,
            "captions": [],
        }
        captioning = Captioning(self.options.captioner)
        if isinstance(captioning.captioner, NoCaptioner):
            return words
        events = self.pipeline.caption(picture, captioning, self.settings(prompt=words["prompt"]))
        with contextlib.closing(events):
            for event in events:
                if isinstance(event, Captioned):
                    words["prompt"] = event.prompt
                    words["captions"] = [one.model_dump(mode="json") for one in event.captions if one.caption]
        return words

    def _made(self, row: Row, item: Item, prepared: Prepared) -> Steps:
        size = prepared.picture.size
        if row.original:
            assert prepared.original is not None
            return Made(prepared.original, 0, {}, self._usual(size).boxes)
        fields: dict[str, Any] = {"seed": item.seed, "prompt": prepared.prompt}
        if row.peer:
            return (yield from self._by_peer(row, prepared, self.settings(**fields)))
        settings = self.settings(row, **fields, captions=prepared.captions)
        if row.runs == 2:
            return (yield from self._in_two_runs(prepared, settings))
        return (yield from self._by_us(prepared.picture, settings))

    def _by_peer(self, row: Row, prepared: Prepared, settings: Settings) -> Steps:
        method, size = row.method(), prepared.picture.size
        task = Task(self.pipeline.backbone, prepared.picture.rgb, settings, self.pipeline.tiles)
        steps = method.run(task)
        with contextlib.closing(steps):
            while True:
                try:
                    done, total = next(steps)
                except StopIteration as stop:
                    image: Image.Image = stop.value
                    break
                yield done / total
        count = method.samples(size, settings.scale, self.pipeline.backbone.geometry)
        used = {"peer": row.peer, "options": dict(vars(method)), "prompt": settings.prompt}
        return Made(image, count, used, self._usual(size).boxes)

    def _in_two_runs(self, prepared: Prepared, settings: Settings) -> Steps:
        """By the root of the scale each; the second has captions of its own, written from what the first made."""
        root = settings.scale**0.5
        captions = [
            one.model_copy(update={"box": tuple(round(side / root) for side in one.box)})
            for one in settings.captions
        ]
        part = settings.replace(scale=root, cutoff=min(2.0, settings.cutoff * root))
        steps = self._by_us(prepared.picture, part.replace(captions=captions))
        first: Made = yield from _halved(steps, 0.0)
        steps = self._by_us(images.Picture(first.image), part.replace(captions=()), self.options.captioner)
        second: Made = yield from _halved(steps, 0.5)
        size = output_size(prepared.picture.size, settings.scale)
        image = second.image if second.image.size == size else images.resize(second.image, size, "lanczos")
        used = {"runs": [first.used, second.used]}
        return Made(image, first.evaluations + second.evaluations, used, second.boxes, second.settings_json)

    def _by_us(
        self, picture: images.Picture, settings: Settings, captioner: Captioner | None = None
    ) -> Steps:
        captioning = None if captioner is None else Captioning(captioner)
        with contextlib.closing(self.pipeline.stream(picture, settings, captioning=captioning)) as events:
            for event in events:
                if isinstance(event, Progress) and event.stage == "denoise":
                    yield event.fraction
                elif isinstance(event, Finished):
                    result = event.result
        used = result.settings.model_dump(mode="json")
        return Made(result.image, result.plan.samples, used, result.plan.boxes, result.settings.to_json())

    def _usual(self, size: tuple[int, int]) -> Plan:
        """The windows that a row without any of its own is looked at for: those of C-Upscale with half of them overlapping."""
        return self.pipeline.plan(size, Settings.build(scale=self.options.scale, overlap=0.5))

    def _measured(
        self, prepared: Prepared, made: Made, cost: Cost
    ) -> tuple[dict[str, float | None], dict[str, str]]:
        """The figures, and why some are missing."""
        large = made.image.convert("RGB")
        case = Case(
            prepared.picture.rgb,
            large,
            prepared.original,
            window_borders(made.boxes, large.size),
            self.pipeline.backbone.geometry.native,
            prepared.prompt,
            [(caption.box, caption.caption) for caption in prepared.captions],
            cost,
        )
        found: dict[str, float | None] = {}
        missing: dict[str, str] = {}
        for metric in self.options.metrics:
            try:
                found[metric.name] = metric.value(case)
            except Unavailable as error:
                found[metric.name] = None
                missing[metric.name] = str(error)
        return found, missing


def _halved(steps: Steps, start: float) -> Steps:
    """The same steps, their shares from `start` on and half as large."""
    while True:
        try:
            share = next(steps)
        except StopIteration as stop:
            return stop.value
        yield start + share / 2


@contextlib.contextmanager
def _kept() -> Generator[None, None, None]:
    """What cannot be written ends the run, with the way to go on."""
    try:
        yield
    except CupscaleError as error:
        raise NotKept(f"{error}; {GOES_ON}") from None
    except OSError as error:
        raise NotKept(f"{error.filename or 'a file'}: {error.strerror}; {GOES_ON}") from None
