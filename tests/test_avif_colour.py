"""Colour that an AVIF declares in its AV1 bitstream alone: files of an encoder, and headers and boxes built by hand."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from PIL import Image

from cupscale import images
from cupscale.images import avif

P3 = (12, 13)


def bits(*fields: tuple[int, int]) -> bytes:
    """(value, bits) one after the other, filled up with zeros."""
    text = "".join(f"{value:0{count}b}" if count else "" for value, count in fields)
    assert len(text) == sum(count for _, count in fields)
    text += "0" * (-len(text) % 8)
    return bytes(int(text[k : k + 8], 2) for k in range(0, len(text), 8))


def header(
    *,
    profile: int = 0,
    reduced: bool = False,
    timing: bool = False,
    ticks: tuple[tuple[int, int], ...] = ((0, 2), (1, 1), (3, 2)),  # uvlc: 00 1 11 is 2^2 - 1 + 3 = 6
    model: bool = False,
    display: bool = False,
    points: int = 1,
    level: int = 4,
    ids: bool = False,
    order: bool = False,
    screen: tuple[int, ...] = (1, 1),
    high: int = 0,
    told: bool = True,
) -> bytes:
    """A sequence header as section 5.5 of the specification lists it, all numbers other than 0."""
    fields = [(profile, 3), (1, 1), (int(reduced), 1)]
    if reduced:
        fields += [(level, 5)]
    else:
        fields += [(int(timing), 1)]
        if timing:
            fields += [(1001, 32), (30000, 32), (1, 1), *ticks, (int(model), 1)]
            fields += [(9, 5), (77, 32), (3, 5), (4, 5)] * model
        fields += [(int(display), 1), (points - 1, 5)]
        for _ in range(points):
            fields += [(0x103, 12), (level, 5)]
            fields += [(1, 1)] * (level > 7)
            fields += [(1, 1), (513, 10), (700, 10), (1, 1)] * model
            fields += [(1, 1), (9, 4)] * display
    fields += [(9, 4), (8, 4), (1000, 10), (500, 9)]
    if not reduced:
        fields += [(int(ids), 1)] + [(13, 4), (5, 3)] * ids
    fields += [(0b101, 3)]
    if not reduced:
        fields += [(0b1011, 4), (int(order), 1)] + [(0b10, 2)] * order
        fields += [(bit, 1) for bit in screen] + [(6, 3)] * order
    fields += [(0b110, 3), (high, 1)]
    fields += [(1, 1)] * (profile == 2 and high) + [(0, 1)] * (profile != 1)
    fields += [(1, 1), (P3[0], 8), (P3[1], 8), (6, 8)] if told else [(0, 1)]
    return bits(*fields, (1, 1))


def unit(body: bytes, kind: int = 1, sized: bool = True) -> bytes:
    return bytes([kind << 3 | sized << 1]) + (bytes([len(body)]) if sized else b"") + body


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"reduced": True},
        {"reduced": True, "level": 13},
        {"profile": 1},
        {"profile": 2, "high": 1},
        {"profile": 1, "high": 1},
        {"timing": True},
        {"timing": True, "ticks": ((1, 1),)},
        {"timing": True, "ticks": ((0, 1), (1, 1), (0, 1))},
        {"timing": True, "ticks": ((0, 5), (1, 1), (9, 5))},
        {"timing": True, "ticks": ((0, 32), (1, 1))},  # too long for a number: nothing follows
        {"timing": True, "model": True, "points": 3},
        {"display": True, "points": 2},
        {"level": 9, "points": 2},
        {"level": 8},
        {"level": 7, "points": 2},
        {"ids": True},
        {"order": True},
        {"order": True, "screen": (0, 1, 0, 1)},
        {"screen": (0, 0)},
        {"screen": (1, 0, 1)},
        {"timing": True, "model": True, "display": True, "points": 2, "level": 8, "ids": True, "order": True},
    ],
    ids=str,
)
def test_the_sequence_header_by_hand(options: dict[str, object]) -> None:
    made = header(**options)  # type: ignore[arg-type]
    for units in (
        unit(made),
        unit(made, sized=False),
        unit(b"", 2) + unit(bytes(200), 5)[:1] + b"\x83\x01" + bytes(131) + unit(made),
    ):
        assert avif.sequence_colour(units) == (*P3, "its AV1 bitstream"), options
    extended = bytes([1 << 3 | 4 | 2, 0x20, len(made)]) + made
    assert avif.sequence_colour(extended) == (*P3, "its AV1 bitstream")
    silent = header(**options, told=False)  # type: ignore[arg-type]
    assert avif.sequence_colour(unit(silent)) is None


def test_units_that_are_cut_or_lie() -> None:
    made = unit(header())
    with pytest.raises(LookupError):
        avif.sequence_colour(made[:9])
    with pytest.raises(LookupError):
        avif.sequence_colour(bytes([1 << 3 | 2]) + b"\xff" * 9)
    assert avif.sequence_colour(b"") is None
    assert avif._Bits(b"\xa5").read(8) == 0xA5  # to the last bit
    assert avif.sequence_colour(unit(bytes(5), 2)) is None


# Boxes


def box(kind: bytes, *bodies: bytes) -> bytes:
    body = b"".join(bodies)
    return struct.pack(">I4s", 8 + len(body), kind) + body


def full(kind: bytes, version: int, *bodies: bytes, flags: int = 0) -> bytes:
    return box(kind, struct.pack(">I", version << 24 | flags), *bodies)


def picture(
    version: int,
    *,
    inside: bool = False,
    grid: bool = False,
    configured: bool = False,
    wide: bool = False,
) -> bytes:
    """Item 3 is the picture, or the grid of items 7 and 9; the sequence header lies at 40 of what item 3 or 7 holds.

    version: of `iloc`. inside: the items lie in `idat`. configured: the header stands in the box av1C. wide: numbers of
    properties take two bytes.
    """
    head = unit(header())
    content = bytes(40) + (b"" if configured else head) + bytes(30)
    coded = 7 if grid else 3
    item, numbers = (">I", ">I") if version == 2 else (">H", ">H")
    sizes = bytes([0x44, 0x40 | (2 if version else 0)])  # offset, length and base of 4 bytes, an index of 2

    def located(number: int, base: int) -> bytes:
        made = struct.pack(item, number) + (struct.pack(">H", int(inside)) if version else b"")
        extent = (b"\0\1" if version else b"") + struct.pack(">II", 30, len(content) - 40)
        return made + struct.pack(">HIH", 0, base + 10, 1) + extent

    def meta(at: int) -> bytes:
        av1c = box(b"av1C", b"\x81\x20\0\0", head if configured else b"")
        ipco = box(b"ipco", box(b"ispe", bytes(12)), box(b"pixi", bytes(8)), av1c)
        form = ">HBH" if wide else ">HBB"
        first = struct.pack(form, 3 if grid else 1, 1, 1)
        second = struct.pack(">HBHH" if wide else ">HBBB", coded, 2, 1, 0x8003 if wide else 0x83)
        ipma = full(b"ipma", 0, struct.pack(">I", 2), first, second, flags=int(wide))
        spread = located(1, 10**6) + located(coded, at)
        iloc = full(b"iloc", version, sizes, struct.pack(numbers, 2), spread)
        others = box(b"cdsc", struct.pack(">HHHH", 3, 2, 1, 1)), box(b"dimg", struct.pack(">HHH", 5, 1, 1))
        iref = full(b"iref", 0, *others, box(b"dimg", struct.pack(">HHHH", 3, 2, 7, 9))) if grid else b""
        held = box(b"idat", content) if inside else b""
        return full(b"meta", 0, full(b"pitm", 0, b"\0\3"), iref, iloc, box(b"iprp", ipco, ipma), held)

    start = box(b"ftyp", b"avif\0\0\0\0avif")
    at = 0 if inside else len(start) + len(meta(0)) + 8
    return start + meta(at) + (b"" if inside else box(b"mdat", content))


@pytest.mark.parametrize(
    ("version", "options"),
    [
        (0, {}),
        (1, {}),
        (2, {}),
        (1, {"inside": True}),
        (2, {"inside": True}),
        (0, {"grid": True}),
        (1, {"grid": True, "inside": True}),
        (0, {"configured": True}),
        (1, {"wide": True, "grid": True}),
        (0, {"wide": True, "configured": True}),
    ],
)
def test_where_the_bitstream_lies(version: int, options: dict[str, bool]) -> None:
    data = picture(version, **options)
    assert avif.colour(data) == (*P3, "its AV1 bitstream")
    for cut in range(0, len(data), 7):  # what ends early declares nothing, and breaks nothing
        avif.colour(data[:cut])


def test_a_box_nclx_goes_before_the_bitstream() -> None:
    whole = encoded()
    at = whole.index(b"colrnclx") + 8
    named = whole[:at] + struct.pack(">HH", 9, 16) + whole[at + 4 :]
    assert avif.colour(named) == (9, 16, "nclx")
    grid = picture(1, grid=True).replace(
        box(b"ispe", bytes(12)), box(b"colr", b"nclx", b"\0\x09\0\x10\0\x09\x80\0")
    )
    assert avif.colour(grid) == (9, 16, "nclx")
    tiles = grid.replace(
        struct.pack(">HBB", 3, 1, 1), struct.pack(">HBB", 3, 1, 2)
    )  # not the grid's, but its tiles'
    assert avif.colour(tiles.replace(b"colrnclx\0\x09", b"colrnclx\0\x05")) == (5, 16, "nclx")


# Whole files


def encoded() -> bytes:
    buffer = io.BytesIO()
    image = Image.new("RGB", (48, 32), (200, 60, 70))
    image.save(buffer, "AVIF", quality=100, subsampling="4:4:4")
    return buffer.getvalue()


def in_bitstream(primaries: int, transfer: int) -> bytes:
    """A file of an encoder without its box, and with other codes in its sequence header: 1, 13 and 6 stand there once."""
    data = encoded()
    mdat = data.index(b"mdat") + 4
    text = "".join(f"{byte:08b}" for byte in data[mdat : mdat + 24])
    wanted = f"1{1:08b}{13:08b}{6:08b}"
    assert text.count(wanted) == 1
    text = text.replace(wanted, f"1{primaries:08b}{transfer:08b}{6:08b}")
    patched = bytes(int(text[k : k + 8], 2) for k in range(0, len(text), 8))
    whole = data[:mdat] + patched + data[mdat + 24 :]
    return whole.replace(b"colrnclx", b"freenclx")


def test_display_p3_of_the_bitstream_is_converted() -> None:
    """(200, 60, 70) of Display P3 is (217, 42, 65) in sRGB, as of PNG's cICP."""
    found = images.read(in_bitstream(*P3))
    assert found.converted
    assert np.abs(np.asarray(found.rgb)[9, 30].astype(int) - (217, 42, 65)).max() <= 3
    opened = Image.open(io.BytesIO(in_bitstream(*P3)))  # by the caller, who did not load it
    assert (np.asarray(images.read(opened).rgb) == np.asarray(found.rgb)).all()
    plain = images.read(in_bitstream(1, 13))
    assert not plain.converted
    assert np.abs(np.asarray(plain.rgb)[9, 30].astype(int) - (200, 60, 70)).max() <= 2


def test_pq_of_the_bitstream_says_where_it_is_declared() -> None:
    (notice,) = images.read(in_bitstream(9, 16)).notices
    assert "declared by its AV1 bitstream" in notice
