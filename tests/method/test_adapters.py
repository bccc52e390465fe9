"""The adapters through what they show: what reaches the network, and what its layers give, against formulas by hand."""

import inspect
import math

import diffusers
import numpy as np
import pytest
import slow
import torch
from diffusers.models.attention import AttentionModuleMixin
from diffusers.models.attention_processor import Attention

import cupscale
from cupscale.backbones import Tiles, adapt
from cupscale.method.regions import Region, Size
from cupscale.method.sampler import StepDone, denoise, draw_noise
from cupscale.method.structure import GlobalStructure

ALL = ["sd15", "sdxl", "pixart-alpha", "sd3", "z-image"]
PROMPT, NEGATIVE = "a red fox in deep snow, at night, far away", "mud"
CAPTIONS = ["a boat", None, "a long blue boat with a sail on a lake"]
# Off the diagonal, nothing square: windows of 12 x 16 cells on 20 x 28; the overview of 10 x 14.
CANVAS, OVERVIEW = Size(20, 28), Size(10, 14)
REGIONS = [Region(8, 0, 12, 16), Region(4, 6, 12, 16), Region(2, 12, 12, 16)]
BOXES = [(0.4, 0.0, 1.0, 4 / 7), (0.2, 3 / 14, 0.8, 11 / 14), (0.1, 3 / 7, 0.7, 1.0)]


def settings(**fields):
    values = {
        "prompt": PROMPT,
        "negative_prompt": NEGATIVE,
        "attention": 0,
        "detail": 0,
        "structure": 0,
        "strength": 0.5,
        "steps": 6,
        "guidance": 1.0,
        "seed": 3,
    }
    return cupscale.Settings.build(values | fields)


def latents(count=3, seed=5, size=(12, 16)):
    return draw_noise((count, 4, *size), seed)


def numbers(tensor):
    return tensor.detach().double().numpy()


def embeds(pipe, text):
    """A text as the pipeline encodes it, (tokens, D), and which tokens are read."""
    with torch.no_grad():
        if isinstance(pipe, diffusers.PixArtAlphaPipeline):
            words, mask, *_ = pipe.encode_prompt(text, False, max_sequence_length=120)
            return words[0], mask[0].bool().tolist()
        if isinstance(pipe, diffusers.ZImagePipeline):
            words = pipe.encode_prompt(text, "cpu", False, max_sequence_length=512)[0][0]
        elif isinstance(pipe, diffusers.StableDiffusionPipeline):
            words = pipe.encode_prompt(text, "cpu", 1, False)[0][0]
        elif isinstance(pipe, diffusers.StableDiffusion3Pipeline):
            words = pipe.encode_prompt(text, None, None, do_classifier_free_guidance=False)[0][0]
        else:
            words = pipe.encode_prompt(text, do_classifier_free_guidance=False)[0][0]
    return words, [True] * len(words)


class Layers:
    """What goes into the attentions that read the text, and what they give before their last projection."""

    def __init__(self, network, ends):
        self.into, self.out, self.text_out = {}, {}, {}
        self.modules = {
            name: module
            for name, module in network.named_modules()
            if isinstance(module, (Attention, AttentionModuleMixin))
            and name.endswith(ends)
            and "refiner" not in name
        }
        self._handles = []
        for name, module in self.modules.items():
            self._on(module, lambda m, args, kw, n=name: self.into.__setitem__(n, self._bound(m, args, kw)))
            last = module.to_out if isinstance(module.to_out, torch.nn.Linear) else module.to_out[0]
            self._on(last, lambda m, args, kw, n=name: self.out.__setitem__(n, args[0]))
            if getattr(module, "to_add_out", None) is not None:
                self._on(module.to_add_out, lambda m, args, kw, n=name: self.text_out.__setitem__(n, args[0]))

    def _on(self, module, hook):
        self._handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))

    @staticmethod
    def _bound(module, args, kwargs):
        bound = inspect.signature(module.forward).bind(*args, **kwargs).arguments
        return bound | bound.pop("cross_attention_kwargs", {})

    def take(self):
        taken = dict(self.into), dict(self.out), dict(self.text_out)
        for kept in (self.into, self.out, self.text_out):
            kept.clear()
        return taken


def heads(module, layer, x):
    """x through one of the layer's projections, by hand: (heads, n, d)."""
    linear = getattr(module, layer)
    y = numbers(x) @ numbers(linear.weight).T
    y = y if linear.bias is None else y + numbers(linear.bias)
    return y.reshape(len(y), module.heads, -1).transpose(1, 0, 2)


def maps(query, key, read=None):
    """Softmax maps of all heads, (heads, n, m)."""
    scores = query @ key.transpose(0, 2, 1) / math.sqrt(query.shape[-1])
    if read is not None:
        scores = np.where(np.asarray(read), scores, -np.inf)
    scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return scores / scores.sum(axis=-1, keepdims=True)


def flat(per_head):
    """(heads, n, d) -> (n, heads * d)."""
    return np.concatenate(list(per_head), axis=1)


def cropped_maps(looks, grid, region, out):
    return np.stack([slow.crop_maps(look, grid, BOXES[region], out) for look in looks])


def weigh_norms(network):
    """Give each normalization of queries and keys weights of its own; fresh networks have ones in all of them."""
    for k, name in enumerate(("norm_q", "norm_k", "norm_added_q", "norm_added_k")):
        for module in network.modules():
            norm = getattr(module, name, None)
            if norm is not None and getattr(norm, "weight", None) is not None:
                weight = torch.linspace(0.6 + 0.1 * k, 1.5 - 0.2 * k, len(norm.weight))
                norm.weight.data.copy_(weight)


def run(pipe, chosen, ends, captions=CAPTIONS, t=500):
    """A pass over the overview and one over three regions: the layers, and what each pass put through them."""
    backbone = adapt(pipe)
    weigh_norms(backbone.network)
    with backbone.denoiser(chosen, captions, CANVAS, OVERVIEW) as denoiser:
        layers = Layers(backbone.network, ends)
        denoiser.capture(latents(1, 6, OVERVIEW), torch.tensor(t))
        overview = layers.take()
        denoiser.predict(latents(), torch.tensor(t), REGIONS, range(3))
        return layers.modules, overview, layers.take()


# Cross-attention


