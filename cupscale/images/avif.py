"""What an AVIF says of its colours: the box nclx of its primary item or of its tiles, or, where there is none, its AV1 bitstream.

Boxes: ISO/IEC 14496-12, section 8.11; AVIF v1.1, section 2.2. The bitstream's own words stand in its sequence header: AV1
Bitstream & Decoding Process Specification, sections 5.3, 5.5 and 6.4.2; of a grid it is that of the first tile.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

_MAX_BOXES = 4096  # of a file; a few dozen are usual
_MAX_HEAD_BYTES = 4096  # of an item; its sequence header is the first of it, and takes a few dozen
_SEQUENCE_HEADER = 1  # an OBU's type
_PROFILE_444, _PROFILE_PROFESSIONAL = 1, 2

Span = tuple[int, int]


class Codes(NamedTuple):
    """Code points of Rec. ITU-T H.273. origin: where they stand, for a person."""

    primaries: int
    transfer: int
    origin: str


def colour(data: bytes) -> Codes | None:
    """The codes that a file declares; None where it declares none, or is damaged.

    Args:
        data: The whole file.
    """
    try:
        meta = _box(data, (0, len(data)), b"meta", 4)
        primary = _primary(data, meta)
        tile = _first_tile(data, meta, primary)
        for item in (primary, tile):
            if found := _nclx(data, _properties(data, meta, item)):
                return found
        return _bitstream(data, meta, tile)
    except (struct.error, LookupError):
        return None


def _nclx(data: bytes, properties: list[tuple[bytes, Span]]) -> Codes | None:
    for kind, (start, end) in properties:
        if kind == b"colr" and data[start : start + 4] == b"nclx" and end - start >= 11:
            primaries, transfer = struct.unpack_from(">HH", data, start + 4)
            return Codes(primaries, transfer, "nclx")
    return None


def _bitstream(data: bytes, meta: Span, item: int) -> Codes | None:
    """From the sequence header, in the item's configuration or at the beginning of its pixels."""
    for kind, (start, end) in _properties(data, meta, item):
        if kind == b"av1C" and (found := sequence_colour(data[start + 4 : end])):
            return found
    start, end = _content(data, meta, item)
    return sequence_colour(data[start : min(end, start + _MAX_HEAD_BYTES)])


# The AV1 bitstream


def sequence_colour(units: bytes) -> Codes | None:
    """The codes of the first sequence header among some OBUs; None where there is none, or it says nothing of colour."""
    at = 0
    while at < len(units):
        head = units[at]
        at += 2 if head & 4 else 1  # with an extension, or without
        size, at = _leb128(units, at) if head & 2 else (len(units) - at, at)
        if head >> 3 & 15 == _SEQUENCE_HEADER:
            return _sequence_header(_Bits(units[at : at + size]))
        at += size
    return None


def _leb128(data: bytes, at: int) -> tuple[int, int]:
    """A number, and where it ends."""
    value = 0
    for k in range(8):
        value |= (data[at + k] & 127) << 7 * k
        if not data[at + k] & 128:
            return value, at + k + 1
    raise LookupError("a number without an end")


class _Bits:
    """The bits of some bytes, the highest first. Reading past them raises LookupError."""

    def __init__(self, data: bytes) -> None:
        self._value, self._left = int.from_bytes(data, "big"), 8 * len(data)

    def read(self, count: int) -> int:
        """An unsigned number of `count` bits."""
        self._left -= count
        if self._left < 0:
            raise LookupError("no bits left")
        return self._value >> self._left & ((1 << count) - 1)

    def skip_uvlc(self) -> None:
        """A number of variable length: as many zeros as it has bits besides the first."""
        zeros = 0
        while not self.read(1):
            zeros += 1
        self.read(zeros if zeros < 32 else 0)


