"""Other people's methods: each one's count of network samples, its size, its bytes, its hooks, and its formulas."""

import contextlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from checkpoints import make_sdxl
from PIL import Image

import cupscale
from cupscale import peers
from cupscale.backbones import adapt
from cupscale.errors import CupscaleError
from cupscale.method.regions import Region, Size
from cupscale.models import SDXL_GEOMETRY
from cupscale.peers import PEERS, Task
from cupscale.peers.base import Mean
from cupscale.peers.spotdiffusion import spots
from cupscale.peers.ultimate import inside_cells, squared, tile_boxes
from cupscale.peers.windows import Views, strided
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


def test_the_authors_options_cost_what_the_papers_say():
    assert list(WHOLE) == list(PEERS)
    for name, expected in WHOLE.items():
        for scale, samples in zip((2.0, 4.0), expected, strict=True):
            assert PEERS[name].samples((1024, 1024), scale, SDXL_GEOMETRY) == samples, (name, scale)


@pytest.mark.parametrize("name", [name for name in PEERS if name not in SMALL])
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


def test_the_prompt_and_the_negative_prompt_are_read(sdxl):
    peer = SMALL["img2img"][0]
    latents = []
    decode = type(adapt(sdxl)).decode
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            type(adapt(sdxl)), "decode", lambda self, z, tiles: latents.append(z) or decode(self, z, tiles)
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
