"""Regional Semantic Prior (RSP): a caption for every region, as plain data a person can read and edit.

In the paper a multimodal LLM writes them. A captions file is JSON:

    {"size": [4096, 3072], "prompt": "...", "regions": [{"box": [0, 0, 1024, 1024], "caption": "...", "source": "..."}]}

Boxes are (left, top, right, bottom) in pixels of the output, whose width and height are `size`. A file written for one scale
serves another: boxes are scaled by the ratio of the sizes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from cupscale.errors import CupscaleError
from cupscale.settings import Caption, read_object

PixelBox = tuple[int, int, int, int]

MATCH = 0.5  # least overlap (intersection over union) of a caption's box and a region


@dataclass(frozen=True)
class Matched:
    """Captions laid on a plan's regions.

    texts: one per region, None where the global prompt serves. missing: regions without a caption.
    extra: captions that no region took.
    """

    texts: tuple[str | None, ...]
    missing: tuple[int, ...]
    extra: tuple[Caption, ...]

    def report(self) -> str | None:
        """One line for a person, or None where every caption found its region."""
        parts = []
        if self.missing:
            parts.append(
                f"{len(self.missing)} of {len(self.texts)} regions have no caption and use the prompt"
            )
        if self.extra:
            parts.append(f"{len(self.extra)} captions match no region (first: {list(self.extra[0].box)})")
        return "; ".join(parts) or None


def match(captions: Sequence[Caption], boxes: Sequence[PixelBox], size: tuple[int, int]) -> Matched:
    """Give every region the caption whose box fits it best, if their intersection over union is at least 0.5.

    boxes: the regions, in pixels of the output, whose (width, height) is `size`.
    Raises CupscaleError for a caption that lies outside the output.
    """
    for caption in captions:
        if caption.box[2] > size[0] or caption.box[3] > size[1]:
            raise CupscaleError(
                f"caption for a region that does not exist: box {list(caption.box)} leaves the output of "
                f"{size[0]} x {size[1]} px; write captions for this scale, or put the output's size in the file"
            )
    texts: list[str | None] = []
    used: set[int] = set()
    for box in boxes:
        fits = [(_iou(caption.box, box), -k) for k, caption in enumerate(captions)]
        best, k = max(fits, default=(0.0, 0))
        if best >= MATCH:
            used.add(-k)
            texts.append(captions[-k].caption or None)
        else:
            texts.append(None)
    missing = tuple(k for k, text in enumerate(texts) if text is None)
    extra = tuple(caption for k, caption in enumerate(captions) if k not in used)
    return Matched(tuple(texts), missing, extra)


def read_captions(path: str | Path, size: tuple[int, int]) -> tuple[Caption, ...]:
    """Captions from a file, their boxes scaled to an output of `size` (width, height)."""
    data = read_object(path, "captions")
    regions: Any = data.get("regions")
    if not isinstance(regions, list):
        raise CupscaleError(f"captions '{path}': no list \"regions\" of {{box, caption}} in it")
    try:
        captions = [Caption(**region) for region in regions]
    except (ValidationError, TypeError) as error:
        detail = (
            error.errors()[0]["msg"] if isinstance(error, ValidationError) else "a region must be an object"
        )
        raise CupscaleError(
            f"captions '{path}': {detail}; a region is {{box: [l, t, r, b], caption: text}}"
        ) from None
    written = data.get("size", size)
    if not (
        isinstance(written, (list, tuple))
        and len(written) == 2
        and all(isinstance(n, int) and n > 0 for n in written)
    ):
        raise CupscaleError(f"captions '{path}': size must be [width, height] in pixels, not {written!r}")
    sx, sy = size[0] / written[0], size[1] / written[1]
    return tuple(
        caption.model_copy(
            update={"box": tuple(round(n * s) for n, s in zip(caption.box, (sx, sy, sx, sy), strict=True))}
        )
        for caption in captions
    )


def captions_file(captions: Sequence[Caption], size: tuple[int, int], prompt: str) -> dict[str, Any]:
    """What a captions file holds, as JSON data."""
    return {
        "size": list(size),
        "prompt": prompt,
        "regions": [caption.model_dump(mode="json") for caption in captions],
    }


def _iou(a: PixelBox, b: PixelBox) -> float:
    w = min(a[2], b[2]) - max(a[0], b[0])
    h = min(a[3], b[3]) - max(a[1], b[1])
    if w <= 0 or h <= 0:
        return 0.0
    area = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return w * h / (area - w * h)
