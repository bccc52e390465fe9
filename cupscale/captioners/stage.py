"""The caption stage: a plan's regions in, captions out, whatever the captioner does on the way.

plan the calls -> recall what is known -> ask for the rest -> the prompt -> the captions -> the text encoder's budget
"""

from __future__ import annotations

import contextlib
import functools
import math
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace

from PIL import Image

from cupscale.captioners.base import (
    REGION_INSTRUCTION,
    STYLE,
    WHOLE_INSTRUCTION,
    Captioner,
    CaptionerError,
    Captioning,
    NoCaptioner,
    Request,
)
from cupscale.captioners.cache import Cache, key_of
from cupscale.captioners.cleaning import clean
from cupscale.captioners.sharing import SHARE, group
from cupscale.captions import TokenBudget, fit, listed, within_budget
from cupscale.method.sampler import Notice
from cupscale.planning import Plan
from cupscale.settings import MAX_CAPTIONS, Caption

PixelBox = tuple[int, int, int, int]

WHOLE_PX = 768  # longer side of the whole picture as the captioner sees it
CROP_PX = 512  # longer side of a region as the captioner sees it, at most
CROP_LEAST_PX = 336  # and at least: a region of a small input is enlarged
SIDE_LEAST_PX = 28


@dataclass(frozen=True)
class CaptionProgress:
    """An answer came (or, with no `regions` and `done` as before, a sign of life).

    done of calls. regions: whom the answer serves, from 0; () for the prompt. caption: its text, None where the
    prompt will serve. elapsed, left: seconds; left is None until the first answer. is_prompt: `caption` is the
    prompt that the captioner wrote.
    """

    done: int
    calls: int
    regions: tuple[int, ...]
    caption: str | None
    elapsed: float
    left: float | None
    is_prompt: bool = False


@dataclass(frozen=True)
class Captioned:
    """The end of the stage.

    captions: one per region of the plan, in its order; where the prompt serves, an empty one whose source says why.
    prompt: the given one, or the one the captioner wrote; prompt_source: "user", the captioner's name, or "".
    tokens: of every caption, () where they were not counted. calls: answers that were needed; cached: how many of
    them were known from before.
    """

    captions: tuple[Caption, ...]
    prompt: str
    prompt_source: str
    tokens: tuple[int, ...]
    calls: int
    cached: int


def caption_calls(
    image: Image.Image, plan: Plan, *, prompt: str = "", share: float = SHARE, regions: bool = True
) -> int:
    """How many calls `caption_regions` makes at most: one per group of regions, and one for an empty prompt."""
    wanted = regions and not _too_many(plan)
    groups = group(map(image.crop, _boxes_in(image, plan)), plan.boxes, share) if wanted else []
    return len(set(groups)) + (not prompt.strip())


def _too_many(plan: Plan) -> str:
    """Why the regions of a plan get no captions; empty where they do."""
    if len(plan.boxes) <= MAX_CAPTIONS:
        return ""
    return (
        f"{len(plan.boxes)} regions, and captions are written for at most {MAX_CAPTIONS}: every region uses the prompt; "
        "a smaller scale or less overlap makes fewer regions"
    )


def caption_regions(
    captioning: Captioning,
    image: Image.Image,
    plan: Plan,
    *,
    prompt: str = "",
    regions: bool = True,
    budget: TokenBudget | None = None,
    cache: Cache | None = None,
    room: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext,
) -> Generator[CaptionProgress | Notice | Captioned, None, None]:
    """Caption every region of a plan; `Captioned` is the last event. Closing the generator stops the captioner.

    A region without a usable answer takes the prompt, and a Notice says which and why. Where there is no answer at all,
    `captioning.instead` is asked, and a Notice says so.

    Args:
        captioning: Who writes, and how.
        image: RGB, the low-resolution input.
        plan: Of the run.
        prompt: The global one; where it is empty, it is written from the whole image.
        regions: False asks for the prompt only.
        budget: The text encoder's; a caption over it is cut at a word. None where it is not known.
        cache: Of answers; None for none.
        room: Entered only where the captioner has something to do.

    Yields:
        CaptionProgress after each answer, Notice for what a person should know, Captioned at the end.
    """
    if captioning.captioner is None or isinstance(captioning.captioner, NoCaptioner):
        empty = tuple(Caption(box=box, caption="", source="prompt") for box in plan.boxes)
        yield Captioned(empty, prompt, "user" if prompt else "", (0,) * len(plan.boxes), 0, 0)
        return
    if regions and (wrong := _too_many(plan)):
        yield Notice(wrong)
        regions = False
    calls = _planned(captioning, captioning.captioner, image, plan, prompt, regions)
    yield from _recalled(calls, cache, captioning.fresh)
    if calls.waiting:
        yield from _asked(calls, cache, room)
    if calls.failures and not calls.texts and captioning.instead is not None:
        reason = next(iter(calls.failures.values()))
        yield Notice(f"{reason}; {captioning.instead.name} writes instead")
        second = replace(captioning, captioner=captioning.instead, instead=None)
        yield from caption_regions(
            second, image, plan, prompt=prompt, regions=regions, budget=budget, cache=cache, room=room
        )
        return
    written = yield from _prompt(calls, prompt, budget)
    captions = _captions(calls, plan.boxes if regions else ())
    yield from _misses(calls)
    kept = within_budget(captions, written if captioning.prepend else "", budget)
    if kept.message:
        yield Notice(kept.message)
    author = "user" if prompt else calls.captioner.name if written else ""
    yield Captioned(kept.captions, written, author, kept.tokens, len(calls.places), calls.cached)


