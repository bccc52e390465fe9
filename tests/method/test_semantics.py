"""Regional semantic prior, against its formula."""

import torch

from cupscale.method.semantics import add_semantics


def test_the_regions_own_attention_has_the_share_lambda():
    """(1 - lambda) O_g + lambda O_r."""
    attended, regional = torch.tensor([2.0, -4.0]), torch.tensor([10.0, 6.0])
    assert add_semantics(attended, regional, 0) is attended
    assert add_semantics(attended, regional, 0.25).tolist() == [4.0, -1.5]
    assert add_semantics(attended, regional, 0.75).tolist() == [8.0, 3.5]
    assert add_semantics(attended, regional, 1).tolist() == [10.0, 6.0]
