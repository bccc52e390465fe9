"""A tab of a browser that Playwright does not drive, as its driver's module makes it, and what all of them share."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from waiting import until

WAIT = 2 * int(os.environ.get("CUPSCALE_BROWSER_WAIT", "60"))
CONTROL = "\ue009"


class Tab(ABC):
    """A tab, and what a person does in it.

    problems: What its scripts threw. downloads: where its files land.
    """

    problems: list[str]
    downloads: Path

    @abstractmethod
    def size(self, width: int, height: int) -> None: ...

    @abstractmethod
    def open(self, url: str) -> None: ...

    @abstractmethod
    def value(self, expression: str) -> Any:
        """Of a script: text, a number, a truth, or None."""

    @abstractmethod
    def give(self, selector: str, path: Path) -> None: ...

    @abstractmethod
    def click(self, selector: str) -> None:
        """With the mouse, in its middle."""

    @abstractmethod
    def drag(self, selector: str, by: int) -> None:
        """With the mouse, from its middle, so many pixels to the right."""

    @abstractmethod
    def press(self, keys: str, held: str = "") -> None:
        """Keys, one after the other, while another is held."""

    def wait(self, expression: str) -> Any:
        """Until a script's value is true."""
        return until(lambda: self.value(expression), WAIT, lambda: f"{expression}; problems: {self.problems}")

    def downloaded(self, pattern: str) -> Path:
        """The file of a pattern, once it is there."""

        def find() -> Path | None:
            return next((one for one in self.downloads.glob(pattern) if one.stat().st_size), None)

        return until(find, WAIT, lambda: f"{pattern} among {list(self.downloads.iterdir())}")
