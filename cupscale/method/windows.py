"""Where the windows lie at each step of a run, and which of them need no network.

    jittered      spread evenly, the inner ones shifted together within their overlap (`regions.plan_regions`)
    shifted       side by side on a grid that is moved at random at every step, along both axes (SpotDiffusion, arXiv 2407.15507)
    alternating   the same along one axis, rows and columns by turns (ours): fewer windows at the borders. Along the other axis
                  as many windows as lie side by side are longer, and overlap by `LAP`: their borders stand where they stood
                  two steps before, and would be seen

SpotDiffusion's panorama is closed, and a window that reaches over an edge sees the opposite one. A picture is not: here such a
window is moved back onto the canvas and overlaps its neighbour inside (ours). So a grid of n windows takes n + 1 along an axis
that is moved.

The overlap may fall over the run, as the noise does (ours): whole, half and none of it in the three thirds of the steps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from cupscale.method.regions import Feathers, Region, Size, even_starts, feather, spread, window_count

Placing = Literal["jittered", "shifted", "alternating"]
Falling = Literal["none", "thirds"]
LAP = 1 / 8  # of a window: the overlap along the axis that is not moved


class Grid(NamedTuple):
    """The windows of one step: every row of starts with every column of starts, in cells."""

    rows: tuple[int, ...]
    cols: tuple[int, ...]
    window: Size

    @property
    def regions(self) -> list[Region]:
        """Row by row."""
        return [Region(y, x, *self.window) for y, x in product(self.rows, self.cols)]

    @property
    def total(self) -> int:
        return len(self.rows) * len(self.cols)

    def nearest(self, other: Grid) -> list[int]:
        """For each window its place among those of `other`: the same one where both have as many, else the nearest."""
        rows, cols = _nearest(self.rows, other.rows), _nearest(self.cols, other.cols)
        return [row * len(other.cols) + col for row, col in product(rows, cols)]


def _nearest(starts: Sequence[int], others: Sequence[int]) -> list[int]:
    if len(starts) == len(others):
        return list(range(len(starts)))
    return [min(range(len(others)), key=lambda k: abs(others[k] - start)) for start in starts]


def overlap_at(overlap: float, step: int, steps: int, falls: Falling) -> float:
    """The overlap of step `step` (from 0) of `steps`."""
    return overlap if falls == "none" else overlap * (1.0, 0.5, 0.0)[3 * step // steps]


def even_grid(canvas: Size, window: Size, overlap: float, generator: torch.Generator | None = None) -> Grid:
    """The windows of `regions.plan_regions`."""
    rows, cols = (
        even_starts(length, side, overlap, generator) for length, side in zip(canvas, window, strict=True)
    )
    return Grid(rows, cols, inside(window, canvas))


def inside(window: Size, canvas: Size) -> Size:
    return Size(min(window.h, canvas.h), min(window.w, canvas.w))


class Placement(NamedTuple):
    """How the windows of a run move; see the module.

    placing: From step to step. falls: How their overlap falls. unit: Sides of windows are multiples of this many cells. longest:
    They are made no longer than this; 0 where there is no end.
    """

    placing: Placing = "jittered"
    falls: Falling = "none"
    unit: int = 1
    longest: int = 0

    def grids(
        self, canvas: Size, window: Size, overlap: float, steps: int, generator: torch.Generator
    ) -> list[Grid]:
        """The windows of each step.

        Args:
            canvas: In cells.
            window: In cells; a side above the canvas' is the canvas'.
            overlap: Of neighbours, a fraction of a window, 0 to 0.75, at the first step.
            steps: That are run.
            generator: On the CPU, of the jitter and the shifts.

        Returns:
            One grid for each of `steps`.
        """
        grids = []
        for step in range(steps):
            share = overlap_at(overlap, step, steps, self.falls)
            if self.placing == "jittered":
                grids.append(even_grid(canvas, window, share, generator))
            elif self.placing == "shifted":
                grids.append(_shifted_grid(canvas, window, share, generator))
            else:
                grids.append(self._by_turns(canvas, window, share, generator, step % 2))
        return grids

    def _by_turns(
        self, canvas: Size, window: Size, overlap: float, generator: torch.Generator, turn: int
    ) -> Grid:
        """turn: the axis that is moved, 0 or 1. Where an axis has but one window, it is the other's turn."""
        window = inside(window, canvas)
        if canvas[turn] <= window[turn]:
            turn = 1 - turn
        starts, sides = [], list(window)
        for axis, (length, side) in enumerate(zip(canvas, window, strict=True)):
            if axis == turn:
                starts.append(_shifted(length, side, _stride(side, overlap), generator))
            else:
                count = window_count(length, side, overlap)
                sides[axis] = self._longer(length, side, count)
                starts.append(spread(length, sides[axis], count, generator))
        return Grid(starts[0], starts[1], Size(*sides))

    def _longer(self, length: int, side: int, count: int) -> int:
        """The least side of at least `side` cells with which `count` windows cover `length` and overlap by `LAP` of `side`."""
        needed = (length + (count - 1) * LAP * side) / count
        most = min(length, max(side, self.longest // self.unit * self.unit or length))
        return min(most, max(side, math.ceil(needed / self.unit) * self.unit))


def _shifted_grid(canvas: Size, window: Size, overlap: float, generator: torch.Generator) -> Grid:
    window = inside(window, canvas)
    rows, cols = (
        _shifted(length, side, _stride(side, overlap), generator)
        for length, side in zip(canvas, window, strict=True)
    )
    return Grid(rows, cols, window)


def _stride(side: int, overlap: float) -> int:
    return max(1, int(side * (1 - overlap)))


def _shifted(length: int, side: int, stride: int, generator: torch.Generator) -> tuple[int, ...]:
    """Starts every `stride` cells from a place drawn before the canvas on; those over an edge are moved back inside."""
    shift = int(torch.rand((), generator=generator).item() * stride)
    last = length - side
    if last <= 0:
        return (0,)
    count = -(-(last + shift) // stride) + 1
    return tuple(sorted({min(max(0, k * stride - shift), last) for k in range(count)}))


def feathers(canvas: Size, grids: Sequence[Grid], device: torch.device) -> list[Feathers]:
    """Those of every step, brought to `device` in one transfer."""
    found = [
        (feather(canvas.h, grid.window.h, grid.rows), feather(canvas.w, grid.window.w, grid.cols))
        for grid in grids
    ]
    vectors = [vector for pair in found for axis in pair for vector in axis.values()]
    there = iter(torch.cat(vectors).to(device).split([len(vector) for vector in vectors]))
    return [Feathers(*({start: next(there) for start in axis} for axis in pair)) for pair in found]


class FlatPlaces:
    """Windows in which the input shows nothing.

    There x0 = z_L, the latent of the enlarged input, and no network is asked (ours).

    Args:
        rich: (1, 1, H, W) on the canvas, 0 to 1, as `guidance.richness` measures the input; 0 where it shows nothing.
        latent: z_L, (1, C, H, W); a plan, which only counts, may leave it out.
    """

    def __init__(self, rich: Tensor, latent: Tensor | None = None):
        self._latent = latent
        height, width = rich.shape[-2:]
        self._sums = torch.zeros(height + 1, width + 1, dtype=torch.int32)
        self._sums[1:, 1:] = (rich[0, 0].cpu() > 0).cumsum(0, dtype=torch.int32).cumsum(1, dtype=torch.int32)

    @property
    def latent(self) -> Tensor:
        assert self._latent is not None, "only the places are known"
        return self._latent

    def empty(self, grid: Grid) -> list[bool]:
        """Whether `rich` is 0 throughout, window by window."""
        top, left = torch.tensor(grid.rows), torch.tensor(grid.cols)
        rows = self._sums[top + grid.window.h] - self._sums[top]
        inside = rows[:, left + grid.window.w] - rows[:, left]
        return (inside == 0).flatten().tolist()
