"""Words for how a region appears: smooth, sharp, blurred, rough texture, bright, blue ...

They are measured, not learned, and need no model and no network. The bundled model was trained with the same words beside
what a photograph shows, so they are what it reads; they name no things.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from cupscale.captioners.base import Answer, Request

_SIDE_PX = 96
_MOST_COLOURS = 2
_COLOUR_SHARE = 0.2
_GREY = np.array([0.299, 0.587, 0.114])
# name, the hue in degrees where it ends
_HUES = (
    ("red", 15),
    ("orange", 42),
    ("yellow", 68),
    ("green", 165),
    ("blue", 260),
    ("violet", 300),
    ("pink", 340),
    ("red", 360),
)


class Appearance:
    """The captioner "appearance". It looks at a request's last image only, and reads no instruction."""

    name = identity = "appearance"
    device = "cpu"
    bytes = 0

    def load(self) -> None:
        """Nothing has to be."""

    def release(self) -> None:
        """Nothing is held."""

    def ask(self, requests: Sequence[Request]) -> Generator[Answer | None, None, None]:
        """The words of every request, in order."""
        for index, request in enumerate(requests):
            words = words_of(np.asarray(request.images[-1].convert("RGB")))
            yield Answer(index, ", ".join(words) or None, None if words else "nothing stands out in it")


def words_of(pixels: np.ndarray) -> list[str]:
    """How a crop (H, W, 3) of bytes appears, in plain words: texture, sharpness, direction, light, colours. Ours.

    All is measured, on the grey picture's two finest Laplacian levels (texture, sharpness), its gradients (direction), and its
    mean and spread (light). Limits are such that each word fits a tenth to a quarter of the training crops. What the
    finest level holds is what noise hides first, so these are words that a denoiser has a use for.
    """
    grey = pixels.astype(np.float64) @ _GREY
    blurred = _smoothed(grey)
    fine = (grey - blurred).std()
    half = blurred[::2, ::2]
    sharpness = fine / ((half - _smoothed(half)).std() + 1e-6)
    words = []
    if fine < 1.5:
        words.append("smooth")
    elif fine > 12:
        words.append("rough texture")
    elif fine > 6:
        words.append("fine texture")
    if fine >= 1.5 and sharpness > 1.5:
        words.append("sharp")
    elif fine >= 1.5 and sharpness < 0.85:
        words.append("blurred")
    across, along = (np.square(np.diff(grey, axis=axis)).mean() for axis in (1, 0))
    turn = (across - along) / (across + along + 1e-9)
    if fine >= 1.5 and abs(turn) > 0.3:
        words.append("vertical lines" if turn > 0 else "horizontal lines")
    if grey.mean() < 60:
        words.append("dark")
    elif grey.mean() > 165:
        words.append("bright")
    return words + colours(Image.fromarray(pixels))


def _smoothed(grey: np.ndarray) -> np.ndarray:
    """(H, W) smoothed with the kernel 1 4 6 4 1, mirrored at the borders; at the borders repeated where it is tiny."""
    mode = "reflect" if min(grey.shape) > 2 else "replicate"
    wide = F.pad(torch.from_numpy(grey)[None, None], (2, 2, 2, 2), mode=mode)
    row = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0], dtype=wide.dtype)
    kernel = (row[:, None] * row / 256)[None, None]
    smooth: np.ndarray = F.conv2d(wide, kernel)[0, 0].numpy()
    return smooth


def colours(image: Image.Image) -> list[str]:
    """The names of the colours that cover a fifth of the image each, the largest first, at most two. Measured, not learned."""
    small = image.convert("RGB").resize((_SIDE_PX, _SIDE_PX), Image.Resampling.BOX).convert("HSV")
    hue, saturation, value = (plane.ravel() for plane in np.moveaxis(np.asarray(small, np.int32), -1, 0))
    degrees = hue * 360 // 256
    names = np.array([name for name, _ in _HUES])[np.digitize(degrees, [limit for _, limit in _HUES[:-1]])]
    dull = (saturation < 40) | (saturation * value < 40 * 160)
    names = np.where(
        np.isin(names, ("red", "orange", "yellow")) & (value < 150) & (saturation < 200), "brown", names
    )
    names = np.where(dull, np.where(value > 200, "white", np.where(value > 70, "grey", "black")), names)
    names = np.where(value < 40, "black", names)
    found, counts = np.unique(names, return_counts=True)
    order = np.argsort(-counts)[:_MOST_COLOURS]
    return [str(found[k]) for k in order if counts[k] >= _COLOUR_SHARE * len(names)]
