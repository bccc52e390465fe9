"""The results of this browser.

They are kept in the browser itself (IndexedDB): the server holds nothing of them, and they outlast its restarts.
"""

from __future__ import annotations

from typing import Any

from cupscale.page import viewer
from cupscale.page.run import Shot


class History(viewer.Scripted):
    """Shows what the slider's script stored.

    Triggers `select` with the settings of the entry a person wants back, and `open` with the settings, the entry's
    number and the input, uploaded again, of the one to show in the slider.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__("history", {}, **options)


def entry(shot: Shot, image: str | None = None) -> dict[str, Any]:
    """What the browser keeps of a result, next to its files.

    Args:
        shot: The result.
        image: The upload it was made from.

    Returns:
        With a key, so that the browser keeps it once.
    """
    return {
        "key": shot.key,
        "name": f"{shot.stem}.png",
        "note": shot.note,
        "settings": shot.settings.to_json(),
        "input": viewer.file(image) if image else None,
    }
