"""Where a file says what its colours mean, other than by an ICC profile.

PNG: cICP before iCCP before sRGB before gAMA and cHRM (PNG, third edition, section 4.3). HEIC and AVIF: an ICC profile before
nclx (ISO/IEC 23000-22, section 7.3.6.4), and nclx before AVIF's own bitstream (`cupscale.images.avif`). Others: a profile
before EXIF's interoperability mark R03, which is Adobe RGB (DCF 2.0).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

from PIL import ExifTags, Image

from cupscale.images import avif
from cupscale.images.colour import ADOBE, ADOBE_GAMMA, D65, SRGB, Colour

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
        codes = (int(nclx.get(name, 2)) for name in ("color_primaries", "transfer_characteristics"))
        return Colour.of_codes(*codes, origin="nclx")
    if image.format == "AVIF":
        found = avif.colour(data)
        return (
            None if found is None else Colour.of_codes(found.primaries, found.transfer, origin=found.origin)
        )
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
