"""Images in: reading what people have, within bounds.

What a file holds is looked at before its pixels are decoded: its length, its size, its scans. Decoders whose time does not
follow from the pixels run in a process of their own.
"""

from __future__ import annotations

import io
import threading
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

from PIL import ExifTags, Image

from cupscale.bounded import parse_object
from cupscale.errors import CupscaleError
from cupscale.images import inspect, samples, settings_text, worker
from cupscale.images.decoding import decode
from cupscale.images.picture import Picture, Source
from cupscale.images.sources import content, plain
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
    """Decode a path, the bytes of a file, an open binary file, a Pillow image, an array or a tensor (see `sources.plain`).

    EXIF orientation is applied, colour is converted to sRGB by what the file declares (a broken profile is ignored), samples
    of other than 8 bits are scaled, alpha is kept from wherever the format has it, and the first picture of several is taken.
    What is guessed, bent or left out stands in the picture's notices.

    Raises CupscaleError for a missing file, a folder, no permission, 0 bytes, more than `max_bytes`,
    something that is not an image, a truncated one, more than `max_pixels` pixels, or a side below 16 px.
    """
    source = plain(source)
    if isinstance(source, Image.Image):
        name = "the image"
        _check_size(name, source.size, max_pixels)
        return decode(name, source, b"")
    name, data = content(source, max_bytes)
    inspect.check_bits(name, data)
    if _is_odd_tiff(name, data):
        return worker.decode(name, data, max_pixels)
    with _open(name, io.BytesIO(data)) as image:
        _check_size(name, image.size, max_pixels)
        inspect.check(name, data, image)
        if inspect.costly(data, image):
            return worker.decode(name, data, max_pixels)
        return decode(name, image, data)


def decode_here(name: str, data: bytes, max_pixels: int) -> Picture:
    """`read` of a file's bytes, whatever it costs.

    Raises:
        CupscaleError: As `read`.
    """
    if _is_odd_tiff(name, data):
        _check_size(name, samples.tiff_size(name, data), max_pixels)
        try:
            image, note = samples.open_tiff(name, data)
        except CupscaleError:
            if not _pillow_knows(name, data):
                raise
        else:
            picture = decode(name, image, b"")
            notes = (note, inspect.pages_notice(image, data))
            said = (*(f"{name}: {note}" for note in notes if note), *picture.notices)
            return replace(picture, notices=said)
    with _open(name, io.BytesIO(data)) as image:
        _check_size(name, image.size, max_pixels)
        return decode(name, image, data)


def _is_odd_tiff(name: str, data: bytes) -> bool:
    """Whether a file is a TIFF of other samples than unsigned ones of 8 bits or fewer, which is read in another way."""
    if not samples.is_tiff(data):
        return False
    try:
        with _open(name, io.BytesIO(data)) as image:
            return samples.is_odd(image)
    except CupscaleError:
        return True


def _pillow_knows(name: str, data: bytes) -> bool:
    try:
        with _open(name, io.BytesIO(data)) as image:
            return samples.pillow_reads(image)
    except CupscaleError:
        return False


def read_size(
    source: str | Path | bytes, *, max_pixels: int = MAX_PIXELS, max_bytes: int = MAX_BYTES
) -> tuple[int, int]:
    """The (width, height) px that `read` would give, from the header: the pixels are not decoded.

    Raises CupscaleError as `read` does, but for pixels that are truncated or damaged.
    """
    name, data = content(source, max_bytes)
    if _is_odd_tiff(name, data):
        size = samples.tiff_size(name, data)
        _check_size(name, size, max_pixels)
        return size
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
    name, data = content(source, MAX_BYTES * 16)
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
