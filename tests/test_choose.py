"""The chooser: what was done to a picture, and which base upscaler follows from it."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from damaged import jpeg, noisy
from PIL import Image, ImageDraw

from cupscale import images
from cupscale.errors import CupscaleError
from cupscale.settings import Settings
from cupscale.upscalers import choose as module
from cupscale.upscalers.choose import Signs, choose, examine, settle

EXAMPLES = Path(module.__file__).parents[1] / "assets" / "examples"
PHOTOGRAPHS = ("raccoon", "bee", "bridge", "lake")


def everything(name: str) -> bool:
    return True


def photograph(name: str) -> Image.Image:
    return Image.open(EXAMPLES / f"{name}.png").convert("RGB")


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_a_clean_photograph_goes_to_realsr(name):
    choice = choose(examine(photograph(name)), everything)
    assert (choice.upscaler, choice.fidelity, choice.reason) == ("realsr", module.HIGH, "clean input")
    assert choice.restore == 0


@pytest.mark.parametrize("quality", [30, 50, 75, 92, 95])
def test_a_jpeg_is_told_by_its_tables(quality):
    picture = images.read(jpeg(photograph("raccoon"), quality))
    assert picture.quality == quality
    signs = examine(picture.rgb, picture.quality)
    choice = choose(signs, everything)
    assert (choice.upscaler, choice.restore, choice.fidelity) == ("realesrgan", 0.0, module.LOW)
    assert choice.reason == f"JPEG of quality {quality}"
    choice = choose(signs, everything, 1.0)
    assert (choice.upscaler, choice.restore, choice.fidelity) == ("realesrgan", 1.0, module.LOW)
    assert choice.reason == f"JPEG of quality {quality}, restored"


def test_a_fine_jpeg_is_clean():
    picture = images.read(jpeg(photograph("raccoon"), 98))
    choice = choose(examine(picture.rgb, 98), everything)
    assert picture.quality == 98 and (choice.upscaler, choice.restore) == ("realsr", 0.0)


@pytest.mark.parametrize("quality", [50, 75, 90])
@pytest.mark.parametrize("cut", [(0, 0), (3, 5)])
@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_a_png_that_was_a_jpeg_is_told_by_its_pixels(name, quality, cut):
    image = Image.open(io.BytesIO(jpeg(photograph(name), quality)))
    choice = choose(examine(image.crop((*cut, *image.size))), everything)
    assert (choice.upscaler, choice.restore, choice.reason) == ("realesrgan", 0.0, "traces of JPEG")


@pytest.mark.parametrize("picture", PHOTOGRAPHS)
def test_noise_and_grain(picture):
    noise = choose(examine(noisy(photograph(picture), 5)), everything)
    assert (noise.upscaler, noise.restore, noise.fidelity) == ("realsr", 1.0, module.HIGH)
    assert noise.reason.startswith("noise of") and noise.reason.endswith("levels, restored")
    for share, name, fidelity in (
        (0.0, "realesrgan", module.LOW),
        (0.25, "realesrgan", module.LOW),
        (0.5, "realsr", 1.0),
    ):
        kept = choose(examine(noisy(photograph(picture), 5)), everything, share)
        assert (kept.upscaler, kept.restore, kept.fidelity) == (name, share, fidelity)
    grain = choose(examine(noisy(photograph(picture), 5, grey=True)), everything)
    assert grain.restore == 1 and grain.reason.startswith("grain of")


def test_fine_texture_is_no_grain():
    """The same noise of brightness, 6 levels everywhere, or 3 on the left and 12 on the right."""
    random = np.random.default_rng(3)
    strength = np.where(np.arange(256) < 32, 3.0, 12.0)[None, :, None]
    for levels, restore in ((6.0, 1.0), (strength, 0.0)):
        pixels = 120 + levels * random.normal(0, 1, (192, 256, 1)).repeat(3, axis=2)
        signs = examine(Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8)))
        assert signs.grain > module.GRAIN and choose(signs, everything).restore == restore


def test_how_even_grain_is_by_hand(monkeypatch):
    """A hundredth has less than 2 levels and a quarter less than 8."""
    monkeypatch.setattr(
        module, "calmest", lambda channel, samples, share: {0.01: 2.0, 0.25: 8.0, 0.05: 0.5}[share]
    )
    signs = examine(Image.new("RGB", (32, 40), (9, 90, 200)))
    assert (signs.grain, signs.even, signs.colour_noise) == (2.0, 0.25, 0.5)


def test_the_noise_that_is_measured_is_the_noise_that_was_added():
    flat = noisy(Image.new("RGB", (256, 256), (120, 130, 140)), 6)
    samples = np.asarray(flat, np.float32)
    blocks = module.calmest(samples[..., 0], samples, 0.05)
    assert 6 * 0.7 < blocks < 6  # the calmest twentieth of blocks of 64


def test_a_drawing_has_its_own_networks():
    """waifu2x where it is clean, Real-ESRGAN's for drawings where it is damaged."""
    image = Image.new("RGB", (400, 300), "white")
    draw = ImageDraw.Draw(image)
    draw.ellipse((50, 50, 250, 250), fill="orange", outline="black", width=6)
    draw.text((200, 200), "drawn", fill="black", font_size=60)
    small = image.resize((200, 150), Image.Resampling.LANCZOS)
    choice = choose(examine(small), everything)
    assert (choice.upscaler, choice.fidelity, choice.reason) == ("waifu2x", module.HIGH, "a drawing")
    damaged = choose(examine(small, 60), everything)
    assert (damaged.upscaler, damaged.restore, damaged.fidelity) == ("anime", 0.0, module.LOW)
    assert damaged.reason == "a drawing, JPEG of quality 60"
    assert choose(examine(small), lambda name: name != "waifu2x").upscaler == "anime"


