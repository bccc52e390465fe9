"""Reading, resizing and writing images: every mode and format, and every refusal."""

from __future__ import annotations

import errno
import io
import json
import os
import struct
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image, ImageCms, ImageDraw, PngImagePlugin

from cupscale import images
from cupscale.errors import CupscaleError
from cupscale.images import tensors
from cupscale.method.regions import Size

SETTINGS = {"scale": 4.0, "seed": 7, "prompt": "a fox in the snow, Gemälde 雪"}
TEXT = json.dumps(SETTINGS, ensure_ascii=False)
SUFFIXES = ["png", "jpg", "jpeg", "webp", "avif", "tif", "tiff"]


def gradient(width: int = 48, height: int = 32) -> Image.Image:
    """A smooth RGB picture with all four corners different."""
    y, x = np.mgrid[0:height, 0:width].astype(float)
    channels = [255 * x / (width - 1), 255 * y / (height - 1), 255 - 127 * (x + y) / (width + height)]
    return Image.fromarray(np.stack(channels, -1).astype(np.uint8))


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def array(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)


def distance(a: Image.Image, b: Image.Image) -> float:
    """Mean difference in grey levels."""
    return float(np.abs(array(a) - array(b)).mean())


def refusal(action: Any, *args: Any, **kwargs: Any) -> str:
    with pytest.raises(CupscaleError) as caught:
        action(*args, **kwargs)
    message = str(caught.value)
    assert "\n" not in message
    return message


# Sources and modes


def test_every_kind_of_source(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    gradient().save(path)
    data = path.read_bytes()
    for source in (path, str(path), data, io.BytesIO(data), gradient(), Image.open(path)):
        picture = images.read(source)
        assert picture.rgb.mode == "RGB" and picture.alpha is None and picture.metadata == {}
        assert picture.size == (48, 32)
        assert distance(picture.rgb, gradient()) == 0


def test_the_callers_image_is_left_alone() -> None:
    image = gradient().convert("RGBA")
    image.info["comment"] = "mine"
    images.read(image).rgb.paste((0, 0, 0), (0, 0, 48, 32))
    assert image.mode == "RGBA" and image.info == {"comment": "mine"}
    assert distance(image.convert("RGB"), gradient()) == 0
    plain = gradient()
    images.read(plain).rgb.paste((0, 0, 0), (0, 0, 48, 32))
    assert distance(plain, gradient()) == 0


@pytest.mark.parametrize(
    "kind", ["PNG", "BMP", "TIFF", "PPM", "GIF", "JPEG", "WEBP", "AVIF", "HEIF", "JPEG2000"]
)
def test_formats(kind: str) -> None:
    if kind == "HEIF":
        pytest.importorskip("pillow_heif")
    options: dict[str, Any] = {"quality": 95} if kind in ("JPEG", "WEBP", "AVIF", "HEIF") else {}
    picture = images.read(encoded(gradient(), kind, **options))
    assert picture.rgb.mode == "RGB" and picture.size == (48, 32)
    assert distance(picture.rgb, gradient()) <= {"PNG": 0, "BMP": 0, "TIFF": 0, "PPM": 0, "GIF": 12}.get(
        kind, 4
    )


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "HSV", "LAB"])
def test_modes(mode: str) -> None:
    expected = gradient()
    if mode == "LAB":
        image = ImageCms.profileToProfile(
            expected, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
        )
        assert image is not None
    else:
        image = expected.convert(mode)
    if mode in ("1", "L", "P"):
        expected = image.convert("RGB")
    picture = images.read(image)
    assert picture.rgb.mode == "RGB" and picture.alpha is None
    assert distance(picture.rgb, expected) <= {"HSV": 3, "LAB": 3, "YCbCr": 2}.get(mode, 0)


def test_cmyk_jpeg() -> None:
    picture = images.read(encoded(gradient().convert("CMYK"), "JPEG", quality=95))
    assert distance(picture.rgb, gradient()) < 4


