"""Seeded random damage: images, settings, captions and links are read or refused in words, never anything else.

CUPSCALE_FUZZ=20000 asks for that many damaged images of every format instead of the few of a quick run.
"""

import io
import json
import os
import random

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings as hypothesis_settings, strategies as st
from PIL import Image

from cupscale import images
from cupscale.bounded import parse_object
from cupscale.captions import read_captions
from cupscale.errors import CupscaleError
from cupscale.page import links
from cupscale.settings import Settings

ROUNDS = int(os.environ.get("CUPSCALE_FUZZ", "40"))
FORMATS = {
    "PNG": {},
    "JPEG": {"quality": 80},
    "progressive": {"quality": 80, "progressive": True},
    "WEBP": {"quality": 80},
    "TIFF": {"compression": "tiff_lzw"},
    "GIF": {},
    "BMP": {},
    "PPM": {},
    "JPEG2000": {},
    "AVIF": {"quality": 60},
}
QUICK = hypothesis_settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def seed_image(kind):
    pixels = np.random.default_rng(3).integers(0, 256, (40, 52, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif.get_ifd(0x8769)[37510] = b"ASCII\0\0\0cupscale:" + Settings(seed=5).to_json().encode()
    buffer = io.BytesIO()
    options = FORMATS[kind] | ({"exif": exif} if kind in ("JPEG", "WEBP", "PNG") else {})
    Image.fromarray(pixels).save(buffer, "JPEG" if kind == "progressive" else kind, **options)
    return buffer.getvalue()


def damaged(data, rng):
    """One of: bytes changed, a part cut out, doubled or zeroed, the end cut off, a length field made large."""
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        at, size = rng.randrange(len(data)), rng.choice((1, 2, 4, 64))
        way = rng.randrange(6)
        if way == 0:
            data[at] = rng.randrange(256)
        elif way == 1:
            del data[at : at + size]
        elif way == 2:
            data[at:at] = data[at : at + size]
        elif way == 3:
            data[at : at + size] = bytes(min(size, len(data) - at))
        elif way == 4:
            data[at : at + 4] = rng.choice((b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x00\x00\x40\x00"))
        else:
            del data[at:]
        if not data:
            return b""
    return bytes(data)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_damaged_image_is_read_or_refused(kind):
    rng = random.Random(f"{kind} 1")
    whole = seed_image(kind)
    ends = {"read": 0, "refused": 0}
    for number in range(ROUNDS):
        data = damaged(whole, rng)
        for door in (lambda d: images.read(d, max_pixels=2**22), images.read_settings):
            try:
                found = door(data)
            except CupscaleError as error:
                assert "\n" not in str(error) and len(str(error)) < 400, (kind, number)
                ends["refused"] += 1
            else:
                ends["read"] += 1
                if isinstance(found, images.Picture):
                    assert found.rgb.mode == "RGB" and min(found.size) >= 16
                else:
                    assert found is None or isinstance(found, dict)
    assert ends["read"] and ends["refused"], ends  # the damage is neither harmless nor total


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
NAMES = st.sampled_from([*Settings.model_fields, "start", "", "__class__"])


@QUICK
@given(st.dictionaries(NAMES, JSON, max_size=5))
def test_any_settings_are_taken_or_refused_in_one_line(fields):
    text = json.dumps(fields)
    try:
        made = Settings.from_json(text)
    except CupscaleError as error:
        assert "\n" not in str(error)
    else:
        assert Settings.from_json(made.to_json()) == made


@QUICK
@given(st.text(max_size=200) | st.binary(max_size=200))
def test_any_text_is_an_object_or_refused(text):
    try:
        assert isinstance(parse_object(text, "x"), dict)
    except CupscaleError as error:
        assert str(error).startswith("x: ")


@QUICK
@given(JSON, JSON, JSON)
def test_any_captions_file_is_taken_or_refused(tmp_path, size, box, caption):
    file = tmp_path / "captions.json"
    file.write_text(json.dumps({"size": size, "regions": [{"box": box, "caption": caption}]}))
    try:
        for one in read_captions(file, (100, 80)):
            assert len(one.box) == 4
    except CupscaleError as error:
        assert "\n" not in str(error)


@QUICK
@given(st.dictionaries(NAMES | st.just("example"), st.text(max_size=40), max_size=6))
def test_any_link_gives_settings_and_lines(query):
    good, _, wrong = links.from_query(query)
    Settings.build(**{name: value for name, value in good.items() if name != "model"})
    assert all(isinstance(line, str) and "\n" not in line for line in wrong)
