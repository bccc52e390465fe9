"""How a picture's energy falls with frequency."""

from __future__ import annotations

import numpy as np

from cupscale.metrics.base import GREY, Case, floats


def spectrum_slope(picture: np.ndarray, low: float = 0.05, high: float = 0.45) -> float:
    """The slope of log power against log frequency between `low` and `high` cycles a pixel, of the grey picture.

    A Hann window keeps the picture's borders out. Power is averaged over rings, 64 of equal width in log frequency, so
    that each octave counts the same. Photographs have about -2 (Field 1987).

    Args:
        picture: (H, W, 3).
        low: Of the band.
        high: Of the band.
    """
    grey = picture @ GREY
    grey = grey - grey.mean()
    height, width = grey.shape
    window = np.outer(np.hanning(height), np.hanning(width))
    power = np.abs(np.fft.fft2(grey * window)) ** 2
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None, :])
    edges = np.geomspace(low, high, 65)
    ring = np.digitize(frequency.ravel(), edges) - 1
    inside = (ring >= 0) & (ring < 64)
    count = np.bincount(ring[inside], minlength=64)
    total = np.bincount(ring[inside], weights=power.ravel()[inside], minlength=64)
    kept = count > 0
    centre = np.sqrt(edges[:-1] * edges[1:])
    return float(np.polyfit(np.log(centre[kept]), np.log(total[kept] / count[kept] + 1e-20), 1)[0])


def slope(case: Case) -> float:
    """Of the result."""
    return spectrum_slope(floats(case.large))
