"""Enlarging without a diffusion model: a plain filter, and two networks of the ESRGAN family."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import ClassVar

from cupscale import upscalers
from cupscale.peers.base import Peer, Run, Task
from cupscale.planning import Geometry, checked_output


@dataclass(frozen=True)
class Plain(Peer):
    """One of `cupscale.upscalers`."""

    upscaler: ClassVar[upscalers.Method]

    def samples(self, size: tuple[int, int], scale: float, geometry: Geometry) -> int:
        return 0

    def run(self, task: Task) -> Run:
        upscalers.check(self.upscaler)
        return self._run(task, checked_output(task.image.size, task.settings.scale))

    def _run(self, task: Task, output: tuple[int, int]) -> Run:
        steps = upscalers.base_upscale_steps(task.image.convert("RGB"), output, self.upscaler)
        with contextlib.closing(steps):
            while True:
                try:
                    done = next(steps)
                except StopIteration as stop:
                    return stop.value
                yield round(100 * done), 100


@dataclass(frozen=True)
class Lanczos(Plain):
    """Pillow's Lanczos filter: nothing is invented."""

    name: ClassVar = "lanczos"
    title: ClassVar = "Lanczos"
    paper: ClassVar = "Duchon, Lanczos Filtering in One and Two Dimensions, 1979"
    upscaler: ClassVar = "lanczos"


@dataclass(frozen=True)
class RealESRGAN(Plain):
    """Real-ESRGAN x4plus, once, and a Lanczos resize of its result to the exact size.

    Guessed: nothing; at scales other than 4 the authors' program resizes likewise (its `outscale`).
    """

    name: ClassVar = "realesrgan"
    title: ClassVar = "Real-ESRGAN"
    paper: ClassVar = (
        "Wang et al., Real-ESRGAN: Training Real-World Blind Super-Resolution with Pure Synthetic Data, 2021, "
        "arXiv 2107.10833"
    )
    upscaler: ClassVar = "realesrgan"


@dataclass(frozen=True)
class RealSR(Plain):
    """RealSR DF2K, once, and a Lanczos resize of its result to the exact size. The paper knows the scale 4 only."""

    name: ClassVar = "realsr"
    title: ClassVar = "RealSR"
    paper: ClassVar = "Ji et al., Real-World Super-Resolution via Kernel Estimation and Noise Injection, 2020, arXiv 2005.01996"
    upscaler: ClassVar = "realsr"
