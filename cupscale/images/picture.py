"""A picture in memory, and its plain resizing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Literal, overload

from PIL import Image

from cupscale.bounded import parse_object
from cupscale.errors import CupscaleError
from cupscale.images import wrapping
from cupscale.images.metadata import NOTHING, Kept

Method = Literal["lanczos", "bicubic"]
METHODS: dict[str, Image.Resampling] = {
    "lanczos": Image.Resampling.LANCZOS,
    "bicubic": Image.Resampling.BICUBIC,
}


@dataclass(frozen=True, eq=False)
class Picture:
    """A decoded picture.

    Attributes:
        rgb: Mode RGB, sRGB. Colour under alpha 0 has been replaced: see `cupscale.images.reading`.
        alpha: Mode L, the same size, or None.
        settings_text: The cupscale settings found in the file as JSON text of at most 2 MB, or None.
        quality: Of a JPEG, 1 to 100, as its tables say; None for other files.
        notices: What was guessed, bent or left out when the file was read, a line each.
        converted: Whether its colours were another space's, so that what shows the file itself may show others.
        kept: What a result may keep of the file.
    """

    rgb: Image.Image
    alpha: Image.Image | None = None
    settings_text: str | None = None
    quality: int | None = None
    notices: tuple[str, ...] = ()
    converted: bool = False
    kept: Kept = NOTHING

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self.rgb.size

    @property
    def metadata(self) -> dict[str, Any]:
        """The cupscale settings found in the file; {} where there are none."""
        return parse_object(self.settings_text, "the settings inside") if self.settings_text else {}


# What is read as one picture; arrays, tensors and lists of one are `Any` here, since torch is not imported for it.
Source = str | Path | bytes | BinaryIO | Image.Image | Any


@overload
def resize(picture: Picture, size: tuple[int, int], method: Method = "lanczos") -> Picture: ...


@overload
def resize(picture: Image.Image, size: tuple[int, int], method: Method = "lanczos") -> Image.Image: ...


def resize(
    picture: Picture | Image.Image, size: tuple[int, int], method: Method = "lanczos"
) -> Picture | Image.Image:
    """Resize a picture (colour and alpha) or an image to exactly `size` = (width, height) px.

    Raises:
        CupscaleError: `method` is none of `METHODS`.
    """
    if isinstance(picture, Picture):
        rgb = resize(picture.rgb, size, method)
        alpha = None if picture.alpha is None else _resize_alpha(picture.alpha, size)
        return replace(picture, rgb=rgb, alpha=alpha)
    if method not in METHODS:
        raise CupscaleError(f"unknown resize {method!r}; choose {' or '.join(METHODS)}")
    return picture.resize(size, METHODS[method])  # Pillow premultiplies RGBA by itself


def finish(image: Image.Image, alpha: Image.Image | None, axes: str = "none") -> Image.Image:
    """Put alpha back on an image, resized to its size as if it lay beside itself along `axes`, as `Settings.seamless` names them.

    Without alpha: the image itself.
    """
    if alpha is None:
        return image
    if alpha.size != image.size:
        alpha = _resize_alpha(alpha, image.size, axes)
    return Image.merge("RGBA", (*image.convert("RGB").split(), alpha))


def _resize_alpha(alpha: Image.Image, size: tuple[int, int], axes: str = "none") -> Image.Image:
    """With a filter that has no negative lobes: Lanczos would leave a ghost around every shape, and holes inside."""
    return wrapping.resized(alpha, size, axes, Image.Resampling.HAMMING)
