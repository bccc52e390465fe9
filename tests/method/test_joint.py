"""The composer of joint attention, against explicit softmax maps over the image's and the texts' keys."""

import numpy as np
import pytest
import slow
import torch

from cupscale.method.attention import GlobalAttention
from cupscale.method.composer import Composer
from cupscale.method.joint import Stream, attend, compose_joint, merge, split
from cupscale.method.regions import Size

HEADS, WIDTH = 2, 4
GRID, OVERVIEW = (3, 5), (4, 3)  # the image's tokens; two more are padding
IMAGE, TEXT, OWN = 17, 6, 5
BOXES = torch.tensor([(0.0, 0.125, 0.6, 0.75), (0.3, 0.25, 1.0, 0.875)])
ROWS = 5  # three without the prompt, two with it
# Whole rows, and the first tokens of each: texts end at different places.
READ = torch.arange(TEXT) < torch.tensor([[6], [3], [6], [4], [5]])
READ_OWN = torch.arange(OWN) < torch.tensor([[0], [0], [0], [5], [2]])


def stream(tokens, seed, mask=None, rows=ROWS):
    parts = torch.randn(3, rows, HEADS, tokens, WIDTH, generator=torch.Generator().manual_seed(seed))
    return Stream(*parts, mask)


def numbers(tensor):
    return tensor.double().numpy()


def maps(query, streams, row, head):
    """Softmax maps (n, all keys) of one head over the keys of all streams, and their values."""
    key = np.concatenate([numbers(s.key[row, head]) for s in streams])
    value = np.concatenate([numbers(s.value[row, head]) for s in streams])
    read = []
    for s in streams:
        read += [True] * s.key.shape[2] if s.mask is None else s.mask[row].tolist()
    return slow.softmax_maps(numbers(query[row, head]), key, read), value


def attention(query, streams, row):
    """(n, heads * d)."""
    heads = []
    for head in range(HEADS):
        look, value = maps(query, streams, row, head)
        heads.append(look @ value)
    return np.concatenate(heads, axis=1)


@pytest.fixture(params=[False, True], ids=["whole texts", "masked texts"])
def streams(request):
    masks = (READ, READ_OWN) if request.param else (None, None)
    return stream(IMAGE, 1), stream(TEXT, 2, masks[0]), stream(OWN, 3, masks[1])


@pytest.fixture
def overview(streams):
    """A pass over the overview: its streams, of three rows, the last with the prompt. One token is padding."""
    _, text, _ = streams
    return stream(13, 5, rows=3), stream(TEXT, 6, None if text.mask is None else text.mask[:3], rows=3)


def composer(overview, mu, lam, own):
    made = Composer(mu, lam, GlobalAttention(Size(*OVERVIEW)), mode="capture")
    image, text = overview
    out, words = compose_joint(made, "layer", image, text, tokens=12)
    for row in range(3):
        assert np.allclose(out[row], attention(image.query, overview, row), atol=1e-5)
        assert np.allclose(words[row], attention(text.query, overview, row), atol=1e-5)
    made.mode, made.boxes, made.cells, made.own = "compose", BOXES, Size(*GRID), own
    return made


def expected_grid(streams, overview, row, mu, lam, with_own):
    """Row 3 + r of the image's grid, (15, heads * d), head by head from the maps."""
    image, text, own = streams
    tokens = GRID[0] * GRID[1]
    whole, words = overview
    query = image.query[:, :, :tokens]
    heads = []
    for head in range(HEADS):
        both, value = maps(query, (image, text), row, head)
        image_share = both[:, :IMAGE] @ value[:IMAGE]
        mass = both[:, IMAGE:].sum(axis=1, keepdims=True)
        alone, text_value = maps(query, (text,), row, head)
        of_whole, whole_value = maps(whole.query[:, :, :12], (words,), 2, head)
        cropped = slow.crop_maps(of_whole, OVERVIEW, BOXES[row - 3].tolist(), GRID) @ whole_value
        screened = image_share + mass * (mu * cropped + (1 - mu) * (alone @ text_value))
        plain, value = maps(query, (image, own if with_own else text), row, head)
        heads.append((1 - lam) * screened + lam * (plain @ value))
    return np.concatenate(heads, axis=1)


