"""Regional Semantic Prior (RSP): a caption for every region, as plain data a person can read and edit.

In the paper a multimodal LLM writes them. A captions file is JSON:

    {"size": [4096, 3072], "prompt": "...",
     "regions": [{"box": [0, 0, 1024, 1024], "caption": "...", "source": "...", "tokens": 12}]}

Boxes are (left, top, right, bottom) in pixels of the output, whose width and height are `size`. A file written for one scale
serves another: boxes are scaled by the ratio of the sizes. A region with an empty caption takes the prompt. `source` (who
wrote it) and `tokens` (how many the text encoder counts) are for the reader.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from cupscale.bounded import read_object
from cupscale.errors import CupscaleError
from cupscale.settings import MAX_SIDE_PX, Caption

PixelBox = tuple[int, int, int, int]

MATCH = 0.5  # least overlap (intersection over union) of a caption's box and a region


@dataclass(frozen=True)
class Matched:
    """Captions laid on a plan's regions.

    texts: one per region, None where the global prompt serves. missing: regions without a caption.
    extra: captions that fit no region. overlapping: captions of a region that another one fits better, or comes first for.
    shared: captions that serve more than one region.
    """

    texts: tuple[str | None, ...]
    missing: tuple[int, ...]
    extra: tuple[Caption, ...]
    overlapping: tuple[Caption, ...] = ()
    shared: tuple[Caption, ...] = ()

    def report(self) -> str | None:
        """One line for a person, or None where every caption found its region."""
        parts = []
        if self.missing:
            parts.append(
                f"{len(self.missing)} of {len(self.texts)} regions have no caption and use the prompt "
                f"({listed(self.missing)})"
            )
        for captions, what in (
            (self.extra, "fit no region"),
            (self.overlapping, "overlap one that fits its region better, and are left out"),
            (self.shared, "serve more than one region"),
        ):
            if captions:
                parts.append(f"{len(captions)} captions {what} (first: box {list(captions[0].box)})")
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
    takers: dict[int, list[int]] = {}  # caption -> regions
    texts: list[str | None] = []
    fits_some = torch.zeros(len(captions), dtype=torch.bool)
    places = torch.tensor([caption.box for caption in captions], dtype=torch.float64).reshape(-1, 4)
    for n, box in enumerate(boxes):
        overlaps = _iou(places, box)
        fits_some |= overlaps >= MATCH
        k = int(overlaps.argmax()) if len(captions) else -1  # of equals the first
        if k >= 0 and overlaps[k] >= MATCH:
            takers.setdefault(k, []).append(n)
            texts.append(captions[k].caption.strip() or None)
        else:
            texts.append(None)
    near = {k for k, fits in enumerate(fits_some.tolist()) if fits}
    return Matched(
        tuple(texts),
        missing=tuple(n for n, text in enumerate(texts) if text is None),
        extra=tuple(caption for k, caption in enumerate(captions) if k not in near),
        overlapping=tuple(caption for k, caption in enumerate(captions) if k in near and k not in takers),
        shared=tuple(captions[k] for k, regions in takers.items() if len(regions) > 1),
    )


def carried(
    boxes: Sequence[PixelBox], texts: Sequence[str], new: Sequence[PixelBox], scale: tuple[float, float]
) -> list[str]:
    """The texts of regions for other regions of the same picture: each takes that of the old one that covers most of it.

    Args:
        boxes: Old regions, in pixels of their output.
        texts: One for each; an empty one is taken like any other.
        new: New regions, in pixels of theirs.
        scale: (across, down), the size of the new output over that of the old.
    """
    across, down = scale
    old = torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4) * torch.tensor([across, down, across, down])
    return [texts[int(_common(old, box).argmax())] for box in new]  # of equals the first


def listed(regions: Sequence[int], most: int = 8) -> str:
    """(0, 4) -> 'regions 1, 5': counted from 1, as a person does."""
    names = ", ".join(str(n + 1) for n in regions[:most])
    more = f" and {len(regions) - most} more" if len(regions) > most else ""
    return f"region{'s' * (len(regions) > 1)} {names}{more}"


def read_captions(path: str | Path, size: tuple[int, int]) -> tuple[Caption, ...]:
    """The captions of a file, their boxes scaled to an output of `size` (width, height).

    Raises:
        CupscaleError: The file cannot be read, or holds no captions.
    """
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
        and all(isinstance(n, int) and 0 < n <= MAX_SIDE_PX for n in written)
    ):
        raise CupscaleError(
            f"captions '{path}': size must be [width, height] in pixels, not {str(written)[:60]}"
        )
    return scaled(captions, written, size)


def scaled(captions: Sequence[Caption], old: Sequence[int], new: Sequence[int]) -> tuple[Caption, ...]:
    """The captions of an output of size `old` (width, height) for one of size `new`: their boxes scaled."""
    sx, sy = new[0] / old[0], new[1] / old[1]
    return tuple(
        caption.model_copy(
            update={"box": tuple(round(n * s) for n, s in zip(caption.box, (sx, sy, sx, sy), strict=True))}
        )
        for caption in captions
    )


def read_prompt(path: str | Path) -> str:
    """The global prompt that a captions file holds, '' where it holds none."""
    prompt = read_object(path, "captions").get("prompt")
    return prompt if isinstance(prompt, str) else ""


def captions_file(
    captions: Sequence[Caption],
    size: tuple[int, int],
    prompt: str,
    count_tokens: Callable[[str], int] | None = None,
) -> dict[str, Any]:
    """What a captions file holds, as JSON data. With `count_tokens` every region says how many it has."""
    regions = []
    for caption in captions:
        region = caption.model_dump(mode="json")
        if count_tokens:
            region["tokens"] = count_tokens(caption.caption) if caption.caption else 0
        regions.append(region)
    return {"size": list(size), "prompt": prompt, "regions": regions}


def captions_text(file: dict[str, Any]) -> str:
    """A captions file as text, one line per region."""
    regions = ",\n  ".join(json.dumps(region, ensure_ascii=False) for region in file["regions"])
    head = "".join(
        f" {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)},\n"
        for key, value in file.items()
        if key != "regions"
    )
    return f'{{\n{head} "regions": [\n  {regions}\n ]\n}}\n'


# The text encoder's budget


@dataclass(frozen=True)
class TokenBudget:
    """What a text encoder reads.

    Attributes:
        count: Tokens of a text, the marks that the tokenizer adds left out.
        limit: The most of them that are read.
    """

    count: Callable[[str], int]
    limit: int


def fit(text: str, budget: TokenBudget) -> tuple[str, str]:
    """Cut `text` at a word so that it is read to its end. Returns it and what was cut off."""
    count_tokens, limit = budget.count, budget.limit
    if count_tokens(text) <= limit:
        return text, ""
    ends = [found.start() for found in re.finditer(r"\s", text)]
    low, high = 0, len(ends)  # the first `low` words fit
    while low < high:
        middle = (low + high + 1) // 2
        if count_tokens(text[: ends[middle - 1]].rstrip(" ,;")) <= limit:
            low = middle
        else:
            high = middle - 1
    at = ends[low - 1] if low else 0
    if not low:  # a first word over the limit: one without spaces, cut inside
        at = max((n for n in range(min(len(text), 8 * limit)) if count_tokens(text[:n]) <= limit), default=0)
    return text[:at].rstrip(" ,;"), text[at:].strip()


def prepended(caption: str, prompt: str) -> str:
    """The global prompt before a region's caption. One that begins with it already stays."""
    if not prompt or not caption or caption.startswith(prompt):
        return caption
    return f"{prompt.rstrip(' .,;')}, {caption}"


