"""Colours stay, at the defaults of every base upscaler, through the whole run of the bundled model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

import cupscale
from cupscale.upscalers import NAMES, available

EXAMPLES = Path(cupscale.__file__).parent / "assets" / "examples"
UPSCALERS = [
    pytest.param(name, marks=pytest.mark.skipif(not available(name), reason="needs the extra upscalers"))
    for name in (*NAMES, "auto")
]
SCALE = 4


@pytest.fixture(scope="module")
def pipe():
    return cupscale.load("tiny", device="cpu")


def run(pipe, image: Image.Image, upscaler: str) -> Image.Image:
    return cupscale.upscale(pipe, image, scale=SCALE, upscaler=upscaler).image


def shifts(image: Image.Image, result: Image.Image) -> tuple[float, float]:
    """The shift of the mean colour, and the share of 16 px blocks that are more than 3 levels off in any channel: of the
    result made small again against the input, since a sharper edge alone is no other colour."""
    small = result.convert("RGB").resize(image.size, Image.Resampling.LANCZOS)
    blocks = np.asarray(small.reduce(16 // SCALE), float) - np.asarray(image.reduce(16 // SCALE), float)
    return float(np.abs(blocks.mean(axis=(0, 1))).max()), float((np.abs(blocks).max(axis=2) > 3).mean())


def chart() -> Image.Image:
    """Sixteen patches of 12 px: the corners of the cube, and colours between."""
    image = Image.new("RGB", (48, 48))
    draw = ImageDraw.Draw(image)
    random = np.random.default_rng(1)
    for k in range(16):
        corner = tuple(255 * (k >> bit & 1) for bit in range(3))
        colour = corner if k < 8 else tuple(int(v) for v in random.integers(20, 236, 3))
        draw.rectangle((k % 4 * 12, k // 4 * 12, k % 4 * 12 + 11, k // 4 * 12 + 11), fill=colour)
    return image


@pytest.mark.parametrize("upscaler", UPSCALERS)
def test_a_chart_keeps_its_colours(pipe, upscaler):
    """The middle of every patch, 16 px of 48, and the mean of all."""
    result = run(pipe, chart(), upscaler)
    assert shifts(chart(), result)[0] < 1
    blocks = (
        np.asarray(result.reduce(16), float)[1::3, 1::3] - np.asarray(chart().reduce(4), float)[1::3, 1::3]
    )
    assert blocks.shape == (4, 4, 3) and np.abs(blocks).max() <= 3


@pytest.mark.parametrize("upscaler", UPSCALERS)
@pytest.mark.parametrize("colour", [(0, 255, 0), (0, 0, 255), (245, 245, 245), (8, 8, 8)])
def test_a_flat_patch_stays_what_it_is(pipe, upscaler, colour):
    result = np.asarray(run(pipe, Image.new("RGB", (24, 20), colour), upscaler).convert("RGB"))
    assert (result == colour).all()


@pytest.mark.parametrize("upscaler", UPSCALERS)
@pytest.mark.parametrize("name", ["lake", "citrus"])
def test_a_photograph_keeps_its_colours(pipe, upscaler, name):
    image = Image.open(EXAMPLES / f"{name}.png").convert("RGB").crop((96, 64, 144, 112))
    mean, blocks = shifts(image, run(pipe, image, upscaler))
    assert mean < 1 and blocks <= 0.01


@pytest.mark.slow
@pytest.mark.parametrize("name", [file.stem for file in sorted(EXAMPLES.glob("*.png"))])
def test_every_example_keeps_its_colours(pipe, name):
    """At the defaults, whole, at half of its size."""
    image = Image.open(EXAMPLES / f"{name}.png").convert("RGB").reduce(2)
    mean, blocks = shifts(image, cupscale.upscale(pipe, image, scale=SCALE).image)
    assert mean < 1 and blocks <= 0.01


@pytest.mark.parametrize("upscaler", UPSCALERS)
def test_grey_in_grey_out(pipe, upscaler, tmp_path):
    result = cupscale.upscale(pipe, Image.radial_gradient("L").resize((32, 24)), scale=2, upscaler=upscaler)
    result.save(tmp_path / "grey.png")
    with Image.open(tmp_path / "grey.png") as image:
        assert image.mode == "L" and image.size == (64, 48)


@pytest.mark.parametrize("upscaler", UPSCALERS)
def test_a_page_stays_white_away_from_its_letters(pipe, upscaler):
    page = Image.new("RGB", (64, 40), "white")
    ImageDraw.Draw(page).text((6, 6), "Letters", fill="black")
    ink = page.convert("L").point(lambda value: 255 * (value < 255)).resize((64 * SCALE, 40 * SCALE), 0)
    near = np.asarray(ink.filter(ImageFilter.MaxFilter(2 * 4 * SCALE + 1))) > 0
    result = np.asarray(run(pipe, page, upscaler))
    assert (~near).mean() > 0.2 and result[~near].min() == 255
    assert result.min() < 60  # and the letters are there


def test_alpha_has_no_ghost_and_no_holes(pipe):
    disc = Image.new("RGBA", (64, 64))
    ImageDraw.Draw(disc).ellipse((14, 14, 49, 49), fill=(200, 120, 40, 255))
    alpha = np.asarray(run(pipe, disc, "lanczos").getchannel("A"))
    shape = disc.getchannel("A").resize((256, 256), Image.Resampling.NEAREST)
    outside = np.asarray(shape.filter(ImageFilter.MaxFilter(9))) == 0
    inside = np.asarray(shape.filter(ImageFilter.MinFilter(9))) == 255
    assert alpha[outside].max() == 0 and alpha[inside].min() == 255
    assert len(np.unique(alpha)) > 20  # its edge is soft
