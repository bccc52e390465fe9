"""One run on a card: every model that fits, at 1K, 2K and 4K, as rows of a table to paste into benchmarks/results.md.

    python -m benchmarks.gpu                 known models, float16 (bfloat16 where a family needs it)
    python -m benchmarks.gpu --random        every family in its real size with random weights: no download
    python -m benchmarks.gpu --models sdxl --dtypes float32,float16 --offloads none,model,group,sequential --sizes 1024
    python -m benchmarks.gpu --models mine=/path/to/folder --steps 4

A row says: time, time a sample, peak memory beside what was planned, evaluations, whether the picture is finite, and how far
it is from the first precision's, in grey levels. What does not fit or fails in any other way is a row too. What is next, and
what it takes, goes to stderr; rows go to stdout as they are measured, so that `> rows.md` keeps them whatever happens later.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

import cupscale
from benchmarks import memory, real_size_families, real_size_sdxl, real_size_transformer
from cupscale import machine, models, offload
from cupscale.errors import CupscaleError
from cupscale.method.memory import empty_cache
from cupscale.pipeline import CUpscalePipeline
from cupscale.planning import device_bytes

GIB = 2**30
SCALE = 4
COLUMNS = (
    "card",
    "model",
    "precision",
    "offload",
    "output",
    "regions",
    "evaluations",
    "seconds",
    "seconds a sample",
    "peak GB, allocated",
    "reserved",
    "planned",
    "finite",
    "from the first precision, levels",
)


@dataclass
class Case:
    """One row. source: what `models.load` takes, or a function that makes a pipeline of a precision in main memory."""

    name: str
    source: str | Callable[[torch.dtype], Any]
    dtype: str | None
    way: str
    side_px: int
    shown: dict[str, str] = field(default_factory=dict)


def words() -> CLIPTokenizer:
    """The bundled model's: what is read does not matter here."""
    return CLIPTokenizer.from_pretrained(models.BUNDLED / "tokenizer")


