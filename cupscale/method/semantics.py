"""Regional Semantic Prior (RSP): every region attends to a prompt of its own.

In the paper a multimodal LLM (LLaVA) looks at each region and writes its prompt. Its equation is not public; ours is one more
attention with the same queries, and no further network pass:

    O_r = softmax(Q K_r^T / sqrt d) V_r
    O   = (1 - lambda) O_g + lambda O_r

Q are the region's image queries, K_r and V_r the keys and values of its own prompt, O_g the attention to the global prompt
after the Regional Attention Prior. lambda is the setting `detail`. Tiled Prompts (arXiv 2602.03342) reports, independently,
what one prompt per tile is good for.

HiPrompt (arXiv 2409.02919) gives the global prompt the low and the local one the high frequencies. So may this, with LP_D a
low-pass over the region's tokens:

    O   = O_g + lambda (O_r - O_g - LP_D(O_r - O_g))
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from cupscale.method.lowpass import LowPass
from cupscale.method.regions import Size


def add_semantics(attended: Tensor, regional: Tensor, detail: float) -> Tensor:
    """Mix a region's attention to its own prompt into its attention to the global one.

    Args:
        attended: O_g, of any shape.
        regional: O_r, of the same shape.
        detail: lambda, 0 to 1. 0 returns `attended` itself.

    Returns:
        (1 - lambda) O_g + lambda O_r, of their shape.
    """
    return attended if detail == 0 else attended.lerp(regional, detail)


def add_high(attended: Tensor, regional: Tensor, detail: float, grid: Size, cutoff: float) -> Tensor:
    """Mix only the high frequencies of a region's attention to its own prompt into its attention to the global one.

    Args:
        attended: O_g, (R, tokens, C).
        regional: O_r, of the same shape.
        detail: lambda, 0 to 1.
        grid: Of the tokens.
        cutoff: D as a fraction of the grid's Nyquist frequency.

    Returns:
        O_g + lambda (O_r - O_g) above the cutoff and O_g below it, (R, tokens, C).
    """
    difference = (regional - attended).float()
    planes = difference.transpose(1, 2).reshape(-1, 1, *grid)  # a plane of each region's each channel
    low = _lowpass(grid, cutoff, attended.device)(planes).reshape(len(attended), -1, grid.h * grid.w)
    return attended + (detail * (difference - low.transpose(1, 2))).to(attended.dtype)


@lru_cache(maxsize=8)  # every layer of a network call asks for one of a few grids
def _lowpass(grid: Size, cutoff: float, device: torch.device) -> LowPass:
    return LowPass(grid, cutoff, device=device)
