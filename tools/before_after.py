"""The README's picture: input, Lanczos and ours side by side, from an example and its committed result.

python tools/before_after.py        writes assets/before-after.jpg and assets/screenshots/thumbnail.png
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
ASSETS, EXAMPLES = ROOT / "assets", ROOT / "cupscale" / "assets" / "examples"
BOX = (380, 190, 860, 630)  # of the 1024 x 768 result


def main() -> None:
    """Write the picture, and the Space's thumbnail."""
    small = Image.open(EXAMPLES / "raccoon.png").convert("RGB")
    ours = Image.open(EXAMPLES / "raccoon-after.webp").convert("RGB")
    scale = ours.width / small.width
    part = small.crop(tuple(round(side / scale) for side in BOX))
    width, height = BOX[2] - BOX[0], BOX[3] - BOX[1]
    sheet = Image.new("RGB", (3 * width + 16, height), "white")
    sheet.paste(part.resize((width, height), Image.Resampling.NEAREST), (0, 0))
    sheet.paste(small.resize(ours.size, Image.Resampling.LANCZOS).crop(BOX), (width + 8, 0))
    sheet.paste(ours.crop(BOX), (2 * width + 16, 0))
    sheet.save(ASSETS / "before-after.jpg", quality=90)
    half = ours.width // 2
    thumbnail = small.resize(ours.size, Image.Resampling.LANCZOS)
    thumbnail.paste(ours.crop((half, 0, *ours.size)), (half, 0))
    thumbnail.paste("white", (half - 2, 0, half + 2, ours.height))
    thumbnail.resize((640, 480), Image.Resampling.LANCZOS).quantize(128).save(
        ASSETS / "screenshots" / "thumbnail.png"
    )


if __name__ == "__main__":
    main()
