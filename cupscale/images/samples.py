"""Samples of other than 8 bits to 8, and the TIFFs that Pillow does not read or reads wrongly."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import ExifTags, Image

from cupscale.errors import CupscaleError

_STRIP = 2**21  # samples converted at once
_OVERSHOOT = 0.01  # of a range: what a filter adds still belongs to it, and is cut
_TIFFS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_KEPT_TAGS = (ExifTags.Base.Orientation, ExifTags.Base.ImageDescription, ExifTags.Base.Software)


def to_8_bits(samples: np.ndarray) -> tuple[np.ndarray, str]:
    """Samples of any number type, of any shape, to uint8, and what was guessed about their range, for a person.

    Signed integers of 16 bits count from 0 where none is negative. Unsigned ones of 16 bits whose largest is between 256 and
    4095 hold 10 or 12 bits: a picture that dark is none. Of 32 bits they are 16 where they fit, and stretched else. Floats
    are in 0 to 1, to 255 or to 65535, whichever holds all but a hundredth of them; else they are stretched from their least
    to their greatest. NaN is black.
    """
    if samples.dtype == np.uint8:
        return samples, ""
    if samples.dtype.kind == "b":
        return samples.astype(np.uint8) * np.uint8(255), ""
    low, top, note = _float_range(samples) if samples.dtype.kind == "f" else _integer_range(samples)
    return _scaled(samples, low, top), note


def is_tiff(data: bytes) -> bool:
    return data[:4] in _TIFFS


def is_odd(image: Image.Image) -> bool:
    """Whether an opened TIFF has other samples than unsigned ones of at most 8 bits."""
    tags = getattr(image, "tag_v2", None)
    if image.format != "TIFF" or tags is None:
        return False
    bits, kinds = tags.get(ExifTags.Base.BitsPerSample, (1,)), tags.get(ExifTags.Base.SampleFormat, (1,))
    return max(numbers(bits)) > 8 or any(kind not in (1, 4) for kind in numbers(kinds))


def pillow_reads(image: Image.Image) -> bool:
    """Whether Pillow gives the right samples of an odd TIFF.

    It does for unsigned samples of 16 bits and for grey of 12, where they are not in planes of their own.
    """
    tags = image.tag_v2  # type: ignore[attr-defined]
    bits = set(numbers(tags.get(ExifTags.Base.BitsPerSample, (1,))))
    unsigned = set(numbers(tags.get(ExifTags.Base.SampleFormat, (1,)))) <= {1, 4}
    together = tags.get(ExifTags.Base.PlanarConfiguration, 1) == 1
    return unsigned and together and (bits == {16} or (bits == {12} and image.mode == "I;16"))


def tiff_size(name: str, data: bytes) -> tuple[int, int]:
    """(width, height) of a TIFF's first picture, turned as its orientation says.

    Raises:
        CupscaleError: It is damaged.
    """
    page = _page(name, data)
    size = (int(page.imagewidth), int(page.imagelength))
    return size[::-1] if _tag(page, ExifTags.Base.Orientation) in (5, 6, 7, 8) else size


def open_tiff(name: str, data: bytes) -> tuple[Image.Image, str]:
    """A TIFF's first picture in 8 bits, mode L, LA, RGB, RGBA or CMYK, and what was guessed about it.

    Raises:
        CupscaleError: It is damaged, or of a kind that is not read, by its name.
    """
    page = _page(name, data)
    photometric = getattr(page.photometric, "name", str(page.photometric))
    if photometric not in ("MINISBLACK", "MINISWHITE", "RGB", "SEPARATED"):
        raise CupscaleError(
            f"{name} is a TIFF of {photometric} samples of {page.bitspersample} bits; save it as RGB"
        )
    try:
        samples = page.asarray()
    except (ValueError, NotImplementedError) as error:
        if "imagecodecs" not in str(error):
            raise _damaged(name) from None
        kind = getattr(page.compression, "name", str(page.compression)).lower()
        raise CupscaleError(
            f"{name} is a TIFF of {page.bitspersample}-bit {photometric} samples with compression {kind}, which is not "
            "read; save it with 8 or 16 bits, with deflate or without compression"
        ) from None
    except MemoryError:
        raise
    except Exception:
        raise _damaged(name) from None
    image, note = _image(name, page, samples, photometric)
    image.format = "TIFF"
    profile = _tag(page, 34675)
    if isinstance(profile, bytes):
        image.info["icc_profile"] = profile
    exif = image.getexif()
    for tag in _KEPT_TAGS:
        if (value := _tag(page, tag)) is not None:
            exif[tag] = int(value) if tag == ExifTags.Base.Orientation else str(value)
    return image, note


def _image(name: str, page: Any, samples: np.ndarray, photometric: str) -> tuple[Image.Image, str]:
    if page.axes.endswith("YX") and samples.ndim == 3:
        samples = np.moveaxis(samples, 0, -1)
    if samples.ndim == 2:
        samples = samples[..., None]
    colours = {"RGB": 3, "SEPARATED": 4}.get(photometric, 1)
    if samples.ndim != 3 or samples.shape[2] < colours:
        raise CupscaleError(
            f"{name} is a TIFF of samples laid out as {page.axes}; save it as a plain picture"
        )
    bits = int(page.bitspersample)
    if bits in (10, 12, 14) and samples.dtype == np.uint16:
        found, note = _scaled(samples[..., :colours], 0.0, float(2**bits - 1)), ""
        alphas = _scaled(samples[..., colours:], 0.0, float(2**bits - 1))
    else:
        found, note = to_8_bits(samples[..., :colours])
        alphas, _ = (
            to_8_bits(samples[..., colours:]) if samples.shape[2] > colours else (samples[..., :0], "")
        )
    if photometric == "MINISWHITE":
        found = 255 - found
    kinds = [int(kind) for kind in getattr(page, "extrasamples", ())]
    if not kinds or kinds[0] not in (1, 2) or not alphas.shape[2] or photometric == "SEPARATED":
        return Image.fromarray(
            np.ascontiguousarray(found.squeeze(2) if colours == 1 else found), _mode(colours)
        ), note
    if colours == 1:
        found = found.repeat(3, axis=2)
    mode = "RGBa" if kinds[0] == 1 else "RGBA"
    whole = Image.frombytes(mode, found.shape[1::-1], np.dstack([found, alphas[..., :1]]).tobytes())
    return whole.convert("RGBA"), note


def _mode(colours: int) -> str:
    return {1: "L", 3: "RGB", 4: "CMYK"}[colours]


def _page(name: str, data: bytes) -> Any:
    import tifffile

    try:
        return tifffile.TiffFile(io.BytesIO(data)).pages[0]
    except Exception:
        raise _damaged(name) from None


def _damaged(name: str) -> CupscaleError:
    return CupscaleError(f"{name} is truncated or damaged; save or download it again")


def _tag(page: Any, tag: int) -> Any:
    found = page.tags.get(tag)
    return None if found is None else found.value


def numbers(value: Any) -> tuple[int, ...]:
    """A tag's value, one number or several."""
    return tuple(value) if isinstance(value, (tuple, list)) else (int(value),)


