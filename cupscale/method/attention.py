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

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from cupscale.method.regions import Size


def boxes_of(corners: Tensor, canvas: Size) -> Tensor:
    """Windows (R, 4) of (top, left, bottom, right) in cells, as fractions of the canvas, its edges at 0 and 1."""
    top, left, bottom, right = corners.unbind(1)
    return torch.stack((top / canvas.h, left / canvas.w, bottom / canvas.h, right / canvas.w), dim=1)


def token_grid(tokens: int, cells: Size) -> Size:
    """The 2-D grid of a layer's `tokens` when the network's input has `cells`: halved, rounding up, until it fits."""
    grid = cells
    while grid.h * grid.w > tokens:
        grid = Size(-(-grid.h // 2), -(-grid.w // 2))
    if grid.h * grid.w != tokens:
        raise ValueError(f"{tokens} tokens are no halving of a grid of {cells.h} x {cells.w} cells")
    return grid


def _centres(boxes: Tensor, grid: Size) -> Tensor:
    """The token centres of each box, (R, grid.h, grid.w, 2) as (x, y), the edges of the picture at -1 and 1."""
    rows = (torch.arange(grid.h, device=boxes.device, dtype=torch.float32) + 0.5) / grid.h
    cols = (torch.arange(grid.w, device=boxes.device, dtype=torch.float32) + 0.5) / grid.w
    y = boxes[:, 0:1] + rows * (boxes[:, 2:3] - boxes[:, 0:1])  # (R, h)
    x = boxes[:, 1:2] + cols * (boxes[:, 3:4] - boxes[:, 1:2])  # (R, w)
    where = (x[:, None, :].expand(-1, grid.h, -1), y[:, :, None].expand(-1, -1, grid.w))
    return 2 * torch.stack(where, dim=-1) - 1


def crop_resize(plane: Tensor, boxes: Tensor, grid: Size) -> Tensor:
    """Bilinear samples of `plane` (1, C, H, W) at the token centres of each box (R, 4): (R, C, grid.h, grid.w).

    Sampled in float32, whatever the plane is in: coordinates in bfloat16 are up to a quarter of a token off on a grid of 128, and
    `grid_sample` of torch 2.13 can give NaN for bfloat16 on a CPU.
    """
    return _sampled(plane, _centres(boxes, grid))


def _sampled(plane: Tensor, where: Tensor) -> Tensor:
    planes = plane.float().expand(len(where), -1, -1, -1)
    padding = "border"
    if plane.device.type == "mps":
        # It has no border before torch 2.13: no place is asked for beyond the outer centres.
        padding = "zeros"
        ends = [1 - 1 / side for side in reversed(plane.shape[-2:])]
        where = torch.stack([where[..., k].clamp(-end, end) for k, end in enumerate(ends)], dim=-1)
    sampled = F.grid_sample(planes, where, mode="bilinear", padding_mode=padding, align_corners=False)
    return sampled.to(plane.dtype)


def screen(plain: Tensor, cropped: Tensor, attention: float) -> Tensor:
    """Mix the overview's attention into a region's own attention to the global prompt.

    Args:
        plain: softmax(Q K_g^T / sqrt d) V_g, of any shape.
        cropped: crop(O_L, r), of the same shape.
        attention: mu, 0 to 1. 0 returns `plain` itself.

    Returns:
        (1 - mu) plain + mu cropped, of their shape.
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
        self._boxes: Tensor | None = None
        self._where: dict[Size, Tensor] = {}

    def keep(self, layer: str, output: Tensor) -> None:
        """output: (1, tokens, C)."""
        grid = token_grid(output.shape[1], self._cells)
        self._outputs[layer] = output.transpose(1, 2).reshape(1, -1, *grid)

    def cropped(self, layer: str, boxes: Tensor, grid: Size) -> Tensor:
        """(R, grid.h * grid.w, C). boxes: (R, 4)."""
        if (
            boxes is not self._boxes
        ):  # every layer of a network call asks for the same ones, on one of a few grids
            self._boxes, self._where = boxes, {}
        if grid not in self._where:
            self._where[grid] = _centres(boxes, grid)
        return _sampled(self._outputs[layer], self._where[grid]).flatten(2).transpose(1, 2)

    def clear(self) -> None:
        self._outputs.clear()
        self._boxes, self._where = None, {}
