"""Guidance that knows flat places."""

import numpy as np
import pytest
import slow
import torch
import torch.nn.functional as F

import cupscale
from cupscale import images
from cupscale.method import bands as band_module
from cupscale.method.guidance import FLAT, RICH, LowGuidance, flat_kept, flat_share, guidance_map, richness
from cupscale.method.lowpass import LowPass
from cupscale.method.regions import Size

FAST = {
    "steps": 1,
    "strength": 0.2,
    "guidance": 6.0,
    "structure": 0,
    "fidelity": 0,
    "upscaler": "lanczos",
    "scheduler": "ddim",
}


def textured(deviation, side=64):
    """(1, 3, side, side): a chessboard whose grey levels (of 255) have this standard deviation."""
    board = (torch.arange(side)[:, None] + torch.arange(side)) % 2 * 2 - 1
    return (100 / 127.5 - 1 + deviation / 127.5 * board).expand(1, 3, side, side).contiguous()


def test_richness_is_the_contrast_of_the_neighbourhood():
    assert richness(textured(0)).max() == 0
    assert richness(textured(FLAT - 0.5)).max() == 0
    assert richness(textured(RICH + 4)).min() == 1
    middle = richness(textured((FLAT + RICH) / 2))
    assert middle.shape == (1, 1, 64, 64)
    assert abs(middle[..., 8:-8, 8:-8].mean() - 0.5) < 0.02
    half = torch.cat((textured(0), textured(40)), dim=3)
    assert richness(half)[..., :, :60].max() == 0 and richness(half)[..., :, 68:].min() == 1


def uneven(height, width, seed):
    """Noise whose strength rises from nothing to 40 grey levels, down and across, each colour with its own."""
    generator = torch.Generator().manual_seed(seed)
    grain = torch.randn(3, height, width, generator=generator)
    strength = torch.linspace(0, 30, height)[:, None] * torch.linspace(0, 1, width) ** 2
    return ((grain * strength + 20) / 127.5 + torch.tensor([0.1, -0.2, 0.3])[:, None, None])[None]


@pytest.mark.parametrize(("height", "width"), [(14, 23), (9, 6), (3, 17)])
def test_richness_against_a_slow_loop(height, width):
    image = uneven(height, width, seed=height)
    rich = richness(image)
    assert rich.shape == (1, 1, height, width)
    expected = slow.richness(image[0].double().numpy())
    assert np.allclose(rich[0, 0], expected, atol=1e-4)
    assert 0 < expected.mean() < 1


def test_grey_is_weighed_as_eyes_weigh_it():
    """A chessboard of +-40 grey levels in one colour: 40 times that colour's share, less 4, in 8."""
    for colour, share in enumerate((0.299, 0.587, 0.114)):
        image = torch.zeros(1, 3, 20, 30)
        image[:, colour] = textured(20 / share * 0.4, 30)[:, 0, :20] * 0.999
        middle = richness(image)[0, 0, 10, 15]
        deviation = 20 * 0.4 * 0.999 * (624 / 625) ** 0.5  # 13 of one and 12 of the other in 25
        assert middle == pytest.approx((deviation - 4) / 8, abs=1e-4)


def test_richness_does_not_see_light():
    """A slope of light over the whole picture, as a sky has, is flat; so is any brightness."""
    slope = torch.linspace(-1, 1, 256).expand(1, 3, 64, 256)
    assert richness(slope).max() == 0
    assert richness(torch.full((1, 3, 32, 32), 0.9)).max() == 0


def test_contrast_that_is_no_number_is_none():
    """Sums in float32 leave a variance of less than nothing here and there."""
    assert torch.isfinite(richness(uneven(40, 30, 1) * 1e-3 + 0.7)).all()


def test_guidance_map():
    rich = torch.tensor([0.0, 0.5, 1.0]).view(1, 1, 1, 3)
    assert guidance_map(rich, 4.0, 1.0).flatten().tolist() == [4, 4, 4]
    assert guidance_map(rich, 4.0, 0.0).flatten().tolist() == [0, 2, 4]
    assert guidance_map(rich, 4.0, 0.25).flatten().tolist() == [1, 2.5, 4]
    assert guidance_map(torch.tensor([[0.25]]), 6.0, 0.3).item() == pytest.approx(6 * (0.3 + 0.7 * 0.25))


