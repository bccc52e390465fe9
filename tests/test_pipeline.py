"""The whole way, on small random SDXL checkpoints loaded the real way."""

import contextlib
import io
import json

import numpy as np
import pytest
import torch
from checkpoints import make_sdxl
from diffusers import StableDiffusionXLImg2ImgPipeline
from PIL import Image

import cupscale
from cupscale.backbones import Tiles, adapt
from cupscale.backbones.schedules import SCHEDULERS
from cupscale.backbones.unet import SDXLBackbone
from cupscale.errors import CupscaleError
from cupscale.method.regions import Size
from cupscale.method.sampler import StepDone, denoise, draw_noise
from cupscale.method.structure import GlobalStructure
from cupscale.pipeline import CUpscalePipeline

FAST = {
    "strength": 0.5,
    "steps": 4,
    "guidance": 1.0,
    "upscaler": "lanczos",
    "fidelity": 0.0,  # so that what the tests see is the method's own
    "scheduler": "ddim",
}


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return make_sdxl(tmp_path_factory.mktemp("sdxl"))


@pytest.fixture
def pipe(folder):
    return cupscale.load(str(folder), device="cpu")


def photo(width=32, height=32, mode="RGB"):
    y, x = np.mgrid[0:height, 0:width]
    planes = [np.sin(x / 5 + k) * np.cos(y / (4 + k)) * 100 + 128 for k in range(len(mode))]
    return Image.fromarray(np.stack(planes, -1).astype(np.uint8), mode)


def pixels(result):
    return np.asarray(result.image).astype(int)


# Sizes


@pytest.mark.parametrize(
    ("size", "scale"),
    [((32, 32), 2), ((33, 47), 1.5), ((16, 80), 3), ((100, 17), 1), ((16, 16), 16), ((21, 30), 2.37)],
)
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_output_is_exactly_round_scale_times_input(pipe, size, scale, mode):
    result = cupscale.upscale(pipe, photo(*size, mode), scale=scale, **FAST | {"overlap": 0.25, "steps": 2})
    assert result.image.size == (round(size[0] * scale), round(size[1] * scale))
    assert result.image.mode == mode


def test_too_small_and_too_large_are_refused_before_any_work(pipe):
    with pytest.raises(CupscaleError, match="16 px"):
        cupscale.upscale(pipe, photo(15, 40))
    with pytest.raises(CupscaleError, match=r"16384 px a side; choose a scale of at most 8\.19"):
        cupscale.upscale(pipe, photo(2000, 16), scale=9)


# Determinism


def test_same_seed_same_bytes_another_seed_another_picture(pipe):
    first, again = (cupscale.upscale(pipe, photo(), scale=3, seed=5, **FAST) for _ in range(2))
    assert first.image.tobytes() == again.image.tobytes()
    assert first.image.tobytes() != cupscale.upscale(pipe, photo(), scale=3, seed=6, **FAST).image.tobytes()


def test_the_number_of_regions_at_once_changes_no_pixel_by_more_than_one_level(pipe):
    """One batch size gives the same bytes every time. Across batch sizes a network's sums may be taken in another order,
    which moves the float canvas by less than 1e-4 and so a pixel by at most one level, and hardly any."""
    one = cupscale.upscale(pipe, photo(), scale=4, seed=5, batch=1, **FAST)
    for batch in (2, 5, 100):
        many = cupscale.upscale(pipe, photo(), scale=4, seed=5, batch=batch, **FAST)
        difference = np.abs(pixels(one) - pixels(many))
        assert difference.max() <= 1
        assert (difference > 0).mean() < 0.001
        again = cupscale.upscale(pipe, photo(), scale=4, seed=5, batch=batch, **FAST)
        assert again.image.tobytes() == many.image.tobytes()


# The method against diffusers' own


