"""Where the windows lie at each step: shifts, falling overlap, windows that show nothing."""

import pytest
import torch

from cupscale.method.regions import Feathers, Region, Size, plan_regions
from cupscale.method.windows import FlatPlaces, Grid, Placement, even_grid, feathers, overlap_at

CANVAS, WINDOW = Size(37, 65), Size(16, 20)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def draws(seed, count):
    one = generator(seed)
    return [torch.rand((), generator=one).item() for _ in range(count)]


def slow_starts(length, side, stride, shift):
    """Cell by cell: windows every `stride` cells from -shift on, moved back inside, until the last cell is covered."""
    starts, place = [], -shift
    while True:
        starts.append(min(max(place, 0), length - side))
        if place + side >= length:
            return tuple(dict.fromkeys(starts))
        place += stride


def test_jittered_windows_are_those_of_plan_regions():
    grids = Placement().grids(CANVAS, WINDOW, 0.3, 3, generator(4))
    one = generator(4)
    assert [grid.regions for grid in grids] == [plan_regions(CANVAS, WINDOW, 0.3, one) for _ in range(3)]


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.6])
def test_a_shifted_grid_moves_along_both_axes(overlap):
    grids = Placement("shifted").grids(CANVAS, WINDOW, overlap, 6, generator(2))
    down, across = int(16 * (1 - overlap)), int(20 * (1 - overlap))
    for grid, (y, x) in zip(grids, zip(*[iter(draws(2, 12))] * 2, strict=True), strict=True):
        assert grid.rows == slow_starts(37, 16, down, int(y * down))
        assert grid.cols == slow_starts(65, 20, across, int(x * across))
    assert len({grid.rows for grid in grids}) > 2 and len({grid.cols for grid in grids}) > 2


