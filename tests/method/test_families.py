"""What the families share, at values worked out by hand: which class, which defaults, which texts, which parts wait elsewhere."""

from types import SimpleNamespace

import diffusers
import pytest
import torch
import transformers
from test_adapters import settings

from cupscale.backbones import SUPPORTED, Tiles, adapt, family_defaults
from cupscale.backbones.base import _tile_bytes, latent_scale, parked
from cupscale.backbones.denoiser import Text
from cupscale.backbones.own import check_caches, has_own_scheduler, unheard
from cupscale.backbones.pixart import PixArtBackbone
from cupscale.backbones.texts import readable
from cupscale.backbones.tiling import _bands
from cupscale.backbones.tokens import Rule, rule_of, token_budget
from cupscale.backbones.unet import SDBackbone, SDXLBackbone
from cupscale.backbones.zimage import ZImageBackbone
from cupscale.captions import TokenBudget
from cupscale.codec import PixelCodec
from cupscale.errors import CupscaleError
from cupscale.method.regions import Region, Size
from cupscale.method.sampler import draw_noise
from cupscale.settings import Settings

CELLS = Size(16, 16)

# Which adapter and which defaults a pipeline's class has: (class, steps, guidance).
CLASSES = {
    "StableDiffusionPipeline": ("SDBackbone", 50, 7.5),
    "StableDiffusionXLPipeline": ("SDXLBackbone", 50, 7.5),
    "StableDiffusionControlNetPipeline": ("SDBackbone", 50, 7.5),
    "StableDiffusionXLControlNetPipeline": ("SDXLBackbone", 50, 7.5),
    "StableDiffusionXLControlNetUnionPipeline": ("SDXLBackbone", 50, 7.5),
    "PixArtAlphaPipeline": ("PixArtBackbone", 20, 4.5),
    "PixArtSigmaPipeline": ("PixArtBackbone", 20, 4.5),
    "StableDiffusion3Pipeline": ("SD3Backbone", 28, 5.0),
    "ZImagePipeline": ("ZImageBackbone", 8, 1.0),
    "ZImageControlNetPipeline": ("ZImageBackbone", 8, 1.0),
    "Flux2KleinPipeline": ("Flux2Backbone", 50, 4.0),
    "QwenImagePipeline": ("QwenImageBackbone", 50, 4.0),
}


def bare(kind, **pipe):
    """An adapter without its checks, over a pipeline of a few parts."""
    backbone = object.__new__(kind)
    backbone.pipe = SimpleNamespace(**pipe)
    return backbone


def module(**config):
    return SimpleNamespace(config=SimpleNamespace(**config))


# Which family


def test_every_class_has_its_adapter_and_defaults():
    assert set(SUPPORTED) == set(CLASSES)
    for name, (adapter, steps, guidance) in CLASSES.items():
        assert SUPPORTED[name].load().__name__ == adapter
        usual = {"strength": 0.45, "steps": steps, "guidance": guidance, "overlap": 0.5}
        assert family_defaults(name, "EulerDiscreteScheduler") == usual


def test_models_of_few_steps_are_known_by_scheduler_or_checkpoint():
    few = {"strength": 0.45, "steps": 8, "guidance": 1.0, "overlap": 0.5}
    for scheduler in ("LCMScheduler", "TCDScheduler", "FlowMatchLCMScheduler"):
        assert family_defaults("StableDiffusionXLImg2ImgPipeline", scheduler) == few
    assert family_defaults("Flux2KleinPipeline", "FlowMatchEulerDiscreteScheduler", distilled=True) == few
    assert family_defaults("StableVideoDiffusionPipeline", "LCMScheduler") is None


def test_an_img2img_pipeline_and_a_class_of_ones_own_are_their_family(load):
    pipe = load("sdxl")

    class Mine(diffusers.StableDiffusionXLImg2ImgPipeline):
        pass

    backbone = adapt(Mine(**pipe.components))
    assert isinstance(backbone, SDXLBackbone) and backbone.defaults == adapt(pipe).defaults != {}


def test_what_no_text_can_drive_is_refused(load):
    pipe = load("sdxl")
    pipe.vae.register_to_config(latent_channels=16)
    with pytest.raises(CupscaleError, match="takes 4 channels where its VAE gives 16"):
        adapt(pipe)
    pipe.vae.register_to_config(latent_channels=None)
    adapt(pipe)
    pipe.unet.register_to_config(encoder_hid_dim_type="ip_image_proj")
    with pytest.raises(CupscaleError, match="unload_ip_adapter"):
        adapt(pipe)
    other = load("sd3")
    other.transformer.image_proj = torch.nn.Linear(1, 1)
    with pytest.raises(CupscaleError, match="unload_ip_adapter"):
        adapt(other)
    other.vae = None
    with pytest.raises(CupscaleError, match=r"the pipeline has no vae: add it with .*vae=AutoencoderKL"):
        adapt(other)


