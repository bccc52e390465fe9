"""One run of the page: events of the pipeline to what a person sees, and the files of its result."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Generator
from dataclasses import dataclass, field, replace
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image

from cupscale import images
from cupscale.captioners import Captioned, CaptionProgress
from cupscale.errors import CupscaleError
from cupscale.events import Drawn, Event, Finished, Planned, Preview, Progress, Result
from cupscale.images import Picture
from cupscale.method.sampler import Notice
from cupscale.page import bounds, desk, engine, scratch, writers
from cupscale.page.limits import Limits
from cupscale.planning import Plan, duration
from cupscale.settings import Caption, Settings

_STAGES = {
    "draw": "drawing",
    "caption": "writing captions",
    "restore": "restoring",
    "enlarge": "enlarging",
    "encode": "encoding",
    "denoise": "denoising",
    "decode": "decoding",
    "correct": "correcting",
}
_SHARES = {
    "caption": (0.0, 0.0),
    "restore": (0.0, 0.0),
    "enlarge": (0.0, 0.1),
    "encode": (0.1, 0.12),
    "denoise": (0.12, 0.96),
    "decode": (0.96, 0.98),
    "correct": (0.98, 1.0),
}
_EVERY_SECONDS = 0.25
GONE = "this result is no longer on the server: take it from the History tab, or run again"


@dataclass(frozen=True)
class Shot:
    """A finished result on the server: the files of one visitor, in a folder of their own.

    key: tells results apart, and not the copies of one.
    """

    folder: str
    png: str
    before: str
    stem: str
    settings: Settings
    size: tuple[int, int]
    note: str
    transparent: bool = False
    key: str = ""

    @property
    def line(self) -> str:
        """Its sizes and its model, for a card."""
        return f"{self.note.partition(', seed')[0]}, model {self.settings.model}"

    @property
    def jpeg(self) -> str:
        """What its JPEG's button says."""
        return "Download JPEG on white" if self.transparent else "Download JPEG"


@dataclass(frozen=True)
class Sight:
    """What to show now. fraction: 0..1 of the run. captions: those that a captioner wrote for it so far."""

    status: str
    fraction: float
    preview: Image.Image | None = None
    size: tuple[int, int] = (0, 0)
    notice: str | None = None
    captions: tuple[Caption, ...] = ()
    shot: Shot | None = None


def clock(seconds: float) -> str:
    """As `duration`, and tenths below ten seconds."""
    return f"{seconds:.1f} s" if seconds < 9.95 else duration(seconds)


def status_html(text: str, fraction: float | None = None) -> str:
    """The status line; its text is escaped."""
    bar = (
        ""
        if fraction is None
        else f'<progress max="1" value="{fraction:.3f}" aria-label="Progress"></progress>'
    )
    return f'<div class="cu-status" role="status" aria-live="polite">{bar}<span>{escape(text)}</span></div>'


# How whoever waits wants to hear of the end; shown while a run goes on. Its script is `telling.js`.
TELL = (
    '<div class="cu-tell" role="group" aria-label="When it is done">When it is done: '
    '<button type="button" class="cu-tool" data-tell="sound" aria-pressed="false">Sound</button>'
    '<button type="button" class="cu-tool" data-tell="notify" aria-pressed="false">Notification</button>'
    '<span role="status"></span></div>'
)


def plan_html(text: str, wrong: bool = False, stamp: int = 0, lead: str = "") -> str:
    """The plan line, or why there is none; its text is escaped.

    Args:
        text: The line.
        wrong: It is a refusal.
        stamp: Makes a line that was there before a new one, which is shown and read out again.
        lead: What stands before it, in bold.
    """
    role = f'role="alert" data-wrong="true" data-stamp="{stamp}"' if wrong else 'role="status"'
    bold = f"<b>{escape(lead)}</b> " if lead else ""
    text = text[:1].upper() + text[1:] if lead else text  # a sentence of its own
    return f'<p class="cu-plan" {role}>{bold}{escape(text)}</p>'


