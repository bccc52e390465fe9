"""An autoencoder in tiles, a band at a time: what lies on the device does not grow with the picture.

Tiles lie and blend as those of diffusers' `AutoencoderKL` do, to the byte, but only one row of them is held: its picture goes to
main memory before the next row is made, and pixels come from there tile by tile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderKLFlux2, AutoencoderKLQwenImage
from torch import Tensor

from cupscale.backbones import Tiles
from cupscale.backbones.statistics import shared, small

BAND_PX = 2**20  # pixels of an exact codec's band


def in_bands(vae: Any) -> bool:
    """Whether its rows can be made apart: an exact codec's, and those of diffusers' `AutoencoderKL` and its like.

    TAESD tiles by itself.
    """
    return (
        hasattr(vae, "block_size") or isinstance(vae, (AutoencoderKL, AutoencoderKLFlux2)) or of_frames(vae)
    )


def of_frames(vae: Any) -> bool:
    """Whether a VAE is one of videos, which takes a picture as the first frame."""
    return isinstance(vae, AutoencoderKLQwenImage)


def decoded(
    vae: Any,
    latents: Tensor,
    tiles: Tiles,
    cell_px: int,
    device: torch.device,
    keep: Callable[[Tensor], Tensor] = Tensor.float,
) -> Tensor:
    """(B, C, h, w) as the VAE scales them, to pixels (B, 3, H, W) in main memory, each band of rows as `keep` gives it."""
    height = latents.shape[-2] * cell_px

    def one(part: Tensor) -> Tensor:
        part = part.to(device, vae.dtype)
        if of_frames(vae):
            return vae.decode(part[:, :, None], return_dict=False)[0][:, :, 0]
        return vae.decode(part, return_dict=False)[0]

    side = tiles.side // cell_px
    with _statistics(vae, "decoder", latents, one, side, tiles):
        bands = _bands(vae, latents, one, side, tiles.side, tiles.overlap)
        return _filled((keep(band).cpu() for band in bands), height)


def encoded(vae: Any, pixels: Tensor, tiles: Tiles, cell_px: int, device: torch.device) -> Tensor:
    """(B, 3, H, W), in [-1, 1] or uint8, to latents (B, C, h, w) float32 on the device, as the VAE scales them."""

    def one(part: Tensor) -> Tensor:
        part = in_range(part.to(device)).to(vae.dtype)
        if of_frames(vae):
            return vae.encode(part[:, :, None]).latent_dist.mode()[:, :, 0]
        return vae.encode(part).latent_dist.mode()

    with _statistics(vae, "encoder", pixels, one, tiles.side, tiles):
        bands = _bands(vae, pixels, one, tiles.side, tiles.side // cell_px, tiles.overlap)
        return _filled((band.float() for band in bands), pixels.shape[-2] // cell_px)


def in_range(pixels: Tensor) -> Tensor:
    """uint8 to float32 in [-1, 1]; others as they are."""
    return pixels.float().div_(127.5).sub_(1) if pixels.dtype == torch.uint8 else pixels


def _statistics(
    vae: Any, part: str, x: Tensor, one: Callable[[Tensor], Tensor], side: int, tiles: Tiles
) -> AbstractContextManager[None]:
    """Those of the whole picture, where they are asked for and there are several tiles."""
    if tiles.statistics == "tile" or hasattr(vae, "block_size") or max(x.shape[-2:]) <= side:
        return nullcontext()
    return shared(getattr(vae, part), lambda: one(small(x, side)))


def _filled(bands: Iterator[Tensor], height: int) -> Tensor:
    """Bands of rows, from the top down, as one canvas of `height`."""
    out, top = None, 0
    for band in bands:
        if out is None:
            out = band.new_empty((*band.shape[:-2], height, band.shape[-1]))
        out[..., top : top + band.shape[-2], :] = band
        top += band.shape[-2]
    assert out is not None  # a canvas has rows
    return out


def _bands(
    vae: Any, x: Tensor, one: Callable[[Tensor], Tensor], side: int, made: int, overlap: float
) -> Iterator[Tensor]:
    """The result of `x`, from the top down. side, made: of a tile, before and after."""
    height, width = x.shape[-2:]
    if hasattr(vae, "block_size"):
        step = max(1, BAND_PX // (width * max(1, (made // side) ** 2))) * max(1, side // made)
        yield from (one(x[..., top : top + step, :]) for top in range(0, height, step))
    elif max(height, width) <= side:
        yield one(x)
    else:
        yield from _blended(x, one, side, made, overlap)


def _blended(
    x: Tensor, one: Callable[[Tensor], Tensor], side: int, made: int, overlap: float
) -> Iterator[Tensor]:
    stride, extent = int(side * (1 - overlap)), int(made * overlap)
    above: list[Tensor] = []
    for top in range(0, x.shape[-2], stride):
        row: list[Tensor] = []
        for j, left in enumerate(range(0, x.shape[-1], stride)):
            tile = one(x[..., top : top + side, left : left + side])
            if above:
                _ramp(above[j], tile, extent, -2)
            if row:
                _ramp(row[-1], tile, extent, -1)
            row.append(tile)
        yield torch.cat([tile[..., : made - extent, : made - extent] for tile in row], dim=-1)
        above = [tile[..., -extent:, :].clone() for tile in row] if extent else []


def _ramp(before: Tensor, tile: Tensor, extent: int, axis: int) -> None:
    """Let the beginning of a tile come out of the end of the one before it, in place."""
    extent = min(before.shape[axis], tile.shape[axis], extent)
    for k in range(extent):
        end = before.select(axis, before.shape[axis] - extent + k)
        start = tile.select(axis, k)
        start.copy_(end * (1 - k / extent) + start * (k / extent))
