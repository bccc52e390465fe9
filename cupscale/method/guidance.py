"""Guidance that spares flat places. Ours; the paper guides everywhere alike, and so does this where `flat_guidance` is 1.

Classifier-free guidance (Ho and Salimans 2022) strengthens what the words ask for, in every cell of the canvas. In a sky or
on skin, where the image shows little, it adds grain and objects that do not belong there. Shen et al. 2024
("Rethinking the Spatial Inconsistency in Classifier-free Diffusion Guidance") let its scale vary over the picture too, by
the attention's segments; here the input's own contrast decides.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from cupscale.method.bands import bands
from cupscale.method.lowpass import LowPass

RADIUS = 2
FLAT, RICH = 4.0, 12.0
LUMA = (0.299, 0.587, 0.114)
GRAIN_KEPT = 0.9


def luma(image: Tensor) -> Tensor:
    """Rec. 601 grey levels, (1, 3, h, w) -> (1, 1, h, w)."""
    weights = torch.tensor(LUMA, dtype=image.dtype, device=image.device).view(1, 3, 1, 1)
    return (image * weights).sum(dim=1, keepdim=True)


def richness(image: Tensor) -> Tensor:
    """How much an image has to show around each pixel: (1, 3, h, w) in -1..1 -> (1, 1, h, w) in 0..1.

    By the least standard deviation of the grey levels (of 255) among the neighbourhoods of 5 x 5 pixels that hold the
    pixel: 0 up to 4, 1 from 12 on, straight between. The least, since texture lies on all sides of a place that has it,
    and the edge of something smooth does not. Measured on the input, before it is enlarged: there so few pixels hold
    detail and not its blur.
    """
    grey = luma(image) * 127.5

    def mean(x: Tensor) -> Tensor:
        side = 2 * RADIUS + 1
        return F.avg_pool2d(F.pad(x, (RADIUS,) * 4, mode="replicate"), side, stride=1)

    centred = grey - grey.mean()
    deviation = (mean(centred.square()) - mean(centred).square()).clamp_min(0).sqrt()
    deviation = -F.max_pool2d(F.pad(-deviation, (RADIUS,) * 4, mode="replicate"), 2 * RADIUS + 1, stride=1)
    return ((deviation - FLAT) / (RICH - FLAT)).clamp(0, 1)


def guidance_map(rich: Tensor, guidance: float, flat_guidance: float) -> Tensor:
    """The scale of guidance in each cell: `guidance` where `rich` is 1, `flat_guidance` times that where it is 0.

    A scale below 1 follows the words less than a run without guidance does; at 0 the negative prompt alone is read.

    Args:
        rich: (1, 1, H, W), 0 to 1, as `richness` measures it.
        guidance: The scale of classifier-free guidance, 1 or more.
        flat_guidance: 0 to 1.

    Returns:
        (1, 1, H, W).
    """
    return guidance * (flat_guidance + (1 - flat_guidance) * rich)


def flat_kept(z: Tensor, base: Tensor, rich: Tensor, flat_strength: float) -> Tensor:
    """The finished canvas, its flat places moved back towards what the diffusion started from (ours).

        z <- z_base + (f + (1 - f) rich) (z - z_base),    f = flat_strength

    Where texture spans fewer grey levels than the noise, a denoiser removes it, and without guidance nothing brings it back.

    Args:
        z: (1, C, H, W), denoised.
        base: (1, C, H, W), the latent of the base upscale.
        rich: (1, 1, H, W), 0 to 1, as `richness` measures it.
        flat_strength: f, 0 to 1.

    Returns:
        The canvas, (1, C, H, W); `z` itself where every place is rich.
    """
    return base + guidance_map(rich, 1.0, flat_strength) * (z - base)


def flat_share(z: Tensor, base: Tensor, rich: Tensor, kept: float = GRAIN_KEPT) -> float:
    """The `flat_strength` f that leaves flat places the share `kept` of their grain (ours).

    Grain is what a 3 x 3 binomial mean takes away, g; over the flat places, weighted by 1 - rich, f solves

        sum (g(z_base) + f g(z - z_base))^2 = kept^2 sum g(z_base)^2.

    A base upscaler invents grain where there is little, and a denoiser without guidance takes what it invented and what is
    right alike.

    Args:
        z: (1, C, H, W), denoised.
        base: (1, C, H, W), the latent of the base upscale.
        rich: (1, 1, H, W), 0 to 1, as `richness` measures it.
        kept: 0 to 1.

    Returns:
        The smaller solution, in 0..1; where as much is never gone, the f of the least grain.
    """
    before = across = after = 0.0
    for rows in bands(z):
        flat = 1 - rich[..., rows, :]
        grain, change = _grain(base, rows), _grain(z, rows)
        change -= grain
        before += float((flat * grain.square()).sum())
        across += float((flat * grain * change).sum())
        after += float((flat * change.square()).sum())
    if after <= 0 or across >= 0:
        return 0.0
    root = across**2 - after * before * (1 - kept**2)
    return min(1.0, (-across - max(0.0, root) ** 0.5) / after)


def _grain(canvas: Tensor, rows: slice) -> Tensor:
    """Rows of a canvas (1, C, H, W) less their 3 x 3 binomial mean, which sees the rows beside them."""
    height, count = canvas.shape[-2], rows.stop - rows.start
    first, last = max(0, rows.start - 1), min(height, rows.stop + 1)
    part = F.pad(
        canvas[..., first:last, :].float(),
        (1, 1, first - rows.start + 1, rows.stop + 1 - last),
        mode="replicate",
    )
    lines = part[..., :-2, :] + 2 * part[..., 1:-1, :] + part[..., 2:, :]
    mean = (lines[..., :-2] + 2 * lines[..., 1:-1] + lines[..., 2:]) / 16
    return part[..., 1 : 1 + count, 1:-1] - mean


class LowGuidance:
    """Guidance split by frequency, on the fused canvas, with the mask of the global structure prior (after FDG).

        o = u + g (c - u) + (g_low - g) LP_D(c - u)

    u and c are the unconditional and the conditional output. All terms are linear, so whether a network predicts noise,
    velocity or x0 makes no difference.

    Args:
        lowpass: LP_D.
        difference: g_low - g.
    """

    def __init__(self, lowpass: LowPass, difference: float):
        self._lowpass = lowpass
        self._difference = difference

    def apply(self, outputs: Tensor) -> Tensor:
        """outputs: (1, 2 C, H, W), u + g (c - u) and, behind it, c - u. Returns o, (1, C, H, W)."""
        guided, added = outputs.chunk(2, dim=1)
        return guided + self._difference * self._lowpass(added)
