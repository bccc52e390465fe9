"""Whether a picture that repeats has a seam: `python -m benchmarks.seamless [SEED...]`.

The examples' periodic components (Moisan, Periodic Plus Smooth Image Decomposition, 2011), 48 x 36, are enlarged 4 times with
the bundled model and `seamless xy`; then again rolled by a half, and by a quarter, so that the place of the edge lies inside. The
steps at that place, along x and y, are compared: 1 where the edge is like any other place. Half over quarter are two places
inside, which says how much the ratio varies without any edge. Each step is over the mean of its picture.
"""

from __future__ import annotations

import sys

import numpy as np
from PIL import Image

import cupscale
from cupscale.installation import ASSETS

WIDTH, HEIGHT, SCALE = 48, 36, 4
NAMES = ("arrow", "bee", "bridge", "citrus", "lake", "raccoon")
FIELDS = {
    "seamless": "xy",
    "scale": SCALE,
    "strength": 0.3,
    "steps": 6,
    "guidance": 1.0,
    "attention": 0.0,
    "upscaler": "lanczos",
    "fidelity": 1.0,
    "captioner": "none",
}


def periodic(plane: np.ndarray) -> np.ndarray:
    """(h, w) without the smooth picture that holds its jumps across the edge."""
    height, width = plane.shape
    jumps = np.zeros_like(plane)
    down, across = plane[-1] - plane[0], plane[:, -1] - plane[:, 0]
    jumps[0] += down
    jumps[-1] -= down
    jumps[:, 0] += across
    jumps[:, -1] -= across
    y, x = 2 * np.pi * np.arange(height) / height, 2 * np.pi * np.arange(width) / width
    laplace = 2 * np.cos(y)[:, None] + 2 * np.cos(x) - 4
    laplace[0, 0] = 1
    smooth = np.fft.fft2(jumps) / laplace
    smooth[0, 0] = 0
    return plane - np.fft.ifft2(smooth).real


def photograph(name: str) -> np.ndarray:
    """(h, w, 3), uint8."""
    with Image.open(ASSETS / "examples" / f"{name}.png") as image:
        small = image.convert("RGB").resize((WIDTH, HEIGHT), Image.Resampling.BOX)
    planes = [periodic(plane) for plane in np.asarray(small).astype(float).transpose(2, 0, 1)]
    return np.rint(np.stack(planes, -1)).clip(0, 255).astype(np.uint8)


def steps(pixels: np.ndarray, x: int, y: int) -> np.ndarray:
    """Before column x and before row y, over the mean of the picture's."""
    values = pixels.astype(float)
    found = np.abs(values - np.roll(values, 1, 1)), np.abs(values - np.roll(values, 1, 0))
    return np.array([found[0][:, x].mean() / found[0].mean(), found[1][y].mean() / found[1].mean()])


def main() -> None:
    """Print a line for each picture and seed, and the geometric means."""
    pipe = cupscale.load("tiny", device="cpu")
    rows = []
    for seed in map(int, sys.argv[1:] or ["7"]):
        for name in NAMES:
            found = []
            for part in (0, 2, 4):
                dx, dy = (WIDTH // part, HEIGHT // part) if part else (0, 0)
                rolled = np.roll(photograph(name), (dy, dx), (0, 1))
                result = cupscale.upscale(pipe, rolled, seed=seed, **FIELDS)
                found.append(steps(np.asarray(result.image.convert("RGB")), dx * SCALE, dy * SCALE))
            rows.append((found[0] / found[1], found[0] / found[2], found[1] / found[2]))
            print(name, seed, *(f"{x:.3f} {y:.3f}" for x, y in rows[-1]), sep="\t", flush=True)
    logs = np.log(rows)
    for k, title in enumerate(("edge / half", "edge / quarter", "half / quarter")):
        means, errors = logs[:, k].mean(0), logs[:, k].std(0, ddof=1) / np.sqrt(len(rows))
        said = (f"{axis} {np.exp(m):.3f} +- {e:.3f}" for axis, m, e in zip("xy", means, errors, strict=True))
        print(title, *said, sep="\t")


if __name__ == "__main__":
    main()
