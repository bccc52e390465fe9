"""What one run may take: samples and seconds.

It is refused before it starts, with the largest that fits; what goes beyond its estimate all the same is stopped.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

from cupscale import models
from cupscale.errors import CupscaleError
from cupscale.images import Picture
from cupscale.page import engine, writers
from cupscale.page.limits import Limits
from cupscale.planning import Plan, duration
from cupscale.settings import Settings

_MARGIN = 1.5  # an estimate's error, before a run is stopped
_GRACE_SECONDS = 30.0
LONG_SECONDS = 180.0  # above it a plan warns


def seconds_allowed(limits: Limits) -> float:
    """How long a run may take here; 0 for no bound. A GPU that is lent ends its runs sooner."""
    lent = engine.longest_seconds()
    bounds = [bound for bound in (float(limits.max_seconds), lent) if bound]
    return min(bounds, default=0.0)


def allowed_plan(
    image: tuple[int, int] | Picture | None,
    settings: Settings,
    limits: Limits,
    writer: str = writers.NOBODY,
) -> Plan:
    """The plan of a run that this page allows.

    Args:
        image: The input, or its (width, height); None where it is drawn from words.
        settings: Of the run.
        limits: Of the page.
        writer: Who writes captions that are not given, by name.

    Raises:
        CupscaleError: There is nothing to draw from, or the run is above the limits.
    """
    if image is None:
        models.check_words(settings.model, settings.prompt)
    plan = engine.planned(image, settings, writer)
    limits.check_output(plan)
    check_run(None if image is None else plan.input, [settings], limits)
    if plan.caption_calls:
        _check_captions(plan, engine.expected_seconds(plan, settings), limits, "this run with its captions")
    return plan


def check_captions(picture: Picture, settings: Settings, limits: Limits, writer: str) -> None:
    """See that captions alone, written before a run, stay within its time.

    Args:
        picture: The input.
        settings: Of the run.
        limits: Of the page.
        writer: Who writes them, by name.

    Raises:
        CupscaleError: They take too long.
    """
    blank = settings.replace(captions=())
    plan = engine.planned(picture, blank, writer)
    seconds = engine.expected_seconds(plan, blank) - engine.expected_seconds(
        engine.planned(picture, blank), blank
    )
    _check_captions(plan, seconds, limits, "captions")


def _check_captions(plan: Plan, seconds: float, limits: Limits, what: str) -> None:
    allowed = seconds_allowed(limits)
    if allowed and seconds > allowed:
        raise CupscaleError(
            f"{what} would take about {duration(seconds)}, of which {plan.caption_calls} calls of the captioner are a part: this "
            f"page allows {duration(allowed)} a run; choose a smaller scale, less overlap or no captioner"
        )


def check_run(size: tuple[int, int] | None, settings: Sequence[Settings], limits: Limits) -> None:
    """See that runs that are asked for at once stay within the page's bounds, together.

    Args:
        size: Of the image, (width, height); None where it is drawn from words.
        settings: Of each run.
        limits: Of the page.

    Raises:
        CupscaleError: With the largest scale and the most steps that fit.
    """
    wrong = _beyond(size, settings, limits)
    if not wrong:
        return
    raise CupscaleError(f"{wrong}; {_remedy(size, settings, limits)}")


def _beyond(size: tuple[int, int] | None, settings: Sequence[Settings], limits: Limits) -> str:
    """What is too much; empty where nothing is."""
    plans = [engine.planned(size, one) for one in settings]
    samples = sum(plan.samples for plan in plans)
    if limits.max_samples and samples > limits.max_samples:
        return f"this run takes {samples} samples of the network: this page allows {limits.max_samples} a run"
    seconds = sum(map(engine.expected_seconds, plans, settings))
    allowed = seconds_allowed(limits)
    if allowed and seconds > allowed:
        return f"this run would take about {duration(seconds)}: this page allows {duration(allowed)} a run"
    return ""


def _remedy(size: tuple[int, int] | None, settings: Sequence[Settings], limits: Limits) -> str:
    def fits(**fields: float) -> bool:
        return not _beyond(size, [one.replace(**fields) for one in settings], limits)

    most = max(one.steps for one in settings)
    tenths = _largest(10, int(settings[0].scale * 10), lambda tenths: fits(scale=tenths / 10))
    steps = _largest(1, most, lambda steps: fits(steps=steps))
    ways = [f"a scale of at most {tenths / 10:g}"] * (tenths > 0) + [f"at most {steps} steps"] * (steps > 0)
    if not ways and (steps := _largest(1, most, lambda steps: fits(scale=1.0, steps=steps))):
        ways = [f"a scale of 1 with at most {steps} steps"]
    return "choose " + (" or ".join(ways) or "a smaller image")


def _largest(low: int, high: int, fits: Callable[[int], bool]) -> int:
    """The largest whole number from `low` to `high` that fits, by halving; 0 where `low` does not."""
    if high < low or not fits(low):
        return 0
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def shorter(size: tuple[int, int], settings: Settings) -> tuple[float, float] | None:
    """The largest scale below the run's, in halves, that does not take long.

    Args:
        size: (width, height) of the input in pixels.
        settings: Of the run.

    Returns:
        The scale and its seconds; None where every one takes long.
    """
    plain = settings.replace(captions=())
    for half in range(math.ceil(settings.scale * 2) - 1, 1, -1):
        one = plain.replace(scale=half / 2)
        seconds = engine.expected_seconds(engine.planned(size, one), one)
        if seconds <= LONG_SECONDS:
            return half / 2, seconds
    return None


def line(limits: Limits) -> str:
    """The bound, for the end of a plan's line; empty where there is none."""
    allowed = seconds_allowed(limits)
    parts = [f"at most {duration(allowed)} a run here"] if allowed else []
    if limits.max_samples:
        parts.append(f"at most {limits.max_samples} samples")
    return "".join(f", {part}" for part in parts)


class Deadline:
    """Of one run that goes on. Asked at every event; counts from the first."""

    def __init__(self, limits: Limits) -> None:
        self._allowed = seconds_allowed(limits)
        self._began: float | None = None

    def check(self) -> None:
        """Raises CupscaleError once the run is past its bound by more than an estimate's error."""
        now = time.monotonic()
        if self._began is None:
            self._began = now
        last = self._allowed * _MARGIN + _GRACE_SECONDS
        if self._allowed and now - self._began > last:
            raise CupscaleError(
                f"the run was stopped after {duration(now - self._began)}: this page allows "
                f"{duration(self._allowed)} a run, and it took longer than its plan; choose a smaller scale or fewer steps"
            )
