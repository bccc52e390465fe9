"""Self-attention in neighbourhoods: on a canvas larger than the network's native size no place looks further than a window.

One of the peers asks for it, `cupscale.peers.scalediff`, whose docstring says whose it is. Along each axis of a layer's grid
of tokens the queries are cut into patches of half a window side by side, and a patch reads the keys and values of the window
around it, which is moved back inside at the grid's edges:

    patch k           k w / 2 <= x < min((k + 1) w / 2, n)
    its window        first <= x < first + w,  first = min(max(0, k w / 2 - w / 4), n - w)
    out of a query    softmax(Q K^T / sqrt d) V over the keys of its window

w is the native size in tokens of that layer, n the grid's length. An axis that a window covers is one patch.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from itertools import product
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from cupscale.backbones.attention import USUAL_CROSS, attended, exchanged, heads, is_self, projected
from cupscale.errors import CupscaleError
from cupscale.method.attention import token_grid
from cupscale.method.regions import Size


def check_nearby(title: str, network: Any) -> None:
    """See that a network's self-attention can be kept to neighbourhoods.

    Raises:
        CupscaleError: It is no U-Net, so its tokens have positions, which are those of its native size.
    """
    if not isinstance(network, UNet2DConditionModel):
        raise CupscaleError(
            f"{title} gives the network the whole canvas, and {type(network).__name__} tells places by positions of its native "
            "size: choose a model with a U-Net (Stable Diffusion 1.5 or SDXL), or a peer that works in windows"
        )


def nearby(network: Any, cells: Size, window: int) -> AbstractContextManager[None]:
    """The self-attention of `network` in neighbourhoods; its own processors are put back at the end.

    Args:
        network: A U-Net of diffusers.
        cells: Of the latents that it is given meanwhile.
        window: The side of a neighbourhood, in cells of those latents.
    """
    otherwise = "cannot be kept to neighbourhoods: set the processor that diffusers gave it (set_default_attn_processor())"
    return exchanged(
        network, lambda _: _Nearby(cells, window), is_self, USUAL_CROSS, otherwise, "self-attention"
    )


def level_of(tokens: int, cells: Size, window: int) -> tuple[Size, int]:
    """The grid of a layer with so many tokens, and a window's side in its tokens: both halved as often, rounding up."""
    grid = token_grid(tokens, cells)
    length = max(cells)
    while length > max(grid):
        length, window = -(-length // 2), -(-window // 2)
    return grid, window


def patches(length: int, window: int) -> list[tuple[slice, slice]]:
    """Along one axis of `length` tokens: each patch of queries, and the keys it reads; see the module."""
    if window >= length:
        return [(slice(0, length), slice(0, length))]
    side = max(1, window // 2)
    before = (window - side) // 2
    found = []
    for start in range(0, length, side):
        first = min(max(0, start - before), length - window)
        found.append((slice(start, min(start + side, length)), slice(first, first + window)))
    return found


def attended_nearby(query: Tensor, key: Tensor, value: Tensor, grid: Size, window: int) -> Tensor:
    """Attention in neighbourhoods; see the module.

    Args:
        query: (B, heads, grid.h * grid.w, d).
        key: Of the same shape.
        value: Likewise.
        grid: Of the tokens.
        window: The side of a neighbourhood, in tokens.

    Returns:
        Of the query's shape.
    """
    if window >= max(grid):
        return attended(query, key, value)
    query, key, value = (x.unflatten(2, grid) for x in (query, key, value))
    out = torch.empty_like(query)
    rows, columns = (patches(length, window) for length in grid)
    for (top, above), (left, beside) in product(rows, columns):
        here = query[:, :, top, left]
        near = (x[:, :, above, beside].flatten(2, 3) for x in (key, value))
        out[:, :, top, left] = attended(here.flatten(2, 3), *near).view_as(here)
    return out.flatten(2, 3)


class _Nearby:
    """A processor of self-attention in neighbourhoods. cells, window: see `nearby`."""

    def __init__(self, cells: Size, window: int):
        self._cells = cells
        self._window = window

    def __call__(self, attn: Any, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """hidden_states: (B, places, C)."""
        grid, window = level_of(hidden_states.shape[1], self._cells, self._window)
        query, key, value = (heads(attn, to(hidden_states)) for to in (attn.to_q, attn.to_k, attn.to_v))
        out = attended_nearby(query, key, value, grid, window)
        return projected(attn, out.transpose(1, 2).flatten(2))
