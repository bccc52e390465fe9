"""Models as people have them: variants, single files, LoRAs, precision and defaults that follow the checkpoint."""

import dataclasses
import shutil
from pathlib import Path

import diffusers
import numpy as np
import pytest
import single_file
import torch
from checkpoints import make_sd3, make_sdxl
from click.testing import CliRunner
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from PIL import Image
from safetensors.torch import load_file, save_file
from small_runs import photo

import cupscale
from cupscale import checkpoints, models
from cupscale.cli import main
from cupscale.errors import CupscaleError

FAST = {"scale": 2, "strength": 0.5, "steps": 2, "guidance": 1, "upscaler": "lanczos", "captioner": "none"}


def picture(pipe, **fields):
    return np.asarray(cupscale.upscale(pipe, photo(), prompt="a fox", **FAST | fields).image).astype(int)


def weights(module):
    return torch.cat([p.detach().float().flatten() for p in module.parameters()])


# Variants


@pytest.fixture
def asked(monkeypatch):
    """The variants that diffusers was asked for."""
    variants, usual = [], diffusers.DiffusionPipeline.from_pretrained.__func__

    def noted(cls, *args, **kwargs):
        variants.append(kwargs.get("variant"))
        return usual(cls, *args, **kwargs)

    monkeypatch.setattr(diffusers.DiffusionPipeline, "from_pretrained", classmethod(noted))
    return variants


@pytest.fixture
def halves(folders, tmp_path):
    """SDXL in half precision only, under the names of the hub; its weights are half of those of `folders`."""
    pipe = cupscale.load(folders("sdxl"), device="cpu", dtype="float16")
    with torch.no_grad():
        for parameter in pipe.unet.parameters():
            parameter.mul_(0.5)
    pipe.save_pretrained(tmp_path / "halves", variant="fp16")
    assert list((tmp_path / "halves").rglob("*.fp16.safetensors"))
    return tmp_path / "halves"


@pytest.fixture
def both(folders, halves, tmp_path):
    """A folder with both, as SDXL's own repository: the halves can be told apart."""
    folder = tmp_path / "both"
    shutil.copytree(folders("sdxl"), folder)
    shutil.copytree(halves, folder, dirs_exist_ok=True)
    return str(folder)


def test_half_precision_reads_the_half_files_and_full_precision_the_full_ones(folders, both, asked):
    full = weights(cupscale.load(folders("sdxl"), device="cpu").unet)
    asked.clear()
    half = cupscale.load(both, device="cpu", dtype="float16")
    assert asked == ["fp16"] and half.unet.dtype == torch.float16
    assert torch.allclose(weights(half.unet), full / 2, atol=1e-3)
    asked.clear()
    whole = cupscale.load(both, device="cpu")
    assert asked == [None] and torch.equal(weights(whole.unet), full)


@pytest.mark.parametrize("dtype", ["float16", "float32", "bfloat16"])
def test_a_checkpoint_of_half_files_only_loads_in_every_precision(halves, dtype):
    pipe = cupscale.load(str(halves), device="cpu", dtype=dtype)
    assert str(pipe.unet.dtype) == str(pipe.text_encoder.dtype) == str(pipe.vae.dtype) == f"torch.{dtype}"


def test_a_checkpoint_without_half_files_loads_in_half_precision(folders, asked):
    assert cupscale.load(folders("sd15"), device="cpu", dtype="float16").unet.dtype == torch.float16
    assert asked == ["fp16", None]


def test_an_error_that_is_no_missing_variant_ends_the_search(folders, tmp_path, asked):
    shutil.copytree(folders("sd15"), tmp_path / "broken")
    (tmp_path / "broken" / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"no weights")
    with pytest.raises(CupscaleError, match="damaged"):
        cupscale.load(str(tmp_path / "broken"), device="cpu")
    assert asked == [None]


def test_a_download_that_breaks_says_what_is_kept_and_that_the_same_command_goes_on(folders, monkeypatch):
    def broken(cls, *args, **kwargs):
        raise checkpoints.connection_errors()[0]("peer closed connection\nin the middle")

    monkeypatch.setattr(diffusers.DiffusionPipeline, "from_pretrained", classmethod(broken))
    said = r"the download broke off \(peer closed connection\); what has come is kept, and the same command goes on from there$"
    with pytest.raises(CupscaleError, match=said):
        cupscale.load(folders("sd15"), device="cpu")


# Precision and defaults