@pytest.mark.parametrize(("numbers", "refused"), [(5, True), (6, False)])
def test_sdxls_refiner_is_told_five_numbers(numbers, refused):
    """16 of the text's and 8 of each number: 56 and 64."""
    backbone = bare(
        SDXLBackbone,
        unet=module(projection_class_embeddings_input_dim=16 + 8 * numbers, addition_time_embed_dim=8),
        text_encoder_2=module(projection_dim=16),
    )
    if refused:
        with pytest.raises(CupscaleError):
            backbone._check_no_refiner()
    else:
        backbone._check_no_refiner()


def test_how_far_positions_reach(load):
    """Z-Image: the nearer end of its table, rows and columns, two cells to a token; SD3: its table, a patch to a place."""
    for lens, native, most in (((10, 80, 60), 120, 120), ((300, 80, 90), 128, 160), ((9, 50, 90), 100, 100)):
        backbone = bare(ZImageBackbone, transformer=module(axes_lens=lens, all_patch_size=(2,)))
        assert (backbone._native_cells(), backbone.most_cells()) == (native, most)
    pipe = load("sd3")
    assert adapt(pipe).most_cells() == 2 * pipe.transformer.config.pos_embed_max_size


@pytest.mark.parametrize("name", ["z-image", "flux2-klein-base", "qwen-image"])
def test_noise_levels_asked_for_fall_evenly_from_one(load, name):
    assert adapt(load(name))._sigmas(4) == [1, 0.75, 0.5, 0.25]


# Texts


def words_of(limit):
    return TokenBudget(lambda text: len(text.split()), limit)


def test_prompts_are_cut_at_a_word_and_it_is_said():
    given = Settings(prompt="one two three four", negative_prompt="five six seven")
    short, said = readable(given, SimpleNamespace(budget=words_of(2)))
    assert (short.prompt, short.negative_prompt) == ("one two", "five six")
    assert said == [
        "the text encoder reads 2 tokens: the prompt was cut, without 'three four'",
        "the text encoder reads 2 tokens: the negative prompt was cut, without 'seven'",
    ]
    assert readable(given, SimpleNamespace(budget=words_of(4))) == (given, [])


def encoding(calls):
    """An adapter whose encoder remembers its calls, and gives each text its length."""
    backbone = object.__new__(SDBackbone)

    def encode(prompts):
        calls.append(list(prompts))
        return [Text(torch.tensor([[[float(len(prompt))]]])) for prompt in prompts]

    backbone.encode_texts = encode
    return backbone


def test_texts_are_encoded_once_and_64_at_a_time():
    calls, known = [], {"x" * 3: "kept"}
    wanted = ["x" * (n % 131) for n in range(262)]  # 131 different ones, each twice; one is known
    encoding(calls)._encoded(wanted, known)
    assert [len(call) for call in calls] == [64, 64, 2]
    assert known.pop("xxx") == "kept" and len(known) == 130
    assert all(text.embeds.item() == len(name) for name, text in known.items())


def test_an_encoder_that_gives_too_little_is_noticed():
    backbone = object.__new__(SDBackbone)
    backbone.encode_texts = lambda prompts: []
    with pytest.raises(ValueError, match="shorter"):
        backbone._encoded(["a"], {})


@pytest.mark.parametrize(
    ("fields", "negative", "captions"),
    [
        ({"guidance": 1.5, "detail": 0.5}, 3, [6, 8]),  # the second has none of its own: the prompt
        ({"guidance": 1.0, "detail": 0.5}, None, [6, 8]),
        ({"guidance": 1.5, "detail": 0}, 3, []),
        ({"guidance": 1.5, "detail": 0.5, "negative_prompt": ""}, 0, [6, 8]),
    ],
)
def test_which_texts_a_run_needs(fields, negative, captions):
    """Told by their lengths."""
    calls = []
    given = settings(**{"prompt": "a prompt", "negative_prompt": "not"} | fields)
    texts = encoding(calls)._texts(given, ["a boat", None], {})
    assert texts.prompt.embeds.item() == 8
    assert (None if texts.negative is None else texts.negative.embeds.item()) == negative
    assert [text.embeds.item() for text in texts.captions] == captions
    none = encoding([])._texts(given, [None, None], {})
    assert list(none.captions) == []


