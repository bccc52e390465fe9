"""Does the diffusion earn its seconds? The bundled model's results beside their own starts, on photographs no training saw.

    python -m benchmarks.held_out --pictures data/test --reduce 8

Each photograph is reduced (and, where asked, saved as a JPEG or given noise) and enlarged by 4 at the defaults. Its start is
what the base upscaler that the run chose gives by itself. A table a kind of input and base upscaler has the means of both,
and the mean of the paired differences with its bootstrap interval over photographs (`cupscale.metrics.intervals`).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import cupscale
from benchmarks.goal import INPUTS, SCALE, degraded, floats
from cupscale.correct import correct
from cupscale.images import to_image, to_tensor
from cupscale.metrics import flat_grain, patch_distance, psnr, spectrum_slope
from cupscale.metrics.intervals import estimate
from cupscale.pipeline import CUpscalePipeline
from cupscale.reproduce.inputs import reduced
from cupscale.upscalers import base_upscale

Figures = dict[str, float]
MEASURES = {
    "patch distance, finest level": -1,
    "patch distance, second level": -1,
    "PSNR made small again, dB": 1,
    "PSNR, dB": 1,
    "slope, off the original's": -1,
    "grain of flat places, off the original's": -1,
}
"""Each with which way is better: more (1) or less (-1)."""


def figures(original: Image.Image, small: Image.Image, result: Image.Image) -> Figures:
    """`MEASURES` of a result. small: the undamaged input."""
    real, ours = floats(original), floats(result)
    again = floats(result.resize(small.size, Image.Resampling.LANCZOS))
    grain = flat_grain(real, ours)
    found = (
        patch_distance([real], [ours]),
        patch_distance([real], [ours], level=1),
        psnr(floats(small), again),
        psnr(real, ours),
        abs(spectrum_slope(ours) - spectrum_slope(real)),
        abs(grain[1] - grain[0]),
    )
    return dict(zip(MEASURES, found, strict=True))


def corrected(start: Image.Image, given: Image.Image, fidelity: float) -> Image.Image:
    """A start with the correction that the run gives its result, and nothing else."""
    pixels = to_tensor(start)[0]
    correct(pixels, given, fidelity)
    return to_image(pixels)


def rows(
    files: list[Path], factor: int, kind: str, pipeline: CUpscalePipeline, **settings: object
) -> list[dict]:
    """One a photograph: the base upscaler, and the figures of start, corrected start and result."""
    found = []
    for seed, file in enumerate(files):
        photograph = Image.open(file).convert("RGB")
        small, whole = reduced(photograph, factor)
        size = (small.width * SCALE, small.height * SCALE)
        original = whole.resize(size, Image.Resampling.LANCZOS)
        given = degraded(small, kind, seed)
        done = pipeline.upscale(given, scale=SCALE, seed=1, **settings)
        assert done.settings.fidelity != "auto"
        start = base_upscale(given.convert("RGB"), size, done.settings.upscaler, cache=pipeline.cache)
        made = {
            "start": start,
            "corrected": corrected(start, given.convert("RGB"), done.settings.fidelity),
            "result": done.image,
        }
        row = {"picture": file.stem, "upscaler": done.settings.upscaler}
        found.append(row | {name: figures(original, small, image) for name, image in made.items()})
        print(f"{kind} {file.stem}: {done.settings.upscaler}", flush=True)
    return found


def table(kind: str, upscaler: str, found: list[dict]) -> str:
    """Markdown; "worse" where the whole interval lies on the wrong side."""
    lines = [
        f"{kind}, {len(found)} photographs, from {upscaler}",
        "",
        "| | start | start, corrected | result | result less start | |",
        "|---|---|---|---|---|---|",
    ]
    for name, sign in MEASURES.items():
        start, between, result = (
            np.array([one[way][name] for one in found]) for way in ("start", "corrected", "result")
        )
        change = estimate(list(result - start))
        cell, verdict = f"{change.mean:+.2f}", ""
        if change.low is not None and change.high is not None:  # one picture has no interval
            low, high = sorted((change.low * sign, change.high * sign))
            cell += f" [{change.low:+.2f}, {change.high:+.2f}]"
            verdict = "better" if low > 0 else "worse" if high < 0 else "level"
        means = " | ".join(f"{one.mean():.2f}" for one in (start, between, result))
        lines.append(f"| {name} | {means} | {cell} | {verdict} |")
    return "\n".join(lines)


def print_tables(kind: str, found: list[dict]) -> None:
    """One for each base upscaler."""
    for upscaler in sorted({row["upscaler"] for row in found}):
        print(
            "\n" + table(kind, upscaler, [row for row in found if row["upscaler"] == upscaler]) + "\n",
            flush=True,
        )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description="The bundled model's results beside their own starts.")
    parser.add_argument("--pictures", type=Path, default=Path("data/test"), help="folder of photographs")
    parser.add_argument("--reduce", type=int, default=8, help="how much each is reduced to be the input")
    parser.add_argument("--limit", type=int, help="so many photographs at most")
    parser.add_argument("--inputs", nargs="+", choices=INPUTS, default=list(INPUTS))
    parser.add_argument("--settings", default="{}", help="JSON, over the defaults")
    parser.add_argument(
        "--out", type=Path, help="FILE.json for the figures: they go to FILE-clean.json and so on"
    )
    parser.add_argument(
        "--kept", type=Path, nargs="+", help="such files of one kind, of several runs: only their tables"
    )
    arguments = parser.parse_args()
    if arguments.kept:
        print_tables(
            arguments.inputs[0], [row for file in arguments.kept for row in json.loads(file.read_text())]
        )
        return
    torch.set_num_threads(1)
    files = sorted(arguments.pictures.glob("*.png"))[: arguments.limit]
    pipeline = CUpscalePipeline(cupscale.load("tiny"), preview_px=0)
    for kind in arguments.inputs:
        found = rows(files, arguments.reduce, kind, pipeline, **json.loads(arguments.settings))
        if arguments.out:
            arguments.out.with_stem(f"{arguments.out.stem}-{kind}").write_text(json.dumps(found, indent=1))
        print_tables(kind, found)


if __name__ == "__main__":
    main()
