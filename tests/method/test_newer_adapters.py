"""FLUX.2 klein and Qwen-Image: what reaches the networks, and what their layers give, against formulas by hand."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from checkpoints import make_flux2
from diffusers import AutoencoderKL, Flux2Transformer2DModel, QwenImagePipeline
from test_adapters import (
    CANVAS,
    CAPTIONS,
    NEGATIVE,
    OVERVIEW,
    PROMPT,
    REGIONS,
    calls,
    flat,
    heads,
    joint,
    latents,
    maps,
    numbers,
    rms,
    run,
    settings,
    turned,
)

import cupscale
from cupscale.backbones import Tiles, adapt
from cupscale.errors import CupscaleError
from cupscale.method.sampler import draw_noise

MU, LAM = 0.6, 0.3
BOTH = ["flux2-klein-base", "qwen-image"]


def turns(angles):
    """(n, d / 2) complex numbers of turns by angles."""
    return torch.polar(
        torch.ones(len(angles), len(angles[0]), dtype=torch.float64), torch.tensor(angles).double()
    )


def stacked(*parts):
    return tuple(np.concatenate(each, axis=1) for each in zip(*parts, strict=True))


# FLUX.2 klein


def klein_places(height, width):
    """Of an image: (0, y, x, 0), which turn one pair of channels each."""
    return turns([[0.0, float(y), float(x), 0.0] for y in range(height) for x in range(width)])


def klein_parts(module, into, row, grid, texts):
    """Query, key and value of the image and of each text, by hand; texts: their lengths, in the order of the sequence."""
    places = torch.cat([turns([[0.0, 0.0, 0.0, float(k)] for k in range(length)]) for length in texts])
    if "encoder_hidden_states" in into:
        image = [heads(module, name, into["hidden_states"][row]) for name in ("to_q", "to_k", "to_v")]
        words = into["encoder_hidden_states"][row]
        text = [heads(module, name, words) for name in ("add_q_proj", "add_k_proj", "add_v_proj")]
        image[0], image[1] = rms(image[0], module.norm_q), rms(image[1], module.norm_k)
        text[0], text[1] = rms(text[0], module.norm_added_q), rms(text[1], module.norm_added_k)
    else:
        whole = numbers(into["hidden_states"][row]) @ numbers(module.to_qkv_mlp_proj.weight).T
        both = [
            whole[:, 16 * k : 16 * (k + 1)].reshape(len(whole), 2, 8).transpose(1, 0, 2) for k in range(3)
        ]
        both[0], both[1] = rms(both[0], module.norm_q), rms(both[1], module.norm_k)
        text, image = ([x[:, of] for x in both] for of in (slice(sum(texts)), slice(sum(texts), None)))
    for k in (0, 1):
        image[k] = turned(image[k], klein_places(*grid))
        text[k] = turned(text[k], places)
    ends = np.cumsum([0, *texts])
    return image, [[x[:, start:end] for x in text] for start, end in pairwise(ends)]


def klein_outputs(module, out, texts):
    """What a layer gave before its last projection: of the image and of the texts; only the image's of a double layer."""
    given = numbers(out)
    return (given, None) if hasattr(module, "to_q") else (given[texts:, :16], given[:texts, :16])


