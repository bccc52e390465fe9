"""A light first visit: the page's HTML is compressed, and what no one sees yet is not fetched.

gradio's browser side fetches the code of every component that is visible by its own account, on tabs that are closed too.
Here the components of a closed part begin invisible, and its opening shows them, within the browser.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr
from starlette.middleware.gzip import GZipMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

# Once: what a handler hides later stays hidden.
_SHOW = """() => {
  const opened = (window.cupscaleOpened ??= new Set()), first = !opened.has(%d)
  opened.add(%d)
  return Array(%d).fill(first ? {__type__: 'update', visible: true} : {__type__: 'update'})
}"""


class Compressed:
    """ASGI: the page itself goes out compressed; files, streams and answers as they are."""

    def __init__(self, app: ASGIApp) -> None:
        self._plain = app
        self._compressing = GZipMiddleware(app, minimum_size=1024, compresslevel=6)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        page = scope["type"] == "http" and scope["path"] in ("", "/")
        await (self._compressing if page else self._plain)(scope, receive, send)


def later(part: gr.blocks.BlockContext, opened: Callable[..., Any]) -> None:
    """Fetch the components of a closed part when it is opened for the first time.

    Args:
        part: An accordion or a tab.
        opened: Its event, such as `part.expand`.
    """
    waiting = [block for block in _within(part) if block.visible is True]
    for block in waiting:
        block.visible = False
    opened(None, None, waiting, js=_SHOW % (part._id, part._id, len(waiting)), api_visibility="private")


def never(part: gr.blocks.BlockContext) -> None:
    """Fetch nothing for the components of a part that no one sees."""
    for block in _within(part):
        block.visible = False


def _within(part: gr.blocks.BlockContext) -> Iterator[Any]:
    """The components inside, without the layout."""
    for child in part.children:
        if isinstance(child, gr.blocks.BlockContext) and not isinstance(child, gr.HTML):
            yield from _within(child)
        elif isinstance(child, gr.components.Component) and not isinstance(child, gr.State):
            yield child
