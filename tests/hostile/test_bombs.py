"""Files of at most the upload limit that want much time or memory: what each takes is measured in a process of its own.

The page's bound: no request takes more than 500 MB or 10 s of CPU. `-k long` with CUPSCALE_LONG=1 measures the largest kinds.
"""

import base64
import io
import json
import os
import runpy
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile
from PIL import Image

from cupscale import images
from cupscale.errors import CupscaleError
from cupscale.images import inspect, worker
from cupscale.images.inspect import MAX_SCANS, count_scans

MEASURED = Path(__file__).with_name("measured.py")
ROOT = Path(__file__).resolve().parents[2]
MEGA = 2**20


def encoded(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width, height, data, *before):
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [chunk(b"IHDR", head), *before, chunk(b"IDAT", data), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def scans(count, side=4096):
    """A progressive JPEG whose last scan is repeated."""
    data = encoded(Image.new("L", (side, side), 128), "JPEG", progressive=True)
    starts = [i for i in range(len(data) - 1) if data[i : i + 2] == b"\xff\xda"]
    tables = [i for i in range(len(data) - 1) if data[i : i + 2] == b"\xff\xc4" and i < starts[-1]]
    begin = max(tables) if tables and max(tables) > starts[-2] else starts[-1]
    return data[:-2] + data[begin:-2] * count + b"\xff\xd9"


def exif_settings(text):
    exif = Image.Exif()
    packed = b"cupscale:zlib:" + base64.b64encode(zlib.compress(text, 9))
    exif.get_ifd(0x8769)[37510] = b"ASCII\0\0\0" + packed
    return encoded(Image.new("RGB", (64, 48)), "JPEG", exif=exif)


def noise(side):
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8))


def float_tiff(side):
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, np.zeros((side, side, 3), "f4"), photometric="rgb", compression="zlib")
    return buffer.getvalue()


def many_pictures(count):
    """Each of 1 x 1 px, without a colour table of its own."""
    one = b"," + bytes(4) + b"\1\0\1\0\0" + b"\2\2\x44\1\0"
    return encoded(Image.new("P", (16, 16)), "GIF")[:-1] + one * count + b";"


def plain_ppm(side):
    return f"P3 {side} {side} 255\n".encode() + b"7 " * (3 * side * side)


BOMBS = {
    "settings in EXIF": lambda: exif_settings(b'{"captions":[' + b"{}," * 5_500_000 + b"{}]}"),
    "settings in EXIF, deep": lambda: exif_settings(b"[" * 2_000_000),
    "settings in a PNG's text": lambda: png(
        16,
        16,
        zlib.compress(bytes(16 * 49)),
        chunk(b"iTXt", b"cupscale\0\1\0\0\0" + zlib.compress(b'{"a":[' + b"1," * 10**7 + b"1]}", 9)),
    ),
    "a profile that unpacks": lambda: png(
        16, 16, zlib.compress(bytes(16 * 49)), chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(10**8), 9))
    ),
    "scans": lambda: scans(400),
    "rows that never end": lambda: png(16, 16, zlib.compress(bytes(10**8), 9)),
    "too many pixels": lambda: png(60000, 60000, zlib.compress(bytes(10**6), 9)),
    "the most pixels, empty": lambda: png(4096, 4096, zlib.compress(bytes(4096 * (3 * 4096 + 1)), 9)),
    "the most pixels, transparent": lambda: encoded(Image.new("RGBA", (4096, 4096), (9, 9, 9, 0)), "PNG"),
    "a TIFF of the most pixels": lambda: encoded(
        Image.new("RGB", (4096, 4096)), "TIFF", compression="tiff_adobe_deflate"
    ),
    "a plain PPM": lambda: plain_ppm(1200),
    "JPEG 2000": lambda: encoded(noise(1400), "JPEG2000", quality_layers=[1]),
    "AVIF": lambda: encoded(Image.new("RGB", (4000, 4000), "teal"), "AVIF", speed=10),
    "a TIFF of floats of the most pixels": lambda: float_tiff(4096),
    "high dynamic range of the most pixels": lambda: png(
        4096, 4096, zlib.compress(bytes(4096 * (3 * 4096 + 1)), 9), chunk(b"cICP", bytes([9, 18, 0, 1]))
    ),
    "a GIF of very many pictures": lambda: many_pictures(10**6),
    "a JPEG without its end": lambda: encoded(noise(4096), "JPEG", quality=60)[:-2],
    "very many chunks": lambda: png(16, 16, zlib.compress(bytes(16 * 49)), *[chunk(b"teSt", b"")] * 10**5),
}


