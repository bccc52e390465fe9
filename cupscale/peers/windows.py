"""Image to image of a canvas in windows that are averaged at every step: what three of the peers have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Generator
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

from torch import Tensor

from cupscale import images
from cupscale.method.regions import Region, Size
from cupscale.method.sampler import draw_noise
from cupscale.peers.base import Diffusion, Mean, Progress, Run, Work, doubled, layout, run_steps
from cupscale.planning import Geometry
from cupscale.settings import Settings


class Views(NamedTuple):
    """The windows of one step.

    Attributes:
        regions: On the canvas once it is rolled by -shift; together they cover it.
        shift: (rows, columns) in cells.
    """

    regions: list[Region]
    shift: Size = Size(0, 0)

    def places(self, canvas: Size) -> list[Region]:
        """Where the windows lie on the canvas itself. Those that the roll cut in two lie where their first part does."""
        return [
            Region((y + self.shift.h) % canvas.h, (x + self.shift.w) % canvas.w, h, w)
            for y, x, h, w in self.regions
        ]


def part_of(window: Size, share: float) -> Size:
    """A share of a window's sides, at least a cell."""
    return Size(*(max(1, round(side * share)) for side in window))


def strided(canvas: Size, window: Size, stride: Size) -> list[Region]:
    """Windows every `stride` cells, row by row; the last of a row and of a column is moved back onto the canvas."""
    rows, columns = (
        [min(i * step, length - side) for i in range(-(-(length - side) // step) + 1)]
        for length, side, step in zip(canvas, window, stride, strict=True)
    )
    return [Region(y, x, *window) for y, x in product(rows, columns)]


def img2img_in_windows(
    work: Work, settings: Settings, latent: Tensor, window: Size, views: Callable[[], Views]
) -> Generator[Progress, None, Tensor]:
    """Noise a latent, and denoise it from there: the windows' outputs are averaged, and the canvas takes one step.

    For samplers of first order that is the average of the windows' own steps, since such a step is linear in state and output
    and the windows share the state.

    Args:
        work: The run.
        settings: Whose strength, steps, guidance and prompts are meant.
        latent: (1, C, H, W), of the enlarged picture.
        window: Their size, which the schedule of some flow models looks at.
        views: The windows of the next step.

    Returns:
        (1, C, H, W), denoised.
    """
    canvas = Size(*latent.shape[-2:])
    schedule = work.backbone.schedule(settings, window)
    z = schedule.noised(latent, draw_noise(latent.shape, settings.seed).to(latent.device), 0)
    with work.backbone.denoiser(settings, (), canvas, canvas) as denoiser:
        for i, t in enumerate(schedule.timesteps):
            step = views()
            down, right = step.shift
            x = schedule.model_input(z, i).roll((-down, -right), (-2, -1))
            pieces = [region.crop(x) for region in step.regions]
            outputs = yield from work.predict(denoiser, t, pieces, step.places(canvas))
            mean = Mean(canvas)
            for region, output in zip(step.regions, outputs, strict=True):
                mean.add(region, output)
            z = schedule.step(mean.result().roll((down, right), (-2, -1)), z, i)
    return z


@dataclass(frozen=True)
class ImageToImage(Diffusion):
    """A peer that noises the Lanczos enlargement to a part of the schedule, and denoises it in windows from there."""

    strength: float = 0.45
    steps: int = 50
    guidance: float = 7.5

    def samples(self, size: tuple[int, int], scale: float, geometry: Geometry) -> int:
        plan = layout(size, scale, geometry)
        windows = len(self.windows(plan.canvas, plan.window))
        return doubled(run_steps(self.strength, self.steps) * windows, self.guidance)

    @abstractmethod
    def windows(self, canvas: Size, window: Size) -> list[Region]:
        """Those of a step, which are all of one size, where no roll moves them. window: of native size."""

    def views(self, work: Work) -> Callable[[], Views]:
        """The windows of each next step; here the same at every one."""
        same = Views(self.windows(work.canvas, work.window))
        return lambda: same

    def enlarge(self, work: Work) -> Run:
        settings = work.settings(strength=self.strength, steps=self.steps, guidance=self.guidance)
        latent = work.encode(images.resize(work.task.image, work.output))
        first = self.windows(work.canvas, work.window)[0]
        z = yield from img2img_in_windows(work, settings, latent, Size(first.h, first.w), self.views(work))
        return work.decode(z, work.output)
