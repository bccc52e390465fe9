"""Damage is taken out of the input: what goes, what stays, and what the run does with it."""

import io
from itertools import pairwise

import numpy as np
import pytest
import torch
from damaged import jpeg, noisy
from PIL import Image

import cupscale
from cupscale.errors import CupscaleError
from cupscale.installation import ASSETS
from cupscale.metrics import psnr
from cupscale.upscalers import restore as module, restored
from cupscale.upscalers.restore import OVERLAP_PX, WINDOW_PX, feather, opened, packed, spans


def photograph(side: int = 128) -> Image.Image:
    """The middle of one, reduced by 2."""
    image = Image.open(ASSETS / "examples" / "bee.png").convert("RGB")
    left, top = (image.width - 2 * side) // 2, (image.height - 2 * side) // 2
    return image.crop((left, top, left + 2 * side, top + 2 * side)).resize(
        (side, side), Image.Resampling.LANCZOS
    )


def as_jpeg(image: Image.Image, quality: int) -> Image.Image:
    return Image.open(io.BytesIO(jpeg(image, quality))).convert("RGB")


def done(image: Image.Image, share: float = 1.0) -> Image.Image:
    steps = restored(image, share)
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            return stop.value


def floats(image: Image.Image) -> np.ndarray:
    return np.asarray(image, np.float32) / 255


@pytest.mark.parametrize(
    ("damage", "gain"),
    [
        (lambda image: as_jpeg(image, 50), 0.2),
        (lambda image: as_jpeg(image, 75), 0.2),
        (lambda image: noisy(image, 5), 2.0),
        (lambda image: noisy(image, 5, grey=True), 1.0),
        (lambda image: as_jpeg(noisy(image, 4), 85), 0.3),
    ],
    ids=["jpeg50", "jpeg75", "noise", "grain", "both"],
)
def test_the_photograph_is_nearer_afterwards(damage, gain):
    """By decibels, on a photograph that no training saw."""
    clean = photograph()
    before = damage(clean)
    assert psnr(floats(clean), floats(done(before))) > psnr(floats(clean), floats(before)) + gain


def test_a_clean_photograph_hardly_changes():
    clean = photograph()
    assert psnr(floats(clean), floats(done(clean))) > 44


def test_a_share_of_it_is_that_share_of_the_change():
    before = noisy(photograph(), 6)
    given, half, whole = (np.asarray(one).astype(float) for one in (before, done(before, 0.5), done(before)))
    inside = (whole > 0) & (whole < 255)  # what left black and white was cut there
    assert abs(half - (given + whole) / 2)[inside].max() <= 1
    assert abs(whole - given).mean() > 2
    assert np.array_equal(np.asarray(done(before, 0.0)), given)


def test_grey_stays_grey():
    grey = noisy(photograph().convert("L").convert("RGB"), 6, grey=True)
    after = np.asarray(done(grey))
    assert (after[..., 0] == after[..., 1]).all() and (after[..., 1] == after[..., 2]).all()
    assert abs(after.astype(int) - np.asarray(grey)).mean() > 2


def test_windows_hardly_show(monkeypatch):
    """Where windows of 80 px meet, against the whole picture at once."""
    before = noisy(photograph(), 6)
    whole = np.asarray(done(before)).astype(float)
    monkeypatch.setattr(module, "WINDOW_PX", 80)
    monkeypatch.setattr(module, "OVERLAP_PX", 32)
    parts = np.asarray(done(before)).astype(float)
    change = abs(whole - np.asarray(before)).mean()
    assert 0 < abs(whole - parts).mean() < 0.15 * change


@pytest.mark.parametrize("size", [(16, 16), (17, 100), (301, 33)])
def test_any_size(size):
    image = photograph(160).resize(size)
    assert done(image).size == size


@pytest.mark.parametrize("length", [1, 16, 256, 257, 448, 449, 5000])
def test_spans_cover_and_overlap(length):
    found = spans(length)
    assert found[0][0] == 0 and found[-1][1] == length
    assert len({end - start for start, end in found}) == 1 and found[0][1] <= min(length, WINDOW_PX)
    assert all(first[1] - second[0] >= OVERLAP_PX for first, second in pairwise(found))


def test_feathers_by_hand(monkeypatch):
    monkeypatch.setattr(module, "OVERLAP_PX", 2)
    assert feather(5).tolist() == [0.25, 0.75, 1.0, 0.75, 0.25]


def test_it_tells_how_far_it_is_and_can_be_stopped(monkeypatch):
    monkeypatch.setattr(module, "WINDOW_PX", 80)
    monkeypatch.setattr(module, "OVERLAP_PX", 32)
    steps = restored(photograph())
    assert [next(steps) for _ in range(2)] == [0.25, 0.5]
    steps.close()
    assert not module._one_at_a_time.locked()


