"""The plan: its time, by hand. (Sizes, regions, evaluations and presets: test_pipeline.py, test_presets.py.)"""

from dataclasses import replace

import pytest

from cupscale import models
from cupscale.planning import Geometry, device_bytes, duration, make_plan
from cupscale.settings import Settings

GEOMETRY = Geometry(native=64, cell=8, align=8)
# Bytes above the loaded bundled model at 4x without overlap: `python -m benchmarks.run one SIDE 0`, and `eight`.
MEASURED = [(2048, 0.400e9), (4096, 1.124e9), (8192, 4.561e9)]  # `python -m benchmarks.run one SIDE 0.25`


@pytest.mark.parametrize(
    ("calls", "seconds"),
    [(0, 46.6), (3, 52.6)],
)
def test_the_time_is_samples_and_pixels_at_the_speed_of_earlier_runs(calls, seconds):
    """96 x 64 px, doubled: a canvas of 192 x 128 px, 3 x 2 windows of 64 px that do not overlap, 5 steps with guidance:
    2 x 6 x 5 + 5 = 65 samples. Measured: 1.4 s a sample of 128 cells (a window has 64), 44 s a megapixel of 0.024576,
    2 s a call. 65 x 1.4 x 64 / 128 = 45.5; 44 x 0.024576 = 1.0813."""
    settings = Settings.build(scale=2, overlap=0, steps=10, strength=0.5, guidance=3, attention=0.5)
    speed = {"sample": 1.4, "cells": 128, "megapixel": 44.0, "call": 2.0}
    plan = make_plan((96, 64), settings, GEOMETRY, speed, caption_calls=calls)
    assert (plan.samples, plan.seconds) == (65, seconds)


def test_a_fast_machine_still_takes_a_time():
    settings = Settings.build(scale=1, steps=1, strength=1)
    plan = make_plan((64, 64), settings, GEOMETRY, {"sample": 1e-9, "cells": 64, "megapixel": 1e-9})
    assert plan.seconds == 0.1
    assert make_plan((64, 64), settings, GEOMETRY).seconds is None


def test_duration_in_words():
    assert [duration(s) for s in (0.1, 59.4, 75, 120, 3700)] == [
        "1 s",
        "59 s",
        "1 min 15 s",
        "2 min",
        "1 h 1 min",
    ]


def test_what_a_device_holds_leaves_out_what_waits_in_main_memory():
    """SDXL to 4096 px: a tile of 1024 px at 1434 bytes a pixel, 18 bytes for each of the canvas, and 12 copies of the latents."""
    geometry = Geometry(native=1024, cell=8, align=32, channels=4, weights=10**9, tile=1434)
    plan = make_plan((1024, 768), Settings.build(scale=4), geometry)
    pixels = 4096 * 3072
    device = 1024**2 * 1434 + 18 * pixels + 12 * (pixels // 64) * 4 * 4
    assert device_bytes(plan, geometry) == device
    # A network whose window takes more than the tile.
    small = replace(geometry, tile=100)
    assert device_bytes(make_plan((1024, 768), Settings.build(scale=4), small), small) == (
        device - 1024**2 * 1434 + 128 * 128 * 320 * 160
    )


def test_the_memory_of_a_plan_by_hand():
    """The larger of two stages. 1024 x 768 to 4096 x 3072: latents of 512 x 384 cells of 4 channels, a window of 128 x 128."""
    pixels, latents = 4096 * 3072, 512 * 384 * 4 * 4
    window, tile = 128 * 128 * 320 * 160, 1024**2 * 1434
    geometry = Geometry(native=1024, cell=8, align=32, channels=4, weights=10**9, tile=1434)

    def planned(**changed):
        return make_plan((1024, 768), Settings.build(scale=4), replace(geometry, **changed)).bytes - 10**9

    assert planned() == 2 * latents + 13 * pixels + tile
    assert planned(tile=0) == 11 * latents // 2 + window
    assert planned(tile=0, width=40) == 2 * latents + 13 * pixels
    assert planned(tile=0, width=640) == 11 * latents // 2 + 2 * window
    # A window that is not square: the whole of 1024 x 512.
    small = make_plan((1024, 512), Settings.build(scale=1), replace(geometry, tile=0))
    assert small.bytes - 10**9 == 11 * 128 * 64 * 4 * 4 // 2 + 128 * 64 * 320 * 160


def test_longer_windows_count_by_their_size():
    """SDXL to 4096 px by turns: 20 windows of 128 x 140 cells a step, 4 steps of which 2 are guided, and 4 overviews."""
    geometry = Geometry(native=1024, cell=8, align=32, channels=4, weights=10**9)
    fields = {"scale": 4, "steps": 4, "strength": 1.0, "overlap": 0.0, "guidance": 5, "guidance_until": 0.5}
    still = make_plan((1024, 1024), Settings.build(fields), geometry)
    moving = make_plan((1024, 1024), Settings.build(fields, windows="alternating"), geometry)
    assert (still.windows, still.area, still.work) == (64, 1.0, 64 + 32 + 4)
    assert (moving.windows, moving.samples, moving.area) == (80, 80 + 40 + 4, 140 / 128)
    assert moving.work == (80 + 40) * 140 / 128 + 4
    longer = 128 * 12 * 320 * 160
    assert (
        moving.bytes - still.bytes == device_bytes(moving, geometry) - device_bytes(still, geometry) == longer
    )
    speed = {"sample": 0.1, "megapixel": 0.0}
    timed = make_plan((1024, 1024), Settings.build(fields, windows="alternating"), geometry, speed)
    assert timed.seconds == pytest.approx(0.1 * moving.work, abs=0.06)
    wide = make_plan((1024, 512), Settings.build(fields, windows="alternating"), replace(geometry, align=64))
    # Odd steps move the columns, 2 x 5 of 128; of 136 and 144 by turns the even ones have 3 rows and 4 columns.
    assert wide.windows == 2 * (3 * 4) + 2 * (2 * 5)
    assert wide.area == pytest.approx((24 * 144 / 128 + 20 * 136 / 128) / 44)


@pytest.mark.parametrize(("side", "used"), MEASURED)
def test_the_memory_of_a_plan_is_within_a_quarter_of_what_was_used(side, used):
    geometry = models.KNOWN["tiny"].geometry
    plan = make_plan((side // 4, side // 4), Settings.build(scale=4, overlap=0.25), geometry)
    assert 0.8 < (plan.bytes - geometry.weights) / used < 1.25


def test_a_controlnet_runs_beside_every_sample_but_those_that_draw():
    """3 windows x 2 steps and 2 overviews, guided: 14 samples; a ControlNet's count half. Drawing takes 4 x 2 more."""
    size, geometry = (64, 32), Geometry(native=64, cell=8, align=32)
    fields = {"scale": 2, "steps": 4, "strength": 0.5, "overlap": 0.0, "guidance": 3}
    plain = make_plan(size, Settings.build(fields), geometry)
    windows = len(plain.regions)
    beside = make_plan(size, Settings.build(fields, control=0.7), geometry)
    assert (plain.samples, plain.control_samples) == (2 * (2 * windows) + 2, 0)
    assert beside.samples == plain.samples == beside.control_samples
    assert beside.work == 1.5 * plain.work
    assert "model calls (guidance doubles each, a ControlNet runs beside each)" in beside.line()
    assert "ControlNet" not in plain.line()
    drawn = make_plan((64, 64), Settings.build(fields, control=0.7), geometry, drawn=True)
    assert drawn.samples - drawn.control_samples == 2 * 4
