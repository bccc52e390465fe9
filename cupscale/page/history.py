"""The results of this browser. They are kept in the browser itself (IndexedDB): the server holds nothing of them, and
they outlast its restarts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cupscale.page.run import Shot
from cupscale.page.viewer import Scripted


class History(Scripted):
    """Shows what the slider's script stored. Triggers `select` with the settings of the entry a person wants back."""

    def __init__(self, **options: Any) -> None:
        super().__init__("history", {}, **options)


def entry(shot: Shot) -> dict[str, str]:
    """What the browser keeps of a result, next to the file. key: so that it keeps it once."""
    return {
        "key": Path(shot.folder).name,
        "name": f"{shot.stem}.png",
        "note": shot.note,
        "settings": shot.settings.to_json(),
    }
