"""The software accelerator itself: what it takes for a fault, and what not."""

import threading

import numpy as np
import pytest
import torch
from card import CUDA, Card, MixedDevices, bytes_on_card
from torch import nn


@pytest.fixture
def card():
    with Card() as one:
        yield one


def test_what_is_computed_from_a_tensor_of_the_card_lies_there(card):
    there = torch.arange(6.0, device="cuda").reshape(2, 3)
    assert (there + 1).device == there.T[1].device == torch.cat((there, there)).device == CUDA
    assert torch.zeros(2).device == there.cpu().device == there.new_zeros(2, device="cpu").device
    assert torch.zeros(2).to(there).device == torch.zeros_like(there).device == CUDA
    assert there.is_cuda and not there.cpu().is_cuda
    assert np.array_equal((there * 2).cpu().numpy(), np.arange(0, 12, 2).reshape(2, 3))


@pytest.mark.parametrize(
    "meet",
    [
        lambda here, there: there + here,
        lambda here, there: here @ there,
        lambda here, there: torch.cat((there, here)),
        lambda here, there: torch.where(here > 0, there, there),
        lambda here, there: there.add_(here),
        lambda here, there: nn.functional.conv2d(there[None, None], here[None, None]),
        lambda here, there: torch.add(there, 1, out=here),
        lambda here, there: nn.Linear(3, 3)(there),
    ],
)
def test_a_tensor_of_the_cpu_that_meets_one_of_the_card_is_a_fault(card, meet):
    with pytest.raises(MixedDevices, match=r"tensors of the CPU"):
        meet(torch.ones(3, 3), torch.ones(3, 3, device="cuda"))


def test_a_thread_is_on_the_same_card(card):
    found = []
    thread = threading.Thread(target=lambda: found.append(torch.ones(2).cuda().device))
    thread.start()
    thread.join()
    assert found == [CUDA] and card.moves["in"] == 1


def test_numbers_indices_and_copies_may_cross_and_numpy_may_not(card):
    there = torch.zeros(3, device="cuda")
    assert (there * torch.tensor(2.0)).device == there[torch.tensor([0, 2])].device == CUDA
    there[1:].copy_(torch.ones(2))
    assert there.tolist() == [0, 1, 1] and there.device == CUDA
    with pytest.raises(TypeError, match="numpy"):
        there.numpy()
    with pytest.raises(TypeError, match="numpy"):
        np.asarray(there)


def test_modules_move_as_they_do_to_a_card_and_moves_are_counted(card):
    layer = nn.Linear(3, 2)
    weight = layer.weight
    assert layer.to("cuda") is layer and layer.weight is weight and weight.device == CUDA
    assert bytes_on_card(layer) == card.bytes["in"] == 4 * (6 + 2) and card.moves == {"in": 2}
    assert layer(torch.ones(1, 3, device="cuda")).device == CUDA
    layer.to("cuda")
    assert card.moves == {"in": 2}
    layer.cpu()
    assert bytes_on_card(layer) == 0 and card.moves == {"in": 2, "out": 2}
    layer(torch.ones(1, 3))


def test_a_wait_for_a_value_is_counted(card):
    there = torch.ones(2, device="cuda")
    there.sum()
    assert card.waits == 0
    assert there.sum() > 1 and there[0].item() == 1 and torch.ones(()).item() == 1
    assert card.waits == 2


def test_everything_is_as_it_was_afterwards():
    before = (torch.cuda.is_available, torch.Tensor._make_subclass, threading.Thread.run)
    with Card():
        assert torch.cuda.is_available()
    assert before == (torch.cuda.is_available, torch.Tensor._make_subclass, threading.Thread.run)
