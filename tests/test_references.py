"""The bundled model's pictures stay as good as they were: against stored ones, of the same settings.

    PYTHONPATH=. python tests/test_references.py

makes them again, after a change of the pictures that is meant. Look at them before you keep them.
"""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import cupscale

FOLDER = Path(__file__).parent / "references"
# Other kernels and threads leave 90 dB and more; without the regional semantic prior the bee has 61.2, without attention 69.6.
BOUND_DB = 72
# Of an input: the scale, the prompt, and a caption with its box. The bee is two regions; the raccoon is one.
RUNS = {
    "bee": (4, "a honey bee on a violet aster flower", "violet petals, sharp", (32, 0, 288, 216)),
    "raccoon": (2, "a raccoon among green leaves", "grey fur, sharp", (0, 0, 144, 108)),
}


def run(name: str) -> Image.Image:
    scale, prompt, caption, box = RUNS[name]
    result = cupscale.upscale(
        cupscale.load("tiny", device="cpu"),
        Image.open(FOLDER / f"{name}.png"),
        scale=scale,
        seed=7,
        upscaler="lanczos",
        prompt=prompt,
        captions=[{"box": box, "caption": caption}],
    )
    return result.image


def psnr(one: Image.Image, other: Image.Image) -> float:
    error = np.mean((np.asarray(one, dtype=float) - np.asarray(other, dtype=float)) ** 2)
    return float("inf") if error == 0 else float(10 * np.log10(255**2 / error))


def stored(name: str) -> Path:
    return FOLDER / f"{name}-x{RUNS[name][0]}.webp"


@pytest.mark.parametrize("name", RUNS)
def test_the_bundled_models_pictures_are_those_stored(name):
    image, reference = run(name), Image.open(stored(name))
    assert image.size == reference.size
    assert psnr(image, reference) >= BOUND_DB


if __name__ == "__main__":
    for name in RUNS:
        run(name).save(stored(name), lossless=True, quality=100)
