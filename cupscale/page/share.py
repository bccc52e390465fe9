"""The link, the command and the Python of the present settings, each with a copy button."""

from __future__ import annotations

from typing import Any

from cupscale.page import links
from cupscale.page.limits import Limits
from cupscale.page.viewer import Scripted
from cupscale.settings import Settings


class Share(Scripted):
    """Its value is made by `texts`. The browser puts its own address before the query."""

    def __init__(self, **options: Any) -> None:
        super().__init__("share", {}, **options)


def texts(
    settings: Settings, example: str | None, file: str | None, limits: Limits, mask: str | None = None
) -> dict[str, str]:
    """What the three rows show.

    file: the input's path, as the person who copies them has it; None where the input is drawn from words. mask: the
    name under which its mask is downloaded.
    """
    query = links.to_query(settings, example)
    if len(query) > limits.link_chars:
        query = ""
        note = "The captions are too long for a link: save them on the Regions tab, or share a result, which holds them."
    elif example:
        note = "Whoever opens the link sees this example with these settings."
    else:
        note = "An uploaded image cannot be in a link: it opens with these settings, and the image has to be given again."
    if mask:
        note += f" The mask is in no link; the command and Python want it as {mask}, which Protect places downloads."
    return {
        "query": query,
        "note": note,
        "command": links.to_command(settings, file, mask),
        "python": links.to_python(settings, file, mask),
    }
