"""Other people's methods: each one's count of network samples, its size, its bytes, its hooks, and its formulas."""

import contextlib
from dataclasses import astuple, replace

import numpy as np
import pytest
import torch
from checkpoints import FAMILIES, make_pixart, make_sd3, make_sdxl
from PIL import Image, ImageFilter

import cupscale
from cupscale import images, peers
from cupscale.backbones import adapt
from cupscale.backbones.maps import MapKeeper, kept
from cupscale.errors import CupscaleError
from cupscale.method.attention import fused
from cupscale.method.regions import Region, Size
from cupscale.method.sampler import generator
from cupscale.method.structure import GlobalStructure
from cupscale.models import SDXL_GEOMETRY
from cupscale.peers import PEERS, Task, demofusion
from cupscale.peers.accdiffusion import coarsest, exchanged, opened, returned, window_prompts
from cupscale.peers.base import Mean
from cupscale.peers.demofusion import blurred, cosine, jittered, merge, split
from cupscale.peers.diffusehigh import DB4, approximation, sharpened, with_approximation
from cupscale.peers.frecas import Cascade, Leg, guided_by_band
from cupscale.peers.hiflow import Flow, Stage
from cupscale.peers.levels import Levels
from cupscale.peers.phases import Phase, enlarged, phases, stages
from cupscale.peers.pixelrush import feathered, gaussian_window
from cupscale.peers.spotdiffusion import spots
from cupscale.peers.ultimate import inside_cells, squared, tile_boxes
from cupscale.peers.windows import Views, part_of, strided
from cupscale.settings import Settings

NATIVE = (64, 40)  # as wide as the small checkpoint's window of 16 x 16 cells, and not as high


def photo(width=64, height=40):
    y, x = np.mgrid[0:height, 0:width]
    planes = [np.sin(x / 5 + k) * np.cos(y / (4 + k)) * 100 + 128 for k in range(3)]
    return Image.fromarray(np.stack(planes, -1).astype(np.uint8))


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory):
    return cupscale.load(str(make_sdxl(tmp_path_factory.mktemp("sdxl"))), device="cpu")


def task(pipe, size=NATIVE, **fields):
    values = {"prompt": "a red fox", "negative_prompt": "fog", "seed": 3, "scale": 2.0} | fields
    return Task(adapt(pipe), photo(*size), Settings.build(values))


@contextlib.contextmanager
def counted(pipe):
    """The samples that the network is given meanwhile, one number a call."""
    calls = []

    def count(module, args, kwargs):
        latents = args[0] if args else kwargs["hidden_states"]
        calls.append(len(latents))

    handle = adapt(pipe).network.register_forward_pre_hook(count, with_kwargs=True)
    try:
        yield calls
    finally:
        handle.remove()


def state(pipe):
    """What a peer could leave behind in a network and its pipeline."""
    network = adapt(pipe).network
    found = {name: id(m.processor) for name, m in network.named_modules() if hasattr(m, "processor")}
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in network.modules())
    own = tuple(name for name in vars(network) if not name.startswith("_"))
    return found, hooks, own, id(pipe.scheduler), str(pipe.scheduler.timesteps)


# By hand, for a picture of 64 x 40 px and windows of 64 px. At 2x the canvas is 128 x 80 px, at 4x 256 x 160 px.
SMALL = {
    # The strength's share of the steps, once or with guidance twice: 3 of 6.
    "img2img": (replace(PEERS["img2img"], strength=0.5, steps=6), 6, 6),
    # 2 x 2 and 4 x 3 tiles, 3 steps of 6, twice.
    "ultimate": (replace(PEERS["ultimate"], strength=0.5, steps=6), 24, 72),
    # Half a window apart: 3 x 2 and 7 x 4 windows, 2 steps of 4, without guidance.
    "multidiffusion": (
        replace(PEERS["multidiffusion"], strength=0.5, steps=4, guidance=1.0, stride=0.5),
        12,
        56,
    ),
    # 2 x 2 and 4 x 3 windows, 2 steps of 4, twice.
    "spotdiffusion": (replace(PEERS["spotdiffusion"], strength=0.5, steps=4), 16, 48),
    # Windows and views: 3 x 2 + 4 on 128 x 80 px, 5 x 3 + 9 on 192 x 120, 7 x 4 + 16 on 256 x 160; 2 steps, twice.
    "demofusion": (replace(PEERS["demofusion"], steps=2), 40, 312),
    # A pass for the maps at each step besides.
    "accdiffusion": (replace(PEERS["accdiffusion"], steps=2), 42, 314),
    # 3 steps in one phase and in three, twice.
    "diffusehigh": (replace(PEERS["diffusehigh"], steps=6, last_steps=3, wavelet_steps=2), 6, 18),
    # A pass for the maps, and 3 steps, or 2 and 4, all twice.
    "frecas": (
        replace(PEERS["frecas"], one=Cascade((200,), (3,), 1.5), two=Cascade((400, 200), (2, 4), 2.0)),
        8,
        14,
    ),
    # 3 x 2 and 7 x 4 windows, each inverted and brought back, without guidance.
    "pixelrush": (PEERS["pixelrush"], 12, 56),
    # 3 steps of 6 in one stage and in two, twice.
    "scalediff": (replace(PEERS["scalediff"], strength=0.5, steps=6), 6, 12),
}

# By hand, with the authors' options: SDXL, a picture of 1024 x 1024 px.
WHOLE = {
    "lanczos": (0, 0),
    "realesrgan": (0, 0),
    "realsr": (0, 0),
    "img2img": (2 * 23, 2 * 23),
    "ultimate": (2 * 4 * 7, 2 * 16 * 7),
    "multidiffusion": (2 * 9 * 9 * 23, 2 * 25 * 25 * 23),
    "spotdiffusion": (2 * 4 * 23, 2 * 16 * 23),
    "demofusion": (2 * 13 * 50, 2 * (13 + 34 + 65) * 50),
    "accdiffusion": (50 + 2 * 13 * 50, 50 + 2 * (13 + 34 + 65) * 50),
    "diffusehigh": (2 * 15, 2 * 3 * 15),
    "frecas": (2 * (1 + 10), 2 * (1 + 5 + 15)),
    "hiflow": (2 * 16, 2 * (16 + 10)),
    "pixelrush": (2 * 9, 2 * 49),
    "scalediff": (2 * 20, 2 * 2 * 20),
}


@pytest.mark.parametrize("name", SMALL)
def test_the_networks_samples_are_those_counted_by_hand(sdxl, name):
    peer, at_2, at_4 = SMALL[name]
    geometry = adapt(sdxl).geometry
    for scale, expected in ((2.0, at_2), (4.0, at_4)):
        assert peer.samples(NATIVE, scale, geometry) == expected
        with counted(sdxl) as calls:
            progress = list(peer.run(task(sdxl, scale=scale)))
        assert sum(calls) == expected
        assert progress[-1] == (expected, expected)
        assert [done for done, _ in progress] == sorted({done for done, _ in progress})


OPTIONS = {
    "img2img": (0.45, 50, 7.5),
    "ultimate": (0.35, 20, 7.0, 32, 8),
    "multidiffusion": (0.45, 50, 7.5, 1 / 8),
    "spotdiffusion": (0.45, 50, 7.5),
    "demofusion": (50, 7.5, 0.5, 3, 1, 1, 0.8),
    "accdiffusion": (50, 7.5, 0.5, 3, 1, 1, 0.8, 0.3),
    "diffusehigh": (50, 15, 5, 10, 1),
    "frecas": (((200,), (10,), 1.5), ((400, 200), (5, 15), 2), 7.5, 25, 0.6),
    "hiflow": (30, (16, 1, 0.5, 4.5), (10, 0.25, 0.5, 6), 0.2),
    "pixelrush": (249, 1, 0.5, 1 / 6, 0.5),
    "scalediff": (0.4, 50, 7.5, 1 / 8, 1, 1),
}


def test_the_options_are_the_authors():
    """Those that their papers and programs name, in the order of the fields."""
    for name, options in OPTIONS.items():
        assert astuple(PEERS[name]) == options, name


def test_the_authors_options_cost_what_the_papers_say():
    assert list(WHOLE) == list(PEERS)
    for name, expected in WHOLE.items():
        for scale, samples in zip((2.0, 4.0), expected, strict=True):
            assert PEERS[name].samples((1024, 1024), scale, SDXL_GEOMETRY) == samples, (name, scale)


