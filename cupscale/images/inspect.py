"""What a file will cost to decode, seen before it is decoded."""

from __future__ import annotations

import re

from PIL import Image

from cupscale.errors import CupscaleError

MAX_SCANS = 100  # of a JPEG; cameras and optimizers write 1 to 20
MAX_SCANNED_PIXELS = 2**31  # scans times pixels: about 2 s
# Decoders whose time does not follow from the number of pixels, and those that take more than a second for a large image.
_COSTLY = ("JPEG2000", "TIFF", "AVIF", "HEIF", "PPM")
_SMALL_PIXELS = 2**20
_SMALL_BYTES = 2**18

_START_OF_SCAN, _END = 0xDA, 0xD9
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
    at, scans = 2, 0
    while scans < enough and at + 4 <= len(data):
        if data[at] != 0xFF:  # inside of a scan, or damaged: on to the next marker
            found = _MARKER_IN_SCAN.search(data, at)
            if found is None:
                break
            at = found.start()
            continue
        kind = data[at + 1]
        if kind == 0xFF:
            at += 1
        elif kind == _END:
            break
        elif kind in _ALONE or kind == 0:
            at += 2
        else:
            scans += kind == _START_OF_SCAN
            at += 2 + max(2, int.from_bytes(data[at + 2 : at + 4], "big"))
    return scans


def costly(data: bytes, image: Image.Image) -> bool:
    """Whether an opened image is to be decoded in a process of its own, which can be stopped."""
    small = image.width * image.height <= _SMALL_PIXELS and len(data) <= _SMALL_BYTES
    return image.format in _COSTLY and not small
