"""What a run enlarges: the images of a folder, or pictures drawn from prompts."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from cupscale import images
from cupscale.bounded import read_bytes
from cupscale.errors import CupscaleError
from cupscale.files import find_images
from cupscale.settings import MIN_SIDE_PX

MAX_PROMPT = 2000  # as of Settings
_MAX_PROMPTS_BYTES = 64 * 2**20
_MAX_PROMPT_BYTES = 4 * MAX_PROMPT


@dataclass(frozen=True)
class Input:
    """One image, or one prompt to draw it from.

    Attributes:
        name: Of its files; no two share one.
        source: The image; None where it is drawn.
        prompt: That it is drawn from, or that stands in a .txt file beside the image.
    """

    name: str
    source: Path | None = None
    prompt: str = ""

    def digest(self) -> str:
        """SHA-256 of the image's file, or of the prompt; empty where the file cannot be read."""
        if self.source is None:
            return hashlib.sha256(self.prompt.encode()).hexdigest()
        try:
            with open(self.source, "rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError:
            return ""


@dataclass(frozen=True)
class Item:
    """One input with one seed: the unit that processes share."""

    input: Input
    seed: int

    @property
    def name(self) -> str:
        """Of the files of its results."""
        return f"{self.input.name}-seed{self.seed}"

    @property
    def source_name(self) -> str:
        """Of the file of its input: seeds share an image, and each draws its own picture."""
        return self.input.name if self.input.source else self.name


def items_of(inputs: Sequence[Input], seeds: Sequence[int]) -> list[Item]:
    """Every input with every seed."""
    return [Item(one, seed) for one in inputs for seed in seeds]


def from_images(path: Path) -> list[Input]:
    """The images of a folder, of a pattern, or one file. What cannot be read shows when its turn comes.

    Raises:
        CupscaleError: There is no image.
    """
    files = find_images([path])
    stems = Counter(file.stem for file in files)
    return [
        Input(file.stem if stems[file.stem] == 1 else file.name, file, _beside(file.with_suffix(".txt")))
        for file in files
    ]


def _beside(file: Path) -> str:
    if not file.is_file():
        return ""
    text = read_bytes(file, "prompt", _MAX_PROMPT_BYTES).decode("utf-8", "replace")
    return _checked(" ".join(text.split()), str(file))


def from_prompts(file: Path) -> list[Input]:
    """A prompt a line.

    Raises:
        CupscaleError: An empty or an overlong line, with its number; a file that cannot be read.
    """
    text = read_bytes(file, "prompts", _MAX_PROMPTS_BYTES)
    try:
        lines = text.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise CupscaleError(f"prompts: '{file}' is not UTF-8 text; save it as UTF-8") from None
    if not lines:
        raise CupscaleError(f"prompts: '{file}' is empty: give a prompt a line")
    prompts = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            raise CupscaleError(f"prompts: line {number} of '{file}' is empty: take it out")
        prompts.append(_checked(line.strip(), f"prompts: line {number} of '{file}'"))
    digits = max(3, len(str(len(prompts))))
    return [Input(f"prompt{number:0{digits}}", None, prompt) for number, prompt in enumerate(prompts, 1)]


def _checked(prompt: str, where: str) -> str:
    if len(prompt) > MAX_PROMPT:
        raise CupscaleError(
            f"{where} has {len(prompt)} characters, and {MAX_PROMPT} is the limit: make it shorter"
        )
    return prompt


def reduced(original: Image.Image, factor: int) -> tuple[Image.Image, Image.Image]:
    """An input made out of an original, by Lanczos, which averages when it reduces.

    Args:
        original: RGB.
        factor: 2 or more.

    Returns:
        The input, and the original, cut at its right and bottom to a multiple of `factor`.

    Raises:
        CupscaleError: The input would be too small.
    """
    width, height = (side // factor for side in original.size)
    if min(width, height) < MIN_SIDE_PX:
        raise CupscaleError(
            f"reduced by {factor} the image is {width} x {height} px: at least {MIN_SIDE_PX} px a side are needed"
        )
    whole = original.crop((0, 0, width * factor, height * factor))
    return images.resize(whole, (width, height), "lanczos"), whole
