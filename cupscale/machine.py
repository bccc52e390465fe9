"""This machine: its devices, its cache folder, and how fast its own runs were. Only a help: nothing here fails a run."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from cupscale.bounded import parse_object
from cupscale.errors import CupscaleError

_MAX_SPEED_BYTES = 2**18


def best_device() -> str:
    """torch's name of the best kind of device there is: "cuda", "mps" or "cpu"."""
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def free_bytes(device: str) -> int:
    """What can still be taken, torch's own unused blocks counted as free.

    Args:
        device: torch's name of it.
    """
    import psutil
    import torch

    kind = torch.device(device).type
    if kind == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if kind == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    return psutil.virtual_memory().available


def cache_folder() -> Path | None:
    """Where things are kept between runs; None where this user has no home."""
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base) / "cupscale"
    try:
        return Path.home() / ".cache" / "cupscale"
    except (RuntimeError, KeyError):  # neither HOME nor an entry for this user, as in a container
        return None


def known_speed(name: str, device: str) -> dict[str, float] | None:
    """How fast the last run of `name` on `device` was: what `cupscale.planning.make_plan` takes as speed.

    None where it is not known, or where what is kept makes no sense.
    """
    speed = _speeds().get(f"{name} {device}")
    if not isinstance(speed, dict) or not speed:
        return None
    sound = all(_positive(value) for value in speed.values())
    whole = {"sample", "cells", "megapixel"} <= speed.keys() or set(speed) == {"call"}
    return cast(dict[str, float], speed) if sound and whole else None


def remember_speed(name: str, device: str, speed: Mapping[str, float]) -> None:
    """Keep a run's speed for the next plan."""
    folder = cache_folder()
    if folder is None:
        return
    data = _speeds() | {f"{name} {device}": dict(speed)}
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / f"speed.{os.getpid()}"
        part.write_text(json.dumps(data, indent=1))
        part.replace(folder / "speed.json")


def _speeds() -> dict[str, object]:
    folder = cache_folder()
    if folder is None:
        return {}
    try:
        with open(folder / "speed.json", "rb") as file:
            return parse_object(file.read(_MAX_SPEED_BYTES), "speed")
    except (OSError, CupscaleError):
        return {}


def _positive(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < math.inf
