"""Places that a person protects: under a mask the base upscale, corrected as the rest, stays (ours).

The mask is of the input's size, white where nothing may be invented. It is widened by `FEATHER_PX` before it is softened over
as many, so that all of what is white stays protected and the edge lies outside of it. In a picture that repeats all of this
goes round the edge.
"""

from __future__ import annotations

import hashlib
from math import ceil, floor
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor

from cupscale import images
from cupscale.errors import CupscaleError
from cupscale.images import wrapping
from cupscale.images.tensors import put, to_float

FEATHER_PX = 3  # of the input
_SEEN_PX = 2  # of the mask, beside a band of the result
_BAND_PX = 2**20


def read_mask(source: Any, size: tuple[int, int], axes: str = "none") -> Image.Image:
    """A mask, feathered, mode L, of the input's size.

    Args:
        source: As an image is given; its brightness counts, and where it is transparent it is black.
        size: (width, height) of the input.
        axes: Along which the picture repeats, as `Settings.seamless`.

    Raises:
        CupscaleError: It cannot be read, or has another size.
    """
    picture = source if isinstance(source, images.Picture) else images.read(source)
    check_size(picture.size, size)
    mask = picture.rgb.convert("L")
    if picture.alpha is not None:
        mask = Image.composite(mask, Image.new("L", size), picture.alpha)
    margin = _margin(axes, 2 * FEATHER_PX)
    widened = wrapping.surrounded(mask, margin).filter(ImageFilter.MaxFilter(2 * FEATHER_PX + 1))
    return wrapping.inner(widened.filter(ImageFilter.BoxBlur(FEATHER_PX)), margin, size)


def name_of(mask: Image.Image | None) -> str:
    """What a result's settings say of the mask of `read_mask` that it was made under.

    16 hexadecimal digits of its SHA-256; empty where there is none.
    """
    if mask is None:
        return ""
    return hashlib.sha256(f"{mask.width}x{mask.height}:".encode() + mask.tobytes()).hexdigest()[:16]


def check_size(size: tuple[int, int], wanted: tuple[int, int]) -> None:
    """See that a mask fits. Both are (width, height), of it and of the image. Raises CupscaleError."""
    if size != wanted:
        raise CupscaleError(
            f"the mask is {size[0]} x {size[1]} and the image is {wanted[0]} x {wanted[1]}: "
            "make the mask the size of the image"
        )


def protect(pixels: Tensor, base: Image.Image, mask: Image.Image, axes: str = "none") -> None:
    """Blend a finished picture towards the base upscale, in place.

    Args:
        pixels: (3, H, W) in main memory: float32 in [-1, 1], or int16 as of `images.to_int16`.
        base: RGB, of the size of the picture.
        mask: Of `read_mask`.
        axes: Along which the picture repeats, as `Settings.seamless`.
    """
    _, height, width = pixels.shape
    step = mask.height / height
    across, down = _margin(axes, _SEEN_PX)
    whole = wrapping.surrounded(mask, (across, down))
    rows = max(1, _BAND_PX // width)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        begin, end = down + top * step, down + bottom * step
        first, last = max(0, floor(begin) - _SEEN_PX), min(whole.height, ceil(end) + _SEEN_PX)
        strip = whole.crop((0, first, whole.width, last))
        box = (across, begin - first, across + mask.width, end - first)
        share = np.asarray(strip.resize((width, bottom - top), Image.Resampling.BILINEAR, box), np.float32)
        if not share.any():
            continue
        wanted = images.to_tensor(base.crop((0, top, width, bottom)))[0]
        band = to_float(pixels[:, top:bottom])
        put(band + torch.from_numpy(share / 255) * (wanted - band), pixels[:, top:bottom])


def _margin(axes: str, width: int) -> tuple[int, int]:
    """(x, y) of what is laid around a mask."""
    return width * ("x" in axes), width * ("y" in axes)
