"""The bounds themselves: those that SECURITY.md states are those of the code, and each is asked where it counts."""

from __future__ import annotations

import errno
import io
import json
import struct
import subprocess
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageFile
from test_bombs import encoded, noise, scans

from cupscale import bounded, images, machine
from cupscale.errors import CupscaleError
from cupscale.images import avif, declared, inspect, metadata, reading, samples, worker, writing
from cupscale.page import answers, bounds as page_bounds, calls, links
from cupscale.page.limits import OPEN, SPACE, Limits
from cupscale.settings import Settings
from cupscale.speed import Run

SECURITY = (Path(__file__).resolve().parents[2] / "SECURITY.md").read_text()
OWN = Limits()
RUN = {"input": 0.1, "samples": 20, "output": 2.0, "enlarge": 3.0, "network": 4.0, "rest": 5.0}


@pytest.mark.parametrize(
    "stated",
    [
        f"{bounded.MAX_BYTES >> 20} MB, {bounded.MAX_ITEMS:,} items, {bounded.MAX_DEPTH} levels",
        f"{reading.MAX_BYTES >> 20} MB and {reading.MAX_PIXELS >> 20} megapixels "
        f"(a Space: {SPACE.upload_bytes >> 20} MB and {SPACE.input_px >> 20};",
        f"{inspect.MAX_SCANS} scans of a JPEG, {declared._MAX_CHUNKS:,} chunks and boxes",
        f"{avif._MAX_BOXES:,} chunks and boxes",
        f"{inspect._MAX_STEPS:,} blocks of a GIF or TIFF",
        f"{worker.CPU_SECONDS} s of CPU and {worker.MEMORY_BYTES >> 30} GB of address space",
        f"{answers.MAX_BYTES >> 20} MB and {answers.MAX_SESSIONS:,} sessions",
        f"{OWN.captions:,} regions",
        f"{OWN.queue} runs that wait (a Space: {SPACE.queue})",
        f"one visitor may have {SPACE.share} on a Space, and {OPEN.share} where others",
        f"(a Space: {SPACE.calls}; {OPEN.calls} where others reach the page) and {calls._ALL:,} of all",
        f"{OWN.batch} images (a Space: {SPACE.batch})",
        f"at most {OWN.links} and {OWN.links_bytes >> 30} GB",
    ],
)
def test_a_bound_is_as_it_is_stated(stated):
    assert stated in SECURITY


