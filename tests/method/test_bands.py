"""A canvas in bands of rows: the same numbers as at once, and no more of them in between than a band."""

from __future__ import annotations

import math

import diffusers
import pytest
import torch

from cupscale.backbones import schedules
from cupscale.backbones.schedules import DiffusersSchedule, FlowSchedule
from cupscale.method import bands as module
from cupscale.method.bands import bands, by_bands

CPU = torch.device("cpu")
DIFFUSION = {
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
}


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("shape", "rows"),
    [
        ((1, 3, 10, 7), [(0, 3), (3, 6), (6, 9), (9, 10)]),  # 21 numbers a row, 70 at once
        ((1, 3, 3, 7), [(0, 3)]),
        ((1, 3, 3, 40), [(0, 1), (1, 2), (2, 3)]),  # a row is more than is asked for
    ],
)
def test_bands_are_as_many_rows_as_numbers_allow(monkeypatch, shape, rows):
    monkeypatch.setattr(module, "BAND", 70)
    assert [(band.start, band.stop) for band in bands(torch.zeros(shape))] == rows


@pytest.mark.parametrize("out", [None, 0, 1, "another"])
def test_a_formula_gives_the_same_numbers_band_by_band(monkeypatch, out):
    """Wherever they are written, over one of the canvases too; what has one channel is cut into the same rows."""
    x, y, mask = noise(1, 3, 11, 7), noise(1, 3, 11, 7, seed=1), noise(1, 1, 11, 7, seed=2)
    expected, rows = x * mask - 2 * y, []

    def formula(x, y, mask):
        rows.append(x.shape[-2])
        return x * mask - 2 * y

    monkeypatch.setattr(module, "BAND", 4 * 21)
    target = {None: None, 0: x, 1: y, "another": torch.empty(1, 3, 11, 7)}[out]
    found = by_bands(formula, x, y, mask, out=target)
    assert torch.equal(found, expected) and rows == [4, 4, 3]
    assert target is None or found is target


def test_a_small_canvas_is_not_copied():
    x = noise(1, 3, 4, 5)
    assert by_bands(lambda x: x, x) is x


def diffusion(kind, **options):
    return kind(**DIFFUSION, **options)


FLOW = diffusers.FlowMatchEulerDiscreteScheduler
SCHEDULERS = {
    "ddim": diffusion(diffusers.DDIMScheduler, clip_sample=False),
    "euler": diffusion(diffusers.EulerDiscreteScheduler, prediction_type="v_prediction"),
    "dpm++2m": diffusion(diffusers.DPMSolverMultistepScheduler, algorithm_type="dpmsolver++"),
    "dpm++2m of x0": diffusion(diffusers.DPMSolverMultistepScheduler, prediction_type="sample"),
    "ancestral": diffusion(diffusers.EulerAncestralDiscreteScheduler),
    "sde": diffusion(diffusers.DPMSolverMultistepScheduler, algorithm_type="sde-dpmsolver++"),
    "threshold": diffusion(
        diffusers.DDIMScheduler, clip_sample=False, thresholding=True, sample_max_value=9.0
    ),
    "flow": FLOW(shift=3.0),
    "drawn flow": FLOW(shift=3.0, stochastic_sampling=True),
}


def schedule(name, shift=0.0):
    scheduler = SCHEDULERS[name]
    if isinstance(scheduler, FLOW):
        return FlowSchedule(scheduler, "model", 0.7, 8, 3, CPU, tokens=64, shift=shift)
    return DiffusersSchedule(scheduler, "model", 0.7, 8, 3, CPU, shift)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_sampler_steps_band_by_band_as_at_once(monkeypatch, name):
    """What it remembers from step to step, the band's own; where it draws noise or measures the picture, it sees it whole."""
    found = []
    for numbers in (2**20, 4 * 9 * 3):
        monkeypatch.setattr(module, "BAND", numbers)
        steps, sample = schedule(name), noise(1, 4, 16, 9) * 2
        for i in range(len(steps.timesteps)):
            sample = steps.step(noise(1, 4, 16, 9, seed=i) + sample / 4, sample, i)
        found.append(sample)
    assert torch.equal(*found)
    assert math.isfinite(found[0].sum()) and found[0].std() > 0.1


def test_a_step_told_of_less_noise_too(monkeypatch):
    """Detail by `sigma_shift`."""
    found = []
    for numbers in (2**20, 4 * 9 * 3):
        monkeypatch.setattr(module, "BAND", numbers)
        steps, sample = schedule("euler", shift=0.2), noise(1, 4, 16, 9) * 2
        for i in range(len(steps.timesteps)):
            sample = steps.step(noise(1, 4, 16, 9, seed=i), sample, i)
        found.append(sample)
    assert torch.equal(*found)


def test_only_a_part_of_a_large_canvas_is_handed_to_a_sampler(monkeypatch):
    """So that what it makes on the way is as large as a part: 3 of 16 rows here."""
    monkeypatch.setattr(module, "BAND", 4 * 9 * 3)

    def stepped(self, scheduler, output, sample, i):
        seen.append(output.shape[-2])
        return output

    monkeypatch.setattr(schedules._Truncated, "_stepped", stepped)
    for name, rows in {"euler": [3, 3, 3, 3, 3, 1], "ancestral": [16]}.items():
        seen = []
        schedule(name).step(noise(1, 4, 16, 9), noise(1, 4, 16, 9), 0)
        assert seen == rows
