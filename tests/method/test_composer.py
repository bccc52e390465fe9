"""The composer of cross-attention, against explicit softmax maps."""

import numpy as np
import pytest
import slow
import torch

from cupscale.method.attention import GlobalAttention
from cupscale.method.composer import Composer
from cupscale.method.regions import Size

OVERVIEW, CELLS = Size(5, 6), Size(6, 8)  # the layer has half of both: 3 x 3 and 3 x 4 tokens
BOXES = torch.tensor([(0.0, 0.125, 0.6, 0.75), (0.3, 0.25, 1.0, 0.875)])


def noise(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def attention(query, key, value):
    return torch.from_numpy(slow.softmax_maps(query, key) @ value.double().numpy()).float()


def never():
    raise AssertionError("nobody asked for the regions' own prompts")


@pytest.fixture
def case():
    """Three rows without the prompt, then two with it. Of the overview's three, the last is with it."""
    queries, whole = noise(5, 12, 8, seed=1), noise(3, 9, 8, seed=2)
    key, value = noise(2, 7, 8, seed=3)
    own_key, own_value = noise(2, 2, 4, 8, seed=4)
    return {
        "plain": torch.stack([attention(query, key, value) for query in queries]),
        "whole": torch.stack([attention(query, key, value) for query in whole]),
        "own": torch.stack(
            [attention(*parts) for parts in zip(queries[3:], own_key, own_value, strict=True)]
        ),
        "cropped": [
            slow.crop_maps(slow.softmax_maps(whole[2], key), (3, 3), box, (3, 4)) @ value.double().numpy()
            for box in BOXES.tolist()
        ],
    }


def composer(case, attention, detail, own=4):
    made = Composer(attention, detail, GlobalAttention(OVERVIEW), mode="capture")
    assert made.compose("layer", case["whole"], never) is case["whole"]
    made.compose("other", 3 * case["whole"], never)
    made.mode, made.boxes, made.cells, made.own = "compose", BOXES, CELLS, own
    return made


@pytest.mark.parametrize(("mu", "lam"), [(0.6, 0.3), (0.25, 0.0), (0.0, 0.7), (1.0, 0.5), (0.4, 1.0)])
@pytest.mark.parametrize("guided", [True, False])
def test_both_priors(case, mu, lam, guided):
    """O = (1 - lambda) (mu crop(O_L) + (1 - mu) O_K) + lambda O_r, in the conditional half alone."""
    plain = case["plain"] if guided else case["plain"][3:]
    out = composer(case, mu, lam).compose("layer", plain, lambda: case["own"])
    assert out.shape == plain.shape
    if guided:
        assert torch.equal(out[:3], plain[:3])
    for r in range(2):
        screened = mu * case["cropped"][r] + (1 - mu) * case["plain"][3 + r].double().numpy()
        expected = (1 - lam) * screened + lam * case["own"][r].double().numpy()
        assert np.allclose(out[-2 + r], expected, atol=1e-5)


def test_where_no_region_has_a_caption_the_prompt_is_every_regions_own(case):
    out = composer(case, 0.6, 0.3, own=0).compose("layer", case["plain"], never)
    for r in range(2):
        plain = case["plain"][3 + r].double().numpy()
        expected = 0.7 * (0.6 * case["cropped"][r] + 0.4 * plain) + 0.3 * plain
        assert np.allclose(out[3 + r], expected, atol=1e-5)
    alone = composer(case, 0.6, 0.0, own=0).compose("layer", case["plain"], never)
    expected = 0.6 * case["cropped"][1] + 0.4 * case["plain"][4].double().numpy()
    assert np.allclose(alone[4], expected, atol=1e-5)


def test_off_leaves_attention_alone(case):
    made = Composer(0.6, 0.3, GlobalAttention(OVERVIEW))
    assert made.mode == "off" and made.own == 0 and made.boxes.shape == (0, 4) and made.cells == (0, 0)
    assert made.compose("layer", case["plain"], never) is case["plain"]


def test_screened_is_the_attention_prior_alone(case):
    made = composer(case, 0.6, 0.3)
    conditional = case["plain"][3:]
    out = made.screened("layer", conditional)
    for r in range(2):
        expected = 0.6 * case["cropped"][r] + 0.4 * conditional[r].double().numpy()
        assert np.allclose(out[r], expected, atol=1e-5)
    made.attention = 0
    assert made.screened("layer", conditional) is conditional


def test_prompts_by_frequency(case):
    """O_g + lambda HP(O_r - O_g) on the layer's 3 x 4 tokens: they are half as fine as the cells, and 0.2 is 0.4 there."""
    made = composer(case, 0.6, 0.3)
    made.cutoff = 0.4
    out = made.compose("layer", case["plain"], lambda: case["own"])
    assert torch.equal(out[:3], case["plain"][:3])
    for r in range(2):
        screened = 0.6 * case["cropped"][r] + 0.4 * case["plain"][3 + r].double().numpy()
        difference = case["own"][r].double().numpy() - screened
        for channel in range(8):
            plane = difference[:, channel].reshape(3, 4)
            high = plane - slow.lowpass(
                plane, 0.8, (2, 2), (3, 3)
            )  # 3 + 4 -> 8 would mirror all 3; 4 + 6 = 10
            expected = screened[:, channel] + 0.3 * high.reshape(-1)
            assert np.allclose(out[3 + r, :, channel], expected, atol=1e-5)