@pytest.mark.parametrize("with_own", [True, False], ids=["captions", "no captions"])
@pytest.mark.parametrize("guided", [True, False], ids=["guided", "unguided"])
@pytest.mark.parametrize(("mu", "lam"), [(0.6, 0.3), (0.0, 0.7), (0.4, 0.0), (1.0, 1.0)])
def test_both_priors(streams, overview, mu, lam, guided, with_own):
    image, text, own = streams
    made = composer(overview, mu, lam, OWN if with_own else 0)
    rows = slice(None) if guided else slice(3, None)
    args = (image.rows(rows), text.rows(rows), own.rows(rows) if with_own else None)
    out, words = compose_joint(made, "layer", *args, tokens=15)
    assert out.shape[:2] == ((5 if guided else 2), IMAGE)
    assert words.shape[:2] == ((5 if guided else 2), TEXT + OWN * with_own)
    for row in range(5) if guided else (3, 4):
        got, got_words = out[row if guided else row - 3], words[row if guided else row - 3]
        plain = attention(image.query, (image, text), row)
        assert np.allclose(got_words[:TEXT], attention(text.query, (image, text), row), atol=1e-5)
        assert np.allclose(got[15:], plain[15:], atol=1e-5)  # padding of the image
        if row < 3:
            assert np.allclose(got, plain, atol=1e-5)
            assert got_words[TEXT:].abs().sum() == 0
            continue
        assert np.allclose(got[:15], expected_grid(streams, overview, row, mu, lam, with_own), atol=1e-5)
        if with_own:
            assert np.allclose(got_words[TEXT:], attention(own.query, (image, own), row), atol=1e-5)


@pytest.mark.parametrize("with_own", [True, False], ids=["captions", "no captions"])
def test_prompts_by_frequency(streams, overview, with_own):
    """O_g + lambda HP(O_r - O_g) on the grid; at lambda = 0 and 1 the mix gives the two. 0.4 is the tokens' 0.8."""
    image, text, own = streams
    made = composer(overview, 0.6, 0.3, OWN if with_own else 0)
    made.cutoff, made.cells = 0.4, Size(2 * GRID[0], 2 * GRID[1])
    out, _ = compose_joint(made, "layer", image, text, own if with_own else None, tokens=15)
    for row in (3, 4):
        of_prompt, of_own = (expected_grid(streams, overview, row, 0.6, lam, with_own) for lam in (0, 1))
        for channel in range(out.shape[2]):
            plane = (of_own - of_prompt)[:, channel].reshape(GRID)
            high = plane - slow.lowpass(plane, 0.8, (2, 2), (4, 4))  # what there is to mirror
            expected = of_prompt[:, channel] + 0.3 * high.reshape(-1)
            assert np.allclose(out[row, :15, channel], expected, atol=1e-5)


def test_off_is_plain_attention_and_keeps_nothing(streams):
    image, text, _ = streams
    made = Composer(0.6, 0.3, GlobalAttention(Size(*GRID)))
    out, words = compose_joint(made, "layer", image, text)
    for row in range(ROWS):
        assert np.allclose(out[row], attention(image.query, (image, text), row), atol=1e-5)
        assert np.allclose(words[row], attention(text.query, (image, text), row), atol=1e-5)
    with pytest.raises(KeyError):
        made.overview.cropped("layer", BOXES, Size(*GRID))


def test_without_a_count_of_tokens_all_are_the_grid(overview):
    image, text = stream(15, 1), stream(TEXT, 2)
    made = composer(overview, 0.6, 0.0, 0)
    given, counted = (compose_joint(made, "layer", image, text, tokens=n) for n in (None, 15))
    assert torch.equal(given[0], counted[0]) and torch.equal(given[1], counted[1])


def test_a_softmax_in_parts(streams):
    """The image's share and every part's mass, from the maps over all keys; put together again, one softmax."""
    part, masses = split(streams[0].query, streams[0], streams[1:])
    assert len(masses) == 3 and part.shape == streams[0].query.shape
    for row in (3, 4):
        for head in range(HEADS):
            look, value = maps(streams[0].query, streams, row, head)
            assert np.allclose(part[row, head], look[:, :IMAGE] @ value[:IMAGE], atol=1e-5)
            ends = (0, IMAGE, IMAGE + TEXT, IMAGE + TEXT + OWN)
            for k in range(3):
                expected = look[:, ends[k] : ends[k + 1]].sum(axis=1, keepdims=True)
                assert np.allclose(masses[k][row, head], expected, atol=1e-5)
    for k in (1, 2):
        back = merge(part, masses[0], attend(streams[0].query, streams[k]), masses[k])
        for row in (3, 4):
            expected = attention(streams[0].query, (streams[0], streams[k]), row)
            assert np.allclose(back[row].transpose(0, 1).flatten(1), expected, atol=1e-5)


def test_merge_by_hand():
    """(1 + 0.25 x 4) / (0.5 + 0.25)."""
    one = torch.ones(1, 1, 1, 1)
    merged = merge(one.half(), 0.5 * one, 4 * one, 0.25 * one)
    assert merged.dtype == torch.float16
    assert merged.item() == pytest.approx(2 / 0.75, abs=2e-3)