def test_a_family_may_be_guided_from_nothing_where_no_negative_prompt_is_given():
    backbone = encoding([])
    backbone.nothing = lambda like: Text(like.embeds * 100)
    given = settings(prompt="ab", negative_prompt="", guidance=2.0)
    assert backbone._texts(given, [], {}).negative.embeds.item() == 200
    assert (
        backbone._texts(given.model_copy(update={"negative_prompt": "x"}), [], {}).negative.embeds.item() == 1
    )


def test_sdxl_is_guided_from_the_empty_text_unless_its_pipeline_says_zeros():
    like = Text(torch.ones(1, 2, 3), torch.ones(1, 5))
    for zeros in (True, False):
        found = bare(SDXLBackbone, config=SimpleNamespace(force_zeros_for_empty_prompt=zeros)).nothing(like)
        assert (found is not None) is zeros
    found = bare(SDXLBackbone, config=SimpleNamespace(force_zeros_for_empty_prompt=True)).nothing(like)
    assert torch.equal(found.embeds, torch.zeros(1, 2, 3)) and torch.equal(found.pooled, torch.zeros(1, 5))


@pytest.mark.parametrize(("name", "first", "more"), [("sd15", 1, 0), ("pixart-alpha", 0, 1)])
def test_a_words_tokens_lie_behind_the_mark_of_the_beginning(load, name, first, more):
    """CLIP's tokenizer puts one there and T5's none; in these checkpoints a letter is a token, and T5's marks each word."""
    ends = [first + 3 + more, first + 4 + 2 * more]
    expected = [("red", slice(first, ends[0])), ("a", slice(ends[0], ends[1]))]
    assert adapt(load(name)).word_tokens("red a") == expected


@pytest.mark.parametrize("parts", [{"text_encoder_3"}, {"tokenizer_3"}, set()])
def test_sd3_without_its_whole_t5_reads_what_clip_reads(parts):
    assert rule_of("StableDiffusion3Pipeline", parts) == Rule()
    assert rule_of("StableDiffusion3Img2ImgPipeline", {"text_encoder_3", "tokenizer_3"}).length == 256


def test_a_controlnet_changes_no_rule():
    for name in ("StableDiffusion", "StableDiffusionXL", "ZImage"):
        assert rule_of(f"{name}ControlNetPipeline", ()) == rule_of(f"{name}Pipeline", ())
    union = rule_of("StableDiffusionXLControlNetUnionPipeline", ())
    assert union == rule_of("StableDiffusionXLPipeline", ()) == Rule("tokenizer_2", marks=2)
    assert rule_of("PixArtSigmaPipeline", ()) == Rule(marks=1, length=300)


class Letters:
    """A tokenizer of letters, whose chat template has four marks, and three more where nothing is thought."""

    model_max_length = 1000

    def apply_chat_template(self, messages, tokenize, add_generation_prompt, enable_thinking):
        assert not tokenize
        return (
            "<" + messages[0]["content"] + ">" + "!!" * add_generation_prompt + "..." * (not enable_thinking)
        )

    def __call__(self, text, truncation, verbose):
        return SimpleNamespace(input_ids=list(text[:900] if truncation else text))


@pytest.mark.parametrize(
    ("pipeline", "limit"),
    [("ZImagePipeline", 508), ("Flux2KleinPipeline", 505), ("StableDiffusionPipeline", 998)],
)
def test_what_a_template_adds_is_no_text(pipeline, limit):
    budget = rule_of(pipeline, ()).budget(Letters())
    assert budget.limit == limit
    if pipeline != "StableDiffusionPipeline":
        assert (budget.count(""), budget.count("fox"), budget.count("x" * 950)) == (0, 3, 950)
    assert Rule(marks=1, length=2000).budget(Letters()).limit == 999


def test_a_tokenizer_of_the_hub_is_fetched_alone(monkeypatch):
    asked = []

    def read(**place):
        asked.append(place)
        raise OSError

    index = {"_class_name": "StableDiffusionXLPipeline", "tokenizer_2": ["transformers", "CLIPTokenizer"]}
    monkeypatch.setattr(diffusers.DiffusionPipeline, "load_config", lambda source: index)
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", read)
    assert token_budget("somebody/model") is None
    assert asked == [{"pretrained_model_name_or_path": "somebody/model", "subfolder": "tokenizer_2"}]


