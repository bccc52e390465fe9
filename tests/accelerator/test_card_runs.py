"""Every family as on an accelerator, under every offload: no tensor is left on the CPU, and the picture is the CPU's."""

import contextlib
import functools
import importlib.util
import sys
from pathlib import Path
from typing import get_args

import captioner_checkpoints
import numpy as np
import pytest
import torch
from card import CUDA, Card, MixedDevices, bytes_on_card, on_card
from checkpoints import FAMILIES, make_controlnet, make_zimage_controlnet
from PIL import Image
from small_runs import RUN, levels, photo

import cupscale
from cupscale import offload, stages
from cupscale.backbones import adapt, base, tiling, unet
from cupscale.captioners.vlm import VLM, _Loaded
from cupscale.errors import CupscaleError
from cupscale.method import regions, sampler
from cupscale.settings import Scheduler

OFFLOADS = ["none", "model", "group", "sequential"]


@pytest.fixture
def card():
    with Card() as one:
        yield one


@pytest.fixture
def on(folders):
    """A checkpoint on the card."""
    return lambda name, offload="none", dtype="float32": cupscale.load(
        folders(name), device="cuda", dtype=dtype, offload=offload
    )


def weights(pipe):
    return sum(bytes_on_card(part) for part in pipe.components.values() if isinstance(part, torch.nn.Module))


@pytest.fixture(scope="session")
def of_the_cpu(folders):
    """The picture of a family on the CPU, with more regions at once than its default, as on a card."""
    made = {}

    def picture(name):
        if name not in made:
            made[name] = _picture(cupscale.load(folders(name), device="cpu"))
        return made[name]

    return picture


def _picture(pipe, **fields):
    run = cupscale.CUpscalePipeline(pipe, batch=4, preview_px=0)
    return run.upscale(photo(), run.settings(**RUN | fields)).image


@pytest.mark.parametrize("offload", OFFLOADS)
@pytest.mark.parametrize("name", list(FAMILIES))
def test_the_picture_is_that_of_the_cpu_under_every_offload(of_the_cpu, on, name, offload):
    expected = of_the_cpu(name)
    with Card() as card:
        pipe = on(name, offload)
        whole = weights(pipe)
        card.forget()
        image = _picture(pipe)
        assert weights(pipe) == whole and (whole > 0) == (offload == "none")
        if offload == "none":  # the picture leaves the card, and nothing else
            assert card.moves["out"] <= 2 and card.moves["in"] < 60
        elif (
            offload == "model"
        ):  # the network goes in once for all regions of all steps, the VAE at most three times
            assert card.bytes["out"] <= once_a_stage(pipe) + levels(image).size * 4
    assert np.abs(levels(image) - levels(expected)).max() <= 1


def once_a_stage(pipe):
    """Bytes of all parts, the VAE's three times: encoding, the overview and decoding."""
    size = {
        name: sum(p.numel() * p.element_size() for p in part.parameters())
        for name, part in pipe.components.items()
        if isinstance(part, torch.nn.Module)
    }
    return sum(size.values()) + 2 * size["vae"]


@pytest.mark.parametrize("name", list(FAMILIES))
def test_waiting_does_not_grow_with_the_regions(on, card, name):
    """A look at a value makes the program wait for the card: the same number however many regions a step has."""
    pipe, waits = on(name), []
    for overlap in (0.0, 0.5):
        card.forget()
        _picture(pipe, overlap=overlap)
        waits.append(card.waits)
    assert waits[0] == waits[1]


def _in_steps(pipe, card, **fields):
    """Moves and waits from the end of the first step to the last region of the last one."""
    run, found = cupscale.CUpscalePipeline(pipe, batch=4, preview_px=0), None
    for event in run.stream(photo(), run.settings(**RUN | {"steps": 8} | fields)):
        if isinstance(event, cupscale.Progress) and event.stage == "denoise" and event.regions == event.total:
            if event.step == 2:  # what the first step ends with is behind
                card.forget()
            if event.step == event.steps:
                found = (dict(card.moves), card.waits)
    return found


@pytest.mark.parametrize("name", list(FAMILIES))
def test_inside_a_step_nothing_is_moved_and_nothing_waited_for(on, card, name):
    assert _in_steps(on(name), card) == ({}, 0)


