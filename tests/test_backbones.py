"""Every architecture through the same core: small random checkpoints of the real classes, loaded the real way."""

import contextlib
import dataclasses
import json
from itertools import pairwise
from pathlib import Path

import diffusers
import pytest
import torch
from checkpoints import FAMILIES, make_sd3
from click.testing import CliRunner
from own_runs import CELLS, final, from_own_img2img, settings
from small_runs import CAPTION, FAST, photo

import cupscale
from cupscale import models
from cupscale.backbones import adapt
from cupscale.backbones.base import parked
from cupscale.backbones.denoiser import Call, Text
from cupscale.backbones.schedules import FlowSchedule, is_flow
from cupscale.cli import main
from cupscale.errors import CupscaleError
from cupscale.method.regions import Region, Size
from cupscale.method.sampler import StepDone, denoise, draw_noise
from cupscale.method.structure import GlobalStructure
from cupscale.planning import make_plan

FLOW = ["sd3", "z-image", "flux2-klein-base", "qwen-image"]
NEW = [name for name in FAMILIES if name != "sdxl"]


def processors(pipe):
    network = adapt(pipe).network
    found = {name: id(m.processor) for name, m in network.named_modules() if hasattr(m, "processor")}
    return found | {"own": tuple(name for name in vars(network) if not name.startswith("_"))}


# End to end


@pytest.mark.parametrize("name", list(FAMILIES))
def test_windows_of_other_sizes_run_where_there_are_positions_for_them(load, name):
    """By turns they are longer, of 32 x 16 cells as well; Z-Image's small checkpoint has places for 16 cells and no more."""
    pipe = load(name)
    result = cupscale.upscale(
        pipe, photo(32, 64), **FAST | {"scale": 4, "windows": "alternating", "overlap": 0.0}
    )
    longest = adapt(pipe).most_cells() or 0
    assert adapt(pipe).geometry.longest == longest * result.plan.cell_px
    assert result.plan.window == (16, 16) and (result.plan.area > 1) == (longest != 16)


@pytest.mark.parametrize("name", NEW)
def test_the_four_rows_of_the_ablation(load, name):
    """Plain, +GSP, +RAP, +RSP: each prior changes the picture; at weight 0 it is as if it were not there and costs nothing."""
    pipe = load(name)
    calls = []
    handle = adapt(pipe).network.register_forward_pre_hook(lambda module, args: calls.append(1))
    rows = [
        {"structure": 0, "attention": 0, "detail": 0},
        {"structure": 0.7, "attention": 0, "detail": 0},
        {"structure": 0.7, "attention": 1.0, "detail": 0},
        {"structure": 0.7, "attention": 1.0, "detail": 1.0},
    ]
    # The latents, not the pixels: a random decoder hides much.
    latents = []
    decode = type(adapt(pipe)).decode
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            type(adapt(pipe)), "decode", lambda self, z, *rest: latents.append(z) or decode(self, z, *rest)
        )
        for row in rows:
            calls.clear()
            result = cupscale.upscale(pipe, photo(), prompt="a red fox", captions=[CAPTION], **FAST | row)
            assert result.image.size == (120, 72)
            assert (
                len(calls)
                == result.plan.evaluations
                == 2 * (len(result.plan.regions) + (row["attention"] > 0))
            )
        again = cupscale.upscale(pipe, photo(), prompt="a red fox", captions=[CAPTION], **FAST | rows[-1])
        without = cupscale.upscale(pipe, photo(), prompt="a red fox", **FAST | rows[0])
    handle.remove()
    for before, after in pairwise(latents[:4]):
        assert (before - after).abs().max() > 1e-4
    assert result.image.tobytes() == again.image.tobytes()
    assert torch.equal(latents[0], latents[5]) and without.image.size == (120, 72)


