"""`cupscale bench`: how fast a model is on this machine, as a table."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import click
import numpy as np
import torch
from PIL import Image

import cupscale
from cupscale import machine, upscalers
from cupscale.cli import MODEL_FLAGS, Hardware
from cupscale.errors import CupscaleError
from cupscale.events import Finished, Planned, Progress
from cupscale.pipeline import CUpscalePipeline
from cupscale.planning import Plan
from cupscale.reproduce.cost import peak_memory
from cupscale.settings import PRESETS, Settings


class Sides(click.ParamType[tuple[int, ...]]):
    """'1024,2048' to (1024, 2048)."""

    name = "PX,PX"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        parts = str(value).split(",")
        if all(part.isdecimal() and 64 <= int(part) <= 16384 for part in parts):
            return tuple(map(int, parts))
        self.fail(f"{value!r} is not a list of sides from 64 to 16384 px, such as 1024,2048", param, ctx)


@dataclass(frozen=True)
class Measured:
    """One run.

    side: of the result, a square, in pixels. samples: of the network. seconds: in all. enlarge: of the base upscaler.
    steps: of the steps, the network's calls among them. network: of those calls alone. peak: bytes, of the accelerator or of the
    process, None where this system does not tell. planned: bytes. expected: seconds, as the plan had them before the run.
    """

    side: int
    samples: int
    seconds: float
    enlarge: float
    steps: float
    network: float
    peak: int | None
    planned: int
    expected: float | None

    @property
    def a_sample(self) -> float:
        """Seconds."""
        return self.network / self.samples if self.samples else 0.0

    @property
    def a_megapixel(self) -> float:
        """Seconds, without the base upscaler."""
        return (self.seconds - self.enlarge) / (self.side**2 / 1e6)

    @property
    def around(self) -> float:
        """The steps' time over that of the network's calls in them."""
        return self.steps / self.network if self.network else 1.0

    def row(self) -> str:
        peak = "-" if self.peak is None else f"{self.peak / 2**30:.2f}"
        expected = "-" if self.expected is None else f"{self.expected:.1f}"
        return (
            f"| {self.side} x {self.side} | {self.samples} | {self.seconds:.1f} | {expected} | {self.a_sample * 1e3:.0f} "
            f"| {self.a_megapixel:.2f} | {self.around:.3f} | {self.enlarge:.1f} | {peak} | {self.planned / 2**30:.2f} |"
        )


HEAD = (
    "| result, px | samples | seconds | as planned | ms a sample | s a megapixel | steps over their calls | base upscale, s "
    "| peak GB | plan's GB |",
    "|---|---|---|---|---|---|---|---|---|---|",
)


class _Calls:
    """The time that a network's calls take. Closing it takes the hooks away."""

    def __init__(self, network: Any, device: torch.device):
        self.seconds = 0.0
        self._began = 0.0
        self._cuda = device.type == "cuda"
        self._hooks = (
            network.register_forward_pre_hook(self._before),
            network.register_forward_hook(self._after),
        )

    def _now(self) -> float:
        if self._cuda:
            torch.cuda.synchronize()
        return time.perf_counter()

    def _before(self, *_: Any) -> None:
        self._began = self._now()

    def _after(self, *_: Any) -> None:
        self.seconds += self._now() - self._began

    def close(self) -> None:
        for hook in self._hooks:
            hook.remove()


class _Nothing(upscalers.Cache):
    """Keeps nothing, so that the base upscaler is timed each time."""

    def get(self, key: str, size: tuple[int, int]) -> Image.Image | None:
        return None

    def put(self, key: str, image: Image.Image) -> None:
        return None


