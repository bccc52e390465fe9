"""The card of a result: before | after in one picture with a line under it, for people and for what previews a link."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cupscale import images

SIZE = (1200, 630)  # what links are previewed at (ogp.me names no size; this is the usual 1.91 : 1)
_PANEL = (598, 558)
_GAP_PX = 4
_SHARE = 0.75  # of the picture's shorter side, that a panel shows at least
_DARK, _LIGHT, _FAINT = "#1c1917", "#fafaf9", "#d6d3d1"


def make(
    before: Image.Image,
    after: Image.Image,
    title: str,
    line: str,
    part: tuple[float, float, float, float] | None = None,
) -> Image.Image:
    """The card.

    Args:
        before: The plain enlargement.
        after: The result, of the same size.
        title: First in the line; of letters that the font has, else left out.
        line: Sizes and the model.
        part: What both panels show, as (left, top, right, bottom) in shares of the picture; None for the part where the
            result adds most.

    Returns:
        RGB, 1200 x 630.
    """
    box = _box(after.size, part) if part else _busiest(before, after)
    card = Image.new("RGB", SIZE, _DARK)
    for k, image in enumerate((before, after)):
        panel = flat(image).resize(_PANEL, Image.Resampling.LANCZOS, box=box)
        card.paste(panel, (k * (_PANEL[0] + _GAP_PX), 0))
    draw = ImageDraw.Draw(card)
    for k, text in enumerate(("before", "after")):
        _tag(draw, text, (k * (_PANEL[0] + _GAP_PX) + 16, _PANEL[1] - 50))
    _caption(draw, title, line)
    return card


def encoded(card: Image.Image) -> bytes:
    """As JPEG."""
    buffer = io.BytesIO()
    card.save(buffer, "JPEG", quality=88)
    return buffer.getvalue()


def of_files(before: str, after: str, title: str, line: str, part: Any = None) -> bytes:
    """The card of two files of this program's own, as JPEG. Raises OSError where they are not there."""
    with images.open_own(before) as one, images.open_own(after) as other:
        return encoded(make(one, other, title, line, part))


def flat(image: Image.Image) -> Image.Image:
    """What is transparent lies on white."""
    if not images.is_transparent(image):
        return image.convert("RGB")
    clear = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), clear).convert("RGB")


def _fitted(width: float, height: float) -> tuple[float, float]:
    """The largest size of a panel's shape within (width, height)."""
    shape = _PANEL[0] / _PANEL[1]
    return min(width, height * shape), min(height, width / shape)


def _box(size: tuple[int, int], part: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    """A part in pixels, cut to a panel's shape about its middle."""
    left, top, right, bottom = part[0] * size[0], part[1] * size[1], part[2] * size[0], part[3] * size[1]
    width, height = _fitted(right - left, bottom - top)
    x, y = (left + right - width) / 2, (top + bottom - height) / 2
    return (x, y, x + width, y + height)


def _busiest(before: Image.Image, after: Image.Image) -> tuple[float, float, float, float]:
    """The window where before and after differ most.

    By their squared differences at a coarse size, of which those in a corner count half (ours).
    """
    scale = 96 / max(after.size)
    coarse = (max(2, round(after.width * scale)), max(2, round(after.height * scale)))
    one, other = (
        np.asarray(flat(image).convert("L").resize(coarse, Image.Resampling.BOX), np.float64)
        for image in (before, after)
    )
    width, height = _fitted(*after.size)
    shrink = min(1.0, max(_SHARE * min(after.size), _PANEL[0]) / width)
    width, height = width * shrink, height * shrink
    wide, high = (
        min(side, max(1, round(length * scale))) for side, length in zip(coarse, (width, height), strict=True)
    )
    total = np.pad(((one - other) ** 2).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    sums = total[high:, wide:] - total[:-high, wide:] - total[high:, :-wide] + total[:-high, :-wide]
    ys, xs = (np.abs(np.linspace(-1, 1, n)) if n > 1 else np.zeros(1) for n in sums.shape)
    y, x = np.unravel_index(int((sums * (1 - 0.5 * np.hypot(*np.ix_(ys, xs)) / 2**0.5)).argmax()), sums.shape)
    left = min(x / scale, after.width - width)
    top = min(y / scale, after.height - height)
    return (left, top, left + width, top + height)


def font(size: int) -> Any:
    """Pillow's own, so that every machine has it. size: px."""
    return ImageFont.load_default(size)


def _tag(draw: ImageDraw.ImageDraw, text: str, at: tuple[int, int]) -> None:
    letters = font(22)
    box = draw.textbbox((at[0] + 14, at[1] + 5), text, font=letters)
    draw.rounded_rectangle((at[0], at[1], box[2] + 14, box[3] + 9), 18, fill=_DARK)
    draw.text((at[0] + 14, at[1] + 5), text, font=letters, fill=_LIGHT)


def _caption(draw: ImageDraw.ImageDraw, title: str, line: str) -> None:
    letters, y = font(26), _PANEL[1] + 20
    mark = "cupscale"
    room = SIZE[0] - 32 - round(draw.textlength(mark, font=letters)) - 24
    text, line = readable(title), readable(line)
    text = f"{text} · {line}" if text else line
    while len(text) > 4 and draw.textlength(text, font=letters) > room:
        text = text[:-2].rstrip(" .") + "…"
    draw.text((16, y), text, font=letters, fill=_LIGHT)
    draw.text((SIZE[0] - 16, y), mark, font=letters, fill=_FAINT, anchor="ra")


def readable(text: str) -> str:
    """On one line; empty where a letter is none of those that the font surely has."""
    line = " ".join(text.replace("×", "x").replace("→", "to").split())[:120]
    return line if all(c.isprintable() and ord(c) < 0x180 for c in line) else ""
