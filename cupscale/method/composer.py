"""Attention Composer: fuses the regional attention prior and the regional semantic prior where text meets image.

The paper's composer has no public equation. Ours, for the conditional half of a guidance batch, in every cross-attention:

    O_g = mu crop(O_L, r) + (1 - mu) softmax(Q K_g^T / sqrt d) V_g          `attention.screen`
    O   = (1 - lambda) O_g + lambda softmax(Q K_r^T / sqrt d) V_r            `semantics.add_semantics`

K_g, V_g are the global prompt's, K_r, V_r region r's own. mu = lambda = 0 is plain regional denoising, lambda = 0 the
attention prior alone, lambda = 1 with mu = 0 the semantic prior alone. `joint` has the same for joint attention.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from cupscale.method.attention import Box, GlobalAttention, screen, token_grid
from cupscale.method.regions import Size
from cupscale.method.semantics import add_semantics


@dataclass
class Composer:
    """The composer's state in one run. The attention processors of an adapter ask it what to do.

    Attributes:
        attention: mu, 0 to 1.
        detail: lambda, 0 to 1.
        overview: The attention outputs of the overview, O_L.
        mode: "off" leaves attention alone, "capture" keeps the outputs of the overview, "compose" mixes them into the
            regions `boxes`, whose latents have `cells`.
        own: Tokens of the regions' own prompts, which follow the global prompt's in the text; 0 where every region has
            the global prompt.
    """

    attention: float
    detail: float
    overview: GlobalAttention
    mode: Literal["off", "capture", "compose"] = "off"
    boxes: Sequence[Box] = ()
    cells: Size = Size(0, 0)
    own: int = 0

    def compose(self, layer: str, plain: Tensor, regional: Callable[[], Tensor]) -> Tensor:
        """The composed output of one cross-attention layer.

        Args:
            layer: The layer's name, under which the overview's output is kept.
            plain: (B, tokens, C), the attention to the global prompt; its last R rows are the conditional half.
            regional: Gives the attention of the conditional half to the regions' own prompts, (R, tokens, C).

        Returns:
            (B, tokens, C).
        """
        if self.mode == "off":
            return plain
        if self.mode == "capture":
            self.overview.keep(layer, plain[-1:])
            return plain
        rest, conditional = plain[: -len(self.boxes)], plain[-len(self.boxes) :]
        out = self.screened(layer, conditional)
        if self.own:
            out = add_semantics(out, regional(), self.detail)
        elif self.detail > 0:  # the global prompt serves as the region's own
            out = add_semantics(out, conditional, self.detail)
        return torch.cat((rest, out)) if len(rest) else out

    def screened(self, layer: str, plain: Tensor) -> Tensor:
        """O_g of one layer: the conditional half's attention to the global prompt (R, tokens, C), under RAP."""
        if self.attention == 0:
            return plain
        grid = token_grid(plain.shape[1], self.cells)
        return screen(plain, self.overview.cropped(layer, self.boxes, grid), self.attention)
