"""Cross-attention's maps, how much each place looks at each token: kept, and put to use again.

Two of the peers ask for them, `cupscale.peers.accdiffusion` and `cupscale.peers.frecas`.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from cupscale.backbones.attention import (
    USUAL_CROSS,
    CrossAttention,
    attended,
    exchanged,
    heads,
    is_cross,
    layers_of,
    mean_maps,
)
from cupscale.errors import CupscaleError
from cupscale.method.attention import token_grid
from cupscale.method.regions import Size

Maps = dict[str, Tensor]  # a layer's name to its maps, (B, places, tokens): the mean of its heads


def check_maps(title: str, network: Any) -> None:
    """See that a network has maps.

    Raises:
        CupscaleError: Its image and text are one sequence.
    """
    if not layers_of(network, is_cross):
        raise CupscaleError(
            f"{title} reads the maps of cross-attention, which {type(network).__name__} has not: choose a model with a U-Net, "
            "or PixArt"
        )


@dataclass
class MapKeeper:
    """What the cross-attention layers do with their maps while `kept` lasts.

    Attributes:
        keep: They put the maps of each call into `maps`.
        maps: Layer by layer, the last call's.
        shared: (B, tokens, h, w): maps of the whole picture, which the values are read by besides; None for none.
        weight: Of that reading, 0 to 1: (1 - weight) softmax(Q K^T / sqrt d) V + weight shared V.
        cells: Of the latents that are denoised, which the layers' places are a halving of; needed with `shared`.
    """

    keep: bool = True
    maps: Maps = field(default_factory=dict)
    shared: Tensor | None = None
    weight: float = 0.0
    cells: Size = Size(0, 0)


def kept(network: Any, keeper: MapKeeper) -> AbstractContextManager[None]:
    """The cross-attention of `network` under a keeper; its own processors are put back at the end."""
    otherwise = "keeps no maps: unload it (e.g. unload_ip_adapter())"
    return exchanged(network, lambda name: _Kept(name, keeper), is_cross, USUAL_CROSS, otherwise)


class _Kept(CrossAttention):
    """Cross-attention, softmax(Q K^T / sqrt d) V, under a keeper."""

    def __init__(self, layer: str, keeper: MapKeeper):
        self._layer = layer
        self._keeper = keeper

    def read(self, attn: Any, query: Tensor, text: Tensor, mask: Tensor | None) -> Tensor:
        keeper = self._keeper
        key, value = (heads(attn, to(text)) for to in (attn.to_k, attn.to_v))
        added = None if mask is None else mask[:, None]
        out = attended(query, key, value, added)
        if keeper.keep:
            keeper.maps[self._layer] = mean_maps(query, key, added)
        if keeper.shared is not None:
            grid = token_grid(query.shape[2], keeper.cells)
            shared = F.interpolate(keeper.shared, grid, mode="bilinear").flatten(2).transpose(1, 2)
            out = out.lerp(shared[:, None].to(value.dtype) @ value, keeper.weight)
        return out.transpose(1, 2).flatten(2)
