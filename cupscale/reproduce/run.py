"""A whole run: its items shared among processes, every row on each, and the report, once."""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import platform
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

import cupscale
from cupscale import images
from cupscale.errors import CupscaleError
from cupscale.method.memory import is_out_of_memory
from cupscale.metrics.learned import SetMetric
from cupscale.reproduce import plots, report, tables
from cupscale.reproduce.cost import Clock
from cupscale.reproduce.inputs import Item
from cupscale.reproduce.rows import Row, read_rows
from cupscale.reproduce.runner import NotKept, Prepared, Runner

_VERSIONS = ("torch", "diffusers", "transformers", "numpy", "pillow", "scikit-image", "scipy")


@dataclass(frozen=True)
class Step:
    """How far this process is.

    Attributes:
        done: Of `total`, results that are there.
        total: Results of this process's share.
        name: Of the result that is made, or was made now.
        fraction: Of it.
        left: Seconds for the rest; None until there is something to judge by.
        seconds: That it took; None while it is made, and where it failed.
        error: Why it failed; empty where it did not.
    """

    done: int
    total: int
    name: str
    fraction: float = 0.0
    left: float | None = None
    seconds: float | None = None
    error: str = ""


def versions(device: torch.device) -> dict[str, str]:
    """Of what a result depends on, besides its settings."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    found = {"cupscale": cupscale.__version__, "python": platform.python_version(), "device": name}
    return found | {package: importlib.metadata.version(package) for package in _VERSIONS}


def run_items(runner: Runner, rows: Sequence[Row], items: Sequence[Item]) -> Generator[Step, None, None]:
    """Every row on every item that has no result yet; one that fails does not stop the others.

    Args:
        runner: Of the run.
        rows: In the order in which they are run.
        items: This process's share.

    Yields:
        A step for each result as it is made, left out or failed.

    Raises:
        NotKept: A file cannot be written.
    """
    folder = runner.folder
    open_rows = {item: [row for row in rows if not folder.record(row.name, item.name)] for item in items}
    left = {row.name: sum(row in waiting for waiting in open_rows.values()) for row in rows}
    clock, total = Clock(left), len(items) * len(rows)
    done = total - sum(left.values())
    for item, waiting in open_rows.items():
        if not waiting:
            continue
        try:
            prepared = runner.prepare(item)
        except NotKept:
            raise
        except CupscaleError as error:
            folder.keep_words(item.source_name, {"error": str(error)})
            done += len(waiting)
            for row in waiting:
                clock.done(row.name, 0)
            yield Step(done, total, item.name, error=str(error))
            continue
        clock.work = {row.name: runner.samples(row, prepared.picture.size) for row in rows}
        for row in waiting:
            done += 1
            yield from _result(runner, row, item, prepared, clock, (done, total))


def _result(
    runner: Runner, row: Row, item: Item, prepared: Prepared, clock: Clock, place: tuple[int, int]
) -> Generator[Step, None, None]:
    done, total = place
    name, left = f"{row.name} / {item.name}", clock.seconds_left()
    steps = runner.run(row, item, prepared)
    try:
        with contextlib.closing(steps):
            while True:
                try:
                    fraction = next(steps)
                except StopIteration as stop:
                    record = stop.value
                    break
                yield Step(done - 1, total, name, fraction, left)
    except NotKept:
        raise
    except (CupscaleError, MemoryError, RuntimeError) as error:
        if not isinstance(error, CupscaleError) and not (
            isinstance(error, MemoryError) or is_out_of_memory(error)
        ):
            raise
        said = str(error) if isinstance(error, CupscaleError) else "not enough memory for it"
        runner.folder.keep_record(row.name, item.name, {"error": said})
        clock.done(row.name, 0)
        yield Step(done, total, name, left=clock.seconds_left(), error=said)
        return
    seconds = float(record["metrics"].get("seconds") or 0.0)
    clock.done(row.name, seconds)
    yield Step(done, total, name, 1.0, clock.seconds_left(), seconds)


def write_report(
    runner: Runner,
    items: Sequence[Item],
    set_metrics: Sequence[SetMetric] = (),
    real: Sequence[Path] = (),
) -> tables.Table:
    """Tables, plots and the page, of all that the folder holds: rows of earlier runs too.

    Args:
        runner: Of the run.
        items: Of all processes.
        set_metrics: Metrics of whole rows.
        real: Pictures for those; the originals where there are some and these are none.

    Returns:
        The table that was written.

    Raises:
        CupscaleError: A file cannot be written.
    """
    folder, run = runner.folder, runner.folder.kept()
    assert run is not None
    rows = [Row(**data) for data in run["decides"]["rows"].values()]
    order = {name: place for place, name in enumerate(read_rows())}
    rows.sort(key=lambda row: order.get(row.name, len(order)))
    if not real and runner.options.reduce > 1:
        names = dict.fromkeys(item.source_name for item in items)
        real = [path for name in names if (path := folder.original_path(name)).is_file()]
    table, records = tables.gather(
        folder, rows, items, runner.options.metrics, set_metrics, [_opener(path) for path in real]
    )
    drawn: Mapping[str, bytes | None] = {"quality": plots.quality(table), "bars": plots.bars(table)}
    if not any(record["used"].get("captions") for record in records):
        table.notes["captions"] = (
            "no captioner was named, so no region has a caption of its own: the semantic prior (RSP) reads the prompt"
        )
    for name, content in drawn.items():
        if content is not None:
            folder.keep_picture(folder.path / f"{name}.png", Image.open(io.BytesIO(content)).convert("RGB"))
    folder.keep_text("table.md", tables.markdown(table, run["command"]))
    folder.keep_text("table.csv", tables.as_csv(table))
    folder.keep_text("table.json", tables.as_json(table, records, run))
    folder.keep_text("report.html", report.page(folder, table, rows, items, run, dict(drawn)))
    return table


def _opener(path: Path) -> Callable[[], Image.Image]:
    return lambda: images.read(path).rgb
