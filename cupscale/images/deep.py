"""Pictures of 16 bits a sample: PNG, which Pillow does not write in colour, and TIFF, by tifffile.

A profile is applied here where it is of three curves and a matrix (ICC.1:2022, sections 8.3.3 and 10.18), as those of
displays and of editing are; Pillow's LittleCMS takes 8 bits alone.
"""

from __future__ import annotations

import io
import json
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

from cupscale.errors import CupscaleError
from cupscale.images.extras import Extras
from cupscale.images.settings_text import KEY, MARK

_PNG_KINDS = {1: 0, 2: 4, 3: 2, 4: 6}  # channels to colour type
_ROWS = 256
_LEVEL = 4
# sRGB's linear light to XYZ of D50: IEC 61966-2-1, adapted by Bradford's matrix as ICC has it.
_SRGB_D50 = np.array(
    [[0.4360747, 0.3850649, 0.1430804], [0.2225045, 0.7168786, 0.0606169], [0.0139322, 0.0971045, 0.7141733]]
)


def with_alpha(samples: np.ndarray, alpha: Image.Image | None) -> np.ndarray:
    """(h, w) or (h, w, 3) uint16 to (h, w, C), alpha behind."""
    samples = samples if samples.ndim == 3 else samples[..., None]
    if alpha is None:
        return samples
    return np.dstack([samples, np.asarray(alpha, np.uint16) * np.uint16(257)])


def png(samples: np.ndarray, settings_json: str | None, extras: Extras) -> memoryview:
    """A PNG of (h, w, C) uint16, C = 1 to 4; each row is written as its difference to the one above."""
    height, width, channels = samples.shape
    buffer = io.BytesIO(b"")
    buffer.write(b"\x89PNG\r\n\x1a\n")
    put = PngImagePlugin.putchunk
    put(buffer, b"IHDR", struct.pack(">IIBBBBB", width, height, 16, _PNG_KINDS[channels], 0, 0, 0))
    if extras.profile:
        put(buffer, b"iCCP", b"ICC\0\0", zlib.compress(extras.profile))
    if extras.dpi:
        metre = round(extras.dpi / 0.0254)
        put(buffer, b"pHYs", struct.pack(">IIB", metre, metre, 1))
    if settings_json is not None:
        info = PngImagePlugin.PngInfo()
        info.add_itxt(KEY, settings_json)
        for kind, body, *_ in info.chunks:
            put(buffer, kind, body)
    if len(exif := extras.exif("PNG")):
        put(buffer, b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))
    squeeze = zlib.compressobj(_LEVEL)
    above = np.zeros((1, width * channels * 2), np.uint8)
    for top in range(0, height, _ROWS):
        rows = np.ascontiguousarray(samples[top : top + _ROWS].astype(">u2")).view(np.uint8)
        rows = rows.reshape(len(rows), -1)
        filtered = np.empty((len(rows), rows.shape[1] + 1), np.uint8)
        filtered[:, 0] = 2  # "up"
        filtered[:, 1:] = rows - np.concatenate([above, rows[:-1]])
        above = rows[-1:]
        if part := squeeze.compress(filtered.tobytes()):
            put(buffer, b"IDAT", part)
    put(buffer, b"IDAT", squeeze.flush())
    put(buffer, b"IEND", b"")
    return buffer.getbuffer()


def tiff(samples: np.ndarray, settings_json: str | None, extras: Extras) -> memoryview:
    """A TIFF of (h, w, C) uint16, C = 1 to 4."""
    import tifffile

    channels = samples.shape[2]
    options: dict[str, Any] = {"iccprofile": extras.profile} if extras.profile else {}
    if channels in (2, 4):
        options["extrasamples"] = ["unassalpha"]
    if extras.dpi:
        options |= {"resolution": (extras.dpi, extras.dpi), "resolutionunit": 2}
    exif = extras.exif("TIFF")
    tags = [(int(tag), 2, 0, str(text), True) for tag, text in exif.items() if isinstance(text, str)]
    text = None
    if settings_json is not None:
        text = MARK + json.dumps(json.loads(settings_json), separators=(",", ":")).encode("ascii")
    buffer = io.BytesIO()
    tifffile.imwrite(
        buffer,
        samples if channels > 1 else samples[..., 0],
        photometric="rgb" if channels > 2 else "minisblack",
        planarconfig="contig",
        compression="zlib",
        predictor=True,
        description=text,
        metadata=None,
        software=KEY,
        extratags=tags,
        **options,
    )
    return buffer.getbuffer()