def refusal_html(text: str) -> str:
    """Why what a person asked for is not done: a new line each time, so that it is shown and read out again.

    It stands in an element of its own (`cu-refused`), in the plan's place: the plan follows the page, and an answer under
    way when the person clicked would take the refusal's place.
    """
    return plan_html(text, wrong=True, stamp=time.time_ns())


def plan_lead(plan: Plan) -> str:
    """The sizes and the time, for a person."""
    line = _typeset(plan.lead())
    return line if plan.seconds is not None else f"{line}, time not yet known for this model here"


def plan_rest(plan: Plan, quota: str) -> str:
    """Regions, who writes captions, model calls, memory and quota, for a person."""
    line = _typeset(plan.rest())
    return f"{line}, {quota}" if quota else line


def _typeset(line: str) -> str:
    return line.replace(" -> ", " → ").replace(" x ", " × ")


def _line(event: Progress) -> str:
    parts = [_STAGES.get(event.stage, event.stage)]
    if event.stage in ("draw", "denoise"):
        parts.append(f"step {event.step} of {event.steps}")
    if event.stage in ("denoise", "caption"):
        unit = "region" if event.stage == "denoise" else "call"
        parts.append(f"{unit} {event.regions} of {event.total}")
    elif event.fraction and event.stage != "draw":
        parts.append(f"{event.fraction:.0%}")
    if event.left is not None:
        parts.append(f"about {duration(event.left)} left")
    return ", ".join(parts)


def _whole(event: Progress, plan: Plan) -> float:
    """How far the run is, 0 to 1. A drawing comes before all other stages, and takes its share of the evaluations."""
    low, high = _SHARES.get(event.stage, (0.0, 1.0))
    within = low + (high - low) * event.fraction
    drawing = plan.drawing / plan.evaluations
    return drawing * within if event.stage == "draw" else drawing + (1 - drawing) * within


def watch(
    picture: Picture | None,
    settings: Settings,
    limits: Limits,
    stem: str,
    writer: str = writers.NOBODY,
    mask: Picture | None = None,
    *,
    later: float = 0.0,
    folder: Path | None = None,
) -> Generator[Sight, None, None]:
    """Run, and say what to show. The last sight has the shot. Closing it stops the run within one network call.

    Args:
        picture: The input; None where it is drawn from the prompt.
        settings: Of the run.
        limits: Of the page.
        stem: Of the names of downloads.
        writer: Who writes captions that are not given, by name.
        mask: Of the picture's size, white where the base upscale stays.
        later: Seconds that the same turn at the machine takes after this run.
        folder: For the result's files; None for one of its own.

    Yields:
        What to show now; the last one has the result's files.

    Raises:
        CupscaleError: The run is refused, or fails.
    """
    plan = bounds.allowed_plan(picture, settings, limits, writer)
    desk.expect(engine.expected_seconds(plan, settings) + later)
    deadline = bounds.Deadline(limits)
    yield Sight("waiting for the model", 0.0)
    view = _View(plan, later, picture)
    with contextlib.closing(engine.stream(picture, settings, writer, mask)) as events:
        for event in events:
            deadline.check()
            if (sight := view.of(event)) is not None:
                yield sight
    assert view.result is not None and view.picture is not None
    yield Sight("writing the file", 1.0)
    with scratch.with_room("the result"):
        shot = keep(view.picture, view.result, stem, folder)
    yield Sight("done", 1.0, shot=shot)


