"""Pictures that repeat: enlarged as if they lay beside themselves, and repeated behind their end."""

from __future__ import annotations

import math

from PIL import Image

MARGIN_PX = 16  # of the picture, which a filter or a network sees over the edge at least


def margins(
    size: tuple[int, int], output: tuple[int, int], axes: str
) -> tuple[tuple[int, int], tuple[int, int]]:
    """What is laid around a picture that repeats, (x, y) in its pixels and in those of the output.

    Args:
        size: (width, height) of the picture.
        output: Of its enlargement.
        axes: "x", "y" or "xy"; the others get no margin.
    """
    small, large = [], []
    for axis, side, whole in zip("xy", size, output, strict=True):
        unit = side // math.gcd(side, whole)  # the fewest pixels that whole ones of the output stand for
        count = min(side, unit * -(-MARGIN_PX // unit)) if axis in axes else 0
        count -= count % unit
        small.append(count)
        large.append(count * whole // side)
    return (small[0], small[1]), (large[0], large[1])


def surrounded(image: Image.Image, margin: tuple[int, int]) -> Image.Image:
    """An image with its own other side laid around it, at most once each way."""
    return repeated(image, margin, (image.width + 2 * margin[0], image.height + 2 * margin[1]))


def repeated(image: Image.Image, before: tuple[int, int], size: tuple[int, int]) -> Image.Image:
    """(width, height) of the plane that an image tiles, beginning `before` = (x, y) px before it."""
    found = Image.new(image.mode, size)
    left, top = -((-before[0]) % image.width), -((-before[1]) % image.height)
    for y in range(top, size[1], image.height):
        for x in range(left, size[0], image.width):
            found.paste(image, (x, y))
    return found


def resized(image: Image.Image, output: tuple[int, int], axes: str, method: Image.Resampling) -> Image.Image:
    """An image enlarged as if it lay beside itself."""
    small, large = margins(image.size, output, axes)
    whole = surrounded(image, small).resize((output[0] + 2 * large[0], output[1] + 2 * large[1]), method)
    return inner(whole, large, output)


def inner(image: Image.Image, margin: tuple[int, int], size: tuple[int, int]) -> Image.Image:
    """What `surrounded` laid something around."""
    return image.crop((margin[0], margin[1], margin[0] + size[0], margin[1] + size[1]))
