"""The figures of a table, drawn."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from cupscale.metrics import COSTS
from cupscale.metrics.base import Metric
from cupscale.reproduce.tables import AnyMetric, Line, Table, heading

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = 3
DPI = 110
COLOURS = 20  # of matplotlib's "tab20"; rows beyond them have another mark
INK, FAINT, OURS, OTHERS = "#1c2733", "#b8c1cb", "#1f6f8b", "#8796a5"


def bars(table: Table) -> bytes | None:
    """A bar a row and metric, with its interval, as PNG; None where nothing is measured."""
    shown = [metric for metric in table.metrics if any(metric.name in line.figures for line in table.lines)]
    height = 0.9 + 0.27 * len(table.lines)
    return _grid(shown, height, lambda axes, metric: _bars(axes, metric, table.lines))


def quality(table: Table) -> bytes | None:
    """Every metric against the network's evaluations, as PNG; None where nothing is measured."""
    shown = [
        metric
        for metric in table.metrics
        if metric.name not in COSTS and any(metric.name in line.figures for line in table.lines)
    ]
    if not any("evaluations" in line.figures for line in table.lines):
        return None
    return _grid(shown, 3.0, lambda axes, metric: _points(axes, metric, table.lines), legend=True)


def _grid(
    metrics: Sequence[AnyMetric],
    height: float,
    draw: Callable[[Any, AnyMetric], None],
    *,
    legend: bool = False,
) -> bytes | None:
    from matplotlib.figure import Figure

    if not metrics:
        return None
    rows = math.ceil(len(metrics) / COLUMNS)
    figure = Figure(figsize=(4.6 * COLUMNS, height * rows), layout="constrained")
    grid = figure.subplots(rows, COLUMNS, squeeze=False)
    for axes, metric in zip(grid.flat, metrics, strict=False):
        draw(axes, metric)
        axes.set_title(heading(metric), fontsize=9, color=INK)
        axes.tick_params(labelsize=7.5, colors=INK)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    for axes in list(grid.flat)[len(metrics) :]:
        axes.set_axis_off()
    if legend:
        named: dict[str, Any] = {}
        for axes in grid.flat:
            marks, titles = axes.get_legend_handles_labels()
            named |= dict(zip(titles, marks, strict=True))
        figure.legend(
            list(named.values()), list(named), loc="outside lower center", ncols=6, fontsize=8, frameon=False
        )
    return _png(figure)


def _bars(axes: Any, metric: AnyMetric, lines: Sequence[Line]) -> None:
    for place, line in enumerate(lines):
        found = line.figures.get(metric.name)
        if found is None:
            continue
        axes.barh(place, found.mean, height=0.7, color=_colour(line))
        if found.low is not None and found.high is not None:
            reach = [[found.mean - found.low], [found.high - found.mean]]
            axes.errorbar(found.mean, place, xerr=reach, color=INK, linewidth=1, capsize=2)
    axes.set_yticks(range(len(lines)), [line.row.title for line in lines])
    axes.set_ylim(len(lines) - 0.4, -0.6)
    axes.axvline(0, color=FAINT, linewidth=0.8)


def _colour(line: Line) -> str:
    """Of a bar: the originals, other methods, ours."""
    return INK if line.row.original else OTHERS if line.row.peer else OURS


def _points(axes: Any, metric: AnyMetric, lines: Sequence[Line]) -> None:
    from matplotlib import color_sequences

    colours = color_sequences["tab20"]
    placed: list[tuple[float, float]] = []
    for place, line in enumerate(lines):
        found, cost = line.figures.get(metric.name), line.figures.get("evaluations")
        if found is None or cost is None:
            continue
        reach = None
        if found.low is not None and found.high is not None:
            reach = [[found.mean - found.low], [found.high - found.mean]]
        axes.errorbar(
            cost.mean,
            found.mean,
            yerr=reach,
            fmt=_mark(line, place // COLOURS),
            markersize=5,
            color=colours[place % COLOURS],
            elinewidth=0.7,
            capsize=2,
            label=line.row.title,
        )
        if not line.row.original:
            placed.append((cost.mean, found.mean))
    if best := front(placed, metric):
        axes.plot(*zip(*best, strict=True), drawstyle="steps-post", color=FAINT, linewidth=1, zorder=0)
    costs = [line.figures["evaluations"].mean for line in lines if "evaluations" in line.figures]
    axes.margins(x=0.1)
    if max(costs) > 10 * min(costs):
        axes.set_xscale("symlog", linthresh=10)
        axes.set_xlim(left=-1)
    axes.set_xlabel("network evaluations", fontsize=7.5, color=INK)


def front(points: Sequence[tuple[float, float]], metric: AnyMetric) -> list[tuple[float, float]]:
    """The Pareto front: those that no other point beats at the same cost or less.

    Args:
        points: (network evaluations, the metric's mean), of each row.
        metric: Says which way is better; where it does not, there is no front.

    Returns:
        Of `points`, by rising cost.
    """
    if metric.better == "none":
        return []
    target = metric.target if isinstance(metric, Metric) else None

    def worth(value: float) -> float:
        if target is not None:
            return -abs(value - target)
        return value if metric.better == "higher" else -value

    best: list[tuple[float, float]] = []
    for cost, value in sorted(points, key=lambda point: (point[0], -worth(point[1]))):
        if not best or worth(value) > worth(best[-1][1]):
            best.append((cost, value))
    return best


def _mark(line: Line, turn: int) -> str:
    """Of a point: the originals, other methods, ours. turn: how often all colours are used up."""
    marks = "*" if line.row.original else "sD^" if line.row.peer else "oPX"
    return marks[turn % len(marks)]


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()
