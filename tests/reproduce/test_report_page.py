"""The page of a run in a browser without a network: one zoom for all crops, by wheel, slider, drag and keys."""

from __future__ import annotations

import numpy as np
import pytest
from chromium import launched
from PIL import Image

from cupscale.metrics import METRICS
from cupscale.reproduce.folder import Folder, digest
from cupscale.reproduce.inputs import Input, items_of
from cupscale.reproduce.report import page
from cupscale.reproduce.rows import read_rows
from cupscale.reproduce.tables import gather


@pytest.fixture
def report(tmp_path):
    """Of two images with a name that is code, and two rows."""
    folder = Folder(tmp_path / "run")
    rows = [read_rows()[name] for name in ("lanczos", "regional")]
    items = items_of([Input("<b>one", tmp_path), Input("two", tmp_path)], [0])
    for number, item in enumerate(items):
        pixels = np.random.default_rng(number).integers(0, 255, (90, 180, 3), np.uint8)
        small = Image.fromarray(pixels)
        folder.keep_picture(folder.input_path(item.source_name), small)
        for row in rows:
            path = folder.result_path(row.name, item.name)
            folder.keep_picture(path, small.resize((720, 360)))
            record = {
                "image": item.input.name,
                "seed": 0,
                "sha256": digest(path),
                "metrics": {"psnr": 30.0 + number},
            }
            folder.keep_record(row.name, item.name, record)
    table, _ = gather(folder, rows, items, [METRICS["psnr"]])
    decides = {"scale": 4.0, "model": "</script><b>x", "versions": {"cupscale": "1", "device": "cpu"}}
    folder.keep_text(
        "report.html", page(folder, table, rows, items, {"command": "a <b> c", "decides": decides}, {})
    )
    return folder.path / "report.html"


def test_all_crops_have_one_zoom(report):
    with launched() as browser:
        tab = browser.new_context(offline=True, viewport={"width": 1200, "height": 900}).new_page()
        faults: list[str] = []
        tab.on("pageerror", lambda error: faults.append(str(error)))
        tab.goto(report.as_uri())
        check(tab)
        assert faults == []


def check(tab) -> None:
    def transforms() -> set[str]:
        return set(tab.locator(".view img").evaluate_all("all => all.map(one => one.style.transform)"))

    assert tab.locator(".view img").count() == 6  # two places, the input and two rows
    assert (
        tab.locator("td", has_text="30.50").count() == 2
        and tab.locator("pre").first.inner_text() == "a <b> c"
    )
    assert transforms() == {"scale(1) translate(0%, 0%)"}
    view = tab.locator(".view").nth(1)
    view.hover()
    tab.mouse.wheel(0, -400)
    tab.wait_for_function("document.getElementById('factor').textContent === '2.7x'")
    (zoomed,) = transforms()
    assert zoomed.startswith("scale(2.71828")
    view.focus()
    tab.keyboard.press("ArrowLeft")
    (moved,) = transforms()
    assert moved != zoomed
    tab.locator("#zoom").fill("5")
    (slid,) = transforms()
    assert slid.startswith("scale(5)")
    tab.locator("#image").select_option(label="two-seed0")
    assert transforms() == {slid}  # another image stands at the same place
    tab.locator("#reset").click()
    assert transforms() == {"scale(1) translate(0%, 0%)"}
