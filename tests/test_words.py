"""From words: the pipeline's own picture, enlarged in the same run."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from checkpoints import FAMILIES
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler, LCMScheduler
from PIL import Image

import cupscale
from cupscale import models
from cupscale.errors import CupscaleError
from cupscale.events import Drawn, Finished, Planned
from cupscale.planning import Geometry, drawn_size, make_plan, nearest_size
from cupscale.run_plan import plan_run
from cupscale.settings import Settings
from cupscale.stages import Stages

PROMPT = "a lighthouse in a storm"
WORDS = {"prompt": PROMPT, "steps": 4, "seed": 7, "guidance": 2.5, "negative_prompt": "fog"}
ENLARGED = WORDS | {"upscaler": "lanczos", "strength": 0.5, "scale": 2}


def native(pipe):
    return cupscale.CUpscalePipeline(pipe).backbone.geometry


def own_call(pipe, width, height, guidance):
    """diffusers' text-to-image call, (H, W, 3) levels. FLUX.2 klein takes no negative prompt."""
    words, scale = {"prompt": PROMPT, "negative_prompt": "fog"}, "guidance_scale"
    if type(pipe).__name__ == "Flux2KleinPipeline":
        words = {"prompt": PROMPT, "max_sequence_length": 96}
    elif type(pipe).__name__ == "QwenImagePipeline":
        scale = "true_cfg_scale"
    options = (
        {"use_resolution_binning": False, "clean_caption": False} if "PixArt" in type(pipe).__name__ else {}
    )
    if type(pipe).__name__ == "ZImagePipeline":
        guidance -= 1  # 0 is off for it
    done = pipe(
        **words,
        width=width,
        height=height,
        num_inference_steps=4,
        **{scale: guidance},
        generator=torch.Generator().manual_seed(7),
        output_type="np",
        **options,
    )
    return done.images[0] * 255


@pytest.mark.parametrize("guidance", [1.0, 2.5])
@pytest.mark.parametrize("name", list(FAMILIES))
def test_at_scale_1_it_is_the_pipelines_own_picture(load, name, guidance):
    """Wider than high: within half a level, as the result is rounded to whole ones."""
    pipe = load(name)
    if name == "sd15":  # PNDM's first step, taken twice, is left out here
        pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    side, align = native(pipe).native, native(pipe).align
    width, height = side, side - align
    if name != "z-image":  # whose table of positions ends at the native size in this checkpoint
        width += align
    fields = WORDS | {"guidance": guidance, "scale": 1, "size": f"{width}x{height}"}
    if name == "flux2-klein-base":
        fields["negative_prompt"] = ""
    result = cupscale.upscale(pipe, **fields)
    theirs = own_call(pipe, width, height, guidance)
    assert result.image.size == (width, height)
    assert np.abs(np.asarray(result.image.convert("RGB"), dtype=float) - theirs).max() < 0.55
    assert theirs.std() > 2  # it shows something
    assert result.plan.evaluations == result.plan.drawing == 4
    assert result.plan.samples == (8 if guidance > 1 else 4)


@pytest.mark.parametrize("name", ["sd15", "sdxl"])
def test_a_few_step_scheduler_draws_the_pipelines_own_picture(load, name):
    """LCM draws noise at every step but the last, from the seed's own generator."""
    pipe = load(name)
    pipe.scheduler = LCMScheduler.from_config(pipe.scheduler.config)
    side, align = native(pipe).native, native(pipe).align
    width, height = side + align, side - align
    fields = WORDS | {"guidance": 1.0, "scale": 1, "size": f"{width}x{height}"}
    result = cupscale.upscale(pipe, **fields)
    theirs = own_call(pipe, width, height, 1.0)
    assert np.abs(np.asarray(result.image.convert("RGB"), dtype=float) - theirs).max() < 0.55
    assert theirs.std() > 2


