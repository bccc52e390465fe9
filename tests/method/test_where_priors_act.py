"""That each prior acts where it should and nowhere else: one step of the loop through a real network, compared cell by cell.

Random weights show it better than trained ones: what they draw means nothing, so no content hides what a prior did.
"""

import numpy as np
import pytest
import slow
import torch
from test_adapters import numbers, settings

from cupscale.backbones import adapt
from cupscale.method.attention import GlobalAttention
from cupscale.method.regions import Size
from cupscale.method.sampler import JITTER, StepDone, denoise, draw_noise, generator
from cupscale.method.structure import GlobalStructure
from cupscale.method.windows import Placement, even_grid

CANVAS, WINDOW, OVERVIEW, OVERLAP, SEED = Size(28, 40), Size(12, 16), Size(10, 14), 0.5, 3
NAMES = ["sd15", "sdxl", "pixart-alpha", "sd3", "z-image"]
GRID = Placement().grids(CANVAS, WINDOW, OVERLAP, 1, generator(SEED, JITTER))[0]
TOTAL = even_grid(CANVAS, WINDOW, OVERLAP).total


def one_step(pipe, *, captions=None, structure=None, **fields):
    """The estimate x0 (1, C, H, W) of one step over the whole canvas."""
    backbone, chosen = adapt(pipe), settings(strength=0.5, steps=2, **fields)
    with backbone.denoiser(chosen, captions or [None] * TOTAL, CANVAS, OVERVIEW) as denoiser:
        loop = denoise(
            denoiser,
            backbone.schedule(chosen),
            draw_noise((1, 4, *CANVAS), 1),
            window=WINDOW,
            overlap=OVERLAP,
            seed=SEED,
            structure=structure,
            overview=draw_noise((1, 4, *OVERVIEW), 2) if chosen.attention else None,
        )
        (done,) = [event for event in loop if isinstance(event, StepDone)]
    return done.x0


def changed(one, other):
    """Which cells differ, (H, W) bool."""
    return (one != other)[0].any(dim=0)


def cells_of(regions):
    """(H, W) bool: whether one of the windows covers a cell."""
    covered = torch.zeros(CANVAS, dtype=torch.bool)
    for region in regions:
        covered[region.y : region.y + region.h, region.x : region.x + region.w] = True
    return covered


@pytest.mark.parametrize("own", [0, 5, TOTAL - 1])
@pytest.mark.parametrize("name", NAMES)
def test_a_caption_acts_in_its_region_and_nowhere_else(load, name, own):
    """RSP. Every other cell keeps its bytes."""
    pipe = load(name)
    captions = [f"a boat {k}" for k in range(TOTAL)]
    before = one_step(pipe, captions=captions, detail=0.5)
    captions[own] = "a lighthouse"
    after = one_step(pipe, captions=captions, detail=0.5)
    assert len(GRID.regions) == TOTAL
    inside, found = cells_of([GRID.regions[own]]), changed(before, after)
    assert not found[~inside].any()
    assert found[inside].float().mean() > 0.95  # at its rim a window's weight is next to nothing


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", NAMES)
def test_the_overview_acts_in_the_regions_that_show_its_place(load, name, side, monkeypatch):
    """RAP. What the pass over the picture attends to in a quarter at one side reaches the windows that show some of it."""
    pipe, keep = load(name), GlobalAttention.keep
    before = one_step(pipe, attention=0.6)

    def disturbed(self, layer, output):
        keep(self, layer, output.clone())  # the pass itself goes on undisturbed
        plane = self._outputs[layer]
        quarter = plane.shape[-1] // 4
        plane[..., :quarter] += side == "left"
        plane[..., plane.shape[-1] - quarter :] += side == "right"

    def within(region, cells):
        """Whether a window comes nearer to that side than so many cells."""
        return (region.x if side == "left" else CANVAS.w - region.x - region.w) < cells

    monkeypatch.setattr(GlobalAttention, "keep", disturbed)
    found = changed(before, one_step(pipe, attention=0.6))
    # A quarter is at most 10 cells, and interpolation reaches half a token further: 3 cells in the coarsest layer, which has 7
    # tokens for the 40.
    never = ~cells_of([region for region in GRID.regions if within(region, 10 + 3)])
    always = cells_of([region for region in GRID.regions if within(region, 4)])
    assert never.any() and not found[never].any()
    assert always.any() and found[always].float().mean() > 0.95


@pytest.mark.parametrize("name", NAMES)
def test_the_structure_acts_on_low_frequencies_and_on_nothing_else(load, name):
    """GSP. What it adds to the estimate is w LP_D(z_L - x0): the low frequencies come nearer, the high ones stay."""
    pipe, reference = load(name), draw_noise((1, 4, *CANVAS), 9)
    before = one_step(pipe)
    after = one_step(pipe, structure=GlobalStructure(reference, 0.4, 0.7))
    wanted = [
        slow.lowpass(plane, 0.4, (8, 9), (8, 12)) for plane in numbers(reference - before)[0]
    ]  # 45 and 60
    assert np.allclose(numbers(after - before)[0], 0.7 * np.stack(wanted), atol=1e-4)
