"""A mask: what it is made of, how it is feathered and blended, what a result and the page say of it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

import cupscale
from cupscale.errors import CupscaleError
from cupscale.images.tensors import to_float, to_int16
from cupscale.page import mask as brush, share, visit
from cupscale.page.limits import Limits
from cupscale.protect import name_of, protect, read_mask
from cupscale.settings import Settings

FAST = {
    "steps": 1,
    "strength": 0.1,
    "guidance": 1.0,
    "upscaler": "lanczos",
    "attention": 0.0,
    "captioner": "none",
    "fidelity": 0,
    "scale": 1,
}


def test_the_feather_by_hand():
    """White in column 20 alone: widened to 17 .. 23, then a mean over 7 columns: 19 has 6 of 7 white ones, 14 has 1, 13 none."""
    mask = np.zeros((18, 40), np.uint8)
    mask[:, 20] = 255
    found = np.asarray(read_mask(mask, (40, 18)))[9].astype(int)
    assert found[20] == 255
    for side in (found[19:12:-1], found[21:28]):
        assert side.tolist() == pytest.approx([255 * k / 7 for k in (6, 5, 4, 3, 2, 1, 0)], abs=1)


def test_brightness_counts_and_what_is_transparent_is_black():
    rgba = np.zeros((16, 24, 4), np.uint8)
    rgba[...] = (0, 255, 0, 255)  # green: 0.587 of white
    rgba[:, 12:, 3] = 0
    found = np.asarray(read_mask(Image.fromarray(rgba), (24, 16))).astype(int)
    assert found[8, 2] == pytest.approx(150, abs=1) and found[8, 22] == 0


@pytest.mark.parametrize("kept", [lambda pixels: pixels, to_int16])
@pytest.mark.parametrize("band", [7, 2**20])
def test_the_blend_by_hand(monkeypatch, band, kept):
    """Half way between -0.5 and the base upscale's 0.2 where the mask is 127.5; rows of 3 and 4 pixels to one of the mask."""
    monkeypatch.setattr("cupscale.protect._BAND_PX", band * 10)
    mask = np.zeros((16, 20), np.uint8)
    mask[8:], mask[4:8] = 255, 128
    picture = kept(torch.full((3, 56, 70), -0.5))
    base = Image.new("RGB", (70, 56), (153, 0, 255))  # 0.2, -1 and 1
    protect(picture, base, Image.fromarray(mask))
    pixels = to_float(picture)
    assert pixels[:, 50, 33].tolist() == pytest.approx([0.2, -1, 1], abs=2e-5)
    assert pixels[:, 21, 33].tolist() == pytest.approx([-0.1486, -0.751, 0.2529], abs=1e-3)
    assert pixels[:, 4, 33].tolist() == pytest.approx([-0.5] * 3, abs=2e-5)
    edge = pixels[0, 24:33, 5]  # 3.5 pixels to one: the fall lies between the middles of rows 7 and 8
    assert (edge.diff() >= 0).all() and edge[0] < 0.0 and edge[-1] == pytest.approx(0.2, abs=2e-5)


def test_a_name_tells_masks_apart():
    mask = read_mask(np.eye(20, 24, dtype=np.uint8) * 255, (24, 20))
    other = read_mask(np.eye(20, 24, k=1, dtype=np.uint8) * 255, (24, 20))
    assert name_of(None) == "" and name_of(mask) == name_of(mask.copy()) != name_of(other)
    turned = Image.frombytes("L", (20, 24), mask.tobytes())  # the same bytes
    assert len(name_of(mask)) == 16 and name_of(turned) != name_of(mask)


def test_a_result_says_under_which_mask_it_was_made():
    """And settings that name one which is not given go on with a notice."""
    pipe = cupscale.load("tiny", device="cpu")
    image = np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)
    mask = np.zeros((16, 24), np.uint8)
    mask[4:9, 3:20] = 255

    def run(settings=None, **fields):
        events = list(cupscale.stream(pipe, image, settings, **{**FAST, **fields}))
        said = [event.message for event in events if isinstance(event, cupscale.Notice)]
        return events[-1].result.settings, [line for line in said if "mask" in line]

    made, said = run(mask=mask)
    assert made.mask == name_of(read_mask(mask, (24, 16))) and not said
    again, said = run(made, mask=mask)
    assert again.mask == made.mask and not said
    without, said = run(made)
    assert without.mask == "" and "goes on without it" in said[0]
    other, said = run(made, mask=255 - mask)
    assert other.mask not in ("", made.mask) and "another one is given" in said[0]
    with pytest.raises(CupscaleError, match="mask"):
        Settings.build(mask="painted")


# On the page


def test_a_mask_belongs_to_one_image():
    kept = {"path": "/uploads/a/mask.png", "image": "/uploads/b/me.jpg"}
    assert brush.belonging(kept, "/uploads/b/me.jpg") == "/uploads/a/mask.png"
    for image in ("/uploads/c/me.jpg", None):
        assert brush.belonging(kept, image) is None
    assert brush.belonging(None, "/uploads/b/me.jpg") is None
    assert brush.shown(kept)["name"] == "me-mask.png"
    assert brush.file_name("/uploads/b/me.heic.png") == "me-mask.png"


def test_a_mask_of_another_size_is_refused_on_the_page(tmp_path, monkeypatch):
    path = tmp_path / "mask.png"
    Image.new("L", (20, 30)).save(path)
    monkeypatch.setattr("cupscale.page.references.check", lambda given, gone=False: given)
    with pytest.raises(CupscaleError, match=r"the mask is 20 x 30 and the image is 24 x 32: make the mask"):
        brush.of(str(path), (24, 32), Limits())
    assert brush.of(str(path), (20, 30), Limits()).size == (20, 30)
    assert brush.of(None, (24, 32), Limits()) is None


def test_command_and_python_want_the_masks_file():
    texts = share.texts(Settings.build(scale=3), None, "me.jpg", Limits(), "me-mask.png")
    assert texts["command"].endswith("--mask me-mask.png") and "mask='me-mask.png'" in texts["python"]
    assert "me-mask.png" in texts["note"] and "mask" not in texts["query"]
    compile(texts["python"], "copied", "exec")
    plain = share.texts(Settings.build(scale=3, mask="0" * 16), None, "me.jpg", Limits())
    assert "mask" not in plain["command"] + plain["python"] + plain["note"] + plain["query"]


def test_a_visit_keeps_the_mask(monkeypatch):
    there = {"/u/me.jpg", "/u/mask.png"}

    def check(path, *, gone=False):
        if path not in there:
            raise CupscaleError("gone")
        return path

    monkeypatch.setattr("cupscale.page.references.check", check)
    kept = visit.packed(Settings(), (40, 30), "/u/me.jpg", None, False, "/u/mask.png")
    assert visit.unpacked(kept).mask == "/u/mask.png"
    there.remove("/u/mask.png")
    found = visit.unpacked(kept)
    assert found.mask is None and found.image == "/u/me.jpg"
    old = {name: value for name, value in json.loads(kept).items() if name != "mask"}
    assert visit.unpacked(json.dumps(old)).mask is None