@pytest.mark.parametrize("name", ["lanczos", "realesrgan", "realsr"])
def test_the_plain_ones_ask_no_network(sdxl, name):
    with counted(sdxl) as calls:
        image = PEERS[name].upscale(task(sdxl, size=(25, 17), scale=2.5))
    assert calls == [] and image.size == (62, 42)


@pytest.mark.parametrize("name", SMALL)
def test_odd_sizes_come_out_exactly_twice_alike_and_nothing_is_left_behind(sdxl, name):
    peer = SMALL[name][0]
    before = state(sdxl)
    odd = task(sdxl, size=(51, 37), scale=2.5)
    images = [peer.upscale(odd) for _ in range(2)]
    assert images[0].size == (128, 92)  # 127.5 and 92.5, to even
    assert images[0].tobytes() == images[1].tobytes()
    other = peer.upscale(replace(odd, settings=odd.settings.replace(seed=4)))
    assert other.tobytes() != images[0].tobytes()
    steps = peer.run(odd)
    next(steps)
    steps.close()
    assert state(sdxl) == before


@pytest.mark.parametrize("name", ["demofusion", "accdiffusion", "frecas", "scalediff"])
@pytest.mark.parametrize("fails", [1, 5])
def test_nothing_is_left_behind_after_an_error(sdxl, monkeypatch, name, fails):
    """In the passes for the maps, and later."""
    before, calls = state(sdxl), []
    plain = type(adapt(sdxl)).call

    def call(self, call, composer):
        calls.append(1)
        if len(calls) == fails:
            raise RuntimeError("the network fails")
        return plain(self, call, composer)

    monkeypatch.setattr(type(adapt(sdxl)), "call", call)
    with pytest.raises(RuntimeError, match="the network fails"):
        SMALL[name][0].upscale(task(sdxl, scale=4))
    assert state(sdxl) == before


def test_the_prompt_and_the_negative_prompt_are_read(sdxl):
    peer = SMALL["img2img"][0]
    latents = []
    decode = type(adapt(sdxl)).decode
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            type(adapt(sdxl)), "decode", lambda self, z, *rest: latents.append(z) or decode(self, z, *rest)
        )
        for fields in ({}, {"prompt": "a dog"}, {"negative_prompt": "rain"}):
            peer.upscale(task(sdxl, **fields))
    assert not torch.equal(latents[0], latents[1]) and not torch.equal(latents[0], latents[2])


def test_an_unknown_name_and_an_output_too_large_are_refused(sdxl):
    with pytest.raises(CupscaleError, match=r"unknown peer 'magic'; choose one of lanczos, .*img2img"):
        peers.get("magic")
    for name in ("lanczos", "img2img"):
        with pytest.raises(CupscaleError, match="the limit is 16384 px"):
            peers.get(name).run(task(sdxl, size=(2000, 20), scale=9))


@pytest.mark.parametrize("name", list(FAMILIES))
def test_every_family_runs_what_works_in_windows(load, name):
    """And AccDiffusion where there are maps to read."""
    pipe = load(name)
    chosen = ["ultimate", "multidiffusion", "spotdiffusion", "demofusion", "pixelrush"]
    if name not in ("sd3", "z-image", "flux2-klein-base", "qwen-image"):
        chosen.append("accdiffusion")
    before = state(pipe)
    for key in chosen:
        peer = SMALL[key][0]
        given = task(pipe, size=(33, 50), scale=1.5)
        with counted(pipe) as calls:
            image = peer.upscale(given)
        assert image.size == (50, 75) and np.asarray(image).std() > 0
        assert sum(calls) == peer.samples((33, 50), 1.5, given.backbone.geometry), key
    assert state(pipe) == before


def test_the_bundled_model_runs_them_at_its_own_native_size():
    """Windows of 256 px: two and four views of 320 x 200 px, in one step, twice, and a pass for the maps."""
    pipe = cupscale.load("tiny", device="cpu")
    peer = replace(PEERS["accdiffusion"], steps=1)
    with counted(pipe) as calls:
        image = peer.upscale(task(pipe, size=(160, 100), scale=2))
    assert image.size == (320, 200) and sum(calls) == 13


# Whole runs over a network of one line, against the formulas


def stub(monkeypatch, backbone, conditional, unconditional=None):
    """The network is a function of a window's latents and of its place; what is decoded is put into a list."""
    decoded = []
    decode = type(backbone).decode

    def call(self, call, composer):
        half = len(call.latents) - len(call.regions)
        rows = [
            (unconditional if k < half else conditional)(x, call.regions[k % len(call.regions)])
            for k, x in enumerate(call.latents)
        ]
        return torch.stack(rows)

    monkeypatch.setattr(type(backbone), "call", call)
    monkeypatch.setattr(
        type(backbone), "decode", lambda self, z, *rest: decoded.append(z) or decode(self, z, *rest)
    )
    return decoded


def work_of(given):
    geometry = given.backbone.geometry
    return peers.base.Work(given, peers.base.layout(given.image.size, given.settings.scale, geometry), 0)


def test_a_run_of_spotdiffusion(sdxl, monkeypatch):
    """30 x 14 cells in two windows of 16 x 14, which share 2 columns; rolled along both sides, at each of 3 steps."""
    backbone = adapt(sdxl)
    decoded = stub(monkeypatch, backbone, lambda x, place: torch.tanh(x) + place.y / 50 + place.x / 80)
    given = task(sdxl, size=(60, 26), scale=2, scheduler="ddim")
    replace(PEERS["spotdiffusion"], strength=0.6, steps=5, guidance=1.0).upscale(given)
    schedule = backbone.schedule(Settings.build(strength=0.6, steps=5, scheduler="ddim"))
    latent = work_of(given).encode(given.image.resize((120, 52), Image.Resampling.LANCZOS))
    noise = torch.randn(latent.shape, generator=generator(3, 0))
    state, random = schedule.noised(latent, noise, 0), generator(3, 3)
    for i in range(3):
        down, right = (int(torch.randint(side, (), generator=random)) for side in (14, 30))
        total, count = torch.zeros(4, 14, 30), torch.zeros(14, 30)
        for start in (0, 14):
            x = (start + right) % 30
            columns = [(x + j) % 30 for j in range(16)]
            total[:, :, columns] += torch.tanh(state[0][:, :, columns]) + down / 50 + x / 80
            count[:, columns] += 1
        state = schedule.step((total / count)[None], state, i)
    assert torch.allclose(decoded[0], state, atol=1e-4)


def test_a_run_of_multidiffusion(sdxl, monkeypatch):
    """30 x 14 cells in windows of 16 x 14, 4 columns apart and the last one 2, each told where it lies."""
    backbone = adapt(sdxl)
    decoded = stub(monkeypatch, backbone, lambda x, place: torch.tanh(x) + place.y / 50 + place.x / 80)
    given = task(sdxl, size=(60, 26), scale=2, scheduler="ddim")
    replace(PEERS["multidiffusion"], strength=0.6, steps=5, guidance=1.0, stride=0.25).upscale(given)
    schedule = backbone.schedule(Settings.build(strength=0.6, steps=5, scheduler="ddim"))
    latent = work_of(given).encode(given.image.resize((120, 52), Image.Resampling.LANCZOS))
    state = schedule.noised(latent, torch.randn(latent.shape, generator=generator(3, 0)), 0)
    for i in range(3):
        total, count = torch.zeros(4, 14, 30), torch.zeros(14, 30)
        for x in (0, 4, 8, 12, 14):
            total[:, :, x : x + 16] += torch.tanh(state[0][:, :, x : x + 16]) + x / 80
            count[:, x : x + 16] += 1
        state = schedule.step((total / count)[None], state, i)
    assert torch.allclose(decoded[0], state, atol=1e-4)


