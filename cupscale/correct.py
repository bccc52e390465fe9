"""What the finished picture keeps of the input: back-projection, flat places, and grey.

Back-projection (Irani and Peleg 1991): out += up(gain (input - down(out))), with Pillow's Lanczos resize for `up` and
`down`, in float, `ROUNDS` times. After it, the result made small again is the input, so far as the gain goes. The gain is the
setting `fidelity` for the finest part of the difference; the broad part, colours and light, follows four times as early
(ours), since an input that is noisy or blocky still has the right colours. A network's shift of colour goes with it.

Where the input does not change at all over `FLAT_PX` pixels each way, the result does not either (ours): a page stays
white, and what lies above the input's finest frequency, which no difference of small pictures shows, is none there.
"""

from __future__ import annotations

from math import ceil, floor

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cupscale.images import wrapping
from cupscale.images.tensors import put, to_float

ROUNDS = 6  # down(up(x)) is not x near the finest frequency, and what lies near black or white is clipped
BROAD_PX = 4  # of the input: the coarser part of a difference is what is left after a mean over so many
FLAT_PX = 3  # what Lanczos sees, so that the plain enlargement is exactly constant there
_BAND_PX = 2**20  # pixels of the result at once
_REACH = 3  # of the Lanczos filter, in pixels of the smaller picture


def correct(pixels: Tensor, reference: Image.Image, fidelity: float) -> None:
    """Correct a finished picture towards the input, in place.

    Args:
        pixels: (3, H, W) in main memory: float32 in [-1, 1], outside which they count as clipped, or int16 as of
            `images.to_int16`.
        reference: The input, RGB.
        fidelity: 0 (leave as it is) to 1.
    """
    if fidelity <= 0:
        return
    broad = min(1.0, 4 * fidelity)
    bands = _bands(pixels.shape[1], pixels.shape[2])
    for _ in range(ROUNDS):
        wrong = difference(pixels, reference)
        _weigh(wrong, fidelity, broad)
        for rows in bands:
            band = to_float(pixels[:, slice(*rows)]).clamp_(-1, 1)
            put(band.add_(torch.from_numpy(_enlarged(wrong, rows, pixels.shape))), pixels[:, slice(*rows)])
    flat = flat_places(reference)
    for rows in bands:
        _flatten(pixels, reference, flat, rows, broad)


def correct_wrapped(pixels: Tensor, reference: Image.Image, fidelity: float, axes: str) -> None:
    """`correct` of a picture that repeats along "x", "y" or "xy": the filters see over its edge. "none": `correct` itself.

    Args:
        pixels: See `correct`.
        reference: See `correct`.
        fidelity: See `correct`.
        axes: That repeat.
    """
    _, height, width = pixels.shape
    small, (across, down) = wrapping.margins(reference.size, (width, height), axes)
    if not any(small) or fidelity <= 0:
        correct(pixels, reference, fidelity)
        return
    whole = torch.cat((pixels[..., width - across :], pixels, pixels[..., :across]), dim=-1)
    whole = torch.cat((whole[:, height - down :], whole, whole[:, :down]), dim=-2)
    correct(whole, wrapping.surrounded(reference, small), fidelity)
    pixels.copy_(whole[:, down : down + height, across : across + width])


def difference(pixels: Tensor, reference: Image.Image) -> np.ndarray:
    """input - down(out): (3, h, w) float32, white less black being 2, of the `pixels` of `correct`."""
    _, height, width = pixels.shape
    step = height / reference.height
    found = np.empty((3, reference.height, reference.width), np.float32)
    for top, bottom in _bands(reference.height, ceil(width * step)):
        first = max(0, floor((top - _REACH) * step) - 1)
        last = min(height, ceil((bottom + _REACH) * step) + 1)
        slab = to_float(pixels[:, first:last]).clamp(-1, 1).numpy()
        box = (0, top * step - first, width, bottom * step - first)
        size = (reference.width, bottom - top)
        wanted = _samples(reference.crop((0, top, reference.width, bottom)))
        for c in range(3):
            small = _resized(slab[c], size, box)
            found[c, top:bottom] = wanted[c] - small
    return found


def flat_places(image: Image.Image) -> np.ndarray:
    """Where nothing changes within `FLAT_PX` pixels each way: (h, w) bool. Past the border all is as at the border."""
    samples = np.asarray(image)
    rows = _still((samples[:, 1:] == samples[:, :-1]).all(axis=2), axis=1)
    columns = _still((samples[1:] == samples[:-1]).all(axis=2), axis=0)
    return _everywhere(rows, axis=0) & columns  # all rows of the square are flat, and as its middle column is


