"""The Regions tab: the grid over the image, and the captions in a table."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from cupscale import images
from cupscale.captions import captions_file, captions_text, carried, match, read_captions, scaled
from cupscale.errors import CupscaleError
from cupscale.page import scratch
from cupscale.page.limits import Limits
from cupscale.planning import Plan
from cupscale.settings import Caption

HEADERS = ["region", "left, top, right, bottom", "caption"]
_VIEW_PX = 720
Rows = list[list[Any]]
_writing = threading.Lock()
_serials = itertools.count(1)


def rows_of(plan: Plan, captions: Sequence[Caption]) -> Rows:
    """The table: a row per region of the plan, with the caption that fits it."""
    inside = [c for c in captions if c.box[2] <= plan.output[0] and c.box[3] <= plan.output[1]]
    return _rows(plan, match(inside, plan.boxes, plan.output).texts)


def _rows(plan: Plan, texts: Sequence[str | None]) -> Rows:
    return [
        [k, ", ".join(map(str, box)), text or ""]
        for k, (box, text) in enumerate(zip(plan.boxes, texts, strict=True), 1)
    ]


def kept_typed(before: Sequence[Caption], written: Sequence[Caption]) -> list[Caption]:
    """What a captioner wrote, and in its place what a person had typed."""
    typed = {one.box: one for one in before if one.source == "user"}
    return [*typed.values(), *(one for one in written if one.box not in typed)]


def write_typed(book: dict[str, Any], laid: Mapping[str, Any], k: int, text: str) -> None:
    """Put what a person typed for one region into the book, and leave the rest of it as it is now.

    The book is changed in place and at once: captions arrive while a person types, and each of the two would otherwise write
    back a book without the other's.

    Args:
        book: Of the visit.
        laid: The regions as the table shows them.
        k: The region, from 0.
        text: Its caption; an empty one takes the caption away.
    """
    output, box = tuple(laid["output"]), tuple(laid["boxes"][k])
    with _writing:
        others = [one for one in for_output(book, output) if one.box != box]
        if not text.strip():  # nor does one of another scale serve it now
            others = [one for one in others if match([one], [box], output).missing]
        typed = [Caption(box=box, caption=text.strip())] if text.strip() else []
        _write(book, [*others, *typed], output)


def write_arrived(
    book: dict[str, Any], there: Sequence[Caption], wrote: Sequence[Caption], output: tuple[int, int]
) -> None:
    """Put what a captioner wrote so far into the book, in place, as `write_typed` does.

    Args:
        book: Of the visit.
        there: In the table. What a person typed there, or into the book since, stays.
        wrote: All of the run so far. Of two calls that overtake each other, what the longer one wrote stays.
        output: (width, height) that the boxes are for.
    """
    with _writing:
        known = for_output(book, output)
        kept = kept_typed([*there, *known], wrote)
        places = {one.box for one in kept}
        _write(book, [*kept, *(one for one in known if one.box not in places)], output)
        book["stamp"] = time.time_ns()


def write_edited(
    book: dict[str, Any], laid: Mapping[str, Any] | None, there: Sequence[Caption], plan: Plan
) -> None:
    """Put an edited table into the book, in place; captions that no region takes now stay in it.

    Args:
        book: Of the visit.
        laid: The regions as the table shows them. Where the book is newer, what the table lacks has yet to arrive there.
        there: In the table.
        plan: Of a run now.
    """
    with _writing:
        known = for_output(book, plan.output)
        places = {one.box for one in there}
        newer = laid is None or laid["stamp"] != book["stamp"]
        extra = known if newer else match(known, plan.boxes, plan.output).extra
        _write(book, [*there, *(one for one in extra if one.box not in places)], plan.output)


def read_book(book: Mapping[str, Any], output: tuple[int, int]) -> tuple[int, tuple[Caption, ...]]:
    """The captions in the book, and a number that grows from each reading to the next.

    Answers of the server may overtake each other, and the table shows the latest reading.
    """
    with _writing:
        return next(_serials), for_output(book, output)


def packed_rows(serial: int, rows: Rows) -> str:
    """For the browser to put into the table."""
    return json.dumps({"serial": serial, "rows": rows}, ensure_ascii=False)


def for_output(book: Mapping[str, Any], output: tuple[int, int]) -> tuple[Caption, ...]:
    """The captions in the book, for an output of (width, height)."""
    captions = tuple(Caption(**one) for one in book["captions"])
    return scaled(captions, book["size"], output) if book["size"] else captions


def _write(book: dict[str, Any], captions: Sequence[Caption], output: tuple[int, int]) -> None:
    book.update(size=list(output), captions=[one.model_dump() for one in captions])


def signed(captions: Sequence[Caption], known: Sequence[Mapping[str, Any]]) -> tuple[Caption, ...]:
    """The captions with who wrote them, where the text is still as that one left it; a person wrote the rest."""
    sources = {str(one["caption"]).strip(): str(one.get("source", "user")) for one in known}
    return tuple(one.model_copy(update={"source": sources.get(one.caption, one.source)}) for one in captions)


def carried_over(rows: Rows, laid: Mapping[str, Any], plan: Plan) -> Rows:
    """The table for other regions of the same image: the captions that were shown, where they lie now."""
    scale = (plan.output[0] / laid["output"][0], plan.output[1] / laid["output"][1])
    return _rows(plan, carried(laid["boxes"], [str(row[2] or "") for row in rows], plan.boxes, scale))


def captions_of(rows: Any, limits: Limits) -> tuple[Caption, ...]:
    """The captions in the table; rows without text fall to the prompt. Raises CupscaleError for too much of it."""
    captions = []
    for row in rows or []:
        text = str(row[2] or "").strip()
        if not text:
            continue
        if len(text) > limits.caption_chars:
            raise CupscaleError(
                f"the caption of region {row[0]} has {len(text)} characters: the limit is {limits.caption_chars}; "
                "one sentence serves best"
            )
        try:
            box = tuple(int(part) for part in str(row[1]).split(","))
            captions.append(Caption(box=box, caption=text))  # type: ignore[arg-type]
        except ValueError:
            raise CupscaleError(
                f"the box of region {row[0]} was changed to something that is no box: load the captions again, or reload"
            ) from None
    if len(captions) > limits.captions:
        raise CupscaleError(
            f"{len(captions)} captions: the limit is {limits.captions}; choose a smaller overlap"
        )
    return tuple(captions)


def load(path: str, size: tuple[int, int], limits: Limits) -> tuple[Caption, ...]:
    """Captions from an uploaded file. Raises CupscaleError; no path of the server is in its message."""
    if Path(path).stat().st_size > limits.captions_bytes:
        raise CupscaleError(
            f"the captions file is larger than {limits.captions_bytes // 2**20} MB, the limit"
        )
    try:
        captions = read_captions(path, size)
    except CupscaleError as error:
        raise CupscaleError(str(error).replace(f" '{path}'", "")) from None
    if len(captions) > limits.captions:
        raise CupscaleError(f"the file holds {len(captions)} captions: the limit is {limits.captions}")
    return captions


def save(captions: Sequence[Caption], size: tuple[int, int], prompt: str) -> str:
    """A captions file for download, in a folder of its own."""
    path = scratch.new_folder() / "captions.json"
    path.write_text(captions_text(captions_file(captions, size, prompt)), "utf-8")
    return str(path)


def overlay(picture: Image.Image, plan: Plan, chosen: int) -> Image.Image:
    """The image with the grid on it; region `chosen` (from 0) stands out."""
    fraction = _VIEW_PX / max(picture.size)
    size = (max(1, round(picture.width * fraction)), max(1, round(picture.height * fraction)))
    view = images.resize(picture, size, "lanczos")
    sx, sy = view.width / plan.output[0], view.height / plan.output[1]
    boxes = [(l * sx, t * sy, r * sx - 1, b * sy - 1) for l, t, r, b in plan.boxes]  # noqa: E741
    shade = Image.new("RGBA", view.size, (0, 0, 0, 0))
    draw = ImageDraw.Draw(shade)
    for box in boxes:
        draw.rectangle(box, outline=(255, 255, 255, 110), width=1)
    for left, top, right, bottom in boxes:
        x, y = (left + right) / 2, (top + bottom) / 2
        draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=(255, 255, 255, 230), outline=(0, 0, 0, 160))
    left, top, right, bottom = boxes[min(chosen, len(boxes) - 1)]
    draw.rectangle((left, top, right, bottom), fill=(255, 122, 26, 56), outline=(255, 122, 26, 255), width=3)
    return Image.alpha_composite(view.convert("RGBA"), shade).convert("RGB")


def nearest_box(boxes: Sequence[Sequence[int]], output: Sequence[int], x: float, y: float) -> int:
    """The region (from 0) whose middle is nearest to a point of the overlay."""
    fraction = max(output) / _VIEW_PX
    x, y = x * fraction, y * fraction

    def distance(k: int) -> float:
        left, top, right, bottom = boxes[k]
        return ((left + right) / 2 - x) ** 2 + ((top + bottom) / 2 - y) ** 2

    return min(range(len(boxes)), key=distance)


def crop(picture: Image.Image, plan: Plan, chosen: int) -> Image.Image:
    """What region `chosen` (from 0) shows, cut from the input."""
    sx, sy = picture.width / plan.output[0], picture.height / plan.output[1]
    left, top, right, bottom = plan.boxes[min(chosen, len(plan.boxes) - 1)]
    box = (
        int(left * sx),
        int(top * sy),
        max(int(left * sx) + 1, round(right * sx)),
        max(int(top * sy) + 1, round(bottom * sy)),
    )
    return picture.crop(box)