@pytest.mark.parametrize("size", [(64, 64), (67, 41)])
def test_flat_places_alone_change(size):
    """The bundled model, whose codec carries nothing afar, and one step, in which no place's guidance reaches another."""
    width, height = size
    pipe = cupscale.load("tiny", device="cpu")
    left = textured(40, 128)[..., :height, : width // 2]
    right = torch.zeros(1, 3, height, width - width // 2)
    photo = images.to_image(torch.cat((left, right), dim=3))
    runs = [
        cupscale.upscale(
            pipe,
            photo,
            scale=2,
            negative_prompt="blurred, smooth",
            flat_guidance=flat,
            flat_strength=1,
            **FAST,
        )
        for flat in (1, 0)
    ]
    even, calm = (np.asarray(run.image.convert("RGB")).astype(int) for run in runs)
    change = abs(even - calm)
    assert change.shape == (2 * height, 2 * width, 3)
    assert change[:, -width // 2 :].mean() > 4 * change[:, : width // 2].mean()


def test_flat_places_go_back_to_the_start_by_hand():
    """base + (f + (1 - f) rich) (z - base), at f = 0.2: shares 0.2, 0.4 and 1 of the change in three columns."""
    base = torch.tensor([[1.0, -2.0, 3.0], [0.5, 0.0, 4.0]]).expand(1, 2, 2, 3)
    z = base + torch.tensor([10.0, 20.0, -30.0])
    rich = torch.tensor([0.0, 0.25, 1.0]).expand(1, 1, 2, 3)
    moved = flat_kept(z, base, rich, 0.2) - base
    assert torch.allclose(moved, torch.tensor([2.0, 8.0, -30.0]).expand(1, 2, 2, 3), atol=1e-6)
    assert torch.equal(flat_kept(z, base, rich * 0, 0.0), base) and torch.allclose(
        flat_kept(z, base, rich, 1.0), z
    )


def slow_share(z, base, rich, kept):
    """The f that leaves `kept` of the grain, from f = 0 up in steps of 1 / 1000; else that of the least."""

    def grain(x):
        wide = F.pad(x.double(), (1, 1, 1, 1), mode="replicate")
        weights = ((1, 2, 1), (2, 4, 2), (1, 2, 1))
        h, w = x.shape[-2:]
        mean = sum(weights[i][j] / 16 * wide[..., i : i + h, j : j + w] for i in range(3) for j in range(3))
        return x - mean

    def energy(f):
        return float(((1 - rich) * grain(base + f * (z - base)).square()).sum())

    shares = [i / 1000 for i in range(1001)]
    aim, energies = kept**2 * energy(0), [energy(f) for f in shares]
    least = shares[energies.index(min(energies))]
    return next((f for f, one in zip(shares, energies, strict=True) if one <= aim), least)


@pytest.mark.parametrize("band", [2**20, 300])
@pytest.mark.parametrize(("gone", "kept"), [(1.0, 0.9), (0.6, 0.8), (0.3, 0.5), (0.05, 0.9), (-0.5, 0.9)])
def test_the_share_that_keeps_the_grain(monkeypatch, gone, kept, band):
    """A denoiser that takes `gone` of the grain on the left, and all of it on the right, where the picture is rich."""
    monkeypatch.setattr(band_module, "BAND", band)
    source = torch.Generator().manual_seed(4)
    slope = torch.linspace(-1, 1, 24).expand(1, 3, 18, 24)
    noise = torch.randn(1, 3, 18, 24, generator=source)
    rich = torch.zeros(1, 1, 18, 24)
    rich[..., 12:] = 1
    other = 0.1 * torch.randn(1, 3, 18, 24, generator=source)
    base, z = slope + noise, slope + noise * (1 - gone * (1 - rich) - rich) + other
    found = flat_share(z, base, rich, kept)
    assert found == pytest.approx(slow_share(z, base, rich, kept), abs=0.002)
    assert (found > 0) == (gone > 0)


def test_the_share_in_bands_is_that_of_the_whole(monkeypatch):
    """Rows lighter and darker by turns, so that the mean of a row without its neighbours is far off."""
    source = torch.Generator().manual_seed(5)
    base = torch.randn(1, 2, 23, 16, generator=source) + torch.arange(23).view(1, 1, 23, 1) % 2
    z = 0.5 * base + 0.2 * torch.randn(1, 2, 23, 16, generator=source)
    rich = torch.rand(1, 1, 23, 16, generator=source)
    whole = flat_share(z, base, rich)
    monkeypatch.setattr(band_module, "BAND", 100)
    assert 0.1 < whole < 0.9 and flat_share(z, base, rich) == pytest.approx(whole, rel=1e-5)


def test_the_share_where_nothing_is_flat_or_nothing_changed():
    z = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    assert flat_share(z, z, torch.zeros(1, 1, 8, 8)) == 0 == flat_share(z, -z, torch.ones(1, 1, 8, 8))


@pytest.mark.parametrize("levels", [2.0, 6.0])
def test_a_run_keeps_the_grain_of_flat_places_by_itself(levels):
    """A grey wall with grain, as it is. The network doubles the grain of 2 levels, and takes a quarter of that of 6."""
    pipe = cupscale.load("tiny", device="cpu")
    grain = levels * torch.randn(1, 3, 48, 48, generator=torch.Generator().manual_seed(2)) / 127.5
    photo = images.to_image(grain + 0.1)
    fields = FAST | {"restore": 0, "guidance": 1.0, "strength": 0.1, "steps": 20}
    runs = [cupscale.upscale(pipe, photo, scale=1, flat_strength=f, **fields) for f in (0, "auto", 1)]
    none, some, every = (
        np.diff(np.diff(np.asarray(r.image).astype(float), axis=0), axis=1).std() for r in runs
    )
    assert runs[1].settings.flat_strength == "auto"
    if levels == 6:
        assert every < 0.8 * none and some == pytest.approx(0.9 * none, rel=0.02)
    else:
        assert every > 1.5 * none and 0.88 * none < some < none


@pytest.mark.parametrize("size", [(60, 44), (67, 41)])
def test_a_run_leaves_flat_places_as_the_base_upscaler_made_them(size):
    """Texture on the left alone; past the neighbourhood of it every byte on the right is the plain enlargement's."""
    width, height = size
    pipe = cupscale.load("tiny", device="cpu")
    left = textured(40, 128)[..., :height, : width // 2]
    slope = torch.linspace(-0.2, 0.2, width - width // 2).expand(1, 3, height, -1)
    photo = images.to_image(torch.cat((left, slope), dim=3))
    plain = np.asarray(images.resize(photo, (2 * width, 2 * height), "lanczos")).astype(int)
    run = [cupscale.upscale(pipe, photo, scale=2, flat_strength=share, **FAST).image for share in (0, 1)]
    kept, changed = (abs(np.asarray(one.convert("RGB")).astype(int) - plain) for one in run)
    right = np.s_[:, -2 * (width // 2 - 2) :]
    assert kept[right].max() == 0 and changed[right].max() > 1
    assert kept[:, : width // 2].mean() > 1  # and the texture is not


def test_low_frequencies_have_a_guidance_of_their_own():
    """u + g (c - u) + (g_low - g) LP(c - u), at g = 6, g_low = 2.5."""
    drawn = torch.Generator().manual_seed(5)
    without, with_prompt = torch.randn(2, 1, 2, 9, 13, generator=drawn)
    guided = without + 6 * (with_prompt - without)
    split = LowGuidance(LowPass(Size(9, 13), 0.8), 2.5 - 6)
    out = split.apply(torch.cat((guided, with_prompt - without), dim=1))
    assert out.shape == (1, 2, 9, 13)
    for k in range(2):
        u, c = (x[0, k].double().numpy() for x in (without, with_prompt))
        low = slow.lowpass(c - u, 0.8, (4, 5), (4, 7))
        expected = u + 6 * (c - u - low) + 2.5 * low
        assert np.allclose(out[0, k], expected, atol=1e-4)
