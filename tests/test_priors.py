"""The three priors and their composer, each against its formula."""

import pytest
import torch
import torch.nn.functional as F

from cupscale.captions import captions_file, match, read_captions
from cupscale.errors import CupscaleError
from cupscale.method.attention import Box, GlobalAttention, crop_resize, screen, token_grid
from cupscale.method.composer import Composer
from cupscale.method.regions import Region, Size
from cupscale.method.semantics import add_semantics
from cupscale.method.structure import GlobalStructure, butterworth, decay
from cupscale.settings import Caption


@pytest.fixture
def latents():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 1, 4, 40, 56, generator=generator)


# Global structure


def test_gsp_of_strength_zero_is_the_identity(latents):
    x0, reference = latents
    assert GlobalStructure(reference, 0.2).apply(x0, 0.0) is x0


def test_gsp_with_cutoff_beyond_nyquist_returns_the_reference(latents):
    x0, reference = latents
    assert torch.allclose(GlobalStructure(reference, 100.0).apply(x0, 1.0), reference, atol=1e-5)


def test_gsp_replaces_low_frequencies_and_keeps_high_ones(latents):
    """A slow wave comes from the reference, a fast one stays, on a canvas where both are periodic in the mirror."""
    x = torch.arange(64) / 63
    slow = torch.cos(torch.pi * 2 * x).expand(1, 1, 64, 64)
    fast = torch.cos(torch.pi * 56 * x).expand(1, 1, 64, 64)
    out = GlobalStructure(slow, 0.3).apply(fast, 1.0)
    assert torch.allclose(out, slow + fast, atol=1e-2)


def test_gsp_does_not_wrap_at_the_edges():
    """A step between the left and the right edge leaves no trace of one on the other."""
    ramp = torch.linspace(-1, 1, 64).expand(1, 1, 64, 64)
    low = GlobalStructure(ramp, 0.3).lowpass(ramp)
    assert (low - ramp).abs().max() < 0.05


def test_gsp_of_an_exact_codec_works_on_pixels():
    """Detail at the pixels' Nyquist frequency is not low frequency, though each channel sees a constant."""
    checker = ((torch.arange(32)[:, None] + torch.arange(32)) % 2 * 2.0 - 1).expand(1, 3, 32, 32)
    x0 = F.pixel_unshuffle(checker, 2)
    out = GlobalStructure(torch.zeros_like(x0), 0.3, shuffle=2).apply(x0, 1.0)
    assert torch.allclose(out, x0, atol=2e-3)


def test_butterworth_is_one_at_zero_and_half_at_the_cutoff():
    mask = butterworth(64, 64, 0.5)
    assert mask.shape == (64, 33)
    assert mask[0, 0] == 1
    assert mask[16, 0] == pytest.approx(0.5) == mask[0, 16]
    assert mask[32, 32] < 1e-3


def test_strength_falls_from_w0_to_zero():
    values = [0.8 * decay(i, 5) for i in range(5)]
    assert values[0] == 0.8 and values[-1] == pytest.approx(0, abs=1e-12)
    assert values == sorted(values, reverse=True)
    assert decay(0, 1) == 1


# Regional attention


def test_cropped_outputs_equal_cropped_maps_times_values():
    """The identity the prior rests on, to 1e-5, for boxes on and off the grid and grids that are not square."""
    generator = torch.Generator().manual_seed(2)
    grid, channels, words = Size(12, 20), 16, 7
    query = torch.randn(grid.h * grid.w, channels, generator=generator)
    key, value = torch.randn(2, words, channels, generator=generator)
    maps = (query @ key.T / channels**0.5).softmax(-1)  # (tokens, words)
    boxes = [Box(0, 0, 1, 1), Box(0.1, 0.33, 0.6, 0.71), Box(0.5, 0.5, 1, 1)]
    out = Size(9, 6)
    cropped_maps = crop_resize(maps.T.reshape(1, words, *grid), boxes, out)  # (R, words, h, w)
    explicit = torch.einsum("rnhw,nc->rhwc", cropped_maps, value).flatten(1, 2)
    picture = GlobalAttention(Size(24, 40))
    picture.keep("layer", (maps @ value)[None])
    assert torch.allclose(picture.cropped("layer", boxes, out), explicit, atol=1e-5)


def test_crop_of_the_whole_at_its_own_size_is_the_identity():
    plane = torch.randn(1, 3, 6, 10, generator=torch.Generator().manual_seed(3))
    assert torch.allclose(crop_resize(plane, [Box(0, 0, 1, 1)], Size(6, 10))[0], plane[0], atol=1e-5)


