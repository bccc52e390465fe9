"""Figures of upscaled pictures: each with its source, its range, and which way is better.

`METRICS` are those that need no weights. `cupscale.metrics.learned` has those that do.
"""

from __future__ import annotations

import math

from cupscale.metrics import fidelity, patches, repetition, seams, spectrum, texture
from cupscale.metrics.base import Case, Cost, Metric
from cupscale.metrics.fidelity import psnr
from cupscale.metrics.patches import patch_distance
from cupscale.metrics.seams import border_energy, window_borders
from cupscale.metrics.spectrum import spectrum_slope
from cupscale.metrics.texture import flat_grain

__all__ = [
    "METRICS",
    "Case",
    "Cost",
    "Metric",
    "border_energy",
    "flat_grain",
    "patch_distance",
    "psnr",
    "spectrum_slope",
    "window_borders",
]

INF = math.inf
DIFFUSION_4K = "Zhang et al., Diffusion-4K, 2025, arXiv 2503.18352"
KARRAS = "Karras et al., Progressive Growing of GANs, 2018, arXiv 1710.10196, its channels not normalised"


def _evaluations(case: Case) -> float:
    return case.cost.evaluations if case.cost else math.nan


def _seconds(case: Case) -> float:
    return case.cost.seconds if case.cost else math.nan


def _memory(case: Case) -> float:
    return case.cost.peak_bytes / 2**30 if case.cost and case.cost.peak_bytes is not None else math.nan


_ALL = (
    Metric(
        "psnr",
        "PSNR, made small again",
        "of the result reduced to the input's size",
        0,
        100,
        "higher",
        fidelity.small_psnr,
        "dB",
    ),
    Metric(
        "ssim",
        "SSIM, made small again",
        "Wang et al., Image Quality Assessment, 2004",
        -1,
        1,
        "higher",
        fidelity.small_ssim,
        digits=4,
    ),
    Metric(
        "colour",
        "Colour shift",
        "ours, with CIEDE2000 of Sharma et al. 2005",
        0,
        INF,
        "lower",
        fidelity.colour_shift,
        "ΔE",
    ),
    *(
        Metric(
            f"patch{level + 1}",
            f"Patch distance, level {level + 1}",
            KARRAS,
            0,
            INF,
            "lower",
            patches.at_level(level),
        )
        for level in range(patches.LEVELS)
    ),
    Metric(
        "slope",
        "Spectrum slope",
        "Field, Relations between the statistics of natural images, 1987: about -2 in photographs",
        -INF,
        INF,
        "none",
        spectrum.slope,
    ),
    Metric("grain", "Grain of flat places", "ours", 0, 255, "lower", texture.grain, "of 255"),
    Metric("glcm", "GLCM score", DIFFUSION_4K, 0, 16, "higher", texture.glcm, "bits", digits=3),
    Metric("compression", "Compression ratio", DIFFUSION_4K, 0, INF, "lower", texture.compression),
    Metric("seams", "Seams", "ours", 0, INF, "near", seams.seams, target=1.0, digits=3),
    Metric("repetition", "Repetition", "ours", -2, 2, "lower", repetition.repetition, digits=4),
    Metric(
        "evaluations",
        "Network evaluations",
        "guidance counted twice",
        0,
        INF,
        "lower",
        _evaluations,
        digits=0,
    ),
    Metric("seconds", "Seconds", "on this machine", 0, INF, "lower", _seconds, "s"),
    Metric(
        "memory",
        "Peak memory",
        "of the accelerator, else of the process",
        0,
        INF,
        "lower",
        _memory,
        "GiB",
    ),
)

METRICS: dict[str, Metric] = {metric.name: metric for metric in _ALL}
COSTS = ("evaluations", "seconds", "memory")
