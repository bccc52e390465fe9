"""What a result may keep of its input besides the picture: date, camera, copyright; the place; the colour profile.

Nothing of it is kept unless a person asks, and the place only where they ask for it by name.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from PIL import ExifTags, Image, TiffImagePlugin

MAX_TEXT = 2000  # of one field
MAX_PROFILE = 2**22  # bytes; those of printers have about a million
_TEXTS = (
    ExifTags.Base.Make,
    ExifTags.Base.Model,
    ExifTags.Base.DateTime,
    ExifTags.Base.Artist,
    ExifTags.Base.Copyright,
)
_PHOTO_TEXTS = (
    ExifTags.Base.DateTimeOriginal,
    ExifTags.Base.DateTimeDigitized,
    ExifTags.Base.OffsetTime,
    ExifTags.Base.OffsetTimeOriginal,
    ExifTags.Base.LensMake,
    ExifTags.Base.LensModel,
)
_MAX_PLACE_TAG = 31  # of EXIF's GPS fields


@dataclass(frozen=True)
class Kept:
    """What was found.

    Attributes:
        texts: By EXIF tag: date, camera, lens, artist, copyright.
        place: By GPS tag: a text, or the numbers of rationals.
        profile: ICC.
    """

    texts: Mapping[int, str] = field(default_factory=dict)
    place: Mapping[int, str | tuple[float, ...]] = field(default_factory=dict)
    profile: bytes | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        profile = None if self.profile is None else base64.b64encode(self.profile).decode()
        return {"texts": dict(self.texts), "place": dict(self.place), "profile": profile}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Kept:
        """From `to_dict`, and from JSON, whose keys are texts and whose tuples are lists."""
        place = {int(tag): tuple(v) if isinstance(v, list) else v for tag, v in data["place"].items()}
        profile = None if data["profile"] is None else base64.b64decode(data["profile"])
        return cls({int(tag): text for tag, text in data["texts"].items()}, place, profile)

    def put(self, exif: Image.Exif, *, place: bool, nested: bool = True) -> None:
        """Into the EXIF of a result.

        Without `nested` its first folder alone holds texts, as in a TIFF: the date a picture was taken stands for
        that of the file.
        """
        for tag, text in self.texts.items():
            if tag in _PHOTO_TEXTS and not nested:
                if tag == ExifTags.Base.DateTimeOriginal:
                    exif[ExifTags.Base.DateTime] = text
            elif tag in _PHOTO_TEXTS:
                exif.get_ifd(ExifTags.IFD.Exif)[tag] = text
            else:
                exif[tag] = text
        if place and self.place and nested:
            fields = exif.get_ifd(ExifTags.IFD.GPSInfo)
            for tag, value in self.place.items():
                fields[tag] = _rationals(value) if isinstance(value, tuple) else value


NOTHING = Kept()


def find(image: Image.Image) -> Kept:
    """What an opened and loaded image says of itself; damaged fields are left out."""
    profile = image.info.get("icc_profile")
    if not isinstance(profile, bytes) or len(profile) > MAX_PROFILE:
        profile = None
    try:
        exif = image.getexif()
        photo, gps = exif.get_ifd(ExifTags.IFD.Exif), exif.get_ifd(ExifTags.IFD.GPSInfo)
        texts = _texts(exif, _TEXTS) | _texts(photo, _PHOTO_TEXTS)
        return Kept(texts, _place(gps), profile)
    except Exception:  # damaged EXIF raises nearly anything
        return Kept(profile=profile)


def _texts(fields: Mapping[int, Any], wanted: tuple[int, ...]) -> dict[int, str]:
    found = {}
    for tag in wanted:
        text = fields.get(tag)
        if isinstance(text, str) and (text := text.strip("\0 ")) and len(text) <= MAX_TEXT:
            found[int(tag)] = text
    return found


def _place(fields: Mapping[int, Any]) -> dict[int, str | tuple[float, ...]]:
    found: dict[int, str | tuple[float, ...]] = {}
    for tag, value in fields.items():
        if tag > _MAX_PLACE_TAG:
            continue
        if isinstance(value, str) and len(value) <= MAX_TEXT:
            found[tag] = value
        elif isinstance(value, tuple) and 0 < len(value) <= 4:
            found[tag] = tuple(float(number) for number in value)
        elif isinstance(value, TiffImagePlugin.IFDRational):
            found[tag] = (float(value),)
    return found


def _rationals(values: tuple[float, ...]) -> Any:
    numbers = tuple(TiffImagePlugin.IFDRational(round(value * 10**6), 10**6) for value in values)
    return numbers if len(numbers) > 1 else numbers[0]
