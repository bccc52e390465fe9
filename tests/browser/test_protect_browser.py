"""The brush: its mask goes with the run, comes back after a reload, and is in the command; a link's size waits for the image."""

from __future__ import annotations

import re

from browser_hands import download, expect, give, open_part, upscale, visit
from page_server import FAST
from PIL import Image

from cupscale import images
from cupscale.protect import name_of, read_mask

_INK = """(canvas) => {
  const pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height)
  const ink = (x, y) => pixels.data[4 * (y * canvas.width + x) + 3]
  return [canvas.width, canvas.height, ink(32, 24), ink(60, 44)]
}"""


def test_a_mask_is_painted_kept_named_and_used(page, url, small, tmp_path):
    visit(page, url, FAST + "&width=160")
    give(page, small)
    plan, brush = page.locator("#plan"), page.locator("#brush")
    expect(plan).to_contain_text("→ 160 × 120")  # of 64 x 48
    open_part(page, "protect")
    canvas = brush.locator("canvas")
    page.wait_for_function("() => document.querySelector('#brush canvas').width === 64")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.25, box["y"] + box["height"] * 0.5)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.75, box["y"] + box["height"] * 0.5, steps=4)
    page.mouse.up()
    expect(plan).to_contain_text("the places you protect")
    Image.new("L", (20, 30)).save(tmp_path / "other.png")
    brush.locator("input[type=file]").set_input_files(str(tmp_path / "other.png"))
    expect(brush.locator(".cu-note")).to_contain_text("The mask is 20 × 30 and the image is 64 × 48")
    page.reload()
    expect(plan).to_contain_text("the places you protect")
    open_part(page, "protect")
    page.wait_for_function(f"() => ({_INK})(document.querySelector('#brush canvas'))[2] > 0")
    assert canvas.evaluate(_INK) == [64, 48, 255, 0]
    open_part(page, "share")
    name = f"{small.stem}-mask.png"
    expect(page.locator("#share-rows textarea").nth(1)).to_have_value(re.compile(f"--mask {name}$"))
    saved = download(page, "#brush [data-do=save]")
    assert saved.suggested_filename == name
    saved.save_as(tmp_path / name)
    upscale(page)
    download(page, "#png").save_as(tmp_path / "big.png")
    assert images.read_settings(tmp_path / "big.png")["mask"] == name_of(read_mask(tmp_path / name, (64, 48)))
    brush.locator("[data-do=clear]").click()
    expect(plan).not_to_contain_text("the places you protect")
