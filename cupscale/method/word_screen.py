"""RAP as a screen of words: what the global prompt names is masked in the regions where the overview does not show it.

The abstract says "screen cross-attention between global prompt and each region", which may mean a mix of attentions
(`attention.screen`, the usual form here) or, as in AccDiffusion (arXiv 2407.10738), a mask of words. The mask, ours:

    M_j     the map of word j in the overview: cross-attention averaged over its tokens, the heads, and the layers
    j is shown in region r where M_j is above its own mean in at least a share c = 0.3 of r
    softmax(Q K_g^T / sqrt d + b_r) V_g,     b_r = log(1 - mu) at the tokens of words that are not shown, else 0

so that mu = 1 removes those words and mu = 0 leaves attention alone. The marks around the words are never masked.
AccDiffusion cleans its masks by erosion and dilation besides; its c and the threshold are the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from cupscale.method.attention import crop_resize, fused
from cupscale.method.regions import Size

SHARE = 0.3  # c, AccDiffusion's
SAMPLES = Size(32, 32)  # of a region, where its share is counted


class WordScreen:
    """The words' maps of one step's overview, and what they leave of the prompt in a region.

    Args:
        cells: Of the overview.
        words: The places of each word's tokens among those that cross-attention reads.
    """

    def __init__(self, cells: Size, words: Sequence[slice]):
        self._cells = cells
        self._words = words
        self._maps: dict[str, Tensor] = {}
        self._masked: tuple[Tensor, Tensor] | None = None  # boxes, and the words they do not show

    def keep(self, layer: str, maps: Tensor) -> None:
        """maps: (1, places, tokens), the mean of a layer's heads in the overview."""
        self._maps[layer] = maps
        self._masked = None

    def bias(self, boxes: Tensor, tokens: int, attention: float) -> Tensor:
        """b_r of the regions `boxes` (R, 4), (R, tokens) float32, for the prior's weight mu."""
        masked = self._not_shown(boxes, tokens)
        lowered = math.log(1 - attention) if attention < 1 else -math.inf
        return torch.zeros(masked.shape, device=masked.device).masked_fill_(masked, lowered)

    def clear(self) -> None:
        self._maps.clear()
        self._masked = None

    def _not_shown(self, boxes: Tensor, tokens: int) -> Tensor:
        """(R, tokens) bool. Every layer of a network call asks for the same boxes."""
        if self._masked is None or self._masked[0] is not boxes:
            self._masked = (boxes, self._measured(boxes, tokens))
        return self._masked[1]

    def _measured(self, boxes: Tensor, tokens: int) -> Tensor:
        whole = fused(self._maps, self._cells)[0]
        masked = torch.zeros(len(boxes), tokens, dtype=torch.bool, device=whole.device)
        if self._words:
            maps = torch.stack([whole[places].mean(0) for places in self._words])
            shown = (maps > maps.mean((-2, -1), keepdim=True)).float()
            covered = crop_resize(shown[None], boxes, SAMPLES).mean((-2, -1))  # (R, words)
            for places, share in zip(self._words, covered.T, strict=True):
                masked[:, places] = (share < SHARE)[:, None]
        return masked
