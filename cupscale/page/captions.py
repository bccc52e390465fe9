"""Captions written by a captioner, for the Regions tab and the API. Which captioners there are is the operator's choice."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import spaces

from cupscale.captioners import (
    Captioned,
    CaptionerError,
    Captioning,
    CaptionProgress,
    caption_calls,
)
from cupscale.captioners.vlm import VLM
from cupscale.errors import CupscaleError
from cupscale.images import Picture
from cupscale.method.sampler import Notice
from cupscale.page import bounds, engine, writers
from cupscale.page.limits import Limits
from cupscale.page.run import status_html
from cupscale.planning import Plan, duration
from cupscale.settings import Caption, Settings


@dataclass(frozen=True)
class Step:
    """html: the status. captions: at the end, one per region; the empty ones leave the region to the prompt."""

    html: str
    warning: str | None = None
    captions: tuple[Caption, ...] | None = None
    prompt: str = ""


def preload() -> None:
    """Put the default captioner on the card when the page starts, where ZeroGPU wants it: it is moved once, not per call."""
    if engine.ZERO:
        try:
            captioner = writers.opened(writers.kinds()[0])
            captioner.place() if isinstance(captioner, VLM) else captioner.load()
        except CaptionerError as error:  # the page works without one
            warnings.warn(f"the captioner was not loaded: {error}", stacklevel=2)


def _duration(name: str, picture: Picture, settings: Settings) -> int:
    plan = engine.planned(picture.size, settings)
    return int(min(180, 20 + 1.5 * caption_calls(picture.rgb, plan, prompt=settings.prompt)))


@spaces.GPU(duration=_duration)
def _events(name: str, picture: Picture, settings: Settings) -> Generator[Any, None, None]:
    """Failures travel as Notices: a captioner that cannot work leaves every region to the prompt."""
    try:
        captioner = writers.opened(name)
        pipe = engine.pipeline(settings.model)
        with (
            engine.one_run,
            contextlib.closing(pipe.caption(picture, Captioning(captioner), settings)) as events,
        ):
            yield from events
        if not engine.ZERO:
            captioner.release()
    except (CupscaleError, CaptionerError) as error:
        yield Notice(f"the captioner failed, and every region uses the prompt: {error}")


def write(
    name: str, picture: Picture, plan: Plan, settings: Settings, limits: Limits
) -> Generator[Step, None, None]:
    """Caption the regions of a plan.

    Args:
        name: Of the captioner.
        picture: The input.
        plan: Of the run.
        settings: Of the run.
        limits: Of the page. A captioner may take as long as a run.

    Yields:
        How far the captioner is, then the captions.

    Raises:
        CupscaleError: The captioner is not on the list, there are too many regions, or it takes too long.
    """
    writers.check(name)
    if len(plan.regions) > limits.captions:
        raise CupscaleError(
            f"the plan has {len(plan.regions)} regions: captions are written here for at most {limits.captions}; "
            "choose a smaller scale or less overlap"
        )
    bounds.check_captions(picture, settings, limits, name)
    deadline = bounds.Deadline(limits)
    yield Step(status_html("opening the captioner", 0.0))
    done = 0
    with contextlib.closing(_events(name, picture, settings)) as events:
        for event in events:
            deadline.check()
            if isinstance(event, CaptionProgress):
                line = f"caption {event.done} of {event.calls}"
                if event.left is not None:
                    line += f", about {duration(event.left)} left"
                yield Step(status_html(line, event.done / max(1, event.calls)))
            elif isinstance(event, Notice):
                yield Step(status_html(event.message), warning=event.message)
            elif isinstance(event, Captioned):
                done = sum(bool(caption.caption) for caption in event.captions)
                kept = tuple(caption for caption in event.captions if caption.caption)
                line = f"{done} of {len(plan.boxes)} regions have a caption; the others use the prompt."
                yield Step(status_html(line), captions=kept, prompt=event.prompt)
