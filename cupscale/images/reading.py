"""Images in: reading what people have.

Everything is 8-bit sRGB between `read` and `write`. The decoding is Pillow's; this file adds the limits,
the colour management and the alpha channel.

Transparency. Colour under alpha 0 is arbitrary (often black) and would bleed into the edges, both in a
resize and in a network that never sees alpha. `read` replaces it by a smooth continuation of the visible
colours ("bleed fill", push-pull: Gortler et al., The Lumigraph, 1996, section 3.4). RGB and alpha can then
be resized apart from each other.
"""

from __future__ import annotations

import io
import os
import stat
import threading
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageCms, ImageOps

from cupscale.bounded import parse_object
from cupscale.errors import CupscaleError
from cupscale.images import inspect, settings_text, worker
from cupscale.images.picture import Picture, Source
from cupscale.images.writing import SUFFIXES
from cupscale.settings import MIN_SIDE_PX

try:
    import pillow_heif
except ImportError:  # HEIC is then refused with a line that says what to install
    pillow_heif = None  # type: ignore[assignment]
else:
    pillow_heif.register_heif_opener()

MAX_PIXELS = 2**26  # 64 megapixels: 8192 x 8192
MAX_BYTES = 64 * 2**20
READABLE_SUFFIXES = (*SUFFIXES, ".heic", ".heif", ".gif", ".bmp", ".ppm", ".jp2")

# What `read` opens. Formats that run other programs (EPS) or only hint at a picture (WMF) stay out.
_READABLE = ("PNG", "JPEG", "MPO", "WEBP", "AVIF", "HEIF", "TIFF", "GIF", "BMP", "PPM", "JPEG2000")
_HEADS = ("PNG", "JPEG", "TIFF")  # of which a head is read; of the others the whole file
_READABLE_TEXT = "PNG, JPEG, WebP, AVIF, HEIC, TIFF, GIF or BMP"


def read(source: Source, *, max_pixels: int = MAX_PIXELS, max_bytes: int = MAX_BYTES) -> Picture:
    """Decode a path, the bytes of a file, an open binary file or a Pillow image.

    EXIF orientation is applied, ICC profiles are converted to sRGB (a broken profile is ignored), 16-bit
    and float samples are scaled to 8 bits, alpha is kept from wherever the format has it, and the first
    frame of an animation is taken.

    Raises CupscaleError for a missing file, a folder, no permission, 0 bytes, more than `max_bytes`,
    something that is not an image, a truncated one, more than `max_pixels` pixels, or a side below 16 px.
    """
    if isinstance(source, Image.Image):
        name = "the image"
        _check_size(name, source.size, max_pixels)
        return _decode(name, source)
    name, data = _bytes(source, max_bytes)
    with _open(name, io.BytesIO(data)) as image:
        _check_size(name, image.size, max_pixels)
        inspect.check(name, data, image)
        if inspect.costly(data, image):
            return worker.decode(name, data, max_pixels)
        return _decode(name, image)


def decode_here(name: str, data: bytes, max_pixels: int) -> Picture:
    """`read` of a file's bytes, whatever it costs.

    Raises:
        CupscaleError: As `read`.
    """
    with _open(name, io.BytesIO(data)) as image:
        _check_size(name, image.size, max_pixels)
        return _decode(name, image)


def read_size(
    source: str | Path | bytes, *, max_pixels: int = MAX_PIXELS, max_bytes: int = MAX_BYTES
) -> tuple[int, int]:
    """The (width, height) px that `read` would give, from the header: the pixels are not decoded.

    Raises CupscaleError as `read` does, but for pixels that are truncated or damaged.
    """
    name, data = _bytes(source, max_bytes)
    with _open(name, io.BytesIO(data)) as image:
        _check_size(name, image.size, max_pixels)
        try:
            sideways = image.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
        except Exception:  # damaged EXIF, which `read` ignores
            sideways = False
        return image.size[::-1] if sideways else image.size


def read_settings(source: str | Path | bytes) -> dict[str, Any] | None:
    """The cupscale settings inside a file written by `write`, or None. The pixels are not decoded.

    Raises CupscaleError as `read` does for a file that cannot be opened.
    """
    name, data = _bytes(source, MAX_BYTES * 16)
    return _settings_in(_open(name, io.BytesIO(data)))


def read_head(file: BinaryIO) -> tuple[dict[str, Any] | None, tuple[int, int]]:
    """The cupscale settings inside an open file, or None, and its (width, height), of any number. Nothing is decoded.

    Raises CupscaleError as `read` does for something that is not an image.
    """
    large = file.seek(0, io.SEEK_END) > MAX_BYTES * 4
    file.seek(0)
    with _open("the image", file, _HEADS if large else _READABLE) as image:
        return _settings_in(image), image.size