def test_a_dynamic_shift_looks_at_the_picture_that_is_drawn(load):
    """As the pipeline's own picture, not square, under a shift that changes much from token to token."""
    pipe = load("z-image")
    shifts = {"base_image_seq_len": 32, "max_image_seq_len": 72, "base_shift": 0.0, "max_shift": 3.0}
    pipe.scheduler = FlowMatchEulerDiscreteScheduler.from_config(
        pipe.scheduler.config, use_dynamic_shifting=True, **shifts
    )
    side, align = native(pipe).native, native(pipe).align
    for width, height in ((side, side - align), (side - align, side)):
        result = cupscale.upscale(pipe, **WORDS | {"scale": 1, "size": f"{width}x{height}"})
        theirs = own_call(pipe, width, height, WORDS["guidance"])
        assert np.abs(np.asarray(result.image.convert("RGB"), dtype=float) - theirs).max() < 0.55


@pytest.mark.parametrize("name", ["sdxl", "sd3"])
def test_one_run_is_the_drawing_and_then_its_enlargement(load, name):
    """The texts that both halves read are encoded once."""
    pipe, asked = load(name), []
    encode = pipe.encode_prompt
    pipe.encode_prompt = lambda prompt, *args, **kwargs: (
        asked.append(list(prompt)),
        encode(prompt, *args, **kwargs),
    )[1]
    events = list(cupscale.stream(pipe, **ENLARGED))
    assert asked == [[PROMPT, "fog"]]
    assert isinstance(events[0], Planned) and isinstance(events[-1], Finished)
    (drawn,) = (event.image for event in events if isinstance(event, Drawn))
    result = events[-1].result
    again = cupscale.upscale(pipe, drawn, **ENLARGED)
    assert np.array_equal(np.asarray(result.image), np.asarray(again.image))
    side = native(pipe).native
    assert result.settings.size == f"{side}x{side}" and again.settings.size == ""
    assert result.plan.samples == again.plan.samples + 2 * 4
    kept = Settings.from_json(result.settings.to_json())
    from_itself = cupscale.upscale(load(name), settings=kept)
    assert np.array_equal(np.asarray(result.image), np.asarray(from_itself.image))


def test_another_seed_is_another_picture(load):
    pipe = load("sdxl")
    first, second = (
        np.asarray(cupscale.upscale(pipe, **WORDS | {"scale": 1, "seed": seed}).image) for seed in (7, 8)
    )
    assert np.abs(first.astype(float) - second).mean() > 1


def test_captions_are_written_from_what_was_drawn(load):
    seen = []

    class Looker:
        name = identity = "looker"
        bytes, device = 0, "cpu"

        def load(self):
            pass

        def release(self):
            pass

        def ask(self, requests):
            for index, request in enumerate(requests):
                seen.append(request.images[0].size)
                yield cupscale.captioners.Answer(index, f"thing {index}")

    pipe = load("sdxl")
    result = cupscale.upscale(pipe, captioner=Looker(), **ENLARGED | {"detail": 0.5, "scale": 3})
    side = native(pipe).native
    assert set(seen) == {(side, side)}
    assert len(result.captions) == len(result.plan.regions) > 1


def test_closing_a_drawing_leaves_the_pipeline_as_it_was(load):
    pipe = load("z-image")
    before = dict(pipe.transformer.attn_processors) if hasattr(pipe.transformer, "attn_processors") else None
    events = cupscale.stream(pipe, **ENLARGED)
    next(events), next(events)
    events.close()
    assert before is None or pipe.transformer.attn_processors == before
    assert pipe._execution_device.type == "cpu"


@pytest.mark.parametrize("steps", [2, 99])
def test_the_accelerator_is_given_back_after_a_drawing_however_it_ends(load, monkeypatch, steps):
    """Where parts wait in main memory, a run that is closed while it draws left them on the accelerator."""
    pipe, given = load("sdxl"), []
    monkeypatch.setattr(pipe, "maybe_free_model_hooks", lambda: given.append(True))
    events = cupscale.stream(pipe, **WORDS | {"scale": 1})
    for _, event in zip(range(steps), events, strict=False):
        assert not given or isinstance(event, (Drawn, Finished))
    events.close()
    assert given == [True]


