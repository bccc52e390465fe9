"""Noise of a known strength, and means with their intervals. What measures pictures is `cupscale.metrics`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch


def add_noise(picture: np.ndarray, sigma: float, seed: int = 0) -> np.ndarray:
    """Return the picture with Gaussian noise of `sigma` (of 255), not clipped, as in Zhang et al. 2018 ("FFDNet")."""
    noise = np.random.default_rng(seed).standard_normal(picture.shape)
    return (picture + noise * (sigma / 255)).astype(np.float32)


def timestep_of(sigma: float, alphas: torch.Tensor) -> float:
    """Return the timestep, with its fraction, whose noise over signal is `sigma` (of 255 grey levels).

    `alphas` is the schedule's cumulative product. Latents span -1..1, so sigma grey levels are 2 sigma / 255 there.
    """
    ratios = ((1 - alphas) / alphas).sqrt().double().numpy()
    return float(np.interp(2 * sigma / 255, ratios, np.arange(len(ratios))))


def mean_and_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and the half width of its 95% confidence interval, 1.96 standard errors."""
    found = np.asarray(values, dtype=np.float64)
    return float(found.mean()), float(1.96 * found.std(ddof=1) / len(found) ** 0.5)
