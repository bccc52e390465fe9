"""Captioners: who writes the captions of the Regional Semantic Prior (RSP).

In the paper LLaVA does. Here it is any image-text-to-text model of transformers, a server that speaks OpenAI's
protocol, words for how each region appears, or nobody ("none": every region takes the global prompt). A file of captions is read
by `cupscale.captions`.

    captioner = open_captioner("qwen")
    for event in caption_regions(captioner, picture.rgb, plan): ...   # Captioned comes last
    captioner.release()

Nothing here knows a diffusion model or a page.
"""

from __future__ import annotations

from cupscale.captioners.base import Answer, Captioner, CaptionerError, Captioning, NoCaptioner, Request
from cupscale.captioners.cache import Cache
from cupscale.captioners.choose import KNOWN, automatic, next_best, open_captioner, open_captioning
from cupscale.captioners.sharing import SHARE, group
from cupscale.captioners.stage import Captioned, CaptionProgress, caption_calls, caption_regions

__all__ = [
    "KNOWN",
    "SHARE",
    "Answer",
    "Cache",
    "CaptionProgress",
    "Captioned",
    "Captioner",
    "CaptionerError",
    "Captioning",
    "NoCaptioner",
    "Request",
    "automatic",
    "caption_calls",
    "caption_regions",
    "group",
    "next_best",
    "open_captioner",
    "open_captioning",
]