def test_the_plan_of_words_knows_the_captioners_time(tmp_path, monkeypatch):
    """9 regions of half overlap and no prompt to write: 9 calls of 2 s."""
    speed = {"sample": 1e-9, "cells": 64, "megapixel": 1e-9}
    monkeypatch.setattr(
        "cupscale.machine.known_speed", lambda name, *_: {"call": 2.0} if "captioner" in name else speed
    )
    captioning = cupscale.captioners.open_captioning("appearance")
    settings = Settings.build(scale=2, prompt="a fox", overlap=0.5, detail=0.5)
    geometry = Geometry(native=64, cell=8, align=8)
    plan = plan_run(None, settings, geometry, "some", "cpu", captioning)
    assert (plan.caption_calls, plan.captioner, plan.seconds) == (9, "appearance", 18.0)
    silent = plan_run(None, settings.replace(scale=1), geometry, "some", "cpu", captioning)
    assert (silent.caption_calls, silent.captioner) == (0, "")


def test_a_remembered_speed_is_that_of_a_window_whatever_was_drawn(monkeypatch):
    """12 x 6 cells drawn in 20 samples, then 5 steps of windows of 8 x 8: 2 s a window, of 72 / 64 where one is drawn."""
    kept = []
    monkeypatch.setattr("cupscale.machine.remember_run", lambda name, device, how, run: kept.append(run))
    settings = Settings.build(scale=2, steps=10, strength=0.5, guidance=3, overlap=0.5)
    geometry = Geometry(native=64, cell=8, align=8)
    plan = make_plan((96, 48), settings, geometry, drawn=True)
    backbone = SimpleNamespace(device=torch.device("cpu"), geometry=geometry)
    pipeline = SimpleNamespace(model="some", tiles=None, backbone=backbone, how="float32 none")
    run = Stages(pipeline, None, settings, plan, cupscale.captioners.Captioning())
    run._network_seconds = 2.0 * (20 * 72 / 64 + plan.samples - 20)
    run._remember_run(3.0)
    assert kept[0].network / kept[0].samples == pytest.approx(2.0)
    assert (kept[0].rest, kept[0].input) == (3.0, 0.0) and kept[0].output == pytest.approx(0.018432)


def test_the_plan_counts_the_drawing():
    """64 px drawn, doubled in 3 x 3 windows of half overlap: 10 steps with guidance, then 5 of 9 windows and the overview."""
    geometry = Geometry(native=64, cell=8, align=8)
    settings = Settings.build(scale=2, steps=10, strength=0.5, guidance=3, overlap=0.5)
    plan = make_plan((64, 64), settings, geometry, drawn=True)
    assert (plan.drawing, plan.evaluations, plan.samples) == (10, 10 + 5 * 10, 20 + 5 * (2 * 9 + 1))
    assert "drawn from the prompt in 10 steps" in plan.line()
    wide = make_plan((96, 48), settings, geometry, drawn=True)
    assert wide.work == wide.samples - 20 + 20 * (12 * 6) / 64
    alone = make_plan((64, 64), settings.replace(scale=1), geometry, drawn=True)
    assert (alone.steps, alone.evaluations, alone.samples) == (0, 10, 20)
    assert "enlarged" not in alone.line()


@pytest.mark.parametrize(
    ("size", "nearest"),
    [("1344x770", "1344x768"), ("2048x2048", "1024x1024"), ("640x480", "1184x896"), ("4096x256", "2048x512")],
)
def test_a_size_the_model_does_not_know_names_the_nearest(size, nearest):
    with pytest.raises(CupscaleError, match=f"{size} .*32 px.* nearest is {nearest}"):
        drawn_size(size, models.SDXL_GEOMETRY)


@pytest.mark.parametrize("size", ["1024x1024", "1344x768", "832x1216", "1536x640", "512x2048"])
def test_the_sizes_sdxl_was_trained_on_are_known(size):
    assert drawn_size(size, models.SDXL_GEOMETRY) == tuple(map(int, size.split("x")))


@pytest.mark.parametrize("name", list(models.KNOWN))
def test_the_size_that_is_named_is_one_that_is_taken(name):
    geometry = models.KNOWN[name].geometry
    for k in range(-40, 41):
        width, height = nearest_size(1.04**k, geometry)
        assert drawn_size(f"{width}x{height}", geometry) == (width, height)


