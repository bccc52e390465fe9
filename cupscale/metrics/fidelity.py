"""How far a result, made small again, is its input."""

from __future__ import annotations

import numpy as np
from PIL import Image

from cupscale.metrics.base import Case, floats

SAME_DB = 100.0  # of pictures that are the same in 8 bits
BLOCK_PX = 8


def psnr(reference: np.ndarray, picture: np.ndarray) -> float:
    """The peak signal to noise ratio in dB of pictures in 0..1. The peak is 1; infinite where both are the same."""
    from skimage.metrics import peak_signal_noise_ratio

    with np.errstate(divide="ignore"):
        clipped = np.clip(picture, 0, 1).astype(np.float64)
        return float(peak_signal_noise_ratio(reference.astype(np.float64), clipped, data_range=1))


def small_psnr(case: Case) -> float:
    """Of the result made small again, at most `SAME_DB`."""
    return min(SAME_DB, psnr(floats(case.small), floats(case.again)))


def ssim(reference: np.ndarray, picture: np.ndarray) -> float:
    """Structural similarity (Wang et al. 2004) of (H, W, 3) in 0..1, by a Gaussian window of sigma 1.5; the channels' mean."""
    from skimage.metrics import structural_similarity

    found = structural_similarity(
        reference,
        picture,
        data_range=1,
        channel_axis=2,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    )
    return float(found)


def small_ssim(case: Case) -> float:
    """Of the result made small again."""
    return ssim(floats(case.small), floats(case.again))


def colour_shift(case: Case) -> float:
    """Mean CIEDE2000 of the input's 8 x 8 blocks, each by its mean colour: detail that moved is no shift of colour (ours)."""
    from skimage.color import deltaE_ciede2000, rgb2lab

    one, two = (rgb2lab(block_means(image)) for image in (case.small, case.again))
    return float(deltaE_ciede2000(one, two).mean())


def block_means(image: Image.Image) -> np.ndarray:
    """(rows, columns, 3) means of blocks of at least 8 x 8 px, in 0..1. What is left over at the far sides is left out."""
    pixels = floats(image)
    block = min(BLOCK_PX, *pixels.shape[:2])
    rows, columns = (side // block for side in pixels.shape[:2])
    blocks = pixels[: rows * block, : columns * block].reshape(rows, block, columns, block, 3)
    return np.asarray(blocks.mean(axis=(1, 3)))
