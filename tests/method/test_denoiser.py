"""One run of a network over regions, on a network that is known: what it is asked, and what becomes of its outputs."""

import pytest
import torch

from cupscale.backbones.denoiser import Call, RegionDenoiser, Text, Texts, split
from cupscale.method.attention import GlobalAttention
from cupscale.method.composer import Composer
from cupscale.method.regions import Region, Size

CANVAS, OVERVIEW = Size(9, 14), Size(4, 6)
REGIONS = [Region(1, 2, 3, 5), Region(6, 9, 3, 5)]
T = torch.tensor(300.0)


def noise(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def text(tokens, seed, mask=None):
    read = None if mask is None else torch.tensor([mask], dtype=torch.bool)
    return Text(noise(1, tokens, 4, seed=seed), noise(1, 3, seed=seed + 50), read)


class Network:
    """Gives 2 x + the row's number, and keeps what it was asked and the composer's state then."""

    def __init__(self):
        self.calls, self.states = [], []

    def __call__(self, call, composer):
        self.calls.append(call)
        self.states.append((composer.mode, composer.own, composer.prompts, composer.boxes, composer.cells))
        assert not torch.is_grad_enabled()
        return 2 * call.latents + torch.arange(len(call.latents)).view(-1, 1, 1, 1)


def denoiser(negative=True, captions=(), attention=0.0, **options):
    texts = Texts(text(5, 1), text(5, 2) if negative else None, captions)
    composer = Composer(attention, 0.0, GlobalAttention(OVERVIEW))
    network = Network()
    options = {"guidance": 3.0} | options
    return network, RegionDenoiser(network, composer, texts, CANVAS, OVERVIEW, **options)


def test_without_guidance_the_conditional_outputs_are_it():
    network, made = denoiser(negative=False)
    x = noise(2, 4, 3, 5)
    out = made.predict(x, T, REGIONS, [0, 1])
    assert torch.equal(out, 2 * x + torch.tensor([0.0, 1.0]).view(-1, 1, 1, 1))
    (call,) = network.calls
    assert call.texts == [made.texts.prompt] * 2 and call.regions == REGIONS and call.canvas == CANVAS
    assert torch.equal(call.latents, x) and call.t is T and call.own == ()
    assert not made.guided and made.plain


def test_guidance_leads_away_from_the_unconditional_half():
    """Rows 0 and 1 are unconditional: u = 2 x + r, c = 2 x + 2 + r, so u + 3 (c - u) = 2 x + r + 6."""
    network, made = denoiser()
    x, rows = noise(2, 4, 3, 5), torch.tensor([0.0, 1.0]).view(-1, 1, 1, 1)
    assert torch.allclose(made.predict(x, T, REGIONS, [0, 1]), 2 * x + rows + 6, atol=1e-5)
    (call,) = network.calls
    assert call.texts == [made.texts.negative] * 2 + [made.texts.prompt] * 2
    assert torch.equal(call.latents, torch.cat((x, x)))
    unconditional, conditional = made.halves(x, T, REGIONS, [0, 1])
    assert torch.equal(unconditional, 2 * x + rows)
    assert torch.allclose(conditional, 2 * x + rows + 2, atol=1e-5)
    assert made.guided and made.plain


def test_a_step_without_guidance_takes_one_half():
    network, made = denoiser()
    x = noise(2, 4, 3, 5)
    out = made.predict(x, T, REGIONS, [0, 1], guided=False)
    assert torch.equal(out[1], 2 * x[1] + 1) and len(network.calls[0].texts) == 2
    unconditional, _ = made.halves(x, T, REGIONS, [0, 1], False)
    assert unconditional is None


def test_a_scale_for_each_cell():
    scale = torch.arange(9 * 14, dtype=torch.float32).view(1, 1, 9, 14)
    _, made = denoiser(guidance=scale)
    x = noise(2, 4, 3, 5)
    out = made.predict(x, T, REGIONS, [0, 1])
    for r, y, x_, c in ((0, 1, 3, 2), (1, 2, 0, 3)):
        there = scale[0, 0, REGIONS[r].y + y, REGIONS[r].x + x_]
        assert out[r, c, y, x_].item() == pytest.approx((2 * x[r, c, y, x_] + r + 2 * there).item(), abs=1e-4)


def test_what_the_prompt_adds_stands_behind_the_output():
    """c - u = 2; the rescaling is of the output alone, and is given the conditional outputs."""
    _, made = denoiser(apart=True, rescaled=lambda guided, conditional: guided - 10 * conditional)
    x = noise(2, 4, 3, 5)
    out = made.predict(x, T, REGIONS, [0, 1])
    assert out.shape == (2, 8, 3, 5) and torch.allclose(out[:, 4:], torch.tensor(2.0), atol=1e-5)
    assert torch.allclose(out[1, :4], 2 * x[1] + 7 - 10 * (2 * x[1] + 3), atol=1e-4)


def test_the_regions_places_and_their_captions():
    captions = [text(5, 3), text(7, 4), text(2, 5)]
    network, made = denoiser(captions=captions)
    made.predict(noise(2, 4, 3, 5), T, REGIONS, [2, 0])
    (call,), ((mode, own, prompts, boxes, cells),) = network.calls, network.states
    assert call.own == [captions[2], captions[0]]
    assert call.corners.tolist() == [[1, 2, 4, 7], [6, 9, 9, 14]]
    assert torch.allclose(boxes, torch.tensor([[1 / 9, 2 / 14, 4 / 9, 0.5], [6 / 9, 9 / 14, 1.0, 1.0]]))
    assert (mode, own, cells) == ("compose", 0, (3, 5))
    assert prompts == (id(made.texts.negative),) * 2 + (id(made.texts.prompt),) * 2
    after = made.composer
    assert (after.mode, after.own, after.prompts) == ("off", 0, ())
    assert not made.plain and not denoiser(attention=0.1)[1].plain


@pytest.mark.parametrize("region", [Region(-2, 3, 3, 5), Region(7, 9, 9, 14), Region(0, 10, 9, 5)])
def test_windows_may_reach_over_the_canvas(region):
    """Those whose edges are not among the numbers at hand, 0 to 14, too."""
    network, made = denoiser(negative=False)
    made.predict(noise(1, 4, 3, 5), T, [region], [0])
    y, x, h, w = region
    assert network.calls[0].corners.tolist() == [[y, x, y + h, x + w]]


def test_three_regions_and_their_places():
    """An odd number of rows to a half, one window over the edge: the halves and the corners keep their order."""
    network, made = denoiser()
    x, regions = noise(3, 4, 3, 5), [*REGIONS, Region(8, 11, 3, 5)]
    unconditional, conditional = made.halves(x, T, regions, [0, 1, 2])
    rows = torch.arange(3.0).view(-1, 1, 1, 1)
    assert torch.allclose(unconditional, 2 * x + rows) and torch.allclose(conditional, 2 * x + rows + 3)
    assert network.calls[0].corners.tolist() == [[1, 2, 4, 7], [6, 9, 9, 14], [8, 11, 11, 16]]


def test_the_numbers_at_hand_reach_to_the_longest_side():
    _, made = denoiser()
    assert made._counted.tolist() == list(range(15))


def test_the_overview_is_one_call_of_the_prompt():
    network, made = denoiser()
    x = noise(1, 4, 4, 6)
    assert torch.equal(made.capture(x, T), 2 * x)
    (call,), (state,) = network.calls, network.states
    assert call.texts == [made.texts.prompt] and call.canvas == OVERVIEW and state[:2] == ("capture", 0)
    assert call.regions == [Region(0, 0, 4, 6)] and call.corners.tolist() == [[0, 0, 4, 6]]
    assert call.own == () and call.t is T


def test_an_error_leaves_the_composer_off():
    _, made = denoiser()
    made._network = lambda call, composer: 1 / 0
    with pytest.raises(ZeroDivisionError):
        made.capture(noise(1, 4, 4, 6), T)
    assert (made.composer.mode, made.composer.own, made.composer.prompts) == ("off", 0, ())


# Words


def call(texts, own=()):
    return Call(noise(len(texts), 4, 3, 5), T, texts, REGIONS, torch.zeros(2, 4), CANVAS, own)


def composer():
    return Composer(0.5, 0.5, GlobalAttention(OVERVIEW), own=9)


def test_prompts_of_one_length_have_no_mask():
    texts, asked = [text(5, 1), text(5, 2)], composer()
    embeds, mask = call(texts).words(asked)
    assert torch.equal(embeds, torch.cat([each.embeds for each in texts])) and mask is None and asked.own == 0
    pooled = call([*texts, Text(noise(1, 5, 4))]).pooled()
    assert torch.equal(pooled, torch.cat([each.pooled for each in texts]))


def test_shorter_prompts_are_filled_up_and_masked():
    texts = [text(2, 1), text(4, 2, [1, 1, 0, 1]), text(3, 3)]
    embeds, mask = call(texts).words(composer())
    assert embeds.shape == (3, 4, 4) and not embeds[0, 2:].any() and not embeds[2, 3:].any()
    assert torch.equal(embeds[2, :3], texts[2].embeds[0])
    assert mask.int().tolist() == [[1, 1, 0, 0], [1, 1, 0, 1], [1, 1, 1, 0]]


def test_captions_stand_behind_the_prompts_of_the_conditional_half():
    """Four rows, two captions: they join rows 2 and 3; rows 0 and 1 have nothing to read there."""
    texts = [text(5, 1), text(5, 2), text(5, 3), text(5, 4)]
    own = [text(2, 5), text(3, 6)]
    asked = composer()
    embeds, mask = call(texts, own).words(asked)
    assert asked.own == 3 and embeds.shape == (4, 8, 4)
    assert torch.equal(embeds[:, :5], torch.cat([each.embeds for each in texts]))
    assert not embeds[:2, 5:].any() and not embeds[2, 7:].any()
    assert torch.equal(embeds[2, 5:7], own[0].embeds[0]) and torch.equal(embeds[3, 5:], own[1].embeds[0])
    reads = [[0, 0, 0], [0, 0, 0], [1, 1, 0], [1, 1, 1]]
    assert mask.int().tolist() == [[1] * 5 + row for row in reads]


def test_masks_of_prompts_and_captions_stand_side_by_side():
    texts = [text(3, 1, [1, 1, 0]), text(3, 2, [1, 0, 0])]
    _, mask = call(texts, [text(2, 3), text(2, 4)]).words(composer())
    assert mask.int().tolist() == [[1, 1, 0, 1, 1], [1, 0, 0, 1, 1]]
    _, mask = call([text(3, 1), text(3, 2)], [text(2, 3, [1, 0])]).words(composer())
    assert mask.int().tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 0]]
    embeds, mask = call([text(3, 1)], [text(2, 3)]).words(composer())
    assert mask is None and embeds.shape == (1, 5, 4)


def test_a_batch_of_texts_is_split():
    embeds, pooled, masks = noise(2, 3, 4), noise(2, 5, seed=2), torch.tensor([[1, 1, 0], [1, 0, 0]])
    one, two = split(embeds, pooled, masks)
    assert one.embeds.shape == (1, 3, 4) and torch.equal(two.embeds[0], embeds[1])
    assert torch.equal(two.pooled, pooled[1:]) and two.mask.tolist() == [[1, 0, 0]]
    assert [(each.pooled, each.mask) for each in split(embeds)] == [(None, None)] * 2
