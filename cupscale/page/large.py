"""One large result to look into, tile by tile, with the caption of each place: made before, and fetched as it is looked at."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import gradio as gr
from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from cupscale.installation import ASSETS
from cupscale.page import light, viewer
from cupscale.page.viewer import Scripted

FOLDER = ASSETS / "large"


@dataclass(frozen=True)
class Large:
    """What `tools/make_large.py` wrote: the result in square tiles, on levels of which each is twice as large as the one before.

    Attributes:
        input: Its file.
        tile: Side of a tile, px; those at the right and lower edges are smaller.
        levels: (width, height) of each level; the last one is the result.
        author, licence: Of the input.
        seconds: That the run took; None where that is not known.
        settings: Of the run.
        captions: (box, text) for each region, boxes in pixels of the result.
    """

    input: str
    tile: int
    levels: list[tuple[int, int]]
    author: str
    licence: str
    seconds: int | None
    settings: dict[str, Any]
    captions: list[tuple[tuple[int, int, int, int], str]]

    @property
    def title(self) -> str:
        """Of its part of the page."""
        width, height = self.levels[-1]
        return f"Look into a result of {width} × {height} pixels, with its captions"

    @property
    def note(self) -> str:
        """Who made what."""
        took = f" in {self.seconds // 60} min" if self.seconds else ""
        return (
            f"Made{took} by the bundled model on a CPU, seed {self.settings['seed']}, with captions written by hand. "
            f"Photograph: {self.author}, {self.licence}."
        )

    def value(self, folder: Path) -> dict[str, Any]:
        """For the browser, which fetches the tiles in sight. folder: of all files."""
        return {
            "input": viewer.file(folder / self.input),
            "tiles": f"gradio_api/file={folder}/tiles/",
            "tile": self.tile,
            "levels": self.levels,
            "captions": self.captions,
            "note": self.note,
        }


def read(folder: Path = FOLDER) -> Large | None:
    """The one of a folder; None where there is none. A broken one is a warning in the log."""
    index = folder / "index.json"
    if not index.is_file():
        return None
    try:
        return TypeAdapter(Large).validate_json(index.read_bytes())
    except (OSError, ValidationError) as error:
        logging.getLogger(__name__).warning("no large example: %s", str(error).splitlines()[0])
        return None


def part(folder: Path = FOLDER) -> None:
    """Its part of the page, closed; nothing of it is fetched before it is opened."""
    found = read(folder)
    if found is None:
        return
    with gr.Accordion(found.title, open=False, elem_id="large") as closed:
        Scripted("large", found.value(folder), elem_id="large-view", container=False)
    light.later(closed, closed.expand)
