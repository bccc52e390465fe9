"""The runs that wait for the one machine: how many may, of whom, and what a person reads who comes too late.

gradio's own limit counts every event, so that with a full queue a page could not even read its link; and it says "busy"
and no more. Here only runs count, a click asks first, and the order is the desk's. What programs send is seen on its way
through HTTP, so that nothing inside gradio's queue is touched.
"""

from __future__ import annotations

import asyncio
import functools
import json
import re
from collections.abc import Callable, Generator
from typing import Any
from urllib.parse import parse_qs

import gradio as gr
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cupscale.bounded import check_shape
from cupscale.errors import CupscaleError
from cupscale.page import desk as desk_module, scratch, uploads
from cupscale.page.calls import AGAIN_SECONDS, Calls, TooMany
from cupscale.page.desk import Desk, Dropped, Place, Refusal
from cupscale.page.limits import on_space
from cupscale.page.session import RUN, TOASTING, refusal
from cupscale.page.visitor import visitor

_SHORT = 2**18  # characters that are looked through in milliseconds
_AGAIN = "Everything you typed stays here; try again then."
_POST = re.compile(r"/gradio_api/+(?:queue/+join|call/+(?:v2/+)?(?P<name>[^/]+))/*$")
_UPLOAD = re.compile(r"/gradio_api/+upload/*$")
_CANCEL = re.compile(r"/gradio_api/+cancel/*$")
_STREAM = re.compile(r"/gradio_api/+(?:queue/+data|call/+(?:v2/+)?[^/]+/+(?P<event>[^/]+))/*$")
_COMPLETED = re.compile(rb'data: \{"msg":"process_completed","event_id":"(\w+)"')


def admitted(click: Callable[..., Any], limits: Any) -> Callable[..., Any]:
    """An event that happens after `click` where the queue has room; else a toast says how long to wait, and no more happens."""

    def admit(request: gr.Request) -> None:
        desk = getattr(gr.context.LocalContext.blocks.get(None), "desk", None)
        if desk is None:
            return
        who = visitor(request.client.host if request.client else "", request.headers, on_space())
        if wrong := desk.refusal(who):
            raise refusal(CupscaleError(f"{wrong.line}. {_AGAIN}"))

    return click(admit, None, None, **TOASTING).success


def attended(run: Callable[..., Generator[Any, None, None]]) -> Callable[..., Generator[Any, None, None]]:
    """A program's run, which waits for its `turn` at the desk, and ends when nobody listens to it any more."""

    @functools.wraps(run)
    def watched(*given: Any, **named: Any) -> Generator[Any, None, None]:
        found = desk_module.current()
        if found is None:
            yield from run(*given, **named)
            return
        desk, event = found
        whole = False
        try:
            for answer in (steps := run(*given, **named)):
                if desk.unheard(event):
                    steps.close()
                    raise Dropped
                yield answer
            whole = True
        except Dropped:
            raise refusal(_unheard(desk)) from None
        finally:
            desk.end(event, whole=whole)

    return watched


def turn(seconds: float | None = None) -> Generator[Place, None, None]:
    """Wait until the current event's turn has come.

    Args:
        seconds: That the run will take, where its plan says so; those who wait behind it are told.

    Yields:
        Where the run stands, whenever that has changed.

    Raises:
        Dropped: Nobody waits for it any more.
    """
    found = desk_module.current()
    if found is None:
        return
    desk, event = found
    if seconds is not None:
        desk.expect(event, seconds)
    wait, before = 0.0, None
    while not desk.begin(event, wait):
        wait, place = 1.0, desk.place(event)
        if place is not None and place.line != before:
            before = place.line
            yield place


def _unheard(desk: Desk) -> CupscaleError:
    seconds = desk.limits.unheard_seconds
    return CupscaleError(
        f"the run was ended: nobody listened to it for {seconds} s; read the event stream of its event_id while it runs"
    )