@pytest.mark.parametrize("how", ["end", "close", "error"])
@pytest.mark.parametrize("name", NEW)
def test_the_callers_pipeline_comes_back_as_it_was(load, name, how, monkeypatch):
    pipe = load(name)
    before, scheduler, config = processors(pipe), pipe.scheduler, dict(pipe.scheduler.config)
    timesteps, names = str(scheduler.timesteps), set(vars(pipe))
    network = adapt(pipe).network
    stream = cupscale.stream(pipe, photo(), prompt="a fox", captions=[CAPTION], **FAST)
    during = None
    for event in stream:
        if isinstance(event, cupscale.Progress) and event.regions:
            during = during or processors(pipe)
            if how == "close":
                stream.close()
            elif how == "error":
                monkeypatch.setattr(network, "forward", None)
                with pytest.raises(TypeError):
                    next(stream)
                monkeypatch.undo()
    assert during != before  # it did hook in
    assert processors(pipe) == before
    assert pipe.scheduler is scheduler and dict(scheduler.config) == config
    assert str(scheduler.timesteps) == timesteps and set(vars(pipe)) == names


def test_the_sister_class_of_img2img_is_taken(load):
    for name in ("sd15", "sd3", "z-image", "qwen-image"):
        pipe = load(name)
        kind = getattr(diffusers, type(pipe).__name__.replace("Pipeline", "Img2ImgPipeline"))
        result = cupscale.upscale(kind(**pipe.components), photo(), **FAST | {"steps": 2})
        assert result.image.size == (120, 72)


# Against diffusers' own


@pytest.mark.parametrize("guidance", [1.0, 4.0])
@pytest.mark.parametrize("name", ["sd15", "sd3", "z-image", "qwen-image"])
def test_one_region_with_all_priors_off_is_the_pipelines_img2img(load, name, guidance):
    assert from_own_img2img(load(name), name, guidance).abs().max() < 1e-4


@pytest.mark.parametrize("guidance", [1.0, 4.0])
@pytest.mark.parametrize("name", ["pixart-alpha", "pixart-sigma"])
def test_one_region_with_all_priors_off_is_pixarts_own_run(load, name, guidance):
    """PixArt has no img2img in diffusers: its whole schedule, from our first noise."""
    pipe = load(name)
    chosen = settings(guidance=guidance, strength=1.0)
    z = draw_noise((1, 4, *CELLS), 11)
    backbone = adapt(pipe)
    schedule = backbone.schedule(chosen)
    first = schedule.noised(z, draw_noise(z.shape, 3), 0)
    with backbone.denoiser(chosen, [None], CELLS, CELLS) as denoiser:
        ours = final(denoise(denoiser, schedule, z, window=CELLS, overlap=0.5, seed=3))
    pipe.set_progress_bar_config(disable=True)
    side = 16 * backbone.geometry.cell
    theirs = pipe(
        "a red fox",
        negative_prompt="",
        latents=first,
        num_inference_steps=6,
        guidance_scale=guidance,
        height=side,
        width=side,
        output_type="latent",
        clean_caption=False,
        use_resolution_binning=False,
    ).images
    assert torch.allclose(ours, theirs, atol=1e-4), (ours - theirs).abs().max()


@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_one_region_with_all_priors_off_is_kleins_own_run(load, guidance):
    """FLUX.2 klein has no img2img in diffusers: its whole schedule, from our first noise, at a size that is not square."""
    pipe, cells = load("flux2-klein-base"), Size(12, 16)
    chosen = settings(guidance=guidance, strength=1.0)
    backbone = adapt(pipe)
    schedule = backbone.schedule(chosen, cells)
    first = schedule.noised(draw_noise((1, 4, *cells), 11), draw_noise((1, 4, *cells), 3), 0)
    with backbone.denoiser(chosen, [None], cells, cells) as denoiser:
        ours = final(
            denoise(denoiser, schedule, draw_noise((1, 4, *cells), 11), window=cells, overlap=0.5, seed=3)
        )
    pipe.set_progress_bar_config(disable=True)
    cell = backbone.geometry.cell
    theirs = pipe(
        prompt="a red fox",
        max_sequence_length=96,
        latents=first,
        num_inference_steps=6,
        guidance_scale=guidance,
        height=cells.h * cell,
        width=cells.w * cell,
        output_type="latent",
    ).images
    assert torch.allclose(backbone._of_vae(pipe.vae, ours), theirs, atol=1e-4)