def _common(places: Tensor, box: PixelBox) -> Tensor:
    """Area that boxes (m, 4) have in common with one box: (m,)."""
    left, top, right, bottom = places.unbind(1)
    wide = (right.clamp(max=box[2]) - left.clamp(min=box[0])).clamp(min=0)
    high = (bottom.clamp(max=box[3]) - top.clamp(min=box[1])).clamp(min=0)
    return wide * high


def _iou(places: Tensor, box: PixelBox) -> Tensor:
    """Intersection over union of boxes (m, 4) with one box: (m,)."""
    left, top, right, bottom = places.unbind(1)
    common = _common(places, box)
    return common / ((right - left) * (bottom - top) + (box[2] - box[0]) * (box[3] - box[1]) - common)


@dataclass(frozen=True)
class Budgeted:
    """Captions that the text encoder reads to their end.

    Attributes:
        captions: In their order.
        tokens: Of every caption; () where they cannot be counted.
        message: What was cut, or None.
    """

    captions: tuple[Caption, ...]
    tokens: tuple[int, ...]
    message: str | None


def within_budget(
    captions: Sequence[Caption], prompt: str = "", budget: TokenBudget | None = None
) -> Budgeted:
    """Put `prompt` (if any) before every caption and cut, at a word, what exceeds the budget."""
    texts = [prepended(caption.caption, prompt) for caption in captions]
    cuts: list[tuple[int, str]] = []
    tokens: tuple[int, ...] = ()
    if budget:
        short = {text: fit(text, budget) if text else ("", "") for text in set(texts)}
        cuts = [(n, short[text][1]) for n, text in enumerate(texts) if short[text][1]]
        texts = [short[text][0] for text in texts]
        counts = {text: budget.count(text) if text else 0 for text in set(texts)}
        tokens = tuple(counts[text] for text in texts)
    kept = tuple(
        caption if text == caption.caption else caption.model_copy(update={"caption": text})
        for caption, text in zip(captions, texts, strict=True)
    )
    message = None
    if cuts and budget:
        shown = "; ".join(f"region {n + 1}: {cut!r}" for n, cut in cuts[:3])
        message = (
            f"the text encoder reads {budget.limit} tokens: the captions of {listed([n for n, _ in cuts])} were cut "
            f"({shown}{'; ...' if len(cuts) > 3 else ''})"
        )
    return Budgeted(kept, tokens, message)