@pytest.mark.parametrize("guidance", [1.0, 3.0], ids=["unguided", "guided"])
def test_the_joint_attention_of_klein(load, guidance):
    """A layer with image and text apart and one with both in one sequence. Every text has 96 tokens."""
    pipe = load("flux2-klein-base")
    chosen = settings(attention=MU, detail=LAM, guidance=guidance)
    modules, overview, regions = run(pipe, chosen, ".attn", t=500.0)
    assert len(modules) == 2
    for layer, module in modules.items():
        image, (text,) = klein_parts(module, overview[0][layer], 0, OVERVIEW, [96])
        got, _ = klein_outputs(module, overview[1][layer][0], 96)
        key, value = stacked(image[1:], text[1:])
        assert np.allclose(got, flat(maps(image[0], key) @ value), atol=2e-5), layer
        whole = maps(image[0], text[1]), text[2]
        into, out = regions[0][layer], regions[1][layer]
        rows = 6 if guidance > 1 else 3
        assert len(out) == rows
        for row in (0, rows - 3, rows - 1):
            image, (text, own) = klein_parts(module, into, row, (12, 16), [96, 96])
            got, got_texts = klein_outputs(module, out[row], 192)
            r = row - (rows - 3)
            if r < 0:
                key, value = stacked(image[1:], text[1:])
                assert np.allclose(got, flat(maps(image[0], key) @ value), atol=2e-5), (layer, row)
                continue
            read = [True] * 96
            expected = joint(
                image, (*text[1:], read), (*own[1:], read), whole, (12, 16), OVERVIEW, r, MU, LAM
            )
            assert np.allclose(got, flat(expected), atol=2e-5), (layer, row)
            if got_texts is not None:
                for part, x in ((slice(96), text), (slice(96, None), own)):
                    key, value = stacked(image[1:], x[1:])
                    assert np.allclose(got_texts[part], flat(maps(x[0], key) @ value), atol=2e-5)


def test_klein_is_told_tokens_places_and_the_time(load):
    """A cell is a token; captions have the places that the prompt has."""
    backbone = adapt(load("flux2-klein-base"))
    seen = calls(backbone.network)
    with backbone.denoiser(settings(detail=0.5), CAPTIONS, CANVAS, OVERVIEW) as denoiser:
        out = denoiser.predict(latents(), torch.tensor(321.5), REGIONS, range(3))
    ((call, given),) = seen
    assert call["hidden_states"].shape == (3, 192, 4)
    assert torch.equal(call["hidden_states"][1, 5 * 16 + 7], latents()[1, :, 5, 7])
    assert call["img_ids"][5 * 16 + 7].tolist() == [0, 5, 7, 0]
    assert call["txt_ids"][3].tolist() == call["txt_ids"][96 + 3].tolist() == [0, 0, 0, 3]
    assert call["timestep"].tolist() == pytest.approx([0.3215] * 3)
    assert torch.equal(out[2, :, 11, 3], given[2, 11 * 16 + 3])


def test_kleins_latents_are_its_vaes_in_fours_each_by_its_statistics(tmp_path):
    """Two channels: number 4 c + 2 dy + dx of a token is cell (2 y + dy, 2 x + dx) of channel c, and back."""
    pipe = cupscale.load(str(make_flux2(tmp_path, vae_channels=2)), device="cpu")
    backbone = adapt(pipe)
    pixels = draw_noise((1, 3, 48, 64), 4).clamp(-1, 1)
    z = backbone.encode(pixels, Tiles())
    assert z.shape == (1, 8, 12, 16) and backbone.geometry.channels == 8 and backbone.shuffle == 2
    with torch.no_grad():
        mode = pipe.vae.encode(pixels).latent_dist.mode()
    mean, var = pipe.vae.bn.running_mean, pipe.vae.bn.running_var
    for c, dy, dx, y, x in ((0, 0, 1, 3, 5), (1, 1, 0, 11, 15), (1, 0, 1, 0, 7)):
        k = 4 * c + 2 * dy + dx
        expected = (mode[0, c, 2 * y + dy, 2 * x + dx] - mean[k]) / math.sqrt(var[k] + 1e-4)
        assert z[0, k, y, x].item() == pytest.approx(expected.item(), abs=1e-5)
    with torch.no_grad():
        decoded = pipe.vae.decode(mode).sample
    assert torch.allclose(backbone.decode(z, Tiles()), decoded, atol=1e-4)


