"""Whether the borders of windows can be seen."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cupscale.metrics.base import GREY, Case, floats

AROUND_PX = 8


def border_energy(picture: np.ndarray, columns_px: Sequence[int], rows_px: Sequence[int]) -> float:
    """The gradient energy across window borders over that elsewhere: 1 where no window can be seen (ours).

    A border at column c lies between pixels c - 1 and c. A steep edge anywhere in a picture is no seam, so energies are
    means of the gradient's magnitude, and columns are compared with the sixteen around each border.

    Args:
        picture: (H, W, 3).
        columns_px: Borders.
        rows_px: Likewise.
    """
    grey = picture @ GREY
    ratios = []
    columns, rows = np.abs(np.diff(grey, axis=1)).mean(0), np.abs(np.diff(grey, axis=0)).mean(1)
    for across, borders in ((columns, columns_px), (rows, rows_px)):
        for border in borders:
            place = border - 1
            before = across[max(0, place - AROUND_PX) : place]
            around = np.r_[before, across[place + 1 : place + 1 + AROUND_PX]]
            if 0 <= place < len(across) and around.mean() > 0:
                ratios.append(across[place] / around.mean())
    return float(np.mean(ratios)) if ratios else 1.0


def window_borders(
    boxes: Sequence[tuple[int, int, int, int]], size: tuple[int, int]
) -> tuple[list[int], list[int]]:
    """The columns and rows at which a window begins or ends inside of a picture.

    Args:
        boxes: (left, top, right, bottom) in pixels.
        size: (width, height) of the picture in pixels.
    """
    columns = {edge for left, _, right, _ in boxes for edge in (left, right)}
    rows = {edge for _, top, _, bottom in boxes for edge in (top, bottom)}
    return sorted(columns - {0, size[0]}), sorted(rows - {0, size[1]})


def seams(case: Case) -> float:
    """Of the result; NaN where one window holds it all."""
    if not any(case.borders_px):
        return float("nan")
    return border_energy(floats(case.large), *case.borders_px)