def test_a_weight_that_is_brought_anew_is_counted(on, card, monkeypatch):
    """Planted: feathers that stay in main memory and go to the card window by window, as they once did."""
    weight = regions.Feathers.weight
    monkeypatch.setattr(
        regions.Feathers, "weight", lambda self, region: weight(self, region).cpu().to("cuda")
    )
    moves, _ = _in_steps(on("sdxl"), card)
    assert moves["in"] > 0


def test_numbers_that_become_a_tensor_of_the_card_are_counted(card):
    there = torch.zeros(2, device="cuda")
    torch.tensor([1.0, 2.0], device="cuda")
    there.new_tensor([3.0])
    assert card.moves["in"] == 2
    torch.zeros(3, device="cuda")
    assert card.moves["in"] == 2


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", list(FAMILIES))
def test_half_precision_is_near_the_full_one(of_the_cpu, on, card, name, dtype):
    image = _picture(on(name, dtype=dtype))
    gap = np.abs(levels(image) - levels(of_the_cpu(name)))
    assert gap.mean() < 6


@pytest.mark.parametrize("name", list(FAMILIES))
def test_a_folders_precision_on_a_card_is_its_familys(folders, card, name):
    """These overflow in float16."""
    network = adapt(cupscale.load(folders(name), device="cuda")).network
    wide = name in ("z-image", "flux2-klein-base", "qwen-image")
    assert network.dtype == (torch.bfloat16 if wide else torch.float16)


def test_a_vae_that_overflows_is_upcast_on_the_card_and_comes_back(on, card):
    pipe = on("sdxl", dtype="float16")
    pipe.vae.register_to_config(force_upcast=True)
    seen = []
    pipe.vae.decoder.register_forward_pre_hook(
        lambda module, args: seen.append((args[0].dtype, args[0].device))
    )
    _picture(pipe)
    assert set(seen) == {(torch.float32, CUDA)}
    assert pipe.vae.dtype == torch.float16 and pipe.vae.device == CUDA


CHOICES = {
    "seamless": {"seamless": "xy"},
    "low guidance": {"guidance_low": 5.0},
    "noised reference": {"structure_space": "z_t", "structure_filter": "wavelet"},
    "overview as reference": {"structure_reference": "overview", "windows": "alternating"},
    "screen of words": {"attention_form": "screen"},
    "composer by frequency": {"composer": "frequency"},
    "flat places": {"flat_strength": 0.5, "flat_guidance": 0.2, "flat_windows": "keep"},
    "told less noise": {"sigma_shift": 0.2, "overlap_falls": "thirds", "guidance_until": 0.5},
} | {name: {"scheduler": name} for name in get_args(Scheduler) if name != "model"}


@pytest.mark.parametrize("choice", list(CHOICES))
def test_whatever_a_run_chooses_is_done_on_the_device(folders, choice):
    """A Mac's, which refuses float64 too. Half of the picture shows nothing."""
    image = Image.new("RGB", (60, 24), "teal")
    image.paste(photo(), (0, 0))
    made = []
    for device in ("mps", "cpu"):
        with Card("mps") if device == "mps" else contextlib.nullcontext():
            pipe = cupscale.load(folders("sdxl"), device=device, dtype="float32")
            run = cupscale.CUpscalePipeline(pipe, batch=4, preview_px=0)
            made.append(levels(run.upscale(image, run.settings(**RUN | CHOICES[choice])).image))
    assert np.abs(made[0] - made[1]).max() <= 1


@pytest.mark.parametrize("name", ["sdxl", "z-image"])
def test_a_picture_from_words_is_drawn_on_the_card(folders, name):
    made = []
    for device in ("cuda", "cpu"):
        with Card() if device == "cuda" else contextlib.nullcontext():
            run = cupscale.CUpscalePipeline(cupscale.load(folders(name), device=device, dtype="float32"))
            chosen = run.settings(**RUN | {"scale": 1, "captions": ()})
            made.append(levels(run.upscale(None, chosen).image))
    assert np.abs(made[0] - made[1]).max() <= 1


