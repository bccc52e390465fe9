"""cupscale: creatively upscaling images with global-regional priors.

pipe = cupscale.load("tiny")
result = cupscale.upscale(pipe, "photo.jpg", prompt="a fox in the snow", scale=4, seed=7)
result.save("big.png")
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from cupscale.backbones import Tiles
from cupscale.errors import CupscaleError
from cupscale.models import load
from cupscale.pipeline import (
    CUpscalePipeline,
    Event,
    Finished,
    Planned,
    Preview,
    Progress,
    Result,
    Source,
)
from cupscale.planning import Plan
from cupscale.sampler import Notice
from cupscale.settings import Caption, Settings

__version__ = "0.1.0"


def stream(
    pipe: Any,
    image: Source,
    *,
    settings: Settings | None = None,
    preset: str | None = None,
    batch: int | None = None,
    tiles: Tiles | None = None,
    preview_px: int = 512,
    **fields: Any,
) -> Generator[Event, None, None]:
    """The events of a run: Planned, Progress, Preview and Notice as they come, Finished last.

    Bad input raises CupscaleError at the call. See `upscale` for the arguments.
    """
    run = CUpscalePipeline(pipe, batch=batch, tiles=tiles, preview_px=preview_px)
    return run.stream(image, settings=settings, preset=preset, **fields)


def upscale(
    pipe: Any,
    image: Source,
    *,
    settings: Settings | None = None,
    preset: str | None = None,
    batch: int | None = None,
    tiles: Tiles | None = None,
    **fields: Any,
) -> Result:
    """Upscale an image with a diffusers pipeline, which comes back as it was.

    image: a path, bytes, an open file or a PIL image, 16 px a side at least.
    settings: whole; or `preset` ("paper", "quick") and single fields such as prompt, scale, seed over the model's own
        defaults.
    batch: regions per network call; tiles: of the VAE. Both decide memory and time, not the picture.
    Returns a Result with .image, .settings, .captions, .plan, .seconds. Raises CupscaleError for bad input.
    """
    run = CUpscalePipeline(pipe, batch=batch, tiles=tiles, preview_px=0)
    return run.upscale(image, settings=settings, preset=preset, **fields)


__all__ = [
    "CUpscalePipeline",
    "Caption",
    "CupscaleError",
    "Event",
    "Finished",
    "Notice",
    "Plan",
    "Planned",
    "Preview",
    "Progress",
    "Result",
    "Settings",
    "Tiles",
    "load",
    "stream",
    "upscale",
]
