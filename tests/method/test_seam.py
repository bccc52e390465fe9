"""A canvas without an edge: values by hand, on lengths that are neither square nor even."""

import math

import torch

from cupscale.method.regions import Size
from cupscale.method.sampler import denoise
from cupscale.method.seam import Seam


def test_fold_by_hand_along_x():
    """W = 5, n = 3: weights (1 + cos(pi (i + 1/2) / 3)) / 2 are 0.9330, 0.5 and 0.0670; rows and a padding column stay."""
    x = torch.arange(18.0).reshape(1, 1, 2, 9)
    found = Seam(Size(2, 5), Size(0, 3)).fold(x)[0, 0]
    first = 0.9330127 * 5 + 0.0669873 * 0
    assert torch.allclose(
        found[0], torch.tensor([first, 3.5, 0.0669873 * 7 + 0.9330127 * 2, 3, 4, first, 3.5, 2.3349365, 8])
    )
    assert torch.allclose(found[1] - found[0], torch.full((9,), 9.0))
    assert x.flatten().tolist() == list(range(18))  # the argument is left alone


def test_fold_along_both_axes_is_one_after_the_other_and_a_second_time_changes_nothing():
    x = torch.randn(1, 2, 9, 7, generator=torch.Generator().manual_seed(0))
    both = Seam(Size(6, 5), Size(3, 2))
    found = both.fold(x)
    turned = Seam(Size(5, 6), Size(2, 3)).fold(x.transpose(-1, -2)).transpose(-1, -2)
    assert torch.allclose(found, turned, atol=1e-6)
    assert torch.equal(found[..., 6:9, :], found[..., :3, :]) and torch.equal(found[..., 5:7], found[..., :2])
    assert torch.allclose(both.fold(found), found, atol=1e-6)


def test_repeat_copies_and_scaled_is_in_pixels():
    x = torch.arange(7.0).expand(1, 1, 4, 7)
    assert Seam(Size(4, 5), Size(0, 2)).repeat(x)[0, 0, 1].tolist() == [0, 1, 2, 3, 4, 0, 1]
    assert Seam(Size(4, 5), Size(0, 2)).scaled(8) == Seam(Size(32, 40), Size(0, 16))


class Schedule:
    """Two steps that go to the estimate at once, and a sampler that adds noise of its own."""

    timesteps = torch.tensor([2.0, 1.0])

    def noised(self, x0, noise, i):
        return x0 + noise

    def model_input(self, sample, i):
        return sample

    def to_x0(self, output, sample, i):
        return output

    def from_x0(self, x0, sample, i):
        return x0

    def step(self, output, sample, i):
        return output + torch.randn(output.shape, generator=torch.Generator().manual_seed(i))


class Blur:
    """A network whose context ends at a window's edge: the mean with the neighbour on the left, 0 past the edge."""

    def predict(self, latents, t, regions, ids):
        left = torch.nn.functional.pad(latents, (1, 0))[..., :-1]
        return (latents + left) / 2


def run(seam, latent):
    loop = denoise(Blur(), Schedule(), latent, window=Size(4, 6), overlap=0.5, seed=3, seam=seam)
    return [event for event in loop if hasattr(event, "sample")]


def test_every_state_of_a_run_repeats_and_the_edge_has_its_context():
    latent = 100 + torch.randn(1, 2, 4, 14, generator=torch.Generator().manual_seed(1))
    seam = Seam(Size(4, 10), Size(0, 4))
    for event in run(seam, seam.repeat(latent)):
        assert torch.equal(event.sample[..., 10:], event.sample[..., :4])
        assert torch.equal(event.x0[..., 10:], event.x0[..., :4])
        # Column 0 without its context would be halved. Of it the fold keeps (1 - cos(pi / 8)) / 2 = 0.038.
        assert event.x0[..., 0].mean() > 100 - 50 * (1 - math.cos(math.pi / 8)) / 2 * 2.2
    assert run(None, latent)[0].x0[..., 0].mean() < 60
