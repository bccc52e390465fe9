"""Calls of one visitor beside those of others: plans, settings, captions of a table, all that a page asks for and that is no run.

gradio takes any number of them, with whatever they bring, and serves them in the order of arrival: five hundred plans of one
client let the plan of another wait for minutes. Here each visitor has a share, of calls and of their bytes, the visitors
take turns, and for each one picture is decoded at a time.
"""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import gradio as gr
from starlette.types import Scope

from cupscale.page.limits import Limits
from cupscale.page.session import RUN

_MARK = "cupscale.call"  # of a request's scope, which gradio keeps with its event
_ALL = 1000  # calls of all visitors
_ALL_BYTES = 8  # of all visitors, times those of one
_AT_WORK = 4  # visitors whose pictures are decoded at a time
AGAIN_SECONDS = 5


class TooMany(Exception):
    """A call above a bound, with a line for a person. status: for a program, of HTTP."""

    def __init__(self, line: str, status: int) -> None:
        super().__init__(line)
        self.status = status


@dataclass(eq=False)
class Call:
    """One request that is not answered yet, and its event until that is over."""

    visitor: str
    bytes: int = 0


@dataclass
class Calls:
    """Those of a page.

    Attributes:
        limits: Of the page.
        queue: gradio's.
    """

    limits: Limits
    queue: Any = None
    _open: list[Call] = field(default_factory=list)

    @contextlib.contextmanager
    def taken(self, visitor: str, scope: Scope) -> Iterator[Call]:
        """A request for as long as it goes on.

        Args:
            visitor: Whose it is.
            scope: Of the request; gradio's event keeps it.

        Raises:
            TooMany: The visitor has as many calls as one may have, or all together have.
        """
        call = scope[_MARK] = Call(visitor)
        if most := self.limits.calls:
            held = self._held()
            if sum(one.visitor == visitor for one in held) >= most:
                raise TooMany(
                    f"{most} calls of yours are not answered yet, the most that one visitor may have here",
                    429,
                )
            if len(held) >= _ALL:
                raise TooMany("This page has as many calls to answer as it takes", 503)
        self._open.append(call)
        try:
            yield call
        finally:
            self._open.remove(call)

    def grew(self, call: Call, count: int) -> None:
        """More of a request's body has come.

        Args:
            call: The request.
            count: Bytes.

        Raises:
            TooMany: The visitor's requests hold more than one may have, or all together do.
        """
        call.bytes += count
        if not self.limits.calls:
            return
        held, most = self._held(), self.limits.calls_bytes
        if sum(one.bytes for one in held if one.visitor == call.visitor) > most:
            line = f"your calls that are not answered yet have more than {most} bytes, the most that one visitor may have here"
            raise TooMany(line, 429)
        if sum(one.bytes for one in held) > most * _ALL_BYTES:
            raise TooMany("This page has as much to answer as it takes", 503)

    def _held(self) -> set[Call]:
        """What is not answered yet, at HTTP or in gradio's queue."""
        held = set(self._open)
        if self.queue is not None:
            waiting = (
                event for line in self.queue.event_queue_per_concurrency_id.values() for event in line.queue
            )
            running = (event for job in self.queue.active_jobs for event in job or ())
            for event in (*waiting, *running):
                call = _call(event)
                if call is not None and event.concurrency_id != RUN["concurrency_id"]:
                    held.add(call)
        return held


class Turns(list[Any]):
    """A line of gradio's events in which the visitors take turns: the second of one comes after the first of every other."""

    def append(self, event: Any) -> None:
        own = _visitor(event)
        mine = sum(_visitor(other) == own for other in self)
        before: Counter[str] = Counter()
        for place, other in enumerate(self):
            if before[_visitor(other)] > mine:
                self.insert(place, event)
                return
            before[_visitor(other)] += 1
        super().append(event)


class Lines(dict[str, Any]):
    """gradio's lines by their name."""

    def __setitem__(self, name: str, line: Any) -> None:
        line.queue = Turns(line.queue)
        super().__setitem__(name, line)


def bound(queue: Any) -> None:
    """Let the visitors take turns in gradio's queue."""
    queue.event_queue_per_concurrency_id = Lines()


_working: dict[str, int] = {}  # thread by visitor
_done = threading.Condition()  # notified where one is done


@contextlib.contextmanager
def alone(limits: Limits) -> Iterator[None]:
    """While a picture is decoded, or a plan made, for the visitor of the current request: an earlier one of his goes first.

    Args:
        limits: Of the page.
    """
    request, thread = gr.context.LocalContext.request.get(None), threading.get_ident()
    call = _call(request) if request is not None else None
    if call is None or not limits.calls or _working.get(call.visitor) == thread:
        yield
        return
    with _done:
        _done.wait_for(lambda: call.visitor not in _working and len(_working) < _AT_WORK)
        _working[call.visitor] = thread
    try:
        yield
    finally:
        with _done:
            del _working[call.visitor]
            _done.notify_all()


def _call(event: Any) -> Call | None:
    """Of an event or a request of gradio's."""
    call = event.request.scope.get(_MARK) if event.request is not None else None
    return call if isinstance(call, Call) else None


def _visitor(event: Any) -> str:
    call = _call(event)
    return call.visitor if call else ""
