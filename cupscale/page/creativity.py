"""Creativity: one slider that moves three settings along a path, from keeping to inventing.

The settings stay the truth: the slider only writes them, and shows where they lie. A path has five stops, and the model's own
defaults are one of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from cupscale.page import engine
from cupscale.page.viewer import Scripted
from cupscale.settings import Settings, Share

MOVED = ("strength", "structure", "fidelity")


class Stop(NamedTuple):
    """What the settings are at one place of the slider."""

    strength: float
    structure: float
    fidelity: Share


Path = Mapping[int, Stop]  # by the slider's level, 0 (keeps) to 100 (invents)

# Of the bundled model, by the sweep of benchmarks/results.md, "Creativity". It runs whole steps, and 0.05 is one of its 20.
_TINY: Path = {
    0: Stop(0.05, 1.0, 1.0),
    25: Stop(0.1, 1.0, "auto"),
    50: Stop(0.15, 1.0, "auto"),
    75: Stop(0.15, 1.0, 0.1),
    100: Stop(0.2, 0.5, 0.0),
}


def measured(model: str) -> bool:
    """Whether the path of a model rests on a sweep."""
    return model == "tiny"


@lru_cache(maxsize=64)
def path(model: str) -> Path:
    """The path of a model.

    One that was not measured has the model's own strength, which is the paper's S = 0.45 T for most, in the middle; half
    of it and full fidelity at the one end, half as much again, half of the structure and no fidelity at the other (ours).
    """
    if measured(model):
        return _TINY
    own = Settings.build(engine.defaults(model))

    def strength(share: float) -> float:
        return round(min(1.0, share * own.strength), 3)

    return {
        0: Stop(strength(0.5), 1.0, 1.0),
        25: Stop(strength(0.75), own.structure, "auto"),
        50: Stop(own.strength, own.structure, own.fidelity),
        75: Stop(strength(1.25), own.structure, 0.1),
        100: Stop(strength(1.5), own.structure / 2, 0.0),
    }


def along(model: str, level: float) -> dict[str, Any]:
    """The settings at the stop that is nearest to a level."""
    stops = path(model)
    return stops[min(stops, key=lambda there: abs(there - level))]._asdict()


def level_of(settings: Settings) -> tuple[int, bool]:
    """Where settings lie on their model's path.

    Returns:
        The level of the stop with the nearest strength, and whether the settings are those of that stop.
    """
    here = Stop(settings.strength, settings.structure, settings.fidelity)

    def distance(level: int) -> tuple[bool, float]:
        stop = path(settings.model)[level]
        return stop != here, abs(stop.strength - here.strength)

    best = min(path(settings.model), key=distance)
    return best, not distance(best)[0]


class Creativity(Scripted):
    """The slider. Its value is made by `shown`. Triggers `choose` with a `level`."""

    def __init__(self, settings: Settings, **options: Any) -> None:
        super().__init__("creativity", shown(settings), **options)

    def api_info(self) -> dict[str, Any]:
        return {"type": "object", "description": "where the settings lie between keeping and inventing"}


def shown(settings: Settings) -> dict[str, Any]:
    """What the slider shows for settings."""
    level, exact = level_of(settings)
    note = "Moves denoising strength, structure and fidelity together."
    if not measured(settings.model):
        note += " Not measured for this model: it follows the paper's values."
    return {"level": level, "exact": exact, "note": note}


def chosen(model: str, level: Any) -> Mapping[str, Any]:
    """The settings for a level that a browser sent; the middle for what is no level."""
    return along(model, float(level) if isinstance(level, int | float) else 50.0)
