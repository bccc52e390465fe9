"""A device that does not hold a run: fewer regions, smaller tiles, and at last what would fit, in one line."""

import pytest
import torch
from click.testing import CliRunner
from small_runs import photo

import cupscale
from cupscale import models, offload, peers
from cupscale.backbones import Tiles, adapt
from cupscale.cli import main
from cupscale.errors import CupscaleError
from cupscale.peers import base as peers_base
from cupscale.planning import device_bytes, fitting_scale, make_plan
from cupscale.settings import Settings

FAST = {"scale": 3, "strength": 0.5, "steps": 2, "guidance": 1, "upscaler": "lanczos", "captioner": "none"}
FULL = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")


@pytest.fixture
def pipe(load):
    return load("sdxl")


def no_room_above(pipe, part, side_px, monkeypatch):
    """A VAE whose `part` takes no more than tiles of a size. Returns the tiles it was asked for, in pixels."""
    module, asked = getattr(pipe.vae, part), []
    forward, cell = module.forward, 1 if part == "encoder" else 4

    def small(x, *args, **kwargs):
        side = max(x.shape[-2:]) * cell
        asked.append(side)
        if side > side_px:
            raise FULL
        return forward(x, *args, **kwargs)

    monkeypatch.setattr(module, "forward", small)
    return asked


def test_the_vae_goes_on_in_smaller_tiles_and_says_so(pipe, monkeypatch):
    asked = no_room_above(pipe, "decoder", 300, monkeypatch)
    events = list(cupscale.stream(pipe, photo(200, 120), **FAST))
    notices = [event.message for event in events if isinstance(event, cupscale.Notice)]
    assert notices == [
        "out of memory: going on with VAE tiles of 512 px",
        "out of memory: going on with VAE tiles of 256 px",
    ]
    assert events[-1].result.image.size == (600, 360) and asked[:2] == [600, 512]
    monkeypatch.undo()
    backbone = adapt(pipe)
    decode = type(backbone).decode
    monkeypatch.setattr(
        type(backbone), "decode", lambda self, z, tiles, *rest: decode(self, z, Tiles(256), *rest)
    )
    same = cupscale.upscale(pipe, photo(200, 120), **FAST).image
    assert same.tobytes() == events[-1].result.image.tobytes()


def test_tiles_that_the_encoder_needed_are_the_decoders_too(pipe, monkeypatch):
    no_room_above(pipe, "encoder", 512, monkeypatch)
    asked = no_room_above(pipe, "decoder", 10_000, monkeypatch)
    list(cupscale.stream(pipe, photo(200, 120), **FAST))
    assert max(asked) == 512


def test_where_the_smallest_tiles_do_not_fit_a_line_says_what_would(pipe, monkeypatch):
    no_room_above(pipe, "decoder", 0, monkeypatch)
    with pytest.raises(CupscaleError) as told:
        cupscale.upscale(pipe, photo(200, 120), **FAST)
    line = str(told.value)
    assert line.startswith(
        "out of memory on cpu (decode) with one region at once and VAE tiles of 256 px: choose a scale"
    )
    assert "\n" not in line and isinstance(told.value.__cause__, torch.OutOfMemoryError)


def test_a_network_that_does_not_fit_names_the_way_of_offloading_that_does(pipe, monkeypatch):
    monkeypatch.setattr(pipe.unet, "forward", lambda *args, **kwargs: (_ for _ in ()).throw(FULL))
    with pytest.raises(CupscaleError, match="smaller model"):
        cupscale.upscale(pipe, photo(200, 120), **FAST)
    monkeypatch.setattr(offload, "fitting_way", lambda pipe, device, work: "load it with offload model")
    with pytest.raises(CupscaleError, match=r"\(denoise\) with one region.*: load it with offload model"):
        cupscale.upscale(pipe, photo(200, 120), **FAST)


def test_the_way_that_fits_is_the_fastest_after_the_present_one(pipe, monkeypatch):
    sizes = offload.part_bytes(pipe)
    whole, largest = sum(sizes.values()), max(sizes.values())
    layer = offload.weights_there(pipe, "group")
    assert (
        offload.weights_there(pipe, "none")
        == whole
        > largest
        == offload.weights_there(pipe, "model")
        > layer
        > 0
    )
    free = [0]
    monkeypatch.setattr(offload.machine, "free_bytes", lambda device: free[0])
    for free[0], way in (
        (whole + 7, "none"),
        (whole + 6, "model"),
        (largest + 7, "model"),
        (largest + 6, "group"),
    ):
        assert offload.choose(pipe, "cuda", 7) == way
    free[0] = 3
    assert offload.choose(pipe, "cuda", 7) == "sequential" and offload.choose(pipe, "cpu", 7) == "none"
    # A loaded pipeline's own weights are room too.
    free[0] = largest + 7 - whole
    assert "offload model, which needs" in offload.fitting_way(pipe, "cuda", 7)
    free[0] = largest + 6 - whole
    assert "offload group, which needs" in offload.fitting_way(pipe, "cuda", 7)
    free[0] = 9 * whole  # the way it goes now did not fit, whatever was counted
    assert "offload model, which needs" in offload.fitting_way(pipe, "cuda", 7)
    free[0] = -whole
    assert offload.fitting_way(pipe, "cuda", 7) == "" == offload.fitting_way(pipe, "cpu", 7)