def open_own(path: str | Path) -> Image.Image:
    """A file that `write` wrote, of any number of pixels, not yet decoded. Raises OSError where it is not there."""
    with _unlimited:
        return Image.open(path, formats=_known(_READABLE))


def _settings_in(image: Image.Image) -> dict[str, Any] | None:
    text = settings_text.find(image)
    return None if text is None else parse_object(text, "the settings inside")


def _bytes(source: str | Path | bytes | BinaryIO, max_bytes: int) -> tuple[str, bytes]:
    """The name for messages, and the content."""
    if isinstance(source, (str, Path)):
        name = f"{str(source)!r}"
        try:
            status = os.stat(source)
            if stat.S_ISDIR(status.st_mode):
                raise CupscaleError(f"{name} is a folder; give one image file")
            if not stat.S_ISREG(status.st_mode):
                raise CupscaleError(f"{name} is not a regular file; give one image file")
            with open(source, "rb") as file:
                data = _limited(name, file, max_bytes)
        except FileNotFoundError:
            raise CupscaleError(f"{name} does not exist; check the path") from None
        except PermissionError:
            raise CupscaleError(f"{name} may not be read; give yourself read permission") from None
        except OSError as error:
            raise CupscaleError(f"{name} cannot be read: {error.strerror or error}; check the path") from None
        except CupscaleError:
            raise
        except ValueError:  # a NUL in the path
            raise CupscaleError(f"{name} is not a valid path; check it") from None
    elif isinstance(source, bytes):
        name, data = "the image", source
        if len(data) > max_bytes:
            raise _too_many_bytes(name, len(data), max_bytes)
    else:
        name = "the image"
        data = _limited(name, source, max_bytes)
    if not data:
        raise CupscaleError(f"{name} has 0 bytes; save or download it again")
    return name, data


def _limited(name: str, file: BinaryIO, max_bytes: int) -> bytes:
    data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        count = len(data) + len(file.read()) if not file.seekable() else file.seek(0, io.SEEK_END)
        raise _too_many_bytes(name, count, max_bytes)
    return data


def _too_many_bytes(name: str, count: int, limit: int) -> CupscaleError:
    return CupscaleError(
        f"{name} has {_megabytes(count)}, the limit is {_megabytes(limit)}; save it as JPEG or WebP"
    )


def _megabytes(count: int) -> str:
    return f"{count / 2**20:.1f} MB" if count >= 2**20 else f"{count} bytes"


def _open(name: str, file: BinaryIO, formats: Sequence[str] = _READABLE) -> Image.Image:
    """Read the header only."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with _unlimited:
                return Image.open(file, formats=_known(formats))
    except Exception:  # hostile headers raise nearly anything
        file.seek(0)
        if pillow_heif is None and file.read(12)[4:] in (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftypmsf1"):
            raise CupscaleError(f"{name} is HEIC, which needs pillow-heif; pip install pillow-heif") from None
        raise CupscaleError(
            f"{name} is not an image that can be read, or its head is damaged; give {_READABLE_TEXT}"
        ) from None


class _Unlimited:
    """Pillow's own limit on pixels put aside while a header is read: `_check_size` knows ours and says it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        self._lock.acquire()
        self._before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None

    def __exit__(self, *error: object) -> None:
        Image.MAX_IMAGE_PIXELS = self._before
        self._lock.release()


_unlimited = _Unlimited()


def _known(formats: Sequence[str]) -> list[str]:
    """Those that this Pillow opens."""
    Image.init()
    return [name for name in formats if name in Image.OPEN]