@pytest.mark.parametrize("captions", [CAPTIONS, [None] * 3], ids=["captions", "no captions"])
@pytest.mark.parametrize("guidance", [1.0, 3.0], ids=["unguided", "guided"])
@pytest.mark.parametrize("name", ["sd15", "sdxl", "pixart-alpha"])
def test_the_cross_attention_of_a_real_network(load, name, guidance, captions):
    """Every layer, against explicit maps: O = (1 - lambda) (mu crop(M_L) V + (1 - mu) M V) + lambda M_r V_r."""
    pipe, mu, lam = load(name), 0.6, 0.3
    chosen = settings(attention=mu, detail=lam, guidance=guidance)
    modules, overview, regions = run(pipe, chosen, "attn2", captions)
    assert len(modules) >= 2

    def words(text):
        embedded, read = embeds(pipe, text)
        if name == "pixart-alpha":
            with torch.no_grad():
                embedded = pipe.transformer.caption_projection(embedded)
        return embedded, read

    prompt, negative = words(PROMPT), words(NEGATIVE)
    own = [words(caption or PROMPT) for caption in captions]
    for layer, module in modules.items():

        def looks(hidden, text, module=module):
            return maps(heads(module, "to_q", hidden), heads(module, "to_k", text[0]), text[1])

        hidden, out = regions[0][layer]["hidden_states"], numbers(regions[1][layer])
        assert len(hidden) == len(out) == (6 if guidance > 1 else 3)
        value = heads(module, "to_v", prompt[0])
        grid, overview_grid = ((12, 16), OVERVIEW) if hidden.shape[1] == 192 else ((6, 8), (5, 7))
        whole = looks(overview[0][layer]["hidden_states"][0], prompt)
        assert np.allclose(numbers(overview[1][layer][0]), flat(whole @ value), atol=2e-5)
        if guidance > 1:
            for row in range(3):
                plain = looks(hidden[row], negative) @ heads(module, "to_v", negative[0])
                assert np.allclose(out[row], flat(plain), atol=2e-5)
        for r in range(3):
            row = hidden[len(hidden) - 3 + r]
            screened = mu * cropped_maps(whole, overview_grid, r, grid) + (1 - mu) * looks(row, prompt)
            regional = looks(row, own[r]) @ heads(module, "to_v", own[r][0])
            expected = (1 - lam) * screened @ value + lam * regional
            assert np.allclose(out[len(hidden) - 3 + r], flat(expected), atol=2e-5), (layer, r)


def word_maps(pipe, modules, overview, prompt):
    """Each word's map over the overview: tokens of a word, heads, layers of a grid, and grids, averaged in this order."""
    grids = {}
    for layer, module in modules.items():
        looks = maps(
            heads(module, "to_q", overview[0][layer]["hidden_states"][0]), heads(module, "to_k", prompt)
        )
        grid = tuple(OVERVIEW) if looks.shape[1] == 140 else (5, 7)
        grids.setdefault(grid, []).append(looks.mean(axis=0).reshape(*grid, -1))
    finest = max(grids)
    means = [slow.crop(np.mean(same, axis=0), (0, 0, 1, 1), *finest) for same in grids.values()]
    whole = np.mean(means, axis=0)
    places, start = [], 1  # behind the mark of the beginning
    for word in PROMPT.split():
        end = start + len(pipe.tokenizer(word).input_ids) - 2
        places.append(slice(start, end))
        start = end
    return places, [whole[..., at].mean(axis=-1) for at in places]


@pytest.mark.parametrize("mu", [0.6, 1.0])
def test_words_are_screened_in_a_real_network(load, mu):
    """Every layer, against explicit maps: softmax(Q K^T / sqrt d + log(1 - mu) where a word is not shown) V, and the caption."""
    pipe, lam = load("sdxl"), 0.3
    chosen = settings(attention=mu, detail=lam, guidance=3.0, attention_form="screen")
    modules, overview, regions = run(pipe, chosen, "attn2")
    prompt, negative = embeds(pipe, PROMPT)[0], embeds(pipe, NEGATIVE)[0]
    places, whole = word_maps(pipe, modules, overview, prompt)
    shares = np.array(
        [[slow.crop((one > one.mean()).astype(float), box, 32, 32).mean() for one in whole] for box in BOXES]
    )
    assert (np.abs(shares - 0.3) > 1e-3).all() and (shares < 0.3).any() and (shares > 0.3).any()
    with np.errstate(divide="ignore"):
        lowered = np.log(1 - np.float64(mu))
    for layer, module in modules.items():
        hidden, out = regions[0][layer]["hidden_states"], numbers(regions[1][layer])
        key, value = heads(module, "to_k", prompt), heads(module, "to_v", prompt)
        for row in range(3):
            query = heads(module, "to_q", hidden[row])
            plain = maps(query, heads(module, "to_k", negative)) @ heads(module, "to_v", negative)
            assert np.allclose(out[row], flat(plain), atol=2e-5)
            added = np.zeros(len(prompt))
            for at, share in zip(places, shares[row], strict=True):
                added[at] = lowered if share < 0.3 else 0.0
            query = heads(module, "to_q", hidden[3 + row])
            scores = query @ key.transpose(0, 2, 1) / math.sqrt(query.shape[-1]) + added
            looks = np.exp(scores) / np.exp(scores).sum(axis=-1, keepdims=True)
            own = embeds(pipe, CAPTIONS[row] or PROMPT)[0]
            regional = maps(query, heads(module, "to_k", own)) @ heads(module, "to_v", own)
            expected = (1 - lam) * looks @ value + lam * regional
            assert np.allclose(out[3 + row], flat(expected), atol=2e-5), (layer, row)


# Joint attention


def rms(x, norm):
    """(heads, n, d), each over its root mean square, times the norm's weight."""
    if norm is None:
        return x
    return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + norm.eps) * numbers(norm.weight)


def joint(image, text, own, whole, grid, overview_grid, region, mu, lam):
    """The image's rows by hand. image: (q of its grid, k, v) per head; text, own: (k, v, read); whole: maps, values."""

    def together(part):
        read = [True] * image[1].shape[1] + list(part[2])
        return maps(image[0], np.concatenate((image[1], part[0]), axis=1), read)

    count = image[1].shape[1]
    both = together(text)
    mass = both[:, :, count:].sum(axis=-1, keepdims=True)
    cropped = cropped_maps(whole[0], overview_grid, region, grid) @ whole[1]
    alone = maps(image[0], text[0], text[2]) @ text[1]
    screened = both[:, :, :count] @ image[2] + mass * (mu * cropped + (1 - mu) * alone)
    regional = together(own) @ np.concatenate((image[2], own[1]), axis=1)
    return (1 - lam) * screened + lam * regional


