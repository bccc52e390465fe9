"""Whether a result shows the same thing again in places where its input does not (ours).

Squares of a quarter of the network's window, half of a square apart, are reduced to 64 x 64 px and described by histograms
of their gradients (Dalal and Triggs 2005). A square's likeness is the correlation with the nearest description among the
squares that lie two of its sides away or further. The measure is the mean likeness of the result less that of the input, made as
large by Lanczos, in the same places: what a picture repeats by itself, as bricks do, cancels.
"""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from cupscale.metrics.base import GREY, Case, floats

SHARE = 4  # of a window's side in a square's
SQUARE_PX = 64  # that a square is reduced to
APART = 2  # sides


def places(size: tuple[int, int], side: int) -> list[tuple[int, int]]:
    """(left, top) of squares of `side` px, half of it apart, that lie inside of (width, height) px."""
    step = max(1, side // 2)
    width, height = size
    return [
        (left, top) for top in range(0, height - side + 1, step) for left in range(0, width - side + 1, step)
    ]


def described(image: Image.Image, spots: list[tuple[int, int]], side: int) -> np.ndarray:
    """(N, D) unit vectors of mean 0, one a square; zero where a square has no gradient."""
    from skimage.feature import hog

    rows = []
    for left, top in spots:
        square = image.crop((left, top, left + side, top + side))
        grey = floats(square.resize((SQUARE_PX, SQUARE_PX), Image.Resampling.LANCZOS)) @ GREY
        rows.append(hog(grey, orientations=9, pixels_per_cell=(16, 16), cells_per_block=(2, 2)))
    vectors = np.array(rows)
    vectors -= vectors.mean(axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9))


def far_likeness(vectors: np.ndarray, spots: list[tuple[int, int]], apart_px: float) -> float:
    """The mean over all squares of the largest cosine to one whose corner lies `apart_px` away along an axis, or further.

    Args:
        vectors: (N, D) of length 1.
        spots: (left, top) of each.
        apart_px: Least distance.

    Returns:
        NaN where no two lie so far apart.
    """
    corners = np.array(spots)
    distance = np.abs(corners[:, None] - corners[None]).max(axis=2)
    likeness = np.where(distance >= apart_px, vectors @ vectors.T, -np.inf).max(axis=1)
    likeness = likeness[np.isfinite(likeness)]
    return float(likeness.mean()) if len(likeness) else math.nan


def repetition(case: Case) -> float:
    """Of the result less that of the input; NaN where it is too small to hold two squares far apart."""
    if case.window_px is None:
        return math.nan
    side = max(8, case.window_px // SHARE)
    spots = places(case.large.size, side)
    if len(spots) < 2:
        return math.nan
    found = [
        far_likeness(described(image, spots, side), spots, APART * side)
        for image in (case.large, case.plain.convert("RGB"))
    ]
    return found[0] - found[1]
