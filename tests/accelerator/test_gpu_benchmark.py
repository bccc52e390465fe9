"""The script for a person with a card, on the software accelerator: every column is filled, and what fails is a row."""

import pytest
import torch
from card import Card
from diffusers import UNet2DConditionModel

from benchmarks import gpu
from cupscale import models
from cupscale.backbones import adapt


@pytest.fixture
def table(folders):
    def rows(*flags):
        arguments = gpu.parser().parse_args(
            ["--models", f"small={folders('sdxl')}", "--sizes", "64,96", *flags]
        )
        with Card():
            lines = list(gpu.rows(arguments))
        cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
        return [dict(zip(cells[0], row, strict=True)) for row in cells[2:]]

    return rows


def test_every_combination_is_a_row_with_every_column(table):
    found = table("--dtypes", "float32,float16", "--offloads", "none,model", "--steps", "2")
    keys = [(row["precision"], row["offload"], row["output"]) for row in found]
    assert keys == [
        (dtype, way, side)
        for dtype in ("float32", "float16")
        for way in ("none", "model")
        for side in ("64 px", "96 px")
    ]
    for row in found:
        assert row["finite"] == "yes" and float(row["seconds"]) >= float(row["seconds a sample"]) >= 0
        assert row["model"] == "small" and row["card"].startswith("software, torch")
        assert int(row["evaluations"]) == 2 * (int(row["regions"]) + 1)
        first = row["precision"] == "float32"
        assert (row["from the first precision, levels"] == "") == first
        assert first or 0 < float(row["from the first precision, levels"]) < 10


def test_a_network_that_gives_nan_and_one_that_does_not_fit_are_rows(table, monkeypatch):
    forward = "diffusers.UNet2DConditionModel.forward"
    monkeypatch.setattr(forward, lambda self, x, *args, **kwargs: (torch.full_like(x, torch.nan),))
    assert {row["finite"] for row in table("--steps", "1")} == {"no"}

    def full(self, *args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(forward, full)
    assert all(row["finite"].startswith("out of memory") for row in table("--steps", "1"))


def test_the_models_without_a_choice_are_those_with_a_network_of_their_own():
    chosen = gpu.sources(gpu.parser().parse_args([]))
    assert {"sdxl", "sd15", "sd3", "z-image", "pixart-sigma"} <= set(chosen)
    assert not any(models.KNOWN[name].lora for name in chosen) and "tiny" not in chosen
    assert list(gpu.sources(gpu.parser().parse_args(["--random"]))) == list(gpu.RANDOM)
    assert list(gpu.sources(gpu.parser().parse_args(["--random", "--models", "sd3,sdxl"]))) == ["sd3", "sdxl"]


@pytest.mark.parametrize("name", ["sd15", "pixart-sigma", "z-image-turbo", "flux2-klein", "qwen-image"])
def test_random_weights_have_the_real_size(name):
    """On the meta device, where they take nothing. The others' builders are those of the benchmarks on a CPU."""
    known = models.KNOWN[name].geometry
    with torch.device("meta"):
        pipe = gpu.RANDOM[name](getattr(torch, gpu.usual_dtype(name)))
    geometry = adapt(pipe).geometry
    assert (geometry.native, geometry.cell, geometry.align) == (known.native, known.cell, known.align)
    assert (geometry.channels, geometry.tile) == (known.channels, known.tile)
    checker = 608_000_000 if name == "sd15" else 0  # bytes of SD 1.5's safety checker, which is left out here
    assert geometry.weights + checker == pytest.approx(known.weights, rel=0.03)


def test_an_error_of_any_kind_is_a_row_and_the_next_one_is_measured(table, monkeypatch, capsys):
    """A driver's in a run, and torch's own where the weights do not fit. What is next stands on stderr, with its cost."""
    forward, calls = UNet2DConditionModel.forward, []

    def once(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == 1:
            raise AssertionError("CUDA error: an illegal | memory access")
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(gpu, "warm_up", lambda run: None)
    monkeypatch.setattr(UNet2DConditionModel, "forward", once)
    found = table("--steps", "1")
    assert [row["finite"] for row in found] == [
        "AssertionError: CUDA error: an illegal / memory access",
        "yes",
    ]
    said = capsys.readouterr().err
    assert "small, its own precision, offload none" in said and "96 px: 24 x 24 -> 96 x 96" in said
    put = gpu.offload.put

    def full(pipe, way, device):
        if way == "none":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return put(pipe, way, device)

    monkeypatch.setattr(models.offloading, "put", full)
    monkeypatch.setattr(models, "is_out_of_memory", lambda error: False)
    found = table("--steps", "1", "--offloads", "none,model")
    assert [row["finite"] for row in found] == ["OutOfMemoryError: CUDA out of memory", "yes", "yes"]