@dataclass
class _Calls:
    """The calls of one stage, and what has come of them.

    Attributes:
        captioner: Who answers.
        leaders: For every region the one whose caption it takes.
        places: What each request is for: a region, or None for the prompt.
        requests: One per place.
        texts: Of places, cleaned.
        failures: Why a place has no text.
        waiting: Requests that are not known from before, with their places and keys.
    """

    captioner: Captioner
    leaders: list[int]
    places: list[int | None]
    requests: list[Request]
    texts: dict[int | None, str] = field(default_factory=dict)
    failures: dict[int | None, str] = field(default_factory=dict)
    waiting: list[tuple[int | None, Request, str]] = field(default_factory=list)
    cached: int = 0
    began: float = field(default_factory=time.perf_counter)

    def __post_init__(self) -> None:
        self._served: dict[int, list[int]] = {}
        for region, leader in enumerate(self.leaders):
            self._served.setdefault(leader, []).append(region)

    def progress(self, place: int | None = None, text: str | None = None) -> CaptionProgress:
        """How far the stage is; `place` was just answered with `text`."""
        done, elapsed = len(self.texts) + len(self.failures), time.perf_counter() - self.began
        asked = done - self.cached
        left = elapsed / asked * (len(self.places) - done) if asked else None
        served = () if place is None else tuple(self._served[place])
        is_prompt = place is None and bool(text)
        return CaptionProgress(done, len(self.places), served, text, elapsed, left, is_prompt)

    def fail(self, reason: str) -> None:
        """Whatever waits still has failed."""
        for place, _, _ in self.waiting:
            if place not in self.texts:
                self.failures.setdefault(place, reason)


def _planned(
    captioning: Captioning, captioner: Captioner, image: Image.Image, plan: Plan, prompt: str, regions: bool
) -> _Calls:
    """One request per group of regions that share a caption, and one for an empty prompt."""
    boxes = _boxes_in(image, plan)
    leaders = group(map(image.crop, boxes), plan.boxes, captioning.share) if regions else []
    asked = [k for k, leader in enumerate(leaders) if k == leader]
    places: list[int | None] = [*([] if prompt.strip() else [None]), *asked]
    requests = _requests(image, [None if k is None else boxes[k] for k in places], captioning.style)
    return _Calls(captioner, leaders, places, requests)


def _recalled(calls: _Calls, cache: Cache | None, fresh: bool) -> Generator[CaptionProgress, None, None]:
    """Answers that are known from before; the others wait."""
    identity = calls.captioner.identity if cache and calls.requests else ""
    for place, request in zip(calls.places, calls.requests, strict=True):
        key = key_of(identity, request) if cache else ""
        known = clean(cache.get(key), request.instruction) if cache and not fresh else None
        if known is None:
            calls.waiting.append((place, request, key))
            continue
        calls.texts[place] = known
        calls.cached += 1
        yield calls.progress(place, known)


