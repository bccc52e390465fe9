"""ScaleDiff: self-attention in neighbourhoods against sums as one reads them on paper, its low-pass, and whole runs."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from checkpoints import make_pixart, make_sd3, make_sd15, make_sdxl
from diffusers.models.attention_processor import AttnProcessor2_0
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

import cupscale
from cupscale import images
from cupscale.backbones import adapt
from cupscale.backbones.nearby import attended_nearby, level_of, nearby, patches
from cupscale.errors import CupscaleError
from cupscale.method.regions import Region, Size
from cupscale.method.sampler import generator
from cupscale.peers import PEERS, Task
from cupscale.peers.base import Work, layout
from cupscale.peers.phases import enlarged
from cupscale.peers.scalediff import noise_share, refined
from cupscale.settings import Settings

LAYER = "down_blocks.1.attentions.0.transformer_blocks.0.attn1"


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory):
    return cupscale.load(str(make_sdxl(tmp_path_factory.mktemp("sdxl"))), device="cpu")


@pytest.fixture(scope="module")
def sd15(tmp_path_factory):
    return cupscale.load(str(make_sd15(tmp_path_factory.mktemp("sd15"))), device="cpu")


def photo(width, height):
    y, x = np.mgrid[0:height, 0:width]
    planes = [np.sin(x / 5 + k) * np.cos(y / (4 + k)) * 100 + 128 for k in range(3)]
    return Image.fromarray(np.stack(planes, -1).astype(np.uint8))


def task(pipe, size, **fields):
    values = {"prompt": "a red fox", "negative_prompt": "fog", "seed": 3, "scale": 2.0} | fields
    return Task(adapt(pipe), photo(*size), Settings.build(values))


def work_of(given):
    return Work(given, layout(given.image.size, given.settings.scale, given.backbone.geometry), 0)


# Neighbourhoods


def first_key(place, window, length):
    """Where the neighbourhood of a query begins along one axis, for an even window."""
    if window >= length:
        return 0
    first = place // (window // 2) * (window // 2) - window // 4
    return min(max(first, 0), length - window)


def slowly(query, key, value, grid, window):
    """Every query over its own keys, one after another: (B, heads, n, d), in float64."""
    query, key, value = (x.double().numpy() for x in (query, key, value))
    out = np.zeros(query.shape)
    for place in range(grid.h * grid.w):
        y, x = divmod(place, grid.w)
        top, left = first_key(y, window, grid.h), first_key(x, window, grid.w)
        near = [
            i * grid.w + j
            for i in range(top, min(top + window, grid.h))
            for j in range(left, min(left + window, grid.w))
        ]
        for k, head in np.ndindex(query.shape[:2]):
            scores = key[k, head, near] @ query[k, head, place] / np.sqrt(query.shape[-1])
            maps = np.exp(scores - scores.max())
            out[k, head, place] = maps / maps.sum() @ value[k, head, near]
    return out


def test_patches_lie_side_by_side_and_read_the_window_around_them():
    """Half a window long, a quarter of one into theirs; at the edges the window is moved back, the last patch is what is left."""
    found = [(q.start, q.stop, k.start, k.stop) for q, k in patches(21, 8)]
    assert found == [
        (0, 4, 0, 8),
        (4, 8, 2, 10),
        (8, 12, 6, 14),
        (12, 16, 10, 18),
        (16, 20, 13, 21),
        (20, 21, 13, 21),
    ]
    # A window of 5: patches of 2, a place before them and 2 behind.
    assert [(q.start, k.start) for q, k in patches(7, 5)] == [(0, 0), (2, 1), (4, 2), (6, 2)]
    assert [(q.start, q.stop, k.start) for q, k in patches(3, 1)] == [(0, 1, 0), (1, 2, 1), (2, 3, 2)]
    for window in (8, 9):
        assert patches(8, window) == [(slice(0, 8), slice(0, 8))]


@pytest.mark.parametrize(
    ("grid", "window"),
    [
        (Size(12, 20), 8),  # whole patches, at all edges and inside
        (Size(9, 18), 8),  # a rest along each axis
        (Size(6, 17), 8),  # the window covers one axis
        (Size(17, 6), 8),
        (Size(9, 11), 4),
    ],
)
def test_every_query_reads_exactly_its_neighbourhood(grid, window):
    random = torch.Generator().manual_seed(1)
    query, key, value = (2 * torch.randn(2, 2, grid.h * grid.w, 4, generator=random) for _ in range(3))
    found = attended_nearby(query, key, value, grid, window)
    assert np.allclose(found.numpy(), slowly(query, key, value, grid, window), atol=1e-5)


def test_a_window_as_large_as_the_grid_is_plain_attention():
    random = torch.Generator().manual_seed(2)
    query, key, value = (torch.randn(1, 2, 30, 4, generator=random) for _ in range(3))
    plain = torch.nn.functional.scaled_dot_product_attention(query, key, value)
    for window in (6, 60):
        assert torch.equal(attended_nearby(query, key, value, Size(5, 6), window), plain)
    assert not torch.allclose(attended_nearby(query, key, value, Size(5, 6), 5), plain, atol=1e-3)


def test_a_query_costs_the_keys_of_one_window():
    """Two products of 2 n w^2 d operations, however large the grid is."""
    query = torch.empty(1, 2, 20 * 24, 4, device="meta")
    with FlopCounterMode(display=False) as counter:
        attended_nearby(query, query, query, Size(20, 24), 8)
    assert counter.get_total_flops() == 2 * (2 * 20 * 24 * 8 * 8) * 2 * 4


def test_a_level_halves_the_window_as_often_as_the_canvas():
    assert level_of(24 * 40, Size(24, 40), 16) == (Size(24, 40), 16)
    assert level_of(12 * 20, Size(24, 40), 16) == (Size(12, 20), 8)
    assert level_of(6 * 10, Size(24, 40), 16) == (Size(6, 10), 4)
    assert level_of(2 * 3, Size(16, 24), 16) == (Size(2, 3), 2)
    assert level_of(3 * 6, Size(9, 21), 16) == (Size(3, 6), 4)  # 5 x 11, then 3 x 6
    assert level_of(1 * 4, Size(1, 15), 14) == (Size(1, 4), 4)  # 1 x 8 and 7, then 1 x 4 and 4


def test_a_layer_of_the_network_reads_its_neighbourhoods(sdxl):
    """At half of 12 x 20 cells, so 6 x 10 tokens; its own projections before and after."""
    attn = adapt(sdxl).network.get_submodule(LAYER)
    hidden = torch.randn(2, 60, 32, generator=torch.Generator().manual_seed(4)) * 3
    with torch.no_grad(), nearby(adapt(sdxl).network, Size(12, 20), 8):
        found = attn(hidden)
    with torch.no_grad():
        read = (
            to(hidden).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for to in (attn.to_q, attn.to_k, attn.to_v)
        )
        out = torch.from_numpy(slowly(*read, Size(6, 10), 4)).float().transpose(1, 2).flatten(2)
        expected = attn.to_out[0](out)
    assert torch.allclose(found, expected, atol=1e-5)
    assert not torch.allclose(found, attn(hidden), atol=1e-3)


@pytest.mark.parametrize("name", ["sdxl", "sd15"])
def test_only_what_is_larger_than_a_window_changes(request, name):
    """A canvas of at most native size is the plain call, bit by bit; a larger one is not. Text is read as it was."""
    backbone = adapt(request.getfixturevalue(name))
    settings = Settings.build(prompt="a red fox", attention=0, detail=0)
    for cells, same in ((Size(16, 16), True), (Size(10, 16), True), (Size(16, 30), False)):
        latents = torch.randn(1, 4, *cells, generator=torch.Generator().manual_seed(0))
        given = (latents, torch.tensor(500.0), [Region(0, 0, *cells)], [0])
        with backbone.denoiser(settings, (), cells, cells) as denoiser:
            plain = denoiser.predict(*given)
            with nearby(backbone.network, cells, 16):
                kinds = {
                    layer[-5:]: type(module.processor).__name__
                    for layer, module in backbone.network.named_modules()
                    if hasattr(module, "processor")
                }
                found = denoiser.predict(*given)
            assert torch.equal(denoiser.predict(*given), plain)
        assert torch.equal(found, plain) == same
        assert kinds == {"attn1": "_Nearby", "attn2": "AttnProcessor2_0"}


def test_the_processors_come_back_after_an_error(sdxl):
    network = adapt(sdxl).network
    before = {name: id(m.processor) for name, m in network.named_modules() if hasattr(m, "processor")}
    with pytest.raises(ValueError, match="60 tokens are no halving"), nearby(network, Size(12, 22), 8):
        network.get_submodule(LAYER)(torch.randn(1, 60, 32))
    assert {name: id(m.processor) for name, m in network.named_modules() if hasattr(m, "processor")} == before


def test_what_it_cannot_do_is_refused_in_one_line(sdxl, tmp_path):
    for name, make in (("SD3", make_sd3), ("PixArt", make_pixart)):
        pipe = cupscale.load(str(make(tmp_path / name)), device="cpu")
        with pytest.raises(
            CupscaleError,
            match=rf"^ScaleDiff gives the network the whole canvas, and {name}\w+ tells places by .* works in windows$",
        ):
            PEERS["scalediff"].run(task(pipe, (64, 40)))

    class Other(AttnProcessor2_0):
        pass

    attn = adapt(sdxl).network.get_submodule(LAYER)
    plain = attn.processor
    attn.processor = Other()
    try:
        with pytest.raises(
            CupscaleError, match=r"^self-attention of this pipeline runs through Other, which cannot be kept"
        ):
            PEERS["scalediff"].upscale(task(sdxl, (64, 40)))
    finally:
        attn.processor = plain


# Low frequencies


def reduced(n, m):
    """(m, n): the bilinear filter that reduces n places to m, as wide as its stride of n / m."""
    found = np.zeros((m, n))
    for j in range(m):
        for i in range(n):
            found[j, i] = max(0.0, 1 - abs(i + 0.5 - (j + 0.5) * n / m) / (n / m))
    return found / found.sum(1, keepdims=True)


def widened(m, n):
    """(n, m): the bilinear filter that enlarges m places to n."""
    found = np.zeros((n, m))
    for i in range(n):
        at = min(max((i + 0.5) * m / n - 0.5, 0), m - 1)
        low = min(int(at), m - 2) if m > 1 else 0
        found[i, low] += 1 - (at - low)
        if m > 1:
            found[i, low + 1] += at - low
    return found


def low(plane, share):
    """(h, w) in float64."""
    for axis in (0, 1):
        n = plane.shape[axis]
        m = max(1, int(n * share))
        plane = np.moveaxis(widened(m, n) @ reduced(n, m) @ np.moveaxis(plane, axis, 0), 0, axis)
    return plane


def test_low_frequencies_are_drawn_towards_another_picture():
    random = torch.Generator().manual_seed(3)
    x, towards = torch.randn(1, 2, 17, 30, generator=random), torch.randn(1, 2, 17, 30, generator=random)
    found = refined(x, towards, 0.7, 0.2)  # 3 x 6 places
    for k in range(2):
        plane, other = (z[0, k].double().numpy() for z in (x, towards))
        assert np.allclose(found[0, k], plane + 0.7 * (low(other, 0.2) - low(plane, 0.2)), atol=1e-5)
    assert torch.equal(refined(x, towards, 0.0, 0.2), x)
    # One place at least: the mean, weighed by the filter.
    assert refined(x, towards, 1.0, 0.01).shape == x.shape


def test_a_cells_own_pixels_are_laid_out_before_they_are_filtered():
    random = torch.Generator().manual_seed(5)
    planes = [torch.randn(1, 3, 16, 24, generator=random) for _ in range(2)]
    cells = [torch.nn.functional.pixel_unshuffle(plane, 2) for plane in planes]
    expected = torch.nn.functional.pixel_unshuffle(refined(*planes, 0.5, 0.25), 2)
    assert torch.allclose(refined(*cells, 0.5, 0.25, 2), expected, atol=1e-6)


def test_the_noises_share_is_one_less_abar(sdxl):
    """Whatever a sampler scales its samples by."""
    abar = sdxl.scheduler.alphas_cumprod
    for scheduler in ("ddim", "euler"):
        schedule = adapt(sdxl).schedule(Settings.build(strength=0.5, steps=8, scheduler=scheduler))
        for i in (0, 2):
            t = round(schedule.timesteps[i].item())
            assert noise_share(schedule, i) == pytest.approx(1 - abar[t].item(), abs=2e-3)


def test_a_run_of_scalediff(sdxl, monkeypatch):
    """At 4x: two sizes of 3 steps; the second begins with the latent and the picture of the first. Both weights at work."""
    backbone = adapt(sdxl)
    decoded = []
    plain = type(backbone).decode
    monkeypatch.setattr(
        type(backbone), "decode", lambda self, z, tiles: decoded.append(z) or plain(self, z, tiles)
    )
    monkeypatch.setattr(
        type(backbone),
        "call",
        lambda self, call, composer: 0.3 * call.latents + 0.1 + call.regions[0].y + call.regions[0].x,
    )
    given = task(sdxl, (60, 38), scale=4, scheduler="ddim")
    peer = replace(
        PEERS["scalediff"], strength=0.5, steps=6, guidance=1.0, low=0.25, mixing=0.9, structure=0.8
    )
    peer.upscale(given)
    found, work, noise = list(decoded), work_of(given), generator(3, 0)
    schedule = backbone.schedule(Settings.build(strength=0.5, steps=6, scheduler="ddim"))
    abar = sdxl.scheduler.alphas_cumprod.double()
    shares = [1 - abar[int(t)].item() for t in schedule.timesteps]
    before = (64, 41)
    pixels = images.to_tensor(given.image.resize(before, Image.Resampling.BICUBIC))
    latent = work.encode_pixels(pixels, work.cells(before))
    for z, size in zip(found, ((120, 76), (240, 152)), strict=True):
        cells = work.cells(size)
        wide = torch.nn.functional.interpolate(pixels, size[::-1], mode="bicubic")
        reference = refined(work.encode_pixels(wide, cells), enlarged(latent, before, size, cells), 0.9, 0.25)
        state = schedule.noised(reference, torch.randn(reference.shape, generator=noise), 0)
        for i in range(3):
            output = 0.3 * schedule.model_input(state, i) + 0.1
            x0 = refined(schedule.to_x0(output, state, i), reference, 0.8 * shares[i] / shares[0], 0.25)
            state = schedule.step(schedule.from_x0(x0, state, i), state, i)
        assert torch.allclose(z, state, atol=1e-3)
        pixels, latent, before = work.decode_pixels(z, size), z, size


def test_the_whole_canvas_is_one_call_in_neighbourhoods_of_native_size(sdxl, monkeypatch):
    """16 cells of the small checkpoint, whatever the canvas."""
    asked = []
    monkeypatch.setattr(
        "cupscale.peers.scalediff.nearby",
        lambda network, cells, window: asked.append((cells, window)) or nearby(network, cells, window),
    )
    replace(PEERS["scalediff"], strength=0.5, steps=4).upscale(task(sdxl, (64, 40), scale=4))
    assert asked == [(Size(20, 32), 16), (Size(40, 64), 16)]


def test_an_exact_codecs_latent_is_enlarged_as_its_picture_is():
    """Of the bundled model, whose cells are 2 x 2 pixels: with every frequency taken from the latent, the same as with none."""
    given = task(cupscale.load("tiny", device="cpu"), (96, 64))
    work, size = work_of(given), (192, 128)
    pixels = images.to_tensor(given.image)
    z = work.encode_pixels(pixels, work.cells(given.image.size))
    of_latent, of_picture = (
        replace(PEERS["scalediff"], low=1.0, mixing=mixing).reference(work, z, pixels, given.image.size, size)
        for mixing in (1.0, 0.0)
    )
    assert torch.allclose(of_latent, of_picture, atol=1e-5)
