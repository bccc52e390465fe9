"""Pixels of an opened file to a `Picture`: orientation, samples, colour and alpha.

Everything is 8-bit sRGB between `read` and `write`. The decoding is Pillow's; this file adds the colour management and the
alpha channel.

Transparency. Colour under alpha 0 is arbitrary (often black) and would bleed into the edges, both in a
resize and in a network that never sees alpha. It is replaced by a smooth continuation of the visible
colours ("bleed fill", push-pull: Gortler et al., The Lumigraph, 1996, section 3.4). RGB and alpha can then
be resized apart from each other.
"""

from __future__ import annotations

import io
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageCms, ImageOps

from cupscale.errors import CupscaleError
from cupscale.images import declared, inspect, metadata, samples, settings_text
from cupscale.images.colour import WHITE_NITS, Colour, convert
from cupscale.images.picture import Picture

_NO_CONVERSION = ("sRGB IEC61966-2.1", "sRGB built-in", "sRGB")
_HEAD_BYTES = 2**20  # of a file that the caller has opened: declarations of colour stand before the pixels


class _Meaning(NamedTuple):
    """What the samples of a file mean."""

    first: Colour | None  # before the profile
    profile: bytes | None
    last: Colour | None  # where there is no profile that can be read


def decode(name: str, image: Image.Image, data: bytes) -> Picture:
    """Decode an image whose header was checked. Leaves the caller's image as it is.

    Args:
        name: For messages.
        image: Opened.
        data: The file; empty where the caller opened it.

    Returns:
        The picture upright, in sRGB, with its alpha apart.

    Raises:
        CupscaleError: Truncated or damaged.
    """
    notices = [inspect.pages_notice(image, data)]
    depth_16 = bool(getattr(image, "tile", None)) and "16" in str(image.tile[0][3])  # type: ignore[attr-defined]
    head = data or _head(image)
    meaning_first = declared.before_profile(image, head)
    image, early = _loaded(name, image, data)
    notices.append(early)
    text, quality, kept = settings_text.find(image), _jpeg_quality(image), metadata.find(image)
    meaning = _Meaning(meaning_first, image.info.get("icc_profile"), declared.after_profile(image, head))
    transparency = image.info.get("transparency")
    odd = _odd_grey(image)
    try:
        image = ImageOps.exif_transpose(image)
    except Exception:  # damaged EXIF: the pixels are still good
        image = image.copy()

    alpha, done = None, False
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        values = np.asarray(image)
        if isinstance(transparency, int):
            alpha = Image.fromarray(np.where(values == transparency, 0, 255).astype(np.uint8))
        image, note, done = _grey(values, odd, meaning)
        meaning = _Meaning(None, None, None) if done else meaning
        notices.append(note)
    elif image.has_transparency_data:
        if isinstance(transparency, tuple) and depth_16:  # the pixels keep 8 of 16 bits, the key must too
            image.info["transparency"] = tuple(v >> 8 for v in transparency)
        image = image.convert("RGBA")
        alpha = image.getchannel("A")
        image = image.convert("RGB")
    elif depth_16:
        notices.append(_nearly_black(image))
    rgb, converted, note = to_srgb(image, meaning)
    converted |= done
    notices.append(note)
    if alpha is not None and alpha.getextrema()[0] == 255:  # opaque, as every screenshot: no alpha at all
        alpha = None
    if alpha is not None:
        rgb = _bleed(rgb, alpha)
    rgb.info = {}
    said = tuple(f"{name}: {note}" for note in notices if note)
    return Picture(rgb, alpha, text, quality, said, converted, kept)


def _loaded(name: str, image: Image.Image, data: bytes) -> tuple[Image.Image, str]:
    """The image with its pixels, and a notice where the file ends early and all pixels are there."""
    try:
        image.load()
        return image, ""
    except Exception:  # decoders raise OSError, SyntaxError, RuntimeError, EOFError, struct.error ...
        if (
            image.format in ("JPEG", "MPO")
            and data
            and (whole := inspect.without_its_end(data, image)) is not None
        ):
            return whole, "the end of the file is missing, and no pixel: it is read as it is"
        raise CupscaleError(f"{name} is truncated or damaged; save or download it again") from None


def _head(image: Image.Image) -> bytes:
    """The beginning of the file of an image that the caller opened and did not load."""
    file = getattr(image, "fp", None)
    try:
        if file is None or not file.seekable():
            return b""
        at = file.tell()
        file.seek(0)
        head: bytes = file.read(_HEAD_BYTES)
        file.seek(at)
        return head
    except (OSError, ValueError):
        return b""


