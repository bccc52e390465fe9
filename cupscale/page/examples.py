"""The examples: openly licensed pictures with their results, committed, so that they show with no run at all."""

from __future__ import annotations

import base64
import io
import logging
from functools import lru_cache
from typing import Any

from PIL import Image, ImageOps
from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from cupscale.installation import ASSETS, reinstall_command
from cupscale.page import viewer
from cupscale.page.viewer import Scripted

FOLDER = ASSETS / "examples"
BEST = "bee"  # on the first screen: what is added is seen at a glance, and its files are small
_THUMB_PX = (208, 140)


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

    @property
    def place(self) -> str:
        """The input's path in the repository, for commands."""
        return f"cupscale/assets/examples/{self.input}"

    def whole(self) -> bool:
        """Whether its pictures are there and are pictures."""
        try:
            thumbnail(self.path(self.after))
            for file in (self.input, self.before):
                with Image.open(self.path(file)) as image:
                    image.verify()
        except (OSError, SyntaxError, ValueError):  # a damaged PNG is a SyntaxError to Pillow
            return False
        return True

    def pair(self) -> dict[str, Any]:
        """For the slider."""
        note = f"Example: {self.title}. {self.size[0]} × {self.size[1]}, model {self.settings.get('model', 'tiny')}"
        return viewer.pair(self.path(self.before), self.path(self.after), self.size, note)


class Strip(Scripted):
    """The examples in one row, small. Triggers `chosen` with the `name` of one."""

    def __init__(self, **options: Any) -> None:
        thumbs = [{"name": e.name, "title": e.title, "thumb": thumbnail(e.path(e.after))} for e in every()]
        super().__init__("strip", thumbs, **options)

    def api_info(self) -> dict[str, Any]:
        return {"type": "array", "description": "the examples"}


@lru_cache(maxsize=32)
def thumbnail(path: str) -> str:
    """A picture as small as the strip shows it, its middle, as a data URL: no request of its own."""
    with Image.open(path) as image:
        small = ImageOps.fit(image.convert("RGB"), _THUMB_PX, Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=70, method=6)
    return "data:image/webp;base64," + base64.b64encode(buffer.getbuffer()).decode()


@lru_cache(maxsize=1)
def every() -> tuple[Example, ...]:
    """In the order of the index, those whose pictures are whole. A broken index is a warning in the log, and no examples."""
    try:
        text = (FOLDER / "index.json").read_bytes()
        found = TypeAdapter(dict[str, list[Example]]).validate_json(text)["examples"]
    except (OSError, ValidationError, KeyError) as error:
        reason = str(error).splitlines()[0]
        logging.getLogger(__name__).warning("no examples (%s); %s", reason, reinstall_command())
        return ()
    return tuple(example for example in found if example.whole())


def named(name: str | None) -> Example | None:
    """The example of a link; None for a name that is none."""
    return next((example for example in every() if example.name == name), None)


def best() -> Example | None:
    """The example of the first screen; None where there are none."""
    return named(BEST) or next(iter(every()), None)
