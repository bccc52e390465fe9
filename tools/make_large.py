"""Make the page's large example, 4096 px wide, with the bundled model: `python tools/make_large.py`.

The input is in cupscale/assets/large, with who took it. Captions are written by hand, for areas of the picture; each region
takes the one of the area its middle lies in. This writes the result in tiles, as the page shows it, and index.json beside
them. `--result FILE` cuts a result that is there already.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent))

import cupscale
from cupscale import images, models
from cupscale.planning import make_plan
from cupscale.settings import Caption, Settings

FOLDER = Path(__file__).parent.parent / "cupscale" / "assets" / "large"
INPUT = "coffee.png"
WIDTH, SEED = 4096, 7
TILE, QUALITY = 512, 80
AUTHOR, LICENCE = "Rachel Michetti", "CC0"  # the sample image "coffee" of scikit-image
PROMPT = "a cup of espresso on a wooden table"
WRITER = "user"  # by hand, for this example
# (caption, middle, half axes) of ellipses in pixels of the input; the first that holds a point wins.
AREAS = (
    ("the crema of an espresso, smooth, orange", (288, 145), (80, 45)),
    ("the white porcelain of the cup, smooth, bright", (290, 108), (118, 92)),
    ("a polished steel spoon, sharp, bright", (367, 282), (44, 48)),
    ("glazed red porcelain, smooth, red", (278, 225), (203, 164)),
    ("darkness behind the table, smooth, dark, black", (0, 0), (165, 100)),
)
ELSEWHERE = "the grain of old wood, rough texture, lines, sharp, orange, brown"


def caption_at(x: float, y: float) -> str:
    """The caption of a point of the input."""
    for text, (mx, my), (ax, ay) in AREAS:
        if ((x - mx) / ax) ** 2 + ((y - my) / ay) ** 2 <= 1:
            return text
    return ELSEWHERE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--result", type=Path, help="a result to cut, in place of a run")
    parser.add_argument("--keep", type=Path, help="where to write the result itself, as PNG")
    given = parser.parse_args()
    path, seconds = given.result, None
    if path is None:
        path = given.keep or Path("out/large.png")
        seconds = _run(path)
    _cut(path, seconds)


def _run(target: Path) -> float:
    picture = images.read(FOLDER / INPUT)
    pipe = cupscale.load("tiny", device="cpu")
    known = models.KNOWN["tiny"]
    own = models.defaults("tiny", models.family(known.source))
    settings = Settings.build(own, prompt=PROMPT, scale=WIDTH / picture.size[0], seed=SEED, model="tiny")
    plan = make_plan(picture.size, settings, known.geometry)
    back = picture.size[0] / plan.output[0]
    captions = tuple(
        Caption(
            box=box,
            caption=caption_at((box[0] + box[2]) / 2 * back, (box[1] + box[3]) / 2 * back),
            source=WRITER,
        )
        for box in plan.boxes
    )
    result = cupscale.upscale(pipe, picture, settings.replace(captions=captions))
    target.parent.mkdir(parents=True, exist_ok=True)
    result.save(target)
    print(f"{result.plan.line()}, took {result.seconds:.0f} s")
    return result.seconds


def _cut(path: Path, seconds: float | None) -> None:
    """Write the tiles of every level, and the index."""
    with images.open_own(str(path)) as opened:
        image = opened.convert("RGB")
    settings = Settings(**images.read_settings(path))
    sizes = []
    for level, picture in enumerate(levels(image)):
        sizes.append(picture.size)
        for row in range(-(-picture.height // TILE)):
            for column in range(-(-picture.width // TILE)):
                left, top = column * TILE, row * TILE
                box = (left, top, min(left + TILE, picture.width), min(top + TILE, picture.height))
                file = FOLDER / "tiles" / f"{level}-{column}-{row}.webp"
                file.parent.mkdir(parents=True, exist_ok=True)
                picture.crop(box).save(file, "WEBP", quality=QUALITY, method=6)
    index = {
        "input": INPUT,
        "tile": TILE,
        "levels": sizes,
        "author": AUTHOR,
        "licence": LICENCE,
        "seconds": None if seconds is None else round(seconds),
        "settings": settings.model_dump(mode="json", exclude={"captions"}),
        "captions": [[list(one.box), one.caption] for one in settings.captions],
    }
    (FOLDER / "index.json").write_text(json.dumps(index, ensure_ascii=False) + "\n", "utf-8")
    total = sum(file.stat().st_size for file in FOLDER.rglob("*.*"))
    print(f"{len(list(FOLDER.rglob('*.webp')))} tiles, {total / 1e6:.2f} MB in all")


def levels(image: Image.Image) -> Iterator[Image.Image]:
    """From what fits one tile to the whole, each twice as large as the one before."""
    made = [image]
    while max(made[-1].size) > TILE:
        width, height = made[-1].size
        made.append(images.resize(made[-1], ((width + 1) // 2, (height + 1) // 2), "lanczos"))
    yield from reversed(made)


if __name__ == "__main__":
    main()
