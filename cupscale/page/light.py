"""A light first visit: the page's HTML is compressed, and what no one sees yet is not fetched.

gradio's browser side fetches the code of every component that is visible by its own account, on tabs that are closed too.
Here the components of a closed part begin invisible, and its opening shows them, within the browser. And it fetches a style
sheet or two for every kind of component; those of the first screen are in the page, and marked as there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.blocks import BlockContext
from starlette.middleware.gzip import GZipMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

_ASSETS = Path(gr.__file__).parent / "templates" / "frontend" / "assets"
_KIND = re.compile(
    r"[{,](?P<kind>[a-z_]+):\{[^{}]*component:\(\)=>\w+\(\(\)=>import\(`[^`]*`\)[^\[]*?__vite__mapDeps\(\[(?P<files>[\d,]*)\]\)"
)
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


def later(part: BlockContext, opened: Callable[..., Any]) -> None:
    """Fetch the components of a closed part when it is opened for the first time.

    Args:
        part: An accordion or a tab.
        opened: Its event, such as `part.expand`.
    """
    waiting = [block for block in _within(part) if block.visible is True]
    for block in waiting:
        block.visible = False
    opened(None, None, waiting, js=_SHOW % (part._id, part._id, len(waiting)), api_visibility="private")


def never(part: BlockContext) -> None:
    """Fetch nothing for the components of a part that no one sees."""
    for block in _within(part):
        block.visible = False


def _within(part: BlockContext) -> Iterator[Any]:
    """The components inside, without the layout."""
    for child in part.children:
        if isinstance(child, BlockContext) and not isinstance(child, gr.HTML):
            yield from _within(child)
        elif isinstance(child, gr.components.Component) and not isinstance(child, gr.State):
            yield child


def styles(demo: gr.Blocks) -> str:
    """The style sheets of the components that are visible at first, for the page's head.

    The browser's loader (Vite's) fetches a sheet unless a link to it is there: a disabled link is there and is not fetched.
    Where this gradio is built in another way than the one that was looked at (6.31), this is empty, and all is fetched.
    """
    kinds = {block.get_block_name() for block in demo.blocks.values() if _seen(block)}
    names = sorted({name for kind in kinds for name in _sheets().get(kind, ())})
    text = "".join((_ASSETS / name).read_text("utf-8") for name in names)
    if not names or "url(" in text or "</" in text:
        return ""
    links = "".join(f'<link rel="stylesheet" href="assets/{name}" disabled>' for name in names)
    return f"<style>{text}</style>{links}"


def _seen(block: Any) -> bool:
    """Whether the browser fetches the code of a block at first; it does so by the block's own word."""
    return getattr(block, "visible", True) is not False


def _is_a_parts(name: str) -> bool:
    """Whether a file is the style sheet of a component: the page's own link has that of the whole."""
    return name.endswith(".css") and not name.startswith("index-")


@lru_cache(maxsize=1)
def _sheets() -> dict[str, tuple[str, ...]]:
    """kind of component -> its style sheets, as gradio's own build lists them."""
    for file in _ASSETS.glob("core-*.js"):
        code = file.read_text("utf-8")
        listed = re.search(r"m\.f=(\[[^\]]*\])", code)
        if listed is None:
            continue
        files = [name.removeprefix("./") for name in json.loads(listed[1])]
        return {
            found["kind"]: tuple(
                files[int(k)] for k in found["files"].split(",") if k and _is_a_parts(files[int(k)])
            )
            for found in _KIND.finditer(code)
        }
    return {}
