"""The calls of `import cupscale`: a run or its captions in one line, over `CUpscalePipeline`."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from cupscale.backbones import Tiles
from cupscale.captioners import Captioned, Captioner, Captioning, open_captioning
from cupscale.events import Event, Result
from cupscale.pipeline import CUpscalePipeline, Source
from cupscale.settings import Settings


def stream(
    pipe: Any,
    image: Source | None = None,
    settings: Settings | None = None,
    *,
    preset: str | None = None,
    captioner: str | Captioner | Captioning | None = "auto",
    batch: int | None = None,
    tiles: Tiles | None = None,
    preview_px: int = 512,
    mask: Source | None = None,
    bits: int = 8,
    **fields: Any,
) -> Generator[Event, None, None]:
    """The events of a run: Planned, Progress, Preview and Notice as they come, Finished last. Close it to cancel.

    Args:
        pipe: A diffusers pipeline, which comes back as it was.
        image: A path, bytes, an open file or a PIL image, 16 px a side at least. None: the prompt is drawn first.
        settings: Whole; None for the model's own defaults.
        preset: Its fields come over them: "paper", "quick".
        captioner: Who writes the captions and the prompt that are not given: "qwen", a server's address ..., see
            `open_captioner`, or a `Captioning`. "auto": a multimodal model on an accelerator, see
            `cupscale.captioners.automatic`; "none" or None: nobody. One that cannot work leaves its regions to the
            prompt, with a Notice.
        batch: Regions per network call. It decides memory and time, not the picture.
        tiles: Of the VAE, likewise.
        preview_px: Longer side of the previews in pixels, 0 for none.
        mask: A picture of the image's size, white where nothing is invented: the base upscale stays there.
        bits: 8, or 16, which PNG and TIFF hold.
        **fields: Single settings, such as prompt, scale, seed, over all of these.

    Raises:
        CupscaleError: Bad input, at the call.
    """
    run = CUpscalePipeline(pipe, batch=batch, tiles=tiles, preview_px=preview_px, bits=bits)
    captioning = _captioning(run, captioner, preset)
    return run.stream(image, settings, preset=preset, captioning=captioning, mask=mask, **fields)


def upscale(
    pipe: Any,
    image: Source | None = None,
    settings: Settings | None = None,
    *,
    preset: str | None = None,
    captioner: str | Captioner | Captioning | None = "auto",
    batch: int | None = None,
    tiles: Tiles | None = None,
    mask: Source | None = None,
    bits: int = 8,
    **fields: Any,
) -> Result:
    """Upscale an image, or one drawn from the prompt, with a diffusers pipeline. See `stream` for the arguments.

    Returns:
        A Result with .image, .settings, .captions, .plan and .seconds.

    Raises:
        CupscaleError: Bad input, before any work is done.
    """
    run = CUpscalePipeline(pipe, batch=batch, tiles=tiles, preview_px=0, bits=bits)
    captioning = _captioning(run, captioner, preset)
    return run.upscale(image, settings, preset=preset, captioning=captioning, mask=mask, **fields)


def _captioning(
    run: CUpscalePipeline, captioner: str | Captioner | Captioning | None, preset: str | None
) -> Captioning:
    return open_captioning(captioner, model=run.model, device=run.backbone.device.type, preset=preset)


def caption(
    pipe: Any,
    image: Source,
    captioner: str | Captioner | Captioning = "appearance",
    settings: Settings | None = None,
    *,
    preset: str | None = None,
    **fields: Any,
) -> Captioned:
    """Write the captions of a run without running it. See `stream` for the arguments.

    Returns:
        Captioned, which goes into a run as `upscale(..., captions=done.captions, prompt=done.prompt)`.
        `CUpscalePipeline(pipe).caption(...)` gives the events.

    Raises:
        CupscaleError: Bad input.
    """
    run = CUpscalePipeline(pipe, preview_px=0)
    for event in run.caption(image, _captioning(run, captioner, preset), settings, preset=preset, **fields):
        if isinstance(event, Captioned):
            return event
    raise RuntimeError("the captioner ended without a result")