# Priors


@pytest.mark.parametrize("name", list(FAMILIES))
def test_full_regional_detail_is_the_network_with_the_regions_own_prompt(load, name):
    """lambda = 1, mu = 0. Captions shorter and longer than the prompt: in Z-Image that moves their places."""
    pipe = load(name)
    backbone = adapt(pipe)
    z, t = draw_noise((1, 4, *CELLS), 5), torch.tensor(500.0 if name in FLOW else 500)
    region = Region(0, 0, *CELLS)
    for caption in ("a boat", "a blue boat with a red sail on a quiet lake in the mountains, early morning"):
        chosen = settings(detail=1.0, guidance=1.0, prompt="a red fox in deep snow, at night")
        with backbone.denoiser(chosen, [caption], CELLS, CELLS) as denoiser:
            ours = denoiser.predict(z, t, [region], [0])
            own, prompt = denoiser.texts.captions[0], denoiser.texts.prompt
        alone = Text(own.embeds, prompt.pooled, own.mask)
        with backbone.denoiser(settings(guidance=1.0), [None], CELLS, CELLS) as plain, torch.no_grad():
            corners = torch.tensor([[region.y, region.x, region.y + region.h, region.x + region.w]]).float()
            theirs = backbone.call(Call(z, t, [alone], [region], corners, CELLS), plain.composer)
            other = backbone.call(Call(z, t, [prompt], [region], corners, CELLS), plain.composer)
        assert torch.allclose(ours, theirs, atol=1e-4), (ours - theirs).abs().max()
        assert (ours - other).abs().max() > 1e-3


@pytest.mark.parametrize("name", list(FAMILIES))
def test_all_texts_of_a_run_are_encoded_in_one_call(load, name, monkeypatch):
    """As each alone. A second half of the run encodes only what is new."""
    pipe = load(name)
    backbone, asked, encode = adapt(pipe), [], pipe.encode_prompt

    def counted(prompt, *args, **kwargs):
        asked.append(list(prompt))  # Z-Image writes into the one it is given
        return encode(prompt, *args, **kwargs)

    monkeypatch.setattr(pipe, "encode_prompt", counted)
    chosen = settings(detail=0.5, guidance=2.0, prompt="a fox", negative_prompt="fog")
    captions, known = ["a boat", None, "a red sail", "a boat"], {}
    with backbone.denoiser(chosen, [], CELLS, CELLS, known=known):
        assert asked == [["a fox", "fog"]]
    with backbone.denoiser(chosen, captions, CELLS, CELLS, known=known) as denoiser:
        assert asked[1:] == [["a boat", "a red sail"]]
        prompt, negative, own = denoiser.texts
    alone = [
        backbone.encode_texts([text])[0]
        for text in ("a fox", "fog", "a boat", "a fox", "a red sail", "a boat")
    ]
    for ours, text in zip((prompt, negative, *own), alone, strict=True):
        for one, other in zip(vars(ours).values(), vars(text).values(), strict=True):
            assert (one is None) == (other is None)
            assert one is None or torch.allclose(one.float(), other.float(), atol=1e-5)


def test_texts_are_encoded_in_as_few_calls_as_the_memory_allows(load, monkeypatch):
    backbone, asked = adapt(load("sd15")), []
    monkeypatch.setattr(
        type(backbone),
        "encode_texts",
        lambda self, texts: asked.append(len(texts)) or [Text(torch.zeros(1, 2, 4))] * len(texts),
    )
    with backbone.denoiser(
        settings(detail=0.5, guidance=1.0), [f"boat {k}" for k in range(150)], CELLS, CELLS
    ):
        assert asked == [64, 64, 23]


