"""One page of a run, which opens without a network: the table, the plots, and crops of all rows with one zoom."""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cupscale import images
from cupscale.metrics.base import GREY, floats
from cupscale.reproduce.folder import Folder
from cupscale.reproduce.inputs import Item
from cupscale.reproduce.rows import Row
from cupscale.reproduce.tables import Table, cell, heading, remarks

PAGE = Path(__file__).with_name("report.html")
CROP_PX = 320  # of the results
SHOWN = 8  # items, spread over all of them
QUALITY = 95  # of the crops' WebP


def page(
    folder: Folder,
    table: Table,
    rows: Sequence[Row],
    items: Sequence[Item],
    run: dict[str, Any],
    plots: dict[str, bytes | None],
) -> str:
    """The page.

    Args:
        folder: Of the run.
        table: What it has measured.
        rows: Of the table.
        items: Of the run.
        run: What run.json holds.
        plots: PNGs named "quality" and "bars".
    """
    command, decides = run["command"], run["decides"]
    shown = [found for item in spread(items, SHOWN) if (found := _tiles(folder, rows, item))]
    said = (
        f"{len(items)} inputs and seeds, {len(rows)} rows, scale {decides['scale']:g}, model {decides['model']}, "
        f"cupscale {decides['versions']['cupscale']} on {decides['versions']['device']}"
    )
    crops = (
        f"{len(shown)} of {len(items)} are shown, each in its busiest place and in one of middling detail, {CROP_PX} px of the "
        f"result a side, as WebP of quality {QUALITY}. 'whole' opens the picture itself, where the folder of the run is there."
    )
    fields = {
        "title": "C-Upscale, reproduced",
        "summary": html.escape(said),
        "command": html.escape(command),
        "crops": html.escape(crops),
        "table": _table(table),
        "remarks": _list(remarks(table)),
        "quality": _plot(
            plots.get("quality"), "Every metric against the network's evaluations, a point a row"
        ),
        "bars": _plot(plots.get("bars"), "Every metric as a bar a row"),
        "sources": _list([f"{heading(metric)}: {metric.source}" for metric in table.metrics]),
        "run": html.escape(json.dumps(decides, indent=1, ensure_ascii=False)),
        "data": json.dumps(shown).replace("</", "<\\/"),
    }
    text = PAGE.read_text("utf-8")
    first, *parts = text.split("{{")
    return first + "".join(fields[name] + rest for name, rest in (part.split("}}", 1) for part in parts))


def spread(items: Sequence[Item], count: int) -> list[Item]:
    """At most `count` of them, evenly, the first among them."""
    step = max(1.0, len(items) / count)
    return [items[int(place * step)] for place in range(min(count, len(items)))]


def places(picture: Image.Image, side: int) -> list[tuple[int, int]]:
    """(left, top) of the square of `side` px with the strongest gradients, and of one with middling ones beside it.

    Args:
        picture: RGB.
        side: At most that of the picture.
    """
    grey = floats(picture) @ GREY
    energy = np.abs(np.gradient(grey)).sum(axis=0)
    step = max(1, side // 2)
    corners = [
        (left, top)
        for top in range(0, picture.height - side + 1, step)
        for left in range(0, picture.width - side + 1, step)
    ]
    strength = {
        (left, top): float(energy[top : top + side, left : left + side].mean()) for left, top in corners
    }
    ranked = sorted(corners, key=lambda corner: -strength[corner])
    best = ranked[0]
    apart = [one for one in ranked if max(abs(one[0] - best[0]), abs(one[1] - best[1])) >= side]
    return [best, apart[len(apart) // 2]] if apart else [best]


def _tiles(folder: Folder, rows: Sequence[Row], item: Item) -> dict[str, Any] | None:
    """The crops of one item; None where it has no result."""
    path = folder.input_path(item.source_name)
    results = [(row, images.read(found).rgb) for row in rows if (found := _result(folder, row, item))]
    if not results or not path.is_file():
        return None
    small = images.read(path).rgb
    scale = results[0][1].width / small.width
    side = max(1, min(round(CROP_PX / scale), *small.size))
    shown = []
    for left, top in places(small, side):
        box = (left, top, left + side, top + side)
        pixels = small.crop(box).resize((CROP_PX, CROP_PX), Image.Resampling.NEAREST)
        tiles = [{"title": "Input", "data": _webp(pixels), "file": _relative(folder, path)}]
        large = round(left * scale), round(top * scale)
        whole = (*large, large[0] + round(side * scale), large[1] + round(side * scale))
        for row, image in results:
            file = _relative(folder, folder.result_path(row.name, item.name))
            tiles.append({"title": row.title, "data": _webp(image.crop(whole)), "file": file})
        shown.append(tiles)
    return {"name": item.name, "places": shown}


def _result(folder: Folder, row: Row, item: Item) -> Path | None:
    return folder.result_path(row.name, item.name) if folder.record(row.name, item.name) else None


def _relative(folder: Folder, path: Path) -> str:
    return path.relative_to(folder.path).as_posix()


def _webp(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=QUALITY)
    return _data(buffer.getvalue(), "webp")


def _data(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _plot(content: bytes | None, words: str) -> str:
    if content is None:
        return "<p>Nothing is measured yet.</p>"
    return f'<img class="plot" alt="{html.escape(words)}" src="{_data(content, "png")}">'


def _table(table: Table) -> str:
    heads = "".join(f"<th>{html.escape(heading(metric))}</th>" for metric in table.metrics)
    lines = []
    for line in table.lines:
        cells = []
        for metric in table.metrics:
            value, bracket, interval = cell(metric, line).partition(" [")
            small = f"<small>[{html.escape(interval)}</small>" if bracket else ""
            cells.append(f"<td>{html.escape(value)}{small}</td>")
        lines.append(f"<tr><th>{html.escape(line.row.title)}</th><td>{line.items}</td>{''.join(cells)}</tr>")
    return f"<table><thead><tr><th></th><th>Results</th>{heads}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def _list(texts: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{html.escape(text)}</li>' for text in texts)}</ul>" if texts else ""
