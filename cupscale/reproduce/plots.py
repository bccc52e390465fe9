"""The figures of a table, drawn."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from cupscale.metrics import COSTS
from cupscale.reproduce.tables import AnyMetric, Line, Table, heading

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = 3
DPI = 110
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
    return _grid(shown, 3.0, lambda axes, metric: _points(axes, metric, table.lines))


def _grid(
    metrics: Sequence[AnyMetric], height: float, draw: Callable[[Any, AnyMetric], None]
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
    return _png(figure)


def _bars(axes: Any, metric: AnyMetric, lines: Sequence[Line]) -> None:
    for place, line in enumerate(lines):
        found = line.figures.get(metric.name)
        if found is None:
            continue
        axes.barh(place, found.mean, height=0.7, color=OTHERS if line.row.peer else OURS)
        if found.low is not None and found.high is not None:
            reach = [[found.mean - found.low], [found.high - found.mean]]
            axes.errorbar(found.mean, place, xerr=reach, color=INK, linewidth=1, capsize=2)
    axes.set_yticks(range(len(lines)), [line.row.title for line in lines])
    axes.set_ylim(len(lines) - 0.4, -0.6)
    axes.axvline(0, color=FAINT, linewidth=0.8)


def _points(axes: Any, metric: AnyMetric, lines: Sequence[Line]) -> None:
    for line in lines:
        found, cost = line.figures.get(metric.name), line.figures.get("evaluations")
        if found is None or cost is None:
            continue
        colour = OTHERS if line.row.peer else OURS
        reach = None
        if found.low is not None and found.high is not None:
            reach = [[found.mean - found.low], [found.high - found.mean]]
        axes.errorbar(
            cost.mean, found.mean, yerr=reach, fmt="o", markersize=4, color=colour, ecolor=FAINT, capsize=2
        )
        axes.annotate(
            line.row.title,
            (cost.mean, found.mean),
            fontsize=6.5,
            xytext=(4, 3),
            textcoords="offset points",
            color=INK,
        )
    axes.set_xscale("symlog", linthresh=10)
    axes.set_xlim(left=-1)
    axes.margins(x=0.25)
    axes.set_xlabel("network evaluations", fontsize=7.5, color=INK)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()
