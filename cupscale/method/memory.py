"""Where a device's memory ends: work that does not fit is done again in smaller parts.

Ours; the paper is silent. Regions per network call are halved down to one, and so is the side of the VAE's tiles.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import Module

Event = TypeVar("Event")
Found = TypeVar("Found")

_TEXTS = ("out of memory", "can't allocate memory", "not enough memory")


def is_out_of_memory(error: BaseException) -> bool:
    """CUDA's error has a class of its own; those of MPS and of the CPU have only a text."""
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(text in str(error) for text in _TEXTS)
    )


def empty_cache() -> None:
    """Give back the blocks that torch keeps on an accelerator without using them."""
    if kind := accelerator():
        torch.get_device_module(kind).empty_cache()


def stored_bytes(tensors: Iterable[Tensor]) -> int:
    """What tensors take in memory. A quantized one may say the size of what it stands for: its parts are counted."""
    return sum(map(_stored, tensors))


def module_bytes(module: Module, recurse: bool = True) -> int:
    """What a module takes in memory: its parameters, and its buffers, such as SD3's table of positions, which go where it goes.

    Args:
        module: Of torch.
        recurse: With the modules inside it.
    """
    return stored_bytes([*module.parameters(recurse), *module.buffers(recurse)])


def _stored(tensor: Tensor) -> int:
    parts = getattr(tensor, "__tensor_flatten__", None)  # of torch's subclasses that wrap other tensors
    if parts is None:
        return tensor.numel() * tensor.element_size()
    return stored_bytes(getattr(tensor, name) for name in parts()[0])


def accelerator() -> str | None:
    """torch's name of the best kind of accelerator there is; None where there is none.

    CUDA's comes first, whose stand-in on a GPU that is lent torch does not count among its accelerators.
    """
    if torch.cuda.is_available():
        return "cuda"
    if torch.backends.mps.is_available():
        return "mps"
    found = torch.accelerator.current_accelerator(check_available=True)
    return None if found is None else found.type


def fitting(
    work: Callable[[int], Found], size: int, say: Callable[[int], Event], least: int = 1
) -> Generator[Event, None, tuple[Found, int]]:
    """`work(size)`, and where the memory does not hold it with half the size, and so on.

    Args:
        work: Does it at a size, a positive number.
        size: To begin with.
        say: Makes the event that tells the size it goes on with.
        least: Size that is not halved any more.

    Yields:
        An event for every halving.

    Returns:
        What `work` gave, and the size that fitted.

    Raises:
        RuntimeError: The device is out of memory at `least`, in torch's words.
    """
    while True:
        try:
            return work(size), size
        except RuntimeError as error:
            if size <= least or not is_out_of_memory(error):
                raise
        size = max(least, size // 2)
        empty_cache()  # here, where the traceback no longer holds what did not fit
        yield say(size)
