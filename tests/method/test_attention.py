"""Regional attention prior, against its formula."""

import numpy as np
import pytest
import slow
import torch

from cupscale.method.attention import GlobalAttention, boxes_of, crop_resize, fused, screen, token_grid
from cupscale.method.regions import Size

BOXES = torch.tensor([(0, 0, 1, 1), (0.1, 0.33, 0.6, 0.71), (0.5, 0.625, 1, 1), (0.0, 0.2, 0.3, 0.3)])


def noise(*shape, seed=2):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_a_box_is_a_region_in_fractions_of_the_canvas():
    """6 rows down and 5 columns across, 9 x 10 cells, on 24 x 40."""
    corners = torch.tensor([[6.0, 5.0, 15.0, 15.0]])
    assert boxes_of(corners, Size(h=24, w=40)).tolist() == [[0.25, 0.125, 0.625, 0.375]]


@pytest.mark.parametrize(
    ("cells", "tokens", "grid"),
    [
        ((128, 128), 4096, (64, 64)),
        ((13, 20), 260, (13, 20)),
        ((13, 20), 70, (7, 10)),
        ((13, 20), 20, (4, 5)),
        ((3, 9), 10, (2, 5)),
    ],
)
def test_token_grid(cells, tokens, grid):
    assert token_grid(tokens, Size(*cells)) == grid


@pytest.mark.parametrize("tokens", [17, 255, 5])
def test_token_grid_refuses_what_does_not_fit(tokens):
    with pytest.raises(ValueError, match=f"{tokens} tokens are no halving of a grid of 16 x 12 cells"):
        token_grid(tokens, Size(16, 12))


@pytest.mark.parametrize("grid", [(9, 6), (3, 11), (1, 1)])
def test_crop_resize_against_a_slow_loop(grid):
    plane = noise(1, 2, 7, 12)
    out = crop_resize(plane, BOXES, Size(*grid))
    assert out.shape == (len(BOXES), 2, *grid)
    for r, box in enumerate(BOXES.tolist()):
        for c in range(2):
            expected = slow.crop(plane[0, c].double().numpy(), box, *grid)
            assert np.allclose(out[r, c], expected, atol=1e-5)


class OnMac(torch.Tensor):
    """A tensor that says that it lies on a Mac's accelerator."""

    @property
    def device(self):
        return torch.device("mps")


@pytest.mark.parametrize("grid", [(9, 6), (3, 11)])
def test_without_a_border_to_sample_the_places_stay_inside(monkeypatch, grid):
    """torch has no border on a Mac: no place is asked for beyond the outer cells' centres, so that none is needed."""
    modes, whole = [], torch.tensor([(0, 0, 1, 1), (0.0, 0.2, 0.3, 1.0), (0.6, 0.0, 1.0, 0.4)])
    sample = torch.nn.functional.grid_sample
    monkeypatch.setattr(
        "cupscale.method.attention.F.grid_sample",
        lambda *args, padding_mode, **rest: (
            modes.append(padding_mode) or sample(*args, padding_mode=padding_mode, **rest)
        ),
    )
    plane = noise(1, 2, 7, 12)
    expected = crop_resize(plane, whole, Size(*grid))
    found = crop_resize(plane.as_subclass(OnMac), whole, Size(*grid)).as_subclass(torch.Tensor)
    assert modes[0] == "border" and set(modes[1:]) == {"zeros"}
    assert torch.allclose(found, expected, atol=1e-5)


def test_the_places_of_a_calls_boxes_are_worked_out_once(monkeypatch):
    from cupscale.method import attention

    counts, centres = [], attention._centres
    monkeypatch.setattr(attention, "_centres", lambda *args: counts.append(1) or centres(*args))
    overview = GlobalAttention(Size(2, 3))
    for layer in ("one", "two"):
        overview.keep(layer, noise(1, 6, 4))
    for boxes, expected in ((BOXES, 1), (BOXES.flip(0), 2)):
        for layer in ("one", "two"):
            found = overview.cropped(layer, boxes, Size(3, 2))
        assert len(counts) == expected
        plane = noise(1, 6, 4)[0].double().numpy().reshape(2, 3, 4)
        for box, out in zip(boxes.tolist(), found, strict=True):
            assert np.allclose(out, slow.crop(plane, box, 3, 2).reshape(6, 4), atol=1e-5)
    overview.cropped("one", boxes, Size(2, 2))
    assert len(counts) == 3
    overview.clear()
    overview.keep("one", noise(1, 6, 4))
    overview.cropped("one", boxes, Size(2, 2))
    assert len(counts) == 4


