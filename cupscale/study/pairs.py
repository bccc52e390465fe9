"""What a study compares: a folder of rows, and the pairs that a voter is asked about.

A row is a method: a subfolder, whose images have the names of the other rows' images. One pair is one image of two rows.
Pairs with the fewest votes come first, so votes are spread evenly; among those, the pair, its order and its sides are random.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from random import Random
from typing import NamedTuple

from cupscale import images
from cupscale.errors import CupscaleError

INPUT = "input"  # the subfolder of what the results were made from, which is no row
RUN = "run.json"  # in a folder of `cupscale reproduce`: results/ROW/NAME-seedN.png, inputs/NAME.png
MAX_ROWS = 32
MAX_IMAGES = 500
NAME_CHARS = 100
MAX_PIXELS = 2**27  # a browser decodes no more
MAX_BYTES = 2**28
CHECK_EVERY = 10  # one question in so many is an attention check
FIRST_CHECK = 5  # the first comes at the latest here, so that nearly every voter answers one


class Unit(NamedTuple):
    """An image and two rows, in the order of their names: what is asked, whatever the sides."""

    image: str
    one: str
    other: str


class Asked(NamedTuple):
    """A question as a voter sees it.

    Attributes:
        image: Its name.
        first: The row on the first side (left, or above).
        second: The row on the second side. In an attention check the same row.
        expected: "" in a comparison. In a check, the side that is not spoilt: "first" or "second".
    """

    image: str
    first: str
    second: str
    expected: str = ""

    @property
    def unit(self) -> Unit:
        """Without the sides."""
        return Unit(self.image, *sorted((self.first, self.second)))


@dataclass
class Study:
    """A folder of results.

    Attributes:
        folder: The folder.
        rows: Names of its rows, sorted.
        files: An image's name to its file in every row that has it: two rows at least.
        sizes: An image's name to its (width, height) in pixels, the same in every row.
        inputs: An image's name to the file it was made from, where there is one.
        left_out: A line for whatever is there and is not used.
    """

    folder: Path
    rows: tuple[str, ...]
    files: dict[str, dict[str, Path]]
    sizes: dict[str, tuple[int, int]]
    inputs: dict[str, Path]
    left_out: list[str] = field(default_factory=list)

    def units(self) -> list[Unit]:
        """All pairs that can be asked."""
        return [Unit(image, *pair) for image, rows in self.files.items() for pair in combinations(rows, 2)]

    def shows(self, asked: Asked) -> bool:
        """Whether the files of a question are here."""
        return {asked.first, asked.second} <= self.files.get(asked.image, {}).keys()

    def leave_out(self, image: str, why: str) -> None:
        """Ask about an image no more, because a file of it turned out to be damaged."""
        self.files = {
            name: rows for name, rows in self.files.items() if name != image
        }  # others may be reading it
        self.left_out.append(f"{image}: {why}")


def open_study(folder: Path, *, only: Collection[str] = ()) -> Study:
    """Read a folder of rows. Headers of the images are read, not their pixels.

    Args:
        folder: With a subfolder for each row, and perhaps one named "input" with what they were made from; or a folder of
            `cupscale reproduce`.
        only: Rows to compare; empty for all.

    Returns:
        The rows, the files and sizes of every image that two of them have, and what was left out.

    Raises:
        CupscaleError: No such folder, an unknown row, too many rows or images, or nothing that can be compared.
    """
    if not folder.is_dir():
        raise CupscaleError(f"no folder '{folder}': give one with a subfolder of images for each row")
    left_out: list[str] = []
    found, inputs = _reproduced(folder, left_out) if (folder / RUN).is_file() else _rows(folder, left_out)
    rows = sorted(row for row, files in found.items() if files)
    if unknown := sorted(set(only) - set(rows)):
        raise CupscaleError(f"no row '{unknown[0]}' with images in '{folder}': there are {_listed(rows)}")
    rows = [row for row in rows if not only or row in only]
    if not 2 <= len(rows) <= MAX_ROWS:
        raise CupscaleError(
            f"'{folder}' has {len(rows)} rows with images in them, the limits are 2 and {MAX_ROWS}: "
            "give each method a subfolder, or choose some with --row"
        )
    study = Study(folder, tuple(rows), {}, {}, inputs, left_out)
    for image in sorted(set().union(*(found[row] for row in rows))):
        _add(study, image, {row: found[row][image] for row in rows if image in found[row]})
    if not study.files:
        more = f" ({left_out[0]})" if left_out else ""
        raise CupscaleError(f"no image of '{folder}' is in two rows under one name: name them alike{more}")
    if len(study.files) > MAX_IMAGES:
        raise CupscaleError(
            f"'{folder}' has {len(study.files)} images, the limit is {MAX_IMAGES}: give fewer"
        )
    return study


def choose(
    study: Study, seen: Collection[Unit], votes: Mapping[Unit, int], number: int, voter: str
) -> Asked | None:
    """The next question of a voter.

    Args:
        study: What there is.
        seen: Comparisons that this voter has met.
        votes: How often each was asked of anyone.
        number: Questions that this voter has met, checks included.
        voter: Decides, with the number, where the checks fall, and the draw.

    Returns:
        The question; None where the voter has met every pair.
    """
    random = Random(f"{voter} {number}")
    left = [unit for unit in study.units() if unit not in seen]
    if not left:
        return None
    if is_check(number, voter):
        image = random.choice(sorted(study.files))
        row = random.choice(sorted(study.files[image]))
        return Asked(image, row, row, random.choice(("first", "second")))
    fewest = min(votes.get(unit, 0) for unit in left)
    image, *rows = random.choice([unit for unit in left if votes.get(unit, 0) == fewest])
    random.shuffle(rows)
    return Asked(image, *rows)


def is_check(number: int, voter: str) -> bool:
    """Whether a voter's question is an attention check: one in every ten, and one of the first five.

    Args:
        number: Of the question, from 0.
        voter: Who is asked.
    """
    block, place = divmod(number, CHECK_EVERY)
    return place == Random(f"{voter} check {block}").randrange(1, FIRST_CHECK if block == 0 else CHECK_EVERY)


def counted(asked: Iterable[Asked]) -> Counter[Unit]:
    """How often each pair was asked, checks left out."""
    return Counter(one.unit for one in asked if not one.expected)


def is_name(text: str) -> bool:
    """Whether a text may name a row or an image: short, printable, no blank at its ends."""
    return 0 < len(text) <= NAME_CHARS and text.isprintable() and text == text.strip()


def _rows(folder: Path, left_out: list[str]) -> tuple[dict[str, dict[str, Path]], dict[str, Path]]:
    """The images of each row, and the inputs."""
    found = {row: _images(path, left_out) for row, path in _subfolders(folder, left_out).items()}
    return found, found.pop(INPUT, {})


def _reproduced(folder: Path, left_out: list[str]) -> tuple[dict[str, dict[str, Path]], dict[str, Path]]:
    """The same, of a folder of `cupscale reproduce`. Images of one input with several seeds have it in common."""
    parts = _subfolders(folder, left_out)
    found, _ = _rows(parts["results"], left_out) if "results" in parts else ({}, {})
    inputs = _images(parts["inputs"], left_out) if "inputs" in parts else {}
    names = {image: image.rpartition("-seed")[0] for files in found.values() for image in files}
    known = {image: inputs.get(image) or inputs.get(source) for image, source in names.items()}
    return found, {image: file for image, file in known.items() if file is not None}


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (" ..." if len(names) > 8 else "") if names else "none"


def _subfolders(folder: Path, left_out: list[str]) -> dict[str, Path]:
    paths = [path for path in folder.iterdir() if not path.name.startswith(".") and path.is_dir()]
    return {path.name: path for path in sorted(paths) if _usable(path, path.name, folder, left_out)}


def _images(folder: Path, left_out: list[str]) -> dict[str, Path]:
    """An image's name, which is its file's without the suffix, to the file."""
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.suffix.lower() not in images.READABLE_SUFFIXES:
            continue
        if path.is_file() and _usable(path, path.stem, folder, left_out):
            found.setdefault(path.stem, []).append(path)
    for name, files in found.items():
        if len(files) > 1:
            left_out.append(f"{folder.name}: {len(files)} files are named '{name}'; keep one of them")
    return {name: files[0] for name, files in found.items() if len(files) == 1}


def _usable(path: Path, name: str, folder: Path, left_out: list[str]) -> bool:
    """Whether a file or a folder may be used; a link must not lead out of the folder that holds it."""
    if not is_name(name):
        left_out.append(f"{name[:NAME_CHARS]!r}: a name has 1 to {NAME_CHARS} printable characters")
    elif not path.resolve().is_relative_to(folder.resolve()):
        left_out.append(f"{name}: a link that leads out of its folder; copy it there")
    else:
        return True
    return False


def _add(study: Study, image: str, files: dict[str, Path]) -> None:
    """Take an image into a study, or say why not."""
    sizes: dict[str, tuple[int, int]] = {}
    for row, file in files.items():
        try:
            sizes[row] = images.read_size(file, max_pixels=MAX_PIXELS, max_bytes=MAX_BYTES)
        except CupscaleError as error:
            study.left_out.append(str(error))
    if len(set(sizes.values())) > 1:
        said = ", ".join(f"{row} {width} x {height}" for row, (width, height) in sizes.items())
        study.left_out.append(f"{image}: unlike sizes ({said}); rows are compared at one size")
    elif len(sizes) < 2:
        study.left_out.append(f"{image}: in fewer than two rows")
    else:
        study.files[image] = {row: files[row] for row in sizes}
        study.sizes[image] = next(iter(sizes.values()))
