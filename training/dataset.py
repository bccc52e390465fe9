"""Crops for training: pixels, a caption of what is in them, and where and of what size their photograph was."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from cupscale.captioners.appearance import words_of


@dataclass(frozen=True)
class Crop:
    """One training sample.

    `pixels` is (size, size, 3), bytes; `caption` what is in it and then words of
    `cupscale.captioners.appearance`, each left out at times;
    `time_ids` as in `size_condition`;
    `altered` says that it was blurred, sharpened or grained and is like no photograph: its caption must not be left out.
    """

    pixels: np.ndarray
    caption: str
    time_ids: tuple[float, ...]
    altered: bool = False


def size_condition(
    original_px: tuple[float, float], corner_px: tuple[float, float], target_px: tuple[float, float]
) -> tuple[float, ...]:
    """SDXL's size and crop conditioning, (original height and width, top and left, target height and width).

    `original_px` is the photograph's size in its file, `target_px` its size after it was resized for training, and
    `corner_px` where the crop begins in the resized photograph. A photograph reduced from a much larger one is sharp, one
    that was enlarged is blurred: the network can read it from original / target.
    """
    return (*original_px, *corner_px, *target_px)


def describe(
    caption: str,
    boxes: list[list],
    crop: tuple[float, float, float, float],
    random: np.random.Generator | None = None,
) -> str:
    """Say what is in a crop, given as (left, top, right, bottom) in fractions of the photograph.

    A box tells of the crop where it covers at least a quarter of it or lies in it by at least half. A crop that no box
    tells of gets the photograph's caption; so do, for variety, 15% of the others where there is a `random`.
    """
    said = []
    left, top, right, bottom = crop
    for x0, y0, x1, y1, text in boxes:
        common = max(0.0, min(right, x1) - max(left, x0)) * max(0.0, min(bottom, y1) - max(top, y0))
        if common >= 0.25 * (right - left) * (bottom - top) or common >= 0.5 * (x1 - x0) * (y1 - y0):
            said.append(text)
    if not said or (random and random.random() < 0.15):
        return caption
    if random:
        random.shuffle(said)
    return ", ".join(said)


def altered(pixels: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, list[str]]:
    """Blur, sharpen or grain a crop (H, W, 3) of bytes, and return it with the word for what was done. Ours.

    What a photograph shows goes with how sharp and how grainy it is; here the word alone tells.
    """
    image = Image.fromarray(pixels)
    way = random.integers(3)
    if way == 0:
        image, word = image.filter(ImageFilter.GaussianBlur(random.uniform(0.7, 2.5))), "blurred"
    elif way == 1:
        strength = int(random.uniform(60, 200))
        image, word = image.filter(ImageFilter.UnsharpMask(random.uniform(0.6, 1.2), strength, 0)), "sharp"
    else:
        size = random.uniform(4, 14)
        noise = random.standard_normal((*pixels.shape[:2], 1)) + 0.4 * random.standard_normal(pixels.shape)
        return (pixels + size * noise).round().clip(0, 255).astype(np.uint8), ["grainy"]
    return np.asarray(image), [word]


class Photographs:
    """The prepared photographs, from which `draw` cuts random crops."""

    def __init__(self, folder: Path) -> None:
        rows = json.loads((folder / "index.json").read_text())
        self.captions = [row["caption"] for row in rows] + [box[4] for row in rows for box in row["boxes"]]
        self.cutouts = [
            (np.load(folder / row["file"]), row["caption"]) for row in rows if row["split"] == "cutout"
        ]
        self.cutouts = [
            (picture, caption) for picture, caption in self.cutouts if min(picture.shape[:2]) >= 48
        ]
        self.levels = []
        weights = []
        for row in rows:
            for level in row.get("levels", ()):
                self.levels.append((np.load(folder / level["file"], mmap_mode="r"), row))
                sharpness = row["native"][1] / level["size"][1]
                # A photograph counts by the root of its area, and sharp levels count for more.
                weights.append(min(sharpness, 2.5) ** 1.5 * (level["size"][0] * level["size"][1]) ** 0.5)
        self.weights = np.cumsum(weights) / np.sum(weights)

    def draw(self, size_px: int, random: np.random.Generator, alter: float = 0.0) -> Crop:
        """Cut one random crop of size_px x size_px pixels, mirrored and dimmed at random, some with a cut-out on it.

        `alter` is the share of crops that `altered` changes.
        """
        picture, row = self.levels[np.searchsorted(self.weights, random.random())]
        height, width = picture.shape[:2]
        kind = random.random()
        if kind < 0.5:
            scale = 1.0
        elif kind < 0.93:
            scale = random.uniform(0.55, 1.0)  # reduced once more
        else:
            scale = random.uniform(1.5, 3.0)  # enlarged: blurred, and the condition says so
        side = min(max(round(size_px / scale), 8), height, width)
        scale = size_px / side
        tries = []
        for _ in range(2):  # of two places, mostly the busier one
            top, left = random.integers(height - side + 1), random.integers(width - side + 1)
            patch = np.asarray(picture[top : top + side, left : left + side])
            tries.append(
                (np.abs(np.diff(patch[::2, ::2, 1].astype(np.int16), axis=0)).mean(), top, left, patch)
            )
        tries.sort(key=lambda one: one[0])
        _, top, left, patch = tries[1 if random.random() < 0.75 else 0]
        if side != size_px:
            patch = np.asarray(Image.fromarray(patch).resize((size_px, size_px), Image.Resampling.LANCZOS))
        box = (left / width, top / height, (left + side) / width, (top + side) / height)
        caption = describe(row["caption"], row["boxes"], box, random)
        if random.random() < 0.1:
            patch, caption = self._paste(patch, caption, size_px, random)
        if random.random() < 0.5:
            patch = patch[:, ::-1]
        if random.random() < 0.3:
            dimmed = patch.astype(np.float32) * random.uniform(0.6, 1.05) + random.uniform(-10, 10)
            patch = dimmed.round().clip(0, 255).astype(np.uint8)
        patch = np.ascontiguousarray(patch)
        change = random.random() < alter
        patch, said = altered(patch, random) if change else (patch, [])
        seen = said + [word for word in words_of(patch) if random.random() < 0.8 and word not in said]
        native = row["native"] if scale <= 1 else (height, width)
        time_ids = size_condition(
            (float(native[0]), float(native[1])),
            (float(top * scale), float(left * scale)),
            (height * scale, width * scale),
        )
        told = seen if change and random.random() < 0.5 else [caption, *seen]
        return Crop(patch, ", ".join(told), time_ids, change)

    def _paste(
        self, patch: np.ndarray, caption: str, size_px: int, random: np.random.Generator
    ) -> tuple[np.ndarray, str]:
        cutout, name = self.cutouts[random.integers(len(self.cutouts))]
        long_side = min(max(cutout.shape[:2]), random.uniform(0.6, 1.6) * size_px)
        scale = long_side / max(cutout.shape[:2])
        shape = (max(8, round(cutout.shape[1] * scale)), max(8, round(cutout.shape[0] * scale)))
        small = np.asarray(Image.fromarray(cutout).resize(shape, Image.Resampling.LANCZOS)).astype(np.float32)
        canvas = np.zeros((size_px, size_px, 4), np.float32)
        spare = (size_px - small.shape[0], size_px - small.shape[1])
        y, x = (int(random.integers(min(0, room), max(0, room) + 1)) for room in spare)
        y0, x0 = max(0, y), max(0, x)
        part = small[max(0, -y) : max(0, -y) + size_px - y0, max(0, -x) : max(0, -x) + size_px - x0]
        canvas[y0 : y0 + part.shape[0], x0 : x0 + part.shape[1]] = part
        alpha = canvas[..., 3:] / 255
        mixed = canvas[..., :3] * alpha + patch * (1 - alpha)
        return mixed.round().clip(0, 255).astype(np.uint8), f"{name}, {caption}"
