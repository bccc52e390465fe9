"""What a run says on a terminal, and where there is none: bars or plain lines, and a report of each result."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click
from tqdm import tqdm

if TYPE_CHECKING:
    from cupscale.batch import Done
    from cupscale.events import Progress

_SHARE = 0.1  # of a stage, after which a plain line is written


def show(events: Iterable[Any], *, several: bool, as_json: bool, to_stdout: bool = False) -> list[Done]:
    """A bar for all images and one for each, plain lines where stderr is no terminal, and a report of each result.

    Args:
        events: Of `cupscale.batch.run_jobs`.
        several: Say which image begins.
        as_json: The reports.
        to_stdout: The result goes there, so that its report goes to stderr.

    Returns:
        Those that failed.
    """
    from cupscale.batch import Done, Started
    from cupscale.events import Planned, Progress
    from cupscale.method.sampler import Notice

    failed = []
    lines = Lines()
    usual: dict[str, Any] = {"file": sys.stderr, "dynamic_ncols": True}
    with (
        tqdm(total=1, unit="image", disable=None if several else True, **usual) as whole,
        tqdm(total=1, unit="region", disable=None, **usual) as bar,
    ):
        for event in events:
            if isinstance(event, Started) and several:
                bar.write(f"{event.number} of {event.total}: {event.job.source}", file=sys.stderr)
                whole.total, whole.n = event.total, event.number - 1
                whole.refresh()
            elif isinstance(event, Planned):
                bar.write(event.plan.line(), file=sys.stderr)
                bar.write(f"seed {event.settings.seed}", file=sys.stderr)
                bar.reset(total=event.plan.windows)
            elif isinstance(event, Notice):
                bar.write(f"note: {event.message}", file=sys.stderr)
            elif isinstance(event, Progress) and bar.disable:
                if line := lines.next(event):
                    click.echo(line, err=True)
            elif isinstance(event, Progress):
                _advance(bar, event)
            elif isinstance(event, Done):
                if event.error is not None:
                    failed.append(event)
                bar.clear()
                _report(event, as_json, to_stdout)
    return failed


class Lines:
    """Progress as plain lines: one when a stage begins, and one for each tenth of it."""

    def __init__(self) -> None:
        self._stage = ""
        self._said = 0

    def next(self, event: Progress) -> str:
        """The line of an event; empty where there is nothing new to say."""
        tenth = int(event.fraction / _SHARE + 1e-6)
        if event.stage == self._stage and tenth <= self._said:
            return ""
        self._stage, self._said = event.stage, tenth
        parts = [event.stage]
        if event.fraction:
            parts.append(f"{event.fraction:.0%}")
        if event.step:
            parts.append(f"step {event.step} of {event.steps}")
        if event.left is not None:
            parts.append(f"about {event.left:.0f} s left")
        return ", ".join(parts)


def _advance(bar: Any, event: Any) -> None:
    if event.stage == "draw":
        bar.set_description_str(f"draw {event.step}/{event.steps}")
    elif event.stage == "denoise":
        bar.set_description_str(f"step {event.step}/{event.steps}", refresh=False)
        bar.update(round(event.fraction * bar.total) - bar.n)
    elif event.stage == "caption":
        bar.set_description_str(f"caption {event.regions}/{event.total}")
    else:
        bar.set_description_str(event.stage + (f" {event.fraction:.0%}" if event.fraction else ""))


def _report(done: Done, as_json: bool, to_stdout: bool) -> None:
    path, result = str(done.job.target), done.result
    if as_json:
        report: dict[str, Any] = {
            "path": path,
            "source": str(done.job.source) if done.job.source else None,
        }
        if done.error is not None:
            report["error"] = done.error
        elif result is None:
            report["skipped"] = True
        else:
            report["seconds"] = round(result.seconds, 2)
            report["plan"] = result.plan.to_dict()
            report["settings"] = result.settings.model_dump(mode="json")
        click.echo(json.dumps(report), err=to_stdout)
        return
    if result is None:
        if done.error is None:  # what failed is said at the end
            click.echo(f"{path}  is there already", err=to_stdout)
        return
    shown = {name: value for name, value in result.settings.model_dump().items() if value not in ("", ())}
    size = f"{result.image.width} x {result.image.height}"
    click.echo(f"{path}  {size}  {result.seconds:.1f} s", err=to_stdout)
    click.echo("  ".join(f"{name}={value}" for name, value in shown.items()), err=to_stdout)
