"""Make assets/ablation.jpg from the folder of a `cupscale reproduce`: one place in the input and in every row.

python tools/ablation_picture.py OUT NAME        NAME as in OUT/inputs, without its suffix
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from cupscale.reproduce.rows import read_rows

TARGET = Path(__file__).resolve().parent.parent / "assets" / "ablation.jpg"
ROWS = (
    "lanczos",
    "realsr",
    "regional",
    "regional+gsp",
    "regional+gsp+rap",
    "regional+gsp+rap+rsp",
    "original",
)
SIDE_PX, LABEL_PX, COLUMNS, QUALITY = 220, 26, 4, 90


def crops(folder: Path, name: str) -> list[tuple[str, Image.Image]]:
    """Title and middle of every picture, as large as in the results."""
    titles = read_rows()
    large = {row: Image.open(folder / "results" / row / f"{name}-seed0.png").convert("RGB") for row in ROWS}
    width, height = large["original"].size
    left, top = (width - SIDE_PX) // 2, (height - SIDE_PX) // 2
    box = (left, top, left + SIDE_PX, top + SIDE_PX)
    small = Image.open(folder / "inputs" / f"{name}.png").convert("RGB")
    pixels = small.resize((width, height), Image.Resampling.NEAREST)
    return [("Input", pixels.crop(box)), *((titles[row].title, large[row].crop(box)) for row in ROWS)]


def sheet(parts: list[tuple[str, Image.Image]]) -> Image.Image:
    """All of them under their titles."""
    lines = -(-len(parts) // COLUMNS)
    made = Image.new("RGB", (COLUMNS * (SIDE_PX + 6), lines * (SIDE_PX + LABEL_PX)), "white")
    draw, font = ImageDraw.Draw(made), ImageFont.load_default(15)
    for k, (title, crop) in enumerate(parts):
        x, y = k % COLUMNS * (SIDE_PX + 6), k // COLUMNS * (SIDE_PX + LABEL_PX)
        draw.text((x + 2, y + LABEL_PX / 2), title, "black", font, anchor="lm")
        made.paste(crop, (x, y + LABEL_PX))
    return made


if __name__ == "__main__":
    sheet(crops(Path(sys.argv[1]), sys.argv[2])).save(TARGET, quality=QUALITY)
    print(TARGET.name)
