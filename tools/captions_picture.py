"""Make assets/captions.jpg: one run's regions and their captions, beside its result.

    python tools/captions_picture.py

The captions are the offline tagger's; the enlarged picture is the example's own result.
"""

from __future__ import annotations

import textwrap
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

import cupscale
from cupscale.captioners import Captioned, Captioning, open_captioner
from cupscale.page import examples
from cupscale.pipeline import CUpscalePipeline

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "assets" / "captions.jpg"
NAME, WIDTH_PX, TEXT_PX, QUALITY = "bee", 900, 460, 88
PAPER, INK, LINE = (250, 250, 248), (20, 24, 28), (255, 214, 10)


def drawn() -> Image.Image:
    """The result under its regions' boxes and numbers, their captions beside it."""
    example = next(each for each in examples.every() if each.name == NAME)
    pipeline = CUpscalePipeline(cupscale.load("tiny"))
    settings = pipeline.settings(**dict(example.settings) | {"captions": ()})
    captioning = Captioning(open_captioner("tagger"), share=0.0, fresh=True)
    *_, done = pipeline.caption(example.path(example.input), captioning, settings)
    assert isinstance(done, Captioned)
    after = Image.open(example.path(example.after)).convert("RGB")
    scale = WIDTH_PX / after.width
    picture = after.resize((WIDTH_PX, round(after.height * scale)), Image.Resampling.LANCZOS)
    sheet = Image.new("RGB", (WIDTH_PX + TEXT_PX, picture.height), PAPER)
    sheet.paste(picture)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(22)
    room = sheet.height / len(done.captions)
    for number, caption in enumerate(done.captions, 1):
        left, top, right, bottom = (round(side * scale) for side in caption.box)
        draw.rectangle((left + 1, top + 1, right - 2, bottom - 2), outline=LINE, width=2)
        draw.text(
            (left + 10 + 4 * (number % 3), top + 8), str(number), INK, font, stroke_width=3, stroke_fill=LINE
        )
        text = textwrap.shorten(f"{number}  {caption.caption}", 80)
        draw.text((WIDTH_PX + 24, (number - 0.5) * room), text, INK, font, anchor="lm")
    return sheet


if __name__ == "__main__":
    drawn().save(TARGET, quality=QUALITY)
    print(TARGET.relative_to(ROOT))
