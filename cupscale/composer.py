"""Attention Composer: fuses the regional attention prior and the regional semantic prior inside cross-attention.

The paper's composer has no public equation. Ours, for the conditional half of a guidance batch:

    O_g = mu crop(O_L, r) + (1 - mu) softmax(Q K_g^T / sqrt d) V_g
    O   = (1 - lambda) O_g + lambda softmax(Q K_r^T / sqrt d) V_r

K_g, V_g from the global prompt, K_r, V_r from region r's own. mu = lambda = 0 is plain regional denoising.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from cupscale.priors.attention import Box, GlobalAttention, token_grid
from cupscale.regions import Size


@dataclass
class Composer:
    """The composer's state in one run. Adapters' attention processors ask it what to do.

    mode: "off" leaves attention alone; "capture" keeps the outputs of the pass over the whole picture; "compose"
        mixes them into the regions `boxes`, whose latents have `cells`, with the captions' embeddings `captions`
        (R, tokens, D), or None where every region has the global prompt.
    """

    mu: float
    lam: float
    picture: GlobalAttention
    mode: Literal["off", "capture", "compose"] = "off"
    boxes: Sequence[Box] = ()
    cells: Size = Size(0, 0)
    captions: Tensor | None = field(default=None, repr=False)

    def compose(self, layer: str, plain: Tensor, regional: Callable[[Tensor], Tensor]) -> Tensor:
        """The composed output of one layer.

        plain: (B, tokens, C), the global prompt's attention; its last R rows are the conditional half.
        regional: attention of the conditional half to given embeddings (R, tokens_text, D) -> (R, tokens, C).
        """
        if self.mode == "off":
            return plain
        if self.mode == "capture":
            self.picture.keep(layer, plain[-1:])
            return plain
        rest, conditional = plain[: -len(self.boxes)], plain[-len(self.boxes) :]
        own = conditional if self.captions is None else regional(self.captions)
        out = compose(self._global(layer, conditional), conditional, own, self.mu, self.lam)
        return torch.cat((rest, out)) if len(rest) else out

    def _global(self, layer: str, conditional: Tensor) -> Tensor:
        if self.mu == 0:
            return conditional
        return self.picture.cropped(layer, self.boxes, token_grid(conditional.shape[1], self.cells))


def compose(picture: Tensor, plain: Tensor, own: Tensor, mu: float, lam: float) -> Tensor:
    """The formula above: picture = crop(O_L, r), plain the global prompt's attention, own the region's. Any one shape."""
    screened = plain if mu == 0 else mu * picture + (1 - mu) * plain
    return screened if lam == 0 else (1 - lam) * screened + lam * own
