"""Waiting for what a process or a browser does: asked for until it is there, and never for a time."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

Found = TypeVar("Found")


class Process(Protocol):
    """Of `subprocess.Popen`, what a test needs."""

    pid: int

    def poll(self) -> int | None: ...
    def send_signal(self, sig: int, /) -> None: ...
    def terminate(self) -> None: ...
    def kill(self) -> None: ...
    def wait(self, timeout: float | None = None) -> int | None: ...


def until(find: Callable[[], Found], seconds: float, missing: Callable[[], str]) -> Found:
    """What `find` gives, once it gives something. missing: says what was not there after so many seconds."""
    latest = time.monotonic() + seconds
    while not (found := find()):
        if time.monotonic() > latest:
            raise TimeoutError(f"not there after {seconds:.0f} s: {missing()}")
        time.sleep(0.1)
    return found


def free_port() -> int:
    """One that nobody has now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextlib.contextmanager
def answering(
    command: Sequence[str], url: str, log: Path, seconds: float, **options: Any
) -> Iterator[subprocess.Popen[bytes]]:
    """A process that serves an address, once it answers; it ends with the block.

    Args:
        command: What to start.
        url: Where it answers, with any status.
        log: Takes what it writes.
        seconds: How long its start may take.
        options: For `subprocess.Popen`.
    """
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, **options)
        with once_it_answers(process, url, log, seconds):
            yield process


@contextlib.contextmanager
def once_it_answers(process: Process, url: str, log: Path, seconds: float) -> Iterator[None]:
    """The same of a process that was started already."""

    def answers() -> bool:
        if process.poll() is not None:
            raise RuntimeError(f"{url} did not start:\n{log.read_text()[-3000:]}")
        try:
            urllib.request.urlopen(url, timeout=5).close()
        except urllib.error.HTTPError:
            return True
        except OSError:
            return False
        return True

    try:
        until(answers, seconds, lambda: log.read_text()[-3000:])
        yield
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait(seconds)
