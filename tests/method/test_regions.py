"""Windows, weights, fusion."""

import itertools
import math

import pytest
import torch

from cupscale.method.regions import Fusion, Size, plan_regions, window_count

SIZES = [(128, 128), (512, 512), (129, 128), (500, 333), (130, 1000), (64, 200), (8, 8), (127, 129)]
OVERLAPS = [0.0, 0.125, 0.25, 0.5, 0.75]


def jitters():
    return [None, *(torch.Generator().manual_seed(seed) for seed in range(3))]


@pytest.mark.parametrize(("size", "count"), [(4096, 49), (8192, 225), (2048, 9), (1024, 1)])
def test_counts_are_the_papers(size, count):
    """1024 px windows, half overlapping, 8 px to a cell: 49 for 4096 and 225 for 8192 square."""
    side = size // 8
    assert len(plan_regions(Size(side, side), Size(128, 128), 0.5)) == count


@pytest.mark.parametrize(("size", "overlap"), itertools.product(SIZES, OVERLAPS))
def test_every_cell_is_covered_by_windows_of_one_size_inside_the_canvas(size, overlap):
    canvas = Size(*size)
    expected = math.prod(window_count(side, 128, overlap) for side in size)
    for generator in jitters():
        regions = plan_regions(canvas, Size(128, 128), overlap, generator)
        assert len(regions) == expected
        seen = torch.zeros(canvas)
        for region in regions:
            assert (region.h, region.w) == (min(128, canvas.h), min(128, canvas.w))
            assert region.y >= 0 and region.x >= 0
            assert region.crop(seen).shape == (region.h, region.w)
            region.crop(seen).add_(1)
        assert seen.min() >= 1


@pytest.mark.parametrize(("length", "overlap"), itertools.product([300, 511, 513, 1000], OVERLAPS))
def test_overlap_is_at_least_what_was_asked_for(length, overlap):
    starts = sorted({r.x for r in plan_regions(Size(128, length), Size(128, 128), overlap)})
    laps = [a + 128 - b for a, b in itertools.pairwise(starts)]
    assert min(laps) >= int(128 * overlap) - 1
    assert max(laps) - min(laps) <= 1  # evenly spread


def test_jitter_moves_inner_windows_and_is_seeded():
    canvas, window = Size(512, 512), Size(128, 128)
    generator = torch.Generator().manual_seed(5)
    first, second = (plan_regions(canvas, window, 0.5, generator) for _ in range(2))
    assert first != second
    assert first == plan_regions(canvas, window, 0.5, torch.Generator().manual_seed(5))


@pytest.mark.parametrize(("size", "overlap"), itertools.product(SIZES, OVERLAPS))
def test_weights_sum_to_one_and_a_constant_comes_back(size, overlap):
    canvas = Size(*size)
    for generator in jitters():
        regions = plan_regions(canvas, Size(128, 128), overlap, generator)
        fusion = Fusion(canvas, regions)
        total = torch.zeros(canvas, dtype=torch.float64)
        for region in regions:
            weight = fusion.weight(region)
            assert weight.min() >= 0
            region.crop(total).add_(weight.double())
            fusion.add(region, torch.full((4, region.h, region.w), 3.5))
        assert torch.allclose(total, torch.ones_like(total), atol=1e-6)
        assert torch.allclose(fusion.result(), torch.full((1, 4, *canvas), 3.5), atol=1e-5)


def test_weights_fall_smoothly_towards_a_shared_edge():
    """No step larger than a raised cosine makes over half a window: no seam on a smooth area."""
    canvas = Size(128, 320)
    regions = plan_regions(canvas, Size(128, 128), 0.5)
    fusion = Fusion(canvas, regions)
    for region in regions:
        row = fusion.weight(region)[64]
        assert row.diff().abs().max() < math.pi / 2 / 64 * 1.1