@pytest.mark.parametrize(("tokens", "steps", "mu"), [(256, 6, 1.950611), (4096, 50, 2.023351)])
def test_kleins_shift_follows_tokens_and_steps(load, tokens, steps, mu):
    """Between m(10) = 8.738e-5 n + 1.89833 and m(200) = 1.6927e-4 n + 0.45667; s = 1 / (1 + e^-mu (1 / u - 1))."""
    backbone = adapt(load("flux2-klein-base"))
    side = int(tokens**0.5)
    schedule = backbone.schedule(settings(strength=1.0, steps=steps), type(CANVAS)(side, side))
    for i in (0, 2, steps - 1):
        u = 1 - i / steps
        expected = 1 / (1 + math.exp(-mu) * (1 / u - 1))
        assert schedule.timesteps[i].item() / 1000 == pytest.approx(expected, abs=1e-5)


def test_a_distilled_klein_takes_few_steps_without_guidance(tmp_path, load):
    pipe = cupscale.load(str(make_flux2(tmp_path, distilled=True)), device="cpu")
    usual = {"strength": 0.45, "steps": 8, "guidance": 1.0, "overlap": 0.5}
    assert dict(adapt(pipe).defaults) == dict(cupscale.models.family(str(tmp_path))) == usual
    assert dict(adapt(load("flux2-klein-base")).defaults) == usual | {"steps": 50, "guidance": 4.0}


# Qwen-Image


def qwen_length(text):
    """Tokens that the network reads: letters, with the template's own that are not dropped."""
    empty = QwenImagePipeline(*[None] * 5)
    template = empty.prompt_template_encode.format(text).encode()
    return len(template) - empty.prompt_template_encode_start_idx


def qwen_places(height, width):
    """(0, y, x), from the middle; the last axis turns two pairs, the second by a hundredth."""
    middle_y, middle_x = height - height // 2, width - width // 2
    return turns(
        [
            [0.0, float(y - middle_y), float(x - middle_x), 0.01 * (x - middle_x)]
            for y in range(height)
            for x in range(width)
        ]
    )


