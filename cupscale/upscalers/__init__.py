"""Base upscalers: the image that the diffusion starts from, by a plain resize or by a network on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Literal

from PIL import Image

from cupscale.errors import CupscaleError
from cupscale.images import resize
from cupscale.installation import require
from cupscale.upscalers import networks
from cupscale.upscalers.cache import Cache
from cupscale.upscalers.networks import NETWORKS
from cupscale.upscalers.restore import restored

Method = Literal["realsr", "realesrgan", "anime", "waifu2x", "lanczos", "bicubic"]
PLAIN = ("lanczos", "bicubic")
NAMES = (*NETWORKS, *PLAIN)

__all__ = [
    "NAMES",
    "PLAIN",
    "Cache",
    "Method",
    "available",
    "base_upscale",
    "base_upscale_steps",
    "check",
    "restored",
]


def available(method: str) -> bool:
    """Whether `base_upscale` can run `method` here."""
    return method in PLAIN or networks.available(method)


def check(method: str) -> None:
    """See that `base_upscale` can run `method` here.

    Raises:
        CupscaleError: Its name is unknown, or its extra is not installed.
    """
    if method == "auto":  # takes what there is
        return
    if method not in NAMES:
        raise CupscaleError(f"unknown base upscaler {method!r}; choose auto or one of {', '.join(NAMES)}")
    if not available(method):
        require("upscalers", f"upscaler={method}", instead="upscaler=auto or lanczos")


def base_upscale(
    image: Image.Image,
    size: tuple[int, int],
    method: str = "lanczos",
    progress: Callable[[float], None] | None = None,
    *,
    cache: Cache | None = None,
) -> Image.Image:
    """Enlarge an RGB image.

    Args:
        image: RGB.
        size: (width, height) of the result in pixels.
        method: One of `NAMES`.
        progress: Gets the share done, in (0, 1]. It may raise to cancel.
        cache: Where results of networks are kept.

    Returns:
        Exactly of `size`. The same input gives the same bytes.

    Raises:
        CupscaleError: See `check`.
    """
    steps = base_upscale_steps(image, size, method, cache=cache)
    while True:
        try:
            done = next(steps)
        except StopIteration as stop:
            result: Image.Image = stop.value
            return result
        if progress is not None:
            progress(done)


def base_upscale_steps(
    image: Image.Image, size: tuple[int, int], method: str = "lanczos", *, cache: Cache | None = None
) -> Generator[float, None, Image.Image]:
    """`base_upscale` as a generator, which is closed to cancel: a step takes a fraction of a second."""
    check(method)
    if method in PLAIN:
        yield 1.0
        return resize(image, size, "bicubic" if method == "bicubic" else "lanczos")
    if size[0] <= image.width and size[1] <= image.height:  # at scale 1 there is nothing to enlarge
        return resize(image, size, "lanczos")
    key = cache.key(image, size, f"{method} {NETWORKS[method].sha256}") if cache else ""
    if cache and (known := cache.get(key, size)):
        yield 1.0
        return known
    enlarged = yield from networks.enlarge(image, method)
    result = resize(enlarged, size, "lanczos")
    if cache:
        cache.put(key, result)
    return result
