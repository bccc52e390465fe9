"""What a picture may have been through."""

import io

import numpy as np
from PIL import Image


def noisy(image: Image.Image, sigma: float, *, grey: bool = False) -> Image.Image:
    """With Gaussian noise; film grain, the same in all channels, where `grey`."""
    pixels = np.asarray(image).astype(float)
    shape = (*pixels.shape[:2], 1) if grey else pixels.shape
    pixels = pixels + np.random.default_rng(0).normal(0, sigma, shape)
    return Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8))


def jpeg(image: Image.Image, quality: int) -> bytes:
    """Its file."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()