@pytest.mark.parametrize("guidance", [1.0, 3.0], ids=["unguided", "guided"])
def test_the_joint_attention_of_sd3(load, guidance):
    pipe, mu, lam = load("sd3"), 0.6, 0.3
    chosen = settings(attention=mu, detail=lam, guidance=guidance)
    modules, overview, regions = run(pipe, chosen, ".attn")
    assert len(modules) == 3
    length = len(embeds(pipe, PROMPT)[0])

    def image_parts(module, x):
        q, k, v = (heads(module, layer, x) for layer in ("to_q", "to_k", "to_v"))
        return rms(q, module.norm_q), rms(k, module.norm_k), v

    def text_parts(module, x):
        q, k, v = (heads(module, layer, x) for layer in ("add_q_proj", "add_k_proj", "add_v_proj"))
        return rms(q, module.norm_added_q), rms(k, module.norm_added_k), v

    for layer, module in modules.items():
        into = overview[0][layer]
        q, k, v = image_parts(module, into["hidden_states"][0])
        _, text_k, text_v = text_parts(module, into["encoder_hidden_states"][0])
        plain = maps(q, np.concatenate((k, text_k), axis=1)) @ np.concatenate((v, text_v), axis=1)
        assert np.allclose(numbers(overview[1][layer][0]), flat(plain), atol=2e-5)
        whole = maps(q, text_k), text_v
        into, out = regions[0][layer], numbers(regions[1][layer])
        rows = 6 if guidance > 1 else 3
        assert into["encoder_hidden_states"].shape[:2] == (rows, 2 * length)
        for row in range(rows):
            image = image_parts(module, into["hidden_states"][row])
            words = into["encoder_hidden_states"][row]
            text_q, *text = text_parts(module, words[:length])
            own_q, *own = text_parts(module, words[length:])
            read = [True] * length
            r = row - (rows - 3)
            if r < 0:
                key, value = (np.concatenate((image[k + 1], text[k]), axis=1) for k in (0, 1))
                expected = maps(image[0], key) @ value
            else:
                expected = joint(image, (*text, read), (*own, read), whole, (6, 8), (5, 7), r, mu, lam)
            assert np.allclose(out[row], flat(expected), atol=2e-5), (layer, row)
            if layer in regions[2]:
                got = numbers(regions[2][layer][row])
                for part, query, (k, v) in ((slice(length), text_q, text), (slice(length, None), own_q, own)):
                    key, value = np.concatenate((image[1], k), axis=1), np.concatenate((image[2], v), axis=1)
                    if r >= 0 or part.start is None:
                        assert np.allclose(got[part], flat(maps(query, key) @ value), atol=2e-5)


def turned(x, freqs):
    """Rotary positions by hand: channels 2 j and 2 j + 1 of (heads, n, d), turned by the angle of freqs (n, d / 2)."""
    out = np.zeros_like(x)
    cos, sin = freqs.real.double().numpy(), freqs.imag.double().numpy()
    out[..., 0::2] = x[..., 0::2] * cos - x[..., 1::2] * sin
    out[..., 1::2] = x[..., 0::2] * sin + x[..., 1::2] * cos
    return out