@pytest.mark.parametrize("kind", ["PNG", "TIFF", None])
def test_16_bit_grey_is_scaled_and_not_clipped(kind: str | None) -> None:
    samples = np.arange(0, 65536, 64, dtype=np.uint16).reshape(32, 32)
    image = Image.fromarray(samples)
    picture = images.read(encoded(image, kind) if kind else image)
    np.testing.assert_array_equal(array(picture.rgb)[..., 0], np.round(samples / 257))


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG from raw rows (each with its filter byte), for what Pillow does not write."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    result = b"\x89PNG\r\n\x1a\n"
    for tag, body in ((b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")):
        result += struct.pack(">I", len(body)) + tag + body + struct.pack(">I", zlib.crc32(tag + body))
    return result


def test_16_bit_rgb_and_its_key_colour() -> None:
    samples: np.ndarray = np.zeros((16, 16, 3), ">u2")
    samples[:, :8] = (65535, 32768, 4096)
    rows = b"".join(b"\0" + row.tobytes() for row in samples)
    picture = images.read(png(16, 16, 16, 2, rows))
    assert picture.rgb.getpixel((0, 0)) == (255, 128, 16) and picture.rgb.getpixel((15, 0)) == (0, 0, 0)
    keyed = images.read(png(16, 16, 16, 2, rows, (b"tRNS", struct.pack(">HHH", 65535, 32768, 4096))))
    assert keyed.alpha is not None
    assert keyed.alpha.getpixel((0, 0)) == 0 and keyed.alpha.getpixel((15, 0)) == 255


def test_16_bit_grey_key() -> None:
    samples = np.full((16, 16), 1000, ">u2")
    samples[:, :4] = 40000
    rows = b"".join(b"\0" + row.tobytes() for row in samples)
    picture = images.read(png(16, 16, 16, 0, rows, (b"tRNS", struct.pack(">H", 1000))))
    assert picture.alpha is not None
    assert picture.alpha.getpixel((0, 0)) == 255 and picture.alpha.getpixel((15, 0)) == 0
    assert picture.rgb.getpixel((0, 0)) == (156, 156, 156)


@pytest.mark.parametrize(
    ("dtype", "low", "high", "dark", "bright"),
    [
        (np.int32, 0, 65535, 0, 255),
        (np.int32, 0, 32768, 0, 128),
        (np.int32, -500, 500, 0, 255),
        (np.float32, 0.0, 1.0, 0, 255),
        (np.float32, 0.0, 0.5, 0, 128),
        (np.float32, 0.0, 255.0, 0, 255),
        (np.float32, 0.0, 65535.0, 0, 255),
        (np.float32, -3.0, 7.0, 0, 255),
    ],
)
def test_integer_and_float_samples(dtype: type, low: float, high: float, dark: int, bright: int) -> None:
    samples: np.ndarray = np.linspace(low, high, 16 * 16).reshape(16, 16).astype(dtype)
    for source in (Image.fromarray(samples), encoded(Image.fromarray(samples), "TIFF")):
        grey = array(images.read(source).rgb)[..., 0]
        assert (grey.min(), grey.max()) == (dark, bright)


def test_nan_samples_are_black() -> None:
    samples = np.ones((16, 16), np.float32)
    samples[0, 0] = np.nan
    assert images.read(Image.fromarray(samples)).rgb.getpixel((0, 0)) == (0, 0, 0)


def test_first_frame_of_an_animation() -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "lime")]
    for kind, options in (("GIF", {}), ("WEBP", {"lossless": True}), ("PNG", {}), ("TIFF", {})):
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
        assert images.read(data).rgb.getpixel((8, 8)) == (255, 0, 0), kind


# Orientation and colour


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
def test_orientation(orientation: int, kind: str) -> None:
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = gradient().transpose(undo[orientation]) if orientation > 1 else gradient()
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    options = {"quality": 95, "subsampling": 0} if kind == "JPEG" else {}
    picture = images.read(encoded(stored, kind, exif=exif, **options))
    assert picture.size == (48, 32)
    assert distance(picture.rgb, gradient()) < 2


@pytest.mark.parametrize(
    ("orientation", "size"), [(1, (48, 32)), (4, (48, 32)), (5, (32, 48)), (8, (32, 48))]
)
def test_the_size_from_the_header_is_that_of_the_pixels(tmp_path, orientation: int, size) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    file = tmp_path / "turned.jpg"
    file.write_bytes(encoded(gradient(), "JPEG", exif=exif)[:-20])  # its pixels are not looked at
    assert images.read_size(file) == size == images.read(encoded(gradient(), "JPEG", exif=exif)).size
    with pytest.raises(CupscaleError, match="the limit is"):
        images.read_size(file, max_pixels=48 * 32 - 1)


