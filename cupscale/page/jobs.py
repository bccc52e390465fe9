"""Runs that go on by themselves: a page that is reloaded, or loses its connection, finds its run again.

A run works in a thread of its own. What it would show is kept, the newest of each component, and whoever follows it is
given all of that and then what changes. So nothing depends on the event that asked for the run, and a run is stopped by
its own name: gradio tells the browser of a cancelled event too early, and what the run still says overwrites it.
"""

from __future__ import annotations

import contextvars
import logging
import secrets
import threading
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any

import gradio as gr

from cupscale.page import desk as desk_module
from cupscale.page.desk import Desk, Dropped

_SIGN_SECONDS = 5.0  # a run that says nothing for so long says nothing aloud, so that gradio notices who went
_KEPT = 200
_LEFT = "the run was ended, because this page was away for too long: Upscale runs it again"
Updates = dict[Any, Any]  # of components, by component
Steps = Generator[Updates, None, None]


@dataclass(frozen=True)
class Display:
    """How a tab shows what all runs have in common.

    Attributes:
        token: The component that holds a run's secret name.
        waiting: What to show in the queue, from the line that says where.
        opening: What to show at once.
        stopped: What to show of a run that was stopped, by whether it had begun.
        failed: What to show of a run that broke.
    """

    token: Any
    waiting: Callable[[str], Updates]
    opening: Callable[[], Updates]
    stopped: Callable[[bool], Updates]
    failed: Callable[[str], Updates]


@dataclass
class Job:
    """One run. Every method may be called from any thread. seconds: that its plan says it takes."""

    desk: Desk
    event: str
    display: Display
    steps: Steps
    seconds: float | None = None
    token: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    over: bool = False
    ended: float | None = None
    _began: bool = False
    _stopped: bool = False
    _count: int = 0
    _shown: dict[Any, tuple[int, Any]] = field(
        default_factory=dict
    )  # component: when it changed, and to what
    _news: threading.Condition = field(default_factory=threading.Condition)

    def start(self) -> None:
        """Begin, as soon as the desk says so."""
        self.desk.last(self.event)
        if self.seconds is not None:
            self.desk.expect(self.event, self.seconds)
        self._show({self.display.token: self.token, **self.display.opening()})
        here = contextvars.copy_context()  # whose run it is, for the time on a GPU that is lent
        threading.Thread(target=here.run, args=(self._work,), name="run", daemon=True).start()

    def shown(self, component: Any) -> Any:
        """What the run last showed in a component; None for nothing."""
        with self._news:
            return self._shown.get(component, (0, None))[1]

    def follow(self) -> Steps:
        """All that the run has to show, and then what changes, until its end."""
        seen, line, told = 0, "", time.monotonic()
        self.desk.listen(self.event)
        try:
            while True:
                updates, seen, over = self._changes(seen, wait=1.0)
                place = None if over else self.desk.place(self.event)
                if place and (place.line != line or updates):
                    line = place.line
                    updates |= self.display.waiting(line)
                if not updates and time.monotonic() - told > _SIGN_SECONDS:
                    updates = {self.display.token: gr.skip()}
                if updates:
                    told = time.monotonic()
                    yield updates
                if over:
                    return
        finally:
            self.desk.leave(self.event)

    def stop(self) -> None:
        """End it. Who follows it sees the end at once; the machine is free after one call of the network."""
        with self._news:
            if self.over or self._stopped:
                return
            self._stopped = True
        self.desk.stopping(self.event)
        self._end(self.display.stopped(self._began))

    def _changes(self, seen: int, wait: float) -> tuple[Updates, int, bool]:
        with self._news:
            self._news.wait_for(lambda: self._count > seen or self.over, wait)
            updates = {part: value for part, (count, value) in self._shown.items() if count > seen}
            return updates, self._count, self.over

    def _show(self, updates: Updates) -> None:
        with self._news:
            if self.over:
                return
            self._count += 1
            self._shown |= {part: (self._count, value) for part, value in updates.items()}
            self._news.notify_all()

    def _end(self, updates: Updates) -> None:
        with self._news:
            self._show({**updates, self.display.token: f"{self.token} over"})
            self.over, self.ended = True, self.ended or time.monotonic()
            self._news.notify_all()

    def _work(self) -> None:
        whole = False
        last: Updates = {}
        try:
            while not self._stopped and not self.desk.begin(self.event, wait=1.0):
                pass
            self._began = True
            for updates in self.steps:
                self._show(updates)
                if self._stopped or self.desk.unheard(self.event):
                    break
            else:
                whole = True
        except Dropped:
            pass
        except Exception as error:
            logging.getLogger(__name__).exception("a run broke")
            last = self.display.failed(
                f"the run broke ({type(error).__name__}): try again, or with other settings"
            )
        finally:
            self.steps.close()
            self.desk.end(self.event, whole=whole)
            self._end(last if whole or last else self.display.failed(_LEFT))


class Jobs:
    """The runs of a page by their names.

    Args:
        seconds: How long one is kept after its end.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._jobs: dict[str, Job] = {}
        self._lock = threading.Lock()

    def run(self, steps: Steps, display: Display, seconds: float | None = None) -> Steps:
        """A run from its beginning to its end, as the current event shows it.

        Args:
            steps: What it does, and shows meanwhile.
            display: How its tab shows the rest.
            seconds: That its plan says it takes.
        """
        found = desk_module.current()
        if found is None:  # outside of a request
            yield display.opening()
            yield from steps
            return
        job = Job(*found, display, steps, seconds)
        self._keep(job)
        job.start()
        yield from job.follow()

    def named(self, token: Any) -> Job | None:
        """The run of a name, while it is kept."""
        with self._lock:
            return self._jobs.get(token) if isinstance(token, str) else None

    def stop(self, token: Any) -> None:
        """End a run; one that is not known is at its end."""
        if job := self.named(token):
            job.stop()

    def _keep(self, job: Job) -> None:
        with self._lock:
            now = time.monotonic()
            old = [one for one in self._jobs.values() if one.ended and now - one.ended > self._seconds]
            ended = [one for one in self._jobs.values() if one.ended]
            for one in {one.token: one for one in [*old, *ended[: max(0, len(ended) - _KEPT)]]}.values():
                del self._jobs[one.token]
            self._jobs[job.token] = job
