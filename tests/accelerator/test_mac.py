"""Every family as on a Mac's GPU, which knows no float64: the picture is the CPU's."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from card import TOTAL_BYTES, Card
from checkpoints import FAMILIES
from small_runs import RUN, levels, photo
from test_card_runs import _picture

import cupscale
from cupscale import machine
from cupscale.method.attention import GlobalAttention
from cupscale.method.regions import Size

PRIORS = {"attention": 0.6, "detail": 0.5, "structure": 1.0}


@pytest.fixture
def mac():
    with Card("mps") as one:
        yield one


@pytest.mark.parametrize("name", list(FAMILIES))
def test_the_picture_is_that_of_the_cpu_and_nothing_is_float64(folders, name):
    """Under all priors, with previews that are no even part of the canvas."""
    expected = _picture(cupscale.load(folders(name), device="cpu"), **PRIORS)
    with Card("mps"):
        pipe = cupscale.load(folders(name), dtype="float32")  # on the best device there is
        assert str(pipe.device) == "mps:0"
        run = cupscale.CUpscalePipeline(pipe, batch=4, preview_px=13)
        events = list(run.stream(photo(), run.settings(**RUN | PRIORS)))
        assert any(isinstance(event, cupscale.Preview) for event in events)
    assert np.abs(levels(events[-1].result.image) - levels(expected)).max() <= 1


def test_a_crop_at_the_edges_is_the_one_with_a_border(mac):
    """There is no border there: the outermost centres are asked for instead. A box in a corner, enlarged threefold."""
    kept = torch.randn(1, 4 * 5, 3, generator=torch.Generator().manual_seed(1))
    boxes = torch.tensor([[0.0, 0.0, 0.5, 0.4], [0.25, 0.6, 1.0, 1.0]])
    found = []
    for device in ("cpu", "mps"):
        overview = GlobalAttention(Size(4, 5))
        overview.keep("layer", kept.to(device))
        found.append(overview.cropped("layer", boxes.to(device), Size(6, 9)))
    assert str(found[1].device) == "mps:0"
    assert torch.allclose(found[0], found[1].cpu(), atol=1e-6)


@pytest.mark.parametrize(
    "call",
    [
        lambda x: x.double(),
        lambda x: x.to(torch.float64),
        lambda x: torch.zeros(2, dtype=torch.float64, device="mps"),
        lambda x: torch.zeros(2, dtype=torch.float64).to("mps"),
        lambda x: F.grid_sample(x, torch.zeros(1, 2, 2, 2, device="mps"), padding_mode="border"),
        lambda x: F.interpolate(x, (3, 3), mode="area"),
    ],
)
def test_what_a_macs_gpu_cannot_do_is_refused(mac, call):
    with pytest.raises((TypeError, RuntimeError), match="MPS"):
        call(torch.ones(1, 1, 4, 4, device="mps"))


def test_devices_go_by_torchs_own_names(monkeypatch):
    """CUDA, and so ROCm, first; then a Mac's; then whatever else torch calls its accelerator, as "xpu" of Intel."""
    assert machine.best_device() == "cpu"
    with Card("mps"):
        assert machine.best_device() == "mps" and machine.free_bytes("mps") == TOTAL_BYTES
        with monkeypatch.context() as taken:
            taken.setattr(torch.mps, "driver_allocated_memory", lambda: 5_000_000)
            assert machine.free_bytes("mps") == TOTAL_BYTES - 5_000_000
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: torch.device("xpu"))
    assert machine.best_device() == "xpu"
    with Card("cuda"):
        assert machine.best_device() == "cuda" and machine.free_bytes("cuda") == TOTAL_BYTES
        assert machine.device_name("cuda") == "software"
    memory = {"mem_get_info": (5 * 2**30, 8 * 2**30), "memory_reserved": 2**30, "memory_allocated": 2**28}
    for name, value in memory.items():
        monkeypatch.setattr(torch.xpu, name, lambda device, value=value: value)
    monkeypatch.setattr(torch.xpu, "get_device_name", lambda device: "Arc")
    assert machine.free_bytes("xpu") == 5 * 2**30 + 2**30 - 2**28
    assert machine.device_name("xpu") == "Arc"


def test_unused_blocks_are_given_back_to_whichever_device_there_is(monkeypatch):
    from cupscale.method import memory

    given = []
    monkeypatch.setattr(torch.xpu, "empty_cache", lambda: given.append("xpu"))
    memory.empty_cache()
    assert given == []
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: torch.device("xpu"))
    memory.empty_cache()
    assert given == ["xpu"]
    for kind in ("mps", "cuda"):
        with Card(kind):
            monkeypatch.setattr(getattr(torch, kind), "empty_cache", lambda kind=kind: given.append(kind))
            memory.empty_cache()
    assert given == ["xpu", "mps", "cuda"]