@pytest.mark.parametrize("guidance", [1.0, 5.0])
@pytest.mark.parametrize("scheduler", list(SCHEDULERS))
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_one_region_with_all_priors_off_is_diffusers_img2img(pipe, scheduler, prediction, guidance):
    pipe.scheduler.register_to_config(prediction_type=prediction)
    backbone = adapt(pipe)
    settings = cupscale.Settings.build(
        attention=0,
        detail=0,
        structure=0,
        strength=0.5,
        steps=6,
        guidance=guidance,
        seed=3,
        scheduler=scheduler,
        prompt="a red fox",
    )
    cells = Size(16, 16)
    z = draw_noise((1, 4, *cells), 11)
    with backbone.denoiser(settings, [None], cells, cells) as denoiser:
        events = list(
            denoise(denoiser, backbone.schedule(settings), z, window=cells, overlap=0.5, seed=settings.seed)
        )
    ours = [event for event in events if isinstance(event, StepDone)][-1].sample
    kind, options = SCHEDULERS[scheduler]
    img2img = StableDiffusionXLImg2ImgPipeline(
        **{**pipe.components, "scheduler": kind.from_config(pipe.scheduler.config, **options)}
    )
    img2img.set_progress_bar_config(disable=True)
    side = 16 * backbone.geometry.cell
    theirs = img2img(
        "a red fox",
        image=z,
        strength=0.5,
        num_inference_steps=6,
        guidance_scale=guidance,
        generator=torch.Generator().manual_seed(3),
        output_type="latent",
        original_size=(side, side),
        target_size=(side, side),
    ).images
    assert torch.allclose(ours, theirs, atol=1e-4), (ours - theirs).abs().max()


@pytest.mark.parametrize("scheduler", [*SCHEDULERS, "model"])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_structure_of_full_strength_and_cutoff_makes_the_estimate_the_reference(pipe, scheduler, prediction):
    """Whatever the sampler and the prediction type: x0 is the reference after GSP, and the sampler steps towards it."""
    pipe.scheduler.register_to_config(prediction_type=prediction)
    backbone = adapt(pipe)
    settings = cupscale.Settings.build(
        attention=0, detail=0, strength=0.5, steps=4, guidance=1, scheduler=scheduler
    )
    cells = Size(16, 20)
    z, reference = (draw_noise((1, 4, *cells), seed) for seed in (1, 2))
    held = GlobalStructure(reference, 1000.0)
    finals = []
    with backbone.denoiser(settings, [None] * 2, cells, cells) as denoiser:
        for prior in (None, held):
            loop = denoise(
                denoiser,
                backbone.schedule(settings),
                z,
                window=Size(16, 16),
                overlap=0.5,
                seed=0,
                structure=prior,
            )
            steps = [event for event in loop if isinstance(event, StepDone)]
            if prior:
                assert torch.allclose(steps[0].x0, reference, atol=1e-3)
            finals.append(steps[0].sample)
        schedule = backbone.schedule(settings)
        sample = schedule.noised(z, draw_noise(z.shape, 3), 1)
        assert torch.allclose(schedule.to_x0(schedule.from_x0(z, sample, 1), sample, 1), z, atol=1e-4)
    assert not torch.allclose(*finals, atol=1e-2)


def _pixels(image, side):
    from cupscale import images

    return images.to_tensor(images.resize(image, (side, side), "lanczos"))


# The ablation


def test_a_weight_of_zero_leaves_its_prior_out(pipe):
    """Rows of the paper's ablation: each prior changes the picture, and at weight 0 it is as if it were not there."""
    caption = cupscale.Caption(box=(0, 0, 64, 64), caption="a blue boat")
    common = FAST | {"scale": 4, "seed": 2, "prompt": "a red fox", "captions": [caption]}
    off = {"structure": 0, "attention": 0, "detail": 0}
    plain = pixels(cupscale.upscale(pipe, photo(), **common | off))
    for name in off:
        assert (pixels(cupscale.upscale(pipe, photo(), **common | off | {name: 0.7})) != plain).any(), name
    without = pixels(cupscale.upscale(pipe, photo(), **common | off | {"captions": []}))
    assert (without == plain).all()


