"""The benchmark of results beside their own starts: its figures and its verdicts, on pictures whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from benchmarks.held_out import MEASURES, corrected, figures, table
from cupscale.metrics import flat_grain


def photograph() -> Image.Image:
    random = np.random.default_rng(4)
    rough = Image.fromarray(random.integers(0, 256, (30, 40, 3), dtype=np.uint8)).resize((160, 120))
    pixels = np.asarray(rough).astype(float) + random.normal(0, 3, (120, 160, 3))
    return Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8))


def test_the_original_is_off_by_nothing_and_a_blurred_one_by_what_it_lost():
    original = photograph()
    small = original.resize((40, 30), Image.Resampling.LANCZOS)
    blurred = small.resize(original.size, Image.Resampling.BICUBIC)
    same, soft = (list(figures(original, small, one).values()) for one in (original, blurred))
    assert same[2] == same[3] == np.inf and same[4] == same[5] == 0
    assert soft[0] > 2 * same[0] and soft[4] > 1
    real, ours = (np.asarray(one).astype(np.float32) / 255 for one in (original, blurred))
    error = np.square(real - ours).mean()
    assert soft[3] == pytest.approx(-10 * np.log10(error), abs=1e-3)
    before, after = flat_grain(real, ours)
    assert soft[5] == pytest.approx(before - after) and before > after


def test_a_corrected_start_gives_the_input_when_it_is_made_small():
    original = photograph()
    small = original.resize((40, 30), Image.Resampling.LANCZOS)
    start = original.point(lambda value: min(255, value + 9))
    given = corrected(start, small, 1.0)
    before, after = (figures(original, small, one)["PSNR made small again, dB"] for one in (start, given))
    assert before < 30 and after > before + 15


def test_a_verdict_needs_the_whole_interval():
    """Differences of -1 +- 0.1, +1 +- 0.1 and around 0: less is better of distances, more of PSNR."""
    steps = np.array([0.9, 1.0, 1.1, 1.0, 0.95, 1.05])
    even = np.array([0.9, -1.0, 1.1, -1.0, 0.95, -1.05])
    changes = dict(zip(MEASURES, (-steps, steps, steps, -steps, even, even), strict=True))
    rows = []
    for k in range(6):
        start = dict.fromkeys(MEASURES, 10.0 + k)
        result = {name: start[name] + changes[name][k] for name in MEASURES}
        rows.append({"start": start, "corrected": start, "result": result})
    lines = table("clean", "realsr", rows).splitlines()
    assert lines[0] == "clean, 6 photographs, from realsr"
    assert [line.split("|")[-2].strip() for line in lines[4:]] == [
        "better",
        "worse",
        "better",
        "worse",
        "level",
        "level",
    ]
    assert "| 12.50 | 12.50 | 11.50 | -1.00 [-1." in lines[4]
