"""The small picture that explains the cutoff: what the global structure prior holds of the user's own image."""

from __future__ import annotations

from PIL import Image

from cupscale import images
from cupscale.method.structure import GlobalStructure
from cupscale.planning import Geometry

_SIDE_PX = 224
_GAP_PX = 8


def kept(picture: Image.Image, cutoff: float, scale: float, geometry: Geometry) -> tuple[Image.Image, str]:
    """(the image and its low-frequency part side by side, a line about it).

    The run filters latents of the enlarged image. Their Nyquist, seen from the input, is higher by the scale, and lower by
    the pixels a latent cell spans. Fine cutoffs would show nothing on a shrunken image, so the finer the cutoff, the smaller
    the part that is shown.
    """
    shuffle = geometry.cell if geometry.channels == 3 * geometry.cell**2 else 1
    fraction = cutoff * scale * shuffle / geometry.cell  # of the input's Nyquist
    part = min(max(picture.size), max(96, round(_SIDE_PX * 0.3 / fraction)))
    width, height = (min(side, part) for side in picture.size)
    left, top = (picture.width - width) // 2, (picture.height - height) // 2
    shown = picture.crop((left, top, left + width, top + height))
    shrink = min(1.0, _SIDE_PX / max(width, height))
    small = images.resize(shown, (max(8, round(width * shrink)), max(8, round(height * shrink))), "lanczos")
    if fraction >= 1.4 * shrink:
        low = small
        line = "Everything your image holds stays put."
    else:
        pixels = images.to_tensor(small)
        low = images.to_image(GlobalStructure(pixels, fraction / shrink).lowpass(pixels))
        line = f"Left: {'your image' if part == max(picture.size) else 'its middle'}. Right: the part that stays put."
    grow = _SIDE_PX / max(small.size)
    size = (round(small.width * grow), round(small.height * grow))
    both = Image.new("RGB", (2 * size[0] + _GAP_PX, size[1]), (128, 128, 128))
    both.paste(images.resize(small, size, "bicubic"), (0, 0))
    both.paste(images.resize(low, size, "bicubic"), (size[0] + _GAP_PX, 0))
    return both, line
