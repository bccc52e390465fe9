"""ZeroGPU: what a page offers there, and the seconds that it declares."""

import threading
from types import SimpleNamespace

import gradio as gr
import numpy as np
import pytest
import torch
from peft.utils import get_peft_model_state_dict
from PIL import Image

from cupscale import models, page
from cupscale.backbones import Tiles
from cupscale.errors import CupscaleError
from cupscale.images import Picture
from cupscale.page import captions, engine
from cupscale.page.limits import lent_gpu
from cupscale.settings import Settings


@pytest.fixture
def zero(monkeypatch):
    monkeypatch.setattr(engine, "ZERO", True)
    monkeypatch.setattr(engine.machine, "best_device", lambda: "cuda")
    monkeypatch.delenv("CUPSCALE_MODEL", raising=False)
    monkeypatch.delenv("CUPSCALE_MODELS", raising=False)


@pytest.mark.parametrize(
    ("said", "on"), [("true", True), ("True", True), ("1", True), ("0", False), ("false", False), ("", False)]
)
def test_it_is_on_where_spaces_says_so(monkeypatch, said, on):
    monkeypatch.setenv("SPACES_ZERO_GPU", said)
    assert lent_gpu() is on
    monkeypatch.delenv("SPACES_ZERO_GPU")
    assert not lent_gpu()


def test_only_what_is_loaded_at_the_start_is_offered(zero, monkeypatch):
    assert engine.names() == ["sdxl"] and engine.default_model() == "sdxl"
    monkeypatch.setenv("CUPSCALE_MODELS", "mine=/models/mine, sd15")
    assert engine.names() == ["sdxl", "mine", "sd15"]
    monkeypatch.setenv("CUPSCALE_MODEL", "mine")
    assert engine.names() == ["mine", "sd15"] and engine.default_model() == "mine"
    loaded = []
    monkeypatch.setattr(engine, "pipeline", loaded.append)
    engine.preload()
    assert loaded == ["mine", "sd15"]
    with pytest.raises(CupscaleError, match="not on this page's list"):
        engine.check_model("z-image")


def test_the_page_loads_what_it_offers_as_it_is_built_and_on_the_main_thread(monkeypatch):
    """No other thread may put a model on a card that is lent."""
    begun = []

    class Enough(Exception):
        pass

    def captioner():
        begun.append(("captioner", threading.current_thread()))
        raise Enough

    monkeypatch.setattr(page.scratch, "take_uploads", lambda: True)
    monkeypatch.setattr(page.scratch, "keep_clean", lambda *seconds: None)
    monkeypatch.setattr(engine, "preload", lambda: begun.append(("models", threading.current_thread())))
    monkeypatch.setattr(captions, "preload", captioner)
    with pytest.raises(Enough):
        page.build()
    assert begun == [(what, threading.main_thread()) for what in ("models", "captioner")]


def test_the_declared_seconds_follow_the_samples(zero):
    """1024 -> 4096: 7 x 7 windows, 23 of 50 steps, guidance doubles them, one overview a step: 2277 samples."""
    settings = Settings.build(models.defaults("sdxl"), scale=4.0)
    plan = engine.planned((1024, 1024), settings)
    assert plan.samples == 2 * 49 * 23 + 23 == 2277
    expected = 2277 * 0.045 + 4096**2 / 1e6 * 0.6
    assert engine.expected_seconds(plan, settings) == pytest.approx(expected)
    assert engine.gpu_seconds((1024, 1024), settings) == int(1.1 * expected + 8) == 131
    assert engine.gpu_seconds((256, 256), settings.replace(scale=2.0)) == 15
    assert engine.gpu_seconds((1024, 1024), settings.replace(scale=8.0)) == 300


def test_the_pages_own_settings_fit_a_visitors_day_with_their_captions(zero):
    """1024 -> 2048: 3 x 3 windows are 2 x 9 x 23 + 23 = 437 samples of 45 ms, and ten calls of the captioner of 1.5 s."""
    settings = Settings.build(engine.defaults("sdxl"))
    values = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    picture = Picture(Image.fromarray(values).resize((1024, 1024), Image.Resampling.NEAREST))
    plan = engine.planned(picture, settings, "qwen")
    assert (plan.samples, plan.caption_calls) == (437, 10)
    expected = 437 * 0.045 + 2048**2 / 1e6 * 0.6 + 10 * 1.5
    assert engine.gpu_seconds(picture, settings, "qwen") == int(1.1 * expected + 8) == 48 < 120


def test_what_runs_took_there_replaces_the_estimate(zero):
    settings = Settings.build(models.defaults("sdxl"), scale=4.0)
    engine.machine.remember_speed("sdxl", "cuda", {"sample": 0.02, "cells": 128 * 128, "megapixel": 0.1})
    expected = 2277 * 0.02 + 4096**2 / 1e6 * 0.1
    assert engine.gpu_seconds((1024, 1024), settings) == pytest.approx(1.1 * expected + 8, abs=1)


