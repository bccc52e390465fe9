"""The bundled model beside its starts on public photographs: `python -m benchmarks.goal --pictures DIR` (Kodak's suite).

Each photograph's middle 384 x 384 px is reduced to 96 by Lanczos (and, where asked, saved as a JPEG or given noise), and
enlarged by 4. Patch distance is `cupscale.metrics.patch_distance` over all photographs, at the finest Laplacian level and, on
both halved, at the second; originals against themselves are its floor. PSNR is of the result made small again, against the
clean input, and of the result against the original. Nothing is trained or chosen on these photographs.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import cupscale
from cupscale.metrics import flat_grain, patch_distance, psnr
from cupscale.pipeline import CUpscalePipeline
from cupscale.upscalers import base_upscale
from training import metrics

SIDE, SCALE = 384, 4
INPUTS = ("clean", "jpeg75", "noise5")


def floats(image: Image.Image) -> np.ndarray:
    """(H, W, 3) in 0..1."""
    return np.asarray(image.convert("RGB")).astype(np.float32) / 255


def small(image: Image.Image) -> Image.Image:
    """Reduced by 4."""
    return image.resize((SIDE // SCALE, SIDE // SCALE), Image.Resampling.LANCZOS)


def degraded(image: Image.Image, kind: str, seed: int) -> Image.Image:
    """The input as `kind` of `INPUTS` has it; a JPEG is given as one, so that its file tells what it is."""
    if kind == "jpeg75":
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=75)
        return Image.open(io.BytesIO(buffer.getvalue()))
    if kind == "noise5":
        noisy = metrics.add_noise(floats(image), 5.0, seed)
        return Image.fromarray((noisy * 255).round().clip(0, 255).astype(np.uint8))
    return image


def halved(pictures: list[np.ndarray]) -> list[np.ndarray]:
    """Each at half its size, for the second level."""
    images = [Image.fromarray((one * 255).round().astype(np.uint8)) for one in pictures]
    return [floats(one.resize((SIDE // 2, SIDE // 2), Image.Resampling.BOX)) for one in images]


def row(name: str, originals: list[np.ndarray], results: list[np.ndarray]) -> str:
    """A line of the table."""
    inputs = [floats(small(Image.fromarray((o * 255).round().astype(np.uint8)))) for o in originals]
    again = [floats(small(Image.fromarray((r * 255).round().astype(np.uint8)))) for r in results]
    down = [psnr(a, b) for a, b in zip(inputs, again, strict=True)]
    full = [psnr(a, b) for a, b in zip(originals, results, strict=True)]
    grain = [flat_grain(a, b) for a, b in zip(originals, results, strict=True)]
    cells = [
        f"{patch_distance(originals, results):.1f}",
        f"{patch_distance(halved(originals), halved(results)):.1f}",
        *(f"{mean:.1f} ± {half:.1f}" for mean, half in map(metrics.mean_and_interval, (down, full))),
        f"{np.mean([g[1] for g in grain]):.2f} of {np.mean([g[0] for g in grain]):.2f}",
    ]
    return f"| {name} | {' | '.join(cells)} |"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=Path, required=True)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--inputs", nargs="+", choices=INPUTS, default=list(INPUTS))
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    files = sorted(arguments.pictures.glob("*.png"))[: arguments.limit]
    originals = []
    for file in files:
        image = Image.open(file).convert("RGB")
        left, top = (image.width - SIDE) // 2, (image.height - SIDE) // 2
        originals.append(image.crop((left, top, left + SIDE, top + SIDE)))
    pipeline = CUpscalePipeline(cupscale.load("tiny"), preview_px=0)
    truth = [floats(one) for one in originals]
    for kind in arguments.inputs:
        print(f"\n{kind}, {len(files)} photographs\n")
        print("| | patches, finest | second | PSNR made small, dB | PSNR, dB | grain of flat places |")
        print("|---|---|---|---|---|---|")
        inputs = [degraded(small(one), kind, seed) for seed, one in enumerate(originals)]
        print(row("originals", truth, truth), flush=True)
        for method in ("lanczos", "realesrgan", "realsr"):
            results = [floats(base_upscale(one.convert("RGB"), (SIDE, SIDE), method)) for one in inputs]
            print(row(method, truth, results), flush=True)
        done = [pipeline.upscale(one, scale=SCALE, seed=1) for one in inputs]
        print(row("cupscale, defaults", truth, [floats(one.image) for one in done]), flush=True)
        chosen = [one.settings.upscaler for one in done]
        print("\nchosen: " + ", ".join(f"{name} {chosen.count(name)}" for name in sorted(set(chosen))))


if __name__ == "__main__":
    main()
