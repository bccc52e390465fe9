"""This machine: its devices, its cache folder, and how fast its own runs were. Only a help: nothing here fails a run."""

from __future__ import annotations

import contextlib
import json
import math
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from cupscale.bounded import parse_object
from cupscale.errors import CupscaleError
from cupscale.speed import KEPT, Run, Speed, fitted, guessed

_MAX_SPEED_BYTES = 2**18


def best_device() -> str:
    """torch's name of the best kind of device there is: "cuda" (ROCm's too), "mps", another such as "xpu", or "cpu"."""
    from cupscale.method.memory import accelerator

    return accelerator() or "cpu"


def free_bytes(device: str) -> int:
    """What can still be taken, torch's own unused blocks counted as free.

    Args:
        device: torch's name of it.
    """
    import psutil
    import torch

    kind = torch.device(device).type
    if kind == "cpu":
        return psutil.virtual_memory().available
    if kind == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    module = torch.get_device_module(kind)
    free, _ = module.mem_get_info(device)
    return free + module.memory_reserved(device) - module.memory_allocated(device)


def cache_folder() -> Path | None:
    """Where things are kept between runs; None where this user has no home."""
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base) / "cupscale"
    try:
        return Path.home() / ".cache" / "cupscale"
    except (RuntimeError, KeyError):  # neither HOME nor an entry for this user, as in a container
        return None


def device_name(device: str) -> str:
    """What a device is called by its maker, for what is kept of its speed: "NVIDIA A100-SXM4-80GB", "AMD EPYC, 2 cores".

    Args:
        device: torch's name of its kind.
    """
    import torch

    from cupscale.method.memory import accelerator

    kind = device.partition(":")[0]  # a captioner's may be "server", which torch does not know
    if kind not in ("cpu", "mps") and kind == accelerator():
        called: str = torch.get_device_module(kind).get_device_name(device)
        return called
    if kind != "cpu":
        return device
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), name)
    return f"{name}, {os.cpu_count()} cores"


def guessed_speed(name: str, device: str) -> Speed | None:
    """How fast a model may be here, before it ever ran; None for one without a name."""
    from cupscale.models import KNOWN

    known = KNOWN.get(name)
    if known is None:
        return None
    called = device if device in ("cpu", "mps") else device_name(device)
    return guessed(known.tflop, called, os.cpu_count() or 1, known.geometry.tile == 0)


def known_runs(name: str, device: str, how: str = "") -> list[Run]:
    """The last runs of a model on a device, the oldest first; none where what is kept makes no sense.

    Args:
        name: Of the model.
        device: torch's name of its kind.
        how: Precision and offload; empty for those that ran last.
    """
    beginning = f"{name} | {device_name(device)} | "
    kept = {key: value for key, value in _speeds().items() if key.startswith(beginning + how)}
    if not kept:
        return []
    runs = list(kept.values())[-1]
    found = [Run.read(one) for one in runs] if isinstance(runs, list) else []
    return [one for one in found if one is not None]


def remember_run(name: str, device: str, how: str, run: Run) -> None:
    """Keep a run for the next plan. See `known_runs`."""
    key = f"{name} | {device_name(device)} | {how}"
    runs = [*known_runs(name, device, how), run][-KEPT:]
    _keep(key, [one.to_dict() for one in runs])


def known_speed(name: str, device: str, how: str = "") -> dict[str, float] | None:
    """How fast `name` is on `device`: what `cupscale.planning.make_plan` takes as speed.

    By its last runs; where there are none, as `remember_speed` was told. None where it is not known, or where what is kept makes
    no sense. how: See `known_runs`.
    """
    if runs := known_runs(name, device, how):
        return planned(fitted(runs, guessed_speed(name, device)))
    speed = _speeds().get(f"{name} {device}")
    if not isinstance(speed, dict) or not speed:
        return None
    sound = all(_positive(value) for value in speed.values())
    whole = {"sample", "cells", "megapixel"} <= speed.keys() or set(speed) == {"call"}
    return cast(dict[str, float], speed) if sound and whole else None


def planned(speed: Speed) -> dict[str, float]:
    """As `make_plan` takes it. Samples are counted in windows of native size, which have a share of 1."""
    return {
        "fixed": speed.fixed,
        "input": speed.input,
        "sample": speed.sample,
        "megapixel": speed.output,
    }


def remember_speed(name: str, device: str, speed: Mapping[str, float]) -> None:
    """Keep a speed for the next plan: of a captioner, seconds a `call`."""
    _keep(f"{name} {device}", dict(speed))


def _keep(key: str, value: object) -> None:
    folder = cache_folder()
    if folder is None:
        return
    data = {name: other for name, other in _speeds().items() if name != key} | {key: value}
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
