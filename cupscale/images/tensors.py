"""Images to tensors and back."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from cupscale.errors import CupscaleError
from cupscale.method.regions import Size

_STRIP_PX = 2**20  # pixels converted at once between uint8 and float


def to_tensor(image: Image.Image) -> torch.Tensor:
    """RGB image to (1, 3, H, W) float32 in [-1, 1]."""
    width, height = image.size
    tensor = torch.empty(1, 3, height, width)
    for top, bottom in _strips(width, height):
        strip = np.array(image.crop((0, top, width, bottom)).convert("RGB"))
        tensor[0, :, top:bottom] = torch.from_numpy(strip).permute(2, 0, 1).float().div_(127.5).sub_(1)
    return tensor


def to_image(tensor: torch.Tensor) -> Image.Image:
    """(1, 3, H, W) or (3, H, W), any float dtype and device, or int16 as of `to_int16`, to an RGB image.

    Values outside [-1, 1] are clipped; halves round to even. Needs no more than a strip besides the result.

    Raises CupscaleError if a value is not finite.
    """
    if tensor.ndim == 4:
        (tensor,) = tensor
    _, height, width = tensor.shape
    image = Image.new("RGB", (width, height))
    for top, bottom in _strips(width, height):
        strip = to_float(tensor[:, top:bottom].detach().cpu())
        _check_finite(strip)
        samples = strip.add(1).mul_(127.5).round_().clamp_(0, 255).byte().permute(1, 2, 0)
        image.paste(Image.fromarray(samples.contiguous().numpy()), (0, top))
    return image


def to_uint16(tensor: torch.Tensor) -> np.ndarray:
    """(3, H, W) float in [-1, 1], or int16 as of `to_int16`, to (H, W, 3) uint16; values outside are clipped."""
    _, height, width = tensor.shape
    pixels = np.empty((height, width, 3), np.uint16)
    for top, bottom in _strips(width, height):
        strip = to_float(tensor[:, top:bottom].detach().cpu())
        scaled = strip.add(1).mul_(32767.5).round_().clamp_(0, 65535)
        pixels[top:bottom] = scaled.permute(1, 2, 0).numpy().astype(np.uint16)
    return pixels


def padded(image: Image.Image, cells: Size, cell_px: int) -> torch.Tensor:
    """(1, 3, H, W) uint8 of `cells`, the image in its top left, its last row and column carried on."""
    width, height = image.size
    whole = torch.empty(1, 3, cells.h * cell_px, cells.w * cell_px, dtype=torch.uint8)
    for top, bottom in _strips(width, height):
        strip = np.array(image.crop((0, top, width, bottom)).convert("RGB"))
        whole[0, :, top:bottom, :width] = torch.from_numpy(strip).permute(2, 0, 1)
    whole[..., :height, width:] = whole[..., :height, width - 1 : width]
    whole[..., height:, :] = whole[..., height - 1 : height, :]
    return whole


def to_int16(x: torch.Tensor) -> torch.Tensor:
    """Float in [-1, 1] to int16, from -32768 to 32767: half of the memory, 257 steps to one of 8 bits.

    Values outside are clipped.

    Raises CupscaleError if a value is not finite.
    """
    _check_finite(x)
    return x.float().add(1).mul_(32767.5).round_().clamp_(0, 65535).sub_(32768).short()


def to_float(x: torch.Tensor) -> torch.Tensor:
    """What `to_int16` made, to float32 in [-1, 1], of its own memory; floats to float32 as they are, in their own."""
    return x.float().add_(32768).div_(32767.5).sub_(1) if x.dtype == torch.int16 else x.float()


def put(x: torch.Tensor, target: torch.Tensor) -> None:
    """Write float32 into a part of a picture that is float32, or int16 as of `to_int16`."""
    target.copy_(to_int16(x) if target.dtype == torch.int16 else x)


def carried_on(x: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """(B, C, height, width): `x` in the top left, its last row and column carried on."""
    return F.pad(x, (0, width - x.shape[-1], 0, height - x.shape[-2]), mode="replicate")


def _check_finite(x: torch.Tensor) -> None:
    if not torch.isfinite(x).all():
        raise CupscaleError(
            "the decoded image holds NaN or infinity: the VAE overflows in half precision; load the model with dtype "
            "float32, or for SDXL with the VAE madebyollin/sdxl-vae-fp16-fix"
        )


def _strips(width: int, height: int) -> list[tuple[int, int]]:
    """(top, bottom) rows of strips of about `_STRIP_PX` pixels."""
    rows = max(1, _STRIP_PX // width)
    return [(top, min(top + rows, height)) for top in range(0, height, rows)]
