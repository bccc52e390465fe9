"""Regional semantic prior, against its formula."""

import numpy as np
import slow
import torch

from cupscale.method.regions import Size
from cupscale.method.semantics import add_high, add_semantics


def test_the_regions_own_attention_has_the_share_lambda():
    """(1 - lambda) O_g + lambda O_r."""
    attended, regional = torch.tensor([2.0, -4.0]), torch.tensor([10.0, 6.0])
    assert add_semantics(attended, regional, 0) is attended
    assert add_semantics(attended, regional, 0.25).tolist() == [4.0, -1.5]
    assert add_semantics(attended, regional, 0.75).tolist() == [8.0, 3.5]
    assert add_semantics(attended, regional, 1).tolist() == [10.0, 6.0]


def test_the_regions_own_attention_has_the_high_frequencies():
    """O_g + lambda (d - LP_D(d)), d = O_r - O_g, on a grid of 9 x 13 tokens, a plane to each channel."""
    drawn = torch.Generator().manual_seed(3)
    attended, regional = torch.randn(2, 3, 9 * 13, 3, generator=drawn)
    out = add_high(attended, regional, 0.3, Size(9, 13), 0.8)
    assert out.shape == attended.shape
    for r in range(3):
        for channel in range(3):
            plane = (regional - attended)[r, :, channel].double().numpy().reshape(9, 13)
            high = plane - slow.lowpass(plane, 0.8, (4, 5), (4, 7))
            expected = attended[r, :, channel].double().numpy() + 0.3 * high.reshape(-1)
            assert np.allclose(out[r, :, channel], expected, atol=1e-5)
    assert add_high(attended.half(), regional.half(), 0.3, Size(9, 13), 0.8).dtype == torch.float16