@pytest.mark.parametrize(
    ("size", "taken"),
    [
        ("1024x832", True),  # 0.8125 of the native area
        ("1024x800", False),  # 0.78
        ("1280x1024", True),  # 1.25
        ("1312x1024", False),  # 1.28
        ("512x2048", True),  # 1 to 4
        ("480x2048", False),  # 1 to 4.27
        ("1040x1024", False),  # no multiple of 32
    ],
)
def test_where_the_sizes_end(size, taken):
    if taken:
        assert drawn_size(size, models.SDXL_GEOMETRY) == tuple(map(int, size.split("x")))
        return
    with pytest.raises(CupscaleError, match="nearest"):
        drawn_size(size, models.SDXL_GEOMETRY)


def test_words_that_are_missing_and_a_model_that_cannot(load):
    with pytest.raises(CupscaleError, match="neither an image nor a prompt"):
        cupscale.upscale(load("sdxl"), prompt="  ")
    with pytest.raises(
        CupscaleError, match=r"tiny cannot draw from words: .*give an image, or choose one of sd15"
    ):
        cupscale.upscale(models.load("tiny"), prompt=PROMPT)
    for bad in ("wide", "0x12", "1024", "1024x1024x3"):
        with pytest.raises(CupscaleError, match="size"):
            Settings.build(size=bad)


def command(*arguments):
    from click.testing import CliRunner

    from cupscale.cli import main

    return CliRunner().invoke(main, ["upscale", *map(str, arguments)])


FAST = (
    "--steps",
    2,
    "--strength",
    0.5,
    "--guidance",
    1,
    "--attention",
    0,
    "--detail",
    0,
    "--upscaler",
    "lanczos",
)


def test_the_command_draws_and_enlarges_and_makes_it_again_from_its_own_settings(
    folders, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    done = command(
        "--prompt", "A lighthouse, in a storm!", "--model", folders("sdxl"), "--scale", 2, "--seed", 7, *FAST
    )
    assert done.exit_code == 0, done.output
    made = tmp_path / "a-lighthouse-in-a-storm-x2-seed7.png"
    with Image.open(made) as first:
        assert first.size == (128, 128)
        again = command("--settings", made, "-o", "again.png")
        assert again.exit_code == 0, again.output
        with Image.open(tmp_path / "again.png") as second:
            assert np.array_equal(np.asarray(first), np.asarray(second))
    third = command("--settings", made, "--json")
    assert json.loads(third.stdout)["path"] == "a-lighthouse-in-a-storm-x2-seed7-2.png"
    assert json.loads(third.stdout)["settings"]["size"] == "64x64"


def test_the_commands_plan_of_words(folders):
    plan = command(
        "--prompt", "a fox", "--model", "sdxl", "--size", "1344x768", "--to", "4k", "--plan", "--json"
    )
    assert plan.exit_code == 0, plan.output
    data = json.loads(plan.stdout)
    assert (data["input"], data["output"], data["drawing"]) == ([1344, 768], [4096, 2341], 50)
    plan = command("--prompt", "a fox", "--model", folders("sdxl"), "--width", 160, "--plan", *FAST)
    assert plan.exit_code == 0 and "64 x 64 -> 160 x 160, drawn from the prompt in 2 steps" in plan.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), ["neither an image nor a prompt", "--prompt"]),
        (("--prompt", "a fox"), ["tiny cannot draw", "sdxl"]),
        (("--prompt", "a fox", "--model", "sdxl", "--size", "999x999", "--plan"), ["999x999", "1024x1024"]),
        (("--prompt", "a fox", "--model", "sdxl", "--size", "big", "--plan"), ["size", "big"]),
    ],
)
def test_the_command_says_what_is_missing(arguments, words):
    done = command(*arguments)
    assert done.exit_code == 2
    assert done.stderr.startswith("cupscale: ") and done.stderr.count("\n") == 1
    for word in words:
        assert word in done.stderr