def check_profile(profile: bytes) -> None:
    """See that a profile can be applied to 16 bits.

    Raises:
        CupscaleError: It is made of tables, or broken.
    """
    _curves(profile)


def in_profile(samples: np.ndarray, profile: bytes | None) -> np.ndarray:
    """(h, w, C) uint16 of sRGB, in a profile's space; alpha stays.

    Raises:
        CupscaleError: As `check_profile`.
    """
    if profile is None:
        return samples
    matrix, curves = _curves(profile)
    grey = samples.shape[2] < 3
    light = _srgb_light()
    found = np.empty(samples.shape, np.uint16)
    colours = 1 if grey else 3
    found[..., colours:] = samples[..., colours:]
    to_target = np.eye(1) if grey else np.linalg.inv(matrix) @ _SRGB_D50
    grid = np.linspace(0, 1, 65536)
    for top in range(0, len(samples), _ROWS):
        linear = light[samples[top : top + _ROWS, :, :colours]] @ to_target.T
        for k in range(colours):
            values = np.interp(linear[..., k].clip(0, 1), curves[k], grid)
            found[top : top + _ROWS, :, k] = np.rint(values * 65535)
    return found


def _srgb_light() -> np.ndarray:
    values = np.arange(65536) / 65535
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def _curves(profile: bytes) -> tuple[np.ndarray, list[np.ndarray]]:
    """The matrix (3, 3) to XYZ of D50, and for each channel the light of 65,536 steps of a sample."""
    try:
        (count,) = struct.unpack_from(">I", profile, 128)
        entries = [struct.unpack_from(">4sII", profile, 132 + 12 * k) for k in range(min(count, 200))]
        tags = {name: profile[at : at + size] for name, at, size in entries}
        if b"kTRC" in tags:
            return np.eye(3), [_curve(tags[b"kTRC"])] * 3
        columns = [struct.unpack_from(">3i", tags[name], 8) for name in (b"rXYZ", b"gXYZ", b"bXYZ")]
        matrix = np.array(columns).T / 65536
        if abs(np.linalg.det(matrix)) < 1e-4:
            raise ValueError("a flat space")
        return matrix, [_curve(tags[name]) for name in (b"rTRC", b"gTRC", b"bTRC")]
    except (struct.error, KeyError, ValueError, IndexError):
        raise CupscaleError(
            "the input's colour profile is made of tables, which are not applied to 16 bits: choose 8 bits, or leave "
            "the profile out"
        ) from None


def _curve(tag: bytes) -> np.ndarray:
    """curveType and parametricCurveType of ICC.1:2022, sections 10.6 and 10.18."""
    x = np.linspace(0, 1, 65536)
    if tag[:4] == b"para":
        (kind,) = struct.unpack_from(">H", tag, 8)
        values = [value / 65536 for value in struct.unpack_from(f">{(1, 3, 4, 5, 7)[kind]}i", tag, 12)]
        g, a, b, c, d, e, f = (values + [0.0] * 7)[:7]
        if kind == 0:
            return np.asarray(x**g)
        if kind in (1, 2):
            low = c if kind == 2 else 0.0
            return np.where(x >= -b / a, np.maximum(a * x + b, 0) ** g + low, low)
        return np.where(x >= d, np.maximum(a * x + b, 0) ** g + e, c * x + f)
    (count,) = struct.unpack_from(">I", tag, 8)
    if tag[:4] != b"curv" or count > 65536:
        raise ValueError("no curve")
    if count == 0:
        return x
    points = struct.unpack_from(f">{count}H", tag, 12)
    if count == 1:
        return np.asarray(x ** (points[0] / 256))
    return np.interp(x, np.linspace(0, 1, count), np.array(points) / 65535)
