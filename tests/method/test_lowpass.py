"""Low-pass filters, against their formulas and a plain discrete Fourier transform."""

import math

import numpy as np
import pytest
import slow
import torch

from cupscale.method.lowpass import LowPass, butterworth, gaussian, haar, ideal
from cupscale.method.regions import Size


def noise(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


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


def test_gaussian_and_ideal_masks():
    """At bins (1, 2) of 8 x 6: d^2 = (1/4)^2 + (2/3)^2; at (6, 0), which is -2: d = 1/2."""
    d2 = 1 / 16 + 4 / 9
    assert gaussian(8, 6, 0.4).shape == ideal(8, 6, 0.4).shape == (8, 4)
    assert gaussian(8, 6, 0.4)[1, 2] == pytest.approx(math.exp(-d2 / 0.32))
    assert gaussian(8, 6, 0.4)[6, 0] == pytest.approx(math.exp(-0.25 / 0.32))
    assert ideal(8, 6, math.sqrt(d2) + 1e-3)[1, 2] == 1 and ideal(8, 6, math.sqrt(d2) - 1e-3)[1, 2] == 0
    assert ideal(8, 6, 0.5)[6, 0] == 1 and ideal(8, 6, 0.49)[6, 0] == 0


def test_haar_gives_each_block_its_mean():
    plane = torch.arange(15.0).reshape(3, 5)
    assert torch.equal(haar(plane, 0), plane)
    # Rows 0 1 | 2 2, columns 0 1 | 2 3 | 4 4: what is beyond the far edge is its mirror.
    expected = [[3.0, 3.0, 5.0, 5.0, 6.5], [3.0, 3.0, 5.0, 5.0, 6.5], [10.5, 10.5, 12.5, 12.5, 14.0]]
    assert haar(plane, 1).tolist() == expected
    # Rows 0 1 2 2, columns 0 1 2 3 | 4 4 3 2.
    rows = (0 + 5 + 10 + 10) / 4
    assert torch.allclose(haar(plane, 2)[:, :4], torch.tensor(rows + 1.5))
    assert torch.allclose(haar(plane, 2)[:, 4], torch.tensor(rows + 13 / 4))
    # Blocks of 8 over 3 rows 0 1 2 2 1 0 0 1 and 5 columns 0 1 2 3 4 4 3 2.
    assert torch.allclose(haar(plane, 3), torch.tensor(5 * 7 / 8 + 19 / 8))


@pytest.mark.parametrize(
    ("cutoff", "levels"), [(1.0, 0), (0.75, 0), (0.6, 1), (0.4, 1), (0.3, 2), (0.2, 2), (0.1, 3)]
)
def test_wavelet_levels_follow_the_cutoff(cutoff, levels):
    """round(-log2 D): 0.75 is 0.4, 0.6 is 0.7, 0.3 is 1.7, 0.1 is 3.3."""
    planes = noise(1, 2, 16, 24)
    assert torch.equal(LowPass(Size(16, 24), cutoff, "wavelet")(planes), haar(planes, levels))


@pytest.mark.parametrize(("kind", "mask"), [("gaussian", gaussian), ("ideal", ideal)])
def test_another_kind_is_another_mask(kind, mask, monkeypatch):
    """Mirrored by 3 / D = 4 cells; 9 + 4 + 4 -> 18 and 13 + 4 + 4 -> 24."""
    whole = np.zeros((18, 24))
    half = mask(18, 24, 0.8).double().numpy()
    for i in range(18):
        for j in range(24):
            whole[i, j] = half[i, j] if j <= 12 else half[-i, 24 - j]
    monkeypatch.setattr(slow, "butterworth", lambda height, width, cutoff: whole)
    planes = noise(2, 2, 9, 13)
    low = LowPass(Size(9, 13), 0.8, kind)(planes)
    for n in range(2):
        for k in range(2):
            expected = slow.lowpass(planes[n, k].double().numpy(), 0.8, (4, 5), (4, 7))
            assert np.allclose(low[n, k], expected, atol=1e-5)


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
    low = LowPass(Size(height, width), cutoff)(planes)
    assert low.shape == planes.shape
    for k in range(2):
        expected = slow.lowpass(planes[0, k].double().numpy(), cutoff, rows, cols)
        assert np.allclose(low[0, k], expected, atol=1e-5)


def test_a_codec_of_pixels_is_filtered_as_pixels():
    """Channel 4 c + 2 i + j of a cell is pixel (i, j) of plane c: laid out by hand, filtered, and put back."""
    height, width = 5, 7
    x = noise(1, 8, height, width)
    low = LowPass(Size(height, width), 0.8, shuffle=2)(x)
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
    low = LowPass(Size(9, 13), 0.8)(x)
    assert low.dtype == torch.float32
    assert torch.allclose(low, LowPass(Size(9, 13), 0.8)(x.float()))


def test_nothing_wraps_at_the_edges():
    """A step between the left and the right edge leaves no trace of one on the other."""
    ramp = torch.linspace(-1, 1, 64).expand(1, 1, 64, 64)
    low = LowPass(Size(64, 64), 0.3)(ramp)
    assert (low - ramp).abs().max() < 0.05
