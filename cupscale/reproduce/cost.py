"""The peak of memory during a piece of work, and how long the rest of a run will take."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch

_REFS = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")


class Peak:
    """Filled when the work is done.

    Attributes:
        bytes: Of the accelerator, or of the whole process; None where this system does not tell.
    """

    bytes: int | None = None


@contextlib.contextmanager
def peak_memory(device: torch.device) -> Iterator[Peak]:
    """Measure the memory that what goes on inside takes at most.

    Args:
        device: That the model is on.

    Yields:
        The peak, which has its bytes once the context has ended.
    """
    peak = Peak()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        yield peak
        peak.bytes = torch.cuda.max_memory_allocated(device)
        return
    can = device.type == "cpu" and _reset()
    yield peak
    if can:
        peak.bytes = _status("VmHWM")


def _reset() -> bool:
    """Linux forgets the process' peak when it is told so; some sandboxes take the word and do nothing."""
    try:
        _REFS.write_text("5")
    except OSError:
        return False
    peak, now = _status("VmHWM"), _status("VmRSS")
    return peak is not None and now is not None and peak < 1.05 * now + 10_000_000


def _status(name: str) -> int | None:
    """In bytes, what the system says of this process' memory."""
    try:
        for line in _STATUS.read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None


class Clock:
    """How long the rest takes, by what the same row took before, or the work of other rows.

    Args:
        left: How often each row is still to be run.

    Attributes:
        work: Network samples of a run of each row, once they are known; 0 for those without a model.
    """

    def __init__(self, left: Mapping[str, int]):
        self.work: dict[str, int] = {}
        self._left = dict(left)
        self._seconds: dict[str, float] = defaultdict(float)
        self._runs: dict[str, int] = defaultdict(int)

    def done(self, row: str, seconds: float) -> None:
        """One run of a row is over; 0 seconds where it failed."""
        self._left[row] -= 1
        self._seconds[row] += seconds
        self._runs[row] += seconds > 0

    def seconds_left(self) -> float | None:
        """None while nothing is known; a row that was not run yet counts by its samples, once a row with samples was."""
        if not any(self._runs.values()):
            return None
        samples = sum(self._runs[row] * self.work.get(row, 0) for row in self._runs)
        worked = sum(self._seconds[row] for row in self._runs if self.work.get(row, 0))
        a_sample = worked / samples if samples else 0.0
        return sum(
            count
            * (self._seconds[row] / self._runs[row] if self._runs[row] else a_sample * self.work.get(row, 0))
            for row, count in self._left.items()
        )