def test_the_same_boxes_again_on_another_grid_and_plane():
    """What is kept between calls belongs to its boxes and grid."""
    for seed, grid, boxes in ((1, (2, 3), BOXES), (2, (3, 2), BOXES), (3, (2, 3), BOXES.flip(0))):
        plane = noise(1, 1, 5, 4, seed=seed)
        for box, out in zip(boxes.tolist(), crop_resize(plane, boxes, Size(*grid)), strict=True):
            assert np.allclose(out[0], slow.crop(plane[0, 0].double().numpy(), box, *grid), atol=1e-5)


def test_cropped_outputs_are_the_cropped_maps_times_the_values():
    """The identity the prior rests on: O_L is kept and cropped here; there, the overview's maps are, one word at a time."""
    cells, grid, channels, words = (
        Size(11, 20),
        Size(6, 10),
        8,
        5,
    )  # a layer at half of the overview's resolution
    query = noise(grid.h * grid.w, channels)
    key, value = noise(2, words, channels, seed=3)
    maps = slow.softmax_maps(query, key)
    overview = GlobalAttention(cells)
    overview.keep("other", noise(1, grid.h * grid.w, channels))
    overview.keep("layer", torch.from_numpy(maps @ value.double().numpy())[None].float())
    out = Size(9, 4)
    cropped = overview.cropped("layer", BOXES, out)
    assert cropped.shape == (len(BOXES), out.h * out.w, channels)
    for r, box in enumerate(BOXES.tolist()):
        expected = slow.crop_maps(maps, grid, box, out) @ value.double().numpy()
        assert np.allclose(cropped[r], expected, atol=1e-5)


def test_a_step_replaces_what_the_last_one_kept_and_clear_forgets_it():
    overview = GlobalAttention(Size(2, 3))
    for value in (1.0, 2.0):
        overview.keep("layer", torch.full((1, 6, 4), value))
    assert torch.equal(overview.cropped("layer", BOXES[:1], Size(2, 3)), torch.full((1, 6, 4), 2.0))
    overview.clear()
    with pytest.raises(KeyError):
        overview.cropped("layer", BOXES[:1], Size(2, 3))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_samples_the_same_places(dtype):
    plane = noise(1, 8, 128, 128).to(dtype)
    for box in torch.tensor([(0.1, 0.2, 0.6, 0.7), (0, 0, 0.5, 1), (0.5, 0.5, 1, 1)]):
        for grid in (Size(16, 16), Size(128, 128)):
            sampled = crop_resize(plane, box[None], grid)
            assert sampled.dtype == dtype
            assert torch.allclose(sampled.float(), crop_resize(plane.float(), box[None], grid), atol=0.02)


def test_screen():
    """mu cropped + (1 - mu) plain."""
    plain, cropped = torch.tensor([2.0, -4.0]), torch.tensor([10.0, 6.0])
    assert screen(plain, cropped, 0) is plain
    assert screen(plain, cropped, 0.25).tolist() == [4.0, -1.5]
    assert screen(plain, cropped, 1).tolist() == [10.0, 6.0]
    assert screen(plain.half(), cropped, 0.25).dtype == torch.float16


def test_the_maps_of_all_layers_are_one():
    """Two layers on 4 x 6 places and one on 2 x 3: each grid counts once, the coarse one enlarged."""
    one, two, coarse = noise(2, 24, 5), noise(2, 24, 5, seed=3), noise(2, 6, 5, seed=4)
    found = fused({"coarse": coarse, "one": one, "two": two}, Size(8, 12))
    assert found.shape == (2, 5, 4, 6)
    for b in range(2):
        fine = ((one + two) / 2)[b].double().numpy().reshape(4, 6, 5)
        wide = slow.crop(coarse[b].double().numpy().reshape(2, 3, 5), (0, 0, 1, 1), 4, 6)
        assert np.allclose(found[b].permute(1, 2, 0), (fine + wide) / 2, atol=1e-5)