@pytest.mark.parametrize("guidance", [1.0, 3.0], ids=["unguided", "guided"])
def test_the_joint_attention_of_z_image(load, guidance):
    """48 tokens of image, padded to 64; texts padded to 32, 64 and 96, those that are shorter masked."""
    pipe, mu, lam = load("z-image"), 0.6, 0.3
    chosen = settings(attention=mu, detail=lam, guidance=guidance)
    modules, overview, regions = run(pipe, chosen, ".attention", t=500.0)
    assert len(modules) == 2

    def padded(text):
        return -(-len(embeds(pipe, text)[0]) // 32) * 32

    lengths = {text: padded(text) for text in (PROMPT, NEGATIVE, *CAPTIONS) if text}
    assert len(set(lengths.values())) > 1

    def parts(module, x, freqs):
        q, k, v = (heads(module, layer, x) for layer in ("to_q", "to_k", "to_v"))
        return turned(rms(q, module.norm_q), freqs), turned(rms(k, module.norm_k), freqs), v

    for layer, module in modules.items():
        into = overview[0][layer]
        q, k, v = parts(module, into["hidden_states"][0], into["freqs_cis"][0])
        assert np.allclose(numbers(overview[1][layer][0]), flat(maps(q, k) @ v), atol=2e-5)
        start = q.shape[1] - lengths[PROMPT]  # 35 tokens of the overview, padded to 64
        assert start == 64
        whole = maps(q[:, :35], k[:, start:]), v[:, start:]
        into, out = regions[0][layer], numbers(regions[1][layer])
        rows = 6 if guidance > 1 else 3
        end = 64 + max(lengths[text] for text in ([PROMPT, NEGATIVE] if guidance > 1 else [PROMPT]))
        for row in range(rows):
            r = row - (rows - 3)
            q, k, v = parts(module, into["hidden_states"][row], into["freqs_cis"][row])
            text_end = 64 + lengths[PROMPT if r >= 0 else NEGATIVE]
            key, value = k[:, :text_end], v[:, :text_end]
            plain = maps(q[:, :text_end], key) @ value
            if r < 0:
                assert np.allclose(out[row, :text_end], flat(plain), atol=2e-5), (layer, row)
                continue
            assert np.allclose(out[row, 48:text_end], flat(plain[:, 48:]), atol=2e-5)
            caption = CAPTIONS[r] or PROMPT
            own = slice(end, end + lengths[caption])
            text = (k[:, 64:text_end], v[:, 64:text_end], [True] * lengths[PROMPT])
            regional = (k[:, own], v[:, own], [True] * lengths[caption])
            image = (q[:, :48], k[:, :64], v[:, :64])
            expected = joint(image, text, regional, whole, (6, 8), (5, 7), r, mu, lam)
            assert np.allclose(out[row, :48], flat(expected), atol=2e-5), (layer, row)
            key, value = np.concatenate((k[:, :64], k[:, own]), 1), np.concatenate((v[:, :64], v[:, own]), 1)
            assert np.allclose(out[row, own], flat(maps(q[:, own], key) @ value), atol=2e-5), (layer, row)


# What the network is told


def calls(network):
    """Every call's arguments and output, as they come."""
    seen = []

    def hook(module, args, kwargs, output):
        bound = inspect.signature(module.forward).bind(*args, **kwargs).arguments
        seen.append((bound, output[0] if isinstance(output, tuple) else output.sample))

    network.register_forward_hook(hook, with_kwargs=True)
    return seen


@pytest.mark.parametrize("scale", [None, 1.5])
def test_sdxl_is_told_each_regions_place(load, scale):
    """(height, width) of the original, (top, left) of the crop, (height, width) of the target, in pixels, 4 to a cell."""
    pipe = load("sdxl")
    if scale is not None:
        pipe.vae.register_to_config(source_scale=scale)
    backbone = adapt(pipe)
    seen = calls(backbone.network)
    with backbone.denoiser(settings(attention=0.5, guidance=3.0), [None] * 3, CANVAS, OVERVIEW) as denoiser:
        denoiser.capture(latents(1, 6, OVERVIEW), torch.tensor(500))
        denoiser.predict(latents(), torch.tensor(321), REGIONS, range(3))
    full = [120.0, 168.0] if scale else [80.0, 112.0]
    whole = [60.0, 84.0, 0, 0, 40, 56] if scale else [40.0, 56.0, 0, 0, 40, 56]
    rows = [[*full, 32, 0, 80, 112], [*full, 16, 24, 80, 112], [*full, 8, 48, 80, 112]]
    assert seen[0][0]["added_cond_kwargs"]["time_ids"].tolist() == [whole]
    assert seen[1][0]["added_cond_kwargs"]["time_ids"].tolist() == rows + rows
    with torch.no_grad():
        _, _, pooled, other = pipe.encode_prompt(PROMPT, negative_prompt=NEGATIVE)
    assert torch.allclose(seen[0][0]["added_cond_kwargs"]["text_embeds"], pooled)
    assert torch.allclose(
        seen[1][0]["added_cond_kwargs"]["text_embeds"], torch.cat([other] * 3 + [pooled] * 3)
    )
    assert [call["timestep"].item() for call, _ in seen] == [500, 321]
    assert torch.equal(seen[1][0]["sample"], torch.cat((latents(), latents())))


def test_sdxl_without_a_negative_prompt_is_guided_from_zeros(load):
    pipe = load("sdxl")
    pipe.register_to_config(force_zeros_for_empty_prompt=True)
    backbone = adapt(pipe)
    seen = calls(backbone.network)
    chosen = settings(guidance=3.0, negative_prompt="")
    with backbone.denoiser(chosen, [None], CANVAS, OVERVIEW) as denoiser:
        denoiser.predict(latents(1), torch.tensor(500), REGIONS[:1], [0])
    words = seen[0][0]["encoder_hidden_states"]
    assert words[0].abs().max() == 0 and torch.allclose(words[1], embeds(pipe, PROMPT)[0])


def test_sd3_is_told_the_prompts_pooled_words_and_the_time(load):
    pipe = load("sd3")
    backbone = adapt(pipe)
    seen = calls(backbone.network)
    with backbone.denoiser(settings(guidance=3.0, detail=0.5), CAPTIONS, CANVAS, OVERVIEW) as denoiser:
        denoiser.predict(latents(), torch.tensor(321.5), REGIONS, range(3))
    with torch.no_grad():
        _, _, pooled, other = pipe.encode_prompt(PROMPT, None, None, negative_prompt=NEGATIVE)
    ((call, _),) = seen
    assert torch.allclose(call["pooled_projections"], torch.cat([other] * 3 + [pooled] * 3))
    assert call["timestep"].tolist() == [321.5] * 6


def test_z_image_is_told_how_far_it_has_come(load):
    """Its time runs the other way, from 0 to 1, and so does its output."""
    backbone = adapt(load("z-image"))
    seen = calls(backbone.network)
    with backbone.denoiser(settings(), [None] * 3, CANVAS, OVERVIEW) as denoiser:
        out = denoiser.predict(latents(), torch.tensor(300.0), REGIONS, range(3))
    ((call, given),) = seen
    assert call["t"].tolist() == pytest.approx([0.7] * 3)
    assert torch.equal(torch.stack(list(call["x"]))[:, :, 0], latents())
    assert torch.allclose(out, -torch.stack(list(given))[:, :, 0])


def test_pixart_is_told_the_size_of_a_window_where_it_was_trained_for_it(tmp_path):
    """Windows of 12 x 16 cells of 4 px: 48 x 64, an aspect of 3/4. The overview: 40 x 56, 5/7."""
    from checkpoints import make_pixart

    size = {"sample_size": 128, "use_additional_conditions": True, "attention_head_dim": 12}
    pipe = cupscale.load(str(make_pixart(tmp_path, **size, cross_attention_dim=24)), device="cpu")
    backbone = adapt(pipe)
    seen = calls(backbone.network)
    with backbone.denoiser(settings(attention=0.5, guidance=3.0), [None] * 3, CANVAS, OVERVIEW) as denoiser:
        denoiser.capture(latents(1, 6, OVERVIEW), torch.tensor(500))
        denoiser.predict(latents(), torch.tensor(321), REGIONS, range(3))
    told = [call["added_cond_kwargs"] for call, _ in seen]
    assert told[0]["resolution"].tolist() == [[40, 56]] and told[1]["resolution"].tolist() == [[48, 64]] * 6
    assert told[0]["aspect_ratio"].flatten().tolist() == pytest.approx([5 / 7])
    assert told[1]["aspect_ratio"].tolist() == [[0.75]] * 6
    assert seen[1][0]["timestep"].tolist() == [321] * 6


def test_pixart_of_512_px_is_told_no_size(load):
    backbone = adapt(load("pixart-alpha"))
    seen = calls(backbone.network)
    with backbone.denoiser(settings(), [None] * 3, CANVAS, OVERVIEW) as denoiser:
        out = denoiser.predict(latents(), torch.tensor(321), REGIONS, range(3))
    assert seen[0][0]["added_cond_kwargs"] == {"resolution": None, "aspect_ratio": None}
    assert seen[0][1].shape[1] == 8 and torch.equal(out, seen[0][1][:, :4])  # the learned variance is left


def test_captions_go_to_the_regions_they_are_for(load):
    """`ids` are places in the plan: a batch of the third and the first has their captions, in that order."""
    pipe = load("sd15")
    backbone = adapt(pipe)
    seen = calls(backbone.network)
    with backbone.denoiser(settings(detail=0.5, guidance=3.0), CAPTIONS, CANVAS, OVERVIEW) as denoiser:
        denoiser.predict(latents(2), torch.tensor(500), [REGIONS[2], REGIONS[1]], [2, 1])
    words = seen[0][0]["encoder_hidden_states"]
    texts = [NEGATIVE, NEGATIVE, PROMPT, PROMPT]
    for row, (text, own) in enumerate(zip(texts, [None, None, CAPTIONS[2], PROMPT], strict=True)):
        assert torch.allclose(words[row, :77], embeds(pipe, text)[0])
        expected = torch.zeros_like(words[row, 77:]) if own is None else embeds(pipe, own)[0]
        assert torch.allclose(words[row, 77:], expected)


# Guidance


@pytest.mark.parametrize("name", ALL)
def test_guidance(load, name):
    """u + s (c - u); a map's s is that of each region's own cells."""
    backbone = adapt(load(name))
    seen = calls(backbone.network)
    scales = torch.arange(20 * 28, dtype=torch.float32).view(1, 1, *CANVAS) / 100
    t = torch.tensor(500.0 if name in ("sd3", "z-image") else 500)
    outputs = []
    for scale in (None, scales):
        with backbone.denoiser(settings(guidance=2.5), [None] * 3, CANVAS, OVERVIEW, scale) as denoiser:
            outputs.append(denoiser.predict(latents(), t, REGIONS, range(3)))
    for k, out in enumerate(outputs):
        given = torch.stack(list(seen[k][1]))[:, :4]
        given = -given[:, :, 0] if name == "z-image" else given
        for r, (y, x, h, w) in enumerate(REGIONS):
            scale = 2.5 if k == 0 else scales[0, :, y : y + h, x : x + w]
            assert torch.allclose(out[r], given[r] + scale * (given[3 + r] - given[r]), atol=1e-5)
    assert len(seen) == 2


@pytest.mark.parametrize(("low", "guidance"), [(2.0, 5.0), (0.0, 5.0), (2.0, 1.0)])
def test_what_the_prompt_adds_comes_behind_for_a_low_guidance(load, low, guidance):
    """Channels 0 .. 3 are guided, 4 .. 7 conditional minus unconditional; without guidance there are none."""
    backbone = adapt(load("sdxl"))
    seen = calls(backbone.network)
    chosen = settings(guidance=guidance, guidance_low=low)
    with backbone.denoiser(chosen, [None] * 3, CANVAS, OVERVIEW) as denoiser:
        out = denoiser.predict(latents(), torch.tensor(500), REGIONS, range(3))
    if not low or guidance == 1:
        assert out.shape[1] == 4
        return
    without, with_prompt = torch.stack(list(seen[0][1])).chunk(2)
    assert torch.allclose(out[:, :4], without + 5 * (with_prompt - without), atol=1e-5)
    assert torch.allclose(out[:, 4:], with_prompt - without, atol=1e-6)


@pytest.mark.parametrize("name", ALL)
def test_the_overviews_output_is_given_unguided(load, name):
    backbone = adapt(load(name))
    t = torch.tensor(500.0 if name in ("sd3", "z-image") else 500)
    seen = calls(backbone.network)
    chosen = settings(attention=0.5, guidance=4.0)
    with backbone.denoiser(chosen, [None] * 3, CANVAS, OVERVIEW) as denoiser:
        out = denoiser.capture(latents(1, 6, OVERVIEW), t)
    given = torch.stack(list(seen[0][1]))[:, :4]
    assert out.shape == (1, 4, *OVERVIEW)
    assert torch.allclose(out, -given[:, :, 0] if name == "z-image" else given)


@pytest.mark.parametrize("name", ALL)
def test_without_guidance_the_output_is_the_networks(load, name):
    backbone = adapt(load(name))
    seen = calls(backbone.network)
    t = torch.tensor(500.0 if name in ("sd3", "z-image") else 500)
    with backbone.denoiser(settings(guidance=1.0), [None] * 3, CANVAS, OVERVIEW) as denoiser:
        out = denoiser.predict(latents(), t, REGIONS, range(3))
    given = torch.stack(list(seen[0][1]))[:, :4]
    assert torch.allclose(out, -given[:, :, 0] if name == "z-image" else given)


# The autoencoder


@pytest.mark.parametrize("name", ["sdxl", "sd3"])
def test_latents_are_shifted_and_scaled(load, name):
    """z = (mode - shift) x 0.5, and back; SD3's shift is 0.1."""
    pipe = load(name)
    backbone, shift = adapt(pipe), 0.1 if name == "sd3" else 0.0
    pixels = draw_noise((1, 3, 48, 64), 4).clamp(-1, 1)
    z = backbone.encode(pixels, Tiles())
    with torch.no_grad():
        mode = pipe.vae.encode(pixels).latent_dist.mode()
        decoded = pipe.vae.decode(z / 0.5 + shift).sample
    assert z.shape == (1, 4, 12, 16) and z.dtype == torch.float32
    assert torch.allclose(z, (mode - shift) * 0.5, atol=1e-6)
    assert torch.allclose(backbone.decode(z, Tiles()), decoded, atol=1e-5)


def test_tiles_are_those_asked_for_and_the_vaes_own_come_back(load):
    """A side of 64 px is 16 cells; a quarter of overlap."""
    pipe = load("sdxl")
    backbone, seen = adapt(pipe), []
    names = ("use_tiling", "tile_sample_min_size", "tile_latent_min_size", "tile_overlap_factor")
    before = [getattr(pipe.vae, name) for name in names]
    pipe.vae.encoder.register_forward_pre_hook(
        lambda module, args: seen.append([getattr(pipe.vae, name) for name in names])
    )
    backbone.encode(torch.zeros(1, 3, 48, 96), Tiles(64, 0.375))
    assert seen[0] == [True, 64, 16, 0.375]
    assert [getattr(pipe.vae, name) for name in names] == before
    assert Tiles() == Tiles(1024, 0.25)


# Geometry


@pytest.mark.parametrize(
    ("name", "native", "align"),
    [("sd15", 64, 8), ("sdxl", 64, 8), ("pixart-alpha", 64, 8), ("sd3", 64, 8), ("z-image", 64, 8)],
)
def test_geometry(load, name, native, align):
    pipe = load(name)
    geometry = adapt(pipe).geometry
    assert (geometry.native, geometry.cell, geometry.align, geometry.channels) == (native, 4, align, 4)
    parts = [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]
    held = [one for part in parts for one in (*part.parameters(), *part.buffers())]
    assert geometry.weights == sum(one.numel() * one.element_size() for one in held)
    assert adapt(pipe).shuffle == 1
    assert geometry.width == (16 if name in ("sd15", "sdxl") else 320)


def test_windows_of_a_deeper_unet_are_multiples_of_its_lowest_resolution(tmp_path):
    """Three halvings: 8 cells of 4 px."""
    from checkpoints import make_sd15

    blocks = {
        "block_out_channels": (16, 16, 16, 32),
        "down_block_types": ("CrossAttnDownBlock2D", *["DownBlock2D"] * 3),
        "up_block_types": (*["UpBlock2D"] * 3, "CrossAttnUpBlock2D"),
    }
    pipe = cupscale.load(str(make_sd15(tmp_path, **blocks)), device="cpu")
    assert adapt(pipe).geometry.align == 32


# Schedules

TRAINED = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2  # beta of the checkpoints
KEPT = np.cumprod(1 - TRAINED)  # alpha^2 of each step
X0, NOISE = torch.tensor([[[[1.0, -2.0], [0.5, 4.0]]]]), torch.tensor([[[[0.3, 1.0], [-1.0, 2.0]]]])


def vp(t):
    """(alpha, sigma) at a step of the training, between steps by its sigma / alpha, as Euler has it."""
    ratio = np.interp(t, np.arange(1000), np.sqrt((1 - KEPT) / KEPT))
    return 1 / math.hypot(1, ratio), ratio / math.hypot(1, ratio)


@pytest.mark.parametrize("scheduler", ["ddim", "euler", "dpm++2m", "model"])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_diffusion_estimates(load, prediction, scheduler):
    """epsilon: x0 = (x - sigma e) / alpha; v: x0 = alpha x - sigma v; sample: the output itself; and the way back."""
    pipe = load("sdxl")
    pipe.scheduler.register_to_config(prediction_type=prediction)
    schedule = adapt(pipe).schedule(settings(scheduler=scheduler, strength=0.5, steps=10))
    assert len(schedule.timesteps) == 5
    for i in (0, 2, 3):
        alpha, sigma = vp(schedule.timesteps[i].item())
        sample = schedule.noised(X0, NOISE, i)
        size = (
            1 / alpha if scheduler in ("euler", "model") else 1.0
        )  # Euler's state is x0 + sigma / alpha noise
        assert torch.allclose(sample, size * (alpha * X0 + sigma * NOISE), atol=2e-4)
        x = schedule.model_input(sample, i)
        assert torch.allclose(x, alpha * X0 + sigma * NOISE, atol=1e-4)
        truth = {"epsilon": NOISE, "v_prediction": alpha * NOISE - sigma * X0, "sample": X0}[prediction]
        assert torch.allclose(schedule.to_x0(truth, sample, i), X0, atol=1e-4)
        assert torch.allclose(schedule.from_x0(X0, sample, i), truth, atol=1e-3)
        other = truth + 0.25  # and not the truth: linear in the output
        slope = {"epsilon": -sigma / alpha, "v_prediction": -sigma, "sample": 1.0}[prediction]
        assert torch.allclose(schedule.to_x0(other, sample, i), X0 + 0.25 * slope, atol=1e-4)


@pytest.mark.parametrize("name", ["sd3", "z-image"])
@pytest.mark.parametrize("scheduler", ["model", "euler", "ddim", "dpm++2m"])
def test_flow_estimates(load, name, scheduler):
    """x_s = (1 - s) x0 + s noise, v = noise - x0, with s = 3 u / (1 + 2 u) at shift 3."""
    backbone = adapt(load(name))
    schedule = backbone.schedule(settings(scheduler=scheduler, strength=0.5, steps=10))
    assert len(schedule.timesteps) == 5
    for i in (0, 2, 3):
        s = schedule.timesteps[i].item() / 1000
        sample = schedule.noised(X0, NOISE, i)
        assert torch.allclose(sample, (1 - s) * X0 + s * NOISE, atol=3e-3)
        assert schedule.model_input(sample, i) is sample
        assert torch.allclose(schedule.to_x0(NOISE - X0, sample, i), X0, atol=1e-5)
        assert torch.allclose(schedule.from_x0(X0, sample, i), NOISE - X0, atol=1e-4)
        assert torch.allclose(schedule.to_x0(NOISE - X0 + 0.25, sample, i), X0 - 0.25 * s, atol=1e-3)
    if name == "z-image" and scheduler == "euler":  # asked for as 1 - i / 10, then shifted
        levels = [3 * u / (1 + 2 * u) for u in (0.5, 0.4, 0.3, 0.2, 0.1)]
        assert [t.item() / 1000 for t in schedule.timesteps] == pytest.approx(levels, abs=1e-5)


@pytest.mark.parametrize("scheduler", ["ddim", "euler"])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_diffusion_tells_less_noise_than_there_is(load, prediction, scheduler):
    """At step i of 5, sigma / alpha is told as 1 - 0.4 (1 - cos(2 pi (i + 1/2) / 5)) / 2 of itself, and x0 is meant so."""
    pipe = load("sdxl")
    pipe.scheduler.register_to_config(prediction_type=prediction)
    backbone = adapt(pipe)
    fields = {"scheduler": scheduler, "strength": 0.5, "steps": 10}
    plain, shifted, same = (backbone.schedule(settings(**fields, sigma_shift=a)) for a in (0.0, 0.4, 0.0))
    for i in range(4):
        alpha, sigma = vp(plain.timesteps[i].item())
        share = 1 - 0.4 * (1 - math.cos(2 * math.pi * (i + 0.5) / 5)) / 2
        told = sigma / alpha * share
        a, s = vp(shifted.timesteps[i].item())
        assert s / a == pytest.approx(told, rel=2e-3)
        sample = shifted.noised(X0, NOISE, i)
        assert torch.equal(sample, plain.noised(X0, NOISE, i))
        state = X0 + sigma / alpha * NOISE
        x = shifted.model_input(sample, i)
        assert torch.allclose(x, state / math.hypot(1, told), atol=2e-4)
        output = 0.3 * x + 0.1
        a, s = 1 / math.hypot(1, told), told / math.hypot(1, told)
        x0 = (x - s * output) / a if prediction == "epsilon" else a * x - s * output
        assert torch.allclose(shifted.to_x0(output, sample, i), x0, atol=1e-3)
        assert torch.allclose(shifted.from_x0(x0, sample, i), output, atol=1e-3)
        # The sampler goes on from that x0 as it would have from the output that means it at the true level.
        step = shifted.step(output, sample, i)
        assert torch.allclose(step, plain.step(plain.from_x0(x0, sample, i), sample, i), atol=1e-3)
        assert not torch.allclose(step, same.step(output, sample, i), atol=1e-2)


@pytest.mark.parametrize("name", ["sd3", "z-image"])
def test_flow_tells_less_noise_than_there_is(load, name):
    backbone = adapt(load(name))
    fields = {"scheduler": "euler", "strength": 0.5, "steps": 10}
    plain, shifted = (backbone.schedule(settings(**fields, sigma_shift=shift)) for shift in (0.0, 0.4))
    for i in range(3):
        level = plain.timesteps[i].item() / 1000
        share = 1 - 0.4 * (1 - math.cos(2 * math.pi * (i + 0.5) / 5)) / 2
        assert shifted.timesteps[i].item() / 1000 == pytest.approx(level * share, rel=1e-4)
        sample = shifted.noised(X0, NOISE, i)
        assert torch.equal(sample, plain.noised(X0, NOISE, i)) and shifted.model_input(sample, i) is sample
        output = 0.3 * sample + 0.1
        x0 = sample - level * share * output
        assert torch.allclose(shifted.to_x0(output, sample, i), x0, atol=2e-3)
        assert torch.allclose(shifted.from_x0(x0, sample, i), output, atol=5e-3)
        step = shifted.step(output, sample, i)
        expected = plain.step((sample - x0) / level, sample, i)
        assert torch.allclose(step, expected, atol=5e-3)


@pytest.mark.parametrize(
    ("strength", "steps", "run"),
    [(0.5, 6, 3), (0.45, 10, 5), (0.41, 10, 5), (0.4, 10, 4), (0.01, 10, 1), (1.0, 7, 7)],
)
@pytest.mark.parametrize("name", ["sdxl", "sd3"])
def test_the_last_steps_are_run(load, name, strength, steps, run):
    """ceil(strength x steps) of them."""
    backbone = adapt(load(name))
    chosen = settings(scheduler="euler", strength=strength, steps=steps)
    every = backbone.schedule(settings(scheduler="euler", strength=1.0, steps=steps)).timesteps
    assert backbone.schedule(chosen).timesteps.tolist() == every[-run:].tolist()
    assert chosen.run_steps == run


def test_a_samplers_own_noise_is_stream_2(load):
    """Euler ancestral: down to sigma_down, then sigma_up of noise."""
    pipe = load("sdxl")
    pipe.scheduler = diffusers.EulerAncestralDiscreteScheduler.from_config(pipe.scheduler.config)
    schedule = adapt(pipe).schedule(settings(scheduler="model", strength=0.5, steps=6, seed=7))
    ratios = [vp(t.item()) for t in schedule.timesteps]
    here, there = (sigma / alpha for alpha, sigma in ratios[:2])
    up = math.sqrt(there**2 * (here**2 - there**2) / here**2)
    down = math.sqrt(there**2 - up**2)
    sample = schedule.noised(X0, NOISE, 0)
    own = torch.randn(X0.shape, generator=torch.Generator().manual_seed((7 + 2 * 0x9E3779B9) % 2**32))
    assert torch.allclose(schedule.step(NOISE, sample, 0), X0 + down * NOISE + up * own, atol=2e-3)


def test_pndm_is_replaced_by_its_first_order(load):
    """DDIM's step by hand: x0 and noise, put together at the next step's alpha and sigma."""
    pipe = load("sd15")
    assert isinstance(pipe.scheduler, diffusers.PNDMScheduler)
    schedule = adapt(pipe).schedule(settings(scheduler="model", strength=0.5, steps=10))
    assert schedule.timesteps.tolist() == [401, 301, 201, 101, 1]
    sample = math.sqrt(KEPT[401]) * X0 + math.sqrt(1 - KEPT[401]) * NOISE
    for i, (t, after) in enumerate(((401, 301), (301, 201), (201, 101))):
        output = NOISE + i  # another at each step: a multistep sampler would mix them
        x0 = (sample - math.sqrt(1 - KEPT[t]) * output) / math.sqrt(KEPT[t])
        expected = math.sqrt(KEPT[after]) * x0 + math.sqrt(1 - KEPT[after]) * output
        sample = schedule.step(output, sample, i)
        assert torch.allclose(sample, expected, atol=1e-4)


def test_another_scheduler_that_is_asked_for_takes_pndms_place(load):
    """Euler: its state grows with the noise, by 1 / alpha."""
    schedule = adapt(load("sd15")).schedule(settings(scheduler="euler", strength=0.5, steps=10))
    alpha, sigma = vp(schedule.timesteps[0].item())
    assert schedule.noised(torch.zeros(1), torch.ones(1), 0).item() == pytest.approx(sigma / alpha, abs=1e-4)


@pytest.mark.parametrize("scheduler", ["model", "euler", "ddim"])
def test_a_step_of_flow_goes_along_the_velocity(load, scheduler):
    """x + (s' - s) v, another v at each step."""
    schedule = adapt(load("sd3")).schedule(settings(scheduler=scheduler, strength=0.5, steps=8))
    levels = [*(t.item() / 1000 for t in schedule.timesteps), 0.0]
    sample = X0
    for i in range(4):
        velocity = NOISE * (i + 1)
        expected = sample + (levels[i + 1] - levels[i]) * velocity
        sample = schedule.step(velocity, sample, i)
        assert torch.allclose(sample, expected, atol=1e-4)


def test_a_flow_models_own_scheduler_is_run_unless_another_is_asked_for(load):
    """LCM's leaps to the estimate and adds noise, of stream 2; Euler's goes along."""
    pipe = load("sd3")
    pipe.scheduler = diffusers.FlowMatchLCMScheduler(shift=3.0)
    for scheduler in ("model", "euler"):
        schedule = adapt(pipe).schedule(settings(scheduler=scheduler, strength=0.5, steps=8, seed=7))
        here, there = (t.item() / 1000 for t in schedule.timesteps[:2])
        own = torch.randn(X0.shape, generator=torch.Generator().manual_seed((7 + 2 * 0x9E3779B9) % 2**32))
        leap = (1 - there) * (X0 - here * NOISE) + there * own
        expected = leap if scheduler == "model" else X0 + (there - here) * NOISE
        assert torch.allclose(schedule.step(NOISE, X0, 0), expected, atol=1e-4)


def test_dpm_of_flow_is_of_second_order(load):
    """DPM-Solver++ (2M) by hand, in lambda = log((1 - s) / s)."""
    schedule = adapt(load("sd3")).schedule(settings(scheduler="dpm++2m", strength=0.75, steps=16))
    unit = torch.ones(1), torch.zeros(1)
    levels = [schedule.noised(unit[1], unit[0], i).item() for i in range(5)]
    lambdas = [math.log((1 - s) / s) for s in levels]
    sample, before = X0, None
    for i in range(4):
        velocity = NOISE * (i + 1) ** 2
        x0 = sample - levels[i] * velocity
        h = lambdas[i + 1] - lambdas[i]
        expected = levels[i + 1] / levels[i] * sample - (1 - levels[i + 1]) * math.expm1(-h) * x0
        if before is not None:
            slope = (x0 - before) * h / (lambdas[i] - lambdas[i - 1])
            expected = expected - 0.5 * (1 - levels[i + 1]) * math.expm1(-h) * slope
        sample, before = schedule.step(velocity, sample, i), x0
        assert torch.allclose(sample, expected, atol=1e-3), i


def test_dpm_of_diffusion_is_of_second_order(load):
    """The same in lambda = log(alpha / sigma)."""
    schedule = adapt(load("sdxl")).schedule(settings(scheduler="dpm++2m", strength=0.75, steps=16))
    scales = [vp(t.item()) for t in schedule.timesteps[:5]]
    lambdas = [math.log(alpha / sigma) for alpha, sigma in scales]
    sample, before = X0, None
    for i in range(4):
        (alpha, sigma), (alpha_next, sigma_next) = scales[i : i + 2]
        noise = NOISE * (i + 1) ** 2
        x0 = (sample - sigma * noise) / alpha
        h = lambdas[i + 1] - lambdas[i]
        expected = sigma_next / sigma * sample - alpha_next * math.expm1(-h) * x0
        if before is not None:
            slope = (x0 - before) * h / (lambdas[i] - lambdas[i - 1])
            expected = expected - 0.5 * alpha_next * math.expm1(-h) * slope
        sample, before = schedule.step(noise, sample, i), x0
        assert torch.allclose(sample, expected, rtol=1e-3, atol=2e-3), i


@pytest.mark.parametrize(
    ("tokens", "mu"),
    [((96, 320), 0.5 + 0.65 * (64 - 96) / 224), ((64, 320), 0.5), ((16, 112), 0.5 + 0.65 * 0.5)],
)
@pytest.mark.parametrize(("scheduler", "even"), [("euler", 1 - 0.999 / 3), ("dpm++2m", 0.999 * 0.75)])
def test_a_dynamic_shift_is_linear_in_a_windows_tokens(load, tokens, mu, scheduler, even):
    """A window of native size is 16 cells, 8 tokens a side: 64. s = e^mu u / (1 + (e^mu - 1) u), u the second of four."""
    pipe = load("sd3")
    shift = {
        "base_image_seq_len": tokens[0],
        "max_image_seq_len": tokens[1],
        "base_shift": 0.5,
        "max_shift": 1.15,
    }
    pipe.scheduler = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, **shift)
    schedule = adapt(pipe).schedule(settings(scheduler=scheduler, strength=1.0, steps=4))
    level = schedule.noised(torch.zeros(1), torch.ones(1), 1).item()
    factor = math.exp(mu)
    assert level == pytest.approx(factor * even / (1 + (factor - 1) * even), abs=1e-4)


