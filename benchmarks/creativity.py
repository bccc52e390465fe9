"""How strength, structure and fidelity change what the bundled model makes: the sweep behind the page's Creativity.

    python -m benchmarks.creativity --pictures data/test --every 4

Of every fourth photograph the middle, 256 x 256 px after halving, is reduced by 4 and enlarged by 4. Fidelity is applied to
one denoised picture after the other values, as a run applies it last. Means over the photographs:

added: root mean square of the result less its plain (Lanczos) enlargement, in levels of 255. kept: PSNR in dB of the result
made small again. patch, slope, grain: of `cupscale.metrics`, against the photograph.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import cupscale
from cupscale.correct import correct
from cupscale.metrics import METRICS, Case
from cupscale.metrics.base import floats

SCALE, SIDE_PX, SEED = 4, 256, 7
POINTS = ((0.05, 1.0), (0.1, 1.0), (0.15, 1.0), (0.2, 1.0), (0.2, 0.5))
FIDELITIES = (1.0, 0.25, 0.1, 0.0)
FIGURES = ("psnr", "patch1", "slope", "grain")


def middle(path: Path) -> Image.Image:
    """The middle of a photograph after halving, RGB."""
    with Image.open(path) as image:
        half = image.convert("RGB").reduce(2)
    left, top = (half.width - SIDE_PX) // 2, (half.height - SIDE_PX) // 2
    return half.crop((left, top, left + SIDE_PX, top + SIDE_PX))


def corrected(result: Image.Image, small: Image.Image, fidelity: float) -> Image.Image:
    """A result that was made with fidelity 0, corrected towards its input."""
    pixels = torch.from_numpy(floats(result)).permute(2, 0, 1).contiguous() * 2 - 1
    correct(pixels, small, fidelity)
    samples = ((pixels.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    return Image.fromarray(samples)


def figures(original: Image.Image, small: Image.Image, result: Image.Image) -> list[float]:
    """added, and `FIGURES`."""
    plain = small.resize(result.size, Image.Resampling.LANCZOS)
    added = 255 * float(np.sqrt(np.mean((floats(result) - floats(plain)) ** 2)))
    case = Case(small=small, large=result, original=original)
    return [added, *(float(METRICS[name].measure(case)) for name in FIGURES)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pictures", type=Path, required=True)
    parser.add_argument("--every", type=int, default=4)
    given = parser.parse_args()
    pipe = cupscale.load("tiny", device="cpu")
    found: dict[tuple[float, float, float], list[list[float]]] = {}
    for path in sorted(given.pictures.iterdir())[:: given.every]:
        original = middle(path)
        small = original.resize((SIDE_PX // SCALE,) * 2, Image.Resampling.LANCZOS)
        for strength, structure in POINTS:
            fields = {"strength": strength, "structure": structure, "upscaler": "realesrgan", "fidelity": 0.0}
            result = cupscale.upscale(pipe, small, scale=SCALE, seed=SEED, **fields).image
            for fidelity in FIDELITIES:
                row = figures(original, small, corrected(result, small, fidelity))
                found.setdefault((strength, structure, fidelity), []).append(row)
        print(f"\n{path.name}, and the means so far:\n{table(found)}", flush=True)


def table(found: dict[tuple[float, float, float], list[list[float]]]) -> str:
    """In Markdown: a row for strength, structure and fidelity each."""
    lines = ["| strength | structure | fidelity | added | kept | patch | slope | grain |", "|---|---|---|---|---|---|---|---|"]
    for point, rows in found.items():
        added, kept, patch, slope, grain = np.mean(rows, axis=0)
        where = " | ".join(f"{value:g}" for value in point)
        lines.append(f"| {where} | {added:.2f} | {kept:.1f} | {patch:.1f} | {slope:.2f} | {grain:.2f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