def test_zero_weights_cost_nothing(pipe):
    calls = []
    handle = pipe.unet.register_forward_pre_hook(lambda module, args: calls.append(args[0].shape[0]))
    result = cupscale.upscale(pipe, photo(), scale=4, structure=0, attention=0, detail=0, **FAST)
    assert sum(calls) == result.plan.samples == result.plan.evaluations == 2 * len(result.plan.regions)
    calls.clear()
    guided = cupscale.upscale(pipe, photo(), scale=4, **FAST | {"guidance": 3.0, "attention": 0.5})
    assert sum(calls) == guided.plan.samples == 2 * (2 * len(guided.plan.regions) + 1)
    handle.remove()


def test_a_region_follows_its_caption_and_far_ones_do_not(pipe, monkeypatch):
    """Looked at in latents: a VAE's own attention carries a trace of everything everywhere."""
    latents = []
    decode = SDXLBackbone.decode
    monkeypatch.setattr(
        SDXLBackbone, "decode", lambda self, z, *rest: latents.append(z) or decode(self, z, *rest)
    )
    common = FAST | {
        "scale": 4,
        "attention": 0,
        "detail": 1.0,
        "structure": 0,
        "overlap": 0.0,
        "prompt": "a fox",
    }
    box = (0, 0, 64, 64)
    for text in ("a blue boat", "green grass"):
        cupscale.upscale(pipe, photo(), captions=[{"box": box, "caption": text}], **common)
    difference = (latents[0] - latents[1]).abs()
    assert difference[..., :16, :16].max() > 1e-3
    assert difference[..., 16:, :].max() < 1e-6 > difference[..., 16:].max()


# Hooks


def processors(pipe):
    return {name: id(processor) for name, processor in pipe.unet.attn_processors.items()}


@pytest.mark.parametrize("how", ["end", "close", "error"])
def test_the_callers_pipeline_comes_back_as_it_was(pipe, how, monkeypatch):
    scheduler, config = pipe.scheduler, dict(pipe.scheduler.config)
    timesteps = pipe.scheduler.timesteps.clone()
    vae = {
        name: getattr(pipe.vae, name)
        for name in ("use_tiling", "tile_sample_min_size", "tile_overlap_factor")
    }
    before = processors(pipe)
    stream = cupscale.stream(
        pipe, photo(), scale=4, prompt="a fox", captions=[{"box": (0, 0, 64, 64), "caption": "x"}], **FAST
    )
    during = None
    if how == "error":
        for event in stream:
            if isinstance(event, cupscale.Progress) and event.regions == 2:
                monkeypatch.setattr(pipe.unet, "forward", None)
                during = processors(pipe)
                break
        with pytest.raises(TypeError):
            list(stream)
        monkeypatch.undo()
    else:
        for event in stream:
            if isinstance(event, cupscale.Progress) and event.regions == 2:
                during = during or processors(pipe)
                if how == "close":
                    stream.close()
                    break
    assert during != before  # it did hook in
    assert processors(pipe) == before
    assert pipe.scheduler is scheduler and dict(scheduler.config) == config
    assert torch.equal(scheduler.timesteps, timesteps)
    assert vae == {name: getattr(pipe.vae, name) for name in vae}
    assert not pipe.unet._forward_pre_hooks and not pipe.unet._forward_hooks


def test_a_lora_is_honoured_and_kept(pipe):
    from peft import LoraConfig

    plain = pixels(cupscale.upscale(pipe, photo(), scale=2, prompt="a fox", **FAST))
    pipe.unet.add_adapter(LoraConfig(r=2, target_modules=["to_k", "to_v"], init_lora_weights=False))
    with_lora = pixels(cupscale.upscale(pipe, photo(), scale=2, prompt="a fox", **FAST))
    assert (with_lora != plain).any()
    assert pipe.unet.active_adapters() == ["default"]


