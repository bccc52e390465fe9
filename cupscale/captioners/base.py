"""What a captioner is: images and an instruction in, raw text out."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Protocol

from PIL import Image

REGION_INSTRUCTION = (
    "The first image is a whole picture. The second image is one region of it. Describe the second image in one "
    "sentence of fewer than 40 words: the things that can be seen in it, their materials, textures and colours. "
    "Name only what is visible in the second image. Do not guess, do not speak about images, quality, mood or style."
)
WHOLE_INSTRUCTION = (
    "Describe this image in one sentence of fewer than 40 words: the things that can be seen in it, where they "
    "are, their materials and colours. Name only what is visible. Do not guess, do not speak about images, quality, "
    "mood or style."
)
STYLE = " At the end, name the style of the image in two or three words."


class CaptionerError(RuntimeError):
    """The captioner as a whole cannot work: not found, refused, gone. One line, with the remedy."""


@dataclass(frozen=True)
class Request:
    """One call.

    Attributes:
        cut: Makes the images, each time anew, so that thousands of waiting requests hold none.
        instruction: What to do with them.
    """

    cut: Callable[[], tuple[Image.Image, ...]]
    instruction: str

    @property
    def images(self) -> tuple[Image.Image, ...]:
        """PIL RGB, the whole picture and then the region, or the whole picture alone."""
        return self.cut()


@dataclass(frozen=True)
class Answer:
    """The raw text for request `index`, or why there is none."""

    index: int
    text: str | None
    error: str | None = None


class Captioner(Protocol):
    """One that answers requests.

    name: for people. identity: what tells its answers from another's, for the cache. bytes: memory that the loaded
    weights take on `device`, 0 where they are not loaded, or not on this machine.
    """

    @property
    def name(self) -> str: ...
    @property
    def identity(self) -> str: ...
    @property
    def bytes(self) -> int: ...
    @property
    def device(self) -> str: ...
    def load(self) -> None:
        """Into main memory, so that `bytes` is known. `ask` does it too. Raises CaptionerError."""

    def ask(self, requests: Sequence[Request]) -> Generator[Answer | None, None, None]:
        """An answer to every request, in any order; None now and then, as a sign of life.

        Closing the generator stops the work soon. Raises CaptionerError where no further request can succeed.
        """

    def release(self) -> None:
        """Give the memory back. The next `ask` loads again."""


@dataclass(frozen=True)
class Captioning:
    """How a run gets the captions and the prompt that are not given.

    Attributes:
        captioner: Who writes them; None for nobody, and every region uses the global prompt.
        share: Neighbouring regions that differ by less share a caption, 0 to 1; 0 for never.
        prepend: Put the prompt before every caption, given ones too.
        fresh: Do not use answers that are known from before.
        style: Ask for words of style too.
        instead: Who writes where the captioner gives no answer at all, because it cannot be loaded or reached.
    """

    captioner: Captioner | None = None
    share: float = 0.08
    prepend: bool = False
    fresh: bool = False
    style: bool = False
    instead: Captioner | None = None


class NoCaptioner:
    """No captioner: every region uses the global prompt."""

    name = identity = "none"
    bytes = 0
    device = "cpu"

    def load(self) -> None:
        pass

    def ask(self, requests: Sequence[Request]) -> Generator[Answer | None, None, None]:
        for index in range(len(requests)):
            yield Answer(index, None)

    def release(self) -> None:
        pass
