"""A software accelerator: tensors that say `cuda:0` while their data lies in main memory.

Inside `Card()` torch has one CUDA device; inside `Card("mps")` the GPU of a Mac, which refuses what a real one refuses: float64,
the border of `grid_sample` (pytorch issue 125098) and averages over a grid that does not come out even. A tensor that was made
there or moved there carries a mark, and so does whatever is computed from it. It is stricter than a card where that finds more: a
tensor of the CPU with any dimension that meets one of the card raises, whatever the operator; numbers (0-dimensional tensors)
may meet anything, as on a card. It sees the calls that Python makes, on every thread, and computes on the CPU: rounding, memory
and speed of a real card it does not show.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode, resolve_name

CUDA = torch.device("cuda", 0)
MARK = "_on_the_card"
TOTAL_BYTES = 24 * 2**30

# What may take tensors of both: transfers, replaced contents, and questions about two tensors.
BOTH = {
    torch.Tensor.copy_,
    torch.Tensor.data.__set__,
    torch.Tensor.grad.__set__,
    torch._has_compatible_shallow_copy_type,
}
# Only the tensor itself decides where the result lies; indices may lie on the CPU.
FIRST = {torch.Tensor.__getitem__, torch.Tensor.__setitem__}
# Results that leave the card.
PLAIN = {torch.Tensor.tolist, torch.Tensor.item, torch.Tensor.untyped_storage}
# What makes a tensor of values that are given.
MADE = {torch.tensor, torch.as_tensor, torch.Tensor.new_tensor}
NUMPY = {torch.Tensor.numpy, torch.Tensor.__array__}
# Where a program waits for its card.
WAITS = {
    torch.Tensor.item,
    torch.Tensor.tolist,
    torch.Tensor.__bool__,
    torch.Tensor.__int__,
    torch.Tensor.__float__,
    torch.Tensor.__index__,
    torch.Tensor.nonzero,
}
_IS_KIND = {torch.Tensor.is_cuda.__get__: "cuda", torch.Tensor.is_mps.__get__: "mps"}
parse = torch._C._nn._parse_to


class MixedDevices(RuntimeError):
    """A tensor of the CPU met one of the card."""


def on_card(tensor: torch.Tensor) -> bool:
    return MARK in tensor.__dict__


def mark(tensor: torch.Tensor, there: bool = True) -> torch.Tensor:
    """Say where a tensor is."""
    if there:
        tensor.__dict__[MARK] = True
    else:
        tensor.__dict__.pop(MARK, None)
    return tensor


def tensors(value: Any) -> Iterator[torch.Tensor]:
    """The tensors in arguments or a result, those in lists and dictionaries too."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from tensors(item)
    elif isinstance(value, dict):
        yield from tensors(list(value.values()))