def _integer_range(samples: np.ndarray) -> tuple[float, float, str]:
    low, high = int(samples.min()), int(samples.max())
    bits = 8 * samples.dtype.itemsize
    if bits == 16 and samples.dtype.kind == "i" and low < 0:
        return -32768.0, 65535.0, ""
    if bits == 16 and samples.dtype.kind == "i":
        return 0.0, 32767.0, ""
    if low < 0 or high > 65535:
        return float(low), float(max(1, high - low)), _stretched(low, high)
    if 255 < high <= 4095:
        held = 10 if high <= 1023 else 12
        return 0.0, 2.0**held - 1, f"its samples reach {high} of 65535: taken as {held} bits"
    return 0.0, 65535.0, ""


def _float_range(samples: np.ndarray) -> tuple[float, float, str]:
    low, high = np.inf, -np.inf
    for part in _parts(samples):
        finite = part[np.isfinite(part)]
        if finite.size:
            low, high = min(low, float(finite.min())), max(high, float(finite.max()))
    if low > high:
        return 0.0, 1.0, "none of its samples is a number: it is black"
    some = samples.reshape(-1)[:: max(1, samples.size // 10**6)].astype(np.float64)
    most = float(np.quantile(np.nan_to_num(some, nan=low, posinf=high, neginf=low), 0.99))
    for top in (1.0, 255.0, 65535.0):
        fits = most <= top * (1 + _OVERSHOOT) and low >= -_OVERSHOOT * top
        if fits and (top == 1 or high >= top / 8):
            cut = f"its samples reach {high:.4g} of {top:g}: what is above is white"
            return 0.0, top, cut if high > top * (1 + _OVERSHOOT) else ""
    return low, high - low or 1.0, _stretched(low, high)


def _stretched(low: float, high: float) -> str:
    return f"its samples go from {low:.4g} to {high:.4g}: stretched from black to white"


def _scaled(samples: np.ndarray, low: float, top: float) -> np.ndarray:
    """(x - low) / top to uint8, some rows at once."""
    if not samples.size:
        return samples.astype(np.uint8)
    found = np.empty(samples.shape, np.uint8)
    for part, into in zip(_parts(samples), _parts(found), strict=True):
        values = np.nan_to_num(part.astype(np.float64), nan=low, posinf=low + top, neginf=low)
        into[...] = np.rint((values - low) * (255.0 / top)).clip(0, 255)
    return found


def _parts(samples: np.ndarray) -> Iterator[np.ndarray]:
    """Some rows at once, as views."""
    rows = max(1, _STRIP * len(samples) // max(1, samples.size))
    for at in range(0, len(samples), rows):
        yield samples[at : at + rows]