def _check_size(name: str, size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise CupscaleError(
            f"{name} is {width} x {height} = {width * height / 2**20:.1f} megapixels, "
            f"the limit is {max_pixels / 2**20:.4g}; make it smaller first"
        )
    if min(size) < MIN_SIDE_PX:
        raise CupscaleError(
            f"{name} is {width} x {height}, the limit is {MIN_SIDE_PX} px a side; give a larger image or crop"
        )


def _decode(name: str, image: Image.Image) -> Picture:
    """Pixels, from a checked header. Leaves the caller's image as it is."""
    depth_16 = bool(getattr(image, "tile", None)) and "16" in str(image.tile[0][3])  # type: ignore[attr-defined]
    try:
        image.load()
    except Exception:  # decoders raise OSError, SyntaxError, RuntimeError, EOFError, struct.error ...
        raise CupscaleError(f"{name} is truncated or damaged; save or download it again") from None
    text, quality = settings_text.find(image), _jpeg_quality(image)
    profile = image.info.get("icc_profile")
    transparency = image.info.get("transparency")
    try:
        image = ImageOps.exif_transpose(image)
    except Exception:  # damaged EXIF: the pixels are still good
        image = image.copy()

    alpha = None
    if image.mode.startswith("I;16"):
        samples = np.asarray(image)
        if isinstance(transparency, int):
            alpha = Image.fromarray(np.where(samples == transparency, 0, 255).astype(np.uint8))
        to_8_bits = np.round(np.arange(65536) / 257).astype(np.uint8)
        image = Image.fromarray(to_8_bits[samples])
    elif image.mode in ("I", "F"):
        image = Image.fromarray(_scaled(np.asarray(image)))
    elif image.has_transparency_data:
        if isinstance(transparency, tuple) and depth_16:  # the pixels keep 8 of 16 bits, the key must too
            image.info["transparency"] = tuple(v >> 8 for v in transparency)
        image = image.convert("RGBA")
        alpha = image.getchannel("A")
        image = image.convert("RGB")
    rgb = _to_srgb(image, profile)
    if alpha is not None and alpha.getextrema()[0] == 255:  # opaque, as every screenshot: no alpha at all
        alpha = None
    if alpha is not None:
        rgb = _bleed(rgb, alpha)
    rgb.info = {}
    return Picture(rgb, alpha, text, quality)


def _jpeg_quality(image: Image.Image) -> int | None:
    """1 to 100, from how much coarser the first table is than the standard's; None for other files."""
    tables = getattr(image, "quantization", None)
    if not tables or 0 not in tables:
        return None
    coarseness = 100 * sum(tables[0]) / 3688  # the standard's table of brightness has this sum
    quality = 100 - coarseness / 2 if coarseness <= 100 else 5000 / coarseness
    return min(100, max(1, round(quality)))


def _scaled(samples: np.ndarray) -> np.ndarray:
    """Integer ("I") or float ("F") samples of unknown range to uint8.

    Integers in 0..65535 count as 16-bit. Floats in 0..1, 0..255 or 0..65535 count as that range, a hundredth more on
    either side included. Anything
    else is stretched from its own minimum to its maximum. NaN is black.
    """
    floats = np.nan_to_num(samples.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    low, high = float(floats.min()), float(floats.max())
    ranges = (65535.0,) if samples.dtype.kind == "i" else (1.0, 255.0, 65535.0)
    slack = (
        0.01 if samples.dtype.kind == "f" else 0.0
    )  # a filter's overshoot is still of that range; it is clipped
    top = next((r for r in ranges if high <= r * (1 + slack)), None)
    if top is not None and low < -slack * top:
        top = None
    if top is None:
        floats -= low
        top = high - low
    return np.round(floats * (255.0 / top)).clip(0, 255).astype(np.uint8)


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Any 8-bit mode without alpha to RGB in sRGB."""
    if image.mode == "LAB":
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
        assert converted is not None
        return converted
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            description = (source.profile.profile_description or "").strip()
            space = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}[source.profile.xcolor_space.strip()]
            same_kind = (image.mode == "CMYK") == (space == "CMYK")
            if same_kind and description not in ("sRGB IEC61966-2.1", "sRGB built-in", "sRGB"):
                srgb = ImageCms.createProfile("sRGB")
                converted = ImageCms.profileToProfile(image.convert(space), source, srgb, outputMode="RGB")
                if converted is not None:
                    return converted
        except (ImageCms.PyCMSError, OSError, ValueError, KeyError, TypeError):
            pass  # a broken profile: the plain conversion below
    return image.convert("RGB")


def _bleed(rgb: Image.Image, alpha: Image.Image) -> Image.Image:
    """Replace the colour under alpha 0 by a smooth continuation of the visible colours; keep other pixels.

    Push: halve (alpha-weighted) until every pixel has a colour. Pull: fill each level from the coarser one.
    """
    low, high = alpha.getextrema()
    if low != 0 or high == 0:
        return rgb
    levels = [(rgb, alpha)]
    while levels[-1][1].getextrema()[0] == 0:
        coarse = Image.merge("RGBA", (*levels[-1][0].split(), levels[-1][1])).reduce(2)
        seen = coarse.getchannel("A").point([0] + [255] * 255)
        levels.append((coarse.convert("RGB"), seen))
    filled = levels.pop()[0]
    while levels:
        colour, seen = levels.pop()
        mask = seen.point([0] + [255] * 255)
        filled = Image.composite(colour, filled.resize(colour.size, Image.Resampling.BILINEAR), mask)
    return filled
