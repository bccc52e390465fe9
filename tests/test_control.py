"""ControlNet "tile", on small random checkpoints that are loaded the real way."""

import diffusers
import numpy as np
import pytest
import torch
from checkpoints import (
    make_controlnet,
    make_pixart,
    make_sd15,
    make_sdxl,
    make_zimage,
    make_zimage_controlnet,
    shifted,
)
from click.testing import CliRunner
from PIL import Image

import cupscale
from cupscale import cli, models
from cupscale.backbones import Tiles, adapt
from cupscale.errors import CupscaleError
from cupscale.method.regions import Region, Size
from cupscale.method.sampler import StepDone, denoise, draw_noise
from cupscale.pipeline import CUpscalePipeline

CANVAS, OVERVIEW = Size(20, 28), Size(12, 16)
SIDE = 64


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The checkpoints, each with a ControlNet beside it: 4 px to a cell, as their VAE."""
    root = tmp_path_factory.mktemp("control")
    made = {"sd15": make_sd15(root / "sd15"), "sdxl": make_sdxl(root / "sdxl")}
    for name, folder in made.items():
        make_controlnet(root / f"{name}-tile", folder)
    sdxl = diffusers.UNet2DConditionModel.from_pretrained(made["sdxl"] / "unet")
    for name, kinds in (("union", 8), ("six", 6)):
        torch.manual_seed(2)
        union = diffusers.ControlNetUnionModel(
            **{
                key: sdxl.config[key]
                for key in (
                    "block_out_channels",
                    "layers_per_block",
                    "down_block_types",
                    "transformer_layers_per_block",
                    "attention_head_dim",
                    "cross_attention_dim",
                    "use_linear_projection",
                    "addition_embed_type",
                    "addition_time_embed_dim",
                    "projection_class_embeddings_input_dim",
                    "norm_num_groups",
                )
            },
            conditioning_embedding_out_channels=(8, 8, 16),
            num_control_type=kinds,
            num_trans_channel=16,
            num_trans_head=2,
            num_trans_layer=1,
            num_proj_channel=16,
        )
        shifted(union).save_pretrained(root / f"sdxl-{name}")
    made_zimage = make_zimage(root / "zimage")
    make_zimage_controlnet(root / "zimage-union", made_zimage)
    return root


def loaded(folders, name, kind):
    return cupscale.load(str(folders / name), device="cpu", controlnet=str(folders / f"{name}-{kind}"))


def photo(width=40, height=32):
    y, x = np.mgrid[0:height, 0:width]
    planes = [np.sin(x / 3 + k) * np.cos(y / (4 + k)) * 100 + 128 for k in range(3)]
    return Image.fromarray(np.stack(planes, -1).astype(np.uint8))


def bytes_of(image):
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


KINDS = [("sd15", "tile"), ("sdxl", "tile"), ("sdxl", "union")]


@pytest.mark.parametrize("guidance", [1.0, 4.0])
@pytest.mark.parametrize(("name", "kind"), KINDS)
def test_one_region_is_the_pipelines_own_call(folders, name, kind, guidance):
    """With every prior off: diffusers' image to image with the same ControlNet, weight and image."""
    pipe = loaded(folders, name, kind)
    pipe.set_progress_bar_config(disable=True)
    backbone = adapt(pipe)
    settings = cupscale.Settings.build(
        attention=0,
        detail=0,
        structure=0,
        strength=0.5,
        steps=6,
        guidance=guidance,
        seed=3,
        scheduler="ddim",
        prompt="a red fox",
        control=0.7,
    )
    cells = Size(16, 16)
    z, image = draw_noise((1, 4, *cells), 11), photo(SIDE, SIDE)
    args = (settings, [None], cells, cells, None, None, {cells: bytes_of(image)})
    with backbone.denoiser(*args) as denoiser:
        schedule = backbone.schedule(settings)
        loop = denoise(denoiser, schedule, z, window=cells, overlap=0.5, seed=3)
        ours = [event for event in loop if isinstance(event, StepDone)][-1].sample
    sister = type(pipe).__name__.replace("Pipeline", "Img2ImgPipeline")
    options = {"clip_sample": False, "set_alpha_to_one": False}
    scheduler = diffusers.DDIMScheduler.from_config(pipe.scheduler.config, **options)
    components = {key: part for key, part in pipe.components.items() if key != "scheduler"}
    img2img = getattr(diffusers, sister)(
        **components, scheduler=scheduler, **({"requires_safety_checker": False} if name == "sd15" else {})
    )
    img2img.set_progress_bar_config(disable=True)
    sizes = {"original_size": (SIDE, SIDE), "target_size": (SIDE, SIDE)} if name == "sdxl" else {}
    mode = {"control_mode": [6]} if kind == "union" else {}
    theirs = img2img(
        "a red fox",
        image=z,
        control_image=[image] if kind == "union" else image,
        controlnet_conditioning_scale=0.7,
        strength=0.5,
        num_inference_steps=6,
        guidance_scale=guidance,
        generator=torch.Generator().manual_seed(3),
        output_type="latent",
        **sizes,
        **mode,
    ).images
    assert torch.allclose(ours, theirs, atol=2e-4), (ours - theirs).abs().max()


