"""Known models, and loading: device, precision, offload. No path in here is special to the bundled model."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from cupscale import checkpoints, offload as offloading
from cupscale.backbones import USUAL, adapt, family_defaults, own
from cupscale.errors import CupscaleError
from cupscale.installation import ASSETS, damaged, reinstall_command
from cupscale.machine import best_device
from cupscale.method.memory import is_out_of_memory
from cupscale.offload import Offload
from cupscale.planning import Geometry, device_bytes, make_plan
from cupscale.settings import PRESETS, Settings

BUNDLED = ASSETS / "tiny"
# Bytes of a pixel of a tile in half precision: in the autoencoders of nearly all families, and in Qwen-Image's, which is one
# of videos.
KL_TILE = 1561
KL_TILE_WHOLE = 3123  # the same in float32
FRAMES_TILE = 3475

# The paper: S = 0.45 T of 50 steps, half-overlapping windows, a plain resize; the rest as in the table of what is ours.
PAPER: dict[str, Any] = {
    "strength": 0.45,
    "steps": 50,
    "overlap": 0.5,
    "flat_guidance": 1.0,
    "flat_strength": 1.0,
    "upscaler": "bicubic",
    "restore": 0.0,
    "fidelity": 0.0,
    "structure": 1.0,
    "attention": 0.6,
    "detail": 0.5,
    "control": 0.0,
}
# No overlap on a moving grid, no guidance in the last steps, fewer steps of a better sampler: an eighth of the paper's samples.
QUICK: dict[str, Any] = {
    "strength": 0.45,
    "steps": 16,
    "overlap": 0.0,
    "windows": "alternating",
    "flat_windows": "keep",
    "guidance_until": 0.6,
    "scheduler": "dpm++2m",
}
# The same for models that take 20 to 28 steps.
QUICKER: dict[str, Any] = QUICK | {"steps": 12}
# A distilled model has few steps to leave out: it keeps its schedule and begins a step later.
QUICK_OF_FEW: dict[str, Any] = {"strength": 0.35, "overlap": 0.25}
# After PixelRush (arXiv 2602.12769): the last two steps of a distilled model, from t = 249 of 999, in feathered windows. It
# inverts a window and mixes fresh noise in, against smoothness; here all of the noise is fresh, which takes half of the passes.
TURBO: dict[str, Any] = {
    "strength": 0.25,
    "steps": 8,
    "guidance": 1.0,
    "overlap": 0.5,
    "flat_windows": "keep",
}
NOT_DISTILLED = "it takes many steps with guidance, and turbo has two without"
DISTILLED = "it is distilled to 8 steps without guidance, and the paper takes 50 with it"


# Operations of a sample in 1e12, as torch's FlopCounterMode counts them; those of PixArt and Z-Image are 2 x parameters x tokens,
# and 4 x tokens^2 x width for each layer.
SDXL_TFLOP = 6.76


@dataclass(frozen=True)
class Known:
    """A model with a name. source: hub id or folder. over: settings over its family's. few: made for few steps.

    quick: the preset's fields; None for the usual ones. no_paper: why it cannot do the paper's preset, where that is not
    for its few steps; empty where it can.
    tflop: of a network sample of a window of native size, 1e12 floating point operations.
    no_words: why it cannot draw a picture from words alone; empty where it can.
    pipeline: its diffusers class. memory: GB on an accelerator for a 4096 px result with nothing offloaded, an estimate from
    the weights in `dtype`. half_vae: a VAE that does not overflow in half precision. lora: (hub id, file) that makes a
    base model a few-step one. scheduler: a diffusers class and the options it takes the checkpoint's place with.
    came_with: class of the checkpoint's scheduler, where `over` chooses another in its place.
    """

    source: str
    licence: str
    geometry: Geometry
    over: Mapping[str, Any] = field(default_factory=dict)
    few: bool = False
    half_vae: str | None = None
    note: str = ""
    pipeline: str = "StableDiffusionXLPipeline"
    memory: float = 0.0
    dtype: str = "float16"
    lora: tuple[str, str] | None = None
    scheduler: tuple[str, Mapping[str, Any]] | None = None
    quick: Mapping[str, Any] | None = None
    no_paper: str = ""
    no_words: str = ""
    came_with: str = ""
    tflop: float = SDXL_TFLOP

    @property
    def defaults(self) -> Mapping[str, Any]:
        """The settings it works best with."""
        scheduler = self.scheduler[0] if self.scheduler else ""
        return {**(family_defaults(self.pipeline, scheduler, self.few) or {}), **self.over}


SD15_GEOMETRY = Geometry(native=512, cell=8, align=64, channels=4, weights=2_700_000_000, tile=KL_TILE)
SDXL_GEOMETRY = Geometry(native=1024, cell=8, align=32, channels=4, weights=7_000_000_000, tile=KL_TILE)
KLEIN_GEOMETRY = Geometry(native=1024, cell=16, align=16, channels=128, weights=16_000_000_000, tile=KL_TILE)
SDXL = "stabilityai/stable-diffusion-xl-base-1.0"
SDXL_LICENCE = "CreativeML Open RAIL++-M"
SDXL_VAE = "madebyollin/sdxl-vae-fp16-fix"

KNOWN: dict[str, Known] = {
    "tiny": Known(
        source=str(BUNDLED),
        licence="Apache-2.0",
        geometry=Geometry(native=256, cell=2, align=16, channels=12, weights=40_000_000, width=48),
        over={
            "strength": 0.1,
            "steps": 20,
            "guidance": 5.0,
            "flat_guidance": 0.0,
            "flat_strength": "auto",
            "negative_prompt": "blurred, smooth",
            "overlap": 0.25,
            "upscaler": "auto",
            "structure": 1.0,
            "cutoff": 0.2,
            "scheduler": "euler",
        },
        quick={"steps": 10},
        no_paper="it is made for a strength of 0.1, and more turns its pictures into coloured noise",
        no_words="it was trained to refine photographs, and knows no things by name",
        came_with="DDIMScheduler",
        note="bundled; runs on a CPU",
        memory=2,
        tflop=0.024,
    ),
    "sd15": Known(
        source="stable-diffusion-v1-5/stable-diffusion-v1-5",
        licence="CreativeML Open RAIL-M",
        geometry=SD15_GEOMETRY,
        over={"scheduler": "ddim"},
        came_with="PNDMScheduler",
        pipeline="StableDiffusionPipeline",
        memory=6,
        tflop=0.8,
    ),
    "sd15-lcm": Known(
        source="stable-diffusion-v1-5/stable-diffusion-v1-5",
        licence="CreativeML Open RAIL-M",
        geometry=SD15_GEOMETRY,
        few=True,
        pipeline="StableDiffusionPipeline",
        memory=6,
        lora=("latent-consistency/lcm-lora-sdv1-5", "pytorch_lora_weights.safetensors"),
        scheduler=("LCMScheduler", {}),
        note="8 steps, no guidance",
        tflop=0.8,
    ),
    "sdxl": Known(
        source=SDXL,
        licence=SDXL_LICENCE,
        geometry=SDXL_GEOMETRY,
        half_vae=SDXL_VAE,
        memory=12,
    ),
    "sdxl-lightning": Known(
        source=SDXL,
        licence=SDXL_LICENCE,
        geometry=SDXL_GEOMETRY,
        few=True,
        half_vae=SDXL_VAE,
        memory=12,
        lora=("ByteDance/SDXL-Lightning", "sdxl_lightning_8step_lora.safetensors"),
        scheduler=("EulerDiscreteScheduler", {"timestep_spacing": "trailing"}),
        note="8 steps, no guidance",
    ),
    "sdxl-lcm": Known(
        source=SDXL,
        licence=SDXL_LICENCE,
        geometry=SDXL_GEOMETRY,
        few=True,
        half_vae=SDXL_VAE,
        memory=12,
        lora=("latent-consistency/lcm-lora-sdxl", "pytorch_lora_weights.safetensors"),
        scheduler=("LCMScheduler", {}),
        note="8 steps, no guidance",
    ),
    "dreamshaper-xl": Known(
        source="Lykon/dreamshaper-xl-1-0",
        licence=SDXL_LICENCE,
        geometry=SDXL_GEOMETRY,
        half_vae=SDXL_VAE,
        memory=12,
    ),
    "juggernaut-xl": Known(
        source="RunDiffusion/Juggernaut-XL-v9",
        licence="unclear: none on its page; a sister model says CreativeML Open RAIL-M",
        geometry=SDXL_GEOMETRY,
        half_vae=SDXL_VAE,
        memory=12,
        note="photographs",
    ),
    "realvis-xl": Known(
        source="SG161222/RealVisXL_V5.0",
        licence=SDXL_LICENCE,
        geometry=SDXL_GEOMETRY,
        half_vae=SDXL_VAE,
        memory=12,
        note="photographs",
    ),
    "illustrious-xl": Known(
        source="OnomaAIResearch/Illustrious-xl-early-release-v0",
        licence="Fair AI Public License 1.0-SD",
        geometry=SDXL_GEOMETRY,
        half_vae=SDXL_VAE,
        memory=12,
        note="drawings; prompts are tags",
    ),
    "pixart-alpha": Known(
        source="PixArt-alpha/PixArt-XL-2-1024-MS",
        licence=SDXL_LICENCE,
        geometry=Geometry(
            native=1024, cell=8, align=16, channels=4, weights=10_900_000_000, tile=KL_TILE_WHOLE
        ),
        quick=QUICKER,
        pipeline="PixArtAlphaPipeline",
        memory=15,
        tflop=7.2,
    ),
    "pixart-sigma": Known(
        source="PixArt-alpha/PixArt-Sigma-XL-2-1024-MS",
        licence=SDXL_LICENCE,
        geometry=Geometry(
            native=1024, cell=8, align=16, channels=4, weights=10_900_000_000, tile=KL_TILE_WHOLE
        ),
        quick=QUICKER,
        pipeline="PixArtSigmaPipeline",
        memory=15,
        note="reads 300 tokens of text",
        tflop=7.2,
    ),
    "sd3": Known(
        source="stabilityai/stable-diffusion-3-medium-diffusers",
        licence="Stability AI Community",
        geometry=Geometry(native=1024, cell=8, align=16, channels=16, weights=15_500_000_000, tile=KL_TILE),
        quick=QUICKER,
        pipeline="StableDiffusion3Pipeline",
        memory=20,
        note="accept its licence on the hub first",
        tflop=8.9,
    ),
    "sd35-medium": Known(
        source="stabilityai/stable-diffusion-3.5-medium",
        licence="Stability AI Community",
        geometry=Geometry(native=1024, cell=8, align=16, channels=16, weights=16_300_000_000, tile=KL_TILE),
        over={"steps": 40, "guidance": 4.5},
        pipeline="StableDiffusion3Pipeline",
        memory=21,
        note="accept its licence on the hub first",
        tflop=11.2,
    ),
    "sd35-large": Known(
        source="stabilityai/stable-diffusion-3.5-large",
        licence="Stability AI Community",
        geometry=Geometry(native=1024, cell=8, align=16, channels=16, weights=27_600_000_000, tile=KL_TILE),
        over={"guidance": 3.5},
        quick=QUICKER,
        pipeline="StableDiffusion3Pipeline",
        memory=32,
        note="accept its licence on the hub first",
        tflop=31.1,
    ),
    "z-image": Known(
        source="Tongyi-MAI/Z-Image",
        licence="Apache-2.0",
        geometry=Geometry(native=1024, cell=8, align=16, channels=16, weights=20_500_000_000, tile=KL_TILE),
        over={"steps": 50, "guidance": 4.0},
        pipeline="ZImagePipeline",
        memory=26,
        dtype="bfloat16",
        tflop=61.0,
    ),
    "z-image-turbo": Known(
        source="Tongyi-MAI/Z-Image-Turbo",
        licence="Apache-2.0",
        geometry=Geometry(native=1024, cell=8, align=16, channels=16, weights=20_500_000_000, tile=KL_TILE),
        few=True,
        pipeline="ZImagePipeline",
        memory=26,
        dtype="bfloat16",
        note="8 steps, no guidance",
        tflop=61.0,
    ),
    "flux2-klein": Known(
        source="black-forest-labs/FLUX.2-klein-4B",
        licence="Apache-2.0",
        geometry=KLEIN_GEOMETRY,
        few=True,
        pipeline="Flux2KleinPipeline",
        memory=20,
        dtype="bfloat16",
        note="8 steps, no guidance",
        tflop=34.8,
    ),
    "flux2-klein-base": Known(
        source="black-forest-labs/FLUX.2-klein-base-4B",
        licence="Apache-2.0",
        geometry=KLEIN_GEOMETRY,
        pipeline="Flux2KleinPipeline",
        memory=20,
        dtype="bfloat16",
        tflop=34.8,
    ),
    "qwen-image": Known(
        source="Qwen/Qwen-Image",
        licence="Apache-2.0",
        geometry=Geometry(
            native=1024, cell=8, align=16, channels=16, weights=57_700_000_000, tile=FRAMES_TILE
        ),
        pipeline="QwenImagePipeline",
        memory=65,
        dtype="bfloat16",
        tflop=69.3,
    ),
}


DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
# Pipelines whose activations overflow in float16: (their class, the half precision they take).
HALF = dict.fromkeys(
    (
        "ZImagePipeline",
        "ZImageImg2ImgPipeline",
        "Flux2KleinPipeline",
        "QwenImagePipeline",
        "QwenImageImg2ImgPipeline",
    ),
    "bfloat16",
)


def load(
    model: str = "tiny",
    *,
    device: str | None = None,
    dtype: str | torch.dtype | None = None,
    offload: Offload | Literal["auto"] = "none",
    controlnet: str | None = None,
    loras: Sequence[str] = (),
) -> Any:
    """A diffusers pipeline, ready to run.

    Args:
        model: A known name, a hub id ("owner/name"), a folder that `save_pretrained` wrote, or a single file of a whole model:
            its path, or of the hub "owner/name/file" or its address. Safetensors only.
        device: "cuda" (ROCm's too), "mps", "xpu", "cpu"; the best one there is by default.
        dtype: By default float32 on a CPU, bfloat16 on an accelerator for families that overflow in float16, else float16.
        offload: What waits in main memory while it is not used; needs an accelerator. "auto": the fastest way that the free
            memory holds beside a 4096 px result.
        controlnet: A ControlNet for tiles, hub id or folder, for the setting `control`; "auto" for the one that suits the
            model.
        loras: Each "PATH_OR_ID" or "PATH_OR_ID:weight"; a file of the hub is named as for `model`. They are recorded in the
            settings of results.

    Raises:
        CupscaleError: The model is unknown, cannot be read or run here, or a LoRA does not fit it.
    """
    import cupscale.codec  # noqa: F401 - diffusers loads a class from a library of another name only once it is imported

    device = device or best_device()
    if offload not in ("none", "auto") and device == "cpu":
        raise CupscaleError(
            f"offload '{offload}' needs an accelerator and this run is on a CPU: use offload none"
        )
    chosen = [checkpoints.lora_of(text) for text in loras]
    known = known_of(model)
    source = known.source if known else model
    _check_bundled(source)
    checkpoints.check_source(source, model, list(KNOWN))
    try:
        if checkpoints.is_single_file(source):
            source = checkpoints.local_file(source)
        precision = _dtype(dtype, device, known.pipeline if known else checkpoints.pipeline_class(source))
        pipe = _read(source, known, precision)
        if controlnet:
            pipe = _controlled(pipe, controlnet, precision)
        own = ["few_steps"] if known and known.lora else []
        checkpoints.load_loras(pipe, chosen, own)
        # For `name_of`: several names share a source.
        pipe.cupscale_name = model if model in KNOWN or checkpoints.is_single_file(model) else None
        pipe.cupscale_loras = tuple(lora.text for lora in chosen)
        pipe.cupscale_scheduler = {**pipe.scheduler.config, "_class_name": type(pipe.scheduler).__name__}
    except CupscaleError:
        raise
    except checkpoints.faults() as error:
        raise CupscaleError(f"cannot load model '{model}': {_reason(error, source)}") from error
    return _placed(pipe, offload, device, model)


def _read(source: str, known: Known | None, precision: torch.dtype) -> Any:
    """The pipeline in main memory, with what its name stands for."""
    import diffusers

    parts: dict[str, Any] = dict(checkpoints.left_out(source))
    if known and known.half_vae and precision == torch.float16:
        parts["vae"] = diffusers.AutoencoderKL.from_pretrained(
            known.half_vae, dtype=precision, use_safetensors=True
        )
    pipe = checkpoints.read_pipeline(source, precision, parts)
    if known and known.lora:
        pipe.load_lora_weights(known.lora[0], weight_name=known.lora[1], adapter_name="few_steps")
    if known and known.scheduler:
        kind, options = known.scheduler
        pipe.scheduler = getattr(diffusers, kind).from_config(pipe.scheduler.config, **options)
    return pipe


def work_bytes(geometry: Geometry, side_px: int = 4096) -> int:
    """What a square result takes beside the weights: as planned and, ours, a quarter and 0.5 GB for what no plan sees.

    Args:
        geometry: Of the model.
        side_px: Of the result.
    """
    plan = make_plan((side_px // 4, side_px // 4), Settings.build(scale=4), geometry)
    return int(1.25 * device_bytes(plan, geometry)) + 2**29


def _placed(pipe: Any, offload: Offload | Literal["auto"], device: str, model: str) -> Any:
    """The pipeline where it runs."""
    way = offloading.choose(pipe, device, work_bytes(adapt(pipe).geometry)) if offload == "auto" else offload
    try:
        return offloading.put(pipe, way, device)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        needed = offloading.weights_there(pipe, way) / 2**30
        raise CupscaleError(
            f"model '{model}' does not fit: its weights alone take {needed:.1f} GB on {device}; load it with offload auto"
        ) from error


# ControlNets for tiles, hub id and, where it is not a folder of diffusers, file. The last two stand in diffusers' documentation.
CONTROLNETS = {
    "StableDiffusionPipeline": "lllyasviel/control_v11f1e_sd15_tile",
    "StableDiffusionXLPipeline": "brad-twinkl/controlnet-union-sdxl-1.0-promax",
    "ZImagePipeline": "alibaba-pai/Z-Image-Turbo-Fun-Controlnet-Union/Z-Image-Turbo-Fun-Controlnet-Union.safetensors",
}


def _controlled(pipe: Any, source: str, dtype: torch.dtype) -> Any:
    """The pipeline of the same family that has a ControlNet."""
    import diffusers

    family = type(pipe).__name__
    if family not in CONTROLNETS:
        raise CupscaleError(
            f"a ControlNet works with {', '.join(CONTROLNETS)}, not with {family}: leave it out"
        )
    source = CONTROLNETS[family] if source == "auto" else source
    kind: Any = diffusers.ControlNetModel
    if family == "ZImagePipeline":
        kind = diffusers.ZImageControlNetModel
    elif "num_control_type" in kind.load_config(source):
        kind = diffusers.ControlNetUnionModel
    if source.endswith(".safetensors"):
        network = kind.from_single_file(checkpoints.local_file(source), dtype=dtype)
    else:
        network = kind.from_pretrained(source, dtype=dtype, use_safetensors=True)
    union = "Union" if kind is diffusers.ControlNetUnionModel else ""
    made = getattr(diffusers, family.replace("Pipeline", f"ControlNet{union}Pipeline"))
    made = made.from_pipe(pipe, controlnet=network, dtype=dtype)
    made.register_to_config(_name_or_path=pipe.name_or_path)
    return made


def _dtype(dtype: str | torch.dtype | None, device: str, family: str) -> torch.dtype:
    """family: the name of the pipeline's class."""
    if dtype is None:
        dtype = "float32" if device == "cpu" else HALF.get(family, "float16")
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype not in DTYPES:
        raise CupscaleError(f"unknown dtype '{dtype}': choose one of {', '.join(DTYPES)}")
    return DTYPES[dtype]


def _check_bundled(source: str) -> None:
    """Only where `source` is the bundled model: whether the installation brought all of it."""
    if source != str(BUNDLED):
        return
    fault = damaged(BUNDLED) if BUNDLED.is_dir() else "its folder is missing"
    if fault:
        raise CupscaleError(f"the bundled model is not whole: {fault}; {reinstall_command()}")


def _reason(error: Exception, source: str) -> str:
    """What a loader said, in one line, with the remedy."""
    if source == str(BUNDLED):
        said = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        return f"its files are damaged ({said}); {reinstall_command()}"
    return checkpoints.reason(error, "check the name and the network, or use model tiny, which needs none")


def known_of(model: str) -> Known | None:
    """The known model of a name, or the plain one of a hub id."""
    plain = (known for known in KNOWN.values() if known.source == model and not known.lora)
    return KNOWN.get(model) or next(plain, None)


def family(model: str) -> Mapping[str, Any] | None:
    """The defaults of the family of a checkpoint without a name, as its own description tells it; None where that is not had.

    Args:
        model: A name, a hub id, a folder or a single file, which is looked at: never a visitor's text.
    """
    if known := known_of(model):
        return known.defaults
    index = checkpoints.model_index(model)
    scheduler = index.get("scheduler")
    kind = scheduler[1] if isinstance(scheduler, list) and len(scheduler) == 2 else ""
    distilled = index.get("is_distilled") is True
    return family_defaults(checkpoints.pipeline_class(model), str(kind), distilled)


def name_of(pipe: Any) -> str:
    """The known name of a pipeline, or where it was loaded from."""
    if name := getattr(pipe, "cupscale_name", None):
        return str(name)
    source = str(getattr(pipe, "name_or_path", "") or type(pipe).__name__)
    for name, known in KNOWN.items():
        if source == known.source or (
            os.path.isdir(source) and os.path.realpath(source) == os.path.realpath(known.source)
        ):
            return name
    return source


def defaults(model: str, family: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The settings a model works best with, or, where it has no name, its `family` (a backbone's defaults)."""
    known = known_of(model)
    return dict(known.defaults if known else family or USUAL) | {"model": model}


def has_own_scheduler(pipe: Any) -> bool:
    """Whether a person has set another scheduler on a pipeline, which then goes before the one of its model's defaults."""
    known = known_of(name_of(pipe))
    return own.has_own_scheduler(pipe, known.came_with if known else "")


def presets(model: str, family: Mapping[str, Any] | None = None) -> dict[str, dict[str, Any]]:
    """The presets a model can do: name -> the fields that come over its defaults.

    Args:
        model: Its name.
        family: The defaults of its family, where it has no name of its own.
    """
    return {name: preset(model, name, family) for name in PRESETS if not _refusal(model, name, family)}


def preset(model: str, name: str | None, family: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The fields of one preset; empty for None.

    Args:
        model: Its name.
        name: Of the preset.
        family: The defaults of its family, where it has no name of its own.

    Raises:
        CupscaleError: There is no such preset, or this model cannot do it; the message says why.
    """
    if name is None:
        return {}
    if name not in PRESETS:
        raise CupscaleError(f"unknown preset '{name}': choose one of {', '.join(PRESETS)}")
    if reason := _refusal(model, name, family):
        raise CupscaleError(
            f"model {model} cannot do preset {name}: {reason}; choose {', '.join(presets(model, family))}"
        )
    known, usual = KNOWN.get(model), defaults(model, family)
    few = usual["guidance"] <= 1
    if name == "quick":
        own = known.quick if known else None
        return dict(own or (QUICK_OF_FEW if few else QUICK))
    if name == "turbo":
        return dict(TURBO)
    return PAPER | {"guidance": usual.get("guidance", 7.5), "scheduler": "ddim"}


def _refusal(model: str, name: str, family: Mapping[str, Any] | None) -> str:
    """Why a model cannot do a preset; empty where it can."""
    few = defaults(model, family)["guidance"] <= 1
    if name == "turbo":
        return "" if few else NOT_DISTILLED
    if name != "paper":
        return ""
    known = KNOWN.get(model)
    return (known.no_paper if known else "") or (DISTILLED if few else "")


def no_words(model: str) -> str:
    """Why a model reads no names of things, and so draws nothing from words; empty where it does."""
    known = KNOWN.get(model)
    return known.no_words if known else ""


def check_words(model: str, prompt: str, remedy: str = "give one to enlarge, or words to draw from") -> None:
    """See that there are words to draw a picture from, and a model that can.

    Args:
        model: Its name.
        prompt: Of the run, which has no image.
        remedy: What to do where the prompt is empty, for the message.

    Raises:
        CupscaleError: The prompt is empty, or the model cannot; the message says why.
    """
    if not prompt.strip():
        raise CupscaleError(f"neither an image nor a prompt is given: {remedy}")
    if reason := no_words(model):
        able = ", ".join(name for name, other in KNOWN.items() if not other.no_words)
        raise CupscaleError(
            f"model {model} cannot draw from words: {reason}; give an image, or choose one of {able}"
        )


def described(name: str) -> dict[str, Any]:
    """A known model as data for a person: source, licence, window in pixels, memory in GB, usual steps."""
    known = KNOWN[name]
    usual = Settings.build(known.defaults)
    return {
        "source": os.path.relpath(known.source) if os.path.isdir(known.source) else known.source,
        "licence": known.licence,
        "pipeline": known.pipeline,
        "native": known.geometry.native,
        "memory_gb": known.memory,
        "strength": usual.strength,
        "steps": usual.steps,
        "guidance": usual.guidance,
        "lora": known.lora[0] if known.lora else None,
        "note": known.note,
    }