@pytest.mark.parametrize(
    ("family", "dtype"), [("z-image", "bfloat16"), ("sdxl", "float16"), ("sd3", "float16")]
)
def test_precision_on_an_accelerator_follows_the_checkpoint(folders, family, dtype):
    kind = checkpoints.pipeline_class(folders(family))
    assert models._dtype(None, "cuda", kind) == getattr(torch, dtype)
    assert models._dtype(None, "cpu", kind) == torch.float32
    assert models._dtype("float16", "cuda", kind) == torch.float16


def test_the_plan_of_a_folder_has_the_steps_of_its_family(folders, tmp_path):
    """Not those of SDXL: Z-Image's own pipeline runs 8 steps without guidance."""
    photo().save(tmp_path / "a.png")
    for family, steps, guidance in (
        ("z-image", 8, 1.0),
        ("sd3", 28, 5.0),
        ("pixart-sigma", 20, 4.5),
        ("sdxl", 50, 7.5),
    ):
        assert models.family(folders(family))["guidance"] == guidance
        flags = ["--model", folders(family), "--captioner", "none", "--plan"]
        done = CliRunner().invoke(main, ["upscale", str(tmp_path / "a.png"), *flags])
        assert f"of {steps} steps" in done.stdout, done.output


def test_a_few_step_scheduler_in_a_folder_means_few_steps(folders, tmp_path):
    pipe = cupscale.load(folders("sd15"), device="cpu")
    pipe.scheduler = diffusers.LCMScheduler.from_config(pipe.scheduler.config)
    pipe.save_pretrained(tmp_path / "lcm")
    assert models.family(str(tmp_path / "lcm"))["steps"] == 8
    assert cupscale.CUpscalePipeline.from_pretrained(str(tmp_path / "lcm")).settings().steps == 8


def test_a_known_models_hub_id_is_that_model():
    assert models.known_of("Tongyi-MAI/Z-Image") is models.KNOWN["z-image"]
    assert (
        models.known_of("stabilityai/stable-diffusion-xl-base-1.0") is models.KNOWN["sdxl"]
    )  # not its few-step names
    assert models.known_of("owner/other") is None
    assert models.defaults("Tongyi-MAI/Z-Image")["guidance"] == 4.0


# Single files


@pytest.fixture
def single(folders, tmp_path, monkeypatch):
    """One file with all weights; the configuration that the hub has for it is the folder's."""
    from diffusers.loaders import single_file_utils

    known = single_file_utils.DIFFUSERS_DEFAULT_PIPELINE_PATHS
    monkeypatch.setitem(known, "v1", {"pretrained_model_name_or_path": folders("sd15")})
    pipe = cupscale.load(folders("sd15"), device="cpu")
    return str(single_file.write(pipe, tmp_path / "dream.safetensors"))


def test_a_single_file_is_the_same_model_as_its_folder(folders, single):
    whole, one = cupscale.load(folders("sd15"), device="cpu"), cupscale.load(single, device="cpu")
    assert type(one) is type(whole)
    for part in ("unet", "vae", "text_encoder"):
        ours, theirs = (dict(getattr(pipe, part).state_dict()) for pipe in (one, whole))
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    result = cupscale.upscale(one, photo(), **FAST)
    assert result.settings.model == single  # under which it is loaded again
    assert checkpoints.pipeline_class(single) == "StableDiffusionPipeline"
    assert models.family(single)["guidance"] == 7.5


@pytest.mark.parametrize(
    ("text", "file"),
    [
        ("owner/name/sub/x.safetensors", ("owner/name", "sub/x.safetensors", None)),
        (
            "https://huggingface.co/owner/name/blob/main/sub/x%20y.safetensors",
            ("owner/name", "sub/x y.safetensors", "main"),
        ),
        (
            "https://huggingface.co/owner/name/resolve/refs%2Fpr%2F1/x.safetensors?download=true",
            ("owner/name", "x.safetensors", "refs/pr/1"),
        ),
        ("https://hf.co/owner/name/resolve/abc/x.safetensors", ("owner/name", "x.safetensors", "abc")),
        ("https://example.org/owner/name/resolve/main/x.safetensors", None),
        ("http://huggingface.co/owner/name/resolve/main/x.safetensors", None),
        ("https://huggingface.co/owner/x.safetensors", None),
        ("models/x.safetensors", None),
        ("/owner/name/x.safetensors", None),
        ("./owner/name/x.safetensors", None),
        ("C:/owner/name/x.safetensors", None),
    ],
)
def test_a_file_of_the_hub_is_named_by_its_place_or_its_address(text, file):
    assert checkpoints.hub_file(text) == file


