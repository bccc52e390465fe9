"""Global Structure Prior (GSP): the low frequencies of the low-resolution image steer the canvas.

C-Upscale (Qian et al., IJCV 2025) uses "the low-frequency component of the low-resolution latent"; its equation is not
public, so this form is ours:

    x0 <- x0 + w_t LP_D(z_L - x0)

on the fused canvas, never per region, where a transform would wrap at the region's edges.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def butterworth(height: int, width: int, cutoff: float, order: int = 4) -> Tensor:
    """Low-pass mask over the half plane of `torch.fft.rfft2`: (height, width // 2 + 1), float32, 1 at zero frequency.

    mask = 1 / (1 + (d^2 / D^2)^order), d the distance from zero frequency with Nyquist at 1 on each axis.
    """
    fy = torch.fft.fftfreq(height, d=0.5)
    fx = torch.fft.rfftfreq(width, d=0.5)
    distance2 = fy[:, None] ** 2 + fx[None, :] ** 2
    return 1 / (1 + (distance2 / cutoff**2) ** order)


def strength_at(step: int, steps: int, strength: float) -> float:
    """w_t: from w_0 at the first of `steps` to 0 at the last, along a cosine. A run of one step uses w_0."""
    progress = step / (steps - 1) if steps > 1 else 0.0
    return strength * 0.5 * (1 + math.cos(math.pi * progress))


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

    reference: (1, C, H, W), the latent z_L of the plainly resized input, at canvas size.
    cutoff: D as a fraction of the canvas' Nyquist frequency.
    shuffle: cells hold shuffle x shuffle pixels side by side in their channels. An exact codec does that (2), a VAE does
        not (1). Filtering such channels apart would take detail near Nyquist for low frequency, so they are laid out first.
    """

    def __init__(self, reference: Tensor, cutoff: float, shuffle: int = 1):
        self._reference = reference.float()
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

    def apply(self, x0: Tensor, strength: float) -> Tensor:
        """x0 with its low frequencies moved towards the reference's by `strength` in 0..1."""
        if strength == 0:
            return x0
        return x0 + strength * self.lowpass(self._reference - x0)