def slow_side(length, side, count, unit):
    """The first side from `side` on, in steps of `unit`, whose `count` windows overlap by an eighth of `side` in the mean."""
    longer = -(-side // unit) * unit
    while count * longer - length < (count - 1) * side / 8:
        longer += unit
    return longer


@pytest.mark.parametrize(("unit", "sides"), [(1, (18, 22)), (4, (20, 24))])
def test_alternating_grids_move_one_axis_and_overlap_along_the_other(unit, sides):
    """48 x 80 cells are 3 x 4 windows of 16 x 20: at rest they are longer, and no more of them."""
    canvas = Size(48, 80)
    assert (slow_side(48, 16, 3, unit), slow_side(80, 20, 4, unit)) == sides
    one = generator(2)
    for step, grid in enumerate(
        Placement("alternating", unit=unit).grids(canvas, WINDOW, 0.0, 6, generator(2))
    ):
        if step % 2 == 0:
            y, x = torch.rand(2, generator=one).tolist()
            rows = slow_starts(48, 16, 16, int(y * 16))
            room = sides[1] - (80 - sides[1]) / 3
            cols = [k * (80 - sides[1]) / 3 + (2 * x - 1) * room / 2 for k in (1, 2)]
            assert grid == Grid(rows, (0, round(cols[0]), round(cols[1]), 80 - sides[1]), Size(16, sides[1]))
        else:
            y, x = torch.rand(2, generator=one).tolist()
            room = sides[0] - (48 - sides[0]) / 2
            middle = round((48 - sides[0]) / 2 + (2 * y - 1) * room / 2)
            assert grid == Grid(
                (0, middle, 48 - sides[0]), slow_starts(80, 20, 20, int(x * 20)), Size(sides[0], 20)
            )


@pytest.mark.parametrize(
    ("longest", "sides"), [(0, (20, 24)), (24, (20, 24)), (23, (20, 20)), (19, (16, 20)), (4, (16, 20))]
)
def test_no_window_is_made_longer_than_the_network_has_positions_for(longest, sides):
    """48 x 80 cells in windows of 16 x 20, whose sides are multiples of 4. Those that are there already stay."""
    grids = Placement("alternating", unit=4, longest=longest).grids(
        Size(48, 80), WINDOW, 0.0, 2, generator(2)
    )
    assert [grid.window for grid in grids] == [Size(16, sides[1]), Size(sides[0], 20)]
    assert [(len(grid.rows), len(grid.cols)) for grid in grids] == [(4, 4), (3, 5)]


def test_windows_at_rest_that_overlap_already_keep_their_size():
    """37 x 65 cells in windows of 16 x 20 overlap by 5.5 and 5; with a stride of 12 and 15, 16 x 20 of 40 x 65 do."""
    for canvas, overlap, counts in ((CANVAS, 0.0, (3, 4)), (Size(40, 65), 0.25, (3, 4))):
        grids = Placement("alternating").grids(canvas, WINDOW, overlap, 6, generator(2))
        assert {grid.window for grid in grids} == {WINDOW}
        assert {len(grid.cols) for grid in grids[::2]} == {counts[1]}
        assert {len(grid.rows) for grid in grids[1::2]} == {counts[0]}


def test_where_one_axis_has_one_window_the_other_moves_every_time():
    grids = Placement("alternating").grids(Size(16, 65), WINDOW, 0.0, 8, generator(1))
    drawn = draws(1, 8)  # one a step: what stands still draws nothing
    assert [grid.cols for grid in grids] == [slow_starts(65, 20, 20, int(x * 20)) for x in drawn]
    assert {(grid.rows, grid.window) for grid in grids} == {((0,), WINDOW)}
    grids = Placement("alternating").grids(Size(65, 20), WINDOW, 0.0, 8, generator(1))
    assert [grid.rows for grid in grids] == [slow_starts(65, 16, 16, int(y * 16)) for y in drawn]
    assert {(grid.cols, grid.window) for grid in grids} == {((0,), WINDOW)}


def test_small_windows_that_overlap_most_are_one_cell_apart():
    """A quarter of 4 cells is 1, of 7 it is 1.75: no shift is left."""
    (grid,) = Placement("shifted").grids(Size(9, 12), Size(4, 7), 0.75, 1, generator(2))
    assert grid == Grid(tuple(range(6)), tuple(range(6)), Size(4, 7))


def test_counts_at_4k():
    """512 cells in windows of 128: 4 a side that stand still, 5 along an axis that moves."""
    canvas, window = Size(512, 512), Size(128, 128)
    shifted = Placement("shifted").grids(canvas, window, 0.0, 50, generator())
    assert {grid.total for grid in shifted} == {20, 25}  # one of the draws is no shift
    alternating = Placement("alternating").grids(canvas, window, 0.0, 50, generator())
    assert {grid.total for grid in alternating} == {16, 20}
    falling = Placement("jittered", "thirds").grids(canvas, window, 0.5, 6, generator())
    assert [grid.total for grid in falling] == [49, 49, 25, 25, 16, 16]


@pytest.mark.parametrize(
    ("steps", "shares"),
    [(1, [1]), (2, [1, 0.5]), (3, [1, 0.5, 0]), (5, [1, 1, 0.5, 0.5, 0]), (7, [1, 1, 1, 0.5, 0.5, 0, 0])],
)
def test_the_overlap_falls_in_thirds(steps, shares):
    assert [overlap_at(0.6, i, steps, "thirds") for i in range(steps)] == [0.6 * share for share in shares]
    assert {overlap_at(0.6, i, steps, "none") for i in range(steps)} == {0.6}


@pytest.mark.parametrize("placing", ["shifted", "alternating"])
@pytest.mark.parametrize("canvas", [(37, 65), (16, 20), (17, 21), (10, 90), (48, 60)])
@pytest.mark.parametrize("overlap", [0.0, 0.4, 0.75])
def test_every_cell_is_covered_and_the_weights_sum_to_one(placing, canvas, overlap):
    canvas = Size(*canvas)
    grids = Placement(placing).grids(canvas, WINDOW, overlap, 8, generator(3))
    for grid, weights in zip(grids, feathers(canvas, grids, torch.device("cpu")), strict=True):
        total = torch.zeros(canvas)
        for region in grid.regions:
            assert region.crop(total).shape == grid.window == region[2:]
            region.crop(total).add_(weights.weight(region))
        assert torch.allclose(total, torch.ones(canvas), atol=1e-5)


def test_the_feathers_of_all_steps_are_those_of_each():
    grids = Placement("shifted").grids(CANVAS, WINDOW, 0.25, 3, generator(5))
    for grid, found in zip(grids, feathers(CANVAS, grids, torch.device("cpu")), strict=True):
        alone = Feathers.of(CANVAS, grid.regions)
        for axis, other in zip(found, alone, strict=True):
            assert axis.keys() == other.keys()
            assert all(torch.equal(axis[start], other[start]) for start in axis)


def test_a_window_has_the_nearest_ones_place_in_the_plan():
    named = Grid((0, 10, 21), (0, 45), Size(16, 20))
    assert named.nearest(named) == [0, 1, 2, 3, 4, 5]
    moved = Grid((0, 3, 14, 21), (0, 20, 25, 45), Size(16, 20))
    rows, cols = (0, 0, 1, 2), (0, 0, 1, 1)
    assert moved.nearest(named) == [2 * row + col for row in rows for col in cols]
    assert even_grid(CANVAS, WINDOW, 0.3, generator(1)).nearest(even_grid(CANVAS, WINDOW, 0.3)) == list(
        range(15)
    )


def test_windows_that_show_nothing():
    """5 x 7 cells; something shows in (1, 2) and, only just, in (4, 6)."""
    rich = torch.zeros(1, 1, 5, 7)
    rich[0, 0, 1, 2], rich[0, 0, 4, 6] = 1, 1e-6
    grid = Grid((0, 2, 3), (0, 1, 3, 4), Size(2, 3))
    expected = []
    for region in grid.regions:
        shows = any(
            region.y <= y < region.y + 2 and region.x <= x < region.x + 3 for y, x in ((1, 2), (4, 6))
        )
        expected.append(not shows)
    assert FlatPlaces(rich).empty(grid) == expected
    assert expected == [False, False, True, True] + [True] * 4 + [True, True, True, False]
    assert FlatPlaces(torch.zeros(1, 1, 5, 7)).empty(grid) == [True] * 12
    assert Region(3, 4, 2, 3) == grid.regions[-1]
