"""The method's formulas once more, slowly: loops and plain sums in numpy's float64, as one reads them on paper."""

from __future__ import annotations

import cmath
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def softmax_maps(query: ArrayLike, key: ArrayLike, read: Sequence[bool] | None = None) -> Array:
    """(n, d), (m, d) -> (n, m): how much each query looks at each key. read: which keys there are to look at."""
    q, k = np.asarray(query, dtype=float), np.asarray(key, dtype=float)
    maps = np.zeros((len(q), len(k)))
    for i in range(len(q)):
        for j in range(len(k)):
            if read is None or read[j]:
                maps[i, j] = math.exp(float(np.dot(q[i], k[j])) / math.sqrt(q.shape[1]))
        maps[i] /= maps[i].sum()
    return maps


def bilinear(plane: Array, y: float, x: float) -> Array:
    """The plane (h, w, ...) at a place whose cells have their centres at halves; beyond the outer centres, the outer cells."""
    height, width = plane.shape[:2]
    y, x = min(max(y - 0.5, 0), height - 1), min(max(x - 0.5, 0), width - 1)
    top, left = math.floor(y), math.floor(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    upper = plane[top, left] * (1 - (x - left)) + plane[top, right] * (x - left)
    lower = plane[bottom, left] * (1 - (x - left)) + plane[bottom, right] * (x - left)
    return np.asarray(upper * (1 - (y - top)) + lower * (y - top))


def crop(plane: Array, box: Sequence[float], height: int, width: int) -> Array:
    """A box (top, left, bottom, right; the plane's edges at 0 and 1), resized to height x width."""
    top, left, bottom, right = box
    out = np.zeros((height, width, *plane.shape[2:]))
    for i in range(height):
        for j in range(width):
            y = top + (i + 0.5) / height * (bottom - top)
            x = left + (j + 0.5) / width * (right - left)
            out[i, j] = bilinear(plane, y * plane.shape[0], x * plane.shape[1])
    return out


def crop_maps(maps: Array, grid: tuple[int, int], box: Sequence[float], out: tuple[int, int]) -> Array:
    """Attention maps (tokens, words) of the whole picture, each cropped to a box and resized."""
    words = maps.shape[1]
    return crop(maps.reshape(*grid, words), box, *out).reshape(-1, words)


def frequency(k: int, n: int) -> float:
    """Of bin k of n, signed, Nyquist at 1."""
    return (k if k <= (n - 1) // 2 else k - n) / (n / 2)


def butterworth(height: int, width: int, cutoff: float) -> Array:
    """The whole plane's mask, of order 4."""
    mask = np.zeros((height, width))
    for i in range(height):
        for j in range(width):
            distance = math.sqrt(frequency(i, height) ** 2 + frequency(j, width) ** 2)
            mask[i, j] = 1 / (1 + (distance / cutoff) ** 8)
    return mask


def dft(n: int) -> NDArray[np.complex128]:
    return np.array([[cmath.exp(-2j * cmath.pi * j * k / n) for k in range(n)] for j in range(n)])


def mirrored(i: int, n: int) -> int:
    """The place in 0 .. n - 1 of place i of a sequence that is mirrored at its first and last."""
    if i < 0:
        return -i
    return 2 * (n - 1) - i if i >= n else i


def lowpass(plane: Array, cutoff: float, rows: tuple[int, int], cols: tuple[int, int]) -> Array:
    """LP_D of one plane. rows, cols: cells mirrored before and behind."""
    height, width = plane.shape
    wide = np.array(
        [
            [plane[mirrored(i, height), mirrored(j, width)] for j in range(-cols[0], width + cols[1])]
            for i in range(-rows[0], height + rows[1])
        ]
    )
    down, across = dft(wide.shape[0]), dft(wide.shape[1])
    spectrum = down @ wide @ across * butterworth(*wide.shape, cutoff)
    back = (down.conj() @ spectrum @ across.conj() / wide.size).real
    return back[rows[0] : rows[0] + height, cols[0] : cols[0] + width]


def ramp(place: float, lap: int) -> float:
    """The raised cosine of a weight that rises over `lap` cells."""
    return 1.0 if place >= lap else 0.5 - 0.5 * math.cos(math.pi * place / lap)


def weights(length: int, window: int, starts: Sequence[int]) -> dict[int, Array]:
    """Each window's weight per cell of its own: what rises from its left neighbour and falls to its right, shared out."""
    ordered = sorted(set(starts))
    raw = {}
    for n, start in enumerate(ordered):
        raw[start] = np.ones(window)
        for cell in range(window):
            if n > 0 and ordered[n - 1] + window > start:
                raw[start][cell] *= ramp(cell + 0.5, ordered[n - 1] + window - start)
            if n + 1 < len(ordered) and start + window > ordered[n + 1]:
                raw[start][cell] *= ramp(window - cell - 0.5, start + window - ordered[n + 1])
    shared = {}
    for start in ordered:
        shared[start] = np.zeros(window)
        for cell in range(window):
            place = start + cell
            total = sum(raw[s][place - s] for s in ordered if s <= place < s + window)
            shared[start][cell] = raw[start][cell] / total
    return shared


def richness(image: Array) -> Array:
    """(3, h, w) in -1..1 -> (h, w): the least deviation among the 5 x 5 neighbourhoods that hold a pixel."""
    _, height, width = image.shape
    grey = (0.299 * image[0] + 0.587 * image[1] + 0.114 * image[2]) * 127.5

    def around(plane: Array, y: int, x: int) -> list[float]:
        return [
            float(plane[min(max(y + i, 0), height - 1), min(max(x + j, 0), width - 1)])
            for i in range(-2, 3)
            for j in range(-2, 3)
        ]

    deviation = np.array([[np.std(around(grey, y, x)) for x in range(width)] for y in range(height)])
    least = np.array([[min(around(deviation, y, x)) for x in range(width)] for y in range(height)])
    return np.clip((least - 4) / (12 - 4), 0, 1)
