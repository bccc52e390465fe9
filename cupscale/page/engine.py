"""Models and runs behind the page. The one place that knows of a GPU that comes and goes (`spaces`).

A model is loaded once and shared; a lock keeps two runs from using it at the same time. On a GPU the default model is loaded
when the page starts. On ZeroGPU all that are offered are: a model that is fetched inside a visitor's slot is fetched for each,
and none but the main thread may put one on the card. Names of models come from an allow-list: the known ones (on ZeroGPU the
default), and what the operator adds with CUPSCALE_MODELS ("name=hub/id, name=/folder, name=sdxl + /loras/ink.safetensors:0.8").
A visitor's text never becomes a path or a hub id. As many models stay loaded as the memory holds; the one that was not used for
longest goes first.

What flags of the command line say of the hardware, the operator says in the environment: CUPSCALE_OFFLOAD, what waits in main
memory (auto, the default, none, model, group, sequential); CUPSCALE_DTYPE, the precision; CUPSCALE_VAE_TILE, the side of a VAE
tile in pixels; CUPSCALE_REGIONS_AT_ONCE, of one network call.
"""

from __future__ import annotations

import contextlib
import gc
import os
import re
import threading
from collections.abc import Collection, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
import spaces

from cupscale import checkpoints, machine, models
from cupscale.backbones import Tiles
from cupscale.errors import CupscaleError
from cupscale.events import Event
from cupscale.images import Picture
from cupscale.method.memory import empty_cache
from cupscale.offload import WAYS
from cupscale.page import writers
from cupscale.page.limits import lent_gpu
from cupscale.pipeline import CUpscalePipeline
from cupscale.planning import LEAST_TILE_PX, TILE_PX, Geometry, Plan
from cupscale.run_plan import plan_run
from cupscale.settings import Settings
from cupscale.upscalers import Cache

ZERO = lent_gpu()
_LONGEST_GPU_SECONDS = 300
# A sample of SDXL at 128 x 128 cells on half an H200, an estimate from its 6.8 TFLOP; and what a run takes besides.
_SAMPLE_SECONDS = 0.045
_FIXED_SECONDS = 8.0
_CALL_SECONDS = 1.5  # of a captioner, where none was measured
_MARGIN = 1.5  # over a guess
_KEPT_SECONDS = 3600  # what base upscalers made of a visitor's picture
_kept: dict[str, CUpscalePipeline] = {}  # models that are loaded, the one that was used last at the end
one_run = threading.Lock()
_loading = threading.Lock()


@dataclass(frozen=True)
class Refused:
    """A run that could not be done: the line for the person. An event, so that it crosses to and from a GPU worker."""

    message: str


@dataclass(frozen=True)
class Offered:
    """A model of this page: what `models.load` takes of it."""

    source: str
    loras: tuple[str, ...] = ()


def offered() -> dict[str, Offered]:
    """By name."""
    return {name: Offered(name) for name in models.KNOWN} | _operators()


def _operators() -> dict[str, Offered]:
    """The operator's own models: "name=source", or a source alone, and behind it " + LoRA" any number of times.

    Raises:
        CupscaleError: An entry has no source, or a LoRA that can be none.
    """
    named = {}
    for entry in filter(None, (part.strip() for part in os.environ.get("CUPSCALE_MODELS", "").split(","))):
        name, named_so, rest = entry.partition("=")
        source, *loras = (part.strip() for part in f"{rest if named_so else entry} ".split(" + "))
        if not source or not (name := (name if named_so else source).strip()):
            raise CupscaleError(
                f"CUPSCALE_MODELS has '{entry}': write name=source, or name=source + LoRA:weight"
            )
        for lora in loras:
            checkpoints.lora_of(lora)
        named[name] = Offered(source, tuple(loras))
    return named


def controlnets() -> dict[str, str]:
    """CUPSCALE_CONTROLNETS: the models of this page that have a ControlNet for tiles, name -> hub id, folder or "auto"."""
    named = {}
    for entry in filter(
        None, (part.strip() for part in os.environ.get("CUPSCALE_CONTROLNETS", "").split(","))
    ):
        name, _, source = entry.partition("=")
        named[name.strip()] = source.strip() or "auto"
    return named


def names() -> list[str]:
    """Models a visitor may choose. On a CPU the ones of a GPU's size stay away unless the operator names them."""
    if ZERO:  # those that are loaded when the page starts
        default = os.environ.get("CUPSCALE_MODEL") or "sdxl"
        return [name for name in dict.fromkeys((default, *_operators())) if name in offered()]
    if machine.best_device() == "cpu":
        small = [name for name, known in models.KNOWN.items() if known.geometry.weights < 2**30]
        return [name for name in offered() if name in small or name not in models.KNOWN]
    return list(offered())


