"""Global structure prior, against its formula."""

import math

import numpy as np
import pytest
import slow
import torch
import torch.nn.functional as F

from cupscale.method.structure import GlobalStructure, butterworth, decay


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
    assert GlobalStructure(reference, 0.2).apply(x0, 0.0) is x0


@pytest.mark.parametrize(("height", "width"), [(6, 9), (7, 4), (1, 5), (8, 8), (5, 1), (2, 3)])
@pytest.mark.parametrize("cutoff", [0.3, 0.75])
def test_butterworth(height, width, cutoff):
    whole = slow.butterworth(height, width, cutoff)
    mask = butterworth(height, width, cutoff)
    assert mask.shape == (height, width // 2 + 1)
    assert mask[0, 0] == 1
    assert np.allclose(mask, whole[:, : width // 2 + 1], atol=1e-6)


def test_butterworth_of_another_order():
    """Half the cutoff away, on the rows: 1 / (1 + (1/4)^order)."""
    mask = butterworth(8, 6, 0.5, order=2)
    assert mask[1, 0] == pytest.approx(16 / 17)
    assert mask[2, 0] == 0.5


# The mirror border: 3 / D cells, what there is at most, and behind it up to a length of factors 2, 3 and 5.
BORDERS = [
    # height, rows, width, cols, D
    (9, (4, 5), 13, (4, 7), 0.8),  # 9 + 8 = 17 -> 18; 13 + 8 = 21 -> 24
    (7, (4, 4), 12, (4, 4), 0.9),  # 15; 20
    (14, (6, 7), 5, (4, 4), 0.5),  # 26 -> 27; 5 - 1 are all there is, and 15 is not reachable from 13
    (11, (2, 2), 27, (2, 3), 2.0),  # 15; 31 -> 32
    (3, (2, 2), 21, (2, 2), 1.5),  # 7 -> 8 would mirror all 3; 25
]


@pytest.mark.parametrize(("height", "rows", "width", "cols", "cutoff"), BORDERS)
def test_lowpass_against_a_plain_dft_of_the_mirrored_plane(height, rows, width, cols, cutoff):
    planes = noise(1, 2, height, width)
    low = GlobalStructure(planes, cutoff).lowpass(planes)
    assert low.shape == planes.shape
    for k in range(2):
        expected = slow.lowpass(planes[0, k].double().numpy(), cutoff, rows, cols)
        assert np.allclose(low[0, k], expected, atol=1e-5)


def test_apply_moves_the_low_frequencies_by_its_weight():
    """x0 + w LP(z_L - x0) at w = 0.35."""
    x0, reference = noise(2, 1, 3, 9, 13)
    out = GlobalStructure(reference, 0.8).apply(x0, 0.35)
    for k in range(3):
        difference = (reference - x0)[0, k].double().numpy()
        expected = x0[0, k].double().numpy() + 0.35 * slow.lowpass(difference, 0.8, (4, 5), (4, 7))
        assert np.allclose(out[0, k], expected, atol=1e-5)


def test_a_codec_of_pixels_is_filtered_as_pixels():
    """Channel 4 c + 2 i + j of a cell is pixel (i, j) of plane c: laid out by hand, filtered, and put back."""
    height, width = 5, 7
    x = noise(1, 8, height, width)
    low = GlobalStructure(torch.zeros_like(x), 0.8, shuffle=2).lowpass(x)
    for c in range(2):
        plane = np.zeros((2 * height, 2 * width))
        for i in range(2):
            for j in range(2):
                plane[i::2, j::2] = x[0, 4 * c + 2 * i + j]
        expected = slow.lowpass(plane, 0.8, (4, 4), (4, 6))  # 18; 22 -> 24
        for i in range(2):
            for j in range(2):
                assert np.allclose(low[0, 4 * c + 2 * i + j], expected[i::2, j::2], atol=1e-5)


def test_half_precision_is_filtered_in_float32():
    x = noise(1, 1, 9, 13).half()
    low = GlobalStructure(x, 0.8).lowpass(x)
    assert low.dtype == torch.float32
    assert torch.allclose(low, GlobalStructure(x, 0.8).lowpass(x.float()))


def test_a_cutoff_beyond_nyquist_returns_the_reference():
    x0, reference = noise(2, 1, 4, 40, 56)
    assert torch.allclose(GlobalStructure(reference, 100.0).apply(x0, 1.0), reference, atol=1e-5)


def test_low_frequencies_are_replaced_and_high_ones_kept():
    """A slow wave comes from the reference, a fast one stays, on a canvas where both are periodic in the mirror."""
    x = torch.arange(64) / 63
    low = torch.cos(torch.pi * 2 * x).expand(1, 1, 64, 64)
    high = torch.cos(torch.pi * 56 * x).expand(1, 1, 64, 64)
    out = GlobalStructure(low, 0.3).apply(high, 1.0)
    assert torch.allclose(out, low + high, atol=1e-2)


def test_nothing_wraps_at_the_edges():
    """A step between the left and the right edge leaves no trace of one on the other."""
    ramp = torch.linspace(-1, 1, 64).expand(1, 1, 64, 64)
    low = GlobalStructure(ramp, 0.3).lowpass(ramp)
    assert (low - ramp).abs().max() < 0.05


def test_an_exact_codecs_finest_detail_is_no_low_frequency():
    """Detail at the pixels' Nyquist frequency, though each channel sees a constant."""
    checker = ((torch.arange(32)[:, None] + torch.arange(32)) % 2 * 2.0 - 1).expand(1, 3, 32, 32)
    x0 = F.pixel_unshuffle(checker, 2)
    out = GlobalStructure(torch.zeros_like(x0), 0.3, shuffle=2).apply(x0, 1.0)
    assert torch.allclose(out, x0, atol=2e-3)
