"""The caption stage: a plan's regions in, captions out, whatever the captioner does on the way."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from PIL import Image

from cupscale.captioners.base import (
    REGION_INSTRUCTION,
    STYLE,
    WHOLE_INSTRUCTION,
    Captioner,
    CaptionerError,
    NoCaptioner,
    Request,
)
from cupscale.captioners.cache import Cache, key_of
from cupscale.captioners.cleaning import clean
from cupscale.captioners.sharing import SHARE, group
from cupscale.captions import fit, listed, within_budget
from cupscale.method.sampler import Notice
from cupscale.planning import Plan
from cupscale.settings import Caption

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
    groups = group(crops(image, plan.boxes, plan.output), plan.boxes, share) if regions else []
    return len(set(groups)) + (not prompt.strip())


def caption_regions(
    captioner: Captioner,
    image: Image.Image,
    plan: Plan,
    *,
    prompt: str = "",
    share: float = SHARE,
    prepend: bool = False,
    style: bool = False,
    regions: bool = True,
    count_tokens: Callable[[str], int] | None = None,
    text_limit: int | None = None,
    cache: Cache | None = None,
    fresh: bool = False,
    room: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext,
) -> Generator[CaptionProgress | Notice | Captioned, None, None]:
    """Caption every region of a plan; `Captioned` is the last event.

    image: PIL RGB, the low-resolution input. prompt: the global one; empty, it is written from the whole image.
    share: regions that touch and that differ by less share a call (0: never). prepend: put the prompt
    before every caption. style: ask for style words. regions: False asks for the prompt only. count_tokens,
    text_limit: the backbone's; a caption over the limit is cut at a word. cache: of answers, None for none;
    fresh: do not read it. room: entered only where the captioner has something to do.

    A region without a usable answer takes the prompt, and a Notice says which and why. Closing the generator stops
    the captioner.
    """
    began = time.perf_counter()
    boxes = plan.boxes
    if isinstance(captioner, NoCaptioner):
        empty = tuple(Caption(box=box, caption="", source="prompt") for box in boxes)
        yield Captioned(empty, prompt, "user" if prompt else "", (0,) * len(boxes), 0, 0)
        return
    cut = crops(image, boxes, plan.output)
    leaders = group(cut, boxes, share) if regions else [-1] * len(boxes)
    asked = [k for k, leader in enumerate(leaders) if k == leader]  # regions with a call of their own
    served = {k: tuple(n for n, leader in enumerate(leaders) if leader == k) for k in asked}
    places: list[int | None] = [*([] if prompt.strip() else [None]), *asked]  # None: the prompt
    requests = _requests(image, [None if k is None else cut[k] for k in places], style)
    texts: dict[int | None, str] = {}
    failures: dict[int | None, str] = {}

    def progress(at: int | None = None, text: str | None = None) -> CaptionProgress:
        done, elapsed = len(texts) + len(failures), time.perf_counter() - began
        fresh = done - cached
        left = elapsed / fresh * (len(places) - done) if fresh else None
        return CaptionProgress(
            done,
            len(places),
            () if at is None else served[at],
            text,
            elapsed,
            left,
            at is None and bool(text),
        )

    cached = 0
    waiting = []
    identity = captioner.identity if cache and requests else ""
    keys = [key_of(identity, request) for request in requests] if cache else [""] * len(requests)
    for place, request, key in zip(places, requests, keys, strict=True):
        known = clean(cache.get(key), request.instruction) if cache and not fresh else None
        if known is None:
            waiting.append((place, request, key))
            continue
        texts[place] = known
        cached += 1
        yield progress(place, known)
    if waiting:
        answers = captioner.ask([request for _, request, _ in waiting])
        try:
            with room(), contextlib.closing(answers):
                for answer in answers:
                    if answer is None:
                        yield progress()
                        continue
                    place, request, key = waiting[answer.index]
                    text = clean(answer.text, request.instruction)
                    if text is None:
                        failures[place] = answer.error or _no_use(answer.text)
                    else:
                        texts[place] = text
                        if cache:
                            cache.put(key, answer.text or "")
                    yield progress(place, text)
        except GeneratorExit:
            raise
        except Exception as error:  # whatever a model or a server does, the run goes on
            for place, _, _ in waiting:
                if place not in texts and place not in failures:
                    failures[place] = _one_line(error)
        for place, _, _ in waiting:
            if place not in texts and place not in failures:
                failures[place] = "no answer came"
    written = prompt
    if None in texts:
        written = texts.pop(None)
        if count_tokens and text_limit:
            written, _ = fit(written, count_tokens, text_limit)
        yield Notice(f"the prompt was empty; {captioner.name} wrote: {written}")
    elif None in failures:
        yield Notice(f"the prompt was empty and stays so: {failures.pop(None)}")
    captions = []
    for k, box in enumerate(boxes if regions else ()):
        leader = leaders[k]
        if leader in texts:
            source = captioner.name if k == leader else f"{captioner.name}, as region {leader + 1}"
            captions.append(Caption(box=box, caption=texts[leader][:2000], source=source[:200]))
        else:
            captions.append(Caption(box=box, caption="", source=f"prompt ({failures[leader]})"[:200]))
    reasons: dict[str, list[int]] = {}
    for k, leader in enumerate(leaders):
        if leader in failures:
            reasons.setdefault(failures[leader], []).append(k)
    for reason, missed in reasons.items():
        verb = "uses" if len(missed) == 1 else "use"
        yield Notice(f"{listed(missed)} {verb} the prompt: {reason}")
    budget = within_budget(captions, written if prepend else "", count_tokens, text_limit)
    if budget.message:
        yield Notice(budget.message)
    yield Captioned(
        budget.captions, written, "user" if prompt else captioner.name if written else "", budget.tokens,
        len(places), cached,
    )  # fmt: skip


def crops(image: Image.Image, boxes: Sequence[PixelBox], output: tuple[int, int]) -> list[Image.Image]:
    """The regions cut from the low-resolution image: boxes are in pixels of the output."""
    sx, sy = image.width / output[0], image.height / output[1]
    regions = []
    for left, top, right, bottom in boxes:
        x, y = min(int(left * sx), image.width - 1), min(int(top * sy), image.height - 1)
        regions.append(
            image.crop((x, y, max(x + 1, min(image.width, math.ceil(right * sx))),
                        max(y + 1, min(image.height, math.ceil(bottom * sy)))))
        )  # fmt: skip
    return regions


def _requests(image: Image.Image, regions: Sequence[Image.Image | None], style: bool) -> list[Request]:
    """One per region, and one for the whole image where a region is None. The sizes are what captioners read well."""
    whole = _sized(image, 0, WHOLE_PX)
    ending = STYLE if style else ""
    return [
        Request((whole,), WHOLE_INSTRUCTION + ending)
        if region is None
        else Request((whole, _sized(region, CROP_LEAST_PX, CROP_PX)), REGION_INSTRUCTION + ending)
        for region in regions
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