def is_grey(image: Image.Image) -> bool:
    """Whether the channels of an RGB picture are the same everywhere."""
    samples = np.asarray(image)
    return bool((samples[..., :1] == samples[..., 1:]).all())


def _weigh(wrong: np.ndarray, fine: float, broad: float) -> None:
    """Multiply the fine and the broad part of a difference (3, h, w), in place."""
    height, width = wrong.shape[1:]
    small = (ceil(width / BROAD_PX), ceil(height / BROAD_PX))
    for channel in wrong:
        image = Image.fromarray(channel)
        means = image.resize(small, Image.Resampling.BOX).resize((width, height), Image.Resampling.BICUBIC)
        channel *= fine
        channel += (broad - fine) * np.asarray(means)


def _enlarged(samples: np.ndarray, rows: tuple[int, int], shape: torch.Size) -> np.ndarray:
    """The rows (top, bottom) of (3, h, w) enlarged to `shape` (3, H, W)."""
    _, height, width = shape
    step = samples.shape[1] / height
    first = max(0, floor(rows[0] * step) - _REACH - 1)
    last = min(samples.shape[1], ceil(rows[1] * step) + _REACH + 1)
    box = (0, rows[0] * step - first, samples.shape[2], rows[1] * step - first)
    size = (width, rows[1] - rows[0])
    return np.stack([_resized(channel[first:last], size, box) for channel in samples])


def _flatten(
    pixels: Tensor, reference: Image.Image, flat: np.ndarray, rows: tuple[int, int], weight: float
) -> None:
    """Blend the flat places of a band of rows towards the plain enlargement, in place."""
    step = flat.shape[0] / pixels.shape[1]
    first = max(0, floor(rows[0] * step) - _REACH - 1)
    last = min(flat.shape[0], ceil(rows[1] * step) + _REACH + 1)
    if not flat[first:last].any():
        return
    box = (0, rows[0] * step - first, flat.shape[1], rows[1] * step - first)
    size = (pixels.shape[2], rows[1] - rows[0])
    places = Image.fromarray(flat[first:last].astype(np.float32))
    share = np.asarray(places.resize(size, Image.Resampling.BILINEAR, box))
    strip = _samples(reference.crop((0, first, reference.width, last)))
    for c in range(3):
        plain = torch.from_numpy(_resized(strip[c], size, box))
        band = to_float(pixels[c, slice(*rows)]).clamp(-1, 1)
        put(band + weight * torch.from_numpy(share.copy()) * (plain - band), pixels[c, slice(*rows)])


def _still(same: np.ndarray, axis: int) -> np.ndarray:
    """From whether neighbours along an axis are the same, whether all are within `FLAT_PX` each way."""
    pad = [(0, 0), (0, 0)]
    pad[axis] = (FLAT_PX, FLAT_PX)
    padded = np.pad(same, pad, constant_values=True)
    count = same.shape[axis] + 1
    parts = [np.take(padded, range(i, i + count), axis) for i in range(2 * FLAT_PX)]
    return np.logical_and.reduce(parts)


def _everywhere(places: np.ndarray, axis: int) -> np.ndarray:
    """Whether `places` hold within `FLAT_PX` each way along an axis."""
    pad = [(0, 0), (0, 0)]
    pad[axis] = (FLAT_PX, FLAT_PX)
    padded = np.pad(places, pad, constant_values=True)
    count = places.shape[axis]
    return np.logical_and.reduce([np.take(padded, range(i, i + count), axis) for i in range(2 * FLAT_PX + 1)])


def _samples(image: Image.Image) -> np.ndarray:
    """RGB to (3, h, w) float32 in [-1, 1]."""
    return np.asarray(image, np.float32).transpose(2, 0, 1) / np.float32(127.5) - 1


def _resized(
    samples: np.ndarray, size: tuple[int, int], box: tuple[float, float, float, float]
) -> np.ndarray:
    """A part of (h, w) float32, resized to (width, height). The filter sees past the part."""
    image = Image.fromarray(np.ascontiguousarray(samples))
    return np.asarray(image.resize(size, Image.Resampling.LANCZOS, box)).copy()


def _bands(height: int, width: int) -> list[tuple[int, int]]:
    rows = max(1, _BAND_PX // width)
    return [(top, min(top + rows, height)) for top in range(0, height, rows)]