class Card(TorchFunctionMode):
    """The accelerator, while it is entered.

    Attributes:
        moves: Tensors that were moved, by direction: "in" and "out".
        bytes: The same in bytes.
        waits: How often the program waited for a value of the card.
    """

    def __init__(self, kind: str = "cuda") -> None:
        super().__init__()
        self.device = torch.device(kind, 0)
        self.moves: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()
        self.waits = 0
        self._patch = pytest.MonkeyPatch()

    def __enter__(self) -> Card:
        for module, stand_ins in _STAND_INS[self.device.type]:
            for name, stand_in in stand_ins.items():
                self._patch.setattr(module, name, stand_in)
        self._patch.setattr(torch.Tensor, "_make_subclass", staticmethod(_make_subclass))
        card, run = self, threading.Thread.run

        def on_a_thread(thread: threading.Thread) -> None:
            with _Same(card):
                run(thread)

        self._patch.setattr(threading.Thread, "run", on_a_thread)
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._patch.undo()

    def forget(self) -> None:
        """Count from here on."""
        self.moves.clear()
        self.bytes.clear()
        self.waits = 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func == torch.Tensor.device.__get__:
            return self.device if on_card(args[0]) else func(*args)
        if func in _IS_KIND:
            return on_card(args[0]) and _IS_KIND[func] == self.device.type
        if func == torch.Tensor.is_cpu.__get__:
            return not on_card(args[0]) and func(*args)
        if func in (torch.Tensor.to, torch.Tensor.cuda, torch.Tensor.cpu):
            return self._moved(func, args[0], args[1:], kwargs)
        if func == torch.Tensor.data.__set__:
            func(*args)
            mark(args[0], on_card(args[1]))
            return None
        return self._computed(func, args, kwargs)

    def _moved(
        self, func: Callable[..., Any], tensor: torch.Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> torch.Tensor:
        """`Tensor.to` and its relatives."""
        copy = kwargs.pop("copy", False)
        if func is not torch.Tensor.to:
            device, dtype, layout = (
                self.device if func is torch.Tensor.cuda else torch.device("cpu"),
                None,
                None,
            )
        elif args and isinstance(args[0], torch.Tensor):
            other = args[0]
            device, dtype, layout = self.device if on_card(other) else other.device, other.dtype, None
        else:
            device, dtype, _, layout = parse(*args, **kwargs)
        before = on_card(tensor)
        there = before if device is None else device.type == self.device.type
        target = None if device is None or there else device
        moved = there != before
        if moved:
            way = "in" if there else "out"
            self.moves[way] += 1
            self.bytes[way] += tensor.numel() * tensor.element_size()
        options = {} if layout is None else {"memory_format": layout}
        result = tensor.to(target or tensor.device, dtype or tensor.dtype, copy=copy or moved, **options)
        if there:
            self._refuse_wide(result)
        return result if result is tensor else mark(result, there)

    def _refuse_wide(self, tensor: torch.Tensor) -> None:
        if self.device.type == "mps" and tensor.dtype in (torch.float64, torch.complex128):
            raise TypeError(
                "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64"
            )

    def _refuse_call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """What a Mac's GPU cannot do."""
        if self.device.type != "mps":
            return
        if func is F.grid_sample and kwargs.get("padding_mode", "zeros") == "border":
            raise RuntimeError("MPS: Unsupported Border padding mode")
        if func is F.interpolate and kwargs.get("mode") == "area":
            size = kwargs.get("size") or args[1]
            if any(side % int(part) for side, part in zip(args[0].shape[-2:], size, strict=True)):
                raise RuntimeError("Adaptive pool MPS: input sizes must be divisible by output sizes.")

    def _given(self, func: Callable[..., Any], args: tuple[Any, ...]) -> None:
        """A tensor made of Python's numbers, or of one in main memory, is a transfer too."""
        if func in MADE and args and not (isinstance(args[0], torch.Tensor) and on_card(args[0])):
            self.moves["in"] += 1

    def _computed(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        given = [*tensors(args), *tensors(kwargs)]
        there = any(map(on_card, given))
        if there and func in NUMPY:
            raise TypeError("can't convert cuda:0 device type tensor to numpy")
        if there:
            check(func, given)
            self._refuse_call(func, args, kwargs)
            self.waits += func in WAITS
        if (device := kwargs.get("device")) is not None:
            there = isinstance(device, int) or torch.device(device).type == self.device.type
            if there:
                kwargs["device"] = "cpu"
                self._given(func, args)
        elif func is torch.Tensor.new_tensor and there:
            self._given(func, args[1:])
        elif func in FIRST:
            there = on_card(args[0])
        result = func(*args, **kwargs)
        if func not in PLAIN:
            known = {id(tensor) for tensor in given}
            for tensor in tensors(result):
                if id(tensor) not in known:
                    if there:
                        self._refuse_wide(tensor)
                    mark(tensor, there)
        return result


class _Same(TorchFunctionMode):
    """A card, seen from another thread."""

    def __init__(self, card: Card) -> None:
        super().__init__()
        self._card = card

    def __torch_function__(self, *args: Any, **kwargs: Any) -> Any:
        return self._card.__torch_function__(*args, **kwargs)


def check(func: Callable[..., Any], given: list[torch.Tensor]) -> None:
    """Raise where a tensor of the CPU meets one of the card."""
    if func in BOTH:
        return
    if func in FIRST and (func is torch.Tensor.__setitem__ or on_card(given[0])):
        return
    stray = [tensor for tensor in given if not on_card(tensor) and tensor.dim() > 0]
    if stray:
        with torch._C.DisableTorchFunction():
            shapes = ", ".join(str(tuple(tensor.shape)) for tensor in stray)
        name = resolve_name(func) or func
        raise MixedDevices(f"{name}: tensors of the CPU {shapes} meet tensors of cuda:0")


_subclass = torch.Tensor._make_subclass


def _make_subclass(kind: type, data: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """`Parameter` is made by it, unseen by a function mode."""
    return mark(_subclass(kind, data, *args, **kwargs), on_card(data))


def bytes_on_card(module: torch.nn.Module) -> int:
    """Of a module's weights."""
    return sum(p.numel() * p.element_size() for p in module.parameters() if on_card(p))


def _nothing(*args: Any, **kwargs: Any) -> None:
    return None


_CUDA: dict[str, Any] = {
    "is_available": lambda: True,
    "is_initialized": lambda: True,
    "device_count": lambda: 1,
    "current_device": lambda: 0,
    "set_device": _nothing,
    "synchronize": _nothing,
    "empty_cache": _nothing,
    "ipc_collect": _nothing,
    "is_bf16_supported": lambda *args, **kwargs: True,
    "get_device_name": lambda *args: "software",
    "get_device_capability": lambda *args: (9, 0),
    "get_device_properties": lambda *args: SimpleNamespace(
        name="software", major=9, minor=0, total_memory=TOTAL_BYTES
    ),
    "mem_get_info": lambda *args: (TOTAL_BYTES, TOTAL_BYTES),
    "memory_allocated": lambda *args: 0,
    "memory_reserved": lambda *args: 0,
    "max_memory_allocated": lambda *args: 0,
    "max_memory_reserved": lambda *args: 0,
    "reset_peak_memory_stats": _nothing,
    "_lazy_init": _nothing,
}

_MPS: dict[str, Any] = {
    "synchronize": _nothing,
    "empty_cache": _nothing,
    "recommended_max_memory": lambda: TOTAL_BYTES,
    "driver_allocated_memory": lambda: 0,
    "current_allocated_memory": lambda: 0,
}
_STAND_INS: dict[str, list[tuple[Any, dict[str, Any]]]] = {
    "cuda": [(torch.cuda, _CUDA)],
    "mps": [(torch.mps, _MPS), (torch.backends.mps, {"is_available": lambda: True})],
}
