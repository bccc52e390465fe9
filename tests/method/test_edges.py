"""Noise on edges, against Sobel's kernels by hand."""

import pytest
import torch

from cupscale.method.edges import edges, with_edge_noise


def grey(plane):
    return (
        torch.as_tensor(plane, dtype=torch.float32).expand(1, 3, *torch.as_tensor(plane).shape).contiguous()
    )


def test_edges_of_a_step_and_of_a_ramp():
    """A step of 1 across gives 4, a ramp of 1/4 a pixel down gives 8 x 1/4 = 2: half as strong an edge."""
    plane = torch.zeros(12, 40)
    plane[:, 20:] = 1.0
    found = edges(grey(plane))
    assert found.shape == (1, 1, 12, 40)
    assert found[0, 0, 5].nonzero().flatten().tolist() == [19, 20] and found[0, 0, 5, 19] == 1
    ramp = torch.zeros(40, 40)
    ramp[:, 20:] = 1.0
    ramp[:20, 2:6] += torch.arange(20.0)[:, None] / 4
    found = edges(grey(ramp / 10))[0, 0]
    assert found[10, 4].item() == pytest.approx(2 / edges_length(ramp), abs=1e-5)


def edges_length(plane):
    """The gradient's length that one pixel in a hundred passes, pixel by pixel."""
    height, width = plane.shape

    def at(y, x):
        return plane[min(max(y, 0), height - 1), min(max(x, 0), width - 1)].item()

    lengths = []
    for y in range(height):
        for x in range(width):
            across = sum(k * (at(y + i, x + 1) - at(y + i, x - 1)) for i, k in ((-1, 1), (0, 2), (1, 1)))
            down = sum(k * (at(y + 1, x + i) - at(y - 1, x + i)) for i, k in ((-1, 1), (0, 2), (1, 1)))
            lengths.append((across**2 + down**2) ** 0.5)
    return sorted(lengths)[round(0.99 * (len(lengths) - 1))]


def test_grey_levels_decide_and_flat_places_have_no_edge():
    """Red counts 0.299, blue 0.114, and the strongest edge is 1."""
    image = torch.zeros(1, 3, 9, 40)
    image[:, 0, :, 10:20] = 1.0
    image[:, 2, :, 30:] = 1.0
    found = edges(image)[0, 0, 4]
    assert found[9] == 1 and found[29].item() == pytest.approx(0.114 / 0.299, abs=1e-4)
    assert edges(torch.full((1, 3, 8, 9), 0.3)).abs().max() < 1e-3 or not edges(torch.zeros(1, 3, 8, 9)).any()
    assert not edges(torch.zeros(1, 3, 8, 9)).any()


def test_an_edge_that_few_pixels_pass_is_whole_and_a_faint_picture_has_edges():
    """A line of 0.01 in 40 x 40 pixels, and one pixel of 1.0, whose own edges are among the hundredth that count as whole."""
    plane = torch.zeros(40, 40)
    plane[:, 20:] = 0.01
    plane[5, 5] = 1.0
    found = edges(grey(plane))[0, 0]
    assert found.max() == 1 and found[5, 4] == 1  # of a gradient of 2
    assert found[30, 19].item() == pytest.approx(0.04 / edges_length(plane), abs=1e-5)
    assert edges(grey(plane.clamp(max=0.01)))[0, 0, 30, 19] == 1


def test_noise_is_as_strong_as_the_edge():
    latent, noise = torch.randn(2, 1, 2, 3, 5, generator=torch.Generator().manual_seed(2))
    edge_map = torch.linspace(0, 1, 15).reshape(1, 1, 3, 5)
    out = with_edge_noise(latent, edge_map, 0.7, noise)
    expected = latent[0, 1, 2, 1].item() + 0.7 * (11 / 14) * noise[0, 1, 2, 1].item()
    assert out[0, 1, 2, 1].item() == pytest.approx(expected, abs=1e-6)
    assert torch.equal(out[..., 0, 0], latent[..., 0, 0])