def test_orientation_turns_alpha_too() -> None:
    image = gradient().convert("RGBA")
    image.putpixel((0, 0), (1, 2, 3, 99))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    alpha = images.read(encoded(image, exif=exif)).alpha
    assert alpha is not None and alpha.size == (32, 48) and alpha.getpixel((31, 0)) == 99


def swapped_profile() -> bytes:
    """An sRGB profile with the red and green primaries swapped."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    tags = {
        bytes(data[at : at + 4]): at
        for at in range(132, 132 + 12 * struct.unpack(">I", data[128:132])[0], 12)
    }
    red, green = tags[b"rXYZ"], tags[b"gXYZ"]
    data[red + 4 : red + 12], data[green + 4 : green + 12] = (
        data[green + 4 : green + 12],
        data[red + 4 : red + 12],
    )
    return bytes(data.replace(b"s\0R\0G\0B", b"t\0e\0s\0t"))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_icc_profiles_become_srgb(mode: str, kind: str) -> None:
    image = Image.new("RGB", (16, 16), (220, 30, 60))
    image = image.quantize() if mode == "P" else image.convert(mode)
    if mode == "RGBA":
        image.putalpha(128)
    picture = images.read(encoded(image, kind, icc_profile=swapped_profile()))
    colour = picture.rgb.getpixel((8, 8))
    assert isinstance(colour, tuple) and np.abs(np.subtract(colour, (30, 220, 60))).max() <= 3
    assert (picture.alpha is not None) == (mode == "RGBA")


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK", "1"])
def test_broken_or_unfit_profiles_are_ignored(mode: str) -> None:
    image = gradient().convert(mode)
    whole = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for profile in (b"not a profile", whole[:200], whole[:128] + b"\xff" * 300):
        picture = images.read(encoded(image, "TIFF", icc_profile=profile))
        assert distance(picture.rgb, image.convert("RGB")) == 0
    rgb_profile_in_other_mode = images.read(encoded(image, "TIFF", icc_profile=swapped_profile()))
    assert rgb_profile_in_other_mode.rgb.mode == "RGB"


def test_an_srgb_profile_changes_nothing() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert distance(images.read(encoded(gradient(), icc_profile=profile)).rgb, gradient()) == 0


# Alpha


def test_alpha_from_every_place() -> None:
    mask = Image.linear_gradient("L").resize((48, 32))
    rgba = gradient()
    rgba.putalpha(mask)
    la = rgba.convert("LA")
    for source in (rgba, la, encoded(rgba), encoded(la), encoded(rgba, "WEBP", lossless=True, exact=True)):
        picture = images.read(source)
        assert picture.alpha is not None and picture.alpha.mode == "L"
        assert distance(picture.alpha, mask) == 0
    premultiplied = images.read(rgba.convert("RGBa"))
    assert premultiplied.alpha is not None and distance(premultiplied.alpha, mask) == 0
    palette = Image.new("P", (16, 16), 3)
    palette.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255])
    palette.putpixel((0, 0), 1)
    for transparency in (1, bytes([255, 0, 255, 255])):
        picture = images.read(encoded(palette, transparency=transparency))
        assert picture.alpha is not None
        assert picture.alpha.getpixel((0, 0)) == 0 and picture.alpha.getpixel((1, 0)) == 255
    for mode, key in (("L", 9), ("RGB", (9, 9, 9))):
        image = Image.new(mode, (16, 16), 200 if mode == "L" else (200, 200, 200))
        image.putpixel((0, 0), key)
        picture = images.read(encoded(image, transparency=key))
        assert picture.alpha is not None
        assert picture.alpha.getpixel((0, 0)) == 0 and picture.alpha.getpixel((1, 0)) == 255


@pytest.mark.parametrize("hidden", [(0, 0, 0), (255, 0, 255)])
def test_hidden_colour_does_not_bleed(hidden: tuple[int, int, int]) -> None:
    image = Image.new("RGBA", (64, 64), (*hidden, 0))
    ImageDraw.Draw(image).ellipse((16, 16, 47, 47), fill=(200, 120, 40, 255))
    picture = images.resize(images.read(image), (256, 256), "lanczos")
    result = images.finish(picture.rgb, picture.alpha)
    seen = array(result)[..., 3] > 0
    assert 0.1 < seen.mean() < 0.4
    assert np.abs(array(result)[seen][:, :3] - (200, 120, 40)).max() <= 1


def test_bleed_keeps_every_pixel_that_shows() -> None:
    rng = np.random.default_rng(0)
    samples = rng.integers(0, 256, (37, 53, 4), dtype=np.uint8)
    samples[..., 3][rng.random((37, 53)) < 0.7] = 0
    image = Image.fromarray(samples, "RGBA")
    picture = images.read(image)
    seen = samples[..., 3] > 0
    np.testing.assert_array_equal(np.asarray(picture.rgb)[seen], samples[seen][:, :3])
    lonely = np.zeros((64, 64, 4), np.uint8)
    lonely[3, 60] = (10, 200, 30, 255)  # one pixel colours the whole
    assert np.abs(array(images.read(Image.fromarray(lonely)).rgb) - (10, 200, 30)).max() <= 1
    nothing = images.read(Image.new("RGBA", (16, 16), (5, 6, 7, 0)))
    assert nothing.rgb.getpixel((0, 0)) == (5, 6, 7)


def test_finish() -> None:
    image = gradient()
    assert images.finish(image, None) is image
    result = images.finish(image, Image.new("L", (12, 8), 77))
    assert result.mode == "RGBA" and result.size == image.size
    assert result.getchannel("A").getextrema() == (77, 77)


# Tensors and resizing


def test_tensor_round_trip_is_exact() -> None:
    every_level = Image.fromarray(
        np.arange(256 * 3 * 16, dtype=np.uint32).astype(np.uint8).reshape(16, 256, 3)
    )
    tensor = images.to_tensor(every_level)
    assert tensor.shape == (1, 3, 16, 256) and tensor.dtype == torch.float32
    assert tensor.min() == -1 and tensor.max() == 1
    assert distance(images.to_image(tensor), every_level) == 0
    assert distance(images.to_image(tensor[0]), every_level) == 0


def test_strips_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    image = gradient(40, 31)
    tensor = images.to_tensor(image)
    for pixels in (1, 90, 40 * 31):
        monkeypatch.setattr(tensors, "_STRIP_PX", pixels)
        assert torch.equal(images.to_tensor(image), tensor)
        assert distance(images.to_image(tensor), image) == 0


def test_to_image_clips_and_takes_half_precision() -> None:
    tensor = torch.tensor([-5.0, 0.0, 5.0]).view(1, 3, 1, 1).expand(1, 3, 16, 16)
    assert images.to_image(tensor).getpixel((0, 0)) == (0, 128, 255)
    assert images.to_image(tensor.bfloat16()).getpixel((0, 0)) == (0, 128, 255)
    assert "NaN" in refusal(images.to_image, torch.full((1, 3, 16, 16), float("nan")))


@pytest.mark.parametrize("method", ["lanczos", "bicubic"])
def test_resize(method: images.Method) -> None:
    assert images.resize(gradient(), (101, 67), method).size == (101, 67)
    both = images.resize(
        images.Picture(gradient(), Image.new("L", (48, 32), 9), '{"seed": 1}'), (101, 67), method
    )
    assert both.size == (101, 67) and both.alpha is not None and both.alpha.size == (101, 67)
    assert both.metadata == {"seed": 1}
    assert distance(images.resize(gradient(), (48, 32), method), gradient()) == 0


def test_unknown_resize() -> None:
    assert "lanczos or bicubic" in refusal(images.resize, gradient(), (32, 32), "nearest")


# Writing


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_write_and_read_back(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix.upper()}"
    assert images.write(gradient(), path, TEXT) == path
    picture = images.read(path)
    assert distance(picture.rgb, gradient()) <= (0 if suffix in ("png", "tif", "tiff") else 4)
    assert picture.metadata == SETTINGS
    assert images.read_settings(path) == SETTINGS == images.read_settings(path.read_bytes())
    assert images.read(Image.open(path)).metadata == SETTINGS
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("suffix", ["png", "webp", "avif", "tif"])
def test_alpha_is_written(tmp_path: Path, suffix: str) -> None:
    image = gradient()
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    picture = images.read(images.write(image, tmp_path / f"a.{suffix}", TEXT))
    assert picture.alpha is not None and distance(picture.alpha, image.getchannel("A")) < 1
    assert picture.metadata == SETTINGS


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_without_settings(tmp_path: Path, suffix: str) -> None:
    path = images.write(gradient(), tmp_path / f"a.{suffix}")
    assert images.read_settings(path) is None and images.read(path).metadata == {}


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_nothing_private_is_kept(tmp_path: Path, suffix: str) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Model] = "SECRETCAMERA"
    exif.get_ifd(ExifTags.IFD.GPSInfo).update({1: "N", 2: (52.0, 31.0, 7.0)})
    source = tmp_path / "source.jpg"
    profile = swapped_profile()
    gradient().save(source, exif=exif, comment="SECRETNOTE", icc_profile=profile, xmp=b"<x>SECRETXMP</x>")
    assert dict(Image.open(source).getexif().get_ifd(ExifTags.IFD.GPSInfo))
    for image in (images.read(source).rgb, Image.open(source)):
        path = images.write(image, tmp_path / f"a.{suffix}", TEXT)
        data = path.read_bytes()
        assert b"SECRET" not in data and profile not in data
        assert not dict(Image.open(path).getexif().get_ifd(ExifTags.IFD.GPSInfo))
        assert not set(Image.open(path).info) & {"comment", "xmp", "icc_profile"}


@pytest.mark.parametrize("suffix", ["jpg", "webp", "avif", "tif", "png"])
def test_long_settings(tmp_path: Path, suffix: str) -> None:
    settings = {"captions": [f"{i}: a fox in the snow, {i * i} flakes" for i in range(3000)]}
    path = images.write(gradient(), tmp_path / f"a.{suffix}", json.dumps(settings))
    assert images.read_settings(path) == settings


def test_settings_too_long_for_exif(tmp_path: Path) -> None:
    noise = json.dumps({"x": np.random.default_rng(0).bytes(100_000).hex()})
    assert "save as PNG" in refusal(images.write, gradient(), tmp_path / "a.jpg", noise)
    images.write(gradient(), tmp_path / "a.png", noise)
    assert os.listdir(tmp_path) == ["a.png"]


@pytest.mark.parametrize("text", ["not json", "[1, 2]", "[" * 5000, "null", ""])
def test_foreign_settings_are_ignored(text: str) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_itxt("cupscale", text)
    data = encoded(gradient(), pnginfo=info)
    assert images.read_settings(data) is None and images.read(data).metadata == {}


def test_foreign_and_damaged_exif_is_ignored() -> None:
    exif = Image.Exif()
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = b"ASCII\0\0\0hello"
    assert images.read_settings(encoded(gradient(), "JPEG", exif=exif)) is None
    for damaged in (b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"Exif\0\0rubbish"):
        picture = images.read(encoded(gradient(), "JPEG", exif=damaged))
        assert picture.size == (48, 32) and picture.metadata == {}


def test_same_bytes_each_time(tmp_path: Path) -> None:
    for suffix in SUFFIXES:
        first, second = (
            images.write(gradient(), tmp_path / f"{n}.{suffix}", TEXT).read_bytes() for n in "ab"
        )
        assert first == second, suffix


def test_grey_and_odd_modes_are_written(tmp_path: Path) -> None:
    for mode in ("L", "P", "LA", "CMYK", "1"):
        images.write(gradient().convert(mode), tmp_path / "a.png")
        assert images.read(tmp_path / "a.png").size == (48, 32)


# Bad input


def test_missing_folder_and_empty(tmp_path: Path) -> None:
    empty = tmp_path / "empty.png"
    empty.touch()
    assert "does not exist" in refusal(images.read, tmp_path / "none.png")
    assert "is a folder" in refusal(images.read, tmp_path)
    assert "0 bytes" in refusal(images.read, empty)
    assert "0 bytes" in refusal(images.read, b"")
    assert "0 bytes" in refusal(images.read, io.BytesIO())
    assert "not a valid path" in refusal(images.read, "a\0b.png")
    assert "does not exist" in refusal(images.read, "two\nlines.png")
    assert "does not exist" in refusal(images.read_settings, tmp_path / "none.png")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are for POSIX systems")
def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    assert "regular file" in refusal(images.read, tmp_path / "pipe.png")


@pytest.mark.parametrize(
    "data", [b"hello", b"\0" * 4000, b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%!PS\n"]
)
def test_not_an_image(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(data)
    assert "is not an image" in refusal(images.read, path)
    assert "is not an image" in refusal(images.read_settings, data)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "AVIF", "HEIF", "TIFF", "GIF", "BMP", "JPEG2000"])
def test_truncated(kind: str) -> None:
    if kind == "HEIF":
        pytest.importorskip("pillow_heif")
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    whole = encoded(noise, kind)
    for share in (0.02, 0.3, 0.6, 0.9):
        message = refusal(images.read, whole[: int(len(whole) * share)])
        assert "truncated" in message or "is not an image" in message


def test_damaged_bytes_never_escape_as_something_else() -> None:
    rng = np.random.default_rng(0)
    for kind in ("PNG", "JPEG", "WEBP", "TIFF", "GIF"):
        whole = encoded(gradient(), kind)
        for _ in range(60):
            damaged = bytearray(whole)
            for at in rng.integers(0, len(whole), 4):
                damaged[at] = rng.integers(256)
            try:
                images.read(bytes(damaged))
            except CupscaleError as error:
                assert "\n" not in str(error)


def test_too_many_pixels() -> None:
    bomb = png(30000, 30000, 1, 0, b"")
    message = refusal(images.read, bomb)
    assert "megapixels" in message and "limit is 64" in message and "smaller" in message
    assert "9000 x 9000" in refusal(images.read, png(9000, 9000, 1, 0, b""))
    assert "limit is" in refusal(images.read, gradient(), max_pixels=48 * 32 - 1)
    assert images.read(gradient(), max_pixels=48 * 32).size == (48, 32)


def test_too_many_bytes(tmp_path: Path) -> None:
    data = encoded(gradient())
    path = tmp_path / "a.png"
    path.write_bytes(data)
    for source in (path, data, io.BytesIO(data)):
        message = refusal(images.read, source, max_bytes=len(data) - 1)
        assert f"{len(data)} bytes" in message and f"{len(data) - 1} bytes" in message
        assert images.read(path, max_bytes=len(data)).size == (48, 32)
    with open(path, "ab") as file:
        file.truncate(images.MAX_BYTES + 2**20)  # a sparse file
    assert "65.0 MB, the limit is 64.0 MB" in refusal(images.read, path)


@pytest.mark.parametrize("size", [(15, 400), (400, 15), (1, 1)])
def test_too_small(size: tuple[int, int]) -> None:
    for source in (Image.new("RGB", size), encoded(Image.new("RGB", size))):
        assert "16 px a side" in refusal(images.read, source)
    assert images.read(Image.new("RGB", (16, 16))).size == (16, 16)


def test_no_read_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    gradient().save(path)

    def denied(*args: Any, **kwargs: Any) -> Any:  # root may read everything, so the system call is replaced
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("builtins.open", denied)
    assert "may not be read" in refusal(images.read, path)


def test_heic_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cupscale.images.reading.pillow_heif", None)
    monkeypatch.setattr("cupscale.images.reading._READABLE", ("PNG",))
    assert "pip install pillow-heif" in refusal(images.read, b"\0\0\0\x18ftypheic" + bytes(100))


# Bad output


def both(path: Path, image: Image.Image) -> str:
    """The refusal of `write`, which `check_writable` gives too, before the run."""
    alpha = image.mode == "RGBA"
    early = refusal(images.check_writable, path, size=image.size, alpha=alpha)
    assert early == refusal(images.write, image, path)
    return early


def test_writing_to_bad_places(tmp_path: Path) -> None:
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "file").touch()
    assert "use one of .png" in both(tmp_path / "a.gif", gradient())
    assert "use one of .png" in both(tmp_path / "a", gradient())
    assert "make it first" in both(tmp_path / "none" / "a.png", gradient())
    assert "make it first" in both(tmp_path / "file" / "a.png", gradient())
    assert "is a folder" in both(tmp_path / "folder.png", gradient())
    assert sorted(os.listdir(tmp_path)) == ["file", "folder.png"]


def test_alpha_in_a_jpeg(tmp_path: Path) -> None:
    image = gradient()
    image.putalpha(128)
    assert "save as PNG or WebP" in both(tmp_path / "a.jpg", image)
    image.putalpha(255)  # opaque: nothing is lost
    images.write(image, tmp_path / "a.jpg")


@pytest.mark.parametrize(("suffix", "side"), [("jpg", 65500), ("webp", 16383)])
def test_sides_too_long(tmp_path: Path, suffix: str, side: int) -> None:
    assert f"is {side} px" in both(tmp_path / f"a.{suffix}", Image.new("L", (side + 1, 1)))
    images.write(Image.new("L", (side, 1)), tmp_path / f"b.{suffix}")
    images.write(Image.new("L", (side + 1, 1)), tmp_path / "b.png")


@pytest.mark.parametrize("quality", [0, 101])
def test_quality_out_of_range(tmp_path: Path, quality: int) -> None:
    assert "1 and 100" in refusal(images.write, gradient(), tmp_path / "a.jpg", quality=quality)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (errno.ENOSPC, "disk is full"),
        (errno.EDQUOT, "disk is full"),
        (errno.EACCES, "no permission"),
        (errno.EROFS, "no permission"),
        (errno.EIO, "cannot be written"),
    ],
)
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_failures_leave_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, words: str, call: str
) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"the old file")

    def fail(*args: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, call, fail)
    message = refusal(images.write, gradient(), path, TEXT)
    assert words in message and "another folder" in message
    assert path.read_bytes() == b"the old file" and os.listdir(tmp_path) == ["a.png"]


def test_an_interrupt_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*args: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        images.write(gradient(), tmp_path / "a.png")
    assert os.listdir(tmp_path) == []


def test_no_write_permission(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere; the error itself is covered above")
    tmp_path.chmod(0o500)
    try:
        assert "no permission" in both(tmp_path / "a.png", gradient())
    finally:
        tmp_path.chmod(0o700)


def test_write_protected_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"keep me")
    monkeypatch.setattr(os, "access", lambda *args: False)
    assert "write-protected" in both(path, gradient())
    assert path.read_bytes() == b"keep me"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="/dev/full is a Linux device")
def test_a_really_full_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = open
    monkeypatch.setattr("builtins.open", lambda path, mode, *rest: real("/dev/full", "wb"))
    message = refusal(images.write, gradient(), tmp_path / "a.png")
    assert "the disk is full" in message and os.listdir(tmp_path) == []


def test_check_writable_leaves_no_trace_and_counts_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images.check_writable(tmp_path / "a.png", size=(4096, 4096))
    old = tmp_path / "b.png"
    old.write_bytes(b"old")
    images.check_writable(old)
    assert old.read_bytes() == b"old" and os.listdir(tmp_path) == ["b.png"]
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=0))
    assert "the disk is full" in refusal(images.check_writable, old, size=(4096, 4096))


def test_a_link_keeps_pointing(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    link = tmp_path / "link.png"
    link.symlink_to(tmp_path / "real" / "a.png")
    images.write(gradient(), link)
    assert link.is_symlink() and (tmp_path / "real" / "a.png").is_file()


def test_an_opaque_alpha_is_none() -> None:
    assert images.read(encoded(Image.new("RGBA", (32, 32), (0, 128, 128, 255)))).alpha is None
    nearly = Image.new("RGBA", (32, 32), (0, 128, 128, 255))
    nearly.putpixel((3, 4), (0, 128, 128, 254))
    assert images.read(encoded(nearly)).alpha is not None


def test_a_float_overshoot_is_of_its_range() -> None:
    ramp = np.linspace(0, 1, 1024, dtype=np.float32).reshape(32, 32).copy()
    ramp[-1, -1], ramp[0, 0] = 1.001, -0.002
    grey = array(images.read(encoded(Image.fromarray(ramp), "TIFF")).rgb)[..., 0]
    assert grey.max() == 255 and grey.min() == 0 and abs(grey.mean() - 127.5) < 0.5


@pytest.mark.parametrize("suffix", ["png", "webp", "jpg", "avif", "tif"])
def test_settings_are_read_without_decoding_a_pixel(suffix, tmp_path, monkeypatch):
    from PIL import ImageFile

    path = images.write(Image.new("RGB", (64, 48)), tmp_path / f"a.{suffix}", '{"scale": 3}')
    plain = images.write(Image.new("RGB", (64, 48)), tmp_path / f"b.{suffix}")

    def decoded(self):
        raise AssertionError("decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", decoded)
    assert images.read_settings(path) == {"scale": 3}
    assert images.read_settings(plain) is None


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_head_of_a_result_of_any_size_is_read_without_a_pixel(suffix, tmp_path, monkeypatch):
    path = images.write(gradient(), tmp_path / f"made.{suffix}", TEXT)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # 1,536 pixels are a bomb by now
    with path.open("rb") as file:
        if suffix != "avif":  # whose plugin decodes to know its size
            monkeypatch.setattr(Image.Image, "load", lambda image: pytest.fail("it was decoded"))
        assert images.read_head(file) == (SETTINGS, (48, 32))


def test_a_result_of_any_size_is_opened_again(tmp_path, monkeypatch):
    path = images.write(gradient(), tmp_path / "made.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(Image.DecompressionBombError):
        Image.open(path)
    with images.open_own(path) as image:
        np.testing.assert_array_equal(np.asarray(image), np.asarray(gradient()))


def test_a_file_whose_length_is_not_told_is_read_whole():
    """As the system says 0 of files under /proc, and some file systems of a network do."""

    class Untold(io.BytesIO):
        def seek(self, offset: int, whence: int = 0) -> int:
            return 0 if whence == io.SEEK_END else super().seek(offset, whence)

    buffer = io.BytesIO()
    gradient().save(buffer, "PNG")
    assert images.read(Untold(buffer.getvalue())).size == gradient().size
    assert "the limit is" in refusal(images.read, Untold(buffer.getvalue()), max_bytes=100)


def test_16_bits_hold_every_level_of_8_and_of_16() -> None:
    every = torch.arange(65536).view(1, 256, 256).expand(3, 256, 256)
    kept = tensors.to_int16(every.double() / 32767.5 - 1)
    assert kept.dtype == torch.int16 and torch.equal(kept.int(), every.int() - 32768)
    assert np.array_equal(tensors.to_uint16(kept), every.permute(1, 2, 0).numpy().astype(np.uint16))
    assert torch.allclose(tensors.to_float(kept), every.float() / 32767.5 - 1, atol=1e-6)
    every_level = images.to_tensor(
        Image.fromarray(np.arange(256 * 3, dtype=np.uint32).astype(np.uint8).reshape(1, 256, 3))
    )
    assert torch.equal(
        tensors.to_int16(every_level).int() + 32768, (every_level * 127.5 + 127.5).round().int() * 257
    )
    assert torch.equal(images.to_tensor(images.to_image(tensors.to_int16(every_level))), every_level)


def test_16_bits_clip_and_refuse_what_is_no_number() -> None:
    found = tensors.to_int16(torch.tensor([-3.0, -1.0, 0.0, 1.0, 2.0]))
    assert found.tolist() == [-32768, -32768, 0, 32767, 32767]  # 0 lies half way, and halves round to even
    assert "NaN" in refusal(tensors.to_int16, torch.tensor([0.0, float("nan")]))
    assert "NaN" in refusal(tensors.to_int16, torch.tensor([0.0, float("inf")]))


def test_a_part_of_a_picture_is_written_as_the_rest_is_kept() -> None:
    band = torch.tensor([[[-1.0, 0.25], [0.5, 1.0]]])
    for kept in (torch.zeros(1, 3, 2), torch.zeros(1, 3, 2, dtype=torch.int16)):
        tensors.put(band, kept[:, 1:])
        assert torch.allclose(tensors.to_float(kept)[:, 1:], band, atol=2e-5)
        assert kept[0, 0].abs().max() == 0


def test_a_padded_picture_carries_its_last_row_and_column_on() -> None:
    image = gradient(21, 18)
    found = tensors.padded(image, Size(3, 4), 8)
    assert found.dtype == torch.uint8 and found.shape == (1, 3, 24, 32)
    expected = tensors.carried_on(images.to_tensor(image), 24, 32)
    assert torch.equal(found.float() / 127.5 - 1, expected)
