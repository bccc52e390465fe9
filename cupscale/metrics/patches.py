"""How alike the fine detail of two pictures is as texture, wherever it lies."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F

from cupscale.metrics.base import Case, floats

PATCH_PX = 7
LEVELS = 4  # of the pyramid that are measured, the finest first
LEAST_PX = 16  # shorter side of a level that still has patches to compare


def smoothing() -> torch.Tensor:
    """The 5 x 5 binomial kernel of Burt and Adelson's pyramid (1983), (3, 1, 5, 5)."""
    line = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
    return torch.outer(line, line).expand(3, 1, 5, 5).contiguous()


def halved(pictures: torch.Tensor) -> torch.Tensor:
    """(B, 3, H, W) to (B, 3, ceil(H / 2), ceil(W / 2)): smoothed, every second pixel kept."""
    return F.conv2d(F.pad(pictures, (2, 2, 2, 2), mode="reflect"), smoothing(), groups=3)[:, :, ::2, ::2]


def laplacian(pictures: torch.Tensor, level: int = 0) -> torch.Tensor:
    """A level of the Laplacian pyramid: what halving and doubling again loses.

    Args:
        pictures: (B, 3, H, W).
        level: 0 is the finest, at full size; each next one is half as large.
    """
    for _ in range(level):
        pictures = halved(pictures)
    up = torch.zeros_like(pictures)
    up[:, :, ::2, ::2] = halved(pictures) * 4
    return pictures - F.conv2d(F.pad(up, (2, 2, 2, 2), mode="reflect"), smoothing(), groups=3)


def patches(picture: np.ndarray, count: int, generator: torch.Generator, level: int = 0) -> torch.Tensor:
    """`count` random 7 x 7 patches of a level of the picture (H, W, 3), as rows (count, 147)."""
    planes = torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1))).float()[None]
    detail = laplacian(planes, level)[0]
    y = torch.randint(0, detail.shape[1] - PATCH_PX + 1, (count,), generator=generator)
    x = torch.randint(0, detail.shape[2] - PATCH_PX + 1, (count,), generator=generator)
    grid = torch.arange(PATCH_PX)
    rows = (y[:, None, None] + grid[:, None]).expand(-1, PATCH_PX, PATCH_PX)
    columns = (x[:, None, None] + grid[None, :]).expand(-1, PATCH_PX, PATCH_PX)
    return detail[:, rows, columns].permute(1, 0, 2, 3).reshape(count, -1)


def sliced_wasserstein(
    first: torch.Tensor, second: torch.Tensor, directions: int = 512, seed: int = 0
) -> float:
    """The sliced Wasserstein distance of two sets of rows (N, D).

    It is the mean over random directions of the mean distance of the sorted projections (Rabin et al. 2011).
    """
    generator = torch.Generator().manual_seed(seed)
    along = torch.randn(first.shape[1], directions, generator=generator)
    along = along / along.norm(dim=0)
    one, two = (first @ along).sort(dim=0).values, (second @ along).sort(dim=0).values
    return float((one - two).abs().mean())


def patch_distance(
    references: Sequence[np.ndarray],
    pictures: Sequence[np.ndarray],
    count: int = 1024,
    seed: int = 0,
    level: int = 0,
) -> float:
    """The sliced Wasserstein distance of 7 x 7 patches of a level of the Laplacian pyramid, times 1000.

    As in Karras et al. 2018 (arXiv 1710.10196), with `count` patches a picture, but without their normalisation of each
    channel, so that lost energy counts. Pixels span 0..2 here (twice 0..1), as with their -1..1. Patches of the two sets
    are taken at places of their own, so a set has a distance from itself: the floor.

    Args:
        references: (H, W, 3) each, in 0..1.
        pictures: As many, of any size.
        count: Patches a picture.
        seed: Of the places and directions.
        level: Of the pyramid; 0 is the finest.
    """
    one, two = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(seed + 1)
    real = torch.cat([patches(picture, count, one, level) for picture in references]) * 2
    ours = torch.cat([patches(picture, count, two, level) for picture in pictures]) * 2
    return 1000 * sliced_wasserstein(real, ours)


def at_level(level: int) -> Callable[[Case], float]:
    """The measure of one level: NaN where a picture is too small to have it."""

    def measure(case: Case) -> float:
        least = min(*case.photograph.size, *case.large.size)
        if least < LEAST_PX * 2**level:
            return math.nan
        return patch_distance([floats(case.photograph)], [floats(case.large)], level=level)

    return measure
