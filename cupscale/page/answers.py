"""Answers that wait for someone to listen: bounded, and never at the cost of one who does.

gradio keeps those of 2000 sessions, of any size, and drops the session that came first, at which its run breaks. Every call of
a program is a session, and may never listen.
"""

from __future__ import annotations

import asyncio
import math
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import BaseModel

MAX_BYTES = 64 * 2**20
MAX_SESSIONS = 2000
_HEARD_SECONDS = 60.0  # gradio's stream asks at least every 10 s while its client takes what comes


class Answers(asyncio.Queue[Any]):
    """Of one session. changed: told of the bytes that came or went."""

    def __init__(self, changed: Callable[[int], None]) -> None:
        super().__init__()
        self.changed = changed
        self.bytes = 0
        self._asked = -math.inf

    @property
    def heard(self) -> bool:
        """Whether someone listens."""
        return time.monotonic() - self._asked < _HEARD_SECONDS

    async def get(self) -> Any:
        self._asked = time.monotonic()
        return await super().get()

    def _put(self, item: Any) -> None:
        super()._put((item, size := _size(item)))
        self._count(size)

    def _get(self) -> Any:
        item, size = super()._get()
        self._count(-size)
        return item

    def _count(self, size: int) -> None:
        self.bytes += size
        self.changed(size)


class Waiting(dict[str, Answers]):
    """The answers of a page by their session, in place of gradio's.

    Where they are too many or too much, those go first that nobody listens to, the longest without news before the others. What
    is said to a session that went is lost, and whoever asks for it then is told that there is none.

    Args:
        events: The sessions' unfinished events, which gradio keeps beside them.
    """

    def __init__(self, events: dict[str, set[str]]) -> None:
        super().__init__()
        self._events = events
        self._bytes = 0

    def __setitem__(self, session: str, _: Any) -> None:
        self._drop(session)
        super().__setitem__(session, Answers(lambda size: self._changed(session, size)))
        self._trim()

    def __missing__(self, session: str) -> Answers:
        return Answers(lambda size: None)

    def __delitem__(self, session: str) -> None:
        self._drop(session)

    def _changed(self, session: str, size: int) -> None:
        self._bytes += size
        if size > 0:
            super().__setitem__(session, self.pop(session))
            self._trim()

    def _trim(self) -> None:
        while self._bytes > MAX_BYTES or len(self) > MAX_SESSIONS:
            unheard = next((session for session, answers in self.items() if not answers.heard), None)
            if unheard is None and self._bytes <= MAX_BYTES:
                return
            self._drop(unheard or max(self, key=lambda session: self[session].bytes))

    def _drop(self, session: str) -> None:
        if (answers := self.pop(session, None)) is not None:
            self._bytes -= answers.bytes
            answers.changed = lambda size: None
            self._events.pop(session, None)


def bound(queue: Any) -> None:
    """Let gradio's queue keep its answers here."""
    queue.pending_messages_per_session = Waiting(queue.pending_event_ids_session)


def _size(value: Any) -> int:
    """Bytes in memory of what an answer is made of."""
    total, left = 0, [value]
    while left:
        one = left.pop()
        total += sys.getsizeof(one)
        if isinstance(one, BaseModel):
            left += vars(one).values()
        elif isinstance(one, Mapping):
            left += [*one.keys(), *one.values()]
        elif isinstance(one, (list, tuple)):
            left += one
    return total