def test_the_operator_chooses_what_waits_in_main_memory(zero, monkeypatch):
    assert engine._offload() == "none"
    monkeypatch.setattr(engine, "ZERO", False)
    assert engine._offload() == "auto"
    monkeypatch.setenv("CUPSCALE_OFFLOAD", "model")
    assert engine._offload() == "model"
    monkeypatch.setenv("CUPSCALE_OFFLOAD", "all")
    with pytest.raises(CupscaleError, match="choose auto, none, model, group, sequential"):
        engine._offload()


def test_the_environment_says_of_the_hardware_what_flags_say_on_the_command_line(zero, monkeypatch):
    given = []
    monkeypatch.setattr(models, "load", lambda source, **how: given.append(how) or SimpleNamespace())
    monkeypatch.setattr(engine, "CUpscalePipeline", lambda pipe, **how: given.append(how))
    engine._loaded("sdxl")
    assert given[0]["dtype"] is given[1]["batch"] is None and given[1]["tiles"] == Tiles(1024)
    said = {"DTYPE": "bfloat16", "VAE_TILE": "512", "REGIONS_AT_ONCE": "2", "OFFLOAD": "group"}
    for name, value in said.items():
        monkeypatch.setenv(f"CUPSCALE_{name}", value)
    engine._loaded("sdxl")
    assert (given[2]["dtype"], given[2]["offload"]) == ("bfloat16", "group")
    assert (given[3]["batch"], given[3]["tiles"]) == (2, Tiles(512))


@pytest.mark.parametrize(
    ("name", "said", "line"),
    [
        ("DTYPE", "half", "is 'half': choose float16, bfloat16, float32"),
        ("VAE_TILE", "128", "is '128': give a whole number from 256 to 8192"),
        ("REGIONS_AT_ONCE", "two", "is 'two': give a whole number from 1 to 256"),
    ],
)
def test_hardware_that_can_be_none_is_refused_by_its_variable(monkeypatch, name, said, line):
    monkeypatch.setenv(f"CUPSCALE_{name}", said)
    with pytest.raises(CupscaleError, match=f"CUPSCALE_{name} {line}"):
        engine._loaded("tiny")


def test_as_many_models_stay_loaded_as_the_memory_holds(monkeypatch):
    """A card of 24 GB: SDXL takes 7.0 and its work 3.0, SD 1.5 2.7 and 3.0. The one used longest ago goes first."""
    names = ["sdxl", "sd15", "juggernaut-xl", "realvis-xl", "qwen-image"]
    size = {name: models.KNOWN[name].geometry.weights for name in names}
    monkeypatch.setattr(engine, "_kept", {})
    monkeypatch.setattr(engine.machine, "best_device", lambda: "cuda")
    monkeypatch.setattr(engine, "_loaded", lambda name: SimpleNamespace(name=name))

    def free(device):
        return 24_000_000_000 - sum(size[name] for name in engine._kept) if device == "cuda" else 2**40

    monkeypatch.setattr(engine.machine, "free_bytes", free)
    sdxl = engine.pipeline("sdxl")
    engine.pipeline("sd15")
    engine.pipeline("juggernaut-xl")
    assert list(engine._kept) == ["sdxl", "sd15", "juggernaut-xl"] and free("cuda") == 7_300_000_000
    assert engine.pipeline("sdxl") is sdxl and list(engine._kept) == ["sd15", "juggernaut-xl", "sdxl"]
    engine.pipeline(
        "realvis-xl"
    )  # 10.0 GB without sd15, which is not enough for 7.0 and its work; 17.0 without both
    assert list(engine._kept) == ["sdxl", "realvis-xl"]
    engine.pipeline("qwen-image")  # larger than the card: it alone, offloaded
    assert list(engine._kept) == ["qwen-image"]
    monkeypatch.setenv("CUPSCALE_OFFLOAD", "group")  # they lie in main memory
    engine.pipeline("sdxl")
    assert list(engine._kept) == ["qwen-image", "sdxl"]
    monkeypatch.setattr(engine.machine, "free_bytes", lambda device: 2_000_000_000)
    engine.pipeline("sd15")
    assert list(engine._kept) == ["sd15"]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            gr.Error("You have <b>exceeded</b> your quota.", title="ZeroGPU quota exceeded"),
            "exceeded: You have exceeded your",
        ),
        (
            gr.Error("GPU task aborted", title="ZeroGPU worker error"),
            "worker error: GPU task aborted; try again",
        ),
        (RuntimeError("ZeroGPU API /schedule error: 503"), "no GPU for this run .*503"),
    ],
)
def test_every_end_that_zero_gpu_puts_to_a_run_is_a_line(zero, monkeypatch, error, said):
    """The page shows a CupscaleError, and its buttons come back."""

    def ended(*arguments):
        yield "first"
        raise error

    monkeypatch.setattr(engine, "_events", ended)
    events = engine.stream(None, Settings.build(model="sdxl"))
    assert next(events) == "first"
    with pytest.raises(CupscaleError, match=said) as told:
        next(events)
    assert "<" not in str(told.value) and "\n" not in str(told.value)


