"""What a file will cost to decode, seen before it is decoded."""

from __future__ import annotations

import hashlib
import io
import re
import struct
import warnings
from collections.abc import Iterator

from PIL import Image

from cupscale.errors import CupscaleError

MAX_SCANS = 100  # of a JPEG; cameras and optimizers write 1 to 20
MAX_SCANNED_PIXELS = 2**31  # scans times pixels: about 2 s
# Decoders whose time does not follow from the number of pixels, and those that take more than a second for a large image.
_COSTLY = ("JPEG2000", "TIFF", "AVIF", "HEIF", "PPM")
_SMALL_PIXELS = 2**20
_SMALL_BYTES = 2**18

_START_OF_SCAN, _END = 0xDA, 0xD9
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # markers of a JPEG's frame header
_MOST_REPEATED_PX = 2**25  # of a picture that is decoded several times
_MAX_STEPS = 200_000  # through the blocks of a file, to count its pictures
_COUNTED_BY_HEADER = ("PNG", "WEBP", "AVIF", "HEIF", "MPO")
_ALONE = {0x01, *range(0xD0, 0xD9)}  # markers without a length
_MARKER_IN_SCAN = re.compile(rb"\xff(?![\x00\xd0-\xd7\xff])")  # not stuffed, not a restart, not a fill


def check(name: str, data: bytes, image: Image.Image) -> None:
    """Refuse a JPEG of so many scans that decoding it takes long.

    Args:
        name: For the message.
        data: The file.
        image: Opened, not loaded.

    Raises:
        CupscaleError: Too many scans for its size.
    """
    if image.format not in ("JPEG", "MPO"):
        return
    pixels = image.width * image.height
    most = max(1, min(MAX_SCANS, MAX_SCANNED_PIXELS // pixels))
    scans = count_scans(data, most + 1)
    if scans > most:
        raise CupscaleError(
            f"{name} is a JPEG of more than {most} scans, the limit at {image.width} x {image.height}; "
            "save it again as a plain JPEG or PNG"
        )


def count_scans(data: bytes, enough: int) -> int:
    """Scans of a JPEG's first picture, counted up to `enough`, by its markers."""
    scans = 0
    for kind, _ in _markers(data):
        scans += kind == _START_OF_SCAN
        if scans == enough:
            break
    return scans


def check_bits(name: str, data: bytes) -> None:
    """Refuse a JPEG of other than 8 bits, by its name.

    Raises:
        CupscaleError: It has 12 or 16.
    """
    bits = _jpeg_bits(data) if data[:2] == b"\xff\xd8" else 8
    if bits in (12, 16):
        raise CupscaleError(
            f"{name} is a JPEG of {bits}-bit samples, which is not read; save it as PNG or TIFF"
        )


def _jpeg_bits(data: bytes) -> int:
    for kind, at in _markers(data):
        if kind in _FRAMES:
            return data[at + 4] if at + 4 < len(data) else 0
        if kind == _START_OF_SCAN:
            break
    return 0


def _markers(data: bytes) -> Iterator[tuple[int, int]]:
    """(kind, place) of the markers with a length of a JPEG's first picture."""
    at = 2
    while at + 4 <= len(data):
        if data[at] != 0xFF:  # inside of a scan, or damaged: on to the next marker
            found = _MARKER_IN_SCAN.search(data, at)
            if found is None:
                return
            at = found.start()
            continue
        kind = data[at + 1]
        if kind == 0xFF:
            at += 1
        elif kind == _END:
            return
        elif kind in _ALONE or kind == 0:
            at += 2
        else:
            yield kind, at
            at += 2 + max(2, int.from_bytes(data[at + 2 : at + 4], "big"))


def without_its_end(data: bytes, image: Image.Image) -> Image.Image | None:
    """A JPEG that lacks its end mark and no pixel, loaded; None where pixels are missing, or it is too large to see that.

    A decoder fills what is missing with zeros. So the file is decoded with other bits behind it first: where a pixel is
    missing, they are read for it and the pictures differ.

    Args:
        data: The file.
        image: Opened.
    """
    pixels = image.width * image.height
    if pixels > _MOST_REPEATED_PX or pixels * count_scans(data, MAX_SCANS) > MAX_SCANNED_PIXELS // 4:
        return None
    seen = set()
    for behind in (*(bytes([byte] * 4096) for byte in (0x55, 0xAA, 0xE3)), b""):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                file = io.BytesIO(data.rstrip(b"\xff") + behind + bytes([0xFF, _END]))
                whole = Image.open(file, formats=("JPEG",))
            whole.load()
        except Exception:  # a damaged file raises nearly anything
            return None
        seen.add(_digest(whole))
        if len(seen) > 1:
            return None
    return whole


def _digest(image: Image.Image) -> bytes:
    """Of the pixels, some rows at once."""
    found = hashlib.sha256()
    for top in range(0, image.height, 256):
        strip = image.crop((0, top, image.width, min(top + 256, image.height)))
        found.update(strip.tobytes())
    return found.digest()


def pages_notice(image: Image.Image, data: bytes) -> str:
    """Which picture of a file is taken, where it holds several; empty for one.

    Args:
        image: Opened.
        data: The file; empty where the caller opened it.
    """
    try:
        known = not data or image.format in _COUNTED_BY_HEADER
        count = int(getattr(image, "n_frames", 1)) if known else _count_pictures(image.format, data)
        taken = image.tell() + 1
    except Exception:  # a damaged file raises nearly anything
        return ""
    if count in (0, 1):
        return ""
    number = f"more than {-count}" if count < 0 else str(count)
    return f"it holds {number} pictures, of which number {taken} is taken"


def _count_pictures(kind: str | None, data: bytes) -> int:
    """Of a GIF or TIFF, by its blocks; below 0 for a number at which counting ended."""
    count = {"GIF": _count_gif, "TIFF": _count_tiff}.get(kind or "")
    return count(data) if count else 1


def _count_gif(data: bytes) -> int:
    at, frames = 13, 0
    at += 3 << (data[10] & 7) + 1 if data[10] & 0x80 else 0
    for _ in range(_MAX_STEPS):
        kind = data[at] if at < len(data) else 0x3B
        if kind == 0x21:  # an extension
            at += 2
        elif kind == 0x2C:  # a picture, its own palette, and a byte of its coding
            frames += 1
            flags = data[at + 9]
            at += 11 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
        else:
            return frames
        while at < len(data) and data[at]:  # its blocks
            at += 1 + data[at]
        at += 1
    return -frames


def _count_tiff(data: bytes) -> int:
    order = "<" if data[:1] == b"I" else ">"
    big = data[2:4] in (b"+\0", b"\0+")
    place, entries, size = ("Q", "Q", 20) if big else ("I", "H", 12)
    (at,) = struct.unpack_from(order + place, data, 8 if big else 4)
    seen: set[int] = set()
    while at and at not in seen and len(seen) < _MAX_STEPS:
        seen.add(at)
        (count,) = struct.unpack_from(order + entries, data, at)
        (at,) = struct.unpack_from(order + place, data, at + struct.calcsize(order + entries) + count * size)
    return len(seen)


def costly(data: bytes, image: Image.Image) -> bool:
    """Whether an opened image is to be decoded in a process of its own, which can be stopped."""
    small = image.width * image.height <= _SMALL_PIXELS and len(data) <= _SMALL_BYTES
    return image.format in _COSTLY and not small
