"""ControlNet on the page: its weight, where the model has one, is that of the run."""

from __future__ import annotations

import re

import numpy as np
import pytest
from browser_hands import download, expect, give, open_part, setting, upscale, visit
from checkpoints import make_controlnet, make_sdxl
from page_server import serve
from PIL import Image

import cupscale
from cupscale import images


@pytest.fixture(scope="module")
def url(folder):
    net = make_controlnet(folder / "tile", make_sdxl(folder / "random"))
    with serve(folder, CUPSCALE_CONTROLNETS=f"random={net}") as address:
        yield address


def test_its_weight_on_the_page_is_the_runs(page, url, folder, small, tmp_path):
    visit(page, url)
    give(page, small)
    weight = setting(page, "control")
    weight.fill("0.6")
    weight.press("Tab")
    open_part(page, "share")
    expect(page.locator("#share-rows textarea").nth(1)).to_have_value(re.compile("--control 0.6"))
    upscale(page)
    download(page, "#png").save_as(tmp_path / "big.png")
    used = images.read_settings(tmp_path / "big.png")
    assert used["control"] == 0.6
    pipe = cupscale.load(str(folder / "random"), device="cpu", controlnet=str(folder / "tile"))
    shown = np.asarray(Image.open(tmp_path / "big.png").convert("RGB")).astype(int)

    def apart(control):
        fields = {name: value for name, value in used.items() if name not in ("model", "control", "mask")}
        ours = cupscale.upscale(pipe, small, **fields, control=control).image
        return np.abs(np.asarray(ours.convert("RGB")).astype(int) - shown).mean()

    assert apart(0.6) < 0.1 < apart(0.0)
