"""cupscale: creatively upscaling images with global-regional priors.

pipe = cupscale.load("tiny")
result = cupscale.upscale(pipe, "photo.jpg", prompt="a fox in the snow", scale=4, seed=7)
result.save("big.png")
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from cupscale.backbones import Tiles
from cupscale.captioners import SHARE, Captioned, Captioner, open_captioner
from cupscale.errors import CupscaleError
from cupscale.method.sampler import Notice
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
    captioner: str | Captioner | None = None,
    share: float = SHARE,
    prepend: bool = False,
    fresh: bool = False,
    **fields: Any,
) -> Generator[Event, None, None]:
    """The events of a run: Planned, Progress, Preview and Notice as they come, Finished last.

    Bad input raises CupscaleError at the call. See `upscale` for the arguments.
    """
    run = CUpscalePipeline(pipe, batch=batch, tiles=tiles, preview_px=preview_px)
    return run.stream(
        image,
        settings=settings,
        preset=preset,
        captioner=open_captioner(captioner),
        share=share,
        prepend=prepend,
        fresh=fresh,
        **fields,
    )


def upscale(
    pipe: Any,
    image: Source,
    *,
    settings: Settings | None = None,
    preset: str | None = None,
    batch: int | None = None,
    tiles: Tiles | None = None,
    captioner: str | Captioner | None = None,
    share: float = SHARE,
    prepend: bool = False,
    fresh: bool = False,
    **fields: Any,
) -> Result:
    """Upscale an image with a diffusers pipeline, which comes back as it was.

    image: a path, bytes, an open file or a PIL image, 16 px a side at least.
    settings: whole; or `preset` ("paper", "quick") and single fields such as prompt, scale, seed over the model's own
        defaults.
    batch: regions per network call; tiles: of the VAE. Both decide memory and time, not the picture.
    captioner: who writes the captions and the prompt that are not given: "qwen", "tagger", a server's address ...; see
        `cupscale.captioners.open_captioner`. One that could not work leaves its regions to the prompt, with a Notice.
    share: neighbouring regions that differ by less share a caption. prepend: put the prompt before every caption.
        fresh: do not use answers that are known from before.
    Returns a Result with .image, .settings, .captions, .plan, .seconds. Raises CupscaleError for bad input.
    """
    run = CUpscalePipeline(pipe, batch=batch, tiles=tiles, preview_px=0)
    return run.upscale(
        image,
        settings=settings,
        preset=preset,
        captioner=open_captioner(captioner),
        share=share,
        prepend=prepend,
        fresh=fresh,
        **fields,
    )


def caption(
    pipe: Any,
    image: Source,
    captioner: str | Captioner = "tagger",
    *,
    settings: Settings | None = None,
    preset: str | None = None,
    share: float = SHARE,
    prepend: bool = False,
    fresh: bool = False,
    **fields: Any,
) -> Captioned:
    """Write the captions of a run without running it: `.captions`, `.prompt` and what they cost.

    They go into a run as `upscale(..., captions=done.captions, prompt=done.prompt)`. The arguments are those of `upscale`;
    `CUpscalePipeline(pipe).caption(...)` gives the events.
    """
    run = CUpscalePipeline(pipe, preview_px=0)
    events = run.caption(
        image,
        open_captioner(captioner),
        settings=settings,
        preset=preset,
        share=share,
        prepend=prepend,
        fresh=fresh,
        **fields,
    )
    for event in events:
        if isinstance(event, Captioned):
            return event
    raise RuntimeError("the captioner ended without a result")


__all__ = [
    "CUpscalePipeline",
    "Caption",
    "Captioned",
    "Captioner",
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
    "caption",
    "load",
    "open_captioner",
    "stream",
    "upscale",
]
