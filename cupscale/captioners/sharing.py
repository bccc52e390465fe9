"""Neighbouring regions that show much the same share one caption, so a flat sky takes one call (ours)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

SHARE = 0.08
GRID = 6  # a region is described in GRID x GRID cells
_CELL_PX = 8


def group(
    regions: Sequence[Image.Image], boxes: Sequence[tuple[int, int, int, int]], threshold: float
) -> list[int]:
    """For every region the index of the region whose caption it takes: its own, or that of an earlier one.

    regions: the crops. boxes: (left, top, right, bottom), to see which touch. A region joins the nearest group of which it
    touches a member and whose first region is the same within `threshold` (0: never, 1: always).
    """
    leaders = list(range(len(regions)))
    if threshold <= 0:
        return leaders
    descriptors = [descriptor(region) for region in regions]
    groups: dict[int, list[int]] = {}
    for k, box in enumerate(boxes):
        near = [
            (distance(descriptors[k], descriptors[leader]), leader)
            for leader, members in groups.items()
            if any(_touch(box, boxes[member]) for member in members)
        ]
        best, leader = min(near, default=(2.0, k))
        leaders[k] = leader if best <= threshold else k
        groups.setdefault(leaders[k], []).append(k)
    return leaders


def descriptor(region: Image.Image) -> np.ndarray:
    """(5, GRID, GRID): of every cell the mean brightness (a third of it), its colour (R, G, B over the brightness, two
    thirds), and the spread of brightness within it (twice). So a sky may grow lighter towards the horizon, but not be
    of another colour or hold a thing."""
    side = GRID * _CELL_PX
    pixels = np.asarray(region.convert("RGB").resize((side, side), Image.Resampling.BOX), np.float32) / 255
    cells = (
        pixels.reshape(GRID, _CELL_PX, GRID, _CELL_PX, 3).transpose(4, 0, 2, 1, 3).reshape(3, GRID, GRID, -1)
    )
    colour, light = cells.mean(-1), cells.mean((0, -1))
    return np.concatenate((light[None] / 3, (colour - light) / 1.5, cells.mean(0).std(-1)[None] * 2))


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """The largest difference of one cell, so that a bird in the sky keeps its region apart."""
    return float(np.abs(a - b).max())


def _touch(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> bool:
    return a[0] <= b[2] and b[0] <= a[2] and a[1] <= b[3] and b[1] <= a[3]
