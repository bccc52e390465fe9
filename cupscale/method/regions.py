"""Overlapping windows on a canvas, their feathered weights, and their fusion.

After MultiDiffusion (Bar-Tal et al. 2023), which averages windows uniformly. Ours: windows spread evenly so
that their number is the smallest that keeps the overlap, a raised-cosine feather, and a seeded jitter of the inner
windows at every step. All lengths here are latent cells.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Size(NamedTuple):
    """Height and width, in cells unless a name says otherwise."""

    h: int
    w: int


class Region(NamedTuple):
    """A window of the canvas: its top left corner and its size, in cells."""

    y: int
    x: int
    h: int
    w: int

    def crop(self, canvas: Tensor) -> Tensor:
        """(..., H, W) -> (..., h, w), a view."""
        return canvas[..., self.y : self.y + self.h, self.x : self.x + self.w]

    def scaled(self, cell_px: int) -> Region:
        return Region(self.y * cell_px, self.x * cell_px, self.h * cell_px, self.w * cell_px)


def window_count(length: int, window: int, overlap: float) -> int:
    """Smallest number of windows that covers `length` with at least `overlap` (a fraction of a window)."""
    if length <= window:
        return 1
    stride = max(1, int(window * (1 - overlap)))
    return math.ceil((length - window) / stride) + 1


def even_starts(
    length: int, window: int, overlap: float, generator: torch.Generator | None = None
) -> tuple[int, ...]:
    """Starts of the fewest windows that cover `length`, as `spread` has them."""
    window = min(window, length)
    return spread(length, window, window_count(length, window, overlap), generator)


def spread(length: int, window: int, count: int, generator: torch.Generator | None = None) -> tuple[int, ...]:
    """Starts of `count` windows, enough to cover `length`: the outer ones touch its ends, the ones between are evenly spread.

    With a `generator` (on the CPU) the inner ones are shifted together by up to half of the overlap, so that no seam stays in one
    place. The number of windows never depends on the shift.
    """
    if count == 1:
        return (0,)
    stride = (length - window) / (count - 1)
    shift = 0.0
    if generator is not None and count > 2:
        room = min(window - stride, stride)  # the overlap, and no window passes its neighbour
        shift = (2 * torch.rand((), generator=generator).item() - 1) * room / 2
    return (0, *(round(i * stride + shift) for i in range(1, count - 1)), length - window)


def plan_regions(
    canvas: Size, window: Size, overlap: float, generator: torch.Generator | None = None
) -> list[Region]:
    """Windows that cover `canvas`, row by row, each axis as `even_starts` has it."""
    rows, cols = (
        even_starts(length, side, overlap, generator) for length, side in zip(canvas, window, strict=True)
    )
    return [Region(y, x, min(window.h, canvas.h), min(window.w, canvas.w)) for y in rows for x in cols]


def feather(length: int, window: int, starts: Sequence[int]) -> dict[int, Tensor]:
    """One weight vector (window,) per start; over all starts they sum to one at every cell of `length`.

    Between neighbours the weight passes over along a raised cosine, on the whole of their overlap.
    """
    x = torch.arange(window, dtype=torch.float64) + 0.5
    raw = {}
    ordered = sorted(set(starts))
    for i, start in enumerate(ordered):
        weight = torch.ones(window, dtype=torch.float64)
        if i > 0 and (lap := ordered[i - 1] + window - start) > 0:
            weight *= 0.5 - 0.5 * torch.cos(math.pi * (x / lap).clamp(max=1))
        if i + 1 < len(ordered) and (lap := start + window - ordered[i + 1]) > 0:
            weight *= 0.5 - 0.5 * torch.cos(math.pi * ((window - x) / lap).clamp(max=1))
        raw[start] = weight
    total = torch.zeros(length, dtype=torch.float64)
    for start, weight in raw.items():
        total[start : start + window] += weight
    return {start: (weight / total[start : start + window]).float() for start, weight in raw.items()}


class Feathers(NamedTuple):
    """The weights of windows on a grid, an axis each: start -> (window,) float32."""

    rows: dict[int, Tensor]
    cols: dict[int, Tensor]

    @classmethod
    def of(cls, canvas: Size, regions: Sequence[Region]) -> Feathers:
        """Those of the windows of a grid, which are all of one size."""
        first = regions[0]
        return cls(
            feather(canvas.h, first.h, [r.y for r in regions]),
            feather(canvas.w, first.w, [r.x for r in regions]),
        )

    def weight(self, region: Region) -> Tensor:
        """(h, w). Over all windows of the grid they sum to one at every cell."""
        return self.rows[region.y][:, None] * self.cols[region.x][None, :]


class Fusion:
    """Feathered sum of window outputs, gathered one window at a time: memory does not grow with their number.

    Windows are added in the order they are given, so the sum is the same for any number of windows at once.

    Args:
        canvas: In cells.
        feathers: Of all the windows, on the outputs' device.
    """

    def __init__(self, canvas: Size, feathers: Feathers):
        self._canvas = canvas
        self._feathers = feathers
        self._sum: Tensor | None = None

    def add(self, region: Region, output: Tensor) -> None:
        """Add one window's output (C, h, w). Later ones may have fewer channels than the first, and add nothing to the rest."""
        if self._sum is None:
            self._sum = torch.zeros(
                1, output.shape[0], *self._canvas, dtype=torch.float32, device=output.device
            )
        region.crop(self._sum)[0, : len(output)].addcmul_(output.float(), self._feathers.weight(region))

    def result(self) -> Tensor:
        """(1, C, H, W) float32."""
        assert self._sum is not None, "no window was added"
        return self._sum
