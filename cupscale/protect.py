"""Places that a person protects: under a mask the base upscale, corrected as the rest, stays (ours).

The mask is of the input's size, white where nothing may be invented. It is widened by `FEATHER_PX` before it is softened over
as many, so that all of what is white stays protected and the edge lies outside of it.
"""

from __future__ import annotations

from math import ceil, floor
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor

from cupscale import images
from cupscale.errors import CupscaleError

FEATHER_PX = 3  # of the input
_BAND_PX = 2**20


def read_mask(source: Any, size: tuple[int, int]) -> Image.Image:
    """A mask, feathered, mode L, of the input's size.

    Args:
        source: As an image is given; its brightness counts, and where it is transparent it is black.
        size: (width, height) of the input.

    Raises:
        CupscaleError: It cannot be read, or has another size.
    """
    picture = source if isinstance(source, images.Picture) else images.read(source)
    if picture.size != size:
        raise CupscaleError(
            f"the mask is {picture.size[0]} x {picture.size[1]} and the image is {size[0]} x {size[1]}: "
            "make the mask the size of the image"
        )
    mask = picture.rgb.convert("L")
    if picture.alpha is not None:
        mask = Image.composite(mask, Image.new("L", size), picture.alpha)
    widened = mask.filter(ImageFilter.MaxFilter(2 * FEATHER_PX + 1))
    return widened.filter(ImageFilter.BoxBlur(FEATHER_PX))


def protect(pixels: Tensor, base: Image.Image, mask: Image.Image) -> None:
    """Blend a finished picture towards the base upscale, in place.

    Args:
        pixels: (3, H, W) in [-1, 1], float32, in main memory.
        base: RGB, of the size of the picture.
        mask: Of `read_mask`.
    """
    _, height, width = pixels.shape
    step = mask.height / height
    rows = max(1, _BAND_PX // width)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        first, last = max(0, floor(top * step) - 2), min(mask.height, ceil(bottom * step) + 2)
        strip = mask.crop((0, first, mask.width, last))
        box = (0, top * step - first, mask.width, bottom * step - first)
        share = np.asarray(strip.resize((width, bottom - top), Image.Resampling.BILINEAR, box), np.float32)
        if not share.any():
            continue
        wanted = images.to_tensor(base.crop((0, top, width, bottom)))[0]
        band = pixels[:, top:bottom]
        band += torch.from_numpy(share / 255) * (wanted - band)