@pytest.mark.parametrize(
    ("name", "offload"),
    [*(("sdxl", offload) for offload in OFFLOADS), ("z-image", "none"), ("z-image", "group")],
)
def test_a_controlnet_goes_where_its_network_goes(folders, tmp_path, name, offload):
    make = make_controlnet if name == "sdxl" else make_zimage_controlnet
    make(tmp_path, Path(folders(name)))
    made = {}
    for device, weight in (("cuda", 0.8), ("cpu", 0.8), ("cpu", 0.0)):
        with Card() if device == "cuda" else contextlib.nullcontext():
            way = offload if device == "cuda" else "none"
            more = {"dtype": "float32", "controlnet": str(tmp_path), "offload": way}
            made[device, weight] = levels(
                _picture(cupscale.load(folders(name), device=device, **more), control=weight)
            )
    assert np.abs(made["cuda", 0.8] - made["cpu", 0.8]).max() <= 1
    assert (made["cpu", 0.8] != made["cpu", 0.0]).any()


@pytest.mark.parametrize("way", OFFLOADS)
def test_the_way_a_pipeline_goes_is_known_from_its_hooks(on, card, way):
    assert offload.current(on("sd15", way)) == way


def test_parts_that_share_weights_are_moved_by_layers_or_not_at_all(folders, card, tmp_path, monkeypatch):
    """Z-Image and its ControlNet. What they share counts once."""
    make_zimage_controlnet(tmp_path, Path(folders("z-image")))
    load = functools.partial(cupscale.load, folders("z-image"), device="cuda", controlnet=str(tmp_path))
    for way in ("model", "sequential"):
        with pytest.raises(CupscaleError, match=f"offload '{way}' misses weights.*use offload none or group"):
            load(offload=way)
    own = load(offload="none")
    own.enable_model_cpu_offload(device="cuda")  # by layers diffusers itself says no
    with pytest.raises(CupscaleError, match=r"offload 'model' misses weights.*use offload none or group"):
        _picture(own)
    pipe = load()
    both = {id(p): p for part in (pipe.transformer, pipe.controlnet) for p in part.parameters()}.values()
    others = offload.part_bytes(pipe)["vae"] + offload.part_bytes(pipe)["text_encoder"]
    whole = offload.weights_there(pipe, "none")
    assert whole == others + sum(p.numel() * p.element_size() for p in both)
    assert whole < sum(offload.part_bytes(pipe).values()) and adapt(pipe).geometry.weights == whole
    monkeypatch.setattr(offload.machine, "free_bytes", lambda device: -1)
    assert offload.current(load(offload="auto")) == "group"
    monkeypatch.setattr(offload.machine, "free_bytes", lambda device: 2**30)
    assert "offload group" in offload.fitting_way(pipe, "cuda", 0)


@pytest.mark.parametrize("offload", OFFLOADS)
def test_a_lora_goes_where_its_network_goes(on, card, offload):
    from peft import LoraConfig

    pipe = on("sdxl")
    plain = levels(_picture(pipe))
    pipe.to("cpu")
    torch.manual_seed(0)
    pipe.unet.add_adapter(LoraConfig(r=2, target_modules=["to_k", "to_v"], init_lora_weights=False))
    if offload == "none":
        pipe.to("cuda")
    elif offload == "group":
        pipe.enable_group_offload(
            onload_device=CUDA, offload_device=torch.device("cpu"), offload_type="leaf_level"
        )
    else:
        getattr(pipe, f"enable_{offload}_cpu_offload")(device="cuda")
    assert (levels(_picture(pipe)) != plain).any()


@pytest.mark.parametrize("offload", ["none", "model"])
def test_a_captioner_writes_on_the_card_and_the_run_goes_on(on, card, tmp_path, offload, monkeypatch):
    folder = captioner_checkpoints.qwen(tmp_path)
    generate, there = _Loaded.generate, []

    def seen(self, requests, device, *rest):
        there.append((device, {p.device for p in self.model.parameters()}))
        return generate(self, requests, device, *rest)

    monkeypatch.setattr(_Loaded, "generate", seen)
    pipe = on("sdxl", offload)
    result = cupscale.upscale(pipe, photo(), captioner=str(folder), **RUN | {"captions": ()})
    assert result.image.size == (120, 72)
    assert there and all(found == ("cuda", {CUDA}) for found in there)


