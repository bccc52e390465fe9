"""Neighbouring regions that show much the same share one caption, so a flat sky takes one call (ours)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from PIL import Image

SHARE = 0.08
GRID = 6  # a region is described in GRID x GRID cells
_CELL_PX = 8


def group(
    regions: Iterable[Image.Image], boxes: Sequence[tuple[int, int, int, int]], threshold: float
) -> list[int]:
    """The index, for every region, of the one whose caption it takes: its own, or that of an earlier region.

    A region joins the nearest group of which it touches a member and whose first region is the same within the threshold. The
    time grows with the number of regions, not with its square.

    Args:
        regions: The crops; one is held at a time.
        boxes: (left, top, right, bottom) of each, to see which touch.
        threshold: 0 for never, 1 for always.
    """
    if threshold <= 0:
        return list(range(len(boxes)))
    descriptors = [descriptor(region) for region in regions]
    leaders: list[int] = []
    for k, touched in enumerate(_touched_before(boxes)):
        near = [
            (distance(descriptors[k], descriptors[leader]), leader)
            for leader in {leaders[m] for m in touched}
        ]
        best, leader = min(near, default=(2.0, k))
        leaders.append(leader if best <= threshold else k)
    return leaders


def _touched_before(boxes: Sequence[tuple[int, int, int, int]]) -> Iterator[list[int]]:
    """For every box the earlier ones that it touches. Boxes are looked up by the square that holds their corner."""
    width = max((right - left for left, _, right, _ in boxes), default=0) + 1
    height = max((bottom - top for _, top, _, bottom in boxes), default=0) + 1
    squares: dict[tuple[int, int], list[int]] = defaultdict(list)
    for k, box in enumerate(boxes):
        column, row = box[0] // width, box[1] // height
        around = [(x, y) for x in (column - 1, column, column + 1) for y in (row - 1, row, row + 1)]
        yield [m for square in around for m in squares.get(square, ()) if _touch(box, boxes[m])]
        squares[column, row].append(k)


def descriptor(region: Image.Image) -> np.ndarray:
    """Describe each cell by its brightness, colour and spread: (5, GRID, GRID).

    These are the mean brightness (a third of it), the colour (R, G, B over the brightness, two thirds), and the
    spread of brightness within the cell (twice). So a sky may grow lighter towards the horizon, but not be of another
    colour or hold a thing.
    """
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