@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_one_window_of_z_image_is_the_pipelines_own_call(folders, guidance):
    """From noise, with every prior off; its guidance is 1 + that of diffusers, for whom 0 is off."""
    pipe = loaded(folders, "zimage", "union")
    pipe.set_progress_bar_config(disable=True)
    backbone = adapt(pipe)
    settings = cupscale.Settings.build(
        attention=0,
        detail=0,
        structure=0,
        strength=1,
        steps=4,
        guidance=guidance,
        prompt="a red fox",
        control=0.7,
    )
    cells = Size(12, 16)
    noise, image = draw_noise((1, 4, *cells), 11), photo(64, 48)
    latents = backbone.encode(cupscale.images.to_tensor(image), Tiles())
    with backbone.denoiser(settings, [None], cells, cells, None, None, {cells: latents[0]}) as denoiser:
        schedule = backbone.schedule(settings, cells)
        start = schedule.from_noise(noise)
        loop = denoise(denoiser, schedule, noise, window=cells, overlap=0.0, seed=0, sample=start)
        ours = [event for event in loop if isinstance(event, StepDone)][-1].sample
    theirs = pipe(
        "a red fox",
        height=48,
        width=64,
        num_inference_steps=4,
        guidance_scale=guidance - 1,
        control_image=image,
        controlnet_conditioning_scale=0.7,
        latents=noise,
        output_type="latent",
    ).images
    assert torch.allclose(ours, theirs, atol=2e-4), (ours - theirs).abs().max()


def test_z_images_regions_see_their_latents_and_captions_get_nothing_added(folders):
    """A region with a long caption: what the ControlNet adds stops where the captions begin."""
    pipe = loaded(folders, "zimage", "union")
    backbone = adapt(pipe)
    seen, added = [], []
    pipe.controlnet.register_forward_hook(lambda module, args, output: seen.append((args, output)))
    pipe.transformer.register_forward_pre_hook(
        lambda module, args, kwargs: added.append(kwargs["controlnet_block_samples"]), with_kwargs=True
    )
    settings = cupscale.Settings.build(prompt="a red fox", guidance=3.0, control=0.25, attention=0)
    wide, regions = draw_noise((4, *CANVAS), 7), [Region(8, 0, 12, 16), Region(2, 12, 12, 16)]
    caption = "a boat with a long blue sail on a lake " * 4
    args = (settings, [caption, None], CANVAS, OVERVIEW, None, None, {CANVAS: wide})
    with backbone.denoiser(*args) as denoiser:
        denoiser.predict(draw_noise((2, 4, 12, 16), 2), torch.tensor(500.0), regions, range(2))
    (given, output), own = seen[0], added[0]
    context = given[3]
    assert context.shape == (4, 7, 1, 12, 16) and not context[:, 4:].any()
    for row, region in enumerate(regions * 2):
        assert torch.allclose(context[row, :4, 0], region.crop(wide))
    assert set(own) == {0, 1}
    for layer in own:
        tokens = output[layer].shape[1]
        assert torch.equal(own[layer][:, :tokens], output[layer])
        assert own[layer].shape[1] > tokens and not own[layer][:, tokens:].any()


@pytest.mark.parametrize("kind", ["tile", "union"])
def test_each_region_sees_its_own_piece(folders, kind):
    """In the canvas and in the overview, without the captions, and both halves of guidance alike."""
    pipe = loaded(folders, "sdxl", kind)
    backbone = adapt(pipe)
    seen = []
    pipe.controlnet.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append((args, kwargs)), with_kwargs=True
    )
    settings = cupscale.Settings.build(prompt="a red fox", guidance=3.0, control=0.25)
    wide, small = bytes_of(photo(112, 80)), bytes_of(photo(64, 48))
    regions = [Region(8, 0, 12, 16), Region(2, 12, 12, 16)]
    enlarged = {CANVAS: wide, OVERVIEW: small}
    with backbone.denoiser(settings, ["a boat", None], CANVAS, OVERVIEW, None, None, enlarged) as denoiser:
        denoiser.capture(draw_noise((1, 4, *OVERVIEW), 1), torch.tensor(500))
        denoiser.predict(draw_noise((2, 4, 12, 16), 2), torch.tensor(500), regions, range(2))

    def looked_at(kwargs):
        given = kwargs["controlnet_cond"]
        return given[0] if kind == "union" else given

    (_, whole), (_, parts) = seen
    assert torch.allclose(looked_at(whole)[0] * 255, small.float(), atol=1e-4)
    crops = [wide[:, 32:80, 0:64].float() / 255, wide[:, 8:56, 48:112].float() / 255]
    assert torch.allclose(looked_at(parts), torch.stack(crops * 2), atol=1e-6)
    assert parts["conditioning_scale"] == 0.25
    length = pipe.encode_prompt("a red fox", do_classifier_free_guidance=False)[0].shape[1]
    assert parts["encoder_hidden_states"].shape[1] == length
    if kind == "union":
        assert parts["control_type"].tolist() == [[0, 0, 0, 0, 0, 0, 1, 0]] * 4
        assert parts["control_type_idx"] == [6]


