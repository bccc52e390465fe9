"""Regional Attention Prior (RAP): what the global prompt attends to in the whole picture, cropped per region.

The paper crops the cross-attention of the global prompt for every region, which screens what a region may show and so
removes repeated objects. Its equation is not public; ours is

    O_g = mu crop(O_L, r) + (1 - mu) softmax(Q K_g^T / sqrt d) V_g
    O_L = softmax(Q_L K_g^T / sqrt d) V_g

Q are region r's image queries, Q_L those of a pass over the whole picture at native size (the overview), K_g and V_g the
global prompt's keys and values. mu is the setting `attention`.

Outputs are cropped, not maps: let M be the overview's attention maps. Cropping and resizing M and then applying it to V_g
equals cropping and resizing O_L = M V_g, as resizing is linear over space and V_g is the same for all regions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from cupscale.method.regions import Region, Size


class Box(NamedTuple):
    """A region as fractions of the canvas, edges at 0 and 1."""

    top: float
    left: float
    bottom: float
    right: float

    @classmethod
    def of(cls, region: Region, canvas: Size) -> Box:
        return cls(
            region.y / canvas.h,
            region.x / canvas.w,
            (region.y + region.h) / canvas.h,
            (region.x + region.w) / canvas.w,
        )


def token_grid(tokens: int, cells: Size) -> Size:
    """The 2-D grid of a layer's `tokens` when the network's input has `cells`: halved, rounding up, until it fits."""
    grid = cells
    while grid.h * grid.w > tokens:
        grid = Size(-(-grid.h // 2), -(-grid.w // 2))
    if grid.h * grid.w != tokens:
        raise ValueError(f"{tokens} tokens are no halving of a grid of {cells.h} x {cells.w} cells")
    return grid


@lru_cache(maxsize=8)  # every layer of a network call asks for one of a few grids
def _centres(boxes: tuple[Box, ...], grid: Size, device: torch.device) -> Tensor:
    """The token centres of each box, (R, grid.h, grid.w, 2) as (x, y), the edges of the picture at -1 and 1."""
    rows = (torch.arange(grid.h, device=device, dtype=torch.float32) + 0.5) / grid.h
    cols = (torch.arange(grid.w, device=device, dtype=torch.float32) + 0.5) / grid.w
    edges = torch.tensor(boxes, device=device, dtype=torch.float32)  # (R, 4)
    y = edges[:, 0:1] + rows * (edges[:, 2:3] - edges[:, 0:1])  # (R, h)
    x = edges[:, 1:2] + cols * (edges[:, 3:4] - edges[:, 1:2])  # (R, w)
    where = (x[:, None, :].expand(-1, grid.h, -1), y[:, :, None].expand(-1, -1, grid.w))
    return 2 * torch.stack(where, dim=-1) - 1


def crop_resize(plane: Tensor, boxes: Sequence[Box], grid: Size) -> Tensor:
    """Bilinear samples of `plane` (1, C, H, W) at the token centres of each box: (R, C, grid.h, grid.w).

    Sampled in float32, whatever the plane is in: coordinates in bfloat16 are up to a quarter of a token off on a grid of 128, and
    `grid_sample` of torch 2.13 can give NaN for bfloat16 on a CPU.
    """
    where = _centres(tuple(boxes), grid, plane.device)
    planes = plane.float().expand(len(boxes), -1, -1, -1)
    sampled = F.grid_sample(planes, where, mode="bilinear", padding_mode="border", align_corners=False)
    return sampled.to(plane.dtype)


def screen(plain: Tensor, cropped: Tensor, attention: float) -> Tensor:
    """Mix the overview's attention into a region's own attention to the global prompt.

    Args:
        plain: softmax(Q K_g^T / sqrt d) V_g, of any shape.
        cropped: crop(O_L, r), of the same shape.
        attention: mu, 0 to 1. 0 returns `plain` itself.
    """
    return plain if attention == 0 else plain.lerp(cropped.to(plain.dtype), attention)


def fused(maps: Mapping[str, Tensor], cells: Size) -> Tensor:
    """One map of all layers (B, tokens, h, w): the mean over their grids, each the mean of its layers, at the finest's size.

    Args:
        maps: How much each place looks at each token, layer by layer, (B, places, tokens).
        cells: Of the latents they were made for.
    """
    grids: dict[Size, list[Tensor]] = {}
    for each in maps.values():
        grid = token_grid(each.shape[1], cells)
        grids.setdefault(grid, []).append(each.transpose(1, 2).unflatten(2, grid))
    finest = max(grids, key=lambda grid: grid.h * grid.w)
    means = [torch.stack(same).mean(0) for same in grids.values()]
    return torch.stack([F.interpolate(mean, finest, mode="bilinear") for mean in means]).mean(0)


class GlobalAttention:
    """O_L of every cross-attention layer in the overview, replaced at each step. cells: the overview's size."""

    def __init__(self, cells: Size):
        self._cells = cells
        self._outputs: dict[str, Tensor] = {}

    def keep(self, layer: str, output: Tensor) -> None:
        """output: (1, tokens, C)."""
        grid = token_grid(output.shape[1], self._cells)
        self._outputs[layer] = output.transpose(1, 2).reshape(1, -1, *grid)

    def cropped(self, layer: str, boxes: Sequence[Box], grid: Size) -> Tensor:
        """(R, grid.h * grid.w, C)."""
        return crop_resize(self._outputs[layer], boxes, grid).flatten(2).transpose(1, 2)

    def clear(self) -> None:
        self._outputs.clear()
