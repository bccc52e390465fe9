"""What others show of a link to this page: its title and its card (Open Graph, https://ogp.me).

And the files of results that are kept under links and their deletion, and what the page's HTML says of the first screen's scripts
and style sheets.
"""

from __future__ import annotations

import re
from functools import lru_cache
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from gradio.route_utils import get_root_url
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cupscale.page import card, examples, light
from cupscale.page.kept_links import KeptLinks

TITLE = "cupscale"
LINE = "Upscale images to 4K and 8K with a diffusion model: adds detail, keeps the content"
_CARD = "/card.jpg"
_FILE = re.compile(r"/kept/(?P<token>[A-Za-z0-9_-]{32})/(?P<name>before\.(?:jpg|png)|after\.png)")
_LINK = re.compile(r"/kept/(?P<token>[A-Za-z0-9_-]{32})")
_SECRET = "cupscale-secret"  # the header that brings what deletes a link
_NOT_DELETED = "Nothing was deleted: there is no link here that this browser may delete."
_TAGS = re.compile(rb'<meta\s+(?:property|name)="(?:og|twitter):[^>]*>\s*')
_ADDRESSES = 8  # by which visitors come at a time
_PRIVATE = {
    "Cache-Control": "private, max-age=300",
    "X-Robots-Tag": "noindex",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


class Previews:
    """ASGI: puts the tags into the page, and serves the cards and the kept files, which it deletes for whoever may.

    Args:
        app: The page.
        demo: Its blocks, which know what is kept under links.
    """

    def __init__(self, app: ASGIApp, demo: Any) -> None:
        self._app = app
        self._links: KeptLinks = demo.links
        self._written: dict[str, tuple[Message, bytes]] = {}
        self._first, self._last = (part.encode() for part in light.head(demo))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        if scope["type"] == "http" and scope["method"] == "DELETE" and (link := _LINK.fullmatch(path)):
            secret = Request(scope).headers.get(_SECRET, "")
            answer = await run_in_threadpool(self._delete, link["token"], secret)
            await answer(scope, receive, send)
        elif scope["type"] != "http" or scope["method"] not in ("GET", "HEAD"):
            await self._app(scope, receive, send)
        elif path == _CARD:
            answer = await run_in_threadpool(self._card, Request(scope))
            await answer(scope, receive, send)
        elif found := _FILE.fullmatch(path):
            await self._file(found["token"], found["name"])(scope, receive, send)
        elif path == "/":
            await self._page(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def tags(self, request: Request) -> bytes:
        """The page's tags, for the address that is asked for."""
        example = examples.named(request.query_params.get("example"))
        kept = self._links.find(request.query_params.get("kept"))
        title = f"{example.title} · {TITLE}" if example else TITLE
        title = f"A picture upscaled with {TITLE}" if kept else title
        root = get_root_url(request, "/", request.scope.get("root_path"))
        which = {"kept": kept.token} if kept else {"example": example.name} if example else {}
        image = f"{root}{_CARD}" + (f"?{urlencode(which)}" if which else "")
        pairs = [
            ("property", "og:type", "website"),
            ("property", "og:title", title),
            ("property", "og:description", LINE),
            ("property", "og:image", image),
            ("property", "og:image:width", str(card.SIZE[0])),
            ("property", "og:image:height", str(card.SIZE[1])),
            ("property", "og:image:alt", "One part of a picture, before and after"),
            ("name", "twitter:card", "summary_large_image"),
        ]
        if kept:
            pairs.append(("name", "robots", "noindex"))
        return "".join(
            f'<meta {kind}="{name}" content="{escape(text)}">' for kind, name, text in pairs
        ).encode()

    def _card(self, request: Request) -> Response:
        if "kept" in request.query_params:
            kept = self._links.find(request.query_params["kept"])
            if kept is None:
                return Response("no such picture", 404)
            return FileResponse(kept.card, headers=_PRIVATE)
        every = examples.every()
        example = examples.named(request.query_params.get("example")) or (every[0] if every else None)
        if example is None:
            return Response("no such picture", 404)
        return Response(
            _of_example(example.name), media_type="image/jpeg", headers={"Cache-Control": "max-age=86400"}
        )

    def _file(self, token: str, name: str) -> Response:
        kept = self._links.find(token)
        files: dict[str, Path] = {file.name: file for file in (kept.before, kept.after)} if kept else {}
        if name not in files or not files[name].is_file():
            return Response("no such picture", 404)
        return FileResponse(files[name], headers=_PRIVATE)

    def _delete(self, token: str, secret: str) -> Response:
        """One answer for a wrong secret, for none, and for a link that is none."""
        deleted = self._links.delete(token, secret)
        return Response(status_code=204) if deleted else JSONResponse({"detail": _NOT_DELETED}, 403)

    async def _page(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The page, whole, with our tags in place of gradio's, and what the first screen needs.

        gradio writes it anew for each visitor, the same for all who come by one address: it is written once.
        """
        request = Request(scope)
        root = get_root_url(request, "/", scope.get("root_path"))
        guarded = any(getattr(scope.get("app"), name, None) for name in ("auth", "auth_dependency"))
        same = scope["method"] == "GET" and not guarded and "deep_link" not in request.query_params
        page = self._written.get(root) if same else None
        if page is None:
            start, made = await _answer(self._app, scope, receive)
            page = (start, light.as_data(_TAGS.sub(b"", made)) if start["status"] == 200 else made)
            if same and start["status"] == 200:
                while len(self._written) >= _ADDRESSES:  # whoever asks chooses the address
                    del self._written[next(iter(self._written))]
                self._written[root] = page
        start, made = page
        headers = [pair for pair in start["headers"] if pair[0].lower() != b"content-length"]
        if made:  # none where only the head is asked for
            if start["status"] == 200:
                ours = b"<head>" + self.tags(request) + self._first
                made = made.replace(b"<head>", ours, 1)
                made = made.replace(b"</head>", self._last + b"</head>", 1)
            if "gzip" in request.headers.get("accept-encoding", ""):
                made = light.compressed(made)
                headers += [(b"content-encoding", b"gzip"), (b"vary", b"Accept-Encoding")]
            headers.append((b"content-length", str(len(made)).encode()))
        await send({**start, "headers": headers})
        await send({"type": "http.response.body", "body": made})


async def _answer(app: ASGIApp, scope: Scope, receive: Receive) -> tuple[Message, bytes]:
    """An application's answer, whole: its beginning with status and headers, and its body."""
    start: Message = {}
    body = bytearray()

    async def kept(message: Message) -> None:
        nonlocal start
        if message["type"] == "http.response.start":
            start = message
        else:
            body.extend(message.get("body", b""))

    await app(scope, receive, kept)
    return start, bytes(body)


@lru_cache(maxsize=32)
def _of_example(name: str) -> bytes:
    example = examples.named(name)
    assert example is not None
    line = f"{example.size[0]} × {example.size[1]}, model {example.settings.get('model', 'tiny')}"
    return card.of_files(example.path(example.before), example.path(example.after), example.title, line)
