"""What a metric is, and what it is given."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from PIL import Image

from cupscale import images

GREY = np.array([0.299, 0.587, 0.114])
"""Rec. 601 luma."""

Better = Literal["higher", "lower", "near", "none"]


def floats(image: Image.Image) -> np.ndarray:
    """An image as (H, W, 3) float32 in 0..1."""
    return np.asarray(image.convert("RGB"), np.float32) / 255


@dataclass(frozen=True)
class Cost:
    """What a result took.

    Attributes:
        evaluations: Network samples, guidance counted twice.
        seconds: From the call to the picture.
        peak_bytes: The most memory meanwhile: of the accelerator where the model is on one, else of the process; None where
            it cannot be measured.
    """

    evaluations: int
    seconds: float
    peak_bytes: int | None = None


@dataclass
class Case:
    """One result, and all that a metric may compare it with.

    Attributes:
        small: The input, RGB.
        large: The result, RGB.
        original: The picture that the input was reduced from, RGB, of the result's size; None where there is none.
        borders_px: Columns and rows of the result at which a window of the network begins or ends: a border at c lies between
            pixels c - 1 and c.
        window_px: Side of the network's window; None where there is none.
        prompt: That the picture was made with.
        regions: (left, top, right, bottom) in pixels of the result, and the region's caption.
        cost: Of the result; None where it is not known.
    """

    small: Image.Image
    large: Image.Image
    original: Image.Image | None = None
    borders_px: tuple[Sequence[int], Sequence[int]] = ((), ())
    window_px: int | None = None
    prompt: str = ""
    regions: Sequence[tuple[tuple[int, int, int, int], str]] = ()
    cost: Cost | None = None

    @cached_property
    def again(self) -> Image.Image:
        """The result made as small as the input, by Lanczos."""
        return images.resize(self.large, self.small.size, "lanczos")

    @cached_property
    def plain(self) -> Image.Image:
        """The input made as large as the result, by Lanczos."""
        return images.resize(self.small, self.large.size, "lanczos")

    @property
    def photograph(self) -> Image.Image:
        """Whose statistics the result should have: the original's, else the input's.

        The input's serve because those of photographs hardly change with scale (Ruderman, The statistics of natural
        images, 1994).
        """
        return self.original or self.small


@dataclass(frozen=True)
class Metric:
    """A figure of one result.

    Attributes:
        name: For commands and files.
        title: For people.
        source: Where it was published, or "ours".
        low: Least value that is possible.
        high: Largest.
        better: "higher", "lower", "near" the `target`, or "none" where more is only different.
        measure: NaN where the metric says nothing about this result.
        unit: Of the value.
        target: See `better`.
        digits: After the point, in tables.
    """

    name: str
    title: str
    source: str
    low: float
    high: float
    better: Better
    measure: Callable[[Case], float]
    unit: str = ""
    target: float | None = None
    digits: int = 2

    def value(self, case: Case) -> float | None:
        """Of one result; None where it says nothing."""
        found = float(self.measure(case))
        return found if math.isfinite(found) else None

    @property
    def direction(self) -> str:
        """For a table: which way is better."""
        if self.better == "near":
            return f"→ {self.target:g}"
        return {"higher": "↑", "lower": "↓"}.get(self.better, "")
