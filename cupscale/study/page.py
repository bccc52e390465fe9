"""The voters' page: its server.

A request holds a question's token and nothing else: no name of a row or an image, no path. A token is worth something to the
voter who was given it alone, whom a cookie tells from others. What the rows are called and how they stand is not served.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from cupscale.bounded import parse_object
from cupscale.errors import CupscaleError
from cupscale.study.pairs import Asked, Study, choose
from cupscale.study.pictures import Pictures
from cupscale.study.store import ANSWERS, Store

STATIC = Path(__file__).parent / "static"
OPEN_AT_ONCE = 2  # the pair that is looked at, and the next, which loads meanwhile
BODY_BYTES = 1000
ASK = "Which picture is better?"
ASK_CHARS = 120
_FILES = {"": "text/html", "study.css": "text/css", "study.js": "text/javascript"}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Robots-Tag": "noindex",
}
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Page:
    """What the page needs.

    Attributes:
        study: The folder.
        store: Its votes.
        pictures: What the browser gets.
        ask: The question above each pair.
        round: Questions after which a voter is thanked, and may go on.
    """

    study: Study
    store: Store
    pictures: Pictures
    ask: str = ASK
    round: int = 30

    def __post_init__(self) -> None:
        """Raises CupscaleError for a question that is too long."""
        if not 0 < len(self.ask) <= ASK_CHARS or not self.ask.isprintable():
            raise CupscaleError(
                f"the question has {len(self.ask)} characters: give 1 to {ASK_CHARS}, all printable"
            )

    def app(self) -> Starlette:
        """As a web application."""
        routes = [
            *(Route(f"/{name}", partial(_file, name or "study.html", kind)) for name, kind in _FILES.items()),
            Route("/questions", self._questions, methods=["POST"]),
            Route("/votes", self._vote, methods=["POST"]),
            Route("/pictures/{id}/{side}", self._picture),
        ]
        handlers: dict[Any, Any] = {CupscaleError: _refused}
        return Starlette(routes=routes, exception_handlers=handlers, middleware=[Middleware(_Headers)])

    @property
    def _cookie(self) -> str:
        """Its name. A browser keeps cookies by host alone, so each study on a machine has its own."""
        return "voter-" + hashlib.sha256(str(self.study.folder.resolve()).encode()).hexdigest()[:12]

    async def _questions(self, request: Request) -> Response:
        """The voter's open questions. Who has no cookie yet is given one."""
        await _body(request)
        return await run_in_threadpool(self._state, request)

    async def _vote(self, request: Request) -> Response:
        """Count an answer; then the same as `_questions`, with the outcome."""
        data = parse_object(await _body(request), "the vote")
        id, answer = data.get("question"), data.get("answer")
        if not isinstance(id, str) or answer not in ANSWERS:
            raise CupscaleError(f"a vote has a question and an answer, one of {', '.join(ANSWERS)}")
        return await run_in_threadpool(self._answered, request, id, str(answer))

    def _answered(self, request: Request, id: str, answer: str) -> Response:
        voter, _ = self._voter(request)
        outcome = self.store.answer(id, voter, answer) if voter else "unknown"
        if outcome == "unknown":
            return _error("no such question was asked of you: reload the page", 404)
        return self._state(request, outcome=outcome)

    def _state(self, request: Request, **more: Any) -> Response:
        voter, secret = self._voter(request, new=True)
        opened = self.store.ask(voter, partial(choose, self.study), OPEN_AT_ONCE)
        answer = JSONResponse(
            {
                "ask": self.ask,
                "round": self.round,
                "answered": self.store.number(voter),
                "questions": [self._question(id, asked) for id, asked in opened],
                **more,
            }
        )
        year, secure = 365 * 86400, request.url.scheme == "https"
        answer.set_cookie(self._cookie, secret, max_age=year, httponly=True, samesite="lax", secure=secure)
        return answer

    def _voter(self, request: Request, *, new: bool = False) -> tuple[str, str]:
        """(id, secret) of who asks; two empty texts for a stranger, unless a new voter is to be made."""
        secret = request.cookies.get(self._cookie)
        known = self.store.known(secret) if secret else None
        if known and secret:
            return known, secret
        return self.store.new_voter() if new else ("", "")

    def _question(self, id: str, asked: Asked) -> dict[str, Any]:
        width, height = self.study.sizes[asked.image]
        return {"id": id, "width": width, "height": height, "original": asked.image in self.study.inputs}

    def _picture(self, request: Request) -> Response:
        """A picture of an open question: "first", "second" or "original"."""
        voter, _ = self._voter(request)
        id, side = request.path_params["id"], request.path_params["side"]
        asked = self.store.question(id, voter) if voter else None
        if asked is None or side not in ("first", "second", "original"):
            return _error("no such picture", 404)
        try:
            data = self.pictures.original(asked) if side == "original" else self.pictures.side(asked, side)
        except (CupscaleError, KeyError, OSError) as error:
            _log.warning("%s of the image '%s' cannot be shown: %s", side, asked.image, error)
            if side != "original":
                self.study.leave_out(asked.image, str(error))
                self.store.take_back(lambda asked: not self.study.shows(asked))
            return _error("this picture cannot be shown", 410)
        if data is None:
            return _error("no such picture", 404)
        return Response(
            data, media_type="image/png", headers={"Cache-Control": "private, max-age=3600, immutable"}
        )


async def _body(request: Request) -> bytes:
    data = b""
    async for chunk in request.stream():
        data += chunk
        if len(data) > BODY_BYTES:
            raise CupscaleError(f"more than {BODY_BYTES} bytes, the limit of a request here")
    return data


async def _file(name: str, kind: str, request: Request) -> Response:
    return Response((STATIC / name).read_bytes(), media_type=kind, headers={"Cache-Control": "no-cache"})


async def _refused(request: Request, error: CupscaleError) -> Response:
    return _error(str(error), 422)


def _error(text: str, status: int) -> Response:
    return JSONResponse({"error": text}, status)


class _Headers:
    """Puts the headers on every answer."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                pairs = [(name.lower().encode(), value.encode()) for name, value in _HEADERS.items()]
                message["headers"] = [*message["headers"], *pairs]
            await send(message)

        await self._app(scope, receive, with_headers)
