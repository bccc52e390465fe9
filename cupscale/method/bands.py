"""A large canvas in bands of rows: what a formula holds in between is as large as a band, and stays near the processor.

Ours. A canvas of 8192 x 8192 px has 200 million numbers where a latent cell is a pixel (the bundled model's), and every new
tensor of that size costs its memory and the time to be given its pages. SDXL's at 4096 px is one band.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

BAND = 2**20  # numbers at once


def bands(canvas: Tensor) -> list[slice]:
    """Rows of a canvas (..., H, W), from the first to the last, in parts of at most `BAND` numbers, or of one row."""
    height = canvas.shape[-2]
    rows = max(1, BAND * height // max(1, canvas.numel()))
    return [slice(top, min(top + rows, height)) for top in range(0, height, rows)]


def by_bands(formula: Callable[..., Tensor], *canvases: Tensor, out: Tensor | None = None) -> Tensor:
    """A formula that looks at every cell alone.

    Args:
        formula: Of as many tensors, (..., rows, W) each, as there are canvases; gives one of the first one's shape and type.
        canvases: (..., H, W).
        out: Where the result is written, one of the canvases or another; None for a new one.

    Returns:
        `out`, or a tensor as the first canvas is; the formula's own where the canvas is one band and no `out` is given.
    """
    parts = bands(canvases[0])
    if out is None:
        if len(parts) == 1:
            return formula(*canvases)
        out = torch.empty_like(canvases[0])
    for rows in parts:
        out[..., rows, :] = formula(*(canvas[..., rows, :] for canvas in canvases))
    return out
