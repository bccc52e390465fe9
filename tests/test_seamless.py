"""Pictures that repeat: each stage goes round the edge, and a whole run leaves no step there."""

import numpy as np
import pytest
import torch
from PIL import Image

import cupscale
from cupscale.correct import correct_wrapped
from cupscale.errors import CupscaleError
from cupscale.images import finish, to_image, to_tensor, wrapping
from cupscale.planning import Geometry, make_plan
from cupscale.protect import protect, read_mask
from cupscale.settings import Settings


def texture(width=40, height=28):
    """Whole waves along both axes: it repeats."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[0:height, 0:width]
    waves = np.zeros((height, width, 3))
    for _ in range(50):
        a, b = random.integers(-8, 9, 2)
        phase = 2 * np.pi * (a * x / width + b * y / height)
        waves += np.cos(phase)[..., None] * random.normal(size=3) + np.sin(phase)[..., None] * random.normal(
            size=3
        )
    return Image.fromarray(np.rint((waves - waves.min()) / np.ptp(waves) * 255).astype(np.uint8))


def rolled(image, dx, dy):
    return Image.fromarray(np.roll(np.asarray(image), (dy, dx), axis=(0, 1)))


def steps(image):
    """The step across the edge over those inside, along x and y."""
    a = np.asarray(image.convert("RGB")).astype(float)
    x = np.abs(a[:, 0] - a[:, -1]).mean() / np.abs(np.diff(a, axis=1)).mean()
    return x, np.abs(a[0] - a[-1]).mean() / np.abs(np.diff(a, axis=0)).mean()


def test_what_is_laid_around_and_behind():
    image = Image.fromarray(np.arange(20, dtype=np.uint8).reshape(4, 5))
    assert np.asarray(wrapping.surrounded(image, (2, 1)))[0].tolist() == [18, 19, 15, 16, 17, 18, 19, 15, 16]
    assert np.asarray(wrapping.repeated(image, (0, 0), (8, 6)))[5].tolist() == [5, 6, 7, 8, 9, 5, 6, 7]
    assert wrapping.margins((48, 40), (96, 80), "x") == ((16, 0), (32, 0))
    assert wrapping.margins((48, 40), (120, 100), "xy") == ((16, 16), (40, 40))
    assert wrapping.margins((47, 40), (111, 100), "xy") == (
        (47, 16),
        (111, 40),
    )  # only the whole of 47 is whole in 111
    assert wrapping.margins((48, 40), (96, 80), "none") == ((0, 0), (0, 0))


def test_the_plain_enlargement_of_a_rolled_picture_is_rolled():
    """Enlarging and rolling are one, where the edges meet; they are not along an axis that has edges."""
    image = texture()
    large = wrapping.resized(image, (80, 56), "xy", Image.Resampling.LANCZOS)
    again = wrapping.resized(rolled(image, 7, 5), (80, 56), "xy", Image.Resampling.LANCZOS)
    assert np.abs(np.asarray(rolled(large, 14, 10)).astype(int) - np.asarray(again)).max() <= 1
    along_x = wrapping.resized(rolled(image, 0, 5), (80, 56), "x", Image.Resampling.LANCZOS)
    assert np.abs(np.asarray(rolled(large, 0, 10)).astype(int) - np.asarray(along_x)).max() > 3


def test_the_correction_of_a_rolled_picture_is_rolled():
    image = texture()
    noisy = np.random.default_rng(1).integers(0, 256, (56, 80, 3), dtype=np.uint8)
    first, second = to_tensor(Image.fromarray(noisy))[0], to_tensor(rolled(Image.fromarray(noisy), 14, 10))[0]
    correct_wrapped(first, image, 1.0, "xy")
    correct_wrapped(second, rolled(image, 7, 5), 1.0, "xy")
    gap = np.asarray(rolled(to_image(first), 14, 10)).astype(int) - np.asarray(to_image(second))
    assert np.abs(gap).max() <= 1


def test_the_alpha_of_one_column_is_seen_from_the_other_side():
    """Hamming's filter at 2x, by hand: an output pixel lies 0.25 of an input pixel from its own and 0.75 from its neighbour.
    h(x) = sinc(x) (0.54 + 0.46 cos(pi x)): h(0.25) = 0.7791 and h(0.75) = 0.0645, so that the neighbour has 0.0764 of it."""
    alpha = np.zeros((20, 24), np.uint8)
    alpha[:, -1] = 255
    large = Image.new("RGB", (48, 40))
    across = np.asarray(finish(large, Image.fromarray(alpha), "x").getchannel("A"))
    assert across[7, [0, 1, 46, 47]].tolist() == [19, 0, 236, 236]
    for axes in ("none", "y"):
        plain = np.asarray(finish(large, Image.fromarray(alpha), axes).getchannel("A"))
        assert plain[7, [0, 1, 46, 47]].tolist() == [0, 0, 236, 255]
    down = np.asarray(
        finish(large.transpose(Image.Transpose.TRANSPOSE), Image.fromarray(alpha.T.copy()), "xy").getchannel(
            "A"
        )
    )
    assert (down == across.T).all()


def test_a_mask_is_widened_and_feathered_round_the_edge():
    """White in the last column alone: beyond the edge it is white for 3 pixels less and falls over 6, as it does inside."""
    mask = np.zeros((20, 30), np.uint8)
    mask[:, 29] = 255
    mask[4, 15] = 0
    found = np.asarray(read_mask(mask, (30, 20), "x")).astype(int)
    rolled_mask = np.asarray(read_mask(np.roll(mask, 15, axis=1), (30, 20))).astype(int)
    assert (np.roll(found, 15, axis=1) == rolled_mask).all() and found[9, 0] > 200
    assert np.asarray(read_mask(mask, (30, 20), "y"))[9, 0] == 0


def test_what_is_protected_goes_round_the_edge(monkeypatch):
    random = np.random.default_rng(5)
    base = Image.fromarray(random.integers(0, 256, (56, 60, 3), dtype=np.uint8))
    mask = Image.fromarray(random.integers(0, 256, (28, 30), dtype=np.uint8))
    plain, moved = torch.zeros(3, 56, 60), torch.zeros(3, 56, 60)
    protect(plain, base, mask, "xy")
    monkeypatch.setattr("cupscale.protect._BAND_PX", 60 * 9)
    protect(moved, rolled(base, 14, 10), rolled(mask, 7, 5), "xy")
    assert torch.allclose(torch.roll(plain, (10, 14), (1, 2)), moved, atol=2 / 255)
    with_edges = torch.zeros(3, 56, 60)
    protect(with_edges, base, mask)
    assert (with_edges - plain)[:, 1:-1, 1:-1].abs().max() < 2 / 255 < (with_edges - plain).abs().max()


def test_the_plan_says_what_is_repeated():
    geometry = Geometry(native=64, cell=8, align=16)
    plan = make_plan((40, 28), Settings.build(scale=4, seamless="x", overlap=0.5), geometry)
    assert plan.lap == (0, 4) and plan.extended == (192, 112) and plan.canvas == (14, 24)
    assert plan.seam is not None and plan.seam.period == (14, 20)
    assert all(right <= 160 for _, _, right, _ in plan.boxes)
    assert make_plan((40, 28), Settings.build(scale=4), geometry).seam is None
    assert make_plan((40, 28), Settings.build(scale=4, seamless="xy", overlap=0.0), geometry).lap == (2, 2)
    with pytest.raises(CupscaleError, match=r"height is a multiple of 8 px, not 84"):
        make_plan((40, 28), Settings.build(scale=3, seamless="xy"), geometry)


def test_a_whole_run_leaves_no_step_across_the_edge():
    pipe = cupscale.load("tiny", device="cpu")
    fields = {
        "strength": 0.5,
        "steps": 2,
        "guidance": 1.0,
        "attention": 0.0,
        "fidelity": 0,
        "restore": 0,
        "captioner": "none",
    }
    fields |= {"scale": 4, "upscaler": "lanczos"}
    round_x, edge_y = steps(cupscale.upscale(pipe, texture(), seamless="x", **fields).image)
    result = cupscale.upscale(pipe, texture(), seamless="xy", **fields)
    both = steps(result.image)
    assert result.image.size == (160, 112) and result.settings.seamless == "xy"
    assert round_x < 1.15 and max(both) < 1.15  # the texture's own step is 0.9 to 1.1 of those inside
    assert edge_y > 1.5
