"""The one queue of the page: whose turn it is, who waits how long, and whether anyone still listens.

Nothing of gradio but the current event's id.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import gradio as gr

from cupscale.page.limits import Limits
from cupscale.planning import duration

_LEFT_SECONDS = 10.0  # a run that waits, after its listener went: gradio drops it then, but for one just sent
_UNKNOWN_SECONDS = 30.0  # for a program's next try, where no run has ended yet


@dataclass
class Ticket:
    """A run of one visitor.

    Attributes:
        visitor: Whose it is.
        kind: Of the endpoint, whose runs take about as long as one another.
        session: That hears of it.
        unheard: When the last listener went, None while there is one.
        left: It had a listener.
        began: When it began to run, None while it waits.
        expected: Seconds from its beginning to its end, where its plan is known.
        number: In the order of arrival.
        ready: It would run now.
        lasting: It goes on without the event that asked for it, so that another may listen to it.
        named: gradio took it, so that someone may listen to it.
        given_up: Nobody listened for too long: it ends, whoever listens later.
    """

    visitor: str
    kind: str
    session: str
    unheard: float | None
    left: bool = False
    began: float | None = None
    expected: float | None = None
    number: int = 0
    ready: bool = False
    lasting: bool = False
    named: bool = False
    given_up: bool = False


@dataclass(frozen=True)
class Place:
    """Where a run that waits stands.

    ahead: runs before it. seconds: until its turn; None where a run before it is of unknown length.
    """

    ahead: int
    seconds: float | None

    @property
    def line(self) -> str:
        """For a person."""
        if not self.ahead:
            return "next in the queue: it starts in a moment"
        runs = "1 run" if self.ahead == 1 else f"{self.ahead} runs"
        line = f"waiting in the queue, {runs} before this one"
        return line if self.seconds is None else f"{line}, about {duration(max(1.0, self.seconds))} to wait"

    @property
    def report(self) -> dict[str, Any]:
        """For a program."""
        seconds = None if self.seconds is None else round(self.seconds, 1)
        return {"status": self.line, "ahead": self.ahead, "wait_seconds": seconds}


@dataclass(frozen=True)
class Refusal:
    """Why a run may not wait here. status: for a program, of HTTP. after: seconds, for its next try."""

    line: str
    status: int
    after: float


class Dropped(Exception):
    """A run that waited was given up, by its visitor or because nobody listened."""


@dataclass
class Desk:
    """The runs of one page, of which one runs at a time. Every method may be called from any thread."""

    limits: Limits
    _tickets: dict[str, Ticket] = field(default_factory=dict)
    _dropped: deque[str] = field(default_factory=lambda: deque(maxlen=1000))
    _over: deque[str] = field(default_factory=lambda: deque(maxlen=1000))
    _heard: Counter[str] = field(default_factory=Counter)
    _took: dict[str, deque[float]] = field(default_factory=dict)
    _numbers: count[int] = field(default_factory=count)
    _lock: threading.Condition = field(
        default_factory=threading.Condition
    )  # notified where a turn may have come

    def refusal(self, visitor: str) -> Refusal | None:
        """Why this visitor's next run may not wait now; None where it may."""
        with self._lock:
            self._purge()
            waiting = sum(ticket.began is None for ticket in self._tickets.values())
            held = sum(ticket.visitor == visitor for ticket in self._tickets.values())
            work = self._work(self._tickets.values())
        if waiting >= self.limits.queue:
            line = f"The queue is full: {waiting} run{'s are' if waiting != 1 else ' is'} waiting"
            status = 503
        elif self.limits.share and held >= self.limits.share:
            runs = "1 run of yours waits or runs" if held == 1 else f"{held} runs of yours wait or run"
            line = f"{runs}, the most that one visitor may have here"
            status = 429
        else:
            return None
        if work is not None:
            line += f", about {duration(work)} of work"
        return Refusal(line, status, _UNKNOWN_SECONDS if work is None else work)

    def enter(self, visitor: str, kind: str, session: str | None) -> str | Refusal:
        """Take a place in the queue, under a name that lasts until `name`; or the reason why not.

        Nobody can listen before `name`, so the time in which nobody does begins there.
        """
        with self._lock:
            if refusal := self.refusal(visitor):
                return refusal
            place = uuid.uuid4().hex
            self._tickets[place] = Ticket(visitor, kind, session or "", None, number=next(self._numbers))
        return place

    def name(self, place: str, event: str | None) -> None:
        """gradio took the run as this event; None where it did not."""
        with self._lock:
            ticket = self._tickets.pop(place, None)
            if ticket is not None and event is not None:
                ticket.session, ticket.named = ticket.session or event, True
                ticket.unheard = None if self._heard[ticket.session] else time.monotonic()
                early = self._tickets.get(event)  # its turn came before the client had its name
                if early is not None:
                    ticket.began, ticket.expected, ticket.ready = early.began, early.expected, early.ready
                    if early.lasting:
                        ticket.lasting, ticket.session, ticket.unheard = True, event, early.unheard
                if event not in self._over:
                    self._tickets[event] = ticket
            self._lock.notify_all()

    def session(self, event: str) -> str:
        """The session that hears of an event."""
        with self._lock:
            return self._tickets[event].session if event in self._tickets else event

    def listen(self, session: str) -> None:
        """Someone listens to a session's events. A run that nobody heard for too long stays given up."""
        with self._lock:
            self._heard[session] += 1
            for ticket in self._tickets.values():
                if ticket.session == session:
                    ticket.given_up = self._too_long(ticket)
                    ticket.unheard, ticket.left = None, False

    def leave(self, session: str) -> None:
        """A listener went."""
        with self._lock:
            self._heard[session] -= 1
            if self._heard[session] > 0:
                return
            del self._heard[session]
            for ticket in self._tickets.values():
                if ticket.session == session:
                    ticket.unheard, ticket.left = time.monotonic() if ticket.named else None, True

    def last(self, event: str) -> None:
        """A run goes on by itself from now on, whatever becomes of the event that asked for it.

        Those who follow it listen to the run: its session is the event itself.
        """
        with self._lock:
            ticket = self._ticket(event)
            ticket.lasting, ticket.session = True, event
            ticket.unheard = None if self._heard[event] else time.monotonic()

    def begin(self, event: str, wait: float = 0.0) -> bool:
        """Take one's turn, when it comes: nobody runs, and of those who would run now no one came earlier.

        Args:
            event: The run.
            wait: Seconds at most.

        Returns:
            Whether it has come.

        Raises:
            Dropped: The run was given up meanwhile.
        """
        until = time.monotonic() + wait
        with self._lock:
            while True:
                self._purge()
                if event in self._dropped:
                    raise Dropped
                ticket = self._ticket(event)
                ticket.ready = True
                if self._is_next(ticket):
                    ticket.began = time.monotonic()
                    return True
                left = until - time.monotonic()
                if left <= 0:
                    return False
                self._lock.wait(left)

    def place(self, event: str) -> Place | None:
        """Where a run stands; None where it does not wait."""
        with self._lock:
            self._purge()
            ticket = self._tickets.get(event)
            if ticket is None or ticket.began is not None:
                return None
            before = [one for one in self._tickets.values() if one.number < ticket.number or one.began]
            return Place(len(before), self._work(before))

    def expect(self, event: str, seconds: float) -> None:
        """How long a run will take from now; where it waits, from its beginning."""
        with self._lock:
            if (ticket := self._tickets.get(event)) is not None:
                ticket.expected = seconds + (time.monotonic() - ticket.began if ticket.began else 0.0)

    def unheard(self, event: str) -> bool:
        """Whether nobody has listened to a run for too long."""
        with self._lock:
            ticket = self._tickets.get(event)
            return ticket is not None and self._too_long(ticket)

    def end(self, event: str, *, whole: bool = False) -> None:
        """A run ended, or will not begin. whole: it went to its end, so that its time tells of others."""
        with self._lock:
            ticket = self._tickets.pop(event, None)
            self._over.append(event)
            if ticket is not None and ticket.began is not None and whole:
                took = self._took.setdefault(ticket.kind, deque(maxlen=20))
                took.append(time.monotonic() - ticket.began)
            self._lock.notify_all()

    def answered(self, event: str) -> None:
        """The event that asked for a run is over, and so is the run, if it does not last."""
        with self._lock:
            if event in self._tickets and not self._tickets[event].lasting:
                self.end(event)

    def cancel(self, event: str) -> None:
        """A visitor gave a run up; one that runs ends by itself."""
        with self._lock:
            if event in self._tickets and self._tickets[event].began is None:
                self._drop(event)

    def stopping(self, event: str) -> None:
        """A run ends within one call of the network: it is no visitor's any more, and nothing of it is left to wait for."""
        self.cancel(event)
        with self._lock:
            if (ticket := self._tickets.get(event)) is not None and ticket.began is not None:
                ticket.visitor, ticket.expected = "", time.monotonic() - ticket.began

    def _ticket(self, event: str) -> Ticket:
        if event not in self._tickets:  # its turn came before its name
            self._tickets[event] = Ticket("", "", "", None, number=next(self._numbers))
        return self._tickets[event]

    def _is_next(self, ticket: Ticket) -> bool:
        others = [one for one in self._tickets.values() if one is not ticket]
        return not any(one.began or (one.ready and one.number < ticket.number) for one in others)

    def _too_long(self, ticket: Ticket) -> bool:
        if ticket.given_up:
            return True
        allowed: float = self.limits.unheard_seconds
        if ticket.left and ticket.began is None and not ticket.lasting:
            allowed = min(allowed, _LEFT_SECONDS)
        return ticket.unheard is not None and time.monotonic() - ticket.unheard > allowed

    def _drop(self, event: str) -> None:
        del self._tickets[event]
        self._dropped.append(event)
        self._lock.notify_all()

    def _purge(self) -> None:
        for event, ticket in list(self._tickets.items()):
            if ticket.began is None and self._too_long(ticket):
                self._drop(event)

    def _typical(self, kind: str) -> float | None:
        took = self._took.get(kind) or [t for times in self._took.values() for t in times]
        return sum(took) / len(took) if took else None

    def _work(self, tickets: Iterable[Ticket]) -> float | None:
        """Seconds until runs are done, one after the other; None where a part of it is not known."""
        total = 0.0
        for ticket in tickets:
            takes = ticket.expected if ticket.expected is not None else self._typical(ticket.kind)
            if takes is None:
                return None
            total += takes if ticket.began is None else max(0.0, takes - (time.monotonic() - ticket.began))
        return total


def current() -> tuple[Desk, str] | None:
    """The desk of the page and the id of the event that this thread works for; None outside of a request."""
    local = gr.context.LocalContext
    desk = getattr(local.blocks.get(None), "desk", None)
    event = local.event_id.get(None)
    return (desk, event) if desk is not None and event else None


def expect(seconds: float) -> None:
    """`Desk.expect` for the current event."""
    if (found := current()) is not None:
        found[0].expect(found[1], seconds)
