"""How often the offline tagger is right about a region: its precision and recall.

    python -m training.tags --pictures data/test --index data/index.json

Each test photograph is reduced to 256 px, as an input is, and cut into nine regions, half of its sides each. What may be named
in a region follows from the boxes of `data.json` that it shows a quarter of (or that show a quarter of it), by the words in
`MAY_BE_CALLED`, written by eye. Named and among them is right; named and not among them is wrong.

Intervals: bootstrap over photographs, since the regions of one are alike.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from cupscale.captioners.tagger import Tagger

SIDE_PX = 256
PART = 0.25
# A word in a box's text -> what the thing may be called. What ImageNet has no class for (giraffe, raccoon) is not here.
MAY_BE_CALLED: dict[str, tuple[str, ...]] = {
    "castle": ("castle", "palace", "building"),
    "stone walls and towers": ("castle", "building"),
    "palace": ("palace", "building"),
    "walls with many windows": ("palace", "building"),
    "columns carved": ("building",),
    "stone arches": ("building",),
    "cathedral": ("church", "building"),
    "fountain": ("fountain",),
    "bridge": ("suspension bridge", "bridge"),
    "orange and lemon": ("orange", "lemon", "citrus fruit"),
    "bee": ("bee", "insect"),
    "violet flower": ("daisy", "flower"),
    "chameleon": ("African chameleon", "lizard"),
    "clay pot": ("pot",),
    "red panda": ("red panda",),
    "dark red fur": ("red panda",),
    "orange feathers": ("bird",),
    "crab": ("rock crab", "crab"),
    "black spots": ("cheetah", "big cat"),
    "horse": ("horse",),
    "mountain": ("mountain", "valley"),
    "green terraces": ("mountain", "valley"),
    "hills": ("mountain", "valley"),
    "guitar": ("acoustic guitar", "electric guitar", "guitar"),
    "drums": ("drum",),
}
Box = tuple[float, float, float, float]


def regions() -> list[Box]:
    """Nine, each half as wide and high as the picture, as fractions of it: left, top, right, bottom."""
    return [(x / 4, y / 4, x / 4 + 0.5, y / 4 + 0.5) for y in range(3) for x in range(3)]


def shared(a: Sequence[float], b: Sequence[float]) -> float:
    """The area that two boxes share, over that of the smaller."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    least = min((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return max(0.0, width) * max(0.0, height) / least


def may_be_called(region: Box, boxes: Sequence[Sequence[float | str]]) -> set[str]:
    """What may be named in a region. boxes: left, top, right, bottom and text."""
    texts = [str(box[4]) for box in boxes if shared(region, [float(side) for side in box[:4]]) >= PART]
    return {name for text in texts for word, names in MAY_BE_CALLED.items() if word in text for name in names}


def judged(pictures: Path, index: Path, tagger: Tagger) -> Iterator[tuple[str, np.ndarray]]:
    """For each photograph: its name, and counts of regions: right, wrong, missed, and of those with nothing to name, silent."""
    entries = {entry["id"]: entry for entry in json.loads(index.read_text(encoding="utf-8"))}
    for path in sorted(pictures.glob("*.png")):
        picture = Image.open(path).convert("RGB")
        picture.thumbnail((SIDE_PX, SIDE_PX), Image.Resampling.LANCZOS)
        boxes = regions()
        crops = [
            picture.crop(tuple(round(f * s) for f, s in zip(box, 2 * picture.size, strict=True)))
            for box in boxes
        ]
        counts = np.zeros(4, int)
        for box, tag in zip(boxes, tagger.tags(crops), strict=True):
            names = may_be_called(box, entries[path.stem]["boxes"])
            if tag is not None:
                counts[0 if tag.name in names else 1] += 1
            else:
                counts[2 if names else 3] += 1
        yield path.stem, counts


def rates(counts: np.ndarray) -> tuple[float, float]:
    """Precision, right of what is named, and recall, right of what could be. counts: (photographs, 4)."""
    right, wrong, missed, _ = counts.sum(axis=0)
    return right / max(1, right + wrong), right / max(1, right + missed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=Path, required=True)
    parser.add_argument("--index", type=Path, required=True)
    options = parser.parse_args()
    found = list(judged(options.pictures, options.index, Tagger()))
    for name, counts in found:
        print(f"{name:28s} right {counts[0]}, wrong {counts[1]}, missed {counts[2]}, silent {counts[3]}")
    counts = np.stack([each for _, each in found])
    drawn = np.random.default_rng(0).integers(len(counts), size=(2000, len(counts)))
    ends = np.quantile([rates(counts[rows]) for rows in drawn], (0.025, 0.975), axis=0)
    for k, name in enumerate(("precision", "recall")):
        print(
            f"{name} {rates(counts)[k]:.2f} ({ends[0][k]:.2f} to {ends[1][k]:.2f}), {counts.sum()} regions of {len(counts)}"
        )


if __name__ == "__main__":
    main()
