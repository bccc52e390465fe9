"""A comparison's grid as one picture."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil, sqrt
from pathlib import Path

from PIL import Image, ImageDraw

from cupscale import images
from cupscale.errors import CupscaleError
from cupscale.page import card
from cupscale.page.run import GONE, Shot

_LONGEST_PX = 8192  # of the grid's sides, that programs open everywhere
_GAP_PX = 16
_LINE_PX = 56


def write(shots: Mapping[str, Shot], folder: Path) -> Path:
    """A PNG of all variants side by side with their titles, at full size where the grid stays within 8192 px a side.

    Args:
        shots: Results of one size, by their titles.
        folder: For the file.

    Raises:
        CupscaleError: There are none, or they are gone.
    """
    if not shots:
        raise CupscaleError("there is nothing to download yet: compare some variants first")
    first = next(iter(shots.values()))
    columns = ceil(sqrt(len(shots)))
    rows = ceil(len(shots) / columns)
    room = (
        (_LONGEST_PX - (columns + 1) * _GAP_PX) / columns,
        (_LONGEST_PX - (rows + 1) * _GAP_PX) / rows - _LINE_PX,
    )
    shrink = min(1.0, room[0] / first.size[0], room[1] / first.size[1])
    width, height = (max(1, int(side * shrink)) for side in first.size)
    width_px = columns * (width + _GAP_PX) + _GAP_PX
    height_px = rows * (height + _LINE_PX + _GAP_PX) + _GAP_PX
    sheet = Image.new("RGB", (width_px, height_px), "white")
    draw = ImageDraw.Draw(sheet)
    size = 28
    while size > 8 and max(draw.textlength(card.readable(t), font=card.font(size)) for t in shots) > width:
        size -= 2
    letters = card.font(size)
    for k, (title, shot) in enumerate(shots.items()):
        x = _GAP_PX + k % columns * (width + _GAP_PX)
        y = _GAP_PX + k // columns * (height + _LINE_PX + _GAP_PX)
        try:
            with images.open_own(shot.png) as image:
                picture = card.flat(image)
        except OSError:
            raise CupscaleError(GONE) from None
        sheet.paste(
            picture.resize((width, height), Image.Resampling.LANCZOS) if shrink < 1 else picture, (x, y)
        )
        draw.text((x, y + height + 8), card.readable(title), font=letters, fill="black")
    return images.write(sheet, folder / f"{first.stem}-compared.png")