def test_attention_that_cannot_be_composed_is_refused_and_left_alone(pipe):
    class Foreign:
        def __call__(self, *args, **kwargs):
            raise AssertionError

    name = next(name for name in pipe.unet.attn_processors if ".attn2." in name)
    module = pipe.unet.get_submodule(name.removesuffix(".processor"))
    module.processor = foreign = Foreign()
    with pytest.raises(CupscaleError, match="Foreign"):
        cupscale.upscale(pipe, photo(), scale=2, **FAST)
    assert module.processor is foreign


# Events, results


def test_events_come_in_order_and_count_up(pipe):
    events = list(cupscale.stream(pipe, photo(), scale=4, preview_px=64, **FAST))
    assert isinstance(events[0], cupscale.Planned) and isinstance(events[-1], cupscale.Finished)
    progress = [event for event in events if isinstance(event, cupscale.Progress)]
    assert list(dict.fromkeys(event.stage for event in progress)) == [
        "enlarge",
        "encode",
        "denoise",
        "decode",
        "correct",
    ]
    counts = [(event.step, event.regions) for event in progress if event.stage == "denoise"]
    total = len(events[0].plan.regions)
    assert counts == [(step, region) for step in (1, 2) for region in range(1, total + 1)]
    previews = [event for event in events if isinstance(event, cupscale.Preview)]
    assert [event.step for event in previews] == [0, 1, 2]
    assert max(previews[0].image.size) <= 64
    assert progress[-3].left == pytest.approx(0, abs=1e-6)


def test_a_preview_looks_like_the_picture():
    """At the start of a run that hardly changes anything, the preview is the input, small."""
    fields = FAST | {"strength": 0.02, "steps": 50, "cutoff": 2.0}
    events = cupscale.stream(cupscale.load("tiny"), photo(64, 64), scale=2, preview_px=32, **fields)
    preview = next(event.image for event in events if isinstance(event, cupscale.Preview) and event.step)
    assert max(preview.size) == 32
    small = np.asarray(photo(64, 64).resize(preview.size, Image.Resampling.LANCZOS)).astype(float)
    assert np.abs(np.asarray(preview).astype(float) - small).mean() < 8


def test_the_plain_enlargement_is_shown_at_once(pipe):
    events = cupscale.stream(pipe, photo(64, 32), scale=2, preview_px=32, **FAST | {"upscaler": "auto"})
    kinds = []
    for event in events:
        kinds.append(type(event))
        if isinstance(event, cupscale.Preview):
            break
    events.close()
    assert kinds == [cupscale.Planned, cupscale.Progress, cupscale.Preview]
    small = photo(64, 32).resize((32, 16), Image.Resampling.LANCZOS)
    assert event.step == 0 and event.image.tobytes() == small.tobytes()


def test_auto_is_settled_in_the_plan_and_in_the_file(pipe):
    result = cupscale.upscale(pipe, photo(), scale=2, **FAST | {"upscaler": "auto", "fidelity": "auto"})
    assert result.settings.upscaler in ("realsr", "realesrgan") and isinstance(
        result.settings.fidelity, float
    )
    assert result.plan.upscaler == result.settings.upscaler and result.plan.why
    assert f"enlarged by {result.plan.upscaler} ({result.plan.why}) first" in result.plan.line()
    again = cupscale.upscale(pipe, photo(), settings=result.settings)
    assert again.image.tobytes() == result.image.tobytes()


def test_settings_travel_in_the_file(pipe, tmp_path):
    from cupscale import images

    result = cupscale.upscale(pipe, photo(), scale=2, prompt="a fox", seed=9, **FAST)
    result.save(tmp_path / "big.png")
    found = cupscale.Settings.from_json(json.dumps(images.read_settings(tmp_path / "big.png")))
    assert found == result.settings
    again = cupscale.upscale(pipe, photo(), settings=found)
    assert again.image.tobytes() == result.image.tobytes()


