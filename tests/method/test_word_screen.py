"""RAP as a screen of words, worked out by hand."""

import math

import pytest
import torch

from cupscale.method.attention import GlobalAttention, crop_resize
from cupscale.method.composer import Composer
from cupscale.method.regions import Size
from cupscale.method.word_screen import WordScreen

CELLS = Size(4, 8)
# Begin, "red" (1), "castle" (2, 3), end: 5 tokens.
WORDS = [slice(1, 2), slice(2, 4)]
LEFT, RIGHT, TOP = torch.tensor([(0.0, 0.0, 1.0, 0.5), (0.0, 0.5, 1.0, 1.0), (0.0, 0.0, 0.5, 1.0)])


def maps(height, width, left_of):
    """(1, places, 5): token k is looked at by the columns left of `left_of[k]` alone."""
    x = torch.arange(width).expand(height, width)
    return torch.stack([(x < edge).float() for edge in left_of], -1).reshape(1, height * width, 5)


def screen():
    """ "red" lies in the left 2 of 8 columns; "castle", the mean of its tokens, is above its mean in the left 4."""
    made = WordScreen(CELLS, WORDS)
    made.keep("fine", maps(4, 8, (8, 2, 4, 4, 8)))
    return made


def test_words_that_leave_a_region_are_lowered_there():
    """red covers 1/2 of the left half, 0 of the right and 1/4 of the top; castle 1, 0 and 1/2. The share is 0.3."""
    bias = screen().bias(torch.stack([LEFT, RIGHT, TOP]), 5, 0.6)
    low = math.log(0.4)
    expected = torch.tensor([[0, 0, 0, 0, 0], [0, low, low, low, 0], [0, low, 0, 0, 0]])
    assert torch.allclose(bias, expected)
    assert screen().bias(torch.stack([RIGHT]), 5, 1.0)[0, 1] == -math.inf
    assert not screen().bias(torch.stack([LEFT, RIGHT]), 5, 0.0).any()


def test_a_words_map_is_the_mean_of_its_tokens_and_of_the_layers():
    """The second token of "castle" looks right: together they are even, and nowhere above their mean."""
    made = WordScreen(CELLS, WORDS)
    even = maps(4, 8, (8, 2, 4, 0, 8))
    even[..., 3] = 1 - even[..., 2]
    made.keep("fine", even)
    assert made.bias(torch.stack([LEFT]), 5, 0.5)[0].tolist() == pytest.approx(
        [0, 0, math.log(0.5), math.log(0.5), 0]
    )
    # A second layer of the same grid that sees it right, three times as strongly, decides.
    made.keep("other", 3 * (1 - maps(4, 8, (8, 8, 4, 4, 8))))
    assert (
        made.bias(torch.stack([RIGHT]), 5, 0.5)[0, 2] == 0
        and made.bias(torch.stack([LEFT]), 5, 0.5)[0, 2] < 0
    )


def test_a_new_step_replaces_the_maps_and_clear_forgets_them():
    made = screen()
    assert made.bias(torch.stack([RIGHT]), 5, 0.6)[0, 1] < 0
    made.keep("fine", 1 - maps(4, 8, (0, 4, 4, 4, 0)))
    assert made.bias(torch.stack([RIGHT]), 5, 0.6)[0, 1] == 0
    made.clear()
    made.keep("coarse", maps(2, 4, (4, 1, 2, 2, 4)))
    assert made.bias(torch.stack([LEFT, RIGHT]), 5, 0.6)[:, 2].tolist() == pytest.approx([0, math.log(0.4)])


def test_the_layers_of_a_call_measure_their_boxes_once(monkeypatch):
    counts = []
    monkeypatch.setattr(
        "cupscale.method.word_screen.crop_resize", lambda *args: counts.append(1) or crop_resize(*args)
    )
    made, boxes = screen(), torch.stack([RIGHT, TOP])
    assert torch.equal(made.bias(boxes, 5, 0.6), made.bias(boxes, 5, 0.6)) and len(counts) == 1
    made.bias(torch.stack([LEFT]), 5, 0.6)
    assert len(counts) == 2


def test_a_prompt_without_words_is_left_alone():
    made = WordScreen(CELLS, [])
    made.keep("fine", maps(4, 8, (8, 8, 8, 8, 8)))
    assert not made.bias(torch.stack([RIGHT]), 5, 0.6).any()


def test_the_composer_screens_the_conditional_rows():
    composer = Composer(0.6, 0.0, GlobalAttention(CELLS), words=WordScreen(CELLS, WORDS), mode="capture")
    whole = maps(4, 8, (8, 2, 4, 4, 8))
    composer.see("layer", lambda: whole)
    assert composer.screening(2, 5, torch.float32) is None  # the overview reads every word
    composer.mode, composer.boxes, composer.cells = "compose", torch.stack([LEFT, RIGHT]), CELLS
    composer.see("layer", lambda: 1 - whole)  # a region's own maps are not looked at
    added = composer.screening(4, 5, torch.float32)
    assert added.shape == (4, 1, 1, 5)
    assert not added[:3].any() and added[3, 0, 0, 1].item() == pytest.approx(math.log(0.4))
    plain = torch.randn(4, 32, 3, generator=torch.Generator().manual_seed(1))
    assert torch.equal(composer.compose("layer", plain, lambda: plain), plain)  # and nothing is mixed in
    composer.attention = 1.0
    assert composer.screening(4, 5, torch.float32)[3, 0, 0, 1] == -math.inf
    composer.attention = 0.0
    assert composer.screening(4, 5, torch.float32) is None
    composer.attention = 0.6
    composer.clear()
    composer.mode = "capture"
    composer.see("coarse", lambda: maps(2, 4, (4, 1, 2, 2, 4)))  # alone, since the layer's maps are forgotten
    composer.mode = "compose"
    assert composer.screening(2, 5, torch.float32)[:, 0, 0, 2].tolist() == pytest.approx([0, math.log(0.4)])


def test_a_composer_without_a_screen_of_words_clears_its_overview_and_looks_at_no_maps():
    composer = Composer(0.6, 0.0, GlobalAttention(CELLS), mode="capture")
    composer.see("layer", lambda: pytest.fail("maps were asked for"))
    whole = torch.ones(1, 32, 3)
    composer.compose("layer", whole, lambda: whole)
    composer.clear()
    composer.mode, composer.boxes, composer.cells = "compose", torch.stack([LEFT]), CELLS
    with pytest.raises(KeyError):
        composer.screened("layer", whole)