@pytest.mark.parametrize("cells", [(16, 16), (12, 16), (16, 10)])
@pytest.mark.parametrize("name", list(FAMILIES))
def test_the_attention_prior_of_the_window_itself_changes_nothing(load, name, cells):
    """One region that is the whole picture: O_L is its own attention, cropped at its own size, whatever mu is."""
    cells = Size(*cells)
    pipe = load(name)
    backbone = adapt(pipe)
    z, t = draw_noise((1, 4, *cells), 5), torch.tensor(500.0 if name in FLOW else 500)
    outputs = []
    for mu in (0.0, 0.5, 1.0):
        chosen = settings(attention=mu, guidance=2.0)
        with backbone.denoiser(chosen, [None], cells, cells) as denoiser:
            if mu:
                denoiser.capture(z, t)
            outputs.append(denoiser.predict(z, t, [Region(0, 0, *cells)], [0]))
    for output in outputs[1:]:
        assert torch.allclose(output, outputs[0], atol=1e-4), (output - outputs[0]).abs().max()


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "sdxl"])
def test_a_windows_output_does_not_depend_on_where_it_lies(load, name):
    """SDXL is told each window's place; the others are not, and their positions are the window's own."""
    backbone = adapt(load(name))
    canvas, z = Size(32, 48), draw_noise((1, 4, *CELLS), 5)
    t = torch.tensor(500.0 if name in FLOW else 500)
    with backbone.denoiser(settings(guidance=2.0), [None] * 2, canvas, CELLS) as denoiser:
        corner, middle = (denoiser.predict(z, t, [Region(y, x, *CELLS)], [0]) for y, x in ((0, 0), (16, 20)))
        both = denoiser.predict(
            z.repeat(2, 1, 1, 1), t, [Region(0, 0, *CELLS), Region(16, 32, *CELLS)], [0, 1]
        )
    assert torch.equal(corner, middle)
    assert torch.allclose(both, corner.repeat(2, 1, 1, 1), atol=1e-5)