def default_model() -> str:
    """CUPSCALE_MODEL; else SDXL where there is a GPU, else the bundled one."""
    wanted = os.environ.get("CUPSCALE_MODEL")
    return check_model(wanted or ("sdxl" if ZERO or machine.best_device() != "cpu" else "tiny"))


def drawers() -> list[str]:
    """Models of this page that can draw a picture from words."""
    return [name for name in names() if not models.no_words(name)]


def check_model(name: str) -> str:
    """Raises CupscaleError for a model that is not on the list."""
    if name not in names():
        raise CupscaleError(
            f"model '{name[:80]}' is not on this page's list: choose one of {', '.join(names())}"
        )
    return name


def defaults(name: str) -> dict[str, object]:
    """The settings a model works best with."""
    return models.defaults(name, models.family(offered()[check_model(name)].source))


def pipeline(name: str) -> CUpscalePipeline:
    """The model, loaded once, and kept while there is room for those that are asked for."""
    with _loading:
        found = _kept.pop(check_model(name), None)
        while found is None and not ZERO and _kept and not _room_for(name):
            _kept.pop(next(iter(_kept)))
            gc.collect()
            empty_cache()
        _kept[name] = found or _loaded(name)  # the last one
        return _kept[name]


def _room_for(name: str) -> bool:
    """Whether a model can be loaded beside those that are. One without a name is taken to be as large as the largest of them."""
    known = models.known_of(offered()[name].source)
    geometry = (
        known.geometry if known else max((kept.backbone.geometry for kept in _kept.values()), key=_weights)
    )
    if machine.free_bytes("cpu") < geometry.weights:
        return False
    device = machine.best_device()
    if device == "cpu" or _offload() not in ("auto", "none"):
        return True
    return machine.free_bytes(device) >= geometry.weights + models.work_bytes(geometry)


def _weights(geometry: Geometry) -> int:
    return geometry.weights


def _loaded(name: str) -> CUpscalePipeline:
    chosen = offered()[name]
    way, dtype = _offload(), _one_of("CUPSCALE_DTYPE", models.DTYPES)
    batch, tile = _whole("CUPSCALE_REGIONS_AT_ONCE", 1, 256), _whole("CUPSCALE_VAE_TILE", LEAST_TILE_PX, 8192)
    pipe = models.load(
        chosen.source,
        dtype=dtype,
        offload=way,
        controlnet=controlnets().get(name),
        loras=chosen.loras,
    )
    # They are recorded in visitors' results, whom the operator's folders do not concern.
    pipe.cupscale_loras = tuple(
        Path(lora).name if Path(lora).is_absolute() else lora for lora in chosen.loras
    )
    tiles, cache = Tiles(tile or TILE_PX), Cache(max_age=_KEPT_SECONDS)
    return CUpscalePipeline(pipe, batch=batch, tiles=tiles, preview_px=448, cache=cache)


def _offload() -> Any:
    """CUPSCALE_OFFLOAD; on ZeroGPU, whose card holds what is offered, nothing waits elsewhere."""
    return _one_of("CUPSCALE_OFFLOAD", ("auto", *WAYS)) or ("none" if ZERO else "auto")


def _one_of(variable: str, choices: Collection[str]) -> str | None:
    """What the environment says; None where it says nothing. Raises CupscaleError for what is no choice."""
    said = os.environ.get(variable) or None
    if said is not None and said not in choices:
        raise CupscaleError(f"{variable} is '{said}': choose {', '.join(choices)}")
    return said


def _whole(variable: str, least: int, most: int) -> int | None:
    """The same of a whole number."""
    said = os.environ.get(variable)
    if not said:
        return None
    if not (said.isascii() and said.isdigit() and least <= int(said) <= most):
        raise CupscaleError(f"{variable} is '{said}': give a whole number from {least} to {most}")
    return int(said)


def preload() -> None:
    """Load at start-up what a GPU wants there: all models of a ZeroGPU page, else the default one where there is a card."""
    if ZERO:
        for name in names():
            pipeline(name)
    elif machine.best_device() in ("cuda", "xpu"):
        pipeline(default_model())


def geometry(name: str) -> Geometry:
    """What a plan must know of a model, without loading it where it is a known one."""
    known = models.KNOWN.get(check_model(name))
    return known.geometry if known else pipeline(name).backbone.geometry


