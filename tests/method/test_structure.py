"""Global structure prior, against its formula."""

import math

import numpy as np
import pytest
import slow
import torch
import torch.nn.functional as F

from cupscale.method.structure import GlobalStructure, decay


def noise(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_decay_falls_along_a_cosine():
    """(1 + cos(pi i / 4)) / 2 for i = 0 .. 4."""
    root = math.sqrt(0.5)
    expected = [1.0, (1 + root) / 2, 0.5, (1 - root) / 2, 0.0]
    assert [decay(i, 5) for i in range(5)] == pytest.approx(expected, abs=1e-12)
    assert [decay(i, 2) for i in range(2)] == pytest.approx([1.0, 0.0], abs=1e-12)
    assert decay(0, 1) == 1


def test_weight_is_w0_times_the_decay():
    """i = 1 of 4: w_0 (1 + cos 60 degrees) / 2 = 3/4 w_0."""
    prior = GlobalStructure(noise(1, 1, 6, 8), 0.4, 0.8)
    assert [prior.weight(i, 4) for i in range(4)] == pytest.approx([0.8, 0.6, 0.2, 0.0], abs=1e-12)
    assert GlobalStructure(noise(1, 1, 6, 8), 0.4).weight(1, 4) == pytest.approx(0.75)


def test_weight_zero_is_the_identity():
    x0, reference = noise(2, 1, 4, 40, 56)
    assert GlobalStructure(reference, 0.2).apply_(x0, 0.0) is x0


def test_apply_moves_the_low_frequencies_by_its_weight():
    """x0 + w LP(z_L - x0) at w = 0.35."""
    x0, reference = noise(2, 1, 3, 9, 13)
    out = GlobalStructure(reference, 0.8).apply_(x0.clone(), 0.35)
    for k in range(3):
        difference = (reference - x0)[0, k].double().numpy()
        expected = x0[0, k].double().numpy() + 0.35 * slow.lowpass(difference, 0.8, (4, 5), (4, 7))
        assert np.allclose(out[0, k], expected, atol=1e-5)


def test_a_cutoff_beyond_nyquist_returns_the_reference():
    x0, reference = noise(2, 1, 4, 40, 56)
    assert torch.allclose(GlobalStructure(reference, 100.0).apply_(x0, 1.0), reference, atol=1e-5)


def test_low_frequencies_are_replaced_and_high_ones_kept():
    """A slow wave comes from the reference, a fast one stays, on a canvas where both are periodic in the mirror."""
    x = torch.arange(64) / 63
    low = torch.cos(torch.pi * 2 * x).expand(1, 1, 64, 64)
    high = torch.cos(torch.pi * 56 * x).expand(1, 1, 64, 64)
    out = GlobalStructure(low, 0.3).apply_(high.clone(), 1.0)
    assert torch.allclose(out, low + high, atol=1e-2)


def test_an_exact_codecs_finest_detail_is_no_low_frequency():
    """Detail at the pixels' Nyquist frequency, though each channel sees a constant."""
    checker = ((torch.arange(32)[:, None] + torch.arange(32)) % 2 * 2.0 - 1).expand(1, 3, 32, 32)
    x0 = F.pixel_unshuffle(checker, 2)
    out = GlobalStructure(torch.zeros_like(x0), 0.3, shuffle=2).apply_(x0.clone(), 1.0)
    assert torch.allclose(out, x0, atol=2e-3)


@pytest.mark.parametrize(("shuffle", "channels", "parts"), [(1, 3, [1, 1, 1]), (3, 18, [9, 9])])
def test_one_plane_of_pixels_at_a_time(shuffle, channels, parts):
    """A canvas is large: no more than a plane of it is filtered at once."""
    x0, reference = noise(2, 1, channels, 5, 7)
    prior = GlobalStructure(reference, 0.8, shuffle=shuffle)
    lowpass, seen = prior.lowpass, []
    prior.lowpass = lambda z: seen.append(z.shape[1]) or lowpass(z)
    prior.apply_(x0, 0.35)
    assert seen == parts


# What the paper leaves open


def test_a_straight_decay():
    """1 - i / (n - 1)."""
    assert [decay(i, 5, "linear") for i in range(5)] == pytest.approx([1.0, 0.75, 0.5, 0.25, 0.0])
    assert decay(0, 1, "linear") == 1
    prior = GlobalStructure(noise(1, 1, 6, 8), 0.4, 0.8, falls="linear")
    assert [prior.weight(i, 5) for i in (1, 3)] == pytest.approx([0.6, 0.2])


def test_towards_another_than_the_reference():
    """x + w LP(y - x), whatever the reference is."""
    x, reference, other = noise(3, 1, 2, 9, 13)
    out = GlobalStructure(reference, 0.8).apply_(x.clone(), 0.35, other)
    difference = (other - x)[0, 1].double().numpy()
    expected = x[0, 1].double().numpy() + 0.35 * slow.lowpass(difference, 0.8, (4, 5), (4, 7))
    assert np.allclose(out[0, 1], expected, atol=1e-5)


def test_another_filter_is_the_one_that_is_used():
    """Means of blocks of 2 x 2 at D = 0.5, and of 4 x 4 at 0.25."""
    x, reference = torch.zeros(1, 1, 4, 8), torch.arange(32.0).reshape(1, 1, 4, 8)
    out = GlobalStructure(reference, 0.5, kind="wavelet").apply_(x.clone(), 0.5)
    assert out[0, 0, 2:, 4:6].tolist() == [[12.25, 12.25], [12.25, 12.25]]  # half the mean of 20, 21, 28, 29
    out = GlobalStructure(reference, 0.25, kind="wavelet").apply_(x.clone(), 1.0)
    assert out[0, 0, 1, [0, 3, 4, 7]].tolist() == [13.5, 13.5, 17.5, 17.5]


def cubic(values, place):
    """The usual cubic convolution, a = -3/4, at a place between the middle two of four `values` at -1, 0, 1 and 2."""
    total = 0.0
    for at, value in zip((-1, 0, 1, 2), values, strict=True):
        d = abs(place - at)
        near = 1.25 * d**3 - 2.25 * d**2 + 1
        total += value * (near if d <= 1 else -0.75 * (d**3 - 5 * d**2 + 8 * d - 4))
    return total


def test_an_estimate_of_the_overview_becomes_the_reference():
    """Enlarged by cubic interpolation, a ramp in each direction."""
    prior = GlobalStructure(torch.zeros(1, 2, 24, 16), 0.4, source="overview")
    y, x = torch.meshgrid(torch.arange(12.0), torch.arange(8.0), indexing="ij")
    prior.follow(torch.stack((3 * y + x, y - 2 * x))[None])
    assert prior.reference.shape == (1, 2, 24, 16)
    # Cell 9 of the canvas lies at (9 + 0.5) / 2 - 0.5 = 4.25 of the overview, cell 6 at 2.75.
    y, x = cubic((3, 4, 5, 6), 0.25), cubic((1, 2, 3, 4), 0.75)
    assert prior.reference[0, :, 9, 6].tolist() == pytest.approx([3 * y + x, y - 2 * x], abs=1e-4)


def test_an_exact_codecs_estimate_is_enlarged_as_pixels():
    prior = GlobalStructure(torch.zeros(1, 4, 12, 16), 0.4, shuffle=2, source="overview")
    y, x = torch.meshgrid(torch.arange(12.0), torch.arange(16.0), indexing="ij")
    prior.follow(F.pixel_unshuffle((3 * y + x)[None, None], 2))  # 12 x 16 px in 6 x 8 cells
    wide = F.pixel_shuffle(prior.reference, 2)  # 24 x 32 px
    expected = 3 * cubic((3, 4, 5, 6), 0.25) + cubic((5, 6, 7, 8), 0.75)
    assert wide[0, 0, 9, 14].item() == pytest.approx(expected, abs=1e-4)