@dataclass
class _View:
    """What a run has shown so far. later: see `watch`."""

    plan: Plan
    later: float
    picture: Picture | None
    size: tuple[int, int] = (0, 0)
    line: str = ""
    fraction: float = 0.0
    shown: float = 0.0
    captions: dict[int, Caption] = field(default_factory=dict)
    result: Result | None = None

    def of(self, event: Event) -> Sight | None:
        """What to show of an event; None where there is nothing new to see."""
        if isinstance(event, Planned):
            self.size = event.plan.output
        elif isinstance(event, Drawn):
            self.picture = Picture(event.image)
            return Sight("drawn", self.fraction, preview=event.image, size=self.size)
        elif isinstance(event, Notice):
            return Sight(event.message, 0.0, notice=event.message)
        elif isinstance(event, Preview):
            return Sight(self.line, self.fraction, preview=event.image, size=self.size)
        elif isinstance(event, Progress):
            return self._progress(event)
        elif isinstance(event, CaptionProgress):
            return self._caption(event)
        elif isinstance(event, Captioned):
            written = tuple(caption for caption in event.captions if caption.caption)
            return Sight(self.line, self.fraction, captions=written)
        elif isinstance(event, Finished):
            self.result = event.result
        return None

    def _progress(self, event: Progress) -> Sight | None:
        if event.left is not None and event.stage == "denoise":
            desk.expect(event.left + self.later)
        now = time.monotonic()
        self.line, self.fraction = _line(event), _whole(event, self.plan)
        if now - self.shown < _EVERY_SECONDS and event.stage == "denoise":
            return None
        self.shown = now
        return Sight(self.line, self.fraction)

    def _caption(self, event: CaptionProgress) -> Sight | None:
        if not event.caption or event.is_prompt:
            return None
        one = {"caption": event.caption[:2000], "source": self.plan.captioner}
        self.captions |= {k: Caption(box=self.plan.boxes[k], **one) for k in event.regions}
        return Sight(self.line, self.fraction, captions=tuple(self.captions.values()))


def keep(picture: Picture, result: Result, stem: str, folder: Path | None = None) -> Shot:
    """Write the result and the plain enlargement beside it. Outside of the GPU: encoding takes seconds."""
    folder = folder or scratch.new_folder()
    used = result.settings
    stem = f"{stem}-x{used.scale:g}-seed{used.seed}"
    png = images.write(result.image, folder / f"{stem}.png", used.to_json())
    plain = images.resize(picture, result.image.size, "lanczos")
    suffix = ".png" if plain.alpha is not None else ".jpg"
    before = images.write(
        images.finish(plain.rgb, plain.alpha), folder / f"{stem}-before{suffix}", quality=90
    )
    width, height = result.image.size
    note = (
        f"{picture.size[0]} × {picture.size[1]} → {width} × {height}, seed {used.seed}, "
        f"model {used.model}, {clock(result.seconds)}"
    )
    transparent = images.is_transparent(result.image)
    key = f"{folder.name}-{stem}"
    return Shot(str(folder), str(png), str(before), stem, used, (width, height), note, transparent, key)


def encode(shot: Shot, suffix: str) -> str:
    """The result in another format, with the settings inside; a JPEG of a transparent one lies on white.

    Raises:
        CupscaleError: The format cannot hold it.
    """
    on_white = shot.transparent and suffix == "jpg"
    path = Path(shot.folder) / f"{shot.stem}{'-on-white' * on_white}.{suffix}"
    if not path.exists():
        with images.open_own(shot.png) as image:
            shown = (
                Image.alpha_composite(Image.new("RGBA", image.size, "white"), image) if on_white else image
            )
            try:
                with scratch.with_room("the result"):
                    images.write(shown, path, shot.settings.to_json())
            except CupscaleError as error:
                raise CupscaleError(str(error).replace(repr(str(path)), "this picture")) from None
    return str(path)


def copied(shot: Shot) -> Shot:
    """The same result in a folder of its own.

    Raises:
        CupscaleError: It is no longer there.
    """
    folder = scratch.new_folder()
    png, before = (folder / Path(path).name for path in (shot.png, shot.before))
    try:
        shutil.copyfile(shot.png, png)
        shutil.copyfile(shot.before, before)
    except FileNotFoundError:
        raise CupscaleError(GONE) from None
    return replace(shot, folder=str(folder), png=str(png), before=str(before))


def forget(shot: Any) -> None:
    """Delete a result's files."""
    if isinstance(shot, Shot):
        forget_folder(shot.folder)


def forget_folder(folder: str) -> None:
    """Delete a folder of results."""
    shutil.rmtree(folder, ignore_errors=True)
