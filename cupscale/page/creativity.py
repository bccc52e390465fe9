"""Creativity: one slider that moves three settings along a path, from keeping to inventing.

The settings stay the truth: the slider only writes them, and shows where they lie. A path is a few anchors, between which
strength and structure go linearly and fidelity is that of the anchor before. At 50 lie the model's own defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from cupscale.page import engine
from cupscale.page.viewer import Scripted
from cupscale.settings import Fidelity, Settings

STEP = 5  # of the slider, which goes from 0 to 100
MIDDLE = 50
MOVED = ("strength", "structure", "fidelity")


class Anchor(NamedTuple):
    """A point of a path: the slider's level, and the settings there."""

    level: int
    strength: float
    structure: float
    fidelity: Fidelity


# Of the bundled model: measured (benchmarks/results.md, "Creativity").
_TINY = (
    Anchor(0, 0.05, 1.0, 1.0),
    Anchor(30, 0.1, 1.0, "auto"),
    Anchor(50, 0.1, 1.0, "auto"),
    Anchor(70, 0.15, 1.0, 0.1),
    Anchor(100, 0.2, 0.5, 0.0),
)


def _usual(model: str) -> tuple[Anchor, ...]:
    """For models of which no path was measured: their own strength in the middle, which is the paper's S = 0.45 T for most;
    half of it and full fidelity below, half as much again and half of the structure above (ours)."""
    own = Settings.build(engine.defaults(model))
    high = min(1.0, 1.5 * own.strength)
    return (
        Anchor(0, own.strength / 2, 1.0, 1.0),
        Anchor(30, own.strength * 0.8, own.structure, "auto"),
        Anchor(MIDDLE, own.strength, own.structure, own.fidelity),
        Anchor(100, high, own.structure / 2, 0.0),
    )


def measured(model: str) -> bool:
    """Whether the path of a model was chosen by measuring."""
    return model == "tiny"


def along(model: str, level: float) -> dict[str, Any]:
    """The settings at a point of the path.

    Args:
        model: Its name.
        level: 0 (keeps) to 100 (invents); what lies beyond is the end.
    """
    path = _TINY if measured(model) else _usual(model)
    level = min(100.0, max(0.0, level))
    before = [anchor for anchor in path if anchor.level <= level][-1]
    after = next((anchor for anchor in path if anchor.level >= level), path[-1])
    share = (level - before.level) / (after.level - before.level) if after.level > before.level else 0.0
    return {
        "strength": round(before.strength + share * (after.strength - before.strength), 3),
        "structure": round(before.structure + share * (after.structure - before.structure), 2),
        "fidelity": before.fidelity,
    }


def level_of(settings: Settings) -> tuple[int, bool]:
    """Where settings lie on their model's path.

    Returns:
        The nearest level, by strength first, and whether the settings are those of that level.
    """

    def distance(level: int) -> tuple[bool, float, int]:
        there = along(settings.model, level)
        other = any(there[name] != getattr(settings, name) for name in MOVED)
        return other, abs(there["strength"] - settings.strength), abs(level - MIDDLE)

    best = min(range(0, 101, STEP), key=distance)
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
    number = level if isinstance(level, int | float) and not isinstance(level, bool) else MIDDLE
    return along(model, float(number))
