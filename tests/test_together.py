"""One picture made by several processes: every output arrives in its place, and the bytes are those of one process."""

import numpy as np
import pytest
import torch
from launching import launched
from PIL import Image
from schedule import Schedule

from cupscale.method.regions import Size
from cupscale.method.sampler import StepDone, denoise
from cupscale.processes import Together


@pytest.mark.slow
def test_two_processes_make_the_bytes_of_one(folders, tmp_path):
    y, x = np.mgrid[0:40, 0:52]
    planes = np.stack([np.sin(x / 3 + k) * np.cos(y / 4) * 100 + 128 for k in range(3)], -1)
    Image.fromarray(planes.astype(np.uint8)).save(tmp_path / "in.png")
    words = ["upscale", "in.png", "--model", folders("sdxl"), "--device", "cpu", "--scale", "3"]
    words += ["--steps", "4", "--strength", "0.5", "--upscaler", "lanczos", "--prompt", "a fox"]
    words += ["--captioner", "appearance", "--windows", "shifted"]
    said = [launched(count, *words, "-o", f"{count}.png", cwd=tmp_path) for count in (0, 2)]
    assert said[1].stdout.count("2.png") == 1  # one of them writes and says so
    assert (tmp_path / "0.png").read_bytes() == (tmp_path / "2.png").read_bytes()


@pytest.mark.parametrize(
    ("rank", "count", "batches", "own"),
    [(0, 1, 3, [0, 1, 2]), (1, 3, 7, [1, 4]), (2, 3, 7, [2, 5]), (2, 4, 2, [0]), (0, 4, 2, [0])],
)
def test_each_takes_every_nth_batch(rank, count, batches, own):
    assert list(Together(rank, count).own(batches)) == own


@pytest.mark.parametrize("sizes", [[2, 2, 2, 2, 1], [3], [1, 1], [4, 4, 2]])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_outputs_come_back_in_their_order(monkeypatch, sizes, count):
    batches = [
        torch.full((size, 2, 3, 4), float(k)) + torch.arange(size).view(-1, 1, 1, 1) / 10
        for k, size in enumerate(sizes)
    ]
    sent = []
    shares = [Together(rank, count) for rank in range(count)]
    monkeypatch.setattr(
        "accelerate.utils.gather",
        lambda tensor: sent.append(tensor) or torch.zeros(count * len(tensor), 2, 3, 4),
    )
    own = [[batches[k] for k in share.own(len(sizes))] for share in shares]
    for share, outputs in zip(shares, own, strict=True):
        share.gather(outputs, sizes)
    assert len({tensor.shape for tensor in sent}) == 1  # an exchange wants the same of all
    everything = torch.cat(sent)
    monkeypatch.setattr("accelerate.utils.gather", lambda tensor: everything)
    for share, outputs in zip(shares, own, strict=True):
        found = share.gather(outputs, sizes)
        assert len(found) == len(batches)
        assert all(torch.equal(a, b) for a, b in zip(found, batches, strict=True))


class Network:
    def __init__(self):
        self.asked = []

    def predict(self, latents, t, regions, ids, guided=True):
        self.asked.append(tuple(ids))
        return latents.sin() * (1 + torch.tensor(ids).view(-1, 1, 1, 1))


class Whole:
    """All of the batches, through the way of several processes."""

    def own(self, batches):
        return range(batches)

    def gather(self, own, sizes):
        assert [len(output) for output in own] == sizes
        return list(own)


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_the_shared_way_gives_the_same_canvas(batch):
    z = torch.randn(1, 2, 9, 30, generator=torch.Generator().manual_seed(1))
    networks, ends = [Network(), Network()], []
    for network, share in zip(networks, (None, Whole()), strict=True):
        loop = denoise(
            network, Schedule(2), z, window=Size(6, 8), overlap=0.4, seed=2, batch=batch, share=share
        )
        ends.append([event.sample for event in loop if isinstance(event, StepDone)][-1])
    assert torch.equal(*ends) and networks[0].asked == networks[1].asked