@pytest.mark.parametrize("name", list(FAMILIES))
def test_guidance_may_differ_from_cell_to_cell(load, name):
    """Against the same run guided alike everywhere: 0 is the negative prompt alone, and each cell has its own scale."""
    backbone = adapt(load(name))
    canvas, z, t = Size(32, 48), draw_noise((1, 4, *CELLS), 5), torch.tensor(500.0 if name in FLOW else 500)
    chosen, region = settings(guidance=4.0), Region(16, 8, *CELLS)
    scales = torch.zeros(1, 1, *canvas)
    scales[..., 16 + CELLS.h // 2 :, :] = 4.0

    def output(guidance):
        with backbone.denoiser(chosen, [None], canvas, CELLS, guidance) as denoiser:
            return denoiser.predict(z, t, [region], [0])

    even, none, mixed = output(None), output(torch.zeros(1, 1, *canvas)), output(scales)
    assert torch.allclose(mixed[..., : CELLS.h // 2, :], none[..., : CELLS.h // 2, :], atol=1e-6)
    assert torch.allclose(mixed[..., CELLS.h // 2 :, :], even[..., CELLS.h // 2 :, :], atol=1e-6)
    assert (even - none).abs().max() > 1e-3


# Flow matching


@pytest.mark.parametrize("scheduler", ["model", "ddim", "euler", "dpm++2m"])
@pytest.mark.parametrize("name", FLOW)
def test_flow_structure_of_full_strength_and_cutoff_makes_the_estimate_the_reference(load, name, scheduler):
    backbone = adapt(load(name))
    chosen = settings(scheduler=scheduler, steps=8, guidance=1.0)
    canvas = Size(16, 20)
    z, reference = (draw_noise((1, 4, *canvas), seed) for seed in (1, 2))
    held, idle = (GlobalStructure(reference, 1000.0, weight) for weight in (1.0, 0.0))
    ends = []
    with backbone.denoiser(chosen, [None] * 2, canvas, CELLS) as denoiser:
        for prior in (None, idle, held):
            loop = denoise(
                denoiser, backbone.schedule(chosen), z, window=CELLS, overlap=0.5, seed=0, structure=prior
            )
            ends.append([event for event in loop if isinstance(event, StepDone)])
    assert torch.equal(ends[0][-1].sample, ends[1][-1].sample)
    assert torch.allclose(ends[2][0].x0, reference, atol=1e-3)
    schedule = backbone.schedule(chosen)
    noise = draw_noise(z.shape, 3)
    sample = schedule.noised(z, noise, 1)
    velocity = noise - z
    assert torch.allclose(schedule.to_x0(velocity, sample, 1), z, atol=1e-4)
    assert torch.allclose(schedule.from_x0(z, sample, 1), velocity, atol=1e-3)


@pytest.mark.parametrize("scheduler", ["model", "ddim", "euler", "dpm++2m"])
def test_flow_with_the_true_velocity_ends_at_the_image(load, scheduler):
    backbone = adapt(load("sd3"))
    schedule = backbone.schedule(settings(scheduler=scheduler, steps=10, strength=0.45))
    assert len(schedule.timesteps) == 5
    z, noise = draw_noise((1, 4, *CELLS), 1), draw_noise((1, 4, *CELLS), 2)
    sample = schedule.noised(z, noise, 0)
    for i in range(5):
        assert torch.allclose(sample, schedule.noised(z, noise, i), atol=1e-3)
        sample = schedule.step(noise - z, sample, i)
    assert torch.allclose(sample, z, atol=1e-3)


def test_the_flow_start_is_the_same_fraction_of_the_schedule(load):
    """The last 45% of the steps; how noisy that is, the shift says: 3 u / (1 + 2 u)."""
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    args = ("model", 0.45, 100, 0, torch.device("cpu"), 4096)
    schedule = FlowSchedule(scheduler, *args)
    assert len(schedule.timesteps) == 45
    assert schedule._noise[0] == pytest.approx(3 * 0.45 / 1.9, abs=0.01)
    assert FlowSchedule(diffusers.FlowMatchEulerDiscreteScheduler(), *args)._noise[0] == pytest.approx(
        0.45, abs=0.01
    )


def test_a_dynamic_shift_looks_at_a_window_and_not_at_the_canvas(folders, tmp_path):
    """As SD3's own pipeline at native size, to 1e-4."""
    folder = make_sd3(
        tmp_path, scheduler={"use_dynamic_shifting": True, "shift": 1.0, "max_image_seq_len": 300}
    )
    pipe = cupscale.load(str(folder), device="cpu")
    chosen, z = settings(guidance=1.0), draw_noise((1, 4, *CELLS), 11)
    backbone = adapt(pipe)
    with backbone.denoiser(chosen, [None], CELLS, CELLS) as denoiser:
        ours = final(denoise(denoiser, backbone.schedule(chosen), z, window=CELLS, overlap=0.5, seed=3))
    img2img = diffusers.StableDiffusion3Img2ImgPipeline(**pipe.components)
    img2img.set_progress_bar_config(disable=True)
    theirs = img2img(
        "a red fox",
        image=z,
        strength=0.5,
        num_inference_steps=6,
        guidance_scale=1.0,
        height=64,
        width=64,
        generator=torch.Generator().manual_seed(3),
        output_type="latent",
    ).images
    assert torch.allclose(ours, theirs, atol=1e-4)


# Few steps


@pytest.mark.parametrize(
    ("name", "scheduler", "options"),
    [
        ("sdxl", "LCMScheduler", {}),
        ("sd15", "LCMScheduler", {}),
        ("sdxl", "TCDScheduler", {}),
        ("sdxl", "EulerDiscreteScheduler", {"timestep_spacing": "trailing"}),  # Lightning
        ("sdxl", "EulerAncestralDiscreteScheduler", {"timestep_spacing": "trailing"}),  # Turbo
        ("sd3", "FlowMatchEulerDiscreteScheduler", {}),  # SD3.5 Turbo
        ("sd3", "FlowMatchLCMScheduler", {}),
        ("z-image", "FlowMatchEulerDiscreteScheduler", {}),  # Z-Image-Turbo
    ],
)
def test_few_steps_without_guidance(load, name, scheduler, options):
    pipe = load(name)
    pipe.scheduler = getattr(diffusers, scheduler).from_config(pipe.scheduler.config, **options)
    fields = FAST | {"steps": 8, "strength": 0.45, "guidance": 1.0}
    plan = cupscale.CUpscalePipeline(pipe).plan((40, 24), cupscale.Settings.build(fields))
    assert plan.steps == 4 and not plan.guided and "the last 4 of 8 steps" in plan.line()
    results = [
        cupscale.upscale(pipe, photo(), prompt="a fox", captions=[CAPTION], **fields) for _ in range(2)
    ]
    assert results[0].plan.steps == 4
    assert results[0].image.tobytes() == results[1].image.tobytes()
    assert is_flow(pipe.scheduler) == (name in FLOW)


def test_the_schedulers_of_few_steps_are_known_for_what_they_are(load):
    pipe = load("sdxl")
    pipe.scheduler = diffusers.LCMScheduler.from_config(pipe.scheduler.config)
    chosen = cupscale.CUpscalePipeline(pipe).settings()
    assert (chosen.steps, chosen.guidance, chosen.strength) == (8, 1.0, 0.45)
    assert cupscale.CUpscalePipeline(load("sd3")).settings().steps == 28


# Text


@pytest.mark.parametrize("name", list(FAMILIES))
def test_what_the_text_encoder_does_not_read_is_cut_and_shown(load, name):
    pipe = load(name)
    limit = adapt(pipe).budget.limit
    words = " ".join(["boat"] * 380) + " lastword"
    fields = FAST | {"steps": 2, "guidance": 1.0, "prompt": words, "captions": [CAPTION | {"caption": words}]}
    events = list(cupscale.stream(pipe, photo(), **fields))
    notices = [event.message for event in events if isinstance(event, cupscale.Notice)]
    about = [message for message in notices if f"reads {limit} tokens" in message]
    assert any("prompt was cut" in message and "lastword" in message for message in about), notices
    assert any("caption" in message and "region 1" in message and "boat" in message for message in about), (
        notices
    )
    fits = "boat"
    while adapt(pipe).budget.count(f"{fits} boat") <= limit:
        fits += " boat"
    quiet = list(cupscale.stream(pipe, photo(), **fields | {"prompt": fits, "captions": ()}))
    said = [event.message for event in quiet if isinstance(event, cupscale.Notice)]
    assert not [message for message in said if "PNDM" not in message]
    assert quiet[-1].result.image.tobytes() != b""


@pytest.mark.parametrize(
    ("name", "limit"), [("sd15", 75), ("pixart-alpha", 119), ("pixart-sigma", 299), ("sd3", 255)]
)
def test_the_text_limit_is_the_encoders(load, name, limit):
    assert adapt(load(name)).budget.limit == limit


def test_a_large_text_encoder_waits_in_main_memory_and_comes_back(load, monkeypatch):
    pipe = load("sd3")
    monkeypatch.setattr("cupscale.backbones.base.PARK_BYTES", 0)
    moves = []
    names = ("text_encoder", "text_encoder_2", "text_encoder_3")
    for name in names:
        part = getattr(pipe, name)
        monkeypatch.setattr(part, "to", lambda device, name=name: moves.append((name, str(device))))
    with contextlib.suppress(KeyError), parked(pipe, torch.device("cuda")):
        assert sorted(moves) == [(name, "cpu") for name in names]
        raise KeyError
    assert sorted(moves[3:]) == [(name, "cuda") for name in names]
    moves.clear()
    with parked(pipe, torch.device("cpu")):
        assert not moves
    pipe.text_encoder_3._hf_hook = object()  # offloaded by diffusers: not ours to move
    with parked(pipe, torch.device("cuda")):
        assert sorted(moves) == [(name, "cpu") for name in names[:2]]


def test_sd3_runs_without_its_t5(tmp_path):
    pipe = cupscale.load(str(make_sd3(tmp_path, t5=False)), device="cpu")
    assert adapt(pipe).budget.limit == 75
    result = cupscale.upscale(pipe, photo(), prompt="a fox", captions=[CAPTION], **FAST)
    assert result.image.size == (120, 72)


# Bad input


def test_an_unsupported_pipeline_lists_the_supported():
    with pytest.raises(CupscaleError) as error:
        adapt(object())
    for name in (
        "StableDiffusionPipeline",
        "StableDiffusionXLPipeline",
        "PixArtAlphaPipeline",
        "PixArtSigmaPipeline",
        "StableDiffusion3Pipeline",
        "ZImagePipeline",
    ):
        assert name in str(error.value)


@pytest.mark.parametrize("name", list(FAMILIES))
def test_a_missing_part_is_named_with_how_to_add_it(load, name):
    backbone = type(adapt(load(name)))
    for part, kind in backbone.PARTS.items():
        pipe = load(name)
        setattr(pipe, part, None)
        with pytest.raises(CupscaleError, match=f"no {part}: add it with .*{part}={kind}.from_pretrained"):
            cupscale.upscale(pipe, photo(), **FAST)


def test_a_folder_saved_without_its_vae_says_so(load, tmp_path):
    pipe = load("sd15")
    pipe.register_modules(vae=None)
    pipe.save_pretrained(tmp_path)
    with pytest.raises(CupscaleError, match="no vae: add it"):
        cupscale.upscale(cupscale.load(str(tmp_path), device="cpu"), photo(), **FAST)


# Known models


def test_the_registry_knows_every_architecture():
    assert {"tiny", *FAMILIES, "dreamshaper-xl", "z-image-turbo"} <= set(models.KNOWN)
    for name, known in models.KNOWN.items():
        assert known.licence and known.geometry.native >= 256 and hasattr(diffusers, known.pipeline)
        chosen = cupscale.Settings.build(models.defaults(name), scale=4)
        assert chosen.model == name
        plan = make_plan((1024, 1024), chosen, known.geometry)
        assert plan.output == (4096, 4096)
        assert known.memory * 1e9 > known.geometry.weights
    usual = cupscale.Settings.build(models.defaults("z-image-turbo"))
    turbo = make_plan((1024, 1024), usual, models.KNOWN["z-image-turbo"].geometry)
    assert turbo.steps == 4 and not turbo.guided


def test_a_few_step_name_loads_its_lora_and_scheduler_and_is_remembered(folders, monkeypatch):
    entry = models.KNOWN["sdxl-lightning"]
    monkeypatch.setitem(models.KNOWN, "sdxl-lightning", dataclasses.replace(entry, source=folders("sdxl")))
    asked = []
    monkeypatch.setattr(
        diffusers.StableDiffusionXLPipeline, "load_lora_weights", lambda self, *a, **k: asked.append((a, k))
    )
    pipe = cupscale.load("sdxl-lightning", device="cpu")
    assert asked == [
        (
            ("ByteDance/SDXL-Lightning",),
            {"weight_name": "sdxl_lightning_8step_lora.safetensors", "adapter_name": "few_steps"},
        )
    ]
    assert pipe.scheduler.config.timestep_spacing == "trailing"
    chosen = cupscale.CUpscalePipeline(pipe).settings()
    assert (chosen.model, chosen.steps, chosen.guidance) == ("sdxl-lightning", 8, 1.0)


def test_the_table_of_what_was_checked_names_the_ids_that_are_loaded():
    text = (Path(__file__).parent.parent / "docs" / "models.md").read_text(encoding="utf-8")
    rows = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in text.splitlines()]
    checked = {row[0]: row[1] for row in rows if row[0] in models.KNOWN}
    assert len(checked) == 8 and checked == {name: models.KNOWN[name].source for name in checked}


def test_the_models_command_lists_them():
    found = CliRunner().invoke(main, ["models"])
    assert found.exit_code == 0
    for name, known in models.KNOWN.items():
        line = next(line for line in found.output.splitlines() if line.startswith(f"{name} "))
        assert known.licence in line and f"{known.memory:g} GB" in line
        assert name == "tiny" or known.source in line
    data = CliRunner().invoke(main, ["models", "--json"])
    assert json.loads(data.output)["sd3"]["native"] == 1024