@pytest.mark.parametrize("name", ["sdxl", "zimage"])
def test_a_run_with_control_is_another_one_and_leaves_nothing_behind(folders, name):
    pipeline = CUpscalePipeline(loaded(folders, name, "union"))
    fields = {
        "scale": 2,
        "prompt": "a fox",
        "steps": 4,
        "strength": 0.5,
        "upscaler": "lanczos",
        "fidelity": 0,
    }
    without = np.asarray(pipeline.upscale(photo(), **fields).image).astype(int)
    controlled = pipeline.upscale(photo(), **fields, control=0.8)
    assert np.abs(np.asarray(controlled.image).astype(int) - without).max() > 2
    assert controlled.settings.control == 0.8
    assert (np.asarray(pipeline.upscale(photo(), **fields).image) == without).all()
    plain = CUpscalePipeline(cupscale.load(str(folders / name), device="cpu"))
    assert (np.asarray(plain.upscale(photo(), **fields).image) == without).all()


def test_what_cannot_be_controlled_is_refused_before_any_work(folders, tmp_path):
    plain = CUpscalePipeline(cupscale.load(str(folders / "sdxl"), device="cpu"))
    with pytest.raises(CupscaleError, match="needs a ControlNet, and StableDiffusionXLPipeline has none"):
        plain.stream(photo(), control=0.5)
    six = CUpscalePipeline(loaded(folders, "sdxl", "six"))
    with pytest.raises(CupscaleError, match="knows 6 kinds of control and no tiles: take the ProMax"):
        six.stream(photo(), control=0.5)
    pixart = make_pixart(tmp_path / "pixart")
    with pytest.raises(CupscaleError, match="SDXL and Z-Image, not with PixArt"):
        CUpscalePipeline(cupscale.load(str(pixart), device="cpu")).stream(photo(), control=0.5)
    with pytest.raises(CupscaleError, match="not with PixArtAlphaPipeline: leave it out"):
        cupscale.load(str(pixart), device="cpu", controlnet=str(folders / "sdxl-tile"))
    with pytest.raises(CupscaleError, match="cannot load model"):
        cupscale.load(str(folders / "sdxl"), device="cpu", controlnet=str(tmp_path / "nothing"))
    two = loaded(folders, "sdxl", "tile")
    two.controlnet = diffusers.MultiControlNetModel([two.controlnet])
    with pytest.raises(CupscaleError, match="not MultiControlNetModel"):
        CUpscalePipeline(two).stream(photo(), control=0.5)


def test_the_name_and_the_folder_are_kept(folders):
    pipe = loaded(folders, "sdxl", "union")
    assert isinstance(pipe, diffusers.StableDiffusionXLControlNetUnionPipeline)
    assert models.name_of(pipe) == str(folders / "sdxl")


@pytest.mark.parametrize(("weight", "loads"), [("0.4", True), ("0", False)])
def test_the_command_loads_one_only_where_it_is_asked_for(folders, tmp_path, monkeypatch, weight, loads):
    photo().save(tmp_path / "photo.png")
    asked = []
    load = models.load
    monkeypatch.setattr(
        models, "load", lambda model, **options: asked.append(options["controlnet"]) or load(model, **options)
    )
    arguments = ["upscale", str(tmp_path / "photo.png"), "--model", str(folders / "sdxl"), "--device", "cpu"]
    arguments += ["--control", weight, "--controlnet", str(folders / "sdxl-union"), "--steps", "2"]
    arguments += ["--upscaler", "lanczos", "--out", str(tmp_path / "out.png"), "--scale", "2"]
    done = CliRunner().invoke(cli.main, arguments)
    assert done.exit_code == 0, done.output
    assert asked == [str(folders / "sdxl-union") if loads else None]
    assert cupscale.images.read_settings(tmp_path / "out.png")["control"] == float(weight)
