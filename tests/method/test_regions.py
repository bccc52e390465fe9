"""Windows, weights, fusion."""

import itertools
import math

import numpy as np
import pytest
import slow
import torch

from cupscale.method.regions import Feathers, Fusion, Region, Size, feather, plan_regions, window_count

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


@pytest.mark.parametrize(
    ("length", "window", "overlap", "count"),
    [
        (16, 16, 0.5, 1),
        (15, 16, 0.5, 1),
        (17, 16, 0.5, 2),
        (24, 16, 0.5, 2),
        (25, 16, 0.5, 3),
        (40, 12, 0.3, 5),  # 12 x 0.7 = 8 whole cells a stride: 28 / 8 = 3.5
        (41, 16, 0.0, 3),
        (10, 4, 0.75, 7),
        (10, 3, 0.75, 8),  # never less than a cell a stride
    ],
)
def test_window_count(length, window, overlap, count):
    assert window_count(length, window, overlap) == count


def test_starts_by_hand():
    """Rows: 3 windows on 37 - 16 = 21, a stride of 10.5. Columns: 4 on 61 - 20 = 41, of 13 2/3. Row by row."""
    regions = plan_regions(Size(37, 61), Size(16, 20), 0.25)
    assert regions == [(y, x, 16, 20) for y in (0, 10, 21) for x in (0, 14, 27, 41)]
    assert plan_regions(Size(10, 30), Size(16, 20), 0.25) == [(0, 0, 10, 20), (0, 10, 10, 20)]


def test_a_region_crops_and_scales_its_own_place():
    canvas = torch.arange(2 * 5 * 7).view(2, 5, 7)
    region = Region(y=1, x=3, h=2, w=4)
    assert region.crop(canvas)[1].tolist() == [[45, 46, 47, 48], [52, 53, 54, 55]]
    assert region.scaled(8) == (8, 24, 16, 32)


# 3 windows down, a stride of 10.5; 5 across, of 11.25: neighbours overlap by 5.5 and by 8.75.
JITTERED = {"canvas": Size(37, 65), "window": Size(16, 20), "overlap": 0.3}


@pytest.mark.parametrize("seed", range(4))
def test_jitter_is_a_draw_per_axis_times_half_of_the_overlap(seed):
    generator = torch.Generator().manual_seed(seed)
    down, across = torch.rand(2, generator=torch.Generator().manual_seed(seed)).tolist()
    y = 10.5 + (2 * down - 1) * 5.5 / 2
    x = [k * 11.25 + (2 * across - 1) * 8.75 / 2 for k in (1, 2, 3)]
    regions = plan_regions(**JITTERED, generator=generator)
    assert regions == [
        (top, left, 16, 20) for top in (0, round(y), 21) for left in (0, *(round(place) for place in x), 45)
    ]


def test_jitter_goes_to_both_sides_of_either_axis_and_leaves_the_outer_windows():
    generator = torch.Generator().manual_seed(0)
    moves = set()
    plain = plan_regions(**JITTERED)
    for _ in range(300):
        regions = plan_regions(**JITTERED, generator=generator)
        for a, b in zip(plain, regions, strict=True):
            assert b.y == a.y if a.y in (0, 21) else abs(b.y - 10.5) <= 5.5 / 2 + 0.5
            assert b.x == a.x if a.x in (0, 45) else abs(b.x - a.x) <= 8.75 / 2 + 1
        moves.add((regions[5].y - 10.5, regions[5 + 2].x - 22.5))  # the second row's, and its middle window
    down, across = ({move[axis] for move in moves} for axis in (0, 1))
    assert min(down) <= -2.5 and max(down) >= 2.5 and min(across) <= -3.5 and max(across) >= 3.5
    assert len(moves) > 2 * max(len(down), len(across))  # one axis does not follow from the other


def test_jitter_of_a_large_overlap_passes_no_neighbour():
    """20 cells, overlapping by 15: a stride of 5 bounds the shift to 2.5."""
    for seed in range(50):
        regions = plan_regions(Size(20, 40), Size(20, 20), 0.75, torch.Generator().manual_seed(seed))
        draw = torch.rand(
            (), generator=torch.Generator().manual_seed(seed)
        ).item()  # one row: no draw for its axis
        inner = [round(k * 5 + (2 * draw - 1) * 2.5) for k in range(1, 4)]
        assert [region.x for region in regions] == [0, *inner, 20]


