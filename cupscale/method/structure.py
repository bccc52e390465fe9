"""Global Structure Prior (GSP): the low frequencies of the low-resolution image steer the canvas.

The paper uses "the low-frequency component of the low-resolution latent". Its equation is not public; ours is

    x0  <- x0 + w_t LP_D(z_L - x0)
    w_t  = w_0 (1 + cos(pi i / (n - 1))) / 2        at step i = 0 .. n - 1

on the fused canvas, never per region, where a transform would wrap at the region's edges. z_L is the latent of the resized
input, LP_D a Butterworth low-pass with cutoff D, w_0 the setting `structure`. HiFlow (arXiv 2504.06232) publishes the same
form with a falling weight, for flow models.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def butterworth(height: int, width: int, cutoff: float, order: int = 4) -> Tensor:
    """Low-pass mask over the half plane of `torch.fft.rfft2`.

    mask = 1 / (1 + (d^2 / D^2)^order), where d is the distance from zero frequency and Nyquist lies at 1 on each axis.

    Returns:
        (height, width // 2 + 1) float32, 1 at zero frequency.
    """
    fy = torch.fft.fftfreq(height, d=0.5)
    fx = torch.fft.rfftfreq(width, d=0.5)
    distance2 = fy[:, None] ** 2 + fx[None, :] ** 2
    mask: Tensor = 1 / (1 + (distance2 / cutoff**2) ** order)
    return mask


def decay(step: int, steps: int) -> float:
    """w_t / w_0: from 1 at the first of `steps` (step 0) to 0 at the last, along a cosine. A run of one step has 1."""
    progress = step / (steps - 1) if steps > 1 else 0.0
    return 0.5 * (1 + math.cos(math.pi * progress))


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


class GlobalStructure:
    """GSP for one canvas.

    Args:
        reference: (1, C, H, W), the latent z_L of the resized input, at canvas size.
        cutoff: D as a fraction of the canvas' Nyquist frequency, above 0.
        weight: w_0, 0 to 1.
        shuffle: A cell's channels hold `shuffle` x `shuffle` pixels side by side. An exact codec does that (2), a VAE does
            not (1). Filtering such channels one by one would take detail near Nyquist for low frequency, so the pixels
            are laid out first.
    """

    def __init__(self, reference: Tensor, cutoff: float, weight: float = 1.0, shuffle: int = 1):
        self._reference = reference.float()
        self._weight = weight
        self._shuffle = shuffle
        height, width = (side * shuffle for side in reference.shape[-2:])
        # The mirror border keeps the opposite edges of the canvas from mixing; 3 / D reaches past the filter's ripple.
        reach = math.ceil(3 / cutoff)
        self._x, self._y = _border(width, reach), _border(height, reach)
        self._mask = butterworth(height + sum(self._y), width + sum(self._x), cutoff).to(reference.device)

    def lowpass(self, z: Tensor) -> Tensor:
        """LP_D, (1, C, H, W) -> the same shape, in float32."""
        planes = F.pixel_shuffle(z.float(), self._shuffle) if self._shuffle > 1 else z.float()
        height, width = planes.shape[-2:]
        top, left = self._y[0], self._x[0]
        low = torch.empty_like(planes)
        for channel in range(planes.shape[1]):  # one at a time: a canvas of 8192 x 8192 has a large spectrum
            padded = F.pad(planes[:, channel, None], (*self._x, *self._y), mode="reflect")
            spectrum = torch.fft.rfft2(padded).mul_(self._mask)
            plane = torch.fft.irfft2(spectrum, s=padded.shape[-2:])
            low[:, channel] = plane[:, 0, top : top + height, left : left + width]
        return F.pixel_unshuffle(low, self._shuffle) if self._shuffle > 1 else low

    def weight(self, step: int, steps: int) -> float:
        """w_t at step `step` (from 0) of `steps`."""
        return self._weight * decay(step, steps)

    def apply(self, x0: Tensor, weight: float) -> Tensor:
        """Move the low frequencies of x0 (1, C, H, W) towards the reference's by `weight` (w_t, 0 to 1)."""
        if weight == 0:
            return x0
        return x0 + weight * self.lowpass(self._reference - x0)
