"""Where a file says what its colours mean, other than by an ICC profile.

PNG: cICP before iCCP before sRGB before gAMA and cHRM (PNG, third edition, section 4.3). HEIC and AVIF: an ICC profile before
nclx (ISO/IEC 23000-22, section 7.3.6.4). Others: a profile before EXIF's interoperability mark R03, which is Adobe RGB (DCF
2.0).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

from PIL import ExifTags, Image

from cupscale.images.colour import ADOBE, ADOBE_GAMMA, D65, SRGB, Colour

_MAX_BOXES = 4096  # of a file; a few dozen are usual
_MAX_CHUNKS = 4096
_R03 = "R03"


def before_profile(image: Image.Image, data: bytes) -> Colour | None:
    """A declaration that goes before an ICC profile: PNG's cICP.

    Args:
        image: Opened.
        data: The file, or its head; empty where there is none.
    """
    if image.format != "PNG":
        return None
    codes = next((body for kind, body in _chunks(data) if kind == b"cICP"), b"")
    if len(codes) != 4 or codes[2] != 0 or codes[3] > 1:  # PNG holds RGB alone, which is matrix 0
        return None
    return Colour.of_codes(codes[0], codes[1], narrow=codes[3] == 0, origin="cICP")


def after_profile(image: Image.Image, data: bytes) -> Colour | None:
    """What else is declared, where there is no ICC profile. See `before_profile` for the arguments."""
    if image.format == "PNG":
        return _png(image.info)
    if image.format == "HEIF":
        nclx = image.info.get("nclx_profile") or {}
        return _nclx(nclx.get("color_primaries", 2), nclx.get("transfer_characteristics", 2))
    if image.format == "AVIF":
        return _avif(data)
    return _exif(image)


def _png(info: dict[Any, Any]) -> Colour | None:
    if "srgb" in info:
        return None
    gamma, points = info.get("gamma"), info.get("chromaticity")
    if not gamma and not points:
        return None
    primaries, white = SRGB, D65
    if points and len(points) == 8 and all(0 <= value <= 1 for value in points):
        primaries, white = tuple(points[2:]), tuple(points[:2])
    if gamma and 0.05 <= gamma <= 20:
        return Colour(primaries, white, 0, 1 / gamma, origin="gAMA")
    return Colour(primaries, white, origin="cHRM")


def _nclx(primaries: int, transfer: int) -> Colour:
    return Colour.of_codes(int(primaries), int(transfer), origin="nclx")


def _exif(image: Image.Image) -> Colour | None:
    try:
        exif = image.getexif()
        mark = exif.get_ifd(ExifTags.IFD.Interop).get(1, "")
    except Exception:  # damaged EXIF raises nearly anything
        return None
    text = mark.decode("ascii", "replace") if isinstance(mark, bytes) else str(mark)
    return Colour(ADOBE, D65, 0, ADOBE_GAMMA, origin="EXIF R03") if text.startswith(_R03) else None


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The chunks of a PNG before its pixels."""
    at = 8
    for _ in range(_MAX_CHUNKS):
        if at + 8 > len(data):
            return
        (length,) = struct.unpack_from(">I", data, at)
        kind = data[at + 4 : at + 8]
        if kind == b"IDAT":
            return
        if length <= 16:  # none that is asked for is longer
            yield kind, data[at + 8 : at + 8 + length]
        at += 12 + length


def _avif(data: bytes) -> Colour | None:
    """From the nclx of the primary item's properties."""
    try:
        meta = _box(data, (0, len(data)), b"meta", 4)
        primary = _primary(data, meta)
        properties = _box(data, meta, b"iprp")
        inside = _box(data, properties, b"ipco")
        held = [(kind, start, end) for kind, start, end in _boxes(data, inside)]
        for index in _associated(data, _box(data, properties, b"ipma"), primary):
            kind, start, end = held[index - 1] if 0 < index <= len(held) else (b"", 0, 0)
            if kind == b"colr" and data[start : start + 4] == b"nclx" and end - start >= 11:
                return _nclx(*struct.unpack_from(">HH", data, start + 4))
    except (struct.error, LookupError):
        pass
    return None


def _boxes(data: bytes, within: tuple[int, int]) -> Iterator[tuple[bytes, int, int]]:
    """(kind, start, end) of the bodies of the boxes of ISO/IEC 14496-12 in a range of the file."""
    at, stop = within
    for _ in range(_MAX_BOXES):
        if at + 8 > stop:
            return
        size, kind = struct.unpack_from(">I4s", data, at)
        start = at + 8
        if size == 1:
            (size,) = struct.unpack_from(">Q", data, start)
            start += 8
        end = stop if size == 0 else at + size
        if end < start or end > stop:
            return
        yield kind, start, end
        at = end


def _box(data: bytes, within: tuple[int, int], wanted: bytes, skip: int = 0) -> tuple[int, int]:
    """The body of the first box of a kind, `skip` bytes of it left out. Raises LookupError where there is none."""
    for kind, start, end in _boxes(data, within):
        if kind == wanted:
            return start + skip, end
    raise LookupError(wanted)


def _primary(data: bytes, meta: tuple[int, int]) -> int:
    start, _ = _box(data, meta, b"pitm")
    (item,) = struct.unpack_from(">I" if data[start] else ">H", data, start + 4)
    return int(item)


def _associated(data: bytes, box: tuple[int, int], item: int) -> list[int]:
    """The numbers, from 1, of an item's properties."""
    start, end = box
    version, wide = data[start], data[start + 3] & 1
    (entries,) = struct.unpack_from(">I", data, start + 4)
    at = start + 8
    for _ in range(min(entries, _MAX_BOXES)):
        if at >= end:
            break
        (found,) = struct.unpack_from(">I" if version else ">H", data, at)
        at += 4 if version else 2
        count, at = data[at], at + 1
        if found == item:
            form, keep = (">H", 0x7FFF) if wide else (">B", 0x7F)
            size = struct.calcsize(form)
            return [struct.unpack_from(form, data, at + k * size)[0] & keep for k in range(count)]
        at += count * (2 if wide else 1)
    return []
