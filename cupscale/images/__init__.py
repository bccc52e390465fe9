"""Images in and out: reading what people have, writing what they can keep, and tensors between."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cupscale.images.extras import Extras
from cupscale.images.picture import METHODS, Method, Picture, Source, finish, resize
from cupscale.images.reading import (
    MAX_BYTES,
    MAX_PIXELS,
    MIN_SIDE_PX,
    READABLE_SUFFIXES,
    open_own,
    read,
    read_head,
    read_settings,
    read_size,
)
from cupscale.images.writing import (
    SUFFIXES,
    check_format,
    check_place,
    check_writable,
    encode,
    is_transparent,
    put_settings,
    write,
    write_bytes,
)

if TYPE_CHECKING:
    from cupscale.images.tensors import to_image, to_tensor

__all__ = [
    "MAX_BYTES",
    "MAX_PIXELS",
    "METHODS",
    "MIN_SIDE_PX",
    "READABLE_SUFFIXES",
    "SUFFIXES",
    "Extras",
    "Method",
    "Picture",
    "Source",
    "check_format",
    "check_place",
    "check_writable",
    "encode",
    "finish",
    "is_transparent",
    "open_own",
    "put_settings",
    "read",
    "read_head",
    "read_settings",
    "read_size",
    "resize",
    "to_image",
    "to_tensor",
    "write",
    "write_bytes",
]


def __getattr__(name: str) -> Any:
    """The tensors' functions, which import torch, when they are asked for."""
    if name in ("to_image", "to_tensor"):
        from cupscale.images import tensors

        return getattr(tensors, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
