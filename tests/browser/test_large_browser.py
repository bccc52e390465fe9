"""The large result: nothing of it before it is opened, then the tiles in sight, and the caption of each place."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
from browser_hands import expect
from page_server import photo
from PIL import Image
from waiting import free_port

from cupscale import images
from cupscale.page import large, style
from cupscale.settings import Caption, Settings

TOOL = Path(__file__).parents[2] / "tools" / "make_large.py"
SIZE = (1300, 900)


@pytest.fixture
def address(tmp_path):
    """Of a page with nothing else, on a result of three levels."""
    import gradio as gr

    made = tmp_path / "made.png"
    half = SIZE[0] // 2
    captions = (
        Caption(box=(0, 0, half, SIZE[1]), caption="the left half"),
        Caption(box=(half, 0, *SIZE), caption="the right half"),
    )
    settings = Settings(scale=2.0, captions=captions).to_json()
    images.write(Image.open(photo(tmp_path / "x.png", SIZE)), made, settings)
    photo(tmp_path / "coffee.png", (130, 90))
    tool = runpy.run_path(str(TOOL))
    tool["_cut"].__globals__["FOLDER"] = tmp_path
    tool["_cut"](made, None)
    gr.set_static_paths([tmp_path])
    with gr.Blocks() as demo:
        gr.HTML("<h1>page</h1>")
        large.part(tmp_path)
    port = free_port()
    demo.launch(
        server_port=port, prevent_thread_lock=True, quiet=True, css=style.css(), allowed_paths=[str(tmp_path)]
    )
    yield f"http://127.0.0.1:{port}/"
    demo.close()


def test_tiles_are_fetched_as_they_are_looked_at(page, address, tmp_path):
    asked = []
    page.on("request", lambda request: asked.append(request.url.rpartition("/")[2]))
    page.goto(address)
    head = page.get_by_role("button", name="Look into a result of 1300 × 900 pixels")
    head.wait_for()
    assert not any(name.endswith(".webp") for name in asked)
    head.click()
    stage = page.locator("#large-view .cu-deep")
    page.wait_for_function(
        "[...document.querySelectorAll('.cu-tiles img')].filter((e) => e.naturalWidth).length > 1"
    )
    assert "0-0-0.webp" in asked
    stage.focus()
    page.keyboard.press("1")
    expect(page.locator("#large-view .cu-scale")).to_have_text("100%")
    for _ in range(12):
        page.keyboard.press("ArrowRight")
    expect(page.locator("#large-view .cu-place")).to_have_text("Caption here: the right half")
    page.wait_for_function(
        "document.querySelector('.cu-tiles img[src$=\"2-2-0.webp\"]')?.naturalWidth === 276"
    )
    for _ in range(24):
        page.keyboard.press("ArrowLeft")
    expect(page.locator("#large-view .cu-place")).to_have_text("Caption here: the left half")
    page.keyboard.press("0")
    for _ in range(3):
        page.keyboard.press("+")
    expect(page.locator(".cu-tiles img")).to_have_count(
        5
    )  # the coarsest one, and 4 of the 6 of the whole size
    coarse = page.locator(".cu-tiles img[src$='0-0-0.webp']")
    box, old = stage.bounding_box(), coarse.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 60, y - 40)  # the picture goes with the hand
    page.mouse.up()
    new = coarse.bounding_box()
    assert (new["x"] - old["x"], new["y"] - old["y"]) == pytest.approx((60, -40), abs=1.5)
    page.get_by_role("button", name="Input").click()
    expect(page.locator(".cu-tiles img")).to_have_count(1)
    with Image.open(tmp_path / "tiles" / "2-2-1.webp") as corner:
        assert corner.size == (276, 388)  # what is left of 1300 x 900 in tiles of 512