def measured(data, tmp_path, *arguments):
    file = tmp_path / "file"
    file.write_bytes(data)
    assert len(data) <= 20 * MEGA
    done = subprocess.run(
        [sys.executable, MEASURED, file, *arguments],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=True,
    )
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", BOMBS)
def test_no_file_takes_much(name, tmp_path):
    data = BOMBS[name]()
    for door in ((), ("settings",)):
        found = measured(data, tmp_path, *door)
        assert found["bytes"] < 500 * MEGA and found["cpu"] < 10, found
        assert "\n" not in found["end"]


@pytest.mark.skipif(not os.environ.get("CUPSCALE_LONG"), reason="minutes: set CUPSCALE_LONG=1")
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF", "JPEG2000", "GIF", "BMP", "PPM"])
def test_long_the_largest_picture_of_every_format(kind, tmp_path):
    side = (
        2500 if kind in ("PNG", "TIFF", "BMP", "PPM", "JPEG2000") else 4096
    )  # what fits into 20 MB of noise
    found = measured(encoded(noise(side), kind), tmp_path)
    assert found["bytes"] < 500 * MEGA and found["cpu"] < 12, found


def test_a_scan_bomb_is_refused_before_it_is_decoded(tmp_path):
    found = measured(scans(400), tmp_path)
    assert f"more than {MAX_SCANS} scans" in found["end"] and found["cpu"] < 0.5


def test_the_larger_a_jpeg_the_fewer_scans():
    """2**31 pixels of all scans together: 32 at 64 megapixels."""
    large = SimpleNamespace(format="JPEG", width=8192, height=8192)
    own = count_scans(scans(0, 64), 1000)
    inspect.check("x", scans(32 - own, 64), large)
    with pytest.raises(
        CupscaleError, match="x is a JPEG of more than 32 scans, the limit at 8192 x 8192; save"
    ):
        inspect.check("x", scans(33 - own, 64), large)


def test_scans_are_counted_by_markers_alone():
    plain = encoded(noise(64), "JPEG", quality=95)
    assert count_scans(plain, 1000) == 1
    progressive = encoded(noise(64), "JPEG", progressive=True, quality=95)
    own = count_scans(progressive, 1000)
    assert 5 < own < 20
    assert count_scans(scans(37, 64), 1000) == count_scans(scans(0, 64), 1000) + 37
    assert count_scans(scans(400, 64), 12) == 12
    # A marker inside of a segment's data is no scan: here in a comment, as an EXIF thumbnail has them.
    inside = plain[:2] + b"\xff\xfe" + struct.pack(">H", 2 + 60) + b"\xff\xda" * 30 + plain[2:]
    assert count_scans(inside, 1000) == 1
    assert images.read(inside).size == (64, 64)
    for cut in range(0, 700, 7):  # never past the end, never for ever
        assert count_scans(progressive[:cut], 1000) <= own
    assert count_scans(b"\xff\xd8" + b"\xff" * 10_000, 1000) == 0


def test_a_progressive_photograph_is_read(tmp_path):
    data = encoded(noise(512), "JPEG", progressive=True)
    assert images.read(data).size == (512, 512)


