"""The table of a run: as Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from cupscale import images
from cupscale.metrics import Metric
from cupscale.metrics.intervals import Estimate, estimate
from cupscale.metrics.learned import SetMetric, Unavailable
from cupscale.reproduce.folder import Folder
from cupscale.reproduce.inputs import Item
from cupscale.reproduce.rows import Row

AnyMetric = Metric | SetMetric


@dataclass
class Line:
    """A row's figures.

    Attributes:
        row: The method.
        figures: By metric; one that has none is not here.
        items: Finished.
        failed: Items by the reason why there is no result.
    """

    row: Row
    figures: dict[str, Estimate] = field(default_factory=dict)
    items: int = 0
    failed: dict[str, list[str]] = field(default_factory=dict)


@dataclass
class Table:
    """What a run has measured.

    Attributes:
        metrics: The columns.
        lines: The rows.
        notes: Why a column, or a part of it, is empty.
        skipped: Inputs that could not be used, and why.
        total: Items of a whole row.
    """

    metrics: list[AnyMetric]
    lines: list[Line]
    notes: dict[str, str]
    skipped: dict[str, str]
    total: int


def gather(
    folder: Folder,
    rows: Sequence[Row],
    items: Sequence[Item],
    metrics: Sequence[Metric],
    set_metrics: Sequence[SetMetric] = (),
    real: Sequence[Callable[[], Image.Image]] = (),
) -> tuple[Table, list[dict[str, Any]]]:
    """Read what a run has kept.

    Args:
        folder: Of the run.
        rows: Of the table.
        items: Of the run.
        metrics: Of single pictures.
        set_metrics: Of all pictures of a row; computed here.
        real: Pictures for those to compare with.

    Returns:
        The table, and the records of all results.
    """
    skipped = {item.source_name: fault for item in items if (fault := folder.fault(item.source_name))}
    usable = [item for item in items if item.source_name not in skipped]
    table = Table([*metrics, *set_metrics], [], {}, skipped, len(usable))
    records: list[dict[str, Any]] = []
    for row in rows:
        line, of_row = _line(folder, row, usable)
        for metric in metrics:
            line.figures |= _figure(metric.name, of_row)
            for record in of_row:
                if reason := record.get("missing", {}).get(metric.name):
                    table.notes[metric.name] = reason
        results = [_opener(folder, row, record) for record in of_row]
        for one in set_metrics if results else ():
            try:
                value = one.measure(results, real)
                line.figures[one.name] = Estimate(value, None, None, len(results))
            except Unavailable as error:
                table.notes[one.name] = str(error)
        table.lines.append(line)
        records += of_row
    return table, records


def _line(folder: Folder, row: Row, items: Sequence[Item]) -> tuple[Line, list[dict[str, Any]]]:
    line, records = Line(row), []
    for item in items:
        if record := folder.record(row.name, item.name):
            records.append(record)
        else:
            reason = folder.failure(row.name, item.name) or "not run yet"
            line.failed.setdefault(reason, []).append(item.name)
    line.items = len(records)
    return line, records


def _figure(name: str, records: Sequence[dict[str, Any]]) -> dict[str, Estimate]:
    """A metric over images, seeds averaged first; nothing where no picture has it."""
    of_image: dict[str, list[float]] = defaultdict(list)
    for record in records:
        value = record["metrics"].get(name)
        if value is not None:
            of_image[record["image"]].append(value)
    means = [sum(values) / len(values) for values in of_image.values()]
    return {name: estimate(means)} if means else {}


def _opener(folder: Folder, row: Row, record: dict[str, Any]) -> Callable[[], Image.Image]:
    name = f"{record['image']}-seed{record['seed']}"
    return lambda: images.read(folder.result_path(row.name, name)).rgb


def digits_of(metric: AnyMetric) -> int:
    """After the point."""
    return metric.digits if isinstance(metric, Metric) else 2


def heading(metric: AnyMetric) -> str:
    """Of a column: title, unit and which way is better."""
    if isinstance(metric, SetMetric):
        return f"{metric.title} {'↑' if metric.better == 'higher' else '↓'}"
    unit = f" ({metric.unit})" if metric.unit else ""
    return f"{metric.title}{unit} {metric.direction}".strip()


def cell(metric: AnyMetric, line: Line) -> str:
    """A figure with its interval; empty where there is none."""
    found = line.figures.get(metric.name)
    if found is None:
        return ""
    digits = digits_of(metric)
    text = f"{found.mean:.{digits}f}"
    if found.low is None or found.high is None or found.low == found.high:
        return text
    return f"{text} [{found.low:.{digits}f}, {found.high:.{digits}f}]"


def remarks(table: Table) -> list[str]:
    """What stands under a table: empty columns, failures, skipped inputs."""
    lines = [f"{name}: {reason}" for name, reason in table.notes.items()]
    for line in table.lines:
        for reason, names in line.failed.items():
            which = ", ".join(names[:5]) + (" ..." if len(names) > 5 else "")
            lines.append(
                f"{line.row.title}: {len(names)} of {table.total} without a result ({which}): {reason}"
            )
    lines += [f"skipped input {name}: {reason}" for name, reason in table.skipped.items()]
    return lines


def markdown(table: Table, command: str) -> str:
    """With the exact command, and what the columns are."""
    names = [heading(metric) for metric in table.metrics]
    lines = [
        f"    {command}",
        "",
        f"Means over images (seeds averaged first), with 95% bootstrap intervals over images; {table.total} results a row.",
        "",
        f"| | results | {' | '.join(names)} |",
        f"|---|---|{'---|' * len(names)}",
    ]
    for line in table.lines:
        cells = [cell(metric, line) for metric in table.metrics]
        lines.append(f"| {line.row.title} | {line.items} | {' | '.join(cells)} |")
    if notes := remarks(table):
        lines += ["", *(f"- {note}" for note in notes)]
    lines += ["", "Sources:", ""]
    lines += [f"- {metric.title}: {metric.source}" for metric in table.metrics]
    return "\n".join(lines) + "\n"


def as_csv(table: Table) -> str:
    """A line a row and metric; empty where there is no figure."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["row", "metric", "mean", "low", "high", "images"])
    for line in table.lines:
        for metric in table.metrics:
            found = line.figures.get(metric.name)
            writer.writerow([line.row.name, metric.name, *(found or ("", "", "", 0))])
    return out.getvalue()


def as_json(table: Table, records: Sequence[dict[str, Any]], run: dict[str, Any]) -> str:
    """Everything: what decided the run, the figures, and every result with its hash and settings."""
    data = {
        "run": run,
        "metrics": [
            {
                "name": metric.name,
                "title": metric.title,
                "source": metric.source,
                "better": metric.better,
                "note": table.notes.get(metric.name, ""),
            }
            for metric in table.metrics
        ],
        "rows": [
            {
                "name": line.row.name,
                "title": line.row.title,
                "results": line.items,
                "figures": {name: found._asdict() for name, found in line.figures.items()},
                "failed": line.failed,
            }
            for line in table.lines
        ],
        "skipped": table.skipped,
        "results": list(records),
    }
    return json.dumps(data, indent=1, ensure_ascii=False) + "\n"
