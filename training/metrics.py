"""The measures of the bundled model. Torch and numpy only.

Pictures are float arrays (H, W, 3) in 0..1 unless said otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

GREY = np.array([0.299, 0.587, 0.114])
"""Rec. 601 luma."""


def psnr(reference: np.ndarray, picture: np.ndarray) -> float:
    """Return the peak signal to noise ratio in dB. The peak is 1; infinite where both are the same."""
    error = float(np.square(np.clip(picture, 0, 1).astype(np.float64) - reference).mean())
    return float("inf") if error == 0 else -10 * float(np.log10(error))


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


def smoothing() -> torch.Tensor:
    """Return the 5 x 5 binomial kernel of Burt and Adelson's pyramid (1983), shape (3, 1, 5, 5)."""
    line = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
    return torch.outer(line, line).expand(3, 1, 5, 5).contiguous()


def finest_laplacian(pictures: torch.Tensor) -> torch.Tensor:
    """Return the finest level of the Laplacian pyramid of (B, 3, H, W): what halving and doubling again loses."""
    kernel = smoothing()
    down = F.conv2d(F.pad(pictures, (2, 2, 2, 2), mode="reflect"), kernel, groups=3)[:, :, ::2, ::2]
    up = torch.zeros_like(pictures)
    up[:, :, ::2, ::2] = down * 4
    return pictures - F.conv2d(F.pad(up, (2, 2, 2, 2), mode="reflect"), kernel, groups=3)


def patches(picture: np.ndarray, count: int, generator: torch.Generator) -> torch.Tensor:
    """Return `count` random 7 x 7 patches of the finest Laplacian level, as rows (count, 147)."""
    level = finest_laplacian(
        torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1))).float()[None]
    )[0]
    y = torch.randint(0, level.shape[1] - 6, (count,), generator=generator)
    x = torch.randint(0, level.shape[2] - 6, (count,), generator=generator)
    grid = torch.arange(7)
    rows = (y[:, None, None] + grid[:, None]).expand(-1, 7, 7)
    columns = (x[:, None, None] + grid[None, :]).expand(-1, 7, 7)
    return level[:, rows, columns].permute(1, 0, 2, 3).reshape(count, -1)


def sliced_wasserstein(
    first: torch.Tensor, second: torch.Tensor, directions: int = 512, seed: int = 0
) -> float:
    """Return the sliced Wasserstein distance of two sets of rows (N, D): the mean over random directions of the mean
    distance of the sorted projections (Rabin et al. 2011)."""
    generator = torch.Generator().manual_seed(seed)
    along = torch.randn(first.shape[1], directions, generator=generator)
    along = along / along.norm(dim=0)
    one, two = (first @ along).sort(dim=0).values, (second @ along).sort(dim=0).values
    return float((one - two).abs().mean())


def patch_distance(
    references: Sequence[np.ndarray], pictures: Sequence[np.ndarray], count: int = 1024, seed: int = 0
) -> float:
    """Return the sliced Wasserstein distance of 7 x 7 patches of the finest Laplacian level, times 1000.

    As in Karras et al. 2018 (arXiv 1710.10196), with `count` patches a picture, but without their normalisation of each
    channel, so that lost energy counts. Pixels span 0..2 here (twice 0..1), as with their -1..1. Patches of the two sets
    are taken at places of their own.
    """
    one, two = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(seed + 1)
    real = torch.cat([patches(picture, count, one) for picture in references]) * 2
    ours = torch.cat([patches(picture, count, two) for picture in pictures]) * 2
    return 1000 * sliced_wasserstein(real, ours)


def spectrum_slope(picture: np.ndarray, low: float = 0.05, high: float = 0.45) -> float:
    """Return the slope of log power against log frequency between `low` and `high` cycles a pixel, of the grey picture.

    A Hann window keeps the picture's borders out. Power is averaged over rings, 64 of equal width in log frequency, so
    that each octave counts the same. Photographs have about -2 (Field 1987).
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


def flat_grain(reference: np.ndarray, picture: np.ndarray, block_px: int = 16) -> tuple[float, float]:
    """Return the grain of `reference` and of `picture`, of 255, where the reference is flattest.

    The blocks are the tenth of the reference's 16 x 16 blocks with the smallest standard deviation. Grain is the standard
    deviation there of the high-pass grey picture (what a 3 x 3 mean takes away).
    """
    grey = [torch.from_numpy(one @ GREY)[None, None] for one in (reference, picture)]
    height, width = (side // block_px * block_px for side in reference.shape[:2])

    def blocks(x: torch.Tensor) -> torch.Tensor:
        return F.unfold(x[:, :, :height, :width], block_px, stride=block_px)[0].T

    flat = blocks(grey[0]).std(dim=1)
    chosen = flat.argsort()[: max(1, len(flat) // 10)]
    found = []
    for one in grey:
        high = one - F.avg_pool2d(F.pad(one, (1, 1, 1, 1), mode="reflect"), 3, stride=1)
        found.append(255 * float(blocks(high)[chosen].square().mean().sqrt()))
    return found[0], found[1]


def border_energy(picture: np.ndarray, columns_px: Sequence[int], rows_px: Sequence[int]) -> float:
    """Return the gradient energy across window borders over that elsewhere: 1 where no window can be seen.

    A border at column c lies between pixels c - 1 and c. A steep edge anywhere in a picture is no seam, so energies are
    means of the gradient's magnitude, and columns are compared with the sixteen around each border.
    """
    grey = picture @ GREY
    ratios = []
    columns, rows = np.abs(np.diff(grey, axis=1)).mean(0), np.abs(np.diff(grey, axis=0)).mean(1)
    for across, borders in ((columns, columns_px), (rows, rows_px)):
        for border in borders:
            place = border - 1
            around = np.r_[across[max(0, place - 8) : place], across[place + 1 : place + 9]]
            if 0 <= place < len(across) and around.mean() > 0:
                ratios.append(across[place] / around.mean())
    return float(np.mean(ratios)) if ratios else 1.0


def mean_and_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and the half width of its 95% confidence interval, 1.96 standard errors."""
    found = np.asarray(values, dtype=np.float64)
    return float(found.mean()), float(1.96 * found.std(ddof=1) / len(found) ** 0.5)