class Watch:
    """ASGI: tells the desk which runs come in, who listens to them, and which are over."""

    def __init__(self, app: ASGIApp, demo: Any) -> None:
        self._app = app
        self._demo = demo
        self._desk: Desk = demo.desk
        self._calls = Calls(demo.desk.limits, getattr(demo, "_queue", None))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path, method = scope.get("path", ""), scope.get("method", "")
        if method == "POST" and _UPLOAD.search(path):
            await self._uploaded(scope, receive, send)
        elif method == "POST":
            await self._posted(path, scope, receive, send)
        elif method == "GET" and (stream := _STREAM.search(path)):
            await self._listen(stream["event"], scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _uploaded(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            receive = uploads.watched(scope, receive, self._desk.limits)
        except CupscaleError as error:
            await JSONResponse({"detail": str(error)}, 413)(scope, receive, send)
            return
        try:
            with scratch.with_room("the upload"):
                await self._app(scope, receive, send)
        except CupscaleError as error:
            await JSONResponse({"detail": str(error)}, 507)(scope, receive, send)

    async def _posted(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        limits = self._desk.limits
        try:
            with self._calls.taken(_visitor(scope), scope) as call:
                try:
                    grew = functools.partial(self._calls.grew, call)
                    body, receive = await _taken(scope, receive, limits.body_bytes, grew)
                except CupscaleError as error:
                    await JSONResponse({"detail": str(error)}, 413)(scope, receive, send)
                    return
                if post := _POST.search(path):
                    if post["name"] and post["name"] not in self._endpoints:
                        line = f"no endpoint of this name; there are {', '.join(self._endpoints)}"
                        await JSONResponse({"detail": line}, 404)(scope, receive, send)
                        return
                    await self._join(post["name"], _json(body), scope, receive, send)
                    return
                if _CANCEL.search(path):
                    self._desk.cancel(str(_json(body).get("event_id")))
                await self._app(scope, receive, send)
        except TooMany as error:  # before anything was answered
            retry = {"Retry-After": str(AGAIN_SECONDS)}
            await JSONResponse({"detail": f"{error}. {_AGAIN}"}, error.status, retry)(scope, receive, send)

    async def _join(
        self, name: str | None, given: dict[str, Any], scope: Scope, receive: Receive, send: Send
    ) -> None:
        kind = self._kind(name, given)
        if kind is None:
            await self._named(scope, receive, send)
            return
        session = given.get("session_hash") if not name or "/v2/" not in scope["path"] else None
        place = self._desk.enter(_visitor(scope), kind, session if isinstance(session, str) else None)
        if isinstance(place, Refusal):
            retry = {"Retry-After": str(max(1, round(place.after)))}
            await JSONResponse({"detail": f"{place.line}. {_AGAIN}"}, place.status, retry)(
                scope, receive, send
            )
            return
        answer = bytearray()

        async def keep(message: Message) -> None:
            # Named before the client knows the event, so that its listener finds it.
            answer.extend(message.get("body", b""))
            if message["type"] == "http.response.body" and not message.get("more_body"):
                event = _json(bytes(answer)).get("event_id")
                self._desk.name(place, event if isinstance(event, str) else None)
            await send(message)

        try:
            await self._named(scope, receive, keep)
        finally:
            self._desk.name(place, None)

    async def _named(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A call whose arguments go by name; gradio fails at names that are missing or unknown."""
        try:
            await self._app(scope, receive, send)
        except TypeError as error:
            if "/v2/" not in scope["path"]:
                raise
            await JSONResponse({"detail": str(error)}, 422)(scope, receive, send)

    @functools.cached_property
    def _endpoints(self) -> dict[str, Any]:
        """The functions that a program may call by name, in the order of their names."""
        public = {str(fn.api_name): fn for fn in self._demo.fns.values() if fn.api_visibility != "private"}
        return {name: public[name] for name in sorted(public) if public[name].api_name}

    def _kind(self, name: str | None, given: dict[str, Any]) -> str | None:
        """The function that a request asks for, where it is a run."""
        if name is None:
            try:
                fn = self._demo.fns.get(int(given["fn_index"]))
            except (KeyError, TypeError, ValueError, OverflowError):
                return None
        else:
            fn = self._endpoints.get(name)
        return str(fn.api_name) if fn is not None and fn.concurrency_id == RUN["concurrency_id"] else None

    async def _listen(self, event: str | None, scope: Scope, receive: Receive, send: Send) -> None:
        query = parse_qs(scope.get("query_string", b"").decode("latin-1"))
        session = self._desk.session(event) if event else query.get("session_hash", [""])[0]

        async def watch(message: Message) -> None:
            body = message.get("body", b"")
            if event and body.startswith((b"event: complete", b"event: error")):
                self._desk.answered(event)
            elif not event and (completed := _COMPLETED.match(body[:200])):
                self._desk.answered(completed[1].decode())
            await send(message)

        self._desk.listen(session)
        try:
            await _with_status(self._app, scope, receive, watch, hold=event is not None)
        finally:
            self._desk.leave(session)


def _visitor(scope: Scope) -> str:
    headers = {key.decode("latin-1").lower(): value.decode("latin-1") for key, value in scope["headers"]}
    return visitor((scope.get("client") or ("",))[0], headers, on_space())


async def _with_status(app: ASGIApp, scope: Scope, receive: Receive, send: Send, *, hold: bool) -> None:
    """An event stream that ends in order where there is no such event.

    gradio begins to stream, says so in the stream, and breaks the connection off. `hold`: the head waits until there is
    something else to say, so that a program gets a status; a browser reads the stream.
    """
    held: list[Message] = []
    sent = False

    async def later(message: Message) -> None:
        nonlocal sent
        head = message["type"] == "http.response.start"
        if hold and not sent and (head or message.get("body", b"").startswith(b"event: error")):
            held.append(message)
            return
        for waiting in (*held, message):
            await send(waiting)
        held.clear()
        sent = True

    try:
        await app(scope, receive, later)
        for waiting in held:
            await send(waiting)
    except RuntimeError as error:
        cause = error.__cause__
        if not isinstance(cause, HTTPException):
            raise
        if sent:
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        else:
            await JSONResponse({"detail": cause.detail}, cause.status_code)(scope, receive, send)


async def _taken(
    scope: Scope, receive: Receive, limit: int, grew: Callable[[int], None]
) -> tuple[bytes, Receive]:
    """A request's body, of which nothing was built yet, and a `receive` that gives it once more.

    `grew` is told of the bytes that come.

    Raises:
        CupscaleError: It is longer than `limit` bytes, by its header or by what has come so far, or as JSON it would be
            too many or too deep.
        TooMany: By `grew`.
    """
    long = CupscaleError(
        f"the request is longer than {limit} bytes, the limit of this page; send less, or upload the file"
    )
    length = dict(scope["headers"]).get(b"content-length", b"0")
    if length.isdigit() and int(length) > limit:
        raise long
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            break
        piece = message.get("body", b"")
        body += piece
        grew(len(piece))
        if len(body) > limit:
            raise long
        if not message.get("more_body"):
            break
    whole = bytes(body)
    text = whole.decode("utf-8", "replace")
    if len(text) < _SHORT:
        check_shape(text, "the request")
    else:  # a second, in which others go on
        await asyncio.to_thread(check_shape, text, "the request")
    waiting = [message if message["type"] != "http.request" else {"type": "http.request", "body": whole}]

    async def again() -> Message:
        return waiting.pop() if waiting else await receive()

    return whole, again


def _json(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
