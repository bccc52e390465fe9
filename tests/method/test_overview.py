"""What of the picture the overview shows, and where: the same places that RAP's crops are taken from."""

import numpy as np
import pytest
import torch
from PIL import Image

import cupscale


@pytest.mark.parametrize(
    ("size", "marker", "canvas", "overview"),
    [
        # 33 -> 40 px and 130 -> 136: the overview is 64 x 16 of them, and a pixel of it 136 / 64 and 40 / 16 of the canvas.
        ((130, 33), (112, 24), (136, 40), (64, 16)),
        ((43, 97), (12, 80), (48, 104), (32, 64)),
        ((49, 34), (40, 10), (56, 40), (56, 40)),  # no larger than native size
    ],
)
def test_a_marker_lies_in_the_overview_where_it_lies_on_the_canvas(load, size, marker, canvas, overview):
    """A grey picture with a white square: its centre in the padded canvas, and in what the overview's encoder is given."""
    pipe = load("sdxl")
    image = np.full((size[1], size[0], 3), 128, np.uint8)
    x, y = marker
    image[y - 3 : y + 3, x - 3 : x + 3] = 255
    seen = []
    pipe.vae.encoder.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    fields = {"scale": 1, "upscaler": "lanczos", "strength": 0.1, "steps": 4, "guidance": 1.0, "structure": 0}
    cupscale.upscale(pipe, Image.fromarray(image), **fields, attention=0.5)
    assert [tuple(reversed(pixels.shape[2:])) for pixels in seen] == [canvas, overview]
    places = [centre(pixels) for pixels in seen]
    assert places[0] == pytest.approx((x, y), abs=0.05)
    expected = (x * overview[0] / canvas[0], y * overview[1] / canvas[1])
    assert places[1] == pytest.approx(expected, abs=0.35)


def centre(pixels: torch.Tensor) -> tuple[float, float]:
    """(x, y) of what is brighter than the grey around it, weighed by how much."""
    light = (pixels[0].mean(0) - pixels[0, :, 0, 0].mean()).clamp_min(0).double()
    light[light < 0.05] = 0
    rows, cols = (torch.arange(n, dtype=torch.float64) + 0.5 for n in light.shape)
    total = light.sum()
    return float((light.sum(0) * cols).sum() / total), float((light.sum(1) * rows).sum() / total)
