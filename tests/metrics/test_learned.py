"""Metrics with weights: their arithmetic on networks of our own, and what is said where the weights are not here."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor

from cupscale.metrics import learned
from cupscale.metrics.base import Case
from cupscale.metrics.learned import (
    LEARNED,
    SET_METRICS,
    Unavailable,
    clip_score,
    compared,
    crops,
    inception_score,
)


class Means(torch.nn.Module):
    """(B, 3, H, W) of 8 bits to the channels' means."""

    num_features = 3

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.double().mean(dim=(2, 3))


def plain(*colours: tuple[int, int, int], size=(24, 16)):
    return [lambda c=c: Image.new("RGB", size, c) for c in colours]


def test_fid_is_the_distance_of_two_normal_distributions():
    """By hand: red varies by the same amount, and its mean is 6 less; green is halved in spread: 6^2 + (s - s / 2)^2."""
    real = plain((10, 40, 7), (30, 40, 7), (10, 80, 7), (30, 80, 7))
    ours = plain((16, 50, 7), (36, 50, 7), (16, 70, 7), (36, 70, 7))
    spread = np.std([40, 40, 80, 80], ddof=1)
    found = compared(learned._fid, ours, real, feature=Means(), input_img_size=(3, 16, 24))
    assert found == pytest.approx(36 + (spread / 2) ** 2, rel=1e-3)


def test_kid_is_the_distance_by_a_cubic_kernel():
    """By hand: k(x, y) = (x y / 3 + 1)^3 of three features; unbiased means over all pairs."""
    ours, real = plain((1, 0, 0), (2, 0, 0), (4, 0, 0)), plain((3, 0, 0), (0, 0, 0), (5, 0, 0))
    values = [1.0, 2.0, 4.0], [3.0, 0.0, 5.0]

    def mean(one, two, same):
        pairs = [
            (a * b / 3 + 1) ** 3
            for i, a in enumerate(one)
            for j, b in enumerate(two)
            if not (same and i == j)
        ]
        return sum(pairs) / len(pairs)

    expected = mean(values[0], values[0], True) + mean(values[1], values[1], True) - 2 * mean(*values, False)
    found = compared(learned._kid, ours, real, feature=Means(), subsets=3)
    assert found == pytest.approx(expected, rel=1e-4)


def test_patches_are_squares_of_the_picture():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8))
    whole = np.asarray(image)
    found = crops(image, count=5, side=16)
    assert [one.size for one in found] == [(16, 16)] * 5
    for one in found:
        views = np.lib.stride_tricks.sliding_window_view(whole, (16, 16, 3))[:, :, 0]
        assert (views == np.asarray(one)).all(axis=(2, 3, 4)).any()
    assert crops(image, count=1, side=299)[0].size == (40, 40)


def test_inception_score_of_two_kinds_that_are_certain():
    """As many parts as pictures, each of one kind only: exp(0) = 1."""

    class Certain(torch.nn.Module):
        def forward(self, x):
            first = (x.float().mean(dim=(1, 2, 3)) > 100).float()
            return 50 * torch.stack([first, 1 - first], 1)

    found = inception_score(plain((0, 0, 0), (255, 255, 255)), [], feature=Certain())
    assert found == pytest.approx(1, abs=1e-4)


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory, folders):
    """A small random CLIP with the tokenizer of a small checkpoint."""
    from transformers import CLIPTokenizer

    folder = tmp_path_factory.mktemp("clip")
    tokenizer = CLIPTokenizer.from_pretrained(f"{folders('sdxl')}/tokenizer")
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config=small | {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id},
        vision_config=small | {"image_size": 32, "patch_size": 8},
        projection_dim=8,
    )
    torch.manual_seed(0)
    CLIPModel(config).save_pretrained(folder)
    pictures = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    CLIPProcessor(pictures, tokenizer).save_pretrained(folder)
    return str(folder)


def test_clip_score_is_a_cosine(clip_folder):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8))
    model, processor = (
        CLIPModel.from_pretrained(clip_folder).eval(),
        CLIPProcessor.from_pretrained(clip_folder),
    )
    cosines = []
    for text in ("a red fox", "snow"):
        inputs = processor(images=image, text=[text], return_tensors="pt", padding=True)
        with torch.no_grad():
            found = model(**inputs)
        one, two = found.image_embeds[0], found.text_embeds[0]
        cosines.append(float((one * two).sum() / one.norm() / two.norm()))
    expected = [100 * max(0.0, cosine) for cosine in cosines]
    assert clip_score([(image, "a red fox")], clip_folder) == pytest.approx(expected[0], abs=1e-3)
    both = clip_score([(image, "a red fox"), (image, "snow"), (image, " ")], clip_folder)
    assert both == pytest.approx(sum(expected) / 2, abs=1e-3)
    assert math.isnan(clip_score([(image, "")], clip_folder))


@pytest.mark.parametrize("name", [name for name in LEARNED if not name.startswith("clip_")])
def test_without_weights_a_metric_says_what_it_needs(name, monkeypatch):
    without(monkeypatch)
    monkeypatch.setattr(learned, "CLIP_MODEL", "nobody/nothing")
    image = Image.new("RGB", (32, 48))
    with pytest.raises(Unavailable, match=r"it needs .* weights") as raised:
        LEARNED[name].value(Case(image, image, prompt="a fox"))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", list(SET_METRICS))
def test_without_weights_a_metric_of_a_set_says_so(name, monkeypatch):
    without(monkeypatch)
    pictures = plain((0, 0, 0), (9, 9, 9))
    with pytest.raises(Unavailable, match="torch-fidelity"):
        SET_METRICS[name].measure(pictures, pictures)
    with pytest.raises(Unavailable, match="two pictures"):
        SET_METRICS[name].measure(pictures[:1] if name == "is" else pictures, [])


def without(monkeypatch):
    """As on a machine that has none of the packages."""
    for name in ("fid", "kid", "inception", "lpip", "dists"):
        monkeypatch.setitem(sys.modules, f"torchmetrics.image.{name}", None)
    monkeypatch.setitem(sys.modules, "pyiqa", None)
    for cached in (learned._clip, learned._lpips, learned._dists, learned._pyiqa):
        cached.cache_clear()