ADDRESS = "https://huggingface.co/someone/dreams/blob/v2/dream.safetensors"


@pytest.mark.parametrize("source", [ADDRESS, "someone/dreams/dream.safetensors"])
def test_a_single_file_of_the_hub_is_fetched_and_remembered(folders, single, monkeypatch, source):
    import huggingface_hub

    asked = []

    def fetched(repository, file, revision=None, local_files_only=False):
        asked.append((repository, file, revision, local_files_only))
        if local_files_only and len(asked) == 1:
            raise OSError("not here")
        return single

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetched)
    revision = "v2" if source == ADDRESS else None
    assert checkpoints.pipeline_class(source) == ""  # it has not come, and nothing is fetched to find out
    pipe = cupscale.load(source, device="cpu")
    assert type(pipe).__name__ == "StableDiffusionPipeline" and models.name_of(pipe) == source
    assert asked[:2] == [("someone/dreams", "dream.safetensors", revision, quiet) for quiet in (True, False)]
    assert checkpoints.pipeline_class(source) == "StableDiffusionPipeline"


def test_a_pickle_behind_an_address_is_refused_before_it_is_fetched():
    with pytest.raises(CupscaleError, match="pickle"):
        cupscale.load(ADDRESS.replace(".safetensors", ".ckpt?download=true"), device="cpu")


def header(path, *names, width=4):
    save_file({name: torch.zeros(2, width) for name in names}, path)
    return str(path)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["lora_unet_x.lora_down.weight"], "LoRA"),
        (["decoder.conv_in.weight"], "no network"),
        (
            [
                "model.diffusion_model.x",
                "conditioner.embedders.0.model.transformer.resblocks.9.mlp.c_proj.bias",
            ],
            "refiner, which takes over the last steps",
        ),
    ],
)
def test_a_file_of_something_else_is_refused_in_words(tmp_path, names, said):
    with pytest.raises(CupscaleError, match=said) as told:
        cupscale.load(header(tmp_path / "other.safetensors", *names), device="cpu")
    assert "\n" not in str(told.value)


def test_an_sdxl_file_is_told_by_its_names(tmp_path):
    path = header(
        tmp_path / "xl.safetensors",
        "model.diffusion_model.x",
        "conditioner.embedders.1.model.transformer.resblocks.9.mlp.c_proj.bias",
    )
    assert checkpoints.pipeline_class(path) == "StableDiffusionXLPipeline"


@pytest.mark.parametrize("suffix", [".ckpt", ".pt", ".bin"])
def test_a_pickle_is_refused_with_the_way_to_convert_it(tmp_path, suffix):
    (tmp_path / f"old{suffix}").write_bytes(b"\x80\x04.")
    said = rf"old{suffix}' is a pickle, which can run any code as it is read: .*safetensors"
    with pytest.raises(CupscaleError, match=said):
        cupscale.load(str(tmp_path / f"old{suffix}"), device="cpu")
    with pytest.raises(CupscaleError, match=said):
        cupscale.load(loras=[str(tmp_path / f"old{suffix}")], device="cpu")


def test_a_folder_of_pickles_is_not_read(folders, tmp_path):
    """diffusers would take them where there is nothing else."""
    shutil.copytree(folders("sd15"), tmp_path / "old")
    unet = tmp_path / "old" / "unet"
    weights_of = load_file(unet / "diffusion_pytorch_model.safetensors")
    (unet / "diffusion_pytorch_model.safetensors").unlink()
    torch.save(weights_of, unet / "diffusion_pytorch_model.bin")
    with pytest.raises(
        CupscaleError, match=r"only \.safetensors weights are read here, since pickles can run any code"
    ):
        cupscale.load(str(tmp_path / "old"), device="cpu")


def test_a_file_that_is_not_there_is_said_so():
    with pytest.raises(CupscaleError, match="is not there"):
        cupscale.load("models/none.safetensors", device="cpu")


def test_the_refiner_is_refused_in_words(tmp_path):
    folder = make_sdxl(tmp_path / "refiner", projection_class_embeddings_input_dim=16 + 5 * 8)
    with pytest.raises(CupscaleError, match=r"refiner.*use SDXL base"):
        cupscale.CUpscalePipeline(cupscale.load(str(folder), device="cpu"))


def test_a_network_for_inpainting_is_refused_in_words(tmp_path):
    folder = make_sdxl(tmp_path / "inpaint", in_channels=9)
    with pytest.raises(CupscaleError, match=r"9 channels.*inpainting"):
        cupscale.CUpscalePipeline(cupscale.load(str(folder), device="cpu"))