def peak_of(call):
    """Bytes that Python takes at the most."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def empty(path, size):
    """A file that takes no room on the disk."""
    with open(path, "wb") as file:
        file.truncate(size)
    return path


def test_no_more_of_a_file_is_read_than_its_limit(tmp_path, monkeypatch):
    file = empty(tmp_path / "settings.json", 2**28)

    def settings():
        with pytest.raises(CupscaleError, match=f"more than {bounded.MAX_BYTES} bytes"):
            bounded.read_object(file, "settings")

    assert peak_of(settings) < 2**24
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "cupscale").mkdir()
    empty(tmp_path / "cupscale" / "speed.json", 2**28)
    assert peak_of(lambda: machine.known_speed("m", "cpu")) < 2**24


def test_a_link_is_unpacked_to_its_limit_only():
    """5 million lists, which would be 400 MB."""
    import base64
    import zlib

    bomb = base64.urlsafe_b64encode(zlib.compress(b"[" + b"[]," * 5_000_000 + b"[]]", 9)).decode()

    def unpacked():
        with pytest.raises(CupscaleError, match="damaged"):
            links.unpack_captions(bomb)

    assert peak_of(unpacked) < 2**24


def test_brackets_behind_an_escaped_quote_are_text():
    assert bounded.parse_object('{"a": "\\"' + "[" * 100 + '"}', "x") == {"a": '"' + "[" * 100}
    with pytest.raises(CupscaleError, match="levels"):
        bounded.parse_object('{"a": "\\\\", "b": ' + "[" * 100 + "]" * 100 + "}", "x")


def test_chunks_and_boxes_are_looked_through_to_their_number():
    chunk = b"\0\0\0\0teSt\0\0\0\0"
    assert len(list(declared._chunks(b"\x89PNG\r\n\x1a\n" + chunk * 5000))) == 4096
    box = b"\0\0\0\x08free"
    assert len(list(avif._boxes(box * 5000, (0, 8 * 5000)))) == 4096


def test_what_is_kept_of_a_picture_is_bounded():
    image = Image.new("RGB", (16, 16))
    for size, kept in ((metadata.MAX_PROFILE, True), (metadata.MAX_PROFILE + 1, False)):
        image.info["icc_profile"] = bytes(size)
        assert (metadata.find(image).profile is not None) == kept
    exif = image.getexif()
    exif[ExifTags.Base.Make], exif[ExifTags.Base.Model] = (
        "a" * metadata.MAX_TEXT,
        "b" * (metadata.MAX_TEXT + 1),
    )
    assert metadata.find(image).texts == {ExifTags.Base.Make: "a" * metadata.MAX_TEXT}


@pytest.mark.parametrize("kind", ["JPEG", "MPO"])
def test_the_scans_of_a_camera_s_several_pictures_count_too(kind):
    with pytest.raises(CupscaleError, match="more than 100 scans"):
        inspect.check("x", scans(120, 64), SimpleNamespace(format=kind, width=64, height=64))


@pytest.mark.parametrize("kind", ["JPEG2000", "TIFF", "AVIF", "HEIF", "PPM", "JPEG", "PNG"])
def test_either_many_pixels_or_many_bytes_are_decoded_elsewhere(kind):
    small, large = (SimpleNamespace(format=kind, width=1024, height=side) for side in (1024, 1025))
    elsewhere = kind not in ("JPEG", "PNG")
    assert not inspect.costly(bytes(2**18), small)
    assert inspect.costly(bytes(2**18 + 1), small) == inspect.costly(b"", large) == elsewhere


def test_a_jpeg_without_its_end_is_decoded_again_where_that_is_quick():
    """By hand: at most 2**25 pixels, and scans times pixels at most 2**29, which are 16 of 8192 x 4096."""
    own = inspect.count_scans(scans(0, 64), 1000)

    def looked(count, height):
        data = scans(count - own, 64)[:-2]
        assert inspect.count_scans(data, 1000) == count
        return inspect.without_its_end(data, SimpleNamespace(width=8192, height=height)) is not None

    assert looked(16, 4096) and not looked(17, 4096)
    plain = encoded(noise(64), "JPEG")[:-2]
    for height, again in ((4096, True), (4097, False)):
        found = inspect.without_its_end(plain, SimpleNamespace(width=8192, height=height))
        assert (found is not None) == again


def test_a_decoder_that_is_ended_while_it_answers_is_too_slow(monkeypatch):
    data = encoded(noise(48), "JPEG2000")
    monkeypatch.setattr(inspect, "costly", lambda data, image: True)
    whole = subprocess.run

    def ended(*given, **named):
        done = whole(*given, **named)
        assert done.returncode == 0
        done.returncode = -24  # SIGXCPU
        return done

    monkeypatch.setattr(worker.subprocess, "run", ended)
    with pytest.raises(CupscaleError, match="to decode, the limits of one image"):
        images.read(data)


@pytest.mark.parametrize(
    "runs", [7, None, "x", {}, [None], [7, {}], [RUN | {"rest": -1}], [RUN | {"output": 0}]]
)
def test_kept_runs_of_nonsense_are_none(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "device_name", lambda device: "card")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "cupscale").mkdir()
    (tmp_path / "cupscale" / "speed.json").write_text(json.dumps({"m | card | float32 none": runs}))
    assert machine.known_runs("m", "cpu") == [] and machine.known_speed("m", "cpu") is None
    machine.remember_run("m", "cpu", "float32 none", Run.read(RUN))
    assert machine.known_runs("m", "cpu") == [Run.read(RUN)]


@pytest.mark.parametrize("name", RUN)
@pytest.mark.parametrize("value", [float("inf"), float("nan"), True, None, [1]])
def test_a_run_of_numbers_that_are_none_is_none(name, value):
    assert Run.read(RUN) is not None and Run.read(RUN | {name: value}) is None


@pytest.mark.parametrize(
    "error",
    [
        OSError,
        SyntaxError,
        ValueError,
        RuntimeError,
        EOFError,
        struct.error,
        IndexError,
        KeyError,
        OverflowError,
    ],
)
def test_whatever_a_decoder_raises_is_said_in_words(error, monkeypatch):
    """Damage that the fuzzer finds once in some thousand files."""
    data = encoded(noise(48), "JPEG")

    def failing(*given, **named):
        raise error("x")

    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "getexif", failing)
        assert images.read(data).size == (48, 48)
    with monkeypatch.context() as patch:
        patch.setattr(ImageFile.ImageFile, "load", failing)
        with pytest.raises(CupscaleError, match="truncated or damaged"):
            images.read(data)
    with monkeypatch.context() as patch:
        patch.setattr(Image, "open", failing)
        with pytest.raises(CupscaleError, match="not an image that can be read"):
            images.read(data)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_every_way_of_being_full_is_said(number, tmp_path):
    with pytest.raises(CupscaleError, match="the disk is full"), writing._explained(tmp_path / "a.png"):
        raise OSError(number, "x")


def test_the_scale_that_an_output_is_told_fits():
    """By hand: 100 x 60 at 4 are 96,000 pixels; of 24,000 at most half the scale fits."""
    plan = SimpleNamespace(input=(100, 60), output=(400, 240))
    Limits(output_px=96_000).check_output(plan)
    with pytest.raises(CupscaleError, match=r"choose a scale of at most 2$"):
        Limits(output_px=24_000).check_output(plan)


def test_the_steps_that_a_scale_of_1_is_told_fit(monkeypatch):
    """Where no larger scale fits, with whatever steps."""

    def beyond(size, settings, limits):
        return "" if settings[0].scale == 1 and settings[0].steps <= 3 else "too much"

    monkeypatch.setattr(page_bounds, "_beyond", beyond)
    settings = [Settings.build(scale=4, steps=50)]
    with pytest.raises(CupscaleError, match="too much; choose a scale of 1 with at most 3 steps"):
        page_bounds.check_run((64, 48), settings, OWN)


@pytest.mark.parametrize(("free", "fits"), [(30_000, True), (29_999, False)])
def test_half_a_byte_a_pixel_has_to_be_free(free, fits, tmp_path, monkeypatch):
    monkeypatch.setattr(writing.shutil, "disk_usage", lambda folder: SimpleNamespace(free=free))
    if fits:
        writing.check_place(tmp_path / "big.png", (300, 200))
    else:
        with pytest.raises(CupscaleError, match="the disk is full"):
            writing.check_place(tmp_path / "big.png", (300, 200))


def test_a_jpeg_that_ends_in_its_frame_has_no_depth_to_tell():
    whole = b"\xff\xd8\xff\xc0\x00\x0b\x0c"
    assert inspect._jpeg_bits(whole) == 12 and inspect._jpeg_bits(whole[:-1]) == 0


@pytest.mark.parametrize("error", [RuntimeError, KeyError, struct.error, OverflowError])
def test_whatever_the_reader_of_odd_tiffs_raises_is_said_in_words(error, monkeypatch):
    import tifffile

    file = io.BytesIO()
    tifffile.imwrite(file, np.zeros((24, 32, 3), np.float32), photometric="rgb")

    def failing(*given, **named):
        raise error("x")

    for kind, name in ((tifffile.TiffPage, "asarray"), (tifffile, "TiffFile")):
        with monkeypatch.context() as patch:
            patch.setattr(kind, name, failing)
            with pytest.raises(CupscaleError, match="truncated or damaged"):
                samples.open_tiff("a.tif", file.getvalue())


def test_a_tiff_whose_pictures_go_round_has_those_there_are():
    """Two directories without entries, of which the second names the first as the next."""
    looped = b"II*\0" + struct.pack("<I", 8) + struct.pack("<HI", 0, 14) + struct.pack("<HI", 0, 8)
    assert inspect._count_tiff(looped) == 2


def test_a_gif_that_ends_within_a_picture_says_nothing_of_how_many_there_are():
    data = encoded(noise(48).convert("P"), "GIF")
    start = data.index(b",", 13 + 3 * 256)
    with Image.open(io.BytesIO(data)) as image:
        assert inspect.pages_notice(image, data) == ""
        assert inspect.pages_notice(image, data[: start + 5]) == ""  # its size is cut off
        twice = data[:-1] + data[start:-1]
        assert inspect._count_gif(twice) == 2
        assert (
            inspect._count_gif(twice + bytes([0x2C, 0, 0, 0, 0, 1, 0, 1, 0, 0, 2, 5])) == 3
        )  # no block ends it