def test_w_t_step_by_step_through_a_real_network(load):
    """SDXL, DDIM, one region: x0 <- x0 + w_t LP(z_L - x0) with w_t = 0.7 (1 + cos(pi i / 3)) / 2, and DDIM's step from it."""
    pipe = load("sdxl")
    pipe.scheduler.register_to_config(timestep_spacing="leading")  # as Stability's own checkpoint has it
    backbone = adapt(pipe)
    chosen = settings(scheduler="ddim", strength=0.4, steps=10)
    canvas, region = Size(12, 16), Region(0, 0, 12, 16)
    z, reference = latents(1, 1), latents(1, 2)
    prior = GlobalStructure(reference, 0.8, 0.7)
    with backbone.denoiser(chosen, [None], canvas, OVERVIEW) as denoiser:
        loop = denoise(
            denoiser, backbone.schedule(chosen), z, window=canvas, overlap=0.5, seed=3, structure=prior
        )
        done = [event for event in loop if isinstance(event, StepDone)]
        times = [int(t) for t in backbone.schedule(chosen).timesteps]
        assert times == [301, 201, 101, 1]
        kept = [KEPT[t] for t in times] + [KEPT[0]]
        sample = math.sqrt(kept[0]) * z + math.sqrt(1 - kept[0]) * draw_noise(z.shape, 3)
        for i, t in enumerate(times):
            output = denoiser.predict(sample.float(), torch.tensor(t), [region], [0])
            x0 = (sample - math.sqrt(1 - kept[i]) * output) / math.sqrt(kept[i])
            w = 0.7 * (1 + math.cos(math.pi * i / 3)) / 2
            difference = numbers(reference - x0)[0]
            low = [slow.lowpass(plane, 0.8, (4, 4), (4, 4)) for plane in difference]  # 20 and 24
            x0 = x0 + w * torch.from_numpy(np.stack(low))[None].float()
            assert torch.allclose(done[i].x0, x0, atol=2e-4), i
            noise = (sample - math.sqrt(kept[i]) * x0) / math.sqrt(1 - kept[i])
            sample = math.sqrt(kept[i + 1]) * x0 + math.sqrt(1 - kept[i + 1]) * noise
            assert torch.allclose(done[i].sample, sample, atol=2e-4), i


