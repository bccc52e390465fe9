"""Text that someone else wrote: JSON of any kind is read or refused in one line, in little time and memory."""

import base64
import io
import json
import os
import time
import tracemalloc
import zlib

import pytest
from PIL import ExifTags, Image, PngImagePlugin

from cupscale import images, machine
from cupscale.bounded import MAX_BYTES, MAX_DEPTH, MAX_ITEMS, parse_object, read_object
from cupscale.captions import read_captions
from cupscale.errors import CupscaleError
from cupscale.images import settings_text
from cupscale.page import links
from cupscale.settings import Settings

REFUSED = {
    "too long": '{"prompt": "' + "a" * MAX_BYTES + '"}',
    "millions of captions": '{"captions":[' + "{}," * 500_000 + "{}]}",
    "deep lists": "[" * 200_000,
    "deep objects": '{"a":' * 100_000,
    "deep and closed": "[" * 500 + "]" * 500,
    "digits": '{"seed": ' + "9" * 5000 + "}",
    "not a number": '{"scale": NaN}',
    "infinity": '{"scale": -Infinity}',
    "a list": "[]",
    "a text": '"x"',
    "nothing": "",
    "half": '{"scale": ',
    "an open text": '{"scale": "' + "\\" * 9,
    "escaped quotes": '"' + '\\"' * 500_000,
    "quotes": '"' * 1_000_000,
    "NUL": "\0",
    "two": "{} {}",
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_text_is_refused_in_one_short_line(name):
    began = time.process_time()
    with pytest.raises(CupscaleError) as caught:
        parse_object(REFUSED[name], "settings")
    message = str(caught.value)
    assert "\n" not in message and len(message) < 300
    assert message.startswith("settings: ")
    assert time.process_time() - began < 2  # of this process: a busy machine does not count


@pytest.mark.parametrize("name", REFUSED)
def test_every_door_refuses_it(name, tmp_path):
    text = REFUSED[name]
    file = tmp_path / "text.json"
    file.write_text(text)
    for door in (
        lambda: read_object(file, "settings"),
        lambda: read_captions(file, (100, 100)),
        lambda: Settings.from_json(text),
    ):
        with pytest.raises(CupscaleError):
            door()


def test_the_limits_themselves_are_taken():
    most = '{"a":' * (MAX_DEPTH - 1) + "{}" + "}" * (MAX_DEPTH - 1)
    assert parse_object(most, "x")
    with pytest.raises(CupscaleError, match=f"{MAX_DEPTH + 1} levels"):
        parse_object('{"a":' + most + "}", "x")
    commas = MAX_ITEMS - 3  # and the brackets and the colon
    assert len(parse_object('{"a":[' + "1," * commas + "1]}", "x")["a"]) == commas + 1
    with pytest.raises(CupscaleError, match="items"):
        parse_object('{"a":[' + "1," * (commas + 1) + "1]}", "x")
    full = '{"a":"' + "," * (MAX_BYTES - 8) + '"}'  # what stands inside of a text is not counted
    assert len(parse_object(full, "x")["a"]) == MAX_BYTES - 8


def test_a_byte_order_mark_is_no_mistake(tmp_path):
    file = tmp_path / "bom.json"
    file.write_bytes(b'\xef\xbb\xbf{"scale": 2}')
    assert read_object(file, "settings") == {"scale": 2}


def test_all_captions_that_settings_take_can_be_read_back():
    captions = [{"box": [0, 0, 9, 9], "caption": "a, [b], {c}: " * 8} for _ in range(4096)]
    settings = Settings.build(captions=captions)
    assert Settings.from_json(settings.to_json()) == settings


@pytest.mark.parametrize("kind", ["folder", "pipe", "device", "missing", "NUL"])
def test_what_is_no_file_is_not_waited_for(kind, tmp_path):
    path = {
        "folder": tmp_path,
        "pipe": tmp_path / "pipe",
        "device": "/dev/zero",
        "missing": tmp_path / "none",
        "NUL": "a\0b",
    }[kind]
    if kind == "pipe":
        os.mkfifo(path)
    with pytest.raises(CupscaleError):
        read_object(path, "settings")


@pytest.mark.parametrize("box", [[0, 0, 10**400, 9], [0, 0, 2**20 + 1, 9], [5, 5, 5, 9], [-1, 0, 4, 4]])
def test_a_box_without_measure_is_refused(box, tmp_path):
    file = tmp_path / "captions.json"
    file.write_text('{"size": [1, 1], "regions": [{"box": %s, "caption": "x"}]}'.replace("%s", str(box)))
    with pytest.raises(CupscaleError):
        read_captions(file, (100, 100))


@pytest.mark.parametrize("size", [[10**400, 1], [0, 1], [1.5, 1], "ab", [1], None])
def test_a_size_without_measure_is_refused(size, tmp_path):
    file = tmp_path / "captions.json"
    file.write_text(json.dumps({"size": size, "regions": [{"box": [0, 0, 9, 9], "caption": "x"}]}))
    with pytest.raises(CupscaleError):
        read_captions(file, (100, 100))


def test_a_link_that_unpacks_to_much_is_refused():
    import base64
    import zlib

    bomb = base64.urlsafe_b64encode(zlib.compress(b"[" + b"[]," * 5_000_000 + b"[]]", 9)).decode()
    assert len(bomb) < 40_000
    with pytest.raises(CupscaleError, match="damaged"):
        links.unpack_captions(bomb)


SPEEDS = [
    "[]",
    "{}",
    "null",
    '"x"',
    "7",
    "{",
    "",
    "\0\0",
    '{"m cpu": []}',
    '{"m cpu": null}',
    '{"m cpu": "fast"}',
    '{"m cpu": {"sample": 1}}',
    '{"m cpu": {"sample": "1", "cells": 1, "megapixel": 1}}',
    '{"m cpu": {"sample": NaN, "cells": 1, "megapixel": 1}}',
    '{"m cpu": {"sample": 1e999, "cells": 1, "megapixel": 1}}',
    '{"m cpu": {"sample": 1, "cells": 0, "megapixel": 1}}',
    '{"m cpu": {"sample": -1, "cells": 1, "megapixel": 1}}',
    '{"m cpu": {"sample": true, "cells": 1, "megapixel": 1}}',
    "[" * 100_000,
]


@pytest.mark.parametrize("text", SPEEDS)
def test_a_speed_file_of_nonsense_is_as_none(text, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    file = tmp_path / "cupscale" / "speed.json"
    file.parent.mkdir()
    file.write_text(text)
    assert machine.known_speed("m", "cpu") is None
    speed = {"sample": 0.5, "cells": 256.0, "megapixel": 2.0}
    machine.remember_speed("m", "cpu", speed)
    assert machine.known_speed("m", "cpu") == speed


@pytest.mark.parametrize("kind", ["a folder for a file", "read-only", "a file for a folder", "no home"])
def test_a_cache_that_cannot_be_is_no_matter(kind, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    if kind == "a folder for a file":
        (tmp_path / "cupscale" / "speed.json").mkdir(parents=True)
    elif kind == "a file for a folder":
        (tmp_path / "cupscale").write_text("x")
    elif kind == "read-only":
        monkeypatch.setenv("XDG_CACHE_HOME", "/proc/none")
    else:
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.delenv("HOME", raising=False)
        monkeypatch.setattr("pwd.getpwuid", lambda uid: (_ for _ in ()).throw(KeyError(uid)))
        assert machine.cache_folder() is None
    machine.remember_speed("m", "cpu", {"sample": 1.0, "cells": 1.0, "megapixel": 1.0})
    assert machine.known_speed("m", "cpu") is None
    from cupscale.captioners import Cache

    Cache().put("key", "answer")
    assert Cache().get("key") in (None, "answer")


@pytest.mark.parametrize(
    "text",
    [
        '{"captions":[' + "{}," * 99_990 + "{}]}",
        '{"captions":[' + '{"box":[0,0,1,1],"caption":"x"},' * 12_000 + "{}]}",
        '{"captions":[' + '{"box":[0,0,0,0],"caption":"x"},' * 4_000 + "{}]}",
        '{"prompt":"' + "a" * 2_000_000 + '"}',
    ],
)
def test_the_most_that_is_parsed_is_refused_by_the_settings_in_little_time(text):
    """What the bounds let through reaches pydantic: 0.54 s and 219 MB at the most, when it was measured."""
    began = time.process_time()
    with pytest.raises(CupscaleError) as caught:
        Settings.from_json(text)
    assert "\n" not in str(caught.value) and time.process_time() - began < 5


@pytest.mark.parametrize(
    "text", ['{"a":' * 40 + "1" + "}" * 40, "[]", '{"scale": NaN}', "{", REFUSED["digits"]]
)
def test_a_picture_keeps_no_text_that_nobody_would_read(text):
    """It may stay in a cache for long."""
    info = PngImagePlugin.PngInfo()
    info.add_itxt("cupscale", text)
    file = io.BytesIO()
    Image.new("RGB", (16, 16)).save(file, "PNG", pnginfo=info)
    assert images.read(file.getvalue()).settings_text is None


def test_settings_in_exif_are_unpacked_to_their_limit_only(tmp_path):
    """100 MB of nothing in 0.1 MB of a picture: 2 MB of it are unpacked, and no more."""
    exif = Image.Exif()
    exif[ExifTags.Base.Software] = "any"  # one without a tag of its own is not written
    packed = base64.b64encode(zlib.compress(bytes(100 * 2**20), 1))
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = (
        b"ASCII\0\0\0" + settings_text.MARK + settings_text.COMPRESSED + packed
    )
    path = tmp_path / "bomb.png"
    Image.new("RGB", (16, 16)).save(path, exif=exif)
    tracemalloc.start()
    assert images.read_settings(path) is None
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20 * 2**20
