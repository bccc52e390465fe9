"""What a result keeps of its input: back-projection against a slow reference, flat places, grey."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image

from cupscale import correct as module
from cupscale.correct import ROUNDS, correct, difference, flat_places, is_grey
from cupscale.images import to_image, to_tensor
from cupscale.images.tensors import to_float, to_int16


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def lanczos(source: int, target: int) -> np.ndarray:
    """(target, source) weights: a sinc of three lobes, as wide as the coarser of the two grids, normalised."""
    step = source / target
    wide = max(1.0, step)
    rows = np.zeros((target, source))
    for i in range(target):
        for j in range(source):
            x = (j + 0.5 - (i + 0.5) * step) / wide
            if abs(x) < 3:
                rows[i, j] = np.sinc(x) * np.sinc(x / 3)
        rows[i] /= rows[i].sum()
    return rows


def psnr(one: Image.Image, two: Image.Image) -> float:
    error = np.square(np.asarray(one, float) - np.asarray(two, float)).mean()
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def test_back_projection_equals_a_slow_reference_at_every_point(monkeypatch):
    """out += up(input - down(out)), with other scales across (3) than down (2), in several bands."""
    monkeypatch.setattr(module, "ROUNDS", 1)
    monkeypatch.setattr(module, "_BAND_PX", 100)
    small, large = noise(10, 14), noise(30, 28, 1)
    wanted = to_tensor(small)[0].double().numpy()
    out = to_tensor(large)[0].double().numpy() * 0.4
    down = np.einsum("ih,chw,jw->cij", lanczos(28, 14), out, lanczos(30, 10))
    expected = out + np.einsum("ih,chw,jw->cij", lanczos(14, 28), wanted - down, lanczos(10, 30))
    pixels = torch.from_numpy(out).float()
    correct(pixels, small, 1.0)
    assert np.abs(expected - out).max() > 0.5
    np.testing.assert_allclose(pixels.numpy(), expected, atol=1e-5)


def test_a_difference_without_detail_by_hand(monkeypatch):
    """An even shift of 0.5 has no fine part: at fidelity 0.1 each of six rounds takes 4 x 0.1 of what is left away."""
    monkeypatch.setattr(module, "flat_places", lambda image: np.zeros((14, 10), bool))
    pixels = torch.full((3, 28, 30), -0.3)
    correct(pixels, Image.new("RGB", (10, 14), (153,) * 3), 0.1)  # 153 / 127.5 - 1 = 0.2
    assert pixels.min().item() == pytest.approx(0.2 - 0.5 * 0.6**6, abs=1e-5)
    assert pixels.max().item() == pytest.approx(0.2 - 0.5 * 0.6**6, abs=1e-5)


def test_the_broad_part_is_what_is_left_of_four_pixels_by_hand():
    """A step of +-2 over two squares of 4 px: their means are +-2, and bicubic (a = -0.5) from two samples gives at the first
    pixel, 0.375 from the one and 1.375 from the other, 2 (0.7275 + 0.0732) / (0.7275 - 0.0732). Squares of 8 would mean 0."""
    wrong = np.repeat(np.array([2.0, -2.0], np.float32), 4)[None, None].repeat(4, axis=1)
    wrong = np.concatenate((wrong, 0 * wrong, wrong))
    module._weigh(wrong, 0.25, 1.0)
    first = 0.25 * 2 + 0.75 * 2 * (0.7275 + 0.0732) / (0.7275 - 0.0732)
    assert wrong.shape == (3, 4, 8) and wrong[0, 2, 0] == pytest.approx(first, abs=2e-3)
    assert wrong[2, 0, 7] == pytest.approx(-first, abs=2e-3) and not wrong[1].any()


def test_fidelity_zero_leaves_every_bit():
    pixels = to_tensor(noise(40, 24))[0]
    before = pixels.clone()
    correct(pixels, noise(10, 6, 1), 0.0)
    assert torch.equal(pixels, before)


def test_the_result_made_small_again_is_the_input_the_more_the_higher():
    small = noise(10, 7).resize((40, 28), Image.Resampling.BICUBIC)
    start = small.resize((160, 112), Image.Resampling.BILINEAR)
    found = []
    for fidelity in (0.0, 0.25, 0.5, 1.0):
        pixels = to_tensor(start)[0]
        correct(pixels, small, fidelity)
        found.append(psnr(to_image(pixels).resize(small.size, Image.Resampling.LANCZOS), small))
    assert found == sorted(found) and found[-1] > found[0] + 15


def test_difference_in_bands_is_that_of_one_piece(monkeypatch):
    pixels, small = to_tensor(noise(90, 122))[0], noise(30, 61, 1)
    whole = difference(pixels, small)
    monkeypatch.setattr(module, "_BAND_PX", 500)
    np.testing.assert_array_equal(difference(pixels, small), whole)


def test_flat_places_are_squares_of_one_colour():
    image = Image.new("RGB", (24, 20), (9, 8, 7))
    image.putpixel((15, 10), (9, 8, 6))
    flat = flat_places(image)
    y, x = np.mgrid[0:20, 0:24]
    np.testing.assert_array_equal(flat, (abs(x - 15) > 3) | (abs(y - 10) > 3))
    ramp = Image.fromarray(np.repeat(np.arange(24, dtype=np.uint8)[None, :, None], 20, 0).repeat(3, 2))
    assert not flat_places(ramp).any()  # its columns are even, its rows are not
    assert not flat_places(ramp.transpose(Image.Transpose.TRANSPOSE)).any()


def test_a_flat_place_loses_what_was_invented_there():
    page = Image.new("RGB", (32, 24), "white")
    page.putpixel((5, 5), (0, 0, 0))
    pixels = to_tensor(page.resize((128, 96)))[0] - torch.rand(3, 96, 128) * 0.3
    correct(pixels, page, 0.25)
    result = np.asarray(to_image(pixels))
    assert result[40:, 40:].min() == 255 and result[24, 24].min() < 255


def test_grey_is_the_same_in_all_channels():
    image = Image.new("RGB", (16, 16), (7, 7, 7))
    assert is_grey(image)
    image.putpixel((3, 4), (7, 7, 8))
    assert not is_grey(image)


def test_the_drift_of_an_autoencoder_goes():
    """SDXL's architecture, four levels and attention in the middle, thinner and with random weights: what it gives back has
    other colours everywhere."""
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    vae = AutoencoderKL(
        block_out_channels=(16, 32, 64, 64),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=64,
    )
    small = noise(24, 16).resize((48, 32), Image.Resampling.BICUBIC)
    with torch.no_grad():
        pixels = vae(to_tensor(small.resize((96, 64), Image.Resampling.LANCZOS))).sample[0]
    mean = to_tensor(small)[0].mean(dim=(1, 2))
    before = (pixels.clamp(-1, 1).mean(dim=(1, 2)) - mean).abs().max().item() * 127.5
    correct(pixels, small, 1.0)
    after = (pixels.mean(dim=(1, 2)) - mean).abs().max().item() * 127.5
    assert before > 5 and after < 0.2, (before, after)


@pytest.mark.parametrize("fidelity", [1.0, 0.1])
def test_a_picture_of_16_bits_is_corrected_as_one_of_floats(monkeypatch, fidelity):
    """In several bands, with a flat place; what differs is the rounding of each round."""
    monkeypatch.setattr(module, "_BAND_PX", 200)
    small, large = noise(20, 24), to_tensor(noise(60, 48, 1))[0]
    small.paste((40, 200, 90), (0, 0, 20, 12))
    kept = to_int16(large)
    correct(large, small, fidelity)
    correct(kept, small, fidelity)
    assert (to_float(kept) - large.clamp(-1, 1)).abs().max() < (ROUNDS + 1) / 32767
