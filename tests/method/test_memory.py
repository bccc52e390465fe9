"""Work that the memory does not hold, in smaller parts."""

import pytest
import torch

from cupscale.method import memory
from cupscale.method.memory import fitting, is_out_of_memory


def drive(steps):
    """The events, and what the generator returned."""
    events = []
    while True:
        try:
            events.append(next(steps))
        except StopIteration as stop:
            return events, stop.value


def card(room, tried, error=None):
    def work(size):
        tried.append(size)
        if size > room:
            raise error or torch.OutOfMemoryError("CUDA out of memory")
        return f"done in {size}"

    return work


@pytest.fixture
def emptied(monkeypatch):
    calls = []
    monkeypatch.setattr(memory, "empty_cache", lambda: calls.append(1))
    return calls


def test_sizes_are_halved_until_one_fits(emptied):
    tried = []
    events, found = drive(fitting(card(3, tried), 13, lambda size: f"now {size}"))
    assert tried == [13, 6, 3] and events == ["now 6", "now 3"] and found == ("done in 3", 3)
    assert len(emptied) == 2


def test_what_fits_at_once_is_done_once(emptied):
    tried = []
    assert drive(fitting(card(9, tried), 7, str)) == ([], ("done in 7", 7))
    assert tried == [7] and not emptied


def test_the_least_size_is_tried_and_not_undercut(emptied):
    tried = []
    steps = fitting(card(100, tried), 1000, str, least=300)
    with pytest.raises(torch.OutOfMemoryError):
        drive(steps)
    assert tried == [1000, 500, 300]


def test_other_errors_are_the_callers(emptied):
    tried = []
    with pytest.raises(RuntimeError, match="shapes"):
        drive(fitting(card(1, tried, RuntimeError("shapes do not match")), 8, str))
    assert tried == [8]


def test_what_did_not_fit_is_gone_before_the_memory_is_given_back(monkeypatch):
    """An error holds the frames in which the tensors live: the cache is emptied once they are gone."""
    import gc
    import weakref

    alive, seen = [], []

    def work(size):
        held = torch.zeros(4)
        alive.append(weakref.ref(held))
        if size > 1:
            raise torch.OutOfMemoryError("no room")

    def look():
        gc.collect()
        seen.append(alive[-1]() is None)

    monkeypatch.setattr(memory, "empty_cache", look)
    drive(fitting(work, 4, str))
    assert seen == [True, True]


def test_every_device_says_it_in_its_own_words():
    assert is_out_of_memory(torch.OutOfMemoryError("anything"))
    assert is_out_of_memory(RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"))
    assert is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes"))
    assert not is_out_of_memory(RuntimeError("shapes do not match"))
    assert not is_out_of_memory(ValueError("the captioner is out of memory"))


def test_an_accelerator_is_named_where_there_is_one(monkeypatch):
    """CUDA's before Apple's before another, which is asked for only where it can be used."""
    others = {True: None, False: torch.device("xpu")}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(
        torch.accelerator, "current_accelerator", lambda check_available: others[check_available]
    )
    assert memory.accelerator() is None
    others[True] = torch.device("xpu")
    assert memory.accelerator() == "xpu"
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert memory.accelerator() == "mps"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert memory.accelerator() == "cuda"
