"""What a result's file may hold besides the picture and its settings, where a person asks for it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import ExifTags, Image

from cupscale.images.metadata import NOTHING, Kept

_INCH = 2  # EXIF's ResolutionUnit


@dataclass(frozen=True, eq=False)
class Extras:
    """What goes into a file.

    Attributes:
        dpi: Pixels to an inch of paper; None says nothing about it.
        kept: Of the input: its texts are written.
        place: Write the place, too.
        profile: ICC; the picture is converted to it.
        deep: The picture in 16 bits, (h, w, 3) or, grey, (h, w), uint16 in sRGB; None for 8 bits.
    """

    dpi: float | None = None
    kept: Kept = NOTHING
    place: bool = False
    profile: bytes | None = None
    deep: np.ndarray | None = None

    def exif(self, kind: str) -> Image.Exif:
        """For a file of a kind, by Pillow's name; empty where there is nothing to say."""
        exif = Image.Exif()
        self.kept.put(exif, place=self.place, nested=kind != "TIFF")
        if self.dpi and kind in ("WEBP", "AVIF"):
            exif[ExifTags.Base.XResolution] = exif[ExifTags.Base.YResolution] = self.dpi
            exif[ExifTags.Base.ResolutionUnit] = _INCH
        return exif


NO_EXTRAS = Extras()
