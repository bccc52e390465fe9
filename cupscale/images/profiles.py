"""A result in the colour profile of its input. In 8 bits it is LittleCMS, by Pillow; relative colorimetric."""

from __future__ import annotations

import io

from PIL import Image, ImageCms

from cupscale.errors import CupscaleError

_SPACES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}


def space_of(profile: bytes | None) -> str:
    """Pillow's mode of a profile's colour space; empty where there is none, or none that is written."""
    if profile is None:
        return ""
    return _SPACES.get(profile[16:20].decode("ascii", "replace").strip(), "")


def in_profile(image: Image.Image, profile: bytes) -> Image.Image:
    """An sRGB image, grey or not, transparent or not, in a profile's space.

    Raises:
        CupscaleError: The profile is broken, or has no way into its space.
    """
    alpha = image.getchannel("A") if image.mode == "RGBA" else None
    try:
        target = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        srgb = ImageCms.createProfile("sRGB")
        mode = space_of(profile)
        found = ImageCms.profileToProfile(
            image.convert("RGB"), srgb, target, ImageCms.Intent.RELATIVE_COLORIMETRIC, outputMode=mode
        )
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        found = None
    if found is None:
        raise CupscaleError("the input's colour profile has no way into its space: leave --keep-profile out")
    if alpha is None:
        return found
    if found.mode == "L":
        return Image.merge("LA", (found, alpha))
    return Image.merge("RGBA", (*found.split(), alpha))
