"""Image to image of a canvas in windows that are averaged at every step: what three of the peers have in common."""

from __future__ import annotations

from collections.abc import Callable, Generator
from itertools import product
from typing import NamedTuple

from torch import Tensor

from cupscale.method.regions import Region, Size
from cupscale.method.sampler import draw_noise
from cupscale.peers.base import Mean, Progress, Work
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
