"""Cross-attention's maps, how much each place looks at each token: kept, and put to use again.

Two of the peers ask for them (`cupscale.peers.accdiffusion`, `cupscale.peers.frecas`). The maps are made one by one, so it is
slower than the fused attention, and is done for few calls.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from diffusers.models.attention_processor import Attention
from torch import Tensor

from cupscale.backbones.attention import USUAL_CROSS, exchanged, heads, is_cross
from cupscale.errors import CupscaleError

Maps = dict[str, Tensor]  # a layer's name to its maps, (B, places, tokens): the mean of its heads


def cross_layers(network: Any) -> list[str]:
    """The names of the layers of `network` that have maps."""
    return [
        name for name, module in network.named_modules() if isinstance(module, Attention) and is_cross(name)
    ]


def check_maps(title: str, network: Any) -> None:
    """See that a network has maps.

    Raises:
        CupscaleError: Its image and text are one sequence.
    """
    if not cross_layers(network):
        raise CupscaleError(
            f"{title} reads the maps of cross-attention, which {type(network).__name__} has not: choose a model with a U-Net, "
            "or PixArt"
        )


@contextmanager
def recorded(network: Any) -> Iterator[Maps]:
    """The maps of the last call, layer by layer, as long as the context lasts."""
    maps: Maps = {}
    otherwise = "keeps no maps: unload it (e.g. unload_ip_adapter())"
    with exchanged(network, lambda name: _Cross(name, maps), is_cross, USUAL_CROSS, otherwise):
        yield maps


class _Cross:
    """Cross-attention by its formula, softmax(Q K^T / sqrt d) V, whose maps are kept."""

    def __init__(self, layer: str, maps: Maps):
        self._layer = layer
        self._maps = maps

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Tensor:
        """hidden_states: (B, places, C). attention_mask: (B, 1, tokens), added to the scores."""
        query, key, value = (
            heads(attn, x)
            for x in (
                attn.to_q(hidden_states),
                attn.to_k(encoder_hidden_states),
                attn.to_v(encoder_hidden_states),
            )
        )
        scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
        if attention_mask is not None:
            scores = scores + attention_mask[:, None]
        maps = scores.float().softmax(-1)
        self._maps[self._layer] = maps.mean(1)
        out = (maps.to(value.dtype) @ value).transpose(1, 2).flatten(2)
        return attn.to_out[1](attn.to_out[0](out)) / attn.rescale_output_factor