def test_a_run_of_diffusehigh(sdxl, monkeypatch):
    """At 4x: three phases of 3 steps, the band held in 2 of them."""
    backbone = adapt(sdxl)
    decoded = stub(monkeypatch, backbone, lambda x, place: 0.3 * x + 0.1 + place.y + place.x)
    given = task(sdxl, size=(60, 38), scale=4, scheduler="ddim")
    peer = replace(PEERS["diffusehigh"], steps=6, last_steps=3, wavelet_steps=2, guidance=1.0, sharpening=0.5)
    peer.upscale(given)
    found, work = decoded[2::3], work_of(given)
    noise, sigmas = generator(3, 0), generator(3, 2)
    settings = Settings.build(strength=0.5, steps=6, scheduler="ddim")
    pixels = images.to_tensor(given.image.resize((64, 41), Image.Resampling.BICUBIC))
    for z, size in zip(found, ((128, 81), (192, 122), (240, 152)), strict=True):
        wide = torch.nn.functional.interpolate(pixels, size[::-1], mode="bicubic")
        guide = sharpened(wide, 0.1 + 1.9 * torch.rand((), generator=sigmas).item(), 0.5)
        schedule, cells = backbone.schedule(settings), work.cells(size)
        state = work.encode_pixels(guide, cells)
        state = schedule.noised(state, torch.randn(state.shape, generator=noise), 0)
        for i in range(3):
            output = 0.3 * schedule.model_input(state, i) + 0.1
            if i < 2:
                x0 = work.decode_pixels(schedule.to_x0(output, state, i), size)
                x0 = work.encode_pixels(with_approximation(x0, approximation(guide)), cells)
                output = schedule.from_x0(x0, state, i)
            state = schedule.step(output, state, i)
        assert torch.allclose(z, state, atol=1e-3)
        pixels = work.decode_pixels(z, size)