def test_a_layers_own_scale_is_kept(load):
    """Layers that divide their output, as some U-Nets have them."""
    pipe = load("sd15")
    backbone = adapt(pipe)
    layers = {n: m for n, m in backbone.network.named_modules() if n.endswith("attn2")}
    before, after = {}, {}
    for name, module in layers.items():
        module.rescale_output_factor = 4.0
        module.to_out[0].register_forward_hook(lambda m, args, out, n=name: before.__setitem__(n, out))
        module.register_forward_hook(lambda m, args, out, n=name: after.__setitem__(n, out))
    with backbone.denoiser(settings(detail=0.5), CAPTIONS, CANVAS, OVERVIEW) as denoiser:
        denoiser.predict(latents(), torch.tensor(500), REGIONS, range(3))
    for name in layers:
        assert torch.allclose(after[name], before[name] / 4)


# Defaults, text, precision


@pytest.mark.parametrize(
    ("name", "steps", "guidance"),
    [("sd15", 50, 7.5), ("sdxl", 50, 7.5), ("pixart-alpha", 20, 4.5), ("sd3", 28, 5.0), ("z-image", 8, 1.0)],
)
def test_defaults_of_a_model_without_a_name(load, name, steps, guidance):
    expected = {"strength": 0.45, "steps": steps, "guidance": guidance, "overlap": 0.5}
    assert dict(adapt(load(name)).defaults) == expected