def test_the_bundled_model_is_known_by_its_name():
    assert token_budget("tiny").limit == 75


# The autoencoder


def test_a_tiles_bytes():
    """Maps of the first width: 6.1 of 10 channels, in four bytes or two."""
    for dtype, upcast, expected in (
        (torch.float32, False, 244),
        (torch.float16, False, 122),
        (torch.float16, True, 244),
    ):
        vae = SimpleNamespace(config=SimpleNamespace(block_out_channels=[10, 20]), dtype=dtype)
        assert _tile_bytes(vae, upcast) == expected
    assert _tile_bytes(PixelCodec(), False) == 0


def test_a_tiles_bytes_of_a_vae_of_videos(load):
    vae = load("qwen-image").vae
    assert _tile_bytes(vae, False) == int(18.1 * vae.config.base_dim * 4)


@pytest.mark.parametrize(
    ("config", "mean", "std"),
    [
        ({"scaling_factor": 0.5}, 0.0, 2.0),
        ({"scaling_factor": 0.5, "shift_factor": 0.25}, 0.25, 2.0),
        ({"scaling_factor": 0.5, "latents_mean": [1.0, 2.0]}, 0.0, 2.0),
        ({"scaling_factor": 0.5, "latents_std": [1.0, 2.0]}, 0.0, 2.0),
        (
            {"scaling_factor": 0.5, "latents_mean": [1.0, 2.0], "latents_std": [3.0, 4.0]},
            [1.0, 2.0],
            [6.0, 8.0],
        ),
        ({"latents_mean": [1.0, 2.0], "latents_std": [3.0, 4.0]}, [1.0, 2.0], [3.0, 4.0]),
    ],
)
def test_the_scale_of_latents(config, mean, std):
    found = latent_scale(module(**config), torch.zeros(1, 2, 3, 4))
    for got, expected in zip(found, (mean, std), strict=True):
        if isinstance(expected, list):
            assert got.shape == (1, 2, 1, 1) and got.flatten().tolist() == expected
        else:
            assert got == expected


@pytest.mark.parametrize(
    ("kind", "dtype", "config", "expected"),
    [
        (SDXLBackbone, torch.float16, {"force_upcast": True}, True),
        (SDXLBackbone, torch.float16, {"force_upcast": False}, False),
        (SDXLBackbone, torch.float16, {}, False),
        (SDXLBackbone, torch.bfloat16, {"force_upcast": True}, False),
        (SDBackbone, torch.float16, {"force_upcast": True}, False),
        (PixArtBackbone, torch.float16, {"force_upcast": True}, True),
    ],
)
def test_which_autoencoders_need_float32(kind, dtype, config, expected):
    vae = SimpleNamespace(dtype=dtype, config=SimpleNamespace(**config))
    assert bare(kind, vae=vae)._upcasts() is expected


@pytest.mark.parametrize("channels", [4, 16])
def test_a_tiny_autoencoder_tiles_by_itself_where_it_was_made_for_it(load, channels):
    """TAESD: latents of its own, tiled where they have four channels."""
    torch.manual_seed(1)
    widths = {"encoder_block_out_channels": (8,) * 4, "decoder_block_out_channels": (8,) * 4}
    blocks = {"num_encoder_blocks": (1,) * 4, "num_decoder_blocks": (1,) * 4}
    pipe = load("sdxl")
    pipe.vae = diffusers.AutoencoderTiny(latent_channels=4, **widths, **blocks).eval()
    backbone, seen = adapt(pipe), []
    object.__setattr__(backbone.geometry, "channels", channels)
    pipe.vae.encoder.register_forward_pre_hook(lambda *_: seen.append(pipe.vae.use_tiling))
    pixels = torch.rand(1, 3, 32, 48) * 2 - 1
    z = backbone.encode(pixels, Tiles())
    assert seen == [channels == 4]
    with torch.no_grad():
        latents = pipe.vae.encode(pixels).latents
        decoded = pipe.vae.decode(latents).sample
    assert torch.allclose(z, latents * pipe.vae.config.scaling_factor)
    assert torch.allclose(backbone.decode(z, Tiles()), decoded, atol=1e-5)


