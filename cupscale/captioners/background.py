"""Work in a thread of its own, waited for with signs of life, so that a consumer can stop it."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator
from typing import TypeVar

T = TypeVar("T")

BEAT = 0.2  # seconds between signs of life


def run(work: Callable[[Callable[[T], None], threading.Event], None]) -> Generator[T | None, None, None]:
    """Yield what `work(emit, stop)` emits, and None every 0.2 s in between. Raises what it raises.

    Closing the generator sets `stop`, at which the work must end soon, and waits for that.
    """
    items: queue.SimpleQueue[tuple[str, T | BaseException | None]] = queue.SimpleQueue()
    stop = threading.Event()

    def body() -> None:
        try:
            work(lambda item: items.put(("item", item)), stop)
        except BaseException as error:
            items.put(("error", error))
        else:
            items.put(("end", None))

    thread = threading.Thread(target=body, name="captioner", daemon=True)
    thread.start()
    try:
        while True:
            try:
                kind, item = items.get(timeout=BEAT)
            except queue.Empty:
                yield None
                continue
            if kind == "end":
                return
            if kind == "error":
                assert isinstance(item, BaseException)
                raise item
            yield item  # type: ignore[misc]
    finally:
        stop.set()
        thread.join()
