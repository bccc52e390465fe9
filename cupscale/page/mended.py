"""A fault of gradio's browser side, mended on its way out: an older value that comes back over a newer one.

What is set on a component that is not there yet waits until it is. gradio (6.31) then lets it wait once more, until the page has
settled, and sets it whatever came meanwhile: on a busy machine a link's or a visit's settings are replaced by those before.
Here what comes meanwhile takes its place among what waits. Where this gradio is built in another way than the one that was
looked at, its scripts go out as they are.
"""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

import gradio as gr
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

_ASSETS = Path(gr.__file__).parent / "templates" / "frontend" / "assets"
# The file's name holds the hash of gradio's own.
_YEAR = {"Cache-Control": "public, max-age=31536000, immutable"}
# Where a component comes to be, and where one is set. `of`: what waits, by component; `there`: how to set it.
_COMES = re.compile(
    r"let (?P<what>\w+)=(?P<of>this\.#\w+)\.get\((?P<key>\w+)\);(?P=what)&&\((?P=of)\.delete\((?P=key)\),(?P<settled>\w+\(\))"
    r"\.then\(\(\)=>\{let (?P<set>\w+)=(?P<there>this\.#\w+)\.get\((?P=key)\);(?P=set)&&(?P=set)\((?P=what)\)\}\)\)"
)
_IS_SET = re.compile(r"\b(?P<set>\w+)&&\((?=(?P=set)\((?P<news>\w+)\),\w+\?\.type===`tabitem`)")


def mended(code: str) -> str:
    """The script of gradio that keeps the tree of components, mended, or as it is where it is not known.

    Args:
        code: JavaScript.
    """
    comes, is_set = _COMES.search(code), _IS_SET.search(code)
    if comes is None or is_set is None:
        return code
    key, of, what, there = (comes[name] for name in ("key", "of", "what", "there"))
    later = (
        f"let {what}={of}.get({key});{what}&&{comes['settled']}.then(()=>{{let s={there}.get({key}),w={of}.get({key});"
        f"{of}.delete({key}),s&&w&&s(w)}})"
    )
    news = is_set["news"]
    first = f"{is_set[0]}Object.keys({of}.get({key})??{{}}).forEach(k=>k in {news}&&({of}.get({key})[k]={news}[k])),"
    return code.replace(comes[0], later).replace(is_set[0], first)


@lru_cache(maxsize=1)
def _scripts() -> dict[str, bytes]:
    """Path on the page -> the mended script."""
    found = {}
    for file in _ASSETS.glob("core-*.js"):
        code = file.read_text("utf-8")
        if (better := mended(code)) != code:
            found[f"/assets/{file.name}"] = better.encode()
    return found


class Mended:
    """ASGI: gives the mended script in place of gradio's."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        script = _scripts().get(scope["path"]) if scope["type"] == "http" else None
        answer = Response(script, media_type="text/javascript", headers=_YEAR) if script else self._app
        await answer(scope, receive, send)
