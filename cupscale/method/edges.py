"""Noise on edges before the canvas is diffused: detail is invented where the input has some. After LSRNA (arXiv 2503.18446).

    z <- z + a E eps

E is the picture's edge map, 0 to 1, eps standard normal noise of its own, a the standard deviation at an edge, up to 1.2 there.
LSRNA takes Canny's edges; ours are the gradients of the grey levels, which need no thresholds.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from cupscale.method.guidance import luma

RICHEST = 0.99  # the share of pixels that are below a full edge


def edges(image: Tensor) -> Tensor:
    """The edge map of an image, (1, 3, h, w) in -1..1 -> (1, 1, h, w) in 0..1.

    The length of Sobel's gradient of the grey levels, 1 from that on which one pixel in a hundred passes. 0 everywhere where
    nothing differs.
    """
    grey = F.pad(luma(image), (1, 1, 1, 1), mode="replicate")
    across = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]], device=image.device)
    kernels = torch.stack((across, across.T))[:, None].to(image.dtype)
    length = F.conv2d(grey, kernels).square().sum(dim=1, keepdim=True).sqrt()
    ordered = length.flatten().sort().values
    most = ordered[round(RICHEST * (len(ordered) - 1))]
    return (length / most).clamp(max=1) if most > 0 else torch.zeros_like(length)


def with_edge_noise(latent: Tensor, edge_map: Tensor, deviation: float, noise: Tensor) -> Tensor:
    """latent (1, C, H, W) + deviation x edge_map (1, 1, H, W) x noise (1, C, H, W)."""
    return latent + deviation * edge_map * noise