def qwen_text_places(length, grid):
    """All axes count on from where the image's longer half ends."""
    start = max(grid[0] // 2, grid[1] // 2)
    return turns([[float(start + k)] * 3 + [0.01 * (start + k)] for k in range(length)])


def qwen_parts(module, into, row, grid, texts):
    image = [heads(module, name, into["hidden_states"][row]) for name in ("to_q", "to_k", "to_v")]
    words = into["encoder_hidden_states"][row]
    text = [heads(module, name, words) for name in ("add_q_proj", "add_k_proj", "add_v_proj")]
    image[0], image[1] = rms(image[0], module.norm_q), rms(image[1], module.norm_k)
    text[0], text[1] = rms(text[0], module.norm_added_q), rms(text[1], module.norm_added_k)
    places = torch.cat([qwen_text_places(length, grid) for length in texts])
    for k in (0, 1):
        image[k] = turned(image[k], qwen_places(*grid))
        text[k] = turned(text[k], places)
    ends = np.cumsum([0, *texts])
    return image, [[x[:, s:e] for x in text] for s, e in pairwise(ends)]


@pytest.mark.parametrize("guidance", [1.0, 3.0], ids=["unguided", "guided"])
def test_the_joint_attention_of_qwen_image(load, guidance):
    """Prompts and captions of different lengths, those that are shorter filled up and masked."""
    pipe = load("qwen-image")
    captions = ["a boat", None, PROMPT + ", in a wood of tall firs"]  # the longest is longer than the prompt
    chosen = settings(attention=MU, detail=LAM, guidance=guidance)
    modules, overview, regions = run(pipe, chosen, ".attn", captions, t=500.0)
    assert len(modules) == 2
    lengths = {text: qwen_length(text) for text in (PROMPT, NEGATIVE, *captions) if text}
    assert len(set(lengths.values())) == 4
    words, own = lengths[PROMPT], max(lengths[caption or PROMPT] for caption in captions)
    for layer, module in modules.items():
        image, (text,) = qwen_parts(module, overview[0][layer], 0, (5, 7), [words])
        key, value = stacked(image[1:], text[1:])
        plain = flat(maps(image[0], key) @ value)
        assert np.allclose(numbers(overview[1][layer][0]), plain, atol=2e-5)
        whole = maps(image[0], text[1]), text[2]
        into, out = regions[0][layer], numbers(regions[1][layer])
        rows = 6 if guidance > 1 else 3
        assert len(out) == rows and into["encoder_hidden_states"].shape[1] == words + own
        for row in range(rows):
            r = row - (rows - 3)
            image, (text, caption) = qwen_parts(module, into, row, (6, 8), [words, own])
            read = [k < lengths[PROMPT if r >= 0 else NEGATIVE] for k in range(words)]
            if r < 0:
                key, value = stacked(image[1:], text[1:])
                expected = maps(image[0], key, [True] * 48 + read) @ value
            else:
                mine = [k < lengths[captions[r] or PROMPT] for k in range(own)]
                both = (*text[1:], read), (*caption[1:], mine)
                expected = joint(image, *both, whole, (6, 8), (5, 7), r, MU, LAM)
                key, value = stacked(image[1:], caption[1:])
                expected_own = flat(maps(caption[0], key, [True] * 48 + mine) @ value)
                got = numbers(regions[2][layer][row])[words:]
                assert np.allclose(got[mine], expected_own[mine], atol=2e-5), (layer, row)
            assert np.allclose(out[row], flat(expected), atol=2e-5), (layer, row)


def test_qwen_image_is_told_patches_and_the_time(load):
    """Number 4 c + 2 dy + dx of a token is cell (2 y + dy, 2 x + dx) of channel c."""
    backbone = adapt(load("qwen-image"))
    seen = calls(backbone.network)
    with backbone.denoiser(settings(), [None] * 3, CANVAS, OVERVIEW) as denoiser:
        out = denoiser.predict(latents(), torch.tensor(321.5), REGIONS, range(3))
    ((call, given),) = seen
    assert call["hidden_states"].shape == (3, 48, 16) and call["img_shapes"] == [[(1, 6, 8)]] * 3
    for c, dy, dx, y, x in ((0, 0, 1, 3, 5), (3, 1, 0, 5, 7), (1, 1, 1, 0, 2)):
        k, token = 4 * c + 2 * dy + dx, 8 * y + x
        assert call["hidden_states"][1, token, k] == latents()[1, c, 2 * y + dy, 2 * x + dx]
        assert out[2, c, 2 * y + dy, 2 * x + dx] == given[2, token, k]
    assert call["timestep"].tolist() == pytest.approx([0.3215] * 3)
    assert call["encoder_hidden_states_mask"] is None


def test_qwen_images_guidance_keeps_a_patchs_length(load):
    """g = u + s (c - u), then g |c| / |g| over the 16 numbers of a patch; a map's s is that of each cell."""
    backbone = adapt(load("qwen-image"))
    seen = calls(backbone.network)
    scales = torch.arange(20 * 28, dtype=torch.float32).view(1, 1, *CANVAS) / 100
    for scale in (None, scales):
        with backbone.denoiser(settings(guidance=2.5), [None] * 3, CANVAS, OVERVIEW, scale) as denoiser:
            out = denoiser.predict(latents(), torch.tensor(500.0), REGIONS, range(3))
        given = seen[-1][1]
        for r, y, x in ((0, 2, 3), (1, 5, 7), (2, 0, 1)):
            u, c = given[r, 8 * y + x], given[3 + r, 8 * y + x]
            patch = torch.zeros(16)
            for k in range(16):
                dy, dx = k % 4 // 2, k % 2
                s = (
                    2.5
                    if scale is None
                    else scales[0, 0, REGIONS[r].y + 2 * y + dy, REGIONS[r].x + 2 * x + dx]
                )
                patch[k] = u[k] + s * (c[k] - u[k])
            patch = patch * c.square().sum().sqrt() / patch.square().sum().sqrt()
            for k in (0, 6, 11):
                got = out[r, k // 4, 2 * y + k % 4 // 2, 2 * x + k % 2]
                assert got.item() == pytest.approx(patch[k].item(), abs=1e-5)


def test_qwen_images_latents_are_scaled_by_channel(load):
    """z = (mode - mean) / std, and back; a picture is a video of one frame."""
    pipe = load("qwen-image")
    backbone = adapt(pipe)
    pixels = draw_noise((1, 3, 48, 64), 4).clamp(-1, 1)
    z = backbone.encode(pixels, Tiles())
    with torch.no_grad():
        mode = pipe.vae.encode(pixels[:, :, None]).latent_dist.mode()[:, :, 0]
        decoded = pipe.vae.decode(mode[:, :, None]).sample[:, :, 0]
    for k, (mean, std) in enumerate(zip([-0.5, 0.25, 0.1, 0.0], [0.5, 1.5, 1.0, 2.0], strict=True)):
        assert torch.allclose(z[:, k], (mode[:, k] - mean) / std, atol=1e-5)
    assert z.shape == (1, 4, 12, 16)
    assert torch.allclose(backbone.decode(z, Tiles()), decoded, atol=1e-4)


def test_qwen_images_tiles_are_ours(load):
    """Its own tiles are of another kind: none is asked for, and no part is larger than a tile."""
    pipe = load("qwen-image")
    backbone, seen = adapt(pipe), []
    pipe.vae.encoder.register_forward_pre_hook(
        lambda module, args: seen.append((pipe.vae.use_tiling, *args[0].shape[-2:]))
    )
    pipe.vae.enable_tiling()
    z = backbone.encode(torch.zeros(1, 3, 48, 96), Tiles(64))
    assert set(seen) == {(False, 48, 64), (False, 48, 48)} and z.shape[-2:] == (12, 24)
    assert pipe.vae.use_tiling and backbone.decode(z, Tiles(64)).shape[-2:] == (48, 96)


def test_positions_end_with_the_table(load):
    """4,096 places from the middle, less those of a prompt and a caption; two cells to a place, and both ways."""
    assert adapt(load("qwen-image")).most_cells() == 2 * 2 * (4096 - 1024)
    assert adapt(load("flux2-klein-base")).most_cells() is None


# Both


@pytest.mark.parametrize(("name", "align"), [("flux2-klein-base", 4), ("qwen-image", 8)])
def test_geometry(load, name, align):
    backbone = adapt(load(name))
    geometry = backbone.geometry
    assert (geometry.native, geometry.cell, geometry.align, geometry.channels) == (64, 4, align, 4)
    assert backbone.shuffle == (2 if name == "flux2-klein-base" else 1)


def test_without_a_size_of_its_own_a_window_has_1024_px(load):
    pipe = load("flux2-klein-base")
    config = {key: value for key, value in pipe.transformer.config.items() if key != "sample_size"}
    pipe.transformer = Flux2Transformer2DModel.from_config(config)
    assert adapt(pipe).geometry.native == 1024


@pytest.mark.parametrize(("name", "limit", "words"), [("flux2-klein-base", 84, 9), ("qwen-image", 333, 9)])
def test_tokens_are_counted_without_the_templates(load, name, limit, words):
    """klein's template, without thinking, takes 12 of 96; of Qwen-Image's, 34 are read besides, as letters in this checkpoint."""
    budget = adapt(load(name)).budget
    assert (budget.limit, budget.count("a red fox"), budget.count("")) == (limit, words, 0)


@pytest.mark.parametrize("name", BOTH)
def test_another_autoencoder_is_refused_in_words(load, name):
    pipe = load(name)
    pipe.vae = AutoencoderKL()
    with pytest.raises(
        CupscaleError, match=r"own autoencoder.*AutoencoderKL.*load its AutoencoderKL\w+ again"
    ):
        adapt(pipe)


@pytest.mark.parametrize("name", BOTH)
def test_control_is_refused_in_words(load, folders, name):
    pipe = load(name)
    with pytest.raises(CupscaleError, match=r"control works with .*, not with .*: set control to 0"):
        cupscale.upscale(pipe, control=0.5, image=_grey())
    with pytest.raises(CupscaleError, match="a ControlNet works with"):
        cupscale.load(folders(name), device="cpu", controlnet="auto")


def _grey():
    from PIL import Image

    return Image.new("RGB", (40, 24), (90, 120, 60))