def _sequence_header(bits: _Bits) -> Codes | None:
    profile = bits.read(3)
    bits.read(1)  # a still picture
    reduced = bits.read(1)
    if reduced:
        bits.read(5)
    else:
        _skip_operating_points(bits)
    widths = bits.read(4) + 1, bits.read(4) + 1
    bits.read(sum(widths))
    if not reduced and bits.read(1):  # frames have numbers
        bits.read(7)
    bits.read(3)
    if not reduced:
        _skip_tools(bits)
    bits.read(3)
    high = bits.read(1)
    if profile == _PROFILE_PROFESSIONAL and high:
        bits.read(1)
    if profile != _PROFILE_444:
        bits.read(1)  # grey
    return Codes(bits.read(8), bits.read(8), "its AV1 bitstream") if bits.read(1) else None


def _skip_operating_points(bits: _Bits) -> None:
    delay = 0  # bits of a buffer's delay; 0: none is told
    if bits.read(1):  # timing
        bits.read(64)
        if bits.read(1):
            bits.skip_uvlc()
        if bits.read(1):
            delay = bits.read(5) + 1
            bits.read(42)
    display = bits.read(1)
    for _ in range(bits.read(5) + 1):
        bits.read(12)
        if bits.read(5) > 7:  # the level, which has a tier
            bits.read(1)
        if delay and bits.read(1):
            bits.read(2 * delay + 1)
        if display and bits.read(1):
            bits.read(4)


def _skip_tools(bits: _Bits) -> None:
    bits.read(4)
    order = bits.read(1)
    if order:
        bits.read(2)
    screen = bits.read(1) or bits.read(1)  # chosen by each frame, or else by this bit
    if screen and not bits.read(1):
        bits.read(1)
    if order:
        bits.read(3)


# The boxes


def _properties(data: bytes, meta: Span, item: int) -> list[tuple[bytes, Span]]:
    """An item's properties, in its order."""
    properties = _box(data, meta, b"iprp")
    held = [(kind, (start, end)) for kind, start, end in _boxes(data, _box(data, properties, b"ipco"))]
    numbers = _associated(data, _box(data, properties, b"ipma"), item)
    return [held[number - 1] for number in numbers if 0 < number <= len(held)]


def _first_tile(data: bytes, meta: Span, item: int) -> int:
    """What an item is derived from, as a grid is from its tiles; the item itself where it is coded."""
    try:
        start, end = _box(data, meta, b"iref")
    except LookupError:
        return item
    form = ">IHI" if data[start] else ">HHH"
    for kind, at, stop in _boxes(data, (start + 4, end)):
        if kind == b"dimg" and stop - at >= struct.calcsize(form):
            derived, count, first = struct.unpack_from(form, data, at)
            if derived == item and count:
                return int(first)
    return item


def _content(data: bytes, meta: Span, item: int) -> Span:
    """The first extent of an item's bytes. Raises LookupError where it is not in this file."""
    at, end = _box(data, meta, b"iloc")
    version, sizes, bases = data[at], data[at + 4], data[at + 5]
    wide = version == 2
    index = (bases & 15) * (version > 0)
    (count,) = struct.unpack_from(">I" if wide else ">H", data, at + 6)
    at += 10 if wide else 8
    for _ in range(min(count, _MAX_BOXES)):
        (found,) = struct.unpack_from(">I" if wide else ">H", data, at)
        at += 4 if wide else 2
        place = data[at + 1] & 15 if version else 0
        at += 4 if version else 2
        base, at = _number(data, at, bases >> 4)
        (extents,) = struct.unpack_from(">H", data, at)
        at += 2
        if found == item and extents and place < 2:
            offset, at = _number(data, at + index, sizes >> 4)
            length, _ = _number(data, at, sizes & 15)
            origin = _box(data, meta, b"idat")[0] if place else 0
            start = origin + base + offset
            return start, start + (length or len(data))
        at += extents * (index + (sizes >> 4) + (sizes & 15))
        if at >= end:
            break
    raise LookupError("iloc")


def _number(data: bytes, at: int, size: int) -> tuple[int, int]:
    """A big-endian number of `size` bytes, and where it ends."""
    return int.from_bytes(data[at : at + size], "big"), at + size


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