def test_two_windows_have_nothing_to_move_and_draw_nothing():
    generator = torch.Generator().manual_seed(5)
    before = generator.get_state()
    assert plan_regions(Size(24, 16), Size(16, 16), 0.5, generator) == [(0, 0, 16, 16), (8, 0, 16, 16)]
    assert torch.equal(generator.get_state(), before)


def test_every_plan_of_a_generator_is_another():
    generator = torch.Generator().manual_seed(5)
    first, second = (plan_regions(Size(512, 512), Size(128, 128), 0.5, generator) for _ in range(2))
    assert first != second
    assert first == plan_regions(Size(512, 512), Size(128, 128), 0.5, torch.Generator().manual_seed(5))


@pytest.mark.parametrize(
    ("length", "window", "starts"),
    [
        (37, 16, [0, 10, 21]),  # overlaps of 6 and 5
        (30, 16, [14, 0, 3, 14, 3, 9]),  # more than two at once; in any order, and twice
        (40, 10, [0, 10, 20, 30]),  # side by side
        (28, 10, [0, 9, 18]),  # one cell shared
        (12, 12, [0]),
    ],
)
def test_feather_against_a_slow_loop(length, window, starts):
    weights = feather(length, window, starts)
    expected = slow.weights(length, window, starts)
    assert weights.keys() == expected.keys()
    for start, weight in weights.items():
        assert weight.dtype == torch.float32
        assert np.allclose(weight, expected[start], atol=1e-6), start


def test_feather_by_hand():
    """Two windows of 3 that share two cells, a quarter and three quarters along a raised cosine."""
    rise = 0.5 - 0.5 * math.cos(math.pi / 4)
    weights = feather(4, 3, [0, 1])
    assert weights[0].tolist() == pytest.approx([1, 1 - rise, rise])
    assert weights[1].tolist() == pytest.approx([rise, 1 - rise, 1])


def test_fusion_is_the_weighted_sum():
    canvas, height, width = Size(13, 21), 6, 9
    regions = plan_regions(canvas, Size(height, width), 0.4, torch.Generator().manual_seed(1))
    outputs = torch.randn(len(regions), 2, height, width, generator=torch.Generator().manual_seed(2))
    rows = slow.weights(13, height, [region.y for region in regions])
    cols = slow.weights(21, width, [region.x for region in regions])
    expected = np.zeros((2, *canvas))
    fusion = Fusion(canvas, Feathers.of(canvas, regions))
    for region, output in zip(regions, outputs, strict=True):
        for i in range(height):
            for j in range(width):
                weight = rows[region.y][i] * cols[region.x][j]
                expected[:, region.y + i, region.x + j] += weight * output[:, i, j].double().numpy()
        fusion.add(region, output)
    result = fusion.result()
    assert result.shape == (1, 2, *canvas) and result.dtype == torch.float32
    assert np.allclose(result[0], expected, atol=1e-5)


def test_fusion_sums_half_precision_in_float32():
    regions = plan_regions(Size(8, 12), Size(8, 8), 0.5)
    fusion = Fusion(Size(8, 12), Feathers.of(Size(8, 12), regions))
    for region in regions:
        fusion.add(region, torch.full((1, 8, 8), 0.1, dtype=torch.float16))
    assert torch.allclose(fusion.result(), torch.full((1, 1, 8, 12), 0.0999755859375), atol=1e-7)


@pytest.mark.parametrize(("size", "overlap"), itertools.product(SIZES, OVERLAPS))
def test_weights_sum_to_one_and_a_constant_comes_back(size, overlap):
    canvas = Size(*size)
    for generator in jitters():
        regions = plan_regions(canvas, Size(128, 128), overlap, generator)
        fusion = Fusion(canvas, feathers := Feathers.of(canvas, regions))
        total = torch.zeros(canvas, dtype=torch.float64)
        for region in regions:
            weight = feathers.weight(region)
            assert weight.min() >= 0
            region.crop(total).add_(weight.double())
            fusion.add(region, torch.full((4, region.h, region.w), 3.5))
        assert torch.allclose(total, torch.ones_like(total), atol=1e-6)
        assert torch.allclose(fusion.result(), torch.full((1, 4, *canvas), 3.5), atol=1e-5)


def test_weights_fall_smoothly_towards_a_shared_edge():
    """No step larger than a raised cosine makes over half a window: no seam on a smooth area."""
    canvas = Size(128, 320)
    regions = plan_regions(canvas, Size(128, 128), 0.5)
    feathers = Feathers.of(canvas, regions)
    for region in regions:
        row = feathers.weight(region)[64]
        assert row.diff().abs().max() < math.pi / 2 / 64 * 1.1
