"""What a result's file holds where a person asks: 16 bits, dots per inch, the input's metadata and profile. Each is read back."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import tifffile
from PIL import ExifTags, Image

import cupscale
import cupscale.protect
from cupscale import images
from cupscale.errors import CupscaleError
from cupscale.events import Result
from cupscale.images import deep
from cupscale.images.profiles import in_profile
from cupscale.saving import Saving

SUFFIXES = ["png", "jpg", "webp", "avif", "tif"]
SAMPLES = np.random.default_rng(5).integers(0, 65536, (21, 34, 3)).astype(np.uint16)
TEXT = '{"seed": 7, "prompt": "Gemälde"}'
FAST = {
    "steps": 2,
    "strength": 0.5,
    "upscaler": "lanczos",
    "guidance": 1.0,
    "attention": 0.0,
    "captioner": "none",
}


def eight(samples: np.ndarray = SAMPLES) -> Image.Image:
    return Image.fromarray(np.rint(samples / 257).astype(np.uint8))


def rows_of(data: bytes) -> np.ndarray:
    """A 16-bit PNG of filter "up", undone by hand: (h, w, C)."""
    at, body, head = 8, b"", b""
    while at < len(data):
        (size,) = struct.unpack_from(">I", data, at)
        kind, part = data[at + 4 : at + 8], data[at + 8 : at + 8 + size]
        assert struct.unpack_from(">I", data, at + 8 + size)[0] == zlib.crc32(kind + part)
        head, body = (part if kind == b"IHDR" else head), body + part * (kind == b"IDAT")
        at += 12 + size
    width, height, bits, colour = struct.unpack(">IIBB", head[:10])
    assert bits == 16
    channels = {0: 1, 4: 2, 2: 3, 6: 4}[colour]
    raw, above, found = zlib.decompress(body), bytes(width * channels * 2), []
    for y in range(height):
        row = raw[y * (len(above) + 1) : (y + 1) * (len(above) + 1)]
        assert row[0] == 2
        above = bytes((a + b) % 256 for a, b in zip(row[1:], above, strict=True))
        found.append(np.frombuffer(above, ">u2").reshape(width, channels))
    return np.stack(found)


ADOBE_D50 = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))


def adobe_profile(
    parametric: bool = False,
    colorants: tuple[tuple[float, float, float], ...] = ADOBE_D50,
    gamma: float = 563 / 256,
) -> bytes:
    """Adobe RGB (1998), or another space of D50: three colorants and one curve, as bytes by hand (ICC.1, sections 7 and 10)."""

    def fixed(*values: float) -> bytes:
        return struct.pack(f">{len(values)}i", *(round(value * 65536) for value in values))

    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256))
    if parametric:
        curve = b"para" + bytes(4) + struct.pack(">HH", 0, 0) + fixed(gamma)
    description = b"desc" + bytes(4) + struct.pack(">I", 6) + b"adobe\0" + bytes(79)
    tags = {
        b"desc": description,
        b"cprt": b"text" + bytes(4) + b"none\0",
        b"wtpt": b"XYZ " + bytes(4) + fixed(0.9642, 1, 0.8249),
    }
    names = (b"rXYZ", b"gXYZ", b"bXYZ")
    tags |= {name: b"XYZ " + bytes(4) + fixed(*values) for name, values in zip(names, colorants, strict=True)}
    tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)
    table, data, at = struct.pack(">I", len(tags)), b"", 132 + 12 * len(tags)
    for name, body in tags.items():
        body += bytes(-len(body) % 4)
        table += struct.pack(">4sII", name, at + len(data), len(body))
        data += body
    head = struct.pack(
        ">I4sI4s4s4s12s4s",
        128 + len(table + data),
        b"lcms",
        0x02400000,
        b"mntr",
        b"RGB ",
        b"XYZ ",
        bytes(12),
        b"acsp",
    )
    head = head.ljust(68, b"\0") + fixed(0.9642, 1, 0.8249)
    return head.ljust(128, b"\0") + table + data


def cmyk_profile() -> bytes:
    return adobe_profile()[:16] + b"CMYK" + adobe_profile()[20:]


# 16 bits


def test_a_png_of_16_bits_holds_every_sample(tmp_path: Path) -> None:
    path = images.write(eight(), tmp_path / "a.png", TEXT, extras=images.Extras(deep=SAMPLES, dpi=300))
    assert (rows_of(path.read_bytes()) == SAMPLES).all()
    assert images.read_settings(path) == {"seed": 7, "prompt": "Gemälde"}
    with Image.open(path) as image:
        assert image.size == (34, 21) and round(image.info["dpi"][0]) == 300
        assert np.abs(np.asarray(image).astype(int) - SAMPLES // 256).max() == 0
    grey = images.write(eight().convert("L"), tmp_path / "g.png", extras=images.Extras(deep=SAMPLES[..., 0]))
    assert (rows_of(grey.read_bytes())[..., 0] == SAMPLES[..., 0]).all()


def test_strips_of_a_large_png(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deep, "_ROWS", 4)
    path = images.write(eight(), tmp_path / "a.png", extras=images.Extras(deep=SAMPLES))
    assert (rows_of(path.read_bytes()) == SAMPLES).all()


def test_a_tiff_of_16_bits_holds_every_sample_and_alpha(tmp_path: Path) -> None:
    image = eight().convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    extras = images.Extras(deep=SAMPLES, dpi=240, profile=adobe_profile())
    plain = images.write(eight(), tmp_path / "a.tif", TEXT, extras=images.Extras(deep=SAMPLES, dpi=240))
    assert (tifffile.imread(plain) == SAMPLES).all()
    assert images.read_settings(plain) == {"seed": 7, "prompt": "Gemälde"}
    path = images.write(image, tmp_path / "b.tif", TEXT, extras=extras)
    found = tifffile.imread(path)
    assert found.shape == (21, 34, 4) and (found[..., 3] == np.asarray(image)[..., 3].astype(int) * 257).all()
    back = images.read(path)
    assert back.alpha is not None and back.kept.profile == adobe_profile()
    png = images.write(image, tmp_path / "b.png", TEXT, extras=images.Extras(deep=SAMPLES))
    assert (rows_of(png.read_bytes())[..., 3] == np.asarray(image)[..., 3].astype(int) * 257).all()


@pytest.mark.parametrize("suffix", ["jpg", "webp", "avif"])
def test_16_bits_are_refused_where_the_format_has_none(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(CupscaleError, match=r"cannot hold 16 bits; save as PNG or TIFF"):
        images.check_writable(tmp_path / f"a.{suffix}", bits=16)
    with pytest.raises(CupscaleError, match=r"cannot hold 16 bits"):
        images.write(eight(), tmp_path / f"a.{suffix}", extras=images.Extras(deep=SAMPLES))


# Profiles


@pytest.mark.parametrize("parametric", [False, True])
def test_the_profile_of_16_bits_is_that_of_8_and_goes_back(parametric: bool) -> None:
    """By LittleCMS in 8 bits, and by our curves and matrix; Adobe RGB holds all of sRGB, so nothing is cut."""
    profile = adobe_profile(parametric)
    ours = deep.in_profile(SAMPLES, profile)
    cms = np.asarray(in_profile(eight(), profile)).astype(int)
    off = np.abs(ours / 257 - cms)
    assert (
        off[cms > 48].max() < 1 and off.mean() < 0.4
    )  # LittleCMS turns a steep curve in 8 bits round coarsely near black
    assert np.abs(cms - np.asarray(eight()).astype(int)).max() > 20
    back = np.asarray(images.read(encoded(Image.fromarray(cms.astype(np.uint8)), profile)).rgb).astype(int)
    assert np.abs(back - np.asarray(eight())).mean() < 1


def encoded(image: Image.Image, profile: bytes) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", icc_profile=profile)
    return buffer.getvalue()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_kept_profile_shows_the_same_colours(tmp_path: Path, suffix: str) -> None:
    flat = Image.new("RGB", (40, 32), (60, 160, 90))
    path = images.write(flat, tmp_path / f"a.{suffix}", extras=images.Extras(profile=adobe_profile()))
    with Image.open(path) as image:
        assert image.info["icc_profile"] == adobe_profile()
        stored = np.asarray(image.convert("RGB"))[9, 9].astype(int)
    assert np.abs(stored - (60, 160, 90)).max() > 20
    near = 6 if suffix == "avif" else 3  # its own rounding, which the way back widens
    assert np.abs(np.asarray(images.read(path).rgb)[9, 9].astype(int) - (60, 160, 90)).max() <= near


def test_a_profile_of_cmyk_is_said_where_it_cannot_be_held(tmp_path: Path) -> None:
    for suffix in ("png", "webp", "avif"):
        with pytest.raises(CupscaleError, match=r"CMYK in .* is not written; save as JPEG or TIFF"):
            images.check_writable(tmp_path / f"a.{suffix}", profile=cmyk_profile())
    with pytest.raises(CupscaleError, match=r"16 bits of CMYK"):
        images.check_writable(tmp_path / "a.tif", bits=16, profile=cmyk_profile())
    with pytest.raises(CupscaleError, match=r"made of tables"):
        images.check_writable(tmp_path / "a.tif", bits=16, profile=adobe_profile()[:200])


# Metadata


def photo(path: Path) -> Path:
    exif = Image.Exif()
    exif[ExifTags.Base.Make], exif[ExifTags.Base.Model] = "Maker", "Camera 3"
    exif[ExifTags.Base.Copyright], exif[ExifTags.Base.ImageDescription] = "(c) Someone", "SECRETNOTE"
    photo_fields = exif.get_ifd(ExifTags.IFD.Exif)
    photo_fields[ExifTags.Base.DateTimeOriginal] = "2026:05:04 03:02:01"
    photo_fields[ExifTags.Base.BodySerialNumber] = "SECRETSERIAL"
    exif.get_ifd(ExifTags.IFD.GPSInfo).update({1: "N", 2: (52.0, 31.0, 7.25), 3: "E", 4: (13.0, 24.0, 0.0)})
    Image.new("RGB", (40, 32), "teal").save(
        path, exif=exif, comment=b"SECRETCOMMENT", icc_profile=adobe_profile()
    )
    return path


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_metadata_is_kept_once_asked_and_the_place_twice(tmp_path: Path, suffix: str) -> None:
    kept = images.read(photo(tmp_path / "in.jpg")).kept
    settings = SimpleNamespace(to_json=lambda: TEXT)
    result = SimpleNamespace(
        image=Image.new("RGB", (40, 32), "teal"), settings=settings, kept=kept, deep=None
    )
    for asked in (0, 1, 2):
        path = tmp_path / f"{asked}.{suffix}"
        Saving(keep_metadata=asked).write(cast(Result, result), path)
        assert b"SECRET" not in path.read_bytes()
        with Image.open(path) as found:
            exif = found.getexif()
            place = dict(exif.get_ifd(ExifTags.IFD.GPSInfo))
            date = exif.get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.DateTimeOriginal) or exif.get(
                ExifTags.Base.DateTime
            )
            assert exif.get(ExifTags.Base.Model) == ("Camera 3" if asked else None)
            assert exif.get(ExifTags.Base.Copyright) == ("(c) Someone" if asked else None)
            assert date == ("2026:05:04 03:02:01" if asked else None)
            if asked == 2 and suffix != "tif":
                assert place[1] == "N" and [float(v) for v in place[2]] == [52, 31, 7.25]
            else:
                assert not place
        assert images.read_settings(path) == {"seed": 7, "prompt": "Gemälde"}


def test_metadata_goes_through_the_process_that_decodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = photo(tmp_path / "in.jpg").read_bytes()
    here = images.read(data)
    monkeypatch.setattr("cupscale.images.inspect.costly", lambda data, image: True)
    assert images.read(data).kept == here.kept and here.kept.place and here.kept.profile


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_dots_per_inch(tmp_path: Path, suffix: str) -> None:
    path = images.write(Image.new("RGB", (40, 32)), tmp_path / f"a.{suffix}", extras=images.Extras(dpi=300))
    with Image.open(path) as image:
        found = image.info.get("dpi", (0,))[0] or image.getexif().get(ExifTags.Base.XResolution)
        assert round(float(found)) == 300
        assert image.getexif().get(ExifTags.Base.ResolutionUnit, 2) == 2  # to an inch
    with pytest.raises(CupscaleError, match=r"dpi is 0"):
        Saving(dpi=0).check(path, size=(40, 32), picture=None)


# Whole runs


@pytest.fixture(scope="module")
def pipe():
    return cupscale.load("tiny", device="cpu")


def test_a_run_of_16_bits_has_more_levels_and_the_same_picture(pipe, tmp_path: Path) -> None:
    y, x = np.mgrid[0:24, 0:30]
    smooth = Image.fromarray(np.stack([100 + x, 90 + y, 120 + (x + y) // 2], -1).astype(np.uint8))
    result = cupscale.upscale(pipe, smooth, bits=16, scale=2, **FAST)
    assert result.deep is not None and result.deep.shape == (48, 60, 3)
    assert np.abs(result.deep / 257 - np.asarray(result.image)).max() <= 0.51
    assert len(np.unique(result.deep)) > 4 * len(np.unique(np.asarray(result.image)))
    result.save(tmp_path / "a.png", dpi=200)
    assert (rows_of((tmp_path / "a.png").read_bytes()) == result.deep).all()
    with pytest.raises(CupscaleError, match=r"16 bits"):
        result.save(tmp_path / "a.webp")
    assert cupscale.upscale(pipe, Image.radial_gradient("L").resize((24, 20)), bits=16, **FAST).deep.ndim == 2
    with pytest.raises(CupscaleError, match=r"bits is 12"):
        cupscale.upscale(pipe, smooth, bits=12, **FAST)


def test_a_mask_keeps_the_base_upscale_and_feathers_its_edge(pipe) -> None:
    image = Image.fromarray(np.random.default_rng(4).integers(0, 256, (40, 56, 3), dtype=np.uint8))
    mask = np.zeros((40, 56), np.uint8)
    mask[8:30, 6:26] = 255
    run = {**FAST, "scale": 2, "strength": 0.9, "steps": 4, "seed": 3, "restore": 0}
    free = np.asarray(cupscale.upscale(pipe, image, **run).image).astype(int)
    held = np.asarray(cupscale.upscale(pipe, image, mask=mask, **run).image).astype(int)
    all_held = np.asarray(cupscale.upscale(pipe, image, mask=np.full_like(mask, 255), **run).image).astype(
        int
    )
    from cupscale.correct import correct
    from cupscale.upscalers.choose import settle

    base = images.to_tensor(images.resize(image, (112, 80)))[0]
    chosen, _ = settle(cupscale.Settings.build(fidelity="auto", restore=0), images.Picture(image))
    correct(base, image, chosen.fidelity)
    wanted = np.asarray(images.to_image(base)).astype(int)
    assert np.abs(all_held - wanted).max() <= 1
    inside, outside = (slice(20, 56), slice(16, 48)), (slice(None), slice(80, None))
    assert (
        np.abs(held[inside] - wanted[inside]).mean() < 0.6
    )  # what the correction carries over the edge is all
    assert np.abs(held[outside] - free[outside]).mean() < 0.6
    assert np.abs(free[inside] - wanted[inside]).mean() > 3
    share = np.asarray(cupscale.protect.read_mask(mask, (56, 40))).astype(int)
    assert (share[mask == 255] == 255).all() and share[18, 40] == 0
    edge = share[18, 25:34]
    assert (np.diff(edge) <= 0).all() and len(np.unique(edge)) > 4


def test_a_mask_of_another_size_is_refused(pipe) -> None:
    with pytest.raises(CupscaleError, match=r"the mask is 20 x 30 and the image is 24 x 32"):
        cupscale.upscale(pipe, np.zeros((32, 24, 3), np.uint8), mask=np.zeros((30, 20), np.uint8), **FAST)