def test_out_of_memory_goes_on_with_fewer_regions(pipe, monkeypatch):
    forward = pipe.unet.forward

    def small_card(sample, *args, **kwargs):
        if sample.shape[0] > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(sample, *args, **kwargs)

    monkeypatch.setattr(pipe.unet, "forward", small_card)
    events = list(cupscale.stream(pipe, photo(), scale=4, batch=8, **FAST))
    notices = [event.message for event in events if isinstance(event, cupscale.Notice)]
    assert notices == [
        "out of memory: going on with 4 regions at once",
        "out of memory: going on with 2 regions at once",
    ]
    monkeypatch.undo()
    plain = cupscale.upscale(pipe, photo(), scale=4, batch=2, **FAST)
    assert np.abs(pixels(events[-1].result) - pixels(plain)).max() <= 1


# Large canvases


def test_tiled_vae_has_explicit_tiles_and_agrees_with_the_whole(pipe):
    backbone = adapt(pipe)
    x = _pixels(photo(), 128)
    whole, parts = (backbone.encode(x, Tiles(side)) for side in (1024, 64))
    assert whole.shape == parts.shape
    assert (whole - parts).abs().mean() < whole.std() / 3
    seen = []
    decoder = pipe.vae.decoder
    handle = decoder.register_forward_pre_hook(lambda module, args: seen.append(tuple(args[0].shape[-2:])))
    backbone.decode(whole, Tiles(64))
    handle.remove()
    assert max(max(shape) for shape in seen) == 64 // backbone.geometry.cell


def test_offload_without_an_accelerator_is_refused(folder):
    for offload in ("model", "group", "sequential"):
        with pytest.raises(CupscaleError, match="needs an accelerator"):
            cupscale.load(str(folder), device="cpu", offload=offload)


def test_half_precision_runs_and_keeps_the_canvas_in_float32(folder):
    pipe = cupscale.load(str(folder), device="cpu", dtype="bfloat16")
    assert pipe.unet.dtype == torch.bfloat16
    result = cupscale.upscale(pipe, photo(), scale=3, prompt="a fox", **FAST | {"guidance": 3.0})
    assert result.image.size == (96, 96)


# Loading


@pytest.mark.parametrize("model", ["nonsense", "../etc", "a/b/c", ""])
def test_an_unknown_model_lists_the_known(model):
    with pytest.raises(CupscaleError, match="tiny, "):
        cupscale.load(model)


def test_a_folder_that_is_no_model_is_refused(tmp_path):
    with pytest.raises(CupscaleError, match="model_index"):
        cupscale.load(str(tmp_path))


def test_another_kind_of_pipeline_is_refused():
    with pytest.raises(CupscaleError, match="not supported"):
        CUpscalePipeline(object())


@contextlib.contextmanager
def no_network(monkeypatch):
    import socket

    def refuse(*args, **kwargs):
        raise OSError("no network in this test")

    with monkeypatch.context() as patch:
        patch.setattr(socket.socket, "connect", refuse)
        yield


def test_the_bundled_model_needs_no_network(monkeypatch):
    with no_network(monkeypatch):
        pipe = cupscale.load("tiny")
        result = cupscale.upscale(pipe, photo(48, 48), scale=2, upscaler="lanczos", steps=10, strength=0.2)
    assert result.image.size == (96, 96)
    buffer = io.BytesIO()
    result.image.save(buffer, "PNG")
    assert len(buffer.getvalue()) > 1000


def test_the_bundled_model_keeps_the_picture():
    """Downscaled, its output is the input: at least 28 dB on a smooth image, far from what a broken model gives."""
    pipe = cupscale.load("tiny")
    image = photo(64, 64)
    result = cupscale.upscale(pipe, image, scale=4, seed=1, upscaler="lanczos")
    back = np.asarray(result.image.resize((64, 64), Image.Resampling.LANCZOS)).astype(float)
    error = np.mean((back - np.asarray(image).astype(float)) ** 2)
    assert 10 * np.log10(255**2 / error) > 28
