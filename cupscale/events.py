"""What a run says while it goes on: small frozen records, the last of which holds the result."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cupscale.captioners import Captioned, CaptionProgress
from cupscale.images.metadata import NOTHING, Kept
from cupscale.method.sampler import Notice
from cupscale.planning import Plan
from cupscale.saving import Saving
from cupscale.settings import Caption, Settings


@dataclass(frozen=True)
class Result:
    """A finished picture.

    Attributes:
        image: RGB or RGBA, of exactly round(scale x input).
        settings: As used, with the captions that were written for the run.
        plan: What was planned, with the seconds that it took.
        seconds: From the call to the picture.
        kept: What a file of it may keep of the input's.
        deep: In 16 bits, (h, w, 3) uint16 in sRGB, or (h, w) where it is grey; None for a run of 8 bits.
    """

    image: Image.Image
    settings: Settings
    plan: Plan
    seconds: float
    kept: Kept = NOTHING
    deep: np.ndarray | None = field(default=None, compare=False)

    @property
    def captions(self) -> tuple[Caption, ...]:
        """The captions that were used."""
        return self.settings.captions

    def save(self, path: str | Path, **how: Any) -> None:
        """Write PNG, WebP, JPEG, AVIF or TIFF, by the path's suffix, with the settings inside.

        Args:
            path: Of the file.
            **how: See `cupscale.saving.Saving`: quality, dpi, keep_metadata, keep_profile.

        Raises:
            CupscaleError: The path cannot be written, or the format cannot hold the picture.
        """
        Saving(**how).write(self, path)


@dataclass(frozen=True)
class Planned:
    """First event: what will be done."""

    plan: Plan
    settings: Settings


@dataclass(frozen=True)
class Drawn:
    """The picture that was drawn from words, RGB, before it is enlarged."""

    image: Image.Image


@dataclass(frozen=True)
class Progress:
    """How far the run is.

    Attributes:
        stage: "draw", "caption", "restore", "enlarge", "encode", "denoise", "decode" or "correct".
        step: Of `steps`, from 1, within "denoise" and "draw"; 0 elsewhere.
        steps: Steps that the run, or the drawing, takes.
        regions: Of `total`, done in this step; within "caption" the captioner's calls.
        total: Regions a step, or calls.
        elapsed: Seconds since the run began.
        left: Seconds; None until there is something to judge by.
        fraction: Of the stage, 0 to 1.
    """

    stage: str
    step: int
    steps: int
    regions: int
    total: int
    elapsed: float
    left: float | None = None
    fraction: float = 0.0


@dataclass(frozen=True)
class Preview:
    """The estimate of the result after step `step` of `steps`, small, RGB. Step 0: the plain enlargement."""

    image: Image.Image
    step: int
    steps: int


@dataclass(frozen=True)
class Finished:
    """Last event."""

    result: Result


Event = Planned | Drawn | CaptionProgress | Captioned | Progress | Preview | Notice | Finished