def test_a_refusal_crosses_from_the_worker_as_an_event_and_is_an_error_here(zero, monkeypatch):
    """An error of a class of one's own is not sure to come through, and the page shows a CupscaleError."""

    def refused(name):
        raise CupscaleError("the model is away")

    monkeypatch.setattr(engine, "pipeline", refused)
    settings = Settings.build(model="sdxl")
    assert list(engine._events(None, settings, "none", None)) == [engine.Refused("the model is away")]
    with pytest.raises(CupscaleError, match="the model is away"):
        list(engine.stream(None, settings, "none"))


@pytest.mark.parametrize("lent", [True, False])
def test_a_captioner_stays_loaded_on_a_gpu_that_is_lent_and_goes_elsewhere(zero, monkeypatch, lent):
    """Where it is lent, the captioner was put on the card when the page started, and is not loaded again in each slot."""
    released = []
    captioner = SimpleNamespace(release=lambda: released.append(1))
    pipe = SimpleNamespace(caption=lambda picture, captioning, settings: (yield from ("first", "last")))
    monkeypatch.setattr(engine, "ZERO", lent)
    monkeypatch.setattr(captions.writers, "opened", lambda name: captioner)
    monkeypatch.setattr(engine, "pipeline", lambda name: pipe)
    assert list(captions._events("qwen", None, Settings.build(model="sdxl"))) == ["first", "last"]
    assert len(released) == (not lent)


def test_elsewhere_an_error_of_the_program_stays_one(zero, monkeypatch):
    monkeypatch.setattr(engine, "ZERO", False)

    def ended(*arguments):
        raise RuntimeError("a bug")
        yield

    monkeypatch.setattr(engine, "_events", ended)
    with pytest.raises(RuntimeError, match="a bug"):
        list(engine.stream(None, Settings.build(model="sdxl")))


# The operator's list


def test_an_entry_of_the_operators_list_may_bring_loras(monkeypatch):
    monkeypatch.setenv(
        "CUPSCALE_MODELS", "ink=sdxl + a/b:0.8 + /loras/glow.safetensors, owner/name, mine = /m + a/c"
    )
    assert engine._operators() == {
        "ink": engine.Offered("sdxl", ("a/b:0.8", "/loras/glow.safetensors")),
        "owner/name": engine.Offered("owner/name"),
        "mine": engine.Offered("/m", ("a/c",)),
    }
    assert engine.offered()["sdxl"] == engine.Offered("sdxl")


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ("ink=", "CUPSCALE_MODELS has 'ink=': write name=source"),
        ("=sdxl", "CUPSCALE_MODELS has '=sdxl'"),
        ("ink=sdxl + ", "LoRA '' names no file"),
        ("ink=sdxl + a/b:9", "weight 9: give one from -4 to 4"),
    ],
)
def test_an_entry_that_can_be_none_is_refused_when_the_page_starts(monkeypatch, said, line):
    monkeypatch.setenv("CUPSCALE_MODELS", said)
    with pytest.raises(CupscaleError, match=line):
        engine.names()


def test_a_visitors_result_names_the_loras_and_no_folder_of_the_operators(folders, tmp_path, monkeypatch):
    """The picture is the LoRA's, its file's name stands in the settings."""
    from peft import LoraConfig

    import cupscale

    pipe = cupscale.load(folders("sd15"), device="cpu")
    torch.manual_seed(0)
    pipe.unet.add_adapter(LoraConfig(r=2, target_modules=["to_k", "to_v"], init_lora_weights=False))
    pipe.save_lora_weights(
        tmp_path, unet_lora_layers=get_peft_model_state_dict(pipe.unet), weight_name="ink.safetensors"
    )
    monkeypatch.setattr(engine, "ZERO", False)
    monkeypatch.setenv(
        "CUPSCALE_MODELS", f"ink={folders('sd15')} + {tmp_path}/ink.safetensors:4, plain={folders('sd15')}"
    )
    engine._kept.clear()
    try:
        found, noise = {}, Image.effect_noise((40, 24), 90).convert("RGB")
        for name in ("ink", "plain"):
            chosen = Settings.build(
                engine.defaults(name), model=name, steps=2, scale=2, guidance=1, upscaler="lanczos"
            )
            found[name] = list(engine.stream(Picture(noise), chosen))[-1].result
        assert found["ink"].settings.loras == ("ink.safetensors:4",) and found["plain"].settings.loras == ()
        assert found["ink"].image.tobytes() != found["plain"].image.tobytes()
    finally:
        engine._kept.clear()
