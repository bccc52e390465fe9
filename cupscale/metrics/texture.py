"""How much texture a picture holds: where there should be none, and in all."""

from __future__ import annotations

import io

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from cupscale.metrics.base import GREY, Case, floats

GLCM_LEVELS = 64
GLCM_PATCH_PX = 64
GLCM_DISTANCES_PX = (1, 2, 3, 4)
GLCM_ANGLES = (0.0, np.pi / 4, np.pi / 2, 3 * np.pi / 4)
JPEG_QUALITY = 95


def flat_grain(reference: np.ndarray, picture: np.ndarray, block_px: int = 16) -> tuple[float, float]:
    """The grain of `reference` and of `picture`, of 255, where the reference is flattest (ours).

    The blocks are the tenth of the reference's 16 x 16 blocks with the smallest standard deviation. Grain is the standard
    deviation there of the high-pass grey picture (what a 3 x 3 mean takes away).

    Args:
        reference: (H, W, 3) in 0..1.
        picture: Likewise.
        block_px: Side of a block.
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


def grain(case: Case) -> float:
    """Of the result, where the original, or the input made as large, is flattest."""
    return flat_grain(floats(case.original or case.plain), floats(case.large))[1]


def glcm_score(grey: np.ndarray) -> float:
    """The GLCM score of Diffusion-4K (Zhang et al. 2025, arXiv 2503.18352), as its authors' program computes it.

    The picture in 64 grey levels is cut into patches of 64 x 64 px. Of each, the co-occurrence matrices at the distances 1 to 4
    px and the angles 0 to 135 degrees are normalised and taken as one array, of whose values Shannon's entropy is taken: how
    many different frequencies of pairs there are, in bits. That is not the entropy of the pairs themselves. Patches that are
    not whole are left out here.

    Args:
        grey: (H, W) of 8 bits.

    Returns:
        The mean over the patches; NaN where there is no whole one.
    """
    from skimage.feature import graycomatrix

    levels = grey // (256 // GLCM_LEVELS)
    side, found = GLCM_PATCH_PX, []
    for top in range(0, grey.shape[0] - side + 1, side):
        for left in range(0, grey.shape[1] - side + 1, side):
            patch = levels[top : top + side, left : left + side]
            matrix = graycomatrix(patch, GLCM_DISTANCES_PX, GLCM_ANGLES, levels=GLCM_LEVELS, normed=True)
            share = np.unique(matrix, return_counts=True)[1] / matrix.size
            found.append(-float((share * np.log2(share)).sum()))
    return float(np.mean(found)) if found else float("nan")


def glcm(case: Case) -> float:
    """Of the result."""
    return glcm_score(np.asarray(case.large.convert("L")))


def compression_ratio(image: Image.Image) -> float:
    """Bytes of the pixels over those of a JPEG: the compression ratio of Diffusion-4K (arXiv 2503.18352).

    Guessed: quality 95 and Pillow's own halving of the colours; compare rows of one table, not with the paper's figures.
    """
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "JPEG", quality=JPEG_QUALITY)
    return image.width * image.height * 3 / buffer.tell()


def compression(case: Case) -> float:
    """Of the result."""
    return compression_ratio(case.large)