def measure(pipeline: CUpscalePipeline, side: int, settings: Settings) -> Measured:
    """One run on a square of noise: what a picture shows does not change the time, where it is not restored.

    Args:
        pipeline: The model, loaded.
        side: Of the result in pixels.
        settings: Of the run, with its scale.

    Returns:
        The seconds, samples and bytes of that run beside those that were planned.
    """
    pixels = round(side / settings.scale)
    values = np.random.default_rng(0).integers(0, 256, (pixels, pixels, 3), dtype=np.uint8)
    calls = _Calls(pipeline.backbone.network, pipeline.backbone.device)
    stages: dict[str, float] = {}
    stage, since = "", time.perf_counter()
    try:
        with peak_memory(pipeline.backbone.device) as peak:
            for event in pipeline.stream(Image.fromarray(values), settings):
                if isinstance(event, Planned):
                    plan: Plan = event.plan
                elif isinstance(event, Progress) and event.stage != "denoise":
                    # The steps' first news comes after their first call, so they begin where encoding says it does.
                    now = time.perf_counter()
                    stages[stage] = stages.get(stage, 0.0) + now - since
                    stage, since = event.stage, now
                elif isinstance(event, Progress) and stage == "encode":
                    began = time.perf_counter() - calls.seconds
                    stages["encode"] = began - since
                    stage, since = "denoise", began
                elif isinstance(event, Finished):
                    seconds = event.result.seconds
    finally:
        calls.close()
    return Measured(
        side,
        plan.samples,
        seconds,
        stages.get("enlarge", 0.0),
        stages.get("denoise", 0.0),
        calls.seconds,
        peak.bytes,
        plan.bytes,
        plan.seconds,
    )


def _head(pipeline: CUpscalePipeline, settings: Settings) -> list[str]:
    name = machine.device_name(pipeline.backbone.device.type)
    return [
        f"cupscale {cupscale.__version__}, {pipeline.model} in {pipeline.how}, {pipeline.batch} "
        f"region{'s' * (pipeline.batch > 1)} at once, on {name}, torch {torch.__version__}",
        f"strength {settings.strength:g} of {settings.steps} steps, guidance {settings.guidance:g}, overlap "
        f"{settings.overlap:g}, windows {settings.windows}, enlarged {settings.scale:g} times by {settings.upscaler}",
        "",
        *HEAD,
    ]


@click.command()
@click.option("--model", default="tiny", show_default=True, help="Model name, hub id or folder.")
@click.option("--preset", type=click.Choice(list(PRESETS)), help="A set of settings over the model's own.")
@click.option(
    "--sides", type=Sides(), default="1024,2048", show_default=True, help="Of the results, in pixels."
)
@click.option("--scale", type=click.FloatRange(1, 16), default=4.0, show_default=True)
@click.option(
    "--steps", type=click.IntRange(1, 1000), help="Of the whole schedule, in place of the model's own."
)
@click.option("--json", "as_json", is_flag=True, help="A line of JSON for each run.")
@MODEL_FLAGS
def bench(
    model: str,
    preset: str | None,
    sides: Sequence[int],
    scale: float,
    steps: int | None,
    as_json: bool,
    **flags: Any,
) -> None:
    """Measure how fast a model runs here: seconds, samples, memory, and what the plan had expected.

    A small run comes first, which counts for nothing: libraries load and compile in it.
    """
    hardware = Hardware(**flags | {"controlnet": None})
    pipeline = hardware.pipeline(model)
    settings = pipeline.settings(preset, scale=scale, seed=1, steps=steps, prompt="a photograph", restore=0)
    for side in sides:  # what cannot be done is said before anything is run
        pixels = round(side / scale)
        if pixels < 16:
            raise CupscaleError(
                f"a result of {side} px at scale {scale:g} has an input of {pixels} px: give a smaller scale"
            )
        pipeline.plan((pixels, pixels), settings)
    pipeline.cache = _Nothing()
    measure(pipeline, 64, settings.replace(scale=1.0, steps=1, strength=1.0, upscaler="lanczos"))
    if not as_json:
        for line in _head(pipeline, settings):
            click.echo(line)
    for side in sides:
        found = measure(pipeline, side, settings)
        click.echo(json.dumps(asdict(found)) if as_json else found.row())
