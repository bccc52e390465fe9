"""The processes of `accelerate launch`, which share the work of one command. Alone, everything is one process's.

Several pictures are dealt out, each to one process. One picture is denoised by all of them: each takes its part of a step's
regions, and one exchange a step gives all of them all outputs, so that each goes on with the same canvas, and the bytes are those
of one.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor

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


@dataclass(frozen=True)
class Together:
    """This process among `count` that denoise one picture: a `method.sampler.Share`."""

    rank: int
    count: int

    def own(self, batches: int) -> Sequence[int]:
        """Every `count`-th batch. Where there are fewer batches than processes, those without one do the first besides."""
        return range(self.rank, batches, self.count) or range(1)

    def gather(self, own: Sequence[Tensor], sizes: Sequence[int]) -> list[Tensor]:
        """The outputs of all batches in their order; one exchange."""
        from accelerate.utils import gather

        most = max(sum(sizes[rank :: self.count]) for rank in range(self.count))
        mine = torch.cat(list(own))[:most]
        room = mine.new_zeros(most, *mine.shape[1:])
        room[: len(mine)] = mine
        parts = gather(room).split(most)
        found: list[Tensor] = []
        taken = [0] * self.count
        for k, size in enumerate(sizes):
            rank = k % self.count
            found.append(parts[rank][taken[rank] : taken[rank] + size])
            taken[rank] += size
        return found

    def same(self, value: T) -> T:
        """The main process' value, in every process."""
        from accelerate.utils import broadcast_object_list

        return broadcast_object_list([value])[0]


def together(jobs: int) -> Together | None:
    """The processes that make the only picture there is, all of them; None for several pictures, or for one process.

    Args:
        jobs: Pictures to make.
    """
    if not _several() or jobs != 1:
        return None
    state = _state()
    state.wait_for_everyone()
    return Together(state.process_index, state.num_processes)
