"""Attention Composer: fuses the regional attention prior and the regional semantic prior where text meets image.

The paper's composer has no public equation. Ours, for the conditional half of a guidance batch, in every cross-attention:

    O_g = mu crop(O_L, r) + (1 - mu) softmax(Q K_g^T / sqrt d) V_g          `attention.screen`
    O   = (1 - lambda) O_g + lambda softmax(Q K_r^T / sqrt d) V_r            `semantics.add_semantics`

K_g, V_g are the global prompt's, K_r, V_r region r's own. mu = lambda = 0 is plain regional denoising, lambda = 0 the
attention prior alone, lambda = 1 with mu = 0 the semantic prior alone. `joint` has the same for joint attention.

What the paper leaves open is a choice here: the attention prior as a screen of words (`word_screen`), and the two prompts by
frequency (`semantics.add_high`).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from cupscale.method.attention import GlobalAttention, screen, token_grid
from cupscale.method.regions import Size
from cupscale.method.semantics import add_high, add_semantics
from cupscale.method.word_screen import WordScreen


@dataclass
class Composer:
    """The composer's state in one run. The attention processors of an adapter ask it what to do.

    Attributes:
        attention: mu, 0 to 1.
        detail: lambda, 0 to 1.
        overview: The attention outputs of the overview, O_L.
        mode: "off" leaves attention alone, "capture" keeps the outputs of the overview, "compose" mixes them into the
            regions `boxes` (R, 4), fractions of the canvas, whose latents have `cells`.
        own: Tokens of the regions' own prompts, which follow the global prompt's in the text; 0 where every region has
            the global prompt.
        prompts: Which global prompt each row of a call has, so that its keys and values are made once a run; empty: not known.
        words: The attention prior as a screen of words, in place of the mix.
        cutoff: The global prompt keeps the frequencies below this fraction of the canvas' Nyquist, and the region's own
            gives those above; None mixes them at all.
    """

    attention: float
    detail: float
    overview: GlobalAttention
    mode: Literal["off", "capture", "compose"] = "off"
    boxes: Tensor = field(default_factory=lambda: torch.empty(0, 4))
    cells: Size = Size(0, 0)
    own: int = 0
    prompts: tuple[Hashable, ...] = ()
    words: WordScreen | None = None
    cutoff: float | None = None

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
            if self.words is None:
                self.overview.keep(layer, plain[-1:])
            return plain
        rest, conditional = plain[: -len(self.boxes)], plain[-len(self.boxes) :]
        out = self.screened(layer, conditional)
        if self.own:
            out = self.with_semantics(out, regional())
        elif self.detail > 0:  # the global prompt serves as the region's own
            out = self.with_semantics(out, conditional)
        return torch.cat((rest, out)) if len(rest) else out

    def screened(self, layer: str, plain: Tensor) -> Tensor:
        """O_g of one layer: the conditional half's attention to the global prompt (R, tokens, C), under RAP."""
        if self.attention == 0 or self.words is not None:
            return plain
        grid = token_grid(plain.shape[1], self.cells)
        return screen(plain, self.overview.cropped(layer, self.boxes, grid), self.attention)

    def with_semantics(self, attended: Tensor, regional: Tensor) -> Tensor:
        """O from O_g and O_r, both (R, tokens, C)."""
        if self.cutoff is None:
            return add_semantics(attended, regional, self.detail)
        grid = token_grid(attended.shape[1], self.cells)
        coarser = self.cells.h / grid.h  # whose Nyquist frequency is lower by as much
        return add_high(attended, regional, self.detail, grid, self.cutoff * coarser)

    def see(self, layer: str, maps: Callable[[], Tensor]) -> None:
        """Let the screen of words have a layer's maps (B, places, tokens) of the overview, if it wants them."""
        if self.words is not None and self.mode == "capture":
            self.words.keep(layer, maps())

    def screening(self, rows: int, tokens: int, dtype: torch.dtype) -> Tensor | None:
        """What the screen of words adds to the scores of `rows` rows, (rows, 1, 1, tokens); None where there is no screen."""
        if self.words is None or self.mode != "compose" or self.attention == 0:
            return None
        bias = self.words.bias(self.boxes, tokens, self.attention)
        return F.pad(bias, (0, 0, rows - len(bias), 0))[:, None, None].to(dtype)

    def clear(self) -> None:
        """Forget the overview."""
        self.overview.clear()
        if self.words is not None:
            self.words.clear()
