"""How often `upscaler=auto` takes the better base upscaler, and what a wrong choice costs.

    python -m benchmarks.chooser --pictures data/test --out out/chooser

Each photograph is reduced by 4 and damaged in a known way; drawings (a folder of them, and generated ones), pages with
letters around a photograph, and pictures half photograph, half drawing come beside them. The chooser sees the whole small
picture. The networks enlarge its middle, and what they make of it is compared with the original by PSNR
and by patch distance (`cupscale.metrics`). What networks made is kept in the folder, so a second run takes seconds.
`--told` says only what is chosen, which takes no network.
"""

from __future__ import annotations

import argparse
import io
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from cupscale.metrics import patch_distance, psnr

SCALE = 4
KINDS = ("photograph", "drawing", "generated drawing", "page", "mixed picture")
NETWORKS = ("realsr", "realesrgan", "anime", "waifu2x")
PHOTOGRAPHIC = NETWORKS[:2]
MIDDLE_PX = 64
"""Side of what the networks get, in pixels of the small picture."""


def jpeg(quality: int) -> Callable[[Image.Image], tuple[Image.Image, bytes | None]]:
    """Save as JPEG, the file kept."""

    def damage(image: Image.Image) -> tuple[Image.Image, bytes | None]:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality)
        return Image.open(buffer).convert("RGB"), buffer.getvalue()

    return damage


def noise(sigma: float) -> Callable[[Image.Image], tuple[Image.Image, None]]:
    """White noise of `sigma` levels, each channel its own."""

    def damage(image: Image.Image) -> tuple[Image.Image, None]:
        pixels = np.asarray(image).astype(float)
        pixels += np.random.default_rng(image.width).normal(0, sigma, pixels.shape)
        return Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8)), None

    return damage


def grain(image: Image.Image) -> tuple[Image.Image, None]:
    """Film grain: soft noise of 5 levels, the same in all channels, less of it in the darkest and lightest places."""
    pixels = np.asarray(image).astype(float)
    white = np.random.default_rng(image.width).normal(0, 1, pixels.shape[:2])
    soft = white + 0.5 * (
        np.roll(white, 1, 0) + np.roll(white, -1, 0) + np.roll(white, 1, 1) + np.roll(white, -1, 1)
    )
    light = pixels.mean(axis=2) / 255
    pixels += (5 * soft / soft.std() * np.sqrt(4 * light * (1 - light)))[..., None]
    return Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8)), None


def saved_again(image: Image.Image) -> tuple[Image.Image, None]:
    """A picture of JPEG 80 on a screen: cut at no block's border, and kept without loss."""
    return jpeg(80)(image)[0].crop((3, 5, image.width, image.height)).copy(), None


DAMAGES: dict[str, Callable[[Image.Image], tuple[Image.Image, bytes | None]]] = {
    "none": lambda image: (image, None),
    "JPEG 98": jpeg(98),
    "JPEG 92": jpeg(92),
    "JPEG 85": jpeg(85),
    "JPEG 75": jpeg(75),
    "JPEG 50": jpeg(50),
    "JPEG 80, cut, as PNG": saved_again,
    "noise 2": noise(2),
    "noise 5": noise(5),
    "noise 10": noise(10),
    "film grain": grain,
}


