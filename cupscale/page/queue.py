"""The runs that wait for the one machine: how many may, and what a person reads who comes too late.

gradio's own limit counts every event, so that with a full queue a page could not even read its link; and it says "busy"
and no more. Here only runs count, and a click asks first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr

from cupscale.errors import CupscaleError
from cupscale.page.limits import Limits
from cupscale.page.run import clock
from cupscale.page.session import GPU, TOASTING, refusal


def admitted(click: Callable[..., Any], limits: Limits) -> Callable[..., Any]:
    """An event that happens after `click` where the queue has room; else a toast says how long to wait, and no more happens."""

    def admit() -> None:
        context = gr.context.LocalContext.blocks.get(None)
        if context is not None and (line := full(context, limits)):
            raise refusal(CupscaleError(line))

    return click(admit, None, None, **TOASTING).success


def limit(demo: gr.Blocks, limits: Limits) -> None:
    """Hold the limit for whoever does not ask: programs, and two clicks in one moment. They get HTTP 503 and the line."""
    push = demo._queue.push

    async def limited(body: Any, *arguments: Any, **named: Any) -> Any:
        fn = demo.fns.get(body.fn_index)
        if fn is not None and fn.concurrency_id == GPU["concurrency_id"] and (line := full(demo, limits)):
            return False, line, "queue_full"
        return await push(body, *arguments, **named)

    demo._queue.push = limited  # type: ignore[method-assign]


def full(demo: gr.Blocks, limits: Limits) -> str | None:
    """What to say where no more runs may wait."""
    waiting = demo._queue.event_queue_per_concurrency_id.get(GPU["concurrency_id"])
    count = len(waiting.queue) if waiting else 0
    if count < limits.queue:
        return None
    times = [
        t.avg_time for t in demo._queue.process_time_per_fn.values() if t.avg_time
    ]  # of which runs take longest
    line = f"The queue is full: {count} run{'s are' if count != 1 else ' is'} waiting"
    if times:
        line += f", about {clock(count * max(times))} of work"
    return f"{line}. Everything you typed stays here; try again then."