class _OddGrey(NamedTuple):
    """Of a TIFF: white is 0; the bits of a sample, 0 where they are not known."""

    inverted: bool = False
    bits: int = 0


def _odd_grey(image: Image.Image) -> _OddGrey:
    tags = getattr(image, "tag_v2", None)
    if tags is None or image.format != "TIFF":
        return _OddGrey()
    bits = samples.numbers(tags.get(ExifTags.Base.BitsPerSample, (0,)))
    return _OddGrey(tags.get(ExifTags.Base.PhotometricInterpretation) == 0, max(bits))


def _grey(values: np.ndarray, odd: _OddGrey, meaning: _Meaning) -> tuple[Image.Image, str, bool]:
    """Grey samples of more than 8 bits in 8; whether they are sRGB's already, by a curve taken at their full depth."""
    note = ""
    colour = meaning.first or (None if meaning.profile else meaning.last)
    if colour is not None and not colour.is_srgb and values.dtype == np.uint16:
        rgb, _ = convert(np.broadcast_to(values[..., None], (*values.shape, 3)), colour)
        return Image.fromarray(rgb), "", True
    if odd.bits in (10, 12, 14):
        top = 2**odd.bits - 1
        grey = np.rint(values.astype(np.float32) * (255 / top)).clip(0, 255).astype(np.uint8)
    else:
        grey, note = samples.to_8_bits(values)
    return Image.fromarray(255 - grey if odd.inverted else grey), note, False


def _nearly_black(image: Image.Image) -> str:
    """Of 16-bit colour, of which Pillow keeps the upper 8 bits."""
    extrema = image.getextrema()
    highest = max(high for _, high in extrema) if isinstance(extrema[0], tuple) else 0
    if not 0 < highest <= 15:
        return ""
    return "its 16-bit samples use the lowest 4096 values alone: if they hold 12 bits, save it as TIFF, which is scaled"


def _jpeg_quality(image: Image.Image) -> int | None:
    """1 to 100, from how much coarser the first table is than the standard's; None for other files."""
    tables = getattr(image, "quantization", None)
    if not tables or 0 not in tables:
        return None
    coarseness = 100 * sum(tables[0]) / 3688  # the standard's table of brightness has this sum
    quality = 100 - coarseness / 2 if coarseness <= 100 else 5000 / coarseness
    return min(100, max(1, round(quality)))


def to_srgb(image: Image.Image, meaning: _Meaning) -> tuple[Image.Image, bool, str]:
    """Any 8-bit mode without alpha to RGB in sRGB, whether that changed the colours, and a notice where light was lost."""
    if image.mode == "LAB":
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
        assert converted is not None
        return converted, True, ""
    colour = meaning.first
    if colour is None and meaning.profile:
        by_profile = _by_profile(image, meaning.profile)
        if by_profile is not None:
            return *by_profile, ""
    colour = colour or meaning.last
    plain = image.convert("RGB")
    if colour is None or colour.is_srgb or image.mode == "CMYK":
        return plain, False, ""
    try:
        values, peak = convert(np.asarray(plain), colour)
    except ValueError:  # primaries that span no space
        return plain, False, ""
    note = ""
    if colour.is_hdr:
        note = (
            f"high dynamic range, declared by {colour.origin}: tone-mapped to sRGB, light of {WHITE_NITS:.0f} cd/m2 white"
            + f", up to {peak:.0f} cd/m2 bent below it" * (peak > WHITE_NITS * 1.02)
        )
    return Image.fromarray(values), True, note


def _by_profile(image: Image.Image, profile: bytes) -> tuple[Image.Image, bool] | None:
    """RGB in sRGB by an ICC profile, and whether that is another than sRGB's; None for a broken one."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        description = (source.profile.profile_description or "").strip()
        space = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}[source.profile.xcolor_space.strip()]
        if (image.mode == "CMYK") != (space == "CMYK"):
            return None
        if description in _NO_CONVERSION:
            return image.convert("RGB"), False
        srgb = ImageCms.createProfile("sRGB")
        found = ImageCms.profileToProfile(image.convert(space), source, srgb, outputMode="RGB")
        return None if found is None else (found, True)
    except (ImageCms.PyCMSError, OSError, ValueError, KeyError, TypeError):
        return None


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
