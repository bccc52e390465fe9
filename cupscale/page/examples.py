"""The examples: openly licensed pictures with their results, committed, so that they show with no run at all."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import cupscale
from cupscale.page import viewer

FOLDER = Path(cupscale.__file__).resolve().parent.parent / "assets" / "examples"


@dataclass(frozen=True)
class Example:
    """name: in links. input, before, after: files in `FOLDER`. size: (width, height) of the result."""

    name: str
    title: str
    kind: str
    input: str
    before: str
    after: str
    size: tuple[int, int]
    seconds: float
    settings: dict[str, Any]

    def path(self, file: str) -> str:
        return str(FOLDER / file)

    def pair(self) -> dict[str, Any]:
        """For the slider."""
        note = f"Example: {self.title}. {self.size[0]} × {self.size[1]}, model {self.settings.get('model', 'tiny')}"
        return viewer.pair(self.path(self.before), self.path(self.after), self.size, note)


@lru_cache(maxsize=1)
def every() -> tuple[Example, ...]:
    """In the order of the index; none where it was never made."""
    index = FOLDER / "index.json"
    if not index.is_file():
        return ()
    rows = json.loads(index.read_text("utf-8"))["examples"]
    return tuple(Example(**{**row, "size": tuple(row["size"])}) for row in rows)


def named(name: str | None) -> Example | None:
    """The example of a link; None for a name that is none."""
    return next((example for example in every() if example.name == name), None)