# LoRAs


def lora_file(folders, path, seed, family="sdxl", metadata=None):
    """A LoRA of a family's U-Net, as diffusers writes one."""
    pipe = cupscale.load(folders(family), device="cpu")
    torch.manual_seed(seed)
    pipe.unet.add_adapter(LoraConfig(r=2, target_modules=["to_k", "to_v"], init_lora_weights=False))
    layers = {
        f"unet.{name}": value.contiguous() for name, value in get_peft_model_state_dict(pipe.unet).items()
    }
    save_file(layers, path, metadata)
    return str(path)


@pytest.fixture
def loras(folders, tmp_path):
    return [lora_file(folders, tmp_path / f"style{k}.safetensors", k) for k in range(2)]


def test_loras_change_the_picture_each_by_its_weight_and_are_recorded(folders, loras):
    def made(*texts):
        return cupscale.load(folders("sdxl"), device="cpu", loras=texts)

    plain = picture(made())
    one, half, none = (picture(made(f"{loras[0]}{weight}")) for weight in ("", ":0.5", ":0"))
    both = picture(made(loras[0], f"{loras[1]}:-1.5"))
    assert (none == plain).all()
    assert 0 < np.abs(half - plain).mean() < np.abs(one - plain).mean()
    second = picture(made(f"{loras[1]}:-1.5"))
    assert all((both != other).any() for other in (one, second, plain))
    result = cupscale.upscale(made(loras[0], f"{loras[1]}:-1.5"), photo(), **FAST)
    assert result.settings.loras == (loras[0], f"{loras[1]}:-1.5")
    assert cupscale.upscale(made(), photo(), **FAST).settings.loras == ()


def test_a_persons_lora_stands_beside_that_of_the_few_steps(folders, loras, monkeypatch):
    file = Path(loras[0])
    entry = dataclasses.replace(
        models.KNOWN["sdxl-lightning"], source=folders("sdxl"), lora=(str(file.parent), file.name)
    )
    monkeypatch.setitem(models.KNOWN, "sdxl-lightning", entry)
    pipe = cupscale.load("sdxl-lightning", device="cpu", loras=[f"{loras[1]}:0.5"])
    assert pipe.get_active_adapters() == ["few_steps", "lora1"]
    scales = [module.scaling for module in pipe.unet.modules() if hasattr(module, "scaling")]
    assert scales and all(scale["lora1"] == scale["few_steps"] / 2 > 0 for scale in scales)


def test_settings_that_name_a_lora_which_is_not_loaded_say_so(folders, loras):
    pipe = cupscale.load(folders("sdxl"), device="cpu")
    events = list(cupscale.stream(pipe, photo(), loras=(loras[0],), **FAST))
    notices = [event.message for event in events if isinstance(event, cupscale.Notice)]
    assert notices == [
        f"the settings name LoRAs that this model was not loaded with: {loras[0]}; it goes on without them"
    ]
    assert events[-1].result.settings.loras == ()


def test_the_command_line_takes_several_and_a_results_settings_bring_them_back(folders, loras, tmp_path):
    photo().save(tmp_path / "a.png")
    flags = [f"--{name}={value}" for name, value in FAST.items()]
    flags += ["--model", folders("sdxl"), "--lora", f"{loras[0]}:0.7", "--lora", loras[1]]
    out = tmp_path / "big.png"
    done = CliRunner().invoke(main, ["upscale", str(tmp_path / "a.png"), "-o", str(out), *flags])
    assert done.exit_code == 0, done.output
    again = ["upscale", str(tmp_path / "a.png"), "-o", str(tmp_path / "again.png"), "--settings", str(out)]
    done = CliRunner().invoke(main, [*again, "--captioner", "none"])
    assert done.exit_code == 0, done.output
    first, second = (np.asarray(Image.open(path)) for path in (out, tmp_path / "again.png"))
    assert (first == second).all()
    assert cupscale.images.read_settings(tmp_path / "again.png")["loras"] == [f"{loras[0]}:0.7", loras[1]]


@pytest.mark.parametrize(
    ("text", "lora"),
    [
        ("a/b", ("a/b", 1.0)),
        ("a/b:0.5", ("a/b", 0.5)),
        ("C:/loras/ink.safetensors", ("C:/loras/ink.safetensors", 1.0)),
        ("C:/loras/ink.safetensors:-1", ("C:/loras/ink.safetensors", -1.0)),
    ],
)
def test_a_weight_stands_behind_the_last_colon(text, lora):
    assert checkpoints.lora_of(text) == lora
    assert checkpoints.lora_of(checkpoints.lora_of(text).text) == lora


