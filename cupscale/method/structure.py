"""Global Structure Prior (GSP): the low frequencies of the low-resolution image steer the canvas.

The paper uses "the low-frequency component of the low-resolution latent". Its equation is not public; ours is

    x0  <- x0 + w_t LP_D(z_L - x0)
    w_t  = w_0 (1 + cos(pi i / (n - 1))) / 2        at step i = 0 .. n - 1

on the fused canvas, never per region, where a transform would wrap at the region's edges. z_L is the latent of the resized
input, LP_D a low-pass with cutoff D (`lowpass`), w_0 the setting `structure`. HiFlow (arXiv 2504.06232) publishes the same
form with a falling weight, for flow models.

What the paper leaves open is a choice here (`cupscale.settings`):

    space       x0 as above, or z_t before the network sees it: z_t <- z_t + w_t LP_D(z^L_t - z_t), z^L_t being z_L under the
                canvas' own noise. A review of the paper names both noised latents, z^L_t and z^H_t.
    reference   z_L as above, or the x0 of the overview's pass at the same step, enlarged, as HiFlow's is
    decay       a cosine as above, or w_t = w_0 (1 - i / (n - 1)), HiFlow's straight line
"""

from __future__ import annotations

import math
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from cupscale.method.lowpass import Filter, LowPass
from cupscale.method.regions import Size

Space = Literal["x0", "z_t"]
Reference = Literal["input", "overview"]
Decay = Literal["cosine", "linear"]


def decay(step: int, steps: int, kind: Decay = "cosine") -> float:
    """w_t / w_0: from 1 at the first of `steps` (step 0) to 0 at the last. A run of one step has 1."""
    progress = step / (steps - 1) if steps > 1 else 0.0
    return 1 - progress if kind == "linear" else 0.5 * (1 + math.cos(math.pi * progress))


class GlobalStructure:
    """GSP for one canvas.

    Args:
        reference: (1, C, H, W), the latent z_L of the resized input, at canvas size.
        cutoff: D as a fraction of the canvas' Nyquist frequency, above 0.
        weight: w_0, 0 to 1.
        shuffle: See `LowPass`.
        kind: Of the filter.
        falls: How w_t falls.
        space: What is moved.
        source: Where the reference comes from. With "overview", `follow` gives a new one at each step.
    """

    def __init__(
        self,
        reference: Tensor,
        cutoff: float,
        weight: float = 1.0,
        shuffle: int = 1,
        *,
        kind: Filter = "butterworth",
        falls: Decay = "cosine",
        space: Space = "x0",
        source: Reference = "input",
    ):
        self.reference = reference.float()
        self.space = space
        self.source = source
        self.lowpass = LowPass(Size(*reference.shape[-2:]), cutoff, kind, shuffle, reference.device)
        self._weight = weight
        self._shuffle = shuffle
        self._falls = falls

    def weight(self, step: int, steps: int) -> float:
        """w_t at step `step` (from 0) of `steps`."""
        return self._weight * decay(step, steps, self._falls)

    def follow(self, x0: Tensor) -> None:
        """Take the overview's x0 (1, C, h, w), enlarged to the canvas by cubic interpolation, as the reference."""
        planes = F.pixel_shuffle(x0.float(), self._shuffle) if self._shuffle > 1 else x0.float()
        height, width = (side * self._shuffle for side in self.reference.shape[-2:])
        planes = F.interpolate(planes, (height, width), mode="bicubic")
        self.reference = F.pixel_unshuffle(planes, self._shuffle) if self._shuffle > 1 else planes

    def apply_(self, x: Tensor, weight: float, towards: Tensor | None = None) -> Tensor:
        """Move the low frequencies of x (1, C, H, W) by w_t, 0 to 1, towards those of the reference or `towards`, in place."""
        if weight == 0:
            return x
        towards, plane = self.reference if towards is None else towards, self._shuffle**2
        for first in range(0, x.shape[1], plane):  # one plane at a time: a canvas of 8192 x 8192 is large
            part = slice(first, first + plane)
            x[:, part].add_(self.lowpass(towards[:, part] - x[:, part]), alpha=weight)
        return x
