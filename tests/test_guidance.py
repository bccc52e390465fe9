"""Guidance that knows flat places."""

import numpy as np
import pytest
import torch

import cupscale
from cupscale import images
from cupscale.method.guidance import FLAT, RICH, guidance_map, richness

FAST = {
    "steps": 1,
    "strength": 0.2,
    "guidance": 6.0,
    "structure": 0,
    "upscaler": "lanczos",
    "scheduler": "ddim",
}


def textured(deviation, side=64):
    """(1, 3, side, side): a chessboard whose grey levels (of 255) have this standard deviation."""
    board = (torch.arange(side)[:, None] + torch.arange(side)) % 2 * 2 - 1
    return (100 / 127.5 - 1 + deviation / 127.5 * board).expand(1, 3, side, side).contiguous()


def test_richness_is_the_contrast_of_the_neighbourhood():
    assert richness(textured(0)).max() == 0
    assert richness(textured(FLAT - 0.5)).max() == 0
    assert richness(textured(RICH + 4)).min() == 1
    middle = richness(textured((FLAT + RICH) / 2))
    assert middle.shape == (1, 1, 64, 64)
    assert abs(middle[..., 8:-8, 8:-8].mean() - 0.5) < 0.02
    half = torch.cat((textured(0), textured(40)), dim=3)
    assert richness(half)[..., :, :60].max() == 0 and richness(half)[..., :, 68:].min() == 1


def test_richness_does_not_see_light():
    """A slope of light over the whole picture, as a sky has, is flat; so is any brightness."""
    slope = torch.linspace(-1, 1, 256).expand(1, 3, 64, 256)
    assert richness(slope).max() == 0
    assert richness(torch.full((1, 3, 32, 32), 0.9)).max() == 0


def test_guidance_map():
    rich = torch.tensor([0.0, 0.5, 1.0]).view(1, 1, 1, 3)
    assert guidance_map(rich, 4.0, 1.0).flatten().tolist() == [4, 4, 4]
    assert guidance_map(rich, 4.0, 0.0).flatten().tolist() == [0, 2, 4]
    assert guidance_map(rich, 4.0, 0.25).flatten().tolist() == [1, 2.5, 4]


@pytest.mark.parametrize("size", [(64, 64), (67, 41)])
def test_flat_places_alone_change(size):
    """The bundled model, whose codec carries nothing afar, and one step, in which no place's guidance reaches another."""
    width, height = size
    pipe = cupscale.load("tiny", device="cpu")
    left = textured(40, 128)[..., :height, : width // 2]
    right = torch.zeros(1, 3, height, width - width // 2)
    photo = images.to_image(torch.cat((left, right), dim=3))
    runs = [
        cupscale.upscale(pipe, photo, scale=2, negative_prompt="blurred, smooth", flat_guidance=flat, **FAST)
        for flat in (1, 0)
    ]
    even, calm = (np.asarray(run.image).astype(int) for run in runs)
    change = abs(even - calm)
    assert change.shape == (2 * height, 2 * width, 3)
    assert change[:, -width // 2 :].mean() > 4 * change[:, : width // 2].mean()