def _asked(
    calls: _Calls, cache: Cache | None, room: Callable[[], AbstractContextManager[None]]
) -> Generator[CaptionProgress, None, None]:
    """Ask for what waits. Whatever a model or a server does, the run goes on."""
    answers = calls.captioner.ask([request for _, request, _ in calls.waiting])
    try:
        with room(), contextlib.closing(answers):
            for answer in answers:
                if answer is None:
                    yield calls.progress()
                    continue
                place, request, key = calls.waiting[answer.index]
                text = clean(answer.text, request.instruction)
                if text is None:
                    calls.failures[place] = answer.error or _no_use(answer.text)
                else:
                    calls.texts[place] = text
                    if cache:
                        cache.put(key, answer.text or "")
                yield calls.progress(place, text)
    except GeneratorExit:
        raise
    except Exception as error:
        calls.fail(_one_line(error))
    calls.fail("no answer came")


def _prompt(calls: _Calls, prompt: str, budget: TokenBudget | None) -> Generator[Notice, None, str]:
    """The given prompt, or the one that was written for an empty one."""
    if None in calls.texts:
        prompt = calls.texts.pop(None)
        if budget:
            prompt, _ = fit(prompt, budget)
        yield Notice(f"the prompt was empty; {calls.captioner.name} wrote: {prompt}")
    elif None in calls.failures:
        yield Notice(f"the prompt was empty and stays so: {calls.failures.pop(None)}")
    return prompt


def _captions(calls: _Calls, boxes: Sequence[PixelBox]) -> list[Caption]:
    """One per region; its source says who wrote it, or why the prompt serves."""
    captions = []
    for k, (box, leader) in enumerate(zip(boxes, calls.leaders, strict=False)):
        if leader in calls.texts:
            name = calls.captioner.name
            source = name if k == leader else f"{name}, as region {leader + 1}"
            captions.append(Caption(box=box, caption=calls.texts[leader][:2000], source=source[:200]))
        else:
            source = f"prompt ({calls.failures[leader]})"
            captions.append(Caption(box=box, caption="", source=source[:200]))
    return captions


def _misses(calls: _Calls) -> Generator[Notice, None, None]:
    """Which regions use the prompt, by the reason."""
    reasons: dict[str, list[int]] = {}
    for k, leader in enumerate(calls.leaders):
        if leader in calls.failures:
            reasons.setdefault(calls.failures[leader], []).append(k)
    for reason, missed in reasons.items():
        verb = "uses" if len(missed) == 1 else "use"
        yield Notice(f"{listed(missed)} {verb} the prompt: {reason}")


def _boxes_in(image: Image.Image, plan: Plan) -> list[PixelBox]:
    """The regions in pixels of the low-resolution image, at least one a side."""
    sx, sy = image.width / plan.output[0], image.height / plan.output[1]
    boxes = []
    for left, top, right, bottom in plan.boxes:
        x, y = min(int(left * sx), image.width - 1), min(int(top * sy), image.height - 1)
        beyond = min(image.width, math.ceil(right * sx)), min(image.height, math.ceil(bottom * sy))
        boxes.append((x, y, max(x + 1, beyond[0]), max(y + 1, beyond[1])))
    return boxes


def _requests(image: Image.Image, boxes: Sequence[PixelBox | None], style: bool) -> list[Request]:
    """One per region, and one for the whole image where a box is None. The sizes are what captioners read well."""
    whole = _sized(image, 0, WHOLE_PX)
    ending = STYLE if style else ""

    def both(box: PixelBox) -> tuple[Image.Image, ...]:
        return whole, _sized(image.crop(box), CROP_LEAST_PX, CROP_PX)

    return [
        Request(lambda: (whole,), WHOLE_INSTRUCTION + ending)
        if box is None
        else Request(functools.partial(both, box), REGION_INSTRUCTION + ending)
        for box in boxes
    ]


def _sized(image: Image.Image, least: int, most: int) -> Image.Image:
    """Resized so that its longer side lies between the two; no side below 28 px, which some processors refuse."""
    longer = max(image.size)
    side = min(max(longer, least), most)
    if side == longer and min(image.size) >= SIDE_LEAST_PX:
        return image
    size = tuple(max(SIDE_LEAST_PX, round(n * side / longer)) for n in image.size)
    return image.resize((size[0], size[1]), Image.Resampling.LANCZOS)


def _no_use(answer: str | None) -> str:
    """Why an answer was not taken."""
    words = " ".join((answer or "").split())
    return f"the answer is no caption: {words[:60]!r}" if words else "the answer is empty"


def _one_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    text = lines[0][:300] if lines else type(error).__name__
    return (
        text
        if isinstance(error, CaptionerError)
        else f"the captioner failed ({type(error).__name__}: {text})"
    )
