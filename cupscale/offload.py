"""What waits in main memory while it is not used, and which of the ways an accelerator's memory holds."""

from __future__ import annotations

from collections import Counter
from typing import Any, Literal

import torch

from cupscale import machine
from cupscale.errors import CupscaleError
from cupscale.method.memory import module_bytes

Offload = Literal["none", "model", "group", "sequential"]
# From the fastest to the one that needs least.
WAYS: tuple[Offload, ...] = ("none", "model", "group", "sequential")
GIB = 2**30


def parts(pipe: Any) -> dict[str, torch.nn.Module]:
    """A pipeline's parts that have weights."""
    return {name: part for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)}


def possible(pipe: Any) -> tuple[Offload, ...]:
    """The ways a pipeline can go: two move part by part, and miss weights that parts share, as Z-Image and its ControlNet do."""
    owners = Counter(id(weight) for part in parts(pipe).values() for weight in part.parameters())
    return ("none", "group") if any(count > 1 for count in owners.values()) else WAYS


def part_bytes(pipe: Any) -> dict[str, int]:
    """Bytes of a pipeline's weights, part by part, wherever they are now."""
    return {name: module_bytes(part) for name, part in parts(pipe).items()}


def weights_there(pipe: Any, way: Offload) -> int:
    """Bytes of weights that are on the accelerator at the same time under a way of offloading.

    All of them, those of the largest part, or of the largest layer. Ours: a layer is counted twice, since the next one may come
    before the last has gone.
    """
    if way == "none":
        return module_bytes(torch.nn.ModuleList(parts(pipe).values()))
    if way == "model":
        return max(part_bytes(pipe).values(), default=0)
    layers = (module_bytes(layer, recurse=False) for part in parts(pipe).values() for layer in part.modules())
    return 2 * max(layers, default=0)


def current(pipe: Any) -> Offload:
    """How a pipeline is offloaded now."""
    from accelerate.hooks import CpuOffload

    for part in parts(pipe).values():
        for module in part.modules():
            registry: Any = getattr(module, "_diffusers_hook", None)
            if registry is not None and "group_offloading" in registry.hooks:
                return "group"
            if hook := getattr(module, "_hf_hook", None):
                return "model" if isinstance(hook, CpuOffload) else "sequential"
    return "none"


def choose(pipe: Any, device: str, work: int) -> Offload:
    """The fastest way that the free memory holds; the one that needs least where none does.

    Args:
        pipe: Loaded, in main memory.
        device: torch's name of it.
        work: Bytes that a run takes besides the weights.
    """
    if device == "cpu":
        return "none"
    free = machine.free_bytes(device)
    ways = possible(pipe)
    return next((way for way in ways if weights_there(pipe, way) + work <= free), ways[-1])


def put(pipe: Any, way: Offload, device: str) -> Any:
    """The pipeline on a device, under a way of offloading.

    Raises:
        CupscaleError: The device is a CPU, which nothing can be offloaded from, or the pipeline cannot go this way.
    """
    if way != "none" and device == "cpu":
        raise CupscaleError(
            f"offload '{way}' needs an accelerator and this run is on a CPU: use offload none"
        )
    check(pipe, way)
    if way == "none":
        return pipe.to(device)
    if way == "model":
        pipe.enable_model_cpu_offload(device=device)
    elif way == "sequential":
        pipe.enable_sequential_cpu_offload(device=device)
    else:
        pipe.enable_group_offload(
            onload_device=torch.device(device), offload_device=torch.device("cpu"), offload_type="leaf_level"
        )
    return pipe


def check(pipe: Any, way: Offload) -> None:
    """See that a pipeline can go a way of offloading, or goes one that it can.

    Raises:
        CupscaleError: It would miss weights that its parts share.
    """
    if way not in (ways := possible(pipe)):
        raise CupscaleError(
            f"offload '{way}' misses weights that two parts of this {type(pipe).__name__} share: use offload {' or '.join(ways)}"
        )


def room(pipe: Any, device: str) -> int:
    """Bytes that are free on a device, those of a pipeline that is there counted as free."""
    there = weights_there(pipe, "none") if device != "cpu" and current(pipe) == "none" else 0
    return machine.free_bytes(device) + there


def fitting_way(pipe: Any, device: str, work: int) -> str:
    """The remedy for a run that a device did not hold: the next way of offloading that it does hold; empty where there is none.

    Args:
        pipe: As it is now.
        device: torch's name of it.
        work: Bytes that the run takes besides the weights.
    """
    if device == "cpu":
        return ""
    free = room(pipe, device)
    ways = possible(pipe)
    for way in (way for way in WAYS[WAYS.index(current(pipe)) + 1 :] if way in ways):
        needed = weights_there(pipe, way) + work
        if needed <= free:
            return f"load the model with offload {way}, which needs about {needed / GIB:.1f} of the {free / GIB:.1f} GB there"
    return ""
