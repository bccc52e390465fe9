"""How a result is written: quality, dots per inch, depth, and what of its input it keeps."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cupscale import images
from cupscale.errors import CupscaleError
from cupscale.images.metadata import NOTHING

if TYPE_CHECKING:
    from cupscale.events import Result


@dataclass(frozen=True)
class Saving:
    """What a person asks for.

    Attributes:
        quality: Of JPEG, WebP and AVIF, 1 to 100.
        dpi: Pixels to an inch of paper; None says nothing about it.
        keep_metadata: 0: nothing of the input's; 1: date, camera, lens, artist, copyright; 2: the place, too.
        keep_profile: Convert the result to the input's ICC profile and name it. Colours that sRGB does not have are lost all
        the
            same: the run works in sRGB.
    """

    quality: int = 95
    dpi: float | None = None
    keep_metadata: int = 0
    keep_profile: bool = False

    def check(
        self, target: str | Path, *, size: tuple[int, int], picture: images.Picture | None, bits: int = 8
    ) -> None:
        """Refuse before a run what `write` would refuse after it.

        Args:
            target: Of the result.
            size: Of the result, (width, height).
            picture: The input; None where it is drawn from words.
            bits: Of a sample of the result.

        Raises:
            CupscaleError: The file cannot be written, or its format cannot hold what is asked.
        """
        if self.dpi is not None and not 1 <= self.dpi <= 100_000:
            raise CupscaleError(f"dpi is {self.dpi:g}, the limits are 1 and 100000; 300 is usual in print")
        alpha = picture is not None and picture.alpha is not None
        profile = picture.kept.profile if picture and self.keep_profile else None
        images.check_writable(target, size=size, alpha=alpha, bits=bits, profile=profile)

    def extras(self, result: Result) -> images.Extras:
        """What goes into a result's file."""
        return images.Extras(
            dpi=self.dpi,
            kept=result.kept if self.keep_metadata else NOTHING,
            place=self.keep_metadata > 1,
            profile=result.kept.profile if self.keep_profile else None,
            deep=result.deep,
        )

    def write(self, result: Result, target: str | Path) -> None:
        """Write a result, with its settings inside.

        Raises:
            CupscaleError: As `check`.
        """
        images.write(result.image, target, result.settings.to_json(), self.quality, self.extras(result))

    def encode(self, result: Result, name: str) -> memoryview:
        """The bytes of the file that `write` would write under a name. Raises CupscaleError as `check`."""
        return images.encode(result.image, name, result.settings.to_json(), self.quality, self.extras(result))
