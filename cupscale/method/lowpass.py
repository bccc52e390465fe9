"""Low-pass filters of a canvas: what "the low frequencies" of a latent are.

Four kinds with a cutoff D, a fraction of Nyquist; d is the distance from zero frequency, Nyquist at 1 on each axis:

    butterworth   1 / (1 + (d^2 / D^2)^4)       as HiFlow's program filters
    gaussian      exp(-d^2 / (2 D^2))           no ripple, a wide slope
    ideal         1 where d <= D, else 0        the sharpest, which rings
    wavelet       the LL band of a Haar transform of round(-log2 D) levels, put back: means of blocks of 2^levels cells

The paper says "low-frequency component" and names no filter. MASF (arXiv 2403.17870), of the same authors, works on wavelet
bands.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from cupscale.method.regions import Size

Filter = Literal["butterworth", "gaussian", "ideal", "wavelet"]


def distance2(height: int, width: int) -> Tensor:
    """d^2 over the half plane of `torch.fft.rfft2`: (height, width // 2 + 1) float32, 0 at zero frequency."""
    fy = torch.fft.fftfreq(height, d=0.5)
    fx = torch.fft.rfftfreq(width, d=0.5)
    return fy[:, None] ** 2 + fx[None, :] ** 2


def butterworth(height: int, width: int, cutoff: float, order: int = 4) -> Tensor:
    """1 / (1 + (d^2 / D^2)^order): (height, width // 2 + 1) float32, 1 at zero frequency."""
    mask: Tensor = 1 / (1 + (distance2(height, width) / cutoff**2) ** order)
    return mask


def gaussian(height: int, width: int, cutoff: float) -> Tensor:
    """exp(-d^2 / (2 D^2)), shaped as `butterworth`."""
    return torch.exp(distance2(height, width) / (-2 * cutoff**2))


def ideal(height: int, width: int, cutoff: float) -> Tensor:
    """1 where d <= D and 0 elsewhere, shaped as `butterworth`."""
    return (distance2(height, width) <= cutoff**2).float()


def haar(planes: Tensor, levels: int) -> Tensor:
    """The LL band of `levels` Haar transforms, put back: each block of 2^levels cells, a side, becomes its mean.

    Args:
        planes: (..., H, W). Sides that are no multiple of a block are mirrored at the far end.
        levels: 0 returns `planes` as they are.

    Returns:
        (..., H, W), as large as `planes`.
    """
    side = 2**levels
    height, width = planes.shape[-2:]
    flat = planes.reshape(-1, 1, height, width)
    flat = flat[..., _mirrored(height, side, planes.device), :][..., _mirrored(width, side, planes.device)]
    means = F.avg_pool2d(flat, side)
    low = means.repeat_interleave(side, -2).repeat_interleave(side, -1)
    return low[..., :height, :width].reshape(planes.shape)


def _mirrored(length: int, side: int, device: torch.device) -> Tensor:
    """Places 0 .. length - 1, and on to a multiple of `side` as a mirror at the far edge shows them, however often."""
    places = torch.arange(math.ceil(length / side) * side, device=device) % (2 * length)
    return torch.minimum(places, 2 * length - 1 - places)


MASKS = {"butterworth": butterworth, "gaussian": gaussian, "ideal": ideal}


class LowPass:
    """LP_D for planes of one size.

    Args:
        size: Of the planes, in cells.
        cutoff: D as a fraction of Nyquist, above 0.
        kind: Of the filter.
        shuffle: A cell's channels hold `shuffle` x `shuffle` pixels side by side. An exact codec does that (2), a VAE does
            not (1). Filtering such channels one by one would take detail near Nyquist for low frequency, so the pixels
            are laid out first.
        device: Of the planes.
    """

    def __init__(
        self,
        size: Size,
        cutoff: float,
        kind: Filter = "butterworth",
        shuffle: int = 1,
        device: torch.device | str = "cpu",
    ):
        self._shuffle = shuffle
        self._levels: int | None = None
        if kind == "wavelet":
            self._levels = max(0, round(-math.log2(cutoff)))
            return
        height, width = (side * shuffle for side in size)
        # The mirror border keeps the opposite edges of the canvas from mixing; 3 / D reaches past the filter's ripple.
        reach = math.ceil(3 / cutoff)
        self._x, self._y = _border(width, reach), _border(height, reach)
        self._mask = MASKS[kind](height + sum(self._y), width + sum(self._x), cutoff).to(device)

    def __call__(self, z: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape, in float32."""
        planes = F.pixel_shuffle(z.float(), self._shuffle) if self._shuffle > 1 else z.float()
        low = self._filtered(planes) if self._levels is None else haar(planes, self._levels)
        return F.pixel_unshuffle(low, self._shuffle) if self._shuffle > 1 else low

    def _filtered(self, planes: Tensor) -> Tensor:
        height, width = planes.shape[-2:]
        top, left = self._y[0], self._x[0]
        low = torch.empty_like(planes)
        for channel in range(planes.shape[1]):  # one at a time: a canvas of 8192 x 8192 has a large spectrum
            padded = F.pad(planes[:, channel, None], (*self._x, *self._y), mode="reflect")
            spectrum = torch.fft.rfft2(padded).mul_(self._mask)
            plane = torch.fft.irfft2(spectrum, s=padded.shape[-2:])
            low[:, channel] = plane[:, 0, top : top + height, left : left + width]
        return low


def _fast_length(least: int) -> int:
    """The next length without a prime factor above 5: those transform fast, and 2078 = 2 x 1039 does not."""
    rest = least
    for factor in (2, 3, 5):
        while rest % factor == 0:
            rest //= factor
    return least if rest == 1 else _fast_length(least + 1)


def _border(side: int, reach: int) -> tuple[int, int]:
    """How many cells to mirror at either end: `reach`, or what there is, and more at the far end for a fast length."""
    near = min(reach, side - 1)
    far = _fast_length(side + 2 * near) - side - near
    return near, far if far < side else near
