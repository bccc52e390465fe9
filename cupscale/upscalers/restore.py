"""Small pictures without the damage of JPEG, noise and film grain, by the bundled network (ours).

A base upscaler that gives a clean picture its sharpness back makes cracks of what a JPEG or noise left behind. So the damage
goes first: the bundled denoiser, taught on damaged photographs (`training.restore`), is called once, at one timestep, without
words. Its weights are those of the bundled U-Net and a change, which is kept as 8-bit numbers with a factor for each row.
"""

from __future__ import annotations

import threading
from collections.abc import Generator
from functools import lru_cache
from math import ceil
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from cupscale.correct import is_grey
from cupscale.errors import CupscaleError
from cupscale.images.tensors import to_image, to_tensor
from cupscale.installation import ASSETS, reinstall_command

WEIGHTS = ASSETS / "restore" / "change.safetensors"
BLOCK_PX = 2  # side of the square of pixels that is one latent cell
ALIGN_PX = 16  # the U-Net halves its cells three times
WINDOW_PX = 256
OVERLAP_PX = 64  # shared by neighbouring windows, which fade into each other over it
REACH_PX = 64  # of what repeats, that is laid around a picture: what lies further hardly changes a pixel
SOURCE_SCALE = 2.0  # the size conditioning asks for a photograph that was reduced by as much: a sharp one

_one_at_a_time = threading.Lock()  # bounds memory when two pages run at once


class Network(NamedTuple):
    """The U-Net; the timestep that stands for damage and its noise over signal; what it reads in the place of words."""

    unet: Any
    timestep: float
    ratio: float
    tokens: Tensor
    pooled: Tensor


def restored(image: Image.Image, share: float = 1.0) -> Generator[float, None, Image.Image]:
    """Take damage out of a picture.

    Args:
        image: (W, H), RGB; a grey one stays grey.
        share: How much of the change is made, 0 to 1.

    Yields:
        The share of the work done, in (0, 1], after each window. Closing the generator there stops the work.

    Returns:
        (W, H), RGB. The same input gives the same bytes.

    Raises:
        CupscaleError: The weights are damaged.
    """
    network = _load()
    pixels = to_tensor(image)
    height, width = pixels.shape[-2:]
    rows, columns = spans(height), spans(width)
    found, weight = torch.zeros_like(pixels), torch.zeros(1, 1, height, width)
    for i, (top, bottom) in enumerate(rows):
        for j, (left, right) in enumerate(columns):
            window = pixels[..., top:bottom, left:right]
            with _one_at_a_time, torch.no_grad():
                clean = called(network, window)
            fade = feather(bottom - top)[:, None] * feather(right - left)[None]
            found[..., top:bottom, left:right] += fade * clean
            weight[..., top:bottom, left:right] += fade
            yield (i * len(columns) + j + 1) / (len(rows) * len(columns))
    change = found / weight - pixels
    if is_grey(image):
        change = change.mean(dim=1, keepdim=True)
    return to_image((pixels + share * change)[0])


def spans(length: int) -> list[tuple[int, int]]:
    """Cover 0..length by the fewest equal windows (start, end) of at most `WINDOW_PX`, which share `OVERLAP_PX` or more."""
    count = max(1, ceil((length - OVERLAP_PX) / (WINDOW_PX - OVERLAP_PX)))
    size = min(length, ceil((length + (count - 1) * OVERLAP_PX) / count))
    return [
        (start, start + size)
        for start in (round(i * (length - size) / max(1, count - 1)) for i in range(count))
    ]


def feather(length: int) -> Tensor:
    """Weights (length,) of a window: up and down straight over `OVERLAP_PX` at its ends, nowhere 0."""
    place = torch.arange(length) + 0.5
    return torch.minimum(place, length - place).clamp(max=OVERLAP_PX) / OVERLAP_PX


def called(network: Network, pixels: Tensor) -> Tensor:
    """One call of the network: (B, 3, H, W) in -1..1 to the same without its damage."""
    count = pixels.shape[0]
    height, width = pixels.shape[-2:]
    padded = F.pad(pixels, (0, -width % ALIGN_PX, 0, -height % ALIGN_PX), mode="reflect")
    a = 1 / (1 + network.ratio**2) ** 0.5
    latents = a * F.pixel_unshuffle(padded, BLOCK_PX)
    sides = (float(padded.shape[-2]), float(padded.shape[-1]))
    sizes = torch.tensor([[SOURCE_SCALE * sides[0], SOURCE_SCALE * sides[1], 0.0, 0.0, *sides]])
    tokens, pooled, sizes = (
        one.expand(count, *one.shape[1:]) for one in (network.tokens, network.pooled, sizes)
    )
    condition = {"text_embeds": pooled, "time_ids": sizes}
    v = network.unet(latents, network.timestep, tokens, added_cond_kwargs=condition).sample.float()
    return F.pixel_shuffle(a * latents - network.ratio * a * v, BLOCK_PX)[..., :height, :width]


@lru_cache(maxsize=1)
def _load() -> Network:
    """Float32, 40 MB."""
    from diffusers import UNet2DConditionModel
    from safetensors import SafetensorError, safe_open

    try:
        unet = UNet2DConditionModel.from_pretrained(ASSETS / "tiny" / "unet", torch_dtype=torch.float32)
        weights = unet.state_dict()
        with safe_open(WEIGHTS, "pt") as file:
            for name in weights.keys() & file.keys():
                weights[name] += opened(file.get_tensor(name), file.get_tensor(f"{name}.factor"))
            timestep, ratio = (float(one) for one in file.get_tensor("noise"))
            tokens, pooled = file.get_tensor("tokens").float(), file.get_tensor("pooled").float()
        unet.load_state_dict(weights)
    except (OSError, KeyError, ValueError, RuntimeError, SafetensorError):
        raise CupscaleError(
            f"the weights that take damage out of a picture are damaged; {reinstall_command()}, or set restore to 0"
        ) from None
    return Network(unet.eval().requires_grad_(False), timestep, ratio, tokens, pooled)


def packed(change: Tensor) -> tuple[Tensor, Tensor]:
    """A change of weights (N, ...) as int8 and a factor for each row (N,): the largest is 127 of it."""
    rows = change.reshape(change.shape[0], -1)
    factor = rows.abs().amax(dim=1).clamp(min=1e-12) / 127
    return (rows / factor[:, None]).round().to(torch.int8).reshape(change.shape), factor


def opened(kept: Tensor, factor: Tensor) -> Tensor:
    """What `packed` packed, (N, ...) float32."""
    return (kept.reshape(kept.shape[0], -1).float() * factor.float()[:, None]).reshape(kept.shape)