def planned(
    image: tuple[int, int] | Picture | None, settings: Settings, writer: str = writers.NOBODY
) -> Plan:
    """The plan of a run of this page.

    Args:
        image: The input, or its size; None where it is drawn from words.
        settings: Of the run.
        writer: Who writes captions that are not given, by name.

    Raises:
        CupscaleError: The image, the output or a name is outside of what this page does.
    """
    known = settings.model in models.KNOWN
    speed_name = settings.model if known else pipeline(settings.model).model
    device = "cuda" if ZERO else machine.best_device()
    captioning = writers.captioning(writer, settings.model)
    return plan_run(image, settings, geometry(settings.model), speed_name, device, captioning)


def gpu_seconds(
    image: tuple[int, int] | Picture | None,
    settings: Settings,
    writer: str = writers.NOBODY,
    mask: Picture | None = None,
) -> int:
    """The duration to declare to ZeroGPU, which counts against a visitor's quota: of the captions and the picture.

    A mask takes none.
    """
    plan = planned(image, settings, writer)
    return int(min(_LONGEST_GPU_SECONDS, max(15, 1.1 * expected_seconds(plan, settings) + _FIXED_SECONDS)))


def expected_seconds(plan: Plan, settings: Settings) -> float:
    """How long a run takes: as measured, else a guess on the high side."""
    captions = plan.caption_calls * _CALL_SECONDS
    if plan.seconds is not None and not plan.guessed:
        return plan.seconds
    if plan.seconds is not None and not ZERO:
        return _MARGIN * plan.seconds + captions
    cells = plan.window.h * plan.window.w
    megapixels = plan.output[0] * plan.output[1] / 1e6
    if ZERO or machine.best_device() != "cpu":  # as SDXL on the card of ZeroGPU
        return captions + plan.samples * _SAMPLE_SECONDS * cells / 128**2 + megapixels * 0.6
    # A model without a name: the bundled one on two cores, in proportion to the weights.
    size = max(1.0, geometry(settings.model).weights / 40e6)
    return captions + plan.samples * 0.32 * size * cells / 15360 + megapixels * 60


def longest_seconds() -> float:
    """The longest run that the duration declared to ZeroGPU still covers; 0 where nothing is declared."""
    return (_LONGEST_GPU_SECONDS - _FIXED_SECONDS) / 1.1 if ZERO else 0.0


@spaces.GPU(duration=gpu_seconds)
def _events(
    picture: Picture | None, settings: Settings, writer: str, mask: Picture | None
) -> Generator[Event | Refused, None, None]:
    try:
        captioning = writers.captioning(writer, settings.model)
        with one_run:
            events = pipeline(settings.model).stream(picture, settings, captioning=captioning, mask=mask)
            with contextlib.closing(events):
                yield from events
    except CupscaleError as error:
        yield Refused(str(error))


def stream(
    picture: Picture | None,
    settings: Settings,
    writer: str = writers.NOBODY,
    mask: Picture | None = None,
) -> Generator[Event, None, None]:
    """The events of a run; without a picture it is drawn from words. `writer` writes captions that are not given.

    Closing it stops the run within one network call.

    Raises:
        CupscaleError: The run is refused or fails, or there is no GPU for it.
    """
    check_model(settings.model)
    with _in_words(), contextlib.closing(_events(picture, settings, writer, mask)) as events:
        for event in events:
            if isinstance(event, Refused):
                raise CupscaleError(event.message)
            yield event


@contextlib.contextmanager
def _in_words() -> Iterator[None]:
    """What ZeroGPU ends a run with (no quota left, no GPU free, a task cut off) as the one error that a page shows."""
    try:
        yield
    except gr.Error as error:
        said = re.sub(r"<[^>]*>", "", str(error.message)).strip().rstrip(".")
        raise CupscaleError(
            f"{error.title}: {said}; try again later, choose a smaller scale, or run it on a machine of your own"
        ) from error
    except RuntimeError as error:
        if not ZERO:
            raise
        raise CupscaleError(f"there is no GPU for this run ({error}): try again in a minute") from error


def quota_line(image: tuple[int, int] | Picture, settings: Settings, writer: str = writers.NOBODY) -> str:
    """What a run takes of a visitor's daily GPU time; empty where that is not counted."""
    if not ZERO:
        return ""
    seconds = gpu_seconds(image, settings, writer)
    return f"{seconds} s of GPU quota" + (
        " (a visitor has 120 s a day, a free account 300)" if seconds > 60 else ""
    )