def test_an_exact_codecs_bands_hold_a_million_pixels():
    """Rows of a band: 2^20 pixels over the width they have as pixels, whole cells, and one at least."""
    codec = PixelCodec()

    def rows(height, width, side, made):
        x = torch.empty(1, 1, 1, 1).expand(1, 1, height, width)
        return [part.shape[-2] for part in _bands(codec, x, lambda part: part, side, made, 0.25)]

    assert rows(600, 1000, 32, 64) == [262, 262, 76]  # 2^20 / (1000 x 2 x 2)
    assert rows(150, 1000, 32, 128) == [65, 65, 20]  # four pixels a side
    assert rows(1100, 3000, 64, 32) == [698, 402]  # pixels to cells: 349 rows of cells, two pixels each
    assert rows(1200, 2000, 32, 32) == [524, 524, 152]
    assert rows(2, 2**19, 32, 64) == [1, 1]


# Parts that wait, hooks, control


class Part(torch.nn.Module):
    """A text encoder of so many bytes, without their memory; it remembers where it was put."""

    def __init__(self, count, dtype=torch.float32):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.empty(count, dtype=dtype, device="meta"), requires_grad=False)
        self.moves = []

    def to(self, where):
        self.moves.append(str(where))
        return self


def test_encoders_above_a_gibibyte_wait_in_main_memory():
    large = 2**28 + 1  # four bytes each
    parts = {
        "text_encoder": Part(large),
        "text_encoder_2": Part(2**28),
        "text_encoder_3": Part(2**28 + 1, torch.float16),
        "text_encoder_4": Part(2**29 + 1, torch.float16),
        "text_encoder_5": None,
        "transformer": Part(large),
    }
    hooked, offloaded, quantized = Part(large), Part(large), Part(large)
    hooked.child = torch.nn.Identity()
    hooked.child._hf_hook = offloaded._diffusers_hook = object()
    quantized.is_quantized = True
    parts |= {"text_encoder_6": hooked, "text_encoder_7": offloaded, "text_encoder_8": quantized}
    pipe = SimpleNamespace(components=parts)
    with parked(pipe, torch.device("meta")):
        moved = [name for name, part in parts.items() if part is not None and part.moves]
        assert moved == ["text_encoder", "text_encoder_4"]
    assert parts["text_encoder"].moves == ["cpu", "meta"]
    with parked(pipe, torch.device("cpu")):
        pass
    assert parts["text_encoder"].moves == ["cpu", "meta"]