def test_a_run_of_frecas(leading, monkeypatch):
    """At 4x: two stages, of 2 and 3 steps; the band's guidance from two different halves."""
    backbone = adapt(leading)
    decoded = stub(
        monkeypatch,
        backbone,
        lambda x, place: 0.3 * x + x.flip(-1) / 10 + place.y + place.x,
        lambda x, place: 0.2 * x - 0.1,
    )
    given = task(leading, size=(60, 38), scale=4)
    cascade = Cascade((400, 200), (2, 3), 2.0)
    replace(PEERS["frecas"], two=cascade, guidance=3.0, guidance_new=5.0, maps=0.0).upscale(given)
    work, noise = work_of(given), generator(3, 0)
    pixels = images.to_tensor(given.image.resize((64, 41), Image.Resampling.BICUBIC))
    abar = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)
    ratios = np.log(abar[1::2] / (1 - abar[1::2]))  # at the timesteps 1, 3, .. 999

    def begin(end, ratio):
        return 1 + 2 * int(np.argmin(np.abs(ratios - ratios[end // 2] - 2 * np.log(ratio))))

    first, second = begin(401, 64 / 120), begin(201, 1 / 2)
    times = [[first, 201], [second, None, 1]]
    middle = round((((999 - second) // 2) + 499) / 2)
    times[1][1] = 999 - 2 * middle
    for z, size, ts, before in zip(decoded[:2], ((120, 76), (240, 152)), times, (64, 120), strict=True):
        cells = work.cells(size)
        known = Size(*(round(side * before / size[0]) for side in cells))
        wide = torch.nn.functional.interpolate(pixels.clamp(-1, 1), size[::-1], mode="nearest")
        x = work.encode_pixels(wide, cells)
        a, s = abar[ts[0]] ** 0.5, (1 - abar[ts[0]]) ** 0.5
        x = a * x + s * torch.randn(x.shape, generator=noise)
        for n, t in enumerate(ts):
            a, s = abar[t] ** 0.5, (1 - abar[t]) ** 0.5
            apart = 0.3 * x + x.flip(-1) / 10 - (0.2 * x - 0.1)
            low = torch.nn.functional.interpolate(apart, known, mode="bilinear")
            low = torch.nn.functional.interpolate(low, tuple(cells), mode="bilinear")
            output = 0.2 * x - 0.1 + 3 * low + 5 * (apart - low)
            x0 = (x - s * output) / a
            if n + 1 == len(ts):
                break
            x = abar[ts[n + 1]] ** 0.5 * x0 + (1 - abar[ts[n + 1]]) ** 0.5 * output
        assert torch.allclose(z, x0.float(), atol=2e-3)
        pixels = work.decode_pixels(z, size)


# Windows


def test_strided_windows_are_a_stride_apart_and_end_at_the_edge():
    found = strided(Size(20, 13), Size(8, 8), Size(5, 4))
    assert [region.y for region in found[::3]] == [0, 5, 10, 12]
    assert [region.x for region in found[:3]] == [0, 4, 5]
    assert len(found) == 12 and {(region.h, region.w) for region in found} == {(8, 8)}
    assert strided(Size(8, 3), Size(8, 3), Size(1, 1)) == [Region(0, 0, 8, 3)]


def test_the_mean_counts_every_window_alike():
    """Three windows on 3 x 4 cells; where none lies it is 0."""
    mean = Mean(Size(3, 4))
    for region, value in ((Region(0, 0, 2, 2), 1.0), (Region(1, 1, 2, 2), 4.0), (Region(0, 0, 2, 2), 1.0)):
        mean.add(region, torch.full((1, 2, 2, 2), value))
    expected = [[1, 1, 0, 0], [1, 2, 4, 0], [0, 4, 4, 0]]  # (1 + 1 + 4) / 3 where all three meet
    assert mean.result()[0, 1].tolist() == expected


def test_a_share_of_a_window_is_rounded_to_cells_and_is_one_at_least():
    """15 / 8 = 1.875 and 11 / 8 = 1.375; 3 / 8 would be none."""
    assert part_of(Size(15, 11), 0.125) == Size(2, 1)
    assert part_of(Size(3, 22), 0.125) == Size(1, 3)


def test_spots_cover_every_cell_once_wherever_the_grid_lies():
    random = torch.Generator().manual_seed(5)
    shifts = set()
    for _ in range(40):
        views = spots(Size(12, 8), Size(4, 4), random)
        shifts.add(views.shift)
        canvas = torch.zeros(12, 8)
        for region in views.regions:
            rolled = torch.zeros(12, 8)
            region.crop(rolled).fill_(1)
            canvas += rolled.roll((views.shift.h, views.shift.w), (0, 1))
        assert torch.equal(canvas, torch.ones(12, 8))
    assert len(shifts) > 20 and {shift.h for shift in shifts} == set(range(12))


def test_a_rolled_window_is_told_its_place_on_the_canvas():
    views = Views([Region(0, 0, 4, 4), Region(8, 4, 4, 4)], Size(5, 6))
    assert views.places(Size(12, 8)) == [Region(5, 6, 4, 4), Region(1, 2, 4, 4)]


def test_a_window_across_the_edge_sees_the_other_side(sdxl):
    """A network that returns its input's mean tells what each window held."""
    seen = []
    peer = replace(PEERS["spotdiffusion"], strength=0.5, steps=2, guidance=1.0)
    with pytest.MonkeyPatch.context() as patch:
        backbone = type(adapt(sdxl))

        def call(self, call, composer):
            seen.append((call.regions[0], call.latents.clone()))
            return torch.zeros_like(call.latents)

        patch.setattr(backbone, "call", call)
        latents = torch.arange(32 * 20.0).reshape(1, 1, 20, 32).repeat(1, 4, 1, 1)
        patch.setattr(
            backbone, "encode", lambda self, pixels, tiles: latents * 1e6
        )  # noise is nothing beside it
        list(peer.run(task(sdxl)))
    for region, window in seen:
        values = window[0, 0] / window[0, 0].max()
        rows = [(region.y + i) % 20 for i in range(16)]
        columns = [(region.x + j) % 32 for j in range(16)]
        expected = latents[0, 0][rows][:, columns]
        assert torch.allclose(values, expected / expected.max(), atol=1e-4)


# Ultimate SD Upscale


def test_tiles_lie_side_by_side():
    assert tile_boxes((130, 64), 64) == [(0, 0, 64, 64), (64, 0, 128, 64), (128, 0, 130, 64)]


def test_a_view_is_square_and_inside():
    assert squared((10, 20, 50, 40), (100, 80)) == (10, 10, 50, 50)
    assert squared((0, 60, 40, 80), (100, 80)) == (0, 40, 40, 80)  # moved up from the lower edge
    assert squared((10, 0, 90, 30), (100, 30)) == (10, 0, 90, 30)  # the picture is no higher


def test_the_mask_in_cells_is_what_it_covers_by_half():
    mask = Image.new("L", (32, 16))
    mask.paste(255, (0, 0, 20, 8))  # 5 x 4 cells of 4 x 2 px
    found = inside_cells(mask, Size(8, 8))
    expected = torch.zeros(8, 8, dtype=torch.bool)
    expected[:4, :5] = True
    assert torch.equal(found, expected)


def test_a_run_of_ultimate_sd_upscale(sdxl, monkeypatch):
    """Four tiles in reading order, each under its mask inside of the steps and over the picture, which the next one sees."""
    backbone = adapt(sdxl)
    stub(monkeypatch, backbone, lambda x, place: 0.3 * x + 0.1 + place.y + place.x)
    given = task(sdxl, size=(60, 38), scale=2, scheduler="ddim")
    peer = replace(PEERS["ultimate"], strength=0.5, steps=4, guidance=1.0, padding=4, blur=2)
    found = peer.upscale(given)
    work, settings = work_of(given), Settings.build(strength=0.5, steps=4, scheduler="ddim")
    picture = given.image.resize((120, 76), Image.Resampling.LANCZOS)
    for box in ((0, 0, 64, 64), (64, 0, 120, 64), (0, 64, 64, 76), (64, 64, 120, 76)):
        mask = Image.new("L", (120, 76))
        mask.paste(255, box)
        mask = mask.filter(ImageFilter.GaussianBlur(2))
        left, top, right, bottom = mask.getbbox()
        view = squared(
            (max(0, left - 4), max(0, top - 4), min(120, right + 4), min(76, bottom + 4)), (120, 76)
        )
        crop = mask.crop(view)
        latent = work.encode(picture.crop(view).resize((64, 64), Image.Resampling.LANCZOS))
        inside = torch.tensor(np.asarray(crop.resize((16, 16), Image.Resampling.BILINEAR)) >= 128)
        schedule = backbone.schedule(settings)
        state = schedule.noised(latent, torch.randn(latent.shape, generator=generator(3, 0)), 0)
        for i in range(2):
            output = 0.3 * schedule.model_input(state, i) + 0.1
            x0 = schedule.to_x0(output, state, i) * inside + latent * ~inside
            state = schedule.step(schedule.from_x0(x0, state, i), state, i)
        drawn = images.to_image(work.decode_pixels(state, (64, 64)))
        drawn = drawn.resize((view[2] - view[0], view[3] - view[1]), Image.Resampling.LANCZOS)
        picture.paste(drawn, view, crop)
    assert np.abs(np.asarray(found).astype(int) - np.asarray(picture)).max() <= 1
    assert found.size == (120, 76)


def test_a_tile_leaves_the_rest_of_the_picture_alone(sdxl):
    """The first tile of two, far from the second's far edge."""
    peer = replace(PEERS["ultimate"], strength=0.5, steps=2, padding=4, blur=2)
    given = task(sdxl, size=(64, 32), scale=2)
    plain = np.asarray(given.image.resize((128, 64), Image.Resampling.LANCZOS))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cupscale.peers.ultimate.tile_boxes", lambda size, tile: [(0, 0, 64, 64)])
        drawn = np.asarray(peer.upscale(given))
    assert np.array_equal(drawn[:, 80:], plain[:, 80:])
    assert np.abs(drawn[:, :48].astype(int) - plain[:, :48]).mean() > 1


# Progressive upscaling


def test_phases_go_from_native_size_to_the_output():
    assert phases((1024, 768), (4096, 3072), 1024) == (
        Phase(1, (1024, 768)),
        [Phase(2, (2048, 1536)), Phase(3, (3072, 2304)), Phase(4, (4096, 3072))],
    )
    # Smaller than native, and an output between two sizes: 700 x 500 at 2.5 ends at 1750 x 1250.
    assert phases((700, 500), (1750, 1250), 1024) == (Phase(1, (1024, 731)), [Phase(2, (1750, 1250))])
    # 2000 px is about two native sizes.
    assert phases((1200, 2000), (2400, 4000), 1024) == (
        Phase(2, (1229, 2048)),
        [Phase(3, (1843, 3072)), Phase(4, (2400, 4000))],
    )
    # 1500 px would lose detail at 1024, and 1150 px hardly does.
    assert phases((1500, 1000), (3000, 2000), 1024) == (Phase(2, (2048, 1365)), [Phase(3, (3000, 2000))])
    assert phases((1150, 800), (2300, 1600), 1024)[0] == Phase(1, (1024, 712))
    # No native size between the two: from the input itself.
    assert phases((1800, 900), (2040, 1020), 1024) == (Phase(2, (1800, 900)), [Phase(2, (2040, 1020))])
    # Never none: within native size, and where the scale adds next to nothing.
    assert phases((300, 200), (900, 600), 1024) == (Phase(1, (300, 200)), [Phase(1, (900, 600))])
    assert phases((1024, 512), (1100, 550), 1024) == (Phase(1, (1024, 512)), [Phase(1, (1100, 550))])
    # An eighth above two native sizes counts as two, and more as three.
    assert phases((1025, 513), (2176, 1089), 1024)[1] == [Phase(2, (2176, 1089))]
    assert [phase.k for phase in phases((1025, 513), (2178, 1090), 1024)[1]] == [2, 3]


def test_enlarged_latents_stay_in_step_with_the_pixels():
    """Cells that hold their place in the picture (in shares of it) hold it still, also where the canvases are padded."""
    cell, size, target = 4, (50, 30), (90, 60)  # 12.5 x 7.5 cells, 22.5 x 15 cells
    columns = ((torch.arange(16) + 0.5) * cell / size[0]).expand(8, 16)
    rows = ((torch.arange(8) + 0.5) * cell / size[1])[:, None].expand(8, 16)
    found = enlarged(torch.stack((columns, rows))[None], size, target, Size(16, 24))
    assert found.shape == (1, 2, 16, 24)
    expected = (torch.arange(24) + 0.5) * cell / target[0]
    assert torch.allclose(found[0, 0, 5, 4:20], expected[4:20], atol=0.015)  # the bicubic kernel bends a ramp
    expected = (torch.arange(16) + 0.5) * cell / target[1]
    assert torch.allclose(found[0, 1, 4:12, 7], expected[4:12], atol=0.015)
    cut = enlarged(torch.stack((columns, rows))[None], size, target, Size(15, 20))
    assert torch.equal(cut, found[..., :15, :20])


# DemoFusion


def test_the_cosine_falls_from_1_at_the_noise_to_0_at_the_picture():
    assert [round(cosine(t), 4) for t in (1000, 750, 500, 250, 0)] == [1, 0.8536, 0.5, 0.1464, 0]


def test_moved_windows_cover_the_canvas_and_stay_in_their_reach():
    canvas, reach = Size(20, 32), Size(2, 2)
    regions = strided(canvas, Size(16, 16), Size(8, 8))
    random = torch.Generator().manual_seed(1)
    moves = []
    for _ in range(60):
        count = torch.zeros(24, 36)
        for before, after in zip(regions, jittered(canvas, regions, reach, random), strict=True):
            moves.append((before, after.y - before.y - 2, after.x - before.x - 2))
            after.crop(count).add_(1)
            assert after.y >= 0 and after.x >= 0 and after.y + 16 <= 24 and after.x + 16 <= 36
        assert count[2:22, 2:34].min() >= 1
    for start, expected in ((0, {-2, -1, 0}), (8, {-2, -1, 0, 1, 2}), (16, {0, 1, 2})):
        assert {right for before, _, right in moves if before.x == start} == expected
    assert {down for before, down, _ in moves if before.y == 4} == {0, 1, 2}
    alone = jittered(Size(16, 40), [Region(0, 8, 16, 16)], reach, random)
    assert alone[0].y == 2  # as high as the canvas
    near = [jittered(Size(9, 40), [Region(1, 0, 8, 6)], Size(1, 0), random)[0] for _ in range(20)]
    assert {region.y for region in near} == {2, 3} and {region[1:] for region in near} == {(0, 8, 6)}


def test_dilated_views_are_every_kth_cell_and_come_back():
    z = torch.arange(54.0).reshape(1, 1, 6, 9)
    views = split(z, 3)
    assert views[5].tolist() == [[[[11, 14, 17], [38, 41, 44]]]]  # from row 1, column 2
    assert torch.equal(merge(views, 3), z)


def test_the_blur_is_a_gaussian_of_2k_minus_1_cells_over_zeros():
    """k = 2: exp(-1 / 2 sigma^2) beside 1, summed by hand, then the mean and deviation of what was blurred."""
    z = torch.randn(1, 2, 5, 7, generator=torch.Generator().manual_seed(2)) + 3
    side = np.exp(-1 / (2 * 0.7**2))
    weights = np.array([side, 1, side]) / (1 + 2 * side)
    soft = np.zeros((2, 5, 7))
    for c in range(2):
        for i in range(5):
            for j in range(7):
                for di in (-1, 0, 1):
                    for dj in (-1, 0, 1):
                        if 0 <= i + di < 5 and 0 <= j + dj < 7:
                            share = weights[di + 1] * weights[dj + 1]
                            soft[c, i, j] += share * z[0, c, i + di, j + dj].item()
    expected = (soft - soft.mean()) / soft.std(ddof=1) * z.numpy().std(ddof=1) + z.numpy().mean()
    assert np.allclose(blurred(z, 2, 0.7)[0].numpy(), expected, atol=1e-5)
    assert torch.allclose(blurred(z, 1, 0.7), z, atol=1e-5)  # of one cell


def test_a_phase_of_demofusion_is_the_papers(sdxl, monkeypatch):
    """Four steps of a phase over a network of one line, against loops over cells with the windows where they are.

    120 x 52 px: 30 x 14 cells, in windows of 16 x 14 that move by up to 2 and 1; the views are padded to 32 x 16.
    """
    backbone = adapt(sdxl)
    settings = Settings.build(steps=4, strength=1.0, guidance=1.0, scheduler="ddim", prompt="a fox")

    def network(x, y, left):
        return np.tanh(x) * (1 + y / 50 + left / 80)

    def call(self, call, composer):
        outputs = [
            network(latents.double().numpy(), region.y, region.x)
            for latents, region in zip(call.latents, call.regions, strict=True)
        ]
        return torch.tensor(np.stack(outputs)).float()

    given = task(sdxl, size=(60, 26), scale=2, scheduler="ddim")
    starts, ends, before, decoded = [], [], [], []
    decode = type(backbone).decode
    monkeypatch.setattr(type(backbone), "call", call)
    monkeypatch.setattr(
        type(backbone), "decode", lambda self, z, *rest: decoded.append(z) or decode(self, z, *rest)
    )

    class Watched(demofusion.Ascent):
        def denoise(self, z, phase):
            starts.append(z)
            ends.append((yield from super().denoise(z, phase)))
            return ends[-1]

        def moved(self, canvas):
            before.append(super().moved(canvas))
            return before[-1]

    monkeypatch.setattr(demofusion, "Ascent", Watched)
    peer = replace(PEERS["demofusion"], steps=4, guidance=1.0, cosine_mix=1.5, cosine_blur=0.7)
    peer.upscale(given)
    ((z,), (end,), (result,)) = starts, ends, decoded
    work = peers.base.Work(given, peers.base.layout((60, 26), 2.0, backbone.geometry), 0)
    first = work.encode(given.image.resize((64, 28), Image.Resampling.BICUBIC))
    assert torch.equal(z, enlarged(first, (64, 28), (120, 52), Size(14, 30)))
    assert torch.allclose(result, (end - end.mean()) / end.std() * first.std() + first.mean(), atol=1e-5)

    schedule = backbone.schedule(settings)
    noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(3))
    state = schedule.noised(z, noise, 0).double()
    assert [region[2:] for region in before[0]] == [(14, 16)] * 3  # columns 0, 8 and 14, moved
    for i, t in enumerate(schedule.timesteps):
        c = (1 + np.cos(np.pi * (1000 - t.item()) / 1000)) / 2
        state = state * (1 - c**3) + schedule.noised(z, noise, i).double() * c**3
        total, count = np.zeros((4, 16, 34)), np.zeros((16, 34))
        margin = np.zeros((4, 16, 34))
        margin[:, 1:-1, 2:-2] = state[0].numpy()
        for y, x, h, w in before[i]:
            total[:, y : y + h, x : x + w] += network(margin[:, y : y + h, x : x + w], y, x)
            count[y : y + h, x : x + w] += 1
        local = total[:, 1:-1, 2:-2] / count[1:-1, 2:-2]
        wide = torch.zeros(
            1, 4, 16, 32, dtype=torch.float64
        )  # a view is of whole pairs of cells: 2 x 2 of 8 x 16
        wide[..., 2:, 2:] = state
        soft = blurred(wide.float(), 2, 0.8 * (0.99 * c**0.7 + 0.01)).double()
        dilated = network(soft[0].numpy(), 0, 0)[..., 2:, 2:]
        output = torch.tensor(local * (1 - c**1.5) + dilated * c**1.5)[None]
        state = schedule.step(output.float(), state.float(), i).double()
    assert torch.allclose(end, state.float(), atol=1e-4)


def test_phases_follow_each_other(sdxl, monkeypatch):
    """Each enlarges what the last one ended with."""
    sizes = []

    def watched(z, size, target, cells):
        sizes.append((size, target, tuple(cells)))
        return enlarged(z, size, target, cells)

    monkeypatch.setattr(demofusion, "enlarged", watched)
    SMALL["demofusion"][0].upscale(task(sdxl, scale=4))
    assert sizes == [
        ((64, 40), (128, 80), (20, 32)),
        ((128, 80), (192, 120), (30, 48)),
        ((192, 120), (256, 160), (40, 64)),
    ]


# AccDiffusion


def softmax(query, key):
    """(n, d), (m, d) -> (n, m), row by row in float64."""
    maps = np.zeros((len(query), len(key)))
    for i, q in enumerate(query.double().numpy()):
        scores = [float(np.dot(q, k)) / np.sqrt(len(q)) for k in key.double().numpy()]
        maps[i] = np.exp(scores) / np.exp(scores).sum()
    return maps


def test_recorded_maps_are_the_softmax_and_change_nothing(sdxl):
    """Against the sums as one reads them on paper, for a picture that is wider than high; two heads, whose mean is kept."""
    backbone = adapt(sdxl)
    layer = "down_blocks.1.attentions.0.transformer_blocks.0.attn2"
    attn = backbone.network.get_submodule(layer)
    given = {}
    handle = attn.register_forward_pre_hook(
        lambda m, args, kwargs: given.update(kwargs, x=args[0]), with_kwargs=True
    )
    settings = Settings.build(prompt="a red fox", guidance=1.0, attention=0, detail=0)
    latents = torch.randn(1, 4, 8, 12, generator=torch.Generator().manual_seed(0))
    whole = [Region(0, 0, 8, 12)]
    with backbone.denoiser(settings, (), Size(8, 12), Size(8, 12)) as denoiser:
        plain = denoiser.predict(latents, torch.tensor(500.0), whole, [0])
        keeper = MapKeeper()
        with kept(backbone.network, keeper):
            slow = denoiser.predict(latents, torch.tensor(500.0), whole, [0])
            denoiser.capture(latents, torch.tensor(500.0))
    handle.remove()
    maps = keeper.maps
    assert torch.allclose(plain, slow, atol=1e-5)
    assert len(maps) == 4 and maps[layer].shape == (1, 24, 77)
    with torch.no_grad():
        query, key = attn.to_q(given["x"])[0], attn.to_k(given["encoder_hidden_states"])[0]
    width = query.shape[-1] // attn.heads
    heads = [slice(k * width, (k + 1) * width) for k in range(attn.heads)]
    expected = np.mean([softmax(query[:, part], key[:, part]) for part in heads], axis=0)
    assert np.allclose(maps[layer][0].numpy(), expected, atol=1e-5)


def test_the_coarsest_maps_are_taken_and_the_middle_is_not():
    maps = {
        "down_blocks.1.attn2": torch.full((2, 24, 5), 9.0),
        "down_blocks.2.attn2": torch.stack((torch.zeros(6, 5), torch.arange(30.0).reshape(6, 5))),
        "up_blocks.0.attn2": torch.full((2, 6, 5), 2.0),
        "mid_block.attn2": torch.full((2, 6, 5), 100.0),
    }
    found = coarsest(maps, Size(8, 12))  # 4 x 6 and 2 x 3 places
    assert found.shape == (5, 2, 3)
    assert found[3].tolist() == [[2.5, 5, 7.5], [10, 12.5, 15]]  # (3 + 5 place + 2) / 2
    assert coarsest({"mid_block.attn2": maps["mid_block.attn2"]}, Size(8, 12))[0, 0, 0] == 100


def test_masks_are_above_the_mean_and_opened():
    """16 rows are opened once: 3 x 3 stays, 2 x 2 goes, and at the edge 2 x 3 stays, since nothing lies beyond."""
    map_ = torch.zeros(16, 20)
    map_[2:5, 4:7] = 1
    map_[9:11, 9:11] = 1
    map_[12:15, 18:20] = 1
    map_[0, 12] = 0.03  # below the mean, 19 / 320
    expected = map_.clone()
    expected[9:11, 9:11] = expected[0, 12] = 0
    assert torch.equal(opened(map_[None])[0], expected.bool())
    kept = opened(map_[None, :15])[0]  # 15 rows are not
    assert torch.equal(kept, (map_ > 0.5)[:15])


def test_a_window_gets_the_words_that_cover_enough_of_it():
    """Masks of 2 x 4 tokens on 4 x 8 cells with a margin of 1; windows of 4 x 4 cells."""
    masks = torch.tensor(
        [
            [[1, 1, 0, 0], [1, 1, 0, 0]],  # the left half
            [[0, 0, 0, 0], [0, 0, 0, 1]],  # 2 x 2 cells at the lower right
            [[1, 1, 1, 1], [1, 1, 1, 1]],
        ]
    ).bool()
    regions = [Region(1, 1, 4, 4), Region(1, 4, 4, 4), Region(1, 5, 4, 4), Region(0, 6, 4, 4)]

    def prompts(share):
        return window_prompts(["fox", "snow", "a"], masks, Size(4, 8), regions, Size(1, 1), share)

    # Of 16 cells the fox covers 16, 4, 0, 0; the snow 0, 2, 4, 2; the last word 16, 16, 16, 9.
    assert prompts(0.25) == ["fox a", "fox a", "snow a", "a"]
    assert prompts(0.1) == ["fox a", "fox snow a", "snow a", "snow a"]
    assert prompts(0.6) == ["fox a", "a", "a", ""]
    # A margin of 1 above and of 2 beside: cells (0, 0) to (2, 1) of the canvas lie in the window.
    corner = window_prompts(["fox", "snow", "a"], masks, Size(4, 8), [Region(0, 0, 4, 4)], Size(1, 2), 6 / 16)
    assert corner == ["fox a"]
    assert window_prompts([], masks[:0], Size(4, 8), regions, Size(1, 1), 0.3) == [""] * 4


def test_exchanged_cells_stay_at_their_place_and_come_back():
    views = [torch.arange(24.0).reshape(1, 2, 3, 4) + 100 * k for k in range(4)]
    mixed, order = exchanged(views, torch.Generator().manual_seed(0))
    together = torch.cat(mixed)
    assert torch.equal(together.sort(0).values, torch.cat(views))  # a permutation at every place
    assert len({tuple(order[:, c, y, x].tolist()) for c in range(2) for y in range(3) for x in range(4)}) > 5
    for before, after in zip(views, returned(mixed, order), strict=True):
        assert torch.equal(before, after)


def test_words_know_their_tokens(sdxl, tmp_path):
    """CLIP has a mark in front of the text, T5 has none; the small tokenizers read letters."""
    assert adapt(sdxl).word_tokens("a  red fox") == [
        ("a", slice(1, 2)),
        ("red", slice(2, 5)),
        ("fox", slice(5, 8)),
    ]
    pixart = adapt(cupscale.load(str(make_pixart(tmp_path)), device="cpu"))
    first, second = pixart.word_tokens("ab c")
    ids = pixart.pipe.tokenizer("ab c").input_ids
    assert first == ("ab", slice(0, 3)) and second == (
        "c",
        slice(3, len(ids) - 1),
    )  # a mark of its own before each word
    assert len(pixart.pipe.tokenizer("ab").input_ids) == 4


def test_each_window_is_denoised_under_its_own_prompt(sdxl, monkeypatch):
    """The fox lies left, the snow right: windows at the left edge are asked for the one, at the right for the other."""
    backbone = adapt(sdxl)
    masks = torch.zeros(2, 4, 8, dtype=torch.bool)
    masks[0, :, :4] = masks[1, :, 4:] = True
    monkeypatch.setattr("cupscale.peers.accdiffusion.opened", lambda maps: masks)
    calls = []
    plain = type(backbone).call

    def call(self, call, composer):
        calls.append((call.regions[0], call.texts[-1].embeds))
        return plain(self, call, composer)

    monkeypatch.setattr(type(backbone), "call", call)
    peer = replace(PEERS["accdiffusion"], steps=2, share=0.6)
    peer.upscale(task(sdxl, prompt="fox snow"))
    texts = {text: backbone.encode_texts([text])[0].embeds for text in ("fox snow", "fox", "snow", "")}
    asked = {
        (region.x, name)
        for region, embeds in calls[2:]
        for name, known in texts.items()
        if torch.equal(embeds, known)
    }
    assert {(x < 6, name) for x, name in asked if x > 0 and name in ("fox", "snow")} == {
        (True, "fox"),
        (False, "snow"),
    }
    assert (0, "fox snow") in asked  # the dilated views show everything
    assert any(name == "" for x, name in asked)  # the middle window is half the one and half the other


def test_a_words_map_is_summed_over_the_steps_and_its_tokens(sdxl, monkeypatch):
    """Of passes over the input at native size, 64 x 46 px, noised to every step, without guidance."""
    backbone = adapt(sdxl)
    random = torch.Generator().manual_seed(8)
    each = [torch.rand(77, 6, 8, generator=random) for _ in range(3)]
    given, latents = iter(each), []
    plain = type(backbone).call

    def call(self, call, composer):
        latents.append((call.latents, call.t))
        return plain(self, call, composer)

    monkeypatch.setattr(type(backbone), "call", call)
    monkeypatch.setattr("cupscale.peers.accdiffusion.coarsest", lambda maps, cells: next(given))
    job = task(sdxl, size=(51, 37), scale=2.5, scheduler="ddim")
    peer, work = replace(PEERS["accdiffusion"], steps=3), work_of(job)
    settings = work.settings(strength=1.0, steps=3, guidance=7.5)
    steps, found = peer.word_maps(work, settings), None
    while found is None:
        try:
            next(steps)
        except StopIteration as stop:
            found = stop.value
    total = sum(each)
    for word, places in zip(found, ((1, 2), (2, 5), (5, 8)), strict=True):  # a, red, fox
        assert torch.allclose(word, total[slice(*places)].mean(0))
    first = work.encode(job.image.resize((64, 46), Image.Resampling.BICUBIC))
    schedule, noise = backbone.schedule(settings), torch.randn(first.shape, generator=generator(3, 1))
    assert work.done == len(latents) == 3 and first.shape == (1, 4, 12, 16)
    for i, (latent, t) in enumerate(latents):
        assert t == schedule.timesteps[i]
        assert torch.allclose(latent, schedule.model_input(schedule.noised(first, noise, i), i))


def test_accdiffusion_refuses_a_network_without_maps(tmp_path):
    pipe = cupscale.load(str(make_sd3(tmp_path)), device="cpu")
    with pytest.raises(
        CupscaleError, match="AccDiffusion reads the maps of cross-attention, which SD3Transformer2DModel"
    ):
        peers.get("accdiffusion").run(task(pipe))


# DiffuseHigh


def transforms(length):
    """A wavelet transform of `length` values as four matrices: to the low and the high band, and back from them."""
    low = np.array(DB4)
    high = np.array([(-1) ** j * low[7 - j] for j in range(8)])
    count = (length + 7) // 2
    to, back = np.zeros((2, count, length)), np.zeros((2, length, count))
    for band, taps in enumerate((low, high)):
        for k in range(count):
            for j in range(8):
                place = 2 * k - 6 + j
                mirrored = -1 - place if place < 0 else 2 * length - 1 - place if place >= length else place
                to[band, k, mirrored] += taps[j]
                if 0 <= place < length:
                    back[band, place, k] += taps[j]
    return to, back


@pytest.mark.parametrize("height, width", [(11, 14), (24, 9)])
def test_the_ll_band_is_replaced_and_the_others_stay(height, width):
    """All four bands made by matrices, one of them exchanged, and taken back together."""
    random = torch.Generator().manual_seed(1)
    x, other = (torch.randn(1, 2, height, width, generator=random, dtype=torch.float64) for _ in range(2))
    (rows, back_rows), (columns, back_columns) = transforms(height), transforms(width)
    expected = np.zeros((2, height, width))
    for c in range(2):
        assert np.allclose(approximation(x)[0, c], rows[0] @ x[0, c].numpy() @ columns[0].T)
        for down in range(2):
            for across in range(2):
                source = other if (down, across) == (0, 0) else x
                band = rows[down] @ source[0, c].numpy() @ columns[across].T
                expected[c] += back_rows[down] @ band @ back_columns[across].T
    assert np.allclose(with_approximation(x, approximation(other))[0], expected)
    assert torch.allclose(with_approximation(x, approximation(x)), x)


def test_sharpening_is_unsharp_masking_over_mirrored_edges():
    x = torch.randn(1, 3, 4, 6, generator=torch.Generator().manual_seed(3))
    side = np.exp(-0.5 / 0.8**2)
    weights = np.array([side, 1, side]) / (1 + 2 * side)
    soft = np.zeros((4, 6))
    for i in range(4):
        for j in range(6):
            for di in (-1, 0, 1):
                for dj in (-1, 0, 1):
                    y = 3 - abs(3 - abs(i + di))
                    across = 5 - abs(5 - abs(j + dj))
                    soft[i, j] += weights[di + 1] * weights[dj + 1] * x[0, 1, y, across].item()
    expected = 1.5 * x[0, 1].numpy() - 0.5 * soft
    assert np.allclose(sharpened(x, 0.8, 0.5)[0, 1].numpy(), expected, atol=1e-5)


def test_diffusehigh_holds_the_band_in_the_first_steps_of_the_last(sdxl, monkeypatch):
    """With a network that finds nothing, the first estimates have the enlarged picture's band, the last ones do not."""
    backbone = adapt(sdxl)
    peer = replace(PEERS["diffusehigh"], steps=8, last_steps=3, wavelet_steps=2, guidance=1.0)
    seen, times, held = [], [], []

    def call(self, call, composer):
        times.append(call.t.item())
        return torch.zeros_like(call.latents)

    def watched(pixels, low):
        held.append(low)
        seen.append(with_approximation(pixels, low))
        return seen[-1]

    monkeypatch.setattr(type(backbone), "call", call)
    monkeypatch.setattr("cupscale.peers.diffusehigh.with_approximation", watched)
    peer.upscale(task(sdxl, scale=4))
    every = backbone.schedule(Settings.build(steps=8, strength=1.0)).timesteps.tolist()
    assert times == every[-3:] * 3 and len(seen) == 6
    assert [pixels.shape[-2:] for pixels in seen[::2]] == [(80, 128), (120, 192), (160, 256)]
    for pixels, low in zip(seen, held, strict=True):
        inner = (..., slice(5, -5), slice(5, -5))  # mirrored edges are not orthogonal
        assert torch.allclose(approximation(pixels)[inner], low[inner], atol=1e-3)


# FreCaS


def test_stages_go_through_the_half():
    assert stages((1024, 640), (2048, 1280), 1024) == ((1024, 640), [(2048, 1280)])
    assert stages((1024, 640), (4096, 2560), 1024) == ((1024, 640), [(2048, 1280), (4096, 2560)])
    assert stages((1025, 640), (2050, 1280), 1024) == ((1024, 639), [(2050, 1280)])
    assert stages((1000, 500), (3001, 1501), 1024) == ((1024, 512), [(1501, 751), (3001, 1501)])


def test_what_a_stage_is_new_to_is_guided_more():
    """A plane that half the cells hold, and a checkerboard that they cannot: 1 + 7.5 x 2 + 25 x 3 (-1)^(y + x)."""
    y, x = torch.meshgrid(torch.arange(4), torch.arange(8), indexing="ij")
    checks = (1 - 2 * ((y + x) % 2)).float()
    conditional = (1 + 2 + 3 * checks)[None, None]
    found = guided_by_band(torch.ones(1, 1, 4, 8), conditional, Size(2, 4), 7.5, 25.0)
    assert torch.allclose(found[0, 0], 1 + 7.5 * 2 + 25 * 3 * checks)


@pytest.fixture
def leading(sdxl, monkeypatch):
    """The small checkpoint with the timesteps of the real one: every second from 999 to 1."""
    config = dict(sdxl.scheduler.config) | {"timestep_spacing": "leading"}
    monkeypatch.setattr(sdxl, "scheduler", type(sdxl.scheduler).from_config(config))
    return sdxl


def test_levels_step_as_ddim_does(leading):
    backbone = adapt(leading)
    levels = Levels(backbone, Settings.build(), Size(16, 16))
    assert levels.timesteps[0] == 999 and levels.timesteps[-1] == 1
    assert [levels.timesteps[levels.nearest(t)] for t in (249, 400.4, 2000)] == [249, 401, 999]
    random = torch.Generator().manual_seed(0)
    sample, output = torch.randn(2, 1, 4, 6, 5, generator=random)
    for i in (0, 250, 400):
        expected = levels.schedule.step(output, sample, i)
        assert torch.allclose(levels.step(output, sample, i, i + 1), expected, atol=1e-4)
        assert torch.allclose(levels.noise(output, sample, i), output, atol=1e-3)  # it predicts the noise


@pytest.mark.parametrize("end, gamma", [(200, 1.5), (400, 2.0)])
def test_a_stage_begins_where_the_ratio_of_signal_to_noise_is_lower(leading, end, gamma):
    """abar' / (1 - abar') = (1 / 2)^gamma abar / (1 - abar), looked up among the checkpoint's own."""
    given = task(leading)
    work = peers.base.Work(given, peers.base.layout(NATIVE, 2.0, given.backbone.geometry), 0)
    levels = Levels(given.backbone, Settings.build(), Size(16, 16))
    leg = Leg(work, Settings.build(), (64, 40), (128, 80), Cascade((end,), (5,), gamma), 0, True)
    found = [levels.timesteps[i] for i in leg.places(levels)]
    abar = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)
    wanted = 0.5**gamma * abar[end] / (1 - abar[end])
    first = int(np.argmin(np.abs(np.log(abar / (1 - abar)) - np.log(wanted))))
    assert abs(found[0] - first) <= 2 and found[-1] == 1
    assert np.allclose(np.diff(found), -(found[0] - 1) / 4, atol=2)
    assert leg.known(Size(20, 32)) == Size(10, 16)


def test_fused_maps_are_the_mean_of_the_grids():
    """Two layers of 2 x 3 places count as one grid beside a layer of 4 x 6."""
    coarse = [torch.full((1, 6, 2), value) for value in (1.0, 3.0)]
    fine = torch.arange(48.0).reshape(1, 24, 2)
    found = fused({"a": coarse[0], "b": fine, "c": coarse[1]}, Size(8, 12))
    assert found.shape == (1, 2, 4, 6)
    assert torch.allclose(found[0, 1], (fine[0, :, 1].reshape(4, 6) + 2) / 2)


def test_shared_maps_read_the_values_too(sdxl):
    """0.6 M V beside 0.4 of the layer's own, M resized over the picture's two sides."""
    attn = adapt(sdxl).network.get_submodule("down_blocks.1.attentions.0.transformer_blocks.0.attn2")
    random = torch.Generator().manual_seed(4)
    hidden, text = torch.randn(2, 6, 32, generator=random), torch.randn(2, 5, 32, generator=random)
    shared = torch.rand(2, 5, 4, 6, generator=random)
    keeper = MapKeeper(keep=False, shared=shared, weight=0.6, cells=Size(4, 6))  # 2 x 3 places
    with torch.no_grad(), kept(adapt(sdxl).network, keeper):
        found = attn(hidden, encoder_hidden_states=text)
        keeper.shared = None
        plain = attn(hidden, encoder_hidden_states=text)
    with torch.no_grad():
        maps = (
            shared.reshape(2, 5, 2, 2, 3, 2).mean((3, 5)).flatten(2).transpose(1, 2)
        )  # bilinear, to the half
        read = attn.to_out[0](maps @ attn.to_v(text))
    assert torch.allclose(found, 0.4 * plain + 0.6 * read, atol=1e-5)
    assert keeper.maps == {}


def test_frecas_keeps_maps_at_the_end_of_a_stage_and_uses_them_in_the_next(sdxl, monkeypatch):
    weights = []
    plain = MapKeeper.__setattr__

    def watched(self, name, value):
        if name == "shared" and value is not None:
            weights.append(tuple(value.shape))
        plain(self, name, value)

    monkeypatch.setattr(MapKeeper, "__setattr__", watched)
    SMALL["frecas"][0].upscale(task(sdxl, scale=4))
    # Both halves, 77 tokens; the attention of this network is at half of the cells: 64 x 40 px, then 128 x 80 px.
    assert weights == [(2, 77, 5, 8), (2, 77, 10, 16)]


def test_frecas_needs_maps_unless_it_does_without(tmp_path):
    pipe = cupscale.load(str(make_sd3(tmp_path)), device="cpu")
    small = task(pipe, size=(40, 24), scale=2)
    with pytest.raises(CupscaleError, match="FreCaS reads the maps"):
        peers.get("frecas").run(small)
    peer = replace(SMALL["frecas"][0], maps=0.0)
    with counted(pipe) as calls:
        assert peer.upscale(small).size == (80, 48)
    assert sum(calls) == peer.samples((40, 24), 2.0, small.backbone.geometry) == 6
    with pytest.raises(CupscaleError, match=r"choose a guidance above 1, not 0.5"):
        replace(peer, guidance=0.5).run(small)
    with pytest.raises(CupscaleError, match=r"256 x 256 px, and this one has positions for 192 px a side"):
        peer.run(task(pipe, size=(64, 64), scale=4))


# HiFlow


@pytest.fixture(scope="module")
def sd3(tmp_path_factory):
    """Its table of positions reaches 64 x 64 cells, which is 256 px."""
    return cupscale.load(str(make_sd3(tmp_path_factory.mktemp("sd3"), pos_embed_max_size=32)), device="cpu")


HIFLOW = replace(PEERS["hiflow"], steps=6, first=Stage(3, 1.0, 0.5, 4.5), second=Stage(2, 0.25, 0.5, 1.0))


def test_hiflow_takes_as_many_samples_as_counted_by_hand_and_leaves_nothing_behind(sd3):
    """3 steps twice at 2x, and 2 more without guidance at 4x."""
    before = state(sd3)
    for scale, expected in ((2.0, 6), (4.0, 8)):
        assert HIFLOW.samples(NATIVE, scale, adapt(sd3).geometry) == expected
        with counted(sd3) as calls:
            progress = list(HIFLOW.run(task(sd3, scale=scale)))
        assert sum(calls) == expected and progress[-1] == (expected, expected)
    odd = task(sd3, size=(51, 37), scale=2.5)
    images = [HIFLOW.upscale(odd) for _ in range(2)]
    assert images[0].size == (128, 92) and images[0].tobytes() == images[1].tobytes()
    steps = HIFLOW.run(odd)
    next(steps)
    steps.close()
    assert state(sd3) == before


def test_hiflow_refuses_diffusion_in_one_line(sdxl):
    with pytest.raises(
        CupscaleError, match=r"^HiFlow aligns flows, .*choose sd3 or z-image, or another peer$"
    ):
        peers.get("hiflow").run(task(sdxl))


def test_the_flow_is_aligned_in_direction_and_acceleration(sd3):
    """Two steps of the two formulas, written out over the filter that `tests/method` knows."""
    stage = Stage(4, 0.8, 0.5, 1.0)
    schedule = adapt(sd3).schedule(Settings.build(steps=4, strength=1.0))
    random = torch.Generator().manual_seed(6)
    outputs, states, references = torch.randn(3, 2, 1, 4, 12, 10, generator=random)
    flow = Flow(schedule, stage, 0.3, 1)
    found = [flow.aligned(outputs[i], states[i], references[i], i) for i in range(2)]
    noise = [schedule.noised(torch.zeros(1), torch.ones(1), i).item() for i in range(2)]
    velocities = []
    for i, alpha in ((0, 0.8), (1, 0.6)):
        x0 = states[i] - noise[i] * outputs[i]
        low = GlobalStructure(references[i], 0.3)
        x0 = x0 + alpha * (low.lowpass(references[i]) - low.lowpass(x0))
        velocities.append((states[i] - x0) / noise[i])
    assert torch.allclose(found[0], velocities[0], atol=1e-4)
    toward = [(states[i] - references[i]) / noise[i] for i in range(2)]
    beta = 0.5 * 3 / 4
    expected = velocities[1] + beta * (velocities[0] + toward[1] - toward[0] - velocities[1])
    assert torch.allclose(found[1], expected, atol=1e-4)


def test_hiflows_second_stage_refers_to_the_first_ones_estimates(sd3, monkeypatch):
    """At the same steps of the schedule: the last two of the first stage's three."""
    seen = []
    plain = Flow.aligned

    def aligned(self, output, z, reference, i):
        seen.append((self._schedule.to_x0(output, z, i), reference))
        return plain(self, output, z, reference, i)

    monkeypatch.setattr(Flow, "aligned", aligned)
    HIFLOW.upscale(task(sd3, scale=4))
    assert torch.equal(seen[0][1], seen[2][1])  # the input's latent, at every step
    for first, second in ((1, 3), (2, 4)):
        estimate = enlarged(seen[first][0], (128, 80), (256, 160), Size(40, 64))
        assert torch.equal(seen[second][1], estimate)


def test_a_run_of_hiflow(sd3, monkeypatch):
    """One stage of 2 of 5 steps, over the input's own latent."""
    backbone = adapt(sd3)
    decoded = stub(monkeypatch, backbone, lambda x, place: 0.3 * x + 0.1 + place.y + place.x)
    given = task(sd3, size=(60, 38), scale=2)
    stage = Stage(2, 0.8, 0.5, 1.0)
    replace(PEERS["hiflow"], steps=5, first=stage, cutoff=0.3).upscale(given)
    work, random = work_of(given), generator(3, 0)
    pixels = images.to_tensor(given.image.resize((64, 41), Image.Resampling.BICUBIC))
    sigma = 0.1 + 1.9 * torch.rand((), generator=random).item()
    wide = torch.nn.functional.interpolate(pixels, (76, 120), mode="bicubic")
    state = work.encode_pixels(sharpened(wide, sigma, 1.0), Size(20, 30))
    reference = enlarged(work.encode_pixels(pixels, Size(12, 16)), (64, 41), (120, 76), Size(20, 30))
    schedule = backbone.schedule(Settings.build(strength=0.4, steps=5), Size(20, 30))
    state = schedule.noised(state, torch.randn(state.shape, generator=random), 0)
    flow = Flow(schedule, stage, 0.3, 1)
    for i in range(2):
        state = schedule.step(flow.aligned(0.3 * state + 0.1, state, reference, i), state, i)
    assert torch.allclose(decoded[0], state, atol=1e-4)


# PixelRush


def test_the_feather_is_a_gaussian_about_the_middle():
    """A sixth of 6 rows is 1 cell, of 3 columns half a cell."""
    weight = gaussian_window(Size(6, 3), 1 / 6)
    for i in range(6):
        for j in range(3):
            expected = np.exp(-((i - 2.5) ** 2) / 2) * np.exp(-(((j - 1) / 0.5) ** 2) / 2)
            assert weight[i, j].item() == pytest.approx(expected, abs=1e-6)


def test_feathered_windows_are_a_weighted_mean():
    """Two windows of 4 rows that share 2: cell (2, 1) lies half a cell behind the one's middle and 1.5 before the other's."""
    regions = [Region(0, 0, 4, 3), Region(2, 0, 4, 3)]
    windows = [torch.full((1, 2, 4, 3), 1.0), torch.full((1, 2, 4, 3), 5.0)]
    found = feathered(Size(6, 3), regions, windows, 0.25)  # a deviation of one row
    near, far = np.exp(-(0.5**2) / 2), np.exp(-(1.5**2) / 2)
    expected = [1, 1, (near + 5 * far) / (near + far), (far + 5 * near) / (near + far), 5, 5]
    assert np.allclose(found[0, 1, :, 1].numpy(), expected, atol=1e-5)


def test_pixelrush_inverts_injects_and_takes_one_step(leading, monkeypatch):
    """Over a network that finds the noise 0.3 x + 0.1, against the formulas, cell by cell."""
    backbone = adapt(leading)
    times, latents = [], []

    def call(self, call, composer):
        times.append(call.t.item())
        return 0.3 * call.latents + 0.1

    decode = type(backbone).decode
    monkeypatch.setattr(type(backbone), "call", call)
    monkeypatch.setattr(
        type(backbone), "decode", lambda self, z, *rest: latents.append(z) or decode(self, z, *rest)
    )
    given = task(leading, size=(64, 40), scale=2)
    peer = replace(PEERS["pixelrush"], injection=0.6)
    peer.upscale(given)
    assert set(times) == {249.0} and len(times) == 12
    first = peers.base.Work(given, peers.base.layout(NATIVE, 2.0, backbone.geometry), 0).encode(given.image)
    z = torch.nn.functional.interpolate(first, scale_factor=2.0, mode="bicubic")
    fresh = torch.randn(z.shape, generator=torch.Generator().manual_seed(3))
    abar = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)[249]
    a, s = abar**0.5, (1 - abar) ** 0.5
    x = a * z + s * (0.8 * (0.3 * z + 0.1) + 0.6 * fresh)
    assert torch.allclose(latents[0], (x - s * (0.3 * x + 0.1)) / a, atol=1e-4)  # alike in every window
