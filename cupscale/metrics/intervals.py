"""How sure a mean over pictures is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

LEVEL = 0.95
RESAMPLES = 9999
SEED = 0


class Estimate(NamedTuple):
    """A mean, and the bootstrap interval that holds it at `LEVEL`; no interval for a single picture."""

    mean: float
    low: float | None
    high: float | None
    pictures: int


def estimate(values: Sequence[float]) -> Estimate:
    """The mean and its bootstrap interval over pictures (Efron's bias-corrected and accelerated one, scipy).

    Args:
        values: One a picture; the pictures are what is drawn anew, so those of several seeds are averaged before.
    """
    from scipy.stats import bootstrap

    found = np.asarray(values, np.float64)
    mean = float(found.mean())
    if len(found) < 2:
        return Estimate(mean, None, None, len(found))
    if np.ptp(found) == 0:
        return Estimate(mean, mean, mean, len(found))
    interval = bootstrap(
        (found,),
        np.mean,
        confidence_level=LEVEL,
        n_resamples=RESAMPLES,
        vectorized=True,
        rng=np.random.default_rng(SEED),
    ).confidence_interval
    return Estimate(mean, float(interval.low), float(interval.high), len(found))