@pytest.mark.parametrize("text", ["", ":0.5", "a/b:9", "a/b:nan"])
def test_a_lora_without_a_name_or_with_a_wild_weight_is_refused(text):
    with pytest.raises(CupscaleError, match="LoRA"):
        checkpoints.lora_of(text)


def test_a_lora_of_another_family_says_which_it_was_made_for(folders, tmp_path):
    other = lora_file(folders, tmp_path / "sd15.safetensors", 0, "sd15")
    with pytest.raises(CupscaleError, match=r"does not fit a StableDiffusionXLPipeline.*another family"):
        cupscale.load(folders("sdxl"), device="cpu", loras=[other])
    named = lora_file(
        folders, tmp_path / "named.safetensors", 0, "sd15", {"ss_base_model_version": "sd_v1-5"}
    )
    with pytest.raises(CupscaleError, match="made for sd_v1-5"):
        cupscale.load(folders("sdxl"), device="cpu", loras=[named])
    nowhere = header(
        tmp_path / "n.safetensors", "transformer.a.to_k.lora_A.weight", "transformer.a.to_k.lora_B.weight"
    )
    with pytest.raises(
        CupscaleError, match="does not fit a StableDiffusionXLPipeline"
    ):  # which diffusers lets pass
        cupscale.load(folders("sdxl"), device="cpu", loras=[nowhere])
    by_width = header(tmp_path / "w.safetensors", "unet.a.attn2.to_k.lora_A.weight", width=768)
    assert checkpoints.lora_family(by_width) == "Stable Diffusion 1.5"
    with pytest.raises(CupscaleError, match="is not there"):
        cupscale.load(folders("sdxl"), device="cpu", loras=[str(tmp_path / "none.safetensors")])


# Autoencoders


def test_mean_and_deviation_per_channel_are_applied_as_the_pipeline_does(folders):
    """Playground v2.5. diffusers: latents * std / scaling + mean before the decoder; the inverse after the encoder."""
    from cupscale.backbones import Tiles, adapt

    pipe = cupscale.load(folders("sdxl"), device="cpu")
    x = torch.rand(1, 3, 64, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1
    mean, std, scaling = [-1.6, 1.1, 0.5, -3.5], [8.4, 5.9, 6.0, 5.1], pipe.vae.config.scaling_factor
    with torch.no_grad():
        own = pipe.vae.encode(x).latent_dist.mode()
    pipe.vae.register_to_config(latents_mean=mean, latents_std=std)
    z = adapt(pipe).encode(x, Tiles())
    for channel in range(4):
        expected = (own[:, channel] - mean[channel]) * scaling / std[channel]
        assert torch.allclose(z[:, channel], expected, atol=1e-5)
    with torch.no_grad():
        decoded = pipe.vae.decode(own)[0]
    assert torch.allclose(adapt(pipe).decode(z, Tiles()), decoded, atol=1e-4)


@pytest.mark.parametrize("channels", [4, 16])
def test_taesd_encodes_and_decodes(folders, tmp_path, channels):
    from cupscale.backbones import Tiles, adapt

    folder = folders("sdxl") if channels == 4 else make_sd3(tmp_path, in_channels=16, out_channels=16)
    pipe = cupscale.load(str(folder), device="cpu")
    torch.manual_seed(0)
    pipe.vae = diffusers.AutoencoderTiny(
        latent_channels=channels,
        encoder_block_out_channels=(8, 8, 8),
        decoder_block_out_channels=(8, 8, 8),
        num_encoder_blocks=(1, 1, 1),
        num_decoder_blocks=(1, 1, 1),
    )
    pipe.vae.spatial_scale_factor = 4  # diffusers takes that of the real one, 8, for every size
    backbone = adapt(pipe)
    x = torch.rand(1, 3, 64, 48) * 2 - 1
    with torch.no_grad():
        own = pipe.vae.encode(x).latents
        decoded = pipe.vae.decode(own)[0]
    z = backbone.encode(x, Tiles())
    assert z.shape == (1, channels, 16, 12) and torch.allclose(z, own, atol=1e-5)
    assert torch.allclose(backbone.decode(z, Tiles()), decoded, atol=1e-5)
    assert not pipe.vae.use_tiling
    assert picture(pipe).shape == (48, 80, 3)