def test_the_scale_that_fits_is_the_largest_below_the_runs():
    geometry, settings = models.SDXL_GEOMETRY, Settings.build(scale=4.2)

    def needed(scale):
        plan = make_plan((1024, 768), settings.replace(scale=scale), geometry)
        return geometry.weights + device_bytes(plan, geometry)

    assert fitting_scale((1024, 768), settings, geometry, needed(4)) == 4
    assert fitting_scale((1024, 768), settings, geometry, needed(3) - 1) == 2.5
    assert fitting_scale((1024, 768), settings, geometry, needed(1) - 1) is None
    assert fitting_scale((1024, 768), settings.replace(scale=3.0), geometry, 2**50) == 2.5


@pytest.mark.parametrize(
    "error", [FULL, RuntimeError("DefaultCPUAllocator: can't allocate memory"), MemoryError()]
)
def test_the_command_line_says_it_in_one_line(folders, tmp_path, monkeypatch, error):
    photo(200, 120).save(tmp_path / "a.png")

    def full(self, *args, **kwargs):
        raise error

    monkeypatch.setattr("diffusers.UNet2DConditionModel.forward", full)
    flags = [f"--{name}={value}" for name, value in FAST.items()]
    done = CliRunner().invoke(main, ["upscale", str(tmp_path / "a.png"), "--model", folders("sdxl"), *flags])
    assert done.exit_code == 2 and "Traceback" not in done.output
    assert "memory" in done.stderr.strip().splitlines()[-1]
    assert not list(tmp_path.glob("a-x*"))


def test_weights_that_a_device_does_not_hold_are_one_line_with_the_remedy(folders, monkeypatch):
    """SDXL's small checkpoint; another error of the device stays what it is."""
    whole = offload.weights_there(cupscale.load(folders("sdxl"), device="cpu"), "none")
    for error in (FULL, RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)")):
        monkeypatch.setattr(
            models.offloading, "put", lambda *where, error=error: (_ for _ in ()).throw(error)
        )
        with pytest.raises(
            CupscaleError, match=rf"weights alone take {whole / 2**30:.1f} GB on cpu; .*offload auto"
        ):
            cupscale.load(folders("sdxl"), device="cpu")
    monkeypatch.setattr(
        models.offloading, "put", lambda *where: (_ for _ in ()).throw(RuntimeError("a driver"))
    )
    with pytest.raises(RuntimeError, match="a driver"):
        cupscale.load(folders("sdxl"), device="cpu")


def test_main_memory_that_ends_as_a_model_is_loaded_is_one_line(folders, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise MemoryError

    photo(200, 120).save(tmp_path / "a.png")
    monkeypatch.setattr(models, "load", full)
    done = CliRunner().invoke(main, ["upscale", str(tmp_path / "a.png"), "--model", folders("sdxl")])
    assert done.exit_code == 2 and "memory" in done.stderr and len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_a_peers_vae_goes_on_in_smaller_tiles_too(pipe, monkeypatch, part):
    """And keeps to them: what it makes is what it makes with those tiles from the start."""
    from dataclasses import replace

    peer = replace(peers.get("img2img"), steps=2)
    image, settings = photo(24, 16), Settings(prompt="a fox", scale=3)
    tasks = [peers.Task(adapt(pipe), image, settings, Tiles(side)) for side in (64, 32)]
    monkeypatch.setattr(peers_base, "LEAST_TILE_PX", 16)
    expected = peer.upscale(tasks[1])
    asked = no_room_above(pipe, part, 40, monkeypatch)
    found = peer.upscale(tasks[0])
    assert asked[0] > 40 and max(asked[1:]) == 32
    if part == "encoder":  # and the decoder after it
        assert found.tobytes() == expected.tobytes()
    monkeypatch.setattr(peers_base, "LEAST_TILE_PX", 64)
    with pytest.raises(torch.OutOfMemoryError):
        peer.upscale(tasks[0])