def test_hooks_need_the_network_that_torch_compile_wrapped(load):
    """Without a prior the caller's compiled network runs; with one, and before and after, what is inside of it."""
    pipe = load("sd15")
    inner = pipe.unet

    class Compiled(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self._orig_mod = inner
            self.config, self.device = inner.config, inner.device

    object.__setattr__(pipe, "unet", Compiled())
    backbone = adapt(pipe)
    assert backbone.network is inner and backbone.runner is inner
    for fields, runs in (({}, pipe.unet), ({"attention": 0.5}, inner)):
        with backbone.denoiser(settings(**fields), [None], CELLS, CELLS):
            assert backbone.runner is runs and backbone.network is inner
        assert backbone.runner is inner


@pytest.mark.parametrize(
    ("fields", "screened", "cutoff"),
    [
        ({"attention": 0.5, "attention_form": "screen"}, True, None),
        ({"attention": 0.5}, False, None),
        ({"attention": 0.0, "attention_form": "screen"}, False, None),
        ({"attention": 0.5, "composer": "frequency", "cutoff": 0.3}, False, 0.3),
    ],
)
def test_what_the_composer_is_told(load, fields, screened, cutoff):
    given = settings(**{"detail": 0.2} | fields)
    composer = adapt(load("sd15"))._composer(given, CELLS)
    assert (composer.attention, composer.detail) == (given.attention, 0.2)
    assert (composer.words is not None) is screened and composer.cutoff == cutoff


def test_a_guidance_of_low_frequencies_needs_a_guidance(load):
    backbone = adapt(load("sd15"))
    for low, guidance, apart in ((0.5, 3.0, True), (0.0, 3.0, False), (0.5, 1.0, False)):
        given = settings(guidance=guidance, guidance_low=low)
        with backbone.denoiser(given, [None], CELLS, CELLS) as denoiser:
            assert bool(denoiser._apart) is apart


@pytest.mark.parametrize(("name", "side"), [("sdxl", 4), ("z-image", 1)])
def test_control_takes_part_where_it_is_asked_for(load, name, side):
    """It sees pixels, four to a cell a side in this checkpoint, or latents."""
    pipe = load(name)
    backbone = adapt(pipe)
    object.__setattr__(pipe, "controlnet", "its network")
    images = {CELLS: torch.zeros(3, 64, 64)}
    with backbone.denoiser(settings(control=0.5), [None], CELLS, CELLS, enlarged=images):
        control = backbone._control
        assert (control.network, control.weight, control.cell) == ("its network", 0.5, side)
        assert control.images is images
    assert backbone._control is None
    for given, enlarged in ((settings(control=0), images), (settings(control=0.5), None)):
        with backbone.denoiser(given, [None], CELLS, CELLS, enlarged=enlarged):
            assert backbone._control is None


def test_encoded_texts_are_kept_for_the_next_run(load):
    backbone, known = adapt(load("sd15")), {}
    with backbone.denoiser(settings(), [None], CELLS, CELLS, known=known):
        pass
    assert list(known) == [settings().prompt]
    backbone.encode_texts = None  # is not asked again
    with backbone.denoiser(settings(), [None], CELLS, CELLS, known=known):
        pass


# What a person has set


def test_a_scheduler_is_compared_with_what_both_versions_know():
    config = {"_class_name": "DDIMScheduler", "_diffusers_version": "0.1", "trained_betas": None, "later": 3}
    scheduler = diffusers.DDIMScheduler()
    pipe = SimpleNamespace(scheduler=scheduler, cupscale_scheduler=config)
    assert not has_own_scheduler(pipe, "")
    scheduler.register_to_config(trained_betas=(0.1, 0.2))
    assert has_own_scheduler(pipe, "")
    config["trained_betas"] = [0.1, 0.2]  # as JSON has tuples
    assert not has_own_scheduler(pipe, "")
    config["_class_name"] = "EulerDiscreteScheduler"
    assert has_own_scheduler(pipe, "DDIMScheduler")


def test_a_schedulers_file_that_is_no_object_tells_nothing(tmp_path):
    (tmp_path / "scheduler").mkdir()
    file = tmp_path / "scheduler" / "scheduler_config.json"
    pipe = SimpleNamespace(scheduler=diffusers.DDIMScheduler(), name_or_path=tmp_path)
    for text in ("[]", "{"):
        file.write_text(text)
        assert not has_own_scheduler(pipe, "DDIMScheduler") and has_own_scheduler(pipe, "PNDMScheduler")
    file.write_text('{"_class_name": "PNDMScheduler"}')
    assert has_own_scheduler(pipe, "DDIMScheduler")


def test_what_is_said_of_a_scheduler():
    pndm, ddim = (
        SimpleNamespace(scheduler=kind()) for kind in (diffusers.PNDMScheduler, diffusers.DDIMScheduler)
    )
    model, euler = Settings(scheduler="model"), Settings(scheduler="euler")
    assert unheard(pndm, euler, False) == unheard(ddim, model, True) == unheard(ddim, euler, False) == []
    assert len(unheard(pndm, model, False)) == len(unheard(ddim, euler, True)) == 1


def test_a_network_without_caches_is_welcome():
    check_caches(object())
    with pytest.raises(CupscaleError, match="disable_cache"):
        check_caches(SimpleNamespace(is_cache_enabled=True))


def test_z_images_captions_end_where_the_prompt_ends(load):
    """Places on the first axis, below 0 too; behind the prompt, which is longer than the negative one."""
    backbone = adapt(load("z-image"))
    embed = backbone.network.rope_embedder

    def at(place):
        ids = torch.zeros(1, 3, dtype=torch.int32)
        ids[0, 0] = abs(place)
        found = embed(ids)[0]
        return found if place >= 0 else found.conj()

    for length, end, places in ((3, 5, (3, 4, 5)), (4, 2, (-1, 0, 1, 2)), (2, 2, (1, 2))):
        expected = torch.stack([at(place) for place in places])
        assert torch.allclose(backbone._places(length, end), expected, atol=1e-5)
    asked, places_of = [], backbone._places
    backbone._places = lambda length, end: asked.append((length, end)) or places_of(length, end)
    window = Region(0, 0, 16, 16)
    long = "a red fox in deep snow, at night, far away"
    given = settings(prompt=long, negative_prompt="mud", guidance=3.0, detail=0.5)
    with backbone.denoiser(given, ["a boat", None], CELLS, CELLS) as denoiser:
        denoiser.predict(draw_noise((2, 4, *CELLS), 1), torch.tensor(500.0), [window] * 2, range(2))
        short, prompt = (
            -(-backbone.encode_texts([text])[0].embeds.shape[1] // 32) * 32 for text in ("a boat", long)
        )
    assert short < prompt and asked == [(short, prompt), (prompt, prompt)]