def test_defaults_of_a_few_step_scheduler(load):
    pipe = load("sdxl")
    pipe.scheduler = diffusers.LCMScheduler.from_config(pipe.scheduler.config)
    assert dict(adapt(pipe).defaults) == {"strength": 0.45, "steps": 8, "guidance": 1.0, "overlap": 0.5}


@pytest.mark.parametrize(
    ("name", "limit", "words"),
    [
        ("sd15", 75, 7),  # letters, as the checkpoint's tokenizer has them
        ("sdxl", 75, 7),
        ("pixart-alpha", 119, 10),  # and a mark before each word
        ("sd3", 255, 10),
        ("z-image", 504, 9),  # and the spaces between; its template takes 8 of 512
    ],
)
def test_tokens_are_counted_without_the_tokenizers_marks(load, name, limit, words):
    backbone = adapt(load(name))
    assert backbone.budget.limit == limit
    assert backbone.budget.count("a red fox") == words
    assert backbone.budget.count("") == 0
    assert backbone.budget.count(" ".join(["boat"] * 400)) >= 1600


@pytest.mark.parametrize(
    ("dtype", "force", "used"),
    [
        (torch.float16, True, torch.float32),
        (torch.bfloat16, True, torch.bfloat16),
        (torch.bfloat16, False, torch.bfloat16),
        (torch.float16, False, torch.float16),
    ],
)
def test_a_vae_that_overflows_in_half_precision_works_in_float32(load, dtype, force, used):
    """SDXL's does. Its own precision comes back."""
    pipe = load("sdxl")
    pipe.vae.register_to_config(force_upcast=force)
    pipe.vae.to(dtype=dtype)
    seen = []
    pipe.vae.encoder.register_forward_pre_hook(lambda module, args: seen.append(args[0].dtype))
    pipe.vae.decoder.register_forward_pre_hook(lambda module, args: seen.append(args[0].dtype))
    backbone = adapt(pipe)
    z = backbone.encode(torch.zeros(1, 3, 32, 48), Tiles())
    pixels = backbone.decode(z, Tiles())
    assert seen == [used, used] and pipe.vae.dtype == dtype
    assert z.dtype == pixels.dtype == torch.float32