def test_crop_reads_the_right_place_in_two_dimensions():
    plane = torch.zeros(1, 1, 8, 8)
    plane[..., 2, 5] = 1
    box = Box.of(Region(4, 10, 2, 2), Size(16, 16))
    assert crop_resize(plane, [box], Size(1, 1)).item() == pytest.approx(1)
    assert crop_resize(plane, [Box.of(Region(10, 4, 2, 2), Size(16, 16))], Size(1, 1)).item() == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_samples_the_same_places(dtype):
    plane = torch.randn(1, 8, 128, 128, generator=torch.Generator().manual_seed(0)).to(dtype)
    for box in (Box(0.1, 0.2, 0.6, 0.7), Box(0, 0, 0.5, 1), Box(0.5, 0.5, 1, 1)):
        for grid in (Size(16, 16), Size(128, 128)):
            sampled = crop_resize(plane, [box], grid)
            assert sampled.dtype == dtype
            assert torch.allclose(sampled.float(), crop_resize(plane.float(), [box], grid), atol=0.02)


@pytest.mark.parametrize(
    ("cells", "tokens", "grid"),
    [((128, 128), 4096, (64, 64)), ((13, 20), 70, (7, 10)), ((13, 20), 20, (4, 5))],
)
def test_token_grid(cells, tokens, grid):
    assert token_grid(tokens, Size(*cells)) == grid


def test_token_grid_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="no halving"):
        token_grid(17, Size(16, 16))


# Composer


def test_the_mixes_at_their_ends_and_between():
    cropped, plain, own = torch.randn(3, 2, 5, 4, generator=torch.Generator().manual_seed(4))
    assert screen(plain, cropped, 0) is plain
    assert torch.equal(screen(plain, cropped, 1), cropped)
    assert torch.allclose(screen(plain, cropped, 0.6), 0.6 * cropped + 0.4 * plain)
    assert add_semantics(plain, own, 0) is plain
    assert torch.equal(add_semantics(plain, own, 1), own)
    assert torch.allclose(add_semantics(plain, own, 0.3), 0.7 * plain + 0.3 * own)


def test_composer_touches_the_conditional_half_only():
    cells = Size(4, 4)
    composer = Composer(1.0, 0.0, GlobalAttention(cells))
    composer.mode = "capture"
    composer.compose("layer", torch.full((1, 16, 3), 7.0), regional=lambda text: text)
    composer.mode, composer.boxes, composer.cells = "compose", [Box(0, 0, 1, 1)], cells
    out = composer.compose("layer", torch.zeros(2, 16, 3), regional=lambda text: text)
    assert torch.equal(out[0], torch.zeros(16, 3))
    assert torch.allclose(out[1], torch.full((16, 3), 7.0))


# Regional semantics

BOXES = [(0, 0, 100, 100), (50, 0, 150, 100), (100, 0, 200, 100)]


def test_captions_find_their_regions_and_the_rest_is_reported():
    captions = [Caption(box=BOXES[2], caption="c"), Caption(box=(48, 2, 150, 98), caption="b")]
    matched = match(captions, BOXES, (200, 100))
    assert matched.texts == (None, "b", "c")
    assert matched.missing == (0,) and matched.extra == ()
    assert "1 of 3 regions" in (matched.report() or "")


def test_captions_that_no_region_takes_are_named():
    matched = match([Caption(box=(0, 0, 20, 20), caption="x")], BOXES, (200, 100))
    assert len(matched.extra) == 1 and matched.texts == (None,) * 3


def test_a_caption_outside_the_output_is_refused():
    with pytest.raises(CupscaleError, match="does not exist"):
        match([Caption(box=(150, 0, 250, 100), caption="x")], BOXES, (200, 100))


def test_a_captions_file_of_another_scale_is_scaled(tmp_path):
    import json

    file = tmp_path / "captions.json"
    file.write_text(json.dumps(captions_file([Caption(box=(0, 0, 100, 50), caption="sea")], (200, 100), "")))
    (caption,) = read_captions(file, (400, 200))
    assert caption.box == (0, 0, 200, 100)
    assert caption.caption == "sea"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "expected a JSON object"),
        ("{", "not JSON"),
        ("{}", "regions"),
        ('{"regions": [{"box": [1]}]}', "region"),
    ],
)
def test_a_broken_captions_file_says_what_is_wrong(tmp_path, text, message):
    file = tmp_path / "captions.json"
    file.write_text(text)
    with pytest.raises(CupscaleError, match=message):
        read_captions(file, (400, 200))