@pytest.mark.parametrize("kind", ["TIFF", "JPEG2000", "AVIF", "PPM"])
def test_what_is_decoded_elsewhere_is_the_same(kind, monkeypatch):
    """Colour, alpha and settings come back whole from the process that decodes costly formats."""
    settings = '{"seed": 7}'
    image = noise(48).convert("RGBA") if kind in ("TIFF", "AVIF") else noise(48)
    if image.mode == "RGBA":
        image.putalpha(Image.linear_gradient("L").resize(image.size))
    if kind in ("TIFF", "AVIF"):
        buffer = io.BytesIO()
        from cupscale.images.writing import put_settings

        exif = Image.Exif()
        put_settings(exif, settings, kind)
        image.save(buffer, kind, exif=exif)
        data = buffer.getvalue()
    else:
        data = encoded(image, kind)
    here = images.read(data)
    monkeypatch.setattr("cupscale.images.inspect.costly", lambda data, image: True)
    there = images.read(data)
    assert there.rgb.tobytes() == here.rgb.tobytes()
    assert (there.alpha is None) == (here.alpha is None)
    if here.alpha is not None:
        assert there.alpha.tobytes() == here.alpha.tobytes()
    assert there.metadata == here.metadata == ({"seed": 7} if kind in ("TIFF", "AVIF") else {})


@pytest.mark.parametrize("kind", ["JPEG2000", "TIFF", "AVIF", "PPM", "JPEG", "PNG"])
def test_what_may_take_long_is_decoded_elsewhere(kind, monkeypatch):
    """Above 1 megapixel, or 256 KB; of the others the time follows from the pixels."""
    asked = []
    monkeypatch.setattr(worker, "decode", lambda name, data, most: asked.append(most))
    for size in ((250, 200), (1025, 1025)):
        images.read(encoded(Image.new("RGB", size), kind), max_pixels=2**21)
    assert asked == ([2**21] if kind not in ("JPEG", "PNG") else [])


def test_the_process_that_decodes_is_bounded(monkeypatch):
    """The system ends it: at 10 s of CPU, and no more than 3 GB of addresses."""
    resource = pytest.importorskip("resource")
    bounds = {}
    monkeypatch.setattr(resource, "setrlimit", lambda kind, most: bounds.update({kind: most}))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
    with pytest.raises(json.JSONDecodeError):  # nothing was asked of it
        runpy.run_module("cupscale.images.worker", run_name="__main__")
    assert bounds[resource.RLIMIT_CPU] == (10, 10)
    assert bounds[resource.RLIMIT_AS] == (3 * 2**30, 3 * 2**30)


def test_a_decoder_that_takes_too_long_is_stopped(monkeypatch):
    """By its own CPU time, so that a busy machine stops nothing too soon."""
    data = encoded(noise(1400), "JPEG2000", quality_layers=[1])
    monkeypatch.setattr("cupscale.images.inspect.costly", lambda data, image: True)
    monkeypatch.setattr(worker, "WALL_SECONDS", 0.01)
    with pytest.raises(CupscaleError, match=r"to decode, the limits of one image; save it again"):
        images.read(data)


@pytest.mark.parametrize("kind", ["TIFF", "JPEG2000", "AVIF", "PPM"])
def test_damage_is_said_from_there_too(kind, monkeypatch):
    monkeypatch.setattr("cupscale.images.inspect.costly", lambda data, image: True)
    data = encoded(noise(64), kind)
    with pytest.raises(CupscaleError, match=r"truncated or damaged|not an image"):
        images.read(data[: len(data) * 2 // 3])


def test_a_limit_that_is_said_is_true():
    """187 megapixels: above the limit of 64, which is the one that is named."""
    with pytest.raises(CupscaleError, match=r"13660 x 13660 = 178\.0 megapixels, the limit is 64"):
        images.read(png(13660, 13660, zlib.compress(bytes(10**6), 9)))
    with pytest.raises(CupscaleError, match="the limit is 16"):
        images.read(png(13660, 13660, zlib.compress(bytes(10**6), 9)), max_pixels=2**24)
    assert (
        images.read_settings(png(13660, 13660, zlib.compress(bytes(10**6), 9))) is None
    )  # no pixels, no limit
