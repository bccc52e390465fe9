"""The bundled tagger: a few words for a region, on any machine. Not a captioner: it writes no sentence.

Colours are measured. Things ("leaf", "water") come from logistic regressions, one per word, on hand-made features of colour
and texture, trained by `training/tagger.py` on the captions of the bundled model's training photographs. Its card,
`assets/tagger/README.md`, says how often they are right.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from cupscale.captioners.base import Answer, CaptionerError, Request
from cupscale.models import ASSETS

WEIGHTS = ASSETS.parent.parent / "assets" / "tagger" / "tagger.safetensors"
SIDE_PX = 96
MOST_WORDS = 3  # of things, next to the colours
MOST_COLOURS = 2
COLOUR_SHARE = 0.2
# name, the hue in degrees where it ends
HUES = (
    ("red", 15), ("orange", 42), ("yellow", 68), ("green", 165), ("blue", 260), ("violet", 300), ("pink", 340), ("red", 360),
)  # fmt: skip


def features(image: Image.Image) -> np.ndarray:
    """(F,) float32: a histogram of hue, saturation and brightness; colours on a 4 x 4 grid; gradients at three scales."""
    small = image.convert("RGB").resize((SIDE_PX, SIDE_PX), Image.Resampling.BOX)
    hsv = np.asarray(small.convert("HSV"), np.int32)
    bins = (hsv[..., 0] * 12 // 256) * 9 + np.minimum(hsv[..., 1] * 3 // 200, 2) * 3 + hsv[..., 2] * 3 // 256
    histogram = np.sqrt(np.bincount(bins.ravel(), minlength=108)[:108] / SIDE_PX**2)
    rgb = np.asarray(small, np.float32) / 255
    grid = rgb.reshape(4, SIDE_PX // 4, 4, SIDE_PX // 4, 3).mean((1, 3))
    light = grid.mean(-1, keepdims=True)
    layout = np.concatenate((light, grid - light), -1).ravel()
    parts = [histogram, layout, rgb.mean((0, 1)), rgb.std((0, 1))]
    grey = rgb @ np.array([0.299, 0.587, 0.114], np.float32)
    for _ in range(3):
        dy, dx = np.gradient(grey)
        size = np.hypot(dx, dy)
        angle = ((np.arctan2(dy, dx) % np.pi) * 8 / np.pi).astype(int) % 8
        turns = np.bincount(angle.ravel(), size.ravel(), minlength=8) / (size.sum() + 1e-3)
        halves = size.reshape(2, size.shape[0] // 2, 2, size.shape[1] // 2).mean((1, 3)).ravel()
        parts += [turns, np.sqrt(halves), [np.sqrt(size.mean()), np.sqrt(np.quantile(size, 0.9)), size.std()]]
        grey = grey.reshape(grey.shape[0] // 2, 2, grey.shape[1] // 2, 2).mean((1, 3))
    return np.concatenate(parts).astype(np.float32)


def colours(image: Image.Image) -> list[str]:
    """The names of the colours that cover a fifth of the image each, the largest first, at most two. Measured, not learned."""
    small = image.convert("RGB").resize((SIDE_PX, SIDE_PX), Image.Resampling.BOX).convert("HSV")
    hue, saturation, value = (plane.ravel() for plane in np.moveaxis(np.asarray(small, np.int32), -1, 0))
    degrees = hue * 360 // 256
    names = np.array([name for name, _ in HUES])[np.digitize(degrees, [limit for _, limit in HUES[:-1]])]
    dull = (saturation < 40) | (saturation * value < 40 * 160)
    names = np.where(
        np.isin(names, ("red", "orange", "yellow")) & (value < 150) & (saturation < 200), "brown", names
    )
    names = np.where(dull, np.where(value > 200, "white", np.where(value > 70, "grey", "black")), names)
    names = np.where(value < 40, "black", names)
    found, counts = np.unique(names, return_counts=True)
    order = np.argsort(-counts)[:MOST_COLOURS]
    return [str(found[k]) for k in order if counts[k] >= COLOUR_SHARE * len(names)]


class Tagger:
    """See the head of this file. It looks at a request's last image only, and reads no instruction."""

    name = identity = "tagger"
    device = "cpu"
    bytes = 0

    def __init__(self, weights: Path = WEIGHTS):
        self._weights = weights

    def load(self) -> None:
        _read(self._weights)

    def release(self) -> None:
        _read.cache_clear()

    def words(self, image: Image.Image) -> list[str]:
        """Its colours, then the things that are likely enough, most certain first."""
        words, matrix, bias, threshold, mean, spread = _read(self._weights)
        margin = matrix @ ((features(image) - mean) / spread) + bias - threshold
        things = [words[k] for k in np.argsort(-margin)[:MOST_WORDS] if margin[k] > 0]
        return [*colours(image), *things]

    def ask(self, requests: Sequence[Request]) -> Generator[Answer | None, None, None]:
        for index, request in enumerate(requests):
            words = self.words(request.images[-1])
            yield Answer(index, ", ".join(words) or None, None if words else "no word is certain enough")


@lru_cache(maxsize=2)
def _read(file: Path) -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """words, matrix (W, F), bias (W,), threshold (W,), mean (F,), spread (F,)."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="numpy") as weights:
            words = json.loads(weights.metadata()["words"])
            tensors = [
                weights.get_tensor(name).astype(np.float32)
                for name in ("matrix", "bias", "threshold", "mean", "spread")
            ]
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise CaptionerError(f"the bundled tagger's weights cannot be read: {error}") from None
    matrix, bias, threshold, mean, spread = tensors
    return words, matrix, bias, threshold, mean, spread