def test_a_lent_gpus_captioner_goes_to_the_card_once_when_the_page_starts(card, tmp_path, monkeypatch):
    from cupscale.captioners import Request
    from cupscale.page import captions, engine, writers

    captioner = VLM(str(captioner_checkpoints.qwen(tmp_path)), device="cuda")
    monkeypatch.setattr(engine, "ZERO", True)
    monkeypatch.setattr(writers, "opened", lambda name: captioner)
    captions.preload()
    assert bytes_on_card(captioner._loaded.model) > 0
    card.forget()
    answers = list(captioner.ask([Request(lambda: (photo(), photo(48, 40)), "Describe the second.")]))
    assert any(answer and answer.text is not None for answer in answers)
    assert 0 < card.bytes["in"] < captioner.bytes / 2 and card.bytes["out"] < 10_000  # what it reads and says


def test_closing_a_run_under_offload_empties_the_card_and_the_next_run_is_whole(on, card):
    pipe = on("sdxl", "model")
    whole = levels(_picture(pipe))
    with contextlib.closing(cupscale.stream(pipe, photo(), captioner="none", **RUN)) as events:
        for event in events:
            if isinstance(event, cupscale.Progress) and event.regions:
                assert bytes_on_card(pipe.unet)
                break
    assert weights(pipe) == 0
    assert (levels(_picture(pipe)) == whole).all()


def test_the_pages_engine_runs_an_operators_model(folders, card, monkeypatch, of_the_cpu):
    from cupscale.images import Picture
    from cupscale.page import engine

    monkeypatch.setenv("CUPSCALE_MODELS", f"small={folders('z-image')}")
    monkeypatch.setenv("CUPSCALE_MODEL", "small")
    engine._kept.clear()
    try:
        assert engine.default_model() == "small" and "sdxl" in engine.names()
        engine.preload()
        pipe = engine.pipeline("small").pipe
        assert bytes_on_card(pipe.transformer) > 0
        chosen = cupscale.Settings.build(engine.defaults("small"), **RUN)
        events = list(engine.stream(Picture(photo()), chosen))
        previews = [event for event in events if isinstance(event, cupscale.Preview)]
        assert previews and events[-1].result.image.size == (120, 72)
        assert np.abs(levels(events[-1].result.image) - levels(of_the_cpu("z-image"))).mean() < 6
    finally:
        engine._kept.clear()


# Planted errors: each is a line that works on a CPU


@pytest.fixture
def planted(monkeypatch):
    """A module with one text in its source replaced."""

    def plant(module, right, wrong):
        with open(module.__file__, encoding="utf-8") as file:
            source = file.read()
        assert source.count(right) == 1
        name = f"{module.__name__}_planted"
        made = importlib.util.module_from_spec(importlib.util.spec_from_loader(name, None))
        monkeypatch.setitem(sys.modules, name, made)
        exec(compile(source.replace(right, wrong), module.__file__, "exec"), vars(made))
        return made

    return plant


def test_noise_left_on_the_cpu_in_the_sampler_is_caught(on, card, planted, monkeypatch):
    wrong = planted(sampler, "self._noise = noise.to(latent.device)", "self._noise = noise")
    pipe = on("sdxl")
    monkeypatch.setattr(stages, "denoise", wrong.denoise)
    with pytest.raises(MixedDevices):
        _picture(pipe)


def test_a_condition_left_on_the_cpu_in_a_backbone_is_caught(on, card, planted, monkeypatch):
    wrong = planted(unet, "self._time_ids(call)", "self._time_ids(call).cpu()")
    pipe = on("sdxl")
    monkeypatch.setattr(unet.SDXLBackbone, "conditions", wrong.SDXLBackbone.conditions)
    with pytest.raises(MixedDevices):
        _picture(pipe)


def test_pixels_left_on_the_cpu_before_the_vae_are_caught(on, card, planted, monkeypatch):
    wrong = planted(
        tiling, "return vae.encode(part).latent_dist", "return vae.encode(part.cpu()).latent_dist"
    )
    pipe = on("sd3")
    monkeypatch.setattr(base, "encoded", wrong.encoded)
    with pytest.raises(MixedDevices):
        _picture(pipe)


def test_a_tensor_of_the_card_in_an_event_would_be_caught(on, card):
    """ZeroGPU pickles what a run yields, so nothing of it may lie on the card."""
    pipe = on("sd15")
    for event in cupscale.stream(pipe, photo(), captioner="none", **RUN):
        assert not any(isinstance(value, torch.Tensor) and on_card(value) for value in vars(event).values())
