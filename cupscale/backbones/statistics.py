"""What an autoencoder's tiles do not see of the rest of a picture, from a small one (ours).

Tiles differ from the whole because each normalizes its activations by its own mean and variance (group normalization), and
because the attention in the middle looks at the tile alone: a tile of sky and one of leaves come out in another tone. So the
whole picture, with every n-th cell left, goes through once. Its means and variances are then those of every tile, and its keys
and values are what every tile's attention looks at. The cells are picked and not averaged: averages are smoother than the
picture, and their variances smaller.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def small(x: Tensor, side: int) -> Tensor:
    """(B, C, h, w) with cells left out evenly, until its longer side is `side`."""
    shrink = side / max(x.shape[-2:])
    size = tuple(max(1, round(length * shrink)) for length in x.shape[-2:])
    return F.interpolate(x, size, mode="nearest-exact")


@contextmanager
def shared(part: torch.nn.Module, pass_small: Callable[[], Any]) -> Iterator[None]:
    """Let what goes through `part` use the statistics, keys and values of what `pass_small` sends through it first.

    Args:
        part: An encoder or a decoder. It comes back as it was.
        pass_small: Sends the small picture through.
    """
    norms = [_Norm(module) for module in part.modules() if isinstance(module, torch.nn.GroupNorm)]
    reads = [_Kept(read) for module in part.modules() for read in _reads(module)]
    hooked: list[_Norm | _Kept] = [*norms, *reads]
    try:
        for each in hooked:
            each.module.forward = each
        pass_small()
        for each in hooked:
            each.measured = True
        yield
    finally:
        for each in hooked:
            del each.module.forward  # the class has its own


def _reads(module: torch.nn.Module) -> list[torch.nn.Module]:
    """The layers of an attention that make its keys and values."""
    names = ("to_q", "to_k", "to_v")
    return [getattr(module, name) for name in names[1:]] if all(hasattr(module, n) for n in names) else []


class _Kept:
    """A layer that gives again what it gave for the small picture."""

    def __init__(self, module: torch.nn.Module):
        self.module: Any = module
        self.measured = False
        self._forward = module.forward
        self._output = torch.empty(0)

    def __call__(self, x: Tensor) -> Tensor:
        if not self.measured:
            self._output = self._forward(x)
        return self._output


class _Norm:
    """A group normalization with the statistics of the small picture."""

    def __init__(self, module: torch.nn.GroupNorm):
        self.module: Any = module
        self.measured = False
        self._forward = module.forward
        self._scale = self._shift = torch.empty(0)

    def __call__(self, x: Tensor) -> Tensor:
        """(B, C, ...) -> the same."""
        if not self.measured:
            self._measure(x)
            return self._forward(x)
        shape = (1, -1, *(1,) * (x.dim() - 2))
        return torch.addcmul(self._shift.view(shape), x, self._scale.view(shape))

    def _measure(self, x: Tensor) -> None:
        """y = weight (x - mean) / sqrt(variance + eps) + bias, as scale x + shift for each channel."""
        module = self.module
        variance, mean = torch.var_mean(
            x.float().unflatten(1, (module.num_groups, -1)).flatten(2), (0, 2), correction=0
        )
        each = module.num_channels // module.num_groups
        root = (variance + module.eps).rsqrt().repeat_interleave(each)
        scale = root * module.weight.float()
        self._shift = (module.bias.float() - mean.repeat_interleave(each) * scale).to(x.dtype)
        self._scale = scale.to(x.dtype)
