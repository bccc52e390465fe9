"""A canvas without an edge (ours): its beginning is repeated behind its end, and what is made of both is blended.

For a picture that repeats along x, of W cells, the canvas has W + n columns, and column W + i is column i. Windows, prior and
codec see an ordinary canvas. What they give is folded: over the first n columns

    out[i] = w_i out[W + i] + (1 - w_i) out[i],    w_i = (1 + cos(pi (i + 1/2) / n)) / 2,

and the end is repeated from it. So column 0 follows from column W - 1, whose windows saw both, and neither of the canvas' own
edges, where a network has no context, counts. Lengths are those of the tensor, cells or pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from cupscale.method.regions import Size


@dataclass(frozen=True)
class Seam:
    """Which lengths repeat.

    Attributes:
        period: Of the picture.
        lap: What is repeated behind it; 0 for an axis that has an edge.
    """

    period: Size
    lap: Size

    def fold(self, x: Tensor) -> Tensor:
        """(..., H, W) of a canvas, blended over the edge and repeated behind it; beyond that as it is."""
        for axis, period, lap in self._axes():
            if lap:
                begin, end = x.narrow(axis, 0, lap), x.narrow(axis, period, lap)
                weight = _weights(lap, axis, x)
                x = _put(x, axis, 0, weight * end + (1 - weight) * begin)
        return self.repeat(x)

    def repeat(self, x: Tensor) -> Tensor:
        """(..., H, W) of a canvas, whose beginning is put behind its end."""
        for axis, period, lap in self._axes():
            if lap:
                x = _put(x, axis, period, x.narrow(axis, 0, lap))
        return x

    def scaled(self, cell_px: int) -> Seam:
        """In pixels."""
        return Seam(Size(*(n * cell_px for n in self.period)), Size(*(n * cell_px for n in self.lap)))

    def _axes(self) -> tuple[tuple[int, int, int], ...]:
        return (-2, self.period.h, self.lap.h), (-1, self.period.w, self.lap.w)


def _weights(lap: int, axis: int, like: Tensor) -> Tensor:
    i = torch.arange(lap, dtype=torch.float32, device=like.device)
    weights = (1 + torch.cos(math.pi * (i + 0.5) / lap)) / 2
    return weights[:, None] if axis == -2 else weights


def _put(x: Tensor, axis: int, start: int, part: Tensor) -> Tensor:
    x = x.clone()
    x.narrow(axis, start, part.shape[axis]).copy_(part)
    return x
