"""Folders and votes that no person gave, for the tests of the study."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from cupscale import images
from cupscale.study.store import Vote

COLOURS = {"+ gsp": (200, 40, 40), "demofusion": (40, 160, 60), "lanczos": (50, 70, 210)}


def make_folder(folder: Path, names: Sequence[str] = ("boat", "fox", "lake"), size=(48, 32)) -> Path:
    """Rows of one colour each, so that a picture tells its row; every file has its settings inside."""
    for row, colour in COLOURS.items():
        (folder / row).mkdir(parents=True)
        for name in names:
            noise = np.random.default_rng(len(name)).integers(-30, 31, (size[1], size[0], 3))
            pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
            settings = json.dumps({"prompt": f"made by {row}"})
            images.write(Image.fromarray(pixels), folder / row / f"{name}.png", settings)
    (folder / "input").mkdir()
    for name in names:
        Image.new("RGB", (24, 16), (128, 128, 128)).save(folder / "input" / f"{name}.png")
    return folder


def row_of(colour: Sequence[float]) -> str:
    """The row whose colour is nearest."""
    distance = {row: np.abs(np.array(own) - np.array(colour[:3])).sum() for row, own in COLOURS.items()}
    return min(distance, key=distance.get)


def vote(voter: str, image: str, first: str, second: str, answer: str, **more: str) -> Vote:
    """One simulated vote."""
    fields = {"expected": "", "origin": "simulated", "voted": "2026-01-31T09:30:00Z"} | more
    id = fields.pop("id", "") or f"{voter}{image}{first}{second}{answer}".replace(" ", "").replace("+", "")
    return Vote(id=id, voter=voter, image=image, first=first, second=second, answer=answer, **fields)


def planted(
    strengths: Sequence[float],
    *,
    voters: int,
    pictures: int,
    votes: int,
    taste: float,
    draws: float,
    seed: int,
) -> list[Vote]:
    """Votes of a planted Bradley-Terry ranking.

    Each voter and each image likes each row more or less than the rest do, by `taste` (a standard deviation in logits).
    `votes` of every voter, on pairs without repetition; `draws` of them say "equal".
    """
    random = np.random.default_rng(seed)
    rows = len(strengths)
    of_image, of_voter = (random.normal(0, taste, (number, rows)) for number in (pictures, voters))
    units = [(i, a, b) for i in range(pictures) for a in range(rows) for b in range(a)]
    made = []
    for voter in range(voters):
        for index in random.choice(len(units), votes, replace=False):
            image, *sides = units[index]
            random.shuffle(sides)
            liked = (np.array(strengths) + of_image[image] + of_voter[voter])[sides]
            won = random.random() < 1 / (1 + np.exp(liked[1] - liked[0]))
            answer = "equal" if random.random() < draws else "first" if won else "second"
            first, second = (f"row{side}" for side in sides)
            made.append(vote(f"v{voter:02}", f"i{image:02}", first, second, answer))
    return made