def test_small_and_empty_pictures_can_be_looked_at():
    for size in ((16, 16), (16, 400), (25, 24)):
        signs = examine(Image.new("RGB", size, "black"))
        assert signs.traces == 0 and signs.grain == 0


def test_the_next_one_takes_the_place_of_one_that_is_not_installed():
    clean = Signs(None, 0.4, 0.5, 0.3, 0.5, 0.0)
    choice = choose(clean, lambda name: name != "realsr")
    assert choice.upscaler == "realesrgan" and choice.reason == "clean input, realsr not installed"
    assert choose(clean, lambda name: False).upscaler == "lanczos"


def test_settled_settings_are_settled_for_good():
    picture = images.Picture(photograph("bee"))
    settings = Settings.build(upscaler="auto", scale=4)
    settled, why = settle(settings, picture)
    assert (settled.upscaler, settled.restore, settled.fidelity, why) == ("realsr", 0.0, 1.0, "clean input")
    assert settle(settled, picture) == (settled, "")
    assert settle(Settings.build(upscaler="bicubic", scale=4), picture)[0].upscaler == "bicubic"
    assert settle(Settings.build(upscaler="bicubic", fidelity=0.5), picture)[0].fidelity == 0.5
    assert settle(Settings.build(scale=1), picture)[0].fidelity == 0  # there it would undo the run
    assert settle(Settings.build(scale=1.5), picture)[0].fidelity == 0.5


@pytest.mark.parametrize("name", ["restore", "fidelity", "flat_strength"])
@pytest.mark.parametrize("value", [-0.1, 1.5, "much", float("nan"), True, [1]])
def test_a_share_outside_its_range(name, value):
    with pytest.raises(CupscaleError, match=f"{name}: give a number from 0 to 1, or auto") as caught:
        Settings.build(**{name: value})
    assert "\n" not in str(caught.value)


def test_fidelity_as_a_link_and_a_flag_give_it():
    assert Settings.build(fidelity="0.5").fidelity == 0.5 and Settings.build().fidelity == "auto"
