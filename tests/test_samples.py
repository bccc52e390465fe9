"""Odd samples, files that end early or hold several pictures, pictures in memory: right values, or the true reason."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

import cupscale
from cupscale import images
from cupscale.errors import CupscaleError
from cupscale.images import inspect
from cupscale.images.samples import to_8_bits

RAMP = np.linspace(0, 1, 18 * 23).reshape(18, 23)
COLOUR = np.stack([RAMP, RAMP[::-1] * 0.5, 1 - RAMP], -1)
WANTED = np.rint(COLOUR * 255)


def tiff(samples: np.ndarray, **options: Any) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, samples, **options)
    return buffer.getvalue()


def pixels(source: Any) -> np.ndarray:
    return np.asarray(images.read(source).rgb).astype(int)


def refusal(source: Any) -> str:
    with pytest.raises(CupscaleError) as caught:
        images.read(source)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# TIFF


@pytest.mark.parametrize(
    ("scale", "kind"),
    [
        (1, "f4"),
        (1, "f2"),
        (1, "f8"),
        (65535, "u2"),
        (4095, "u2"),
        (1023, "u2"),
        (2**32 - 1, "u4"),
        (255, "f4"),
    ],
)
@pytest.mark.parametrize(
    "options", [{}, {"compression": "zlib", "predictor": True}], ids=["plain", "deflate"]
)
def test_colour_tiffs(scale: float, kind: str, options: dict[str, Any]) -> None:
    if options and kind[0] == "f":
        options = {"compression": "zlib"}
    data = tiff((COLOUR * scale).astype(kind), photometric="rgb", **options)
    assert np.abs(pixels(data) - WANTED).max() <= 1


def test_what_is_guessed_is_said() -> None:
    (note,) = images.read(tiff((COLOUR * 4095).astype("u2"), photometric="rgb")).notices
    assert "4095 of 65535" in note and "12 bits" in note
    (note,) = images.read(tiff((RAMP * 1023).astype("u2"))).notices
    assert "10 bits" in note
    assert images.read(tiff((RAMP * 65535).astype("u2"))).notices == ()


def test_white_is_zero_and_planes_and_alpha() -> None:
    grey = np.repeat(np.rint(RAMP * 255)[..., None], 3, axis=2)
    assert (
        np.abs(pixels(tiff((65535 - RAMP * 65535).astype("u2"), photometric="miniswhite")) - grey).max() <= 1
    )
    planes = np.moveaxis((COLOUR * 65535).astype("u2"), -1, 0)
    assert np.abs(pixels(tiff(planes, photometric="rgb", planarconfig="separate")) - WANTED).max() <= 1
    half = np.dstack([COLOUR * 0.5, np.full_like(RAMP, 0.5)])
    for kind, scale in (("f4", 1.0), ("u2", 65535)):
        data = tiff((half * scale).astype(kind), photometric="rgb", extrasamples=["assocalpha"])
        picture = images.read(data)
        assert picture.alpha is not None and picture.alpha.getpixel((5, 3)) in (127, 128)
        assert np.abs(np.asarray(picture.rgb).astype(int) - WANTED).max() <= 2


def test_signed_and_float_grey_with_an_overshoot() -> None:
    grey = np.rint(RAMP * 255)
    assert np.abs(pixels(tiff((RAMP * 32767).astype("i2")))[..., 0] - grey).max() <= 1
    assert np.abs(pixels(tiff((RAMP * 65535 - 32768).astype("i2")))[..., 0] - grey).max() <= 1
    over = RAMP.astype("f4").copy()
    over[-1, -1] = 1.001
    assert np.abs(pixels(tiff(over))[..., 0] - grey).max() <= 1
    over[-1, -3:] = 7.5  # a lamp: what is above 1 is white, the rest as it is
    picture = images.read(tiff(over))
    assert np.abs(np.asarray(picture.rgb).astype(int)[:-1, :, 0] - grey[:-1]).max() <= 1
    assert "7.5 of 1" in picture.notices[0]
    stretched = images.read(tiff((RAMP * 9 - 2).astype("f4")))
    assert np.abs(np.asarray(stretched.rgb).astype(int)[..., 0] - grey).max() <= 1
    assert "from -2 to 7: stretched" in stretched.notices[0]


def packed(bits: int, photometric: int) -> bytes:
    """12 bits a sample, two in three bytes, 18 rows of 24."""
    values = np.rint(np.linspace(0, 4095, 18 * 24)).astype(int)
    data = b"".join(
        bytes([a >> 4, (a & 15) << 4 | b >> 8, b & 255])
        for a, b in zip(values[::2], values[1::2], strict=True)
    )
    tags = [
        (256, 24),
        (257, 18),
        (258, bits),
        (259, 1),
        (262, photometric),
        (273, 8),
        (277, 1),
        (278, 18),
        (279, len(data)),
    ]
    folder = struct.pack("<H", len(tags)) + b"".join(
        struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags
    )
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + folder + bytes(4)


def test_twelve_bits_that_lie_side_by_side() -> None:
    found = pixels(packed(12, 1))[..., 0]
    assert np.abs(found - np.rint(np.linspace(0, 255, 18 * 24)).reshape(18, 24)).max() <= 1
    message = refusal(packed(12, 0))
    assert "12-bit" in message and "MINISWHITE" in message and "8 or 16 bits" in message


def test_16_bits_of_a_compression_that_is_not_read_here_fall_back(tmp_path: Path) -> None:
    """LZW: Pillow reads it at 8 of its 16 bits."""
    grey = Image.fromarray((RAMP * 65535).astype(np.uint16))
    grey.save(tmp_path / "a.tif", compression="tiff_lzw")
    assert np.abs(pixels(tmp_path / "a.tif")[..., 0] - np.rint(RAMP * 255)).max() <= 1
    data = (tmp_path / "a.tif").read_bytes()
    tag = struct.pack("<HHIH", 262, 3, 1, 1)  # PhotometricInterpretation: black is 0
    assert data.count(tag) == 1
    turned = data.replace(tag, tag[:-2] + bytes(2))
    assert np.abs(pixels(turned)[..., 0] - np.rint((1 - RAMP) * 255)).max() <= 1


def test_orientation_profile_and_settings_of_an_odd_tiff() -> None:
    data = tiff(
        (COLOUR * 65535).astype("u2"),
        photometric="rgb",
        description='cupscale:{"seed":5}',
        metadata=None,
        extratags=[(274, 3, 1, 6, True)],
    )
    picture = images.read(data)
    assert images.read_size(data) == (18, 23)
    assert picture.size == (18, 23) and picture.metadata == {"seed": 5}
    assert np.abs(np.asarray(picture.rgb).astype(int) - np.rot90(WANTED, -1)).max() <= 1


def test_the_size_of_an_odd_tiff_and_its_limit(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(tiff(COLOUR.astype("f4"), photometric="rgb"))
    assert images.read_size(path) == (23, 18)
    with pytest.raises(CupscaleError, match="the limit is"):
        images.read(path, max_pixels=23 * 18 - 1)
    for share in (0.05, 0.3, 0.7):
        with pytest.raises(CupscaleError, match=r"truncated|is not an image"):
            images.read(path.read_bytes()[: int(path.stat().st_size * share)])


def test_bits_in_other_formats() -> None:
    twelve = (RAMP * 4095).astype(np.uint16)
    for kind in ("PNG", "JPEG2000"):
        buffer = io.BytesIO()
        Image.fromarray(twelve).save(buffer, kind)
        picture = images.read(buffer.getvalue())
        assert np.abs(np.asarray(picture.rgb)[..., 0].astype(int) - np.rint(RAMP * 255)).max() <= 1
        assert "12 bits" in picture.notices[0]
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32)).save(buffer, "JPEG")
    data = bytearray(buffer.getvalue())
    data[data.index(b"\xff\xc0") + 4] = 12
    assert "12-bit" in refusal(bytes(data))


def test_ranges_by_hand() -> None:
    assert to_8_bits(np.array([[True, False]]))[0].tolist() == [[255, 0]]
    assert to_8_bits(np.array([0, 200], np.uint16))[0].tolist() == [0, 1]  # nobody knows: 16 bits
    assert to_8_bits(np.array([0, 5000], np.uint16))[0].tolist() == [0, 19]
    assert to_8_bits(np.array([np.nan, 0.25, np.inf]))[0].tolist() == [0, 64, 255]
    assert to_8_bits(np.array([0, 1023], np.uint16))[0].tolist() == [0, 255]
    assert to_8_bits(np.array([0, 1024], np.uint16))[0].tolist() == [0, 64]
    assert to_8_bits(np.array([0.0, 40.0]))[0].tolist() == [0, 40]  # dark, of 255
    assert to_8_bits(np.array([-0.005, 0.5]))[0].tolist() == [0, 128]  # a filter's undershoot
    assert to_8_bits(np.array([np.nan, np.nan]))[0].tolist() == [0, 0]


# Files that end early, and files of several pictures


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"optimize": True}])
@pytest.mark.parametrize("missing", [1, 2])
def test_a_jpeg_without_its_end_mark_is_read_with_a_notice(options: dict[str, Any], missing: int) -> None:
    buffer = io.BytesIO()
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 57, 3), dtype=np.uint8))
    image.save(buffer, "JPEG", quality=90, **options)
    whole = buffer.getvalue()
    picture = images.read(whole[:-missing])
    assert (pixels(whole[:-missing]) == pixels(whole)).all()
    assert "the end of the file is missing" in picture.notices[0]
    for more in (8, 40, 200):
        assert "truncated" in refusal(whole[:-more])


def frames(kind: str, count: int, **options: Any) -> bytes:
    pictures = [Image.new("RGB", (24, 18), (40 * k, 200, 30)) for k in range(count)]
    buffer = io.BytesIO()
    pictures[0].save(buffer, kind, save_all=True, append_images=pictures[1:], **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF", "AVIF"])
def test_of_several_pictures_the_notice_says_which_and_how_many(kind: str) -> None:
    picture = images.read(frames(kind, 4))
    assert picture.notices == ("the image: it holds 4 pictures, of which number 1 is taken",)
    assert images.read(frames(kind, 1)).notices == ()


def test_counting_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    data = frames("GIF", 5)
    monkeypatch.setattr(inspect, "_MAX_STEPS", 6)
    assert "more than" in images.read(data).notices[0]


# Pictures in memory


def test_arrays_tensors_bytes_and_lists_of_one() -> None:
    eight = WANTED.astype(np.uint8)
    tensor = torch.from_numpy(COLOUR).permute(2, 0, 1).float()
    for source in (
        eight,
        (COLOUR * 65535).round().astype(np.uint16),
        (COLOUR * 65535).round().astype(">u2"),
        COLOUR,
        COLOUR.astype(np.float32)[None],
        tensor,
        tensor[None].bfloat16().float(),
        [Image.fromarray(eight)],
        (eight,),
    ):
        assert np.abs(pixels(source) - WANTED).max() <= 1
    assert (pixels(RAMP > 0.5)[..., 0] == 255 * (RAMP > 0.5)).all()
    alpha = images.read(np.dstack([eight, np.full(eight.shape[:2], 9, np.uint8)])).alpha
    assert alpha is not None and alpha.getextrema() == (9, 9)
    buffer = io.BytesIO()
    Image.fromarray(eight).save(buffer, "PNG")
    for source in (bytearray(buffer.getvalue()), memoryview(buffer.getvalue())):
        assert (pixels(source) == eight).all()
    flipped = eight[:, ::-1]  # not contiguous
    assert (pixels(flipped) == flipped).all()


def broken(count: int) -> bytes:
    raise ConnectionError("gone")


@pytest.mark.parametrize(
    ("source", "word"),
    [
        ([], "0 pictures"),
        ([np.zeros((20, 20), np.uint8)] * 2, "upscale_many"),
        (np.zeros((2, 20, 20, 3), np.uint8), "shape"),
        (np.zeros((20, 20, 5), np.uint8), "shape"),
        (np.zeros(20, np.uint8), "shape"),
        (np.zeros((0, 20, 3), np.uint8), "no pixel"),
        (np.full((20, 20), 255.0), "0 to 1"),
        (np.full((20, 20), np.nan), "0 to 1"),
        (np.zeros((20, 20), np.int64), "int64"),
        (np.zeros((20, 20), np.complex64), "complex64"),
        (torch.zeros(2, 3, 20, 20), "one at a time"),
        (torch.zeros(7), "shape"),
        (torch.full((3, 20, 20), -1.0), "0 to 1"),
        (None, "NoneType"),
        (42, "int is no picture"),
        (io.StringIO("text"), "'rb'"),
        (SimpleNamespace(read=lambda: b""), "'rb'"),
        (SimpleNamespace(read=broken), "cannot be read: gone"),
        (torch.eye(20).to_sparse(), "give a plain tensor"),
        (torch.zeros(3, 20, 20, device="meta"), "give a plain tensor"),
    ],
)
def test_what_is_no_picture_is_refused_in_words(source: Any, word: str) -> None:
    assert word in refusal(source)


def test_a_closed_file_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"x")
    with open(tmp_path / "a.png", "rb") as file:
        pass
    assert "'rb'" in refusal(file)


def test_the_notices_of_a_file_are_those_of_its_run() -> None:
    pipe = cupscale.load("tiny", device="cpu")
    source = frames("GIF", 3)
    fast = {
        "steps": 1,
        "strength": 0.1,
        "upscaler": "lanczos",
        "attention": 0.0,
        "guidance": 1.0,
        "captioner": "none",
    }
    events = list(cupscale.stream(pipe, source, **fast))
    said = [event.message for event in events if isinstance(event, cupscale.Notice)]
    assert any("it holds 3 pictures" in line for line in said)
    for bad in ([1, 2], object()):
        with pytest.raises(CupscaleError):
            cupscale.upscale(pipe, bad, **fast)