def random_sd15(dtype: torch.dtype) -> Any:
    torch.manual_seed(0)
    tokenizer = words()
    marks = {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": tokenizer.bos_token_id}
    pipe = StableDiffusionPipeline(
        vae=AutoencoderKL(**real_size_sdxl.VAE),
        text_encoder=CLIPTextModel(CLIPTextConfig(**real_size_sdxl.TEXT, **marks)),
        tokenizer=tokenizer,
        unet=UNet2DConditionModel(**memory.UNET_SD15),
        scheduler=DDIMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return pipe.to(dtype)


def random_sdxl(dtype: torch.dtype) -> Any:
    return real_size_sdxl.build(words()).to(dtype)


def random_sd3(dtype: torch.dtype) -> Any:
    return real_size_transformer.build().to(dtype)


RANDOM: dict[str, Callable[[torch.dtype], Any]] = {
    "sd15": random_sd15,
    "sdxl": random_sdxl,
    "sd3": random_sd3,
    "pixart-sigma": real_size_families.pixart_sigma,
    "z-image-turbo": real_size_families.z_image,
    "flux2-klein": real_size_families.flux2_klein,
    "qwen-image": real_size_families.qwen_image,
}


def card(device: str) -> str:
    name = torch.cuda.get_device_name() if device == "cuda" else device
    return f"{name}, torch {torch.__version__}, {datetime.date.today()}"


def noise_image(side_px: int) -> Image.Image:
    """What it shows changes neither time nor memory."""
    values = np.random.default_rng(0).integers(0, 256, (side_px, side_px, 3), dtype=np.uint8)
    return Image.fromarray(values)


def usual_dtype(name: str) -> str:
    """The precision that a family's released weights are in."""
    known = models.KNOWN.get(name)
    return known.dtype if known else "float16"


def loaded(case: Case, device: str) -> CUpscalePipeline:
    if isinstance(case.source, str):
        pipe = models.load(case.source, device=device, dtype=case.dtype, offload=case.way)  # type: ignore[arg-type]
    else:
        made = case.source(models.DTYPES[case.dtype or usual_dtype(case.name)])
        pipe = offload.put(made, case.way, device)  # type: ignore[arg-type]
    return CUpscalePipeline(pipe, preview_px=0)


def settings(run: CUpscalePipeline, image: Image.Image, steps: int | None) -> cupscale.Settings:
    """The model's own, under all priors, the caption of one region given."""
    usual = run.settings(scale=SCALE, prompt="a forest", upscaler="lanczos", restore=0, seed=0)
    if (
        steps is not None
    ):  # of the schedule's end: the time a sample and the memory are those of the whole run
        usual = usual.replace(strength=min(1.0, steps / usual.steps))
    box = run.plan(image, usual).boxes[0]
    return usual.replace(captions=[{"box": box, "caption": "leaves"}])


def measured(case: Case, run: CUpscalePipeline, device: str, steps: int | None) -> Image.Image | None:
    """Fill a row; the picture, or None where there is none."""
    image = noise_image(case.side_px // SCALE)
    chosen = settings(run, image, steps)
    plan = run.plan(image, chosen)
    weights = offload.weights_there(run.pipe, offload.current(run.pipe))
    case.shown |= {
        "precision": str(run.backbone.network.dtype).removeprefix("torch."),
        "regions": str(len(plan.regions)),
        "evaluations": str(plan.evaluations),
        "planned": f"{(device_bytes(plan, run.backbone.geometry) + weights) / GIB:.1f}",
    }
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    print(f"  {case.side_px} px: {plan.line()}", file=sys.stderr)
    try:
        result = run.upscale(image, chosen)
    except Exception as error:  # a driver's too: the other rows are still to come
        case.shown["finite"] = "no" if "NaN" in str(error) else failure(error)
        return None
    speed = machine.known_speed(run.model, run.backbone.device.type) or {}
    case.shown |= {
        "finite": "yes",
        "seconds": f"{result.seconds:.1f}",
        "seconds a sample": f"{speed.get('sample', 0):.3f}",
    }
    if device == "cuda":
        case.shown["peak GB, allocated"] = f"{torch.cuda.max_memory_allocated() / GIB:.1f}"
        case.shown["reserved"] = f"{torch.cuda.max_memory_reserved() / GIB:.1f}"
    return result.image


def failure(error: Exception) -> str:
    """In one cell of the table."""
    said = (str(error).strip().splitlines() or [""])[0].replace("|", "/")
    return said if isinstance(error, CupscaleError) else f"{type(error).__name__}: {said}"


def announced(case: Case) -> str:
    """What is next, and what it takes before the first step."""
    known = models.KNOWN.get(case.name)
    weights = f"; weights of {known.geometry.weights / 1e9:.1f} GB in half precision" if known else ""
    fetched = (
        f", from {case.source} where they are not here yet" if isinstance(case.source, str) else ", random"
    )
    return f"{case.name}, {case.dtype or 'its own precision'}, offload {case.way}{weights}{fetched}"


def apart(ours: Image.Image | None, theirs: Image.Image | None) -> str:
    """Mean distance of two pictures in grey levels."""
    if ours is None or theirs is None or ours is theirs:
        return ""
    return f"{np.abs(np.asarray(ours, float) - np.asarray(theirs, float)).mean():.2f}"


def line(case: Case, device: str) -> str:
    fixed = {"card": card(device), "model": case.name, "offload": case.way}
    fixed |= {"output": f"{case.side_px} px", "precision": case.dtype or ""}
    values = fixed | case.shown
    return "| " + " | ".join(values.get(column, "") for column in COLUMNS) + " |"


def rows(arguments: argparse.Namespace) -> Iterator[str]:
    """The table, a line at a time."""
    device = arguments.device or machine.best_device()
    yield "| " + " | ".join(COLUMNS) + " |"
    yield "|" + "---|" * len(COLUMNS)
    for name, source in sources(arguments).items():
        first: dict[tuple[str, int], Image.Image] = {}
        for dtype, way in product(arguments.dtypes or [None], arguments.offloads):
            sample = Case(name, source, dtype, way, 0)
            print(announced(sample), file=sys.stderr)
            try:
                run = loaded(sample, device)
            except (
                Exception
            ) as error:  # torch's own where weights do not fit, a network's where they do not come
                sample.shown["finite"] = failure(error)
                yield line(sample, device)
                empty_cache()
                continue
            warm_up(run)
            for side_px in arguments.sizes:
                case = Case(name, source, dtype, way, side_px)
                picture = measured(case, run, device, arguments.steps)
                if picture is not None:
                    key = (way, side_px)
                    case.shown[COLUMNS[-1]] = apart(picture, first.setdefault(key, picture))
                yield line(case, device)
            del run
            gc.collect()
            empty_cache()


def warm_up(run: CUpscalePipeline) -> None:
    """Kernels are chosen at their first call; what goes wrong here is a row's to say."""
    try:
        run.upscale(noise_image(64), run.settings(scale=1, strength=0.02, upscaler="lanczos", restore=0))
    except Exception as error:
        print(f"  {failure(error)}", file=sys.stderr)


def sources(arguments: argparse.Namespace) -> dict[str, str | Callable[[torch.dtype], Any]]:
    """name -> what is loaded. The known ones are those with a network of their own: a few-step LoRA runs no other kernels."""
    if arguments.random:
        return {name: RANDOM[name] for name in arguments.models or RANDOM}
    if arguments.models:
        named = [entry.partition("=") for entry in arguments.models]
        return {name: source or name for name, _, source in named}
    return {name: name for name, known in models.KNOWN.items() if not known.lora and name != "tiny"}


def _list(kind: Callable[[str], Any]) -> Callable[[str], list[Any]]:
    return lambda text: [kind(part) for part in text.split(",")]


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--models", type=_list(str), help="NAME or NAME=FOLDER_OR_ID, divided by commas")
    made.add_argument("--random", action="store_true", help="real sizes, random weights; --models names some")
    made.add_argument("--sizes", type=_list(int), default=[1024, 2048, 4096], help="of the result, px a side")
    made.add_argument(
        "--dtypes",
        type=_list(str),
        help="float16, bfloat16, float32; the first is what others are compared with",
    )
    made.add_argument("--offloads", type=_list(str), default=["none"], help=", ".join(offload.WAYS))
    made.add_argument(
        "--steps", type=int, help="of the schedule's end; all that the model's settings run by default"
    )
    made.add_argument("--device", help="the best there is by default")
    return made


def main() -> None:
    for text in rows(parser().parse_args()):
        print(text, flush=True)


if __name__ == "__main__":
    main()
