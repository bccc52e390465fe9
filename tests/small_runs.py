"""What the runs of small random checkpoints share: their picture, and settings of a few steps under all priors."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

FAST: dict[str, Any] = {
    "scale": 3,
    "seed": 2,
    "strength": 0.5,
    "steps": 4,
    "guidance": 3.0,
    "upscaler": "lanczos",
    "overlap": 0.25,
}
CAPTION = {"box": (0, 0, 64, 64), "caption": "a blue boat on a lake"}
RUN = FAST | {"prompt": "a red fox", "captions": [CAPTION]}


def photo(width: int = 40, height: int = 24) -> Image.Image:
    """Waves, of another phase in each colour."""
    y, x = np.mgrid[0:height, 0:width]
    planes = [np.sin(x / 5 + k) * np.cos(y / (4 + k)) * 100 + 128 for k in range(3)]
    return Image.fromarray(np.stack(planes, -1).astype(np.uint8))


def levels(image: Image.Image) -> np.ndarray:
    """Grey levels that can be subtracted."""
    return np.asarray(image).astype(int)