def test_packed_weights_are_near():
    change = (
        torch.randn(6, 4, 3, 3, generator=torch.Generator().manual_seed(0))
        * torch.logspace(-4, 2, 6)[:, None, None, None]
    )
    kept, factor = packed(change)
    assert kept.dtype == torch.int8 and kept.abs().flatten(1).amax(dim=1).tolist() == [127] * 6
    assert ((opened(kept, factor) - change).abs() <= 0.501 * factor[:, None, None, None]).all()
    assert torch.equal(opened(*packed(torch.zeros(2, 3))), torch.zeros(2, 3))


def test_weights_are_a_change_of_every_part_that_was_trained():
    network = module._load()
    bundled = cupscale.load("tiny").unet.float().state_dict()
    moved = {
        name for name, value in network.unet.state_dict().items() if not torch.equal(value, bundled[name])
    }
    assert {name for name in bundled if ".attn2." not in name} - moved == set()
    assert network.timestep == pytest.approx(1.613, abs=0.01) and network.ratio == pytest.approx(12 / 255)


def test_damaged_weights_are_named_with_the_remedy(monkeypatch, tmp_path):
    bad = tmp_path / "change.safetensors"
    bad.write_bytes(module.WEIGHTS.read_bytes()[:-100])
    monkeypatch.setattr(module, "WEIGHTS", bad)
    module._load.cache_clear()
    try:
        with pytest.raises(CupscaleError, match="git checkout -- cupscale/assets, or set restore to 0"):
            done(photograph(16))
    finally:
        module._load.cache_clear()


# In a run

FAST = {"strength": 0.05, "upscaler": "lanczos", "guidance": 1.0, "detail": 0.0, "attention": 0.0}


@pytest.fixture(scope="module")
def pipe():
    return cupscale.load("tiny", device="cpu")


def test_a_run_is_held_to_the_restored_input(pipe):
    """Made small again, the result is the restored input and not the noisy one."""
    before = noisy(photograph(64), 8)
    after = done(before)
    run = cupscale.upscale(pipe, before, scale=2, restore=1.0, fidelity=1.0, **FAST)
    small = floats(run.image.resize(before.size, Image.Resampling.LANCZOS))
    assert psnr(floats(after), small) > 45 > 38 > psnr(floats(before), small)


def test_a_damaged_input_is_restored_by_itself_and_the_plan_says_so(pipe):
    before = noisy(photograph(), 6)
    events = list(cupscale.stream(pipe, before, scale=2, **FAST))
    stages = [event.stage for event in events if isinstance(event, cupscale.Progress)]
    assert stages[0] == "restore" and stages.index("enlarge") > 0
    settings = events[-1].result.settings
    assert (settings.restore, settings.fidelity) == (1.0, 1.0)
    clean = cupscale.upscale(pipe, photograph(), scale=2, **FAST).settings
    assert clean.restore == 0


@pytest.mark.parametrize("upscaler", ["lanczos", "realsr"])
def test_a_run_goes_on_with_the_restored_input_alone(pipe, upscaler):
    """The plain enlargement, the base upscale, what is flat and the correction: as if the restored input were given."""
    before = noisy(photograph(48), 8)
    fields = FAST | {"scale": 2, "upscaler": upscaler, "fidelity": 0.3, "seed": 3}
    run = cupscale.upscale(pipe, before, restore=1.0, **fields)
    other = cupscale.upscale(pipe, done(before), restore=0.0, **fields)
    assert np.array_equal(np.asarray(run.image), np.asarray(other.image))


@pytest.mark.parametrize("seamless", ["x", "y", "xy"])
def test_a_picture_that_repeats_is_restored_over_its_edge(pipe, seamless):
    """As the middle of itself and its copies on the sides where it repeats."""
    before = noisy(photograph(48), 8)
    pad = [(48 * ("y" in seamless),) * 2, (48 * ("x" in seamless),) * 2, (0, 0)]
    whole = np.asarray(done(Image.fromarray(np.pad(np.asarray(before), pad, "wrap"))))
    middle = whole[pad[0][0] : pad[0][0] + 48, pad[1][0] : pad[1][0] + 48]
    fields = FAST | {"scale": 2, "fidelity": 1.0, "seamless": seamless}
    run = cupscale.upscale(pipe, before, restore=1.0, **fields)
    other = cupscale.upscale(pipe, Image.fromarray(middle), restore=0.0, **fields)
    assert np.array_equal(np.asarray(run.image), np.asarray(other.image))