def drawing(number: int, side: int = 1024) -> Image.Image:
    """Flat shapes, outlines and letters, in colours and a layout of its own; drawn four times as large and reduced."""
    random = np.random.default_rng(number)
    big = side * 2

    def colour() -> tuple[int, int, int]:
        red, green, blue = random.integers(40, 256, 3)
        return int(red), int(green), int(blue)

    image = Image.new("RGB", (big, big), colour() if number % 2 else "white")
    draw = ImageDraw.Draw(image)
    for _ in range(24):
        x, y = random.integers(0, big, 2)
        w, h = random.integers(big // 16, big // 3, 2)
        box = (int(x - w // 2), int(y - h // 2), int(x + w // 2), int(y + h // 2))
        line = int(random.integers(4, 20))
        kind = random.integers(5)
        if kind == 0:
            draw.ellipse(box, fill=colour(), outline="black", width=line)
        elif kind == 1:
            draw.rounded_rectangle(box, 60, fill=colour(), outline="black", width=line)
        elif kind == 2:
            draw.arc(box, int(random.integers(360)), int(random.integers(360)), fill="black", width=line)
        elif kind == 3:
            draw.line([tuple(map(int, random.integers(0, big, 2))) for _ in range(4)], "black", line, "curve")
        else:
            draw.text(box[:2], "Drawn by hand 42", fill="black", font_size=int(random.integers(60, 160)))
    return image.resize((side, side), Image.Resampling.LANCZOS)


def on_white(file: Path) -> Image.Image:
    """A picture, RGB, white where it is transparent."""
    if file.suffix == ".npy":  # as `training.prepare` writes photographs
        return Image.fromarray(np.load(file))
    image = Image.open(file).convert("RGBA")
    page = Image.new("RGBA", image.size, "white")
    page.alpha_composite(image)
    return page.convert("RGB")


def screen(photograph: Image.Image, number: int) -> Image.Image:
    """A page as a screen shows it: letters around a photograph, whose corner lies in the middle of the page."""
    width, height = (side // 8 * 8 for side in photograph.size)
    page = Image.new("RGB", (width, height), "white")
    page.paste(photograph.crop((0, 0, width // 2, height // 2)), (width // 2 - 32, height // 2 - 32))
    draw = ImageDraw.Draw(page)
    for k, top in enumerate(range(16, height - 60, 56)):
        size = (22, 30, 40)[(k + number) % 3]
        draw.text(
            (16, top), "The quick brown fox jumps over the lazy dog 0123456789", "black", font_size=size
        )
    page.paste(photograph.crop((0, 0, width // 2, height // 2)), (width // 2 - 32, height // 2 - 32))
    return page


def mixed(photograph: Image.Image, drawn: Image.Image) -> Image.Image:
    """A photograph whose right half is a drawing."""
    page = photograph.copy()
    half = (page.width - page.width // 2, page.height)
    page.paste(drawn.resize(half, Image.Resampling.LANCZOS), (page.width // 2, 0))
    return page


def cases(arguments: argparse.Namespace) -> list[tuple[str, str, Image.Image]]:
    """(kind, name, original), the sides multiples of the scale."""
    files = [file for folder in arguments.pictures for file in sorted(folder.iterdir())][: arguments.limit]
    photographs = [(file.stem, on_white(file)) for file in files]
    drawn = [(file.stem, on_white(file)) for folder in arguments.drawn for file in sorted(folder.iterdir())]
    made = [(f"drawing {number}", drawing(number)) for number in range(arguments.drawings)]
    pages = enumerate(photographs[: arguments.pages])
    found = [("photograph", name, image) for name, image in photographs]
    found += [("drawing", name, image) for name, image in drawn]
    found += [("generated drawing", name, image) for name, image in made]
    for number, (name, image) in pages:
        found.append(("page", name, screen(image, number)))
        found.append(("mixed picture", name, mixed(image, drawing(number))))
    found = [one for one in found if one[0] in arguments.kinds]
    return [
        (kind, name, image.crop((0, 0, image.width // SCALE * SCALE, image.height // SCALE * SCALE)))
        for kind, name, image in found
    ]


def measured(original: Image.Image, made: Image.Image) -> tuple[float, float]:
    """PSNR in dB and patch distance."""
    one, two = (np.asarray(image).astype(np.float32) / 255 for image in (original, made))
    return psnr(one, two), patch_distance([one], [two])


def middle(image: Image.Image, offset: tuple[int, int]) -> tuple[int, int]:
    """The left upper corner, in the undamaged small picture, of what the networks get."""
    return (image.width + offset[0] - MIDDLE_PX) // 2, (image.height + offset[1] - MIDDLE_PX) // 2


def rows(arguments: argparse.Namespace) -> list[dict]:
    """One a picture and damage: what was chosen, and the measures of each base upscaler."""
    from cupscale import images
    from cupscale.upscalers import NAMES, Cache, base_upscale
    from cupscale.upscalers.choose import choose, examine

    kept = Cache(arguments.out / "enlarged", max_bytes=2**40, max_age=float("inf"))
    found = []
    for kind, name, original in cases(arguments):
        size = (original.width // SCALE, original.height // SCALE)
        small = original.resize(size, Image.Resampling.LANCZOS)
        for damage, harm in ((one, DAMAGES[one]) for one in arguments.damages):
            harmed, file = harm(small)
            picture = images.read(file) if file else images.Picture(harmed)
            choice = choose(examine(picture.rgb, picture.quality), lambda name: name in NAMES)
            cut = small.width - harmed.width, small.height - harmed.height
            x, y = middle(small, cut)
            left, top = x - cut[0], y - cut[1]
            part = harmed.crop((left, top, left + MIDDLE_PX, top + MIDDLE_PX))
            wanted = original.crop(tuple(SCALE * side for side in (x, y, x + MIDDLE_PX, y + MIDDLE_PX)))
            networks = PHOTOGRAPHIC if kind == "photograph" else NETWORKS
            networks = () if arguments.told else networks
            made = {one: base_upscale(part, wanted.size, one, cache=kept) for one in networks}
            row = {"kind": kind, "picture": name, "damage": damage, "chosen": choice.upscaler}
            row |= {"why": choice.reason, "fidelity": choice.fidelity}
            found.append(row | {one: measured(wanted, image) for one, image in made.items()})
            print(name, damage, choice, flush=True)
    return found


def table(found: list[dict]) -> str:
    """Markdown: a row for each kind and damage."""
    lines = [
        "| input | damage | chosen | PSNR: RealSR, Real-ESRGAN, anime, waifu2x | patch distance: the same | chosen is the best: "
        "PSNR, patches | a wrong choice costs: dB, patches |",
        "|---|---|---|---|---|---|---|",
    ]
    for kind in KINDS:
        for damage in DAMAGES:
            group = [row for row in found if (row["kind"], row["damage"]) == (kind, damage)]
            if group:
                lines.append(f"| {len(group)} {kind}s | {damage} | {_cells(group)} |")
    return "\n".join(lines)


def told(found: list[dict]) -> str:
    """Markdown: how often each base upscaler was chosen, for each kind and damage."""
    counts = Counter((row["kind"], row["damage"], row["chosen"]) for row in found)
    lines = ["| input | damage | chosen | how often |", "|---|---|---|---|"]
    return "\n".join([*lines, *(f"| {' | '.join(one)} | {count} |" for one, count in counts.items())])


def _cells(group: list[dict]) -> str:
    networks = [name for name in NETWORKS if name in group[0]]
    figures = np.array([[row[name] for name in networks] for row in group])  # (rows, networks, 2)
    own = np.array([networks.index(row["chosen"]) if row["chosen"] in networks else 0 for row in group])
    taken = figures[np.arange(len(group)), own]
    best = np.stack([figures[..., 0].max(axis=1), figures[..., 1].min(axis=1)], axis=1)
    right = taken == best
    costs = []
    for which in (0, 1):
        wrong = ~right[:, which]
        costs.append(np.abs(taken - best)[wrong, which].mean() if wrong.any() else 0.0)
    names = ", ".join(f"{networks[k]} {(own == k).sum()}" for k in range(len(networks)) if (own == k).any())
    means = [", ".join(f"{value:.1f}" for value in figures[..., which].mean(axis=0)) for which in (0, 1)]
    share = ", ".join(f"{count} of {len(group)}" for count in right.sum(axis=0))
    return f"{names} | {means[0]} | {means[1]} | {share} | {costs[0]:.1f}, {costs[1]:.1f}"


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description="How often upscaler=auto takes the better base upscaler.")
    parser.add_argument("--pictures", type=Path, nargs="+", default=[Path("data/test")])
    parser.add_argument("--limit", type=int, help="so many photographs at most")
    parser.add_argument("--drawn", type=Path, nargs="*", default=[], help="folders of drawings")
    parser.add_argument("--drawings", type=int, default=4, help="so many generated drawings")
    parser.add_argument("--pages", type=int, default=4, help="so many pages, and mixed pictures")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--damages", nargs="+", choices=list(DAMAGES), default=list(DAMAGES))
    parser.add_argument("--told", action="store_true", help="only what is chosen, without the networks")
    parser.add_argument("--out", type=Path, default=Path("out/chooser"))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    found = rows(arguments)
    (arguments.out / "rows.json").write_text(json.dumps(found, indent=1))
    print(told(found) if arguments.told else table(found))


if __name__ == "__main__":
    main()
