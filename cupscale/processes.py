"""The processes of `accelerate launch`, which share the work of one command. Alone, everything is one process's."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, TypeVar

from cupscale.machine import best_device

T = TypeVar("T")

_PATIENCE = timedelta(days=30)  # the one that is done first waits for the one that is done last


def _several() -> bool:
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def _state() -> Any:
    """Made before a model is loaded: it gives each process its own accelerator."""
    from accelerate import PartialState

    return PartialState(cpu=best_device() == "cpu", timeout=_PATIENCE)


def own_share(items: Sequence[T]) -> list[T]:
    """This process's share of `items`; all of them where there is but one.

    Nobody goes on before all have theirs, so that none takes the others' results for ones that were there before.
    """
    if not _several():
        return list(items)
    state = _state()
    with state.split_between_processes(list(items)) as share:
        own = list(share)
    state.wait_for_everyone()
    return own


def is_main() -> bool:
    """Whether this process does what is done once."""
    return not _several() or bool(_state().is_main_process)


def wait_for_all() -> None:
    """Go on when every process has come here: one that leaves with an error ends the others."""
    if _several():
        _state().wait_for_everyone()
