"""What the page made comes back: settings of large files, and of formats that a browser does not show."""

from __future__ import annotations

import pytest
from browser_hands import expect, give, open_part, setting, visit
from page_server import FAST, photo, serve
from PIL import Image

from cupscale import images
from cupscale.settings import Settings

MADE = Settings(prompt="an old door", seed=123, scale=2.5, steps=7, cutoff=0.27, model="random")


@pytest.fixture(scope="module")
def space(tmp_path_factory):
    """A page that takes images of 1 MB, and makes results of 4 megapixels."""
    folder = tmp_path_factory.mktemp("space")
    with serve(folder, CUPSCALE_UPLOAD_BYTES=str(2**20), CUPSCALE_OUTPUT_PX=str(2**22)) as address:
        yield address


def restore(page, path):
    open_part(page, "share")
    page.locator("#restore input[type=file]").set_input_files(str(path))


def test_a_result_larger_than_any_input_gives_its_settings_back(page, space, tmp_path):
    """More pixels than the page reads, more bytes than it takes as an image."""
    path = tmp_path / "large.png"
    noise = Image.effect_noise((2048, 2048), 90).convert("RGB")
    images.write(noise, path, MADE.to_json())
    assert path.stat().st_size > 3 * 2**20
    visit(page, space)
    restore(page, path)
    expect(page.locator("#set-prompt textarea")).to_have_value("an old door")
    expect(setting(page, "seed")).to_have_value("123")
    page.locator("#image input[type=file]").set_input_files(
        str(path)
    )  # as an image it is too large, and told so
    expect(page.locator("#plan [data-wrong]")).to_contain_text("more than 1 MB, the limit of this page")


def test_a_drawing_of_many_pixels_gives_its_settings_back(page, url, tmp_path):
    path = tmp_path / "wide.png"
    images.write(Image.new("L", (14000, 13500)), path, MADE.to_json())
    visit(page, url)
    restore(page, path)
    expect(page.locator("#set-prompt textarea")).to_have_value("an old door")


@pytest.mark.parametrize("door", ["restore", "inside"])
def test_a_tiff_gives_its_settings_back(page, url, tmp_path, door):
    path = tmp_path / "made.tif"
    with Image.open(photo(tmp_path / "small.png")) as image:
        images.write(image, path, MADE.to_json())
    visit(page, url, FAST)
    if door == "restore":
        restore(page, path)
    else:
        give(page, path)
        page.locator("#inside").click()
    expect(page.locator("#set-prompt textarea")).to_have_value("an old door")
    expect(setting(page, "seed")).to_have_value("123")
