"""PixelRush: windows inverted a short way and brought back in one step of a few-step model."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from cupscale.method.regions import Region, Size
from cupscale.method.sampler import draw_noise
from cupscale.peers.base import Diffusion, Progress, Run, Work, doubled, layout
from cupscale.peers.levels import Levels
from cupscale.peers.phases import enlarged
from cupscale.peers.windows import part_of, strided
from cupscale.planning import Geometry


def gaussian_window(window: Size, deviation: float) -> Tensor:
    """(h, w): a Gaussian about the middle, its deviation a share of the side."""
    rows, columns = (
        torch.exp(-(((torch.arange(side) - (side - 1) / 2) / (deviation * side)) ** 2) / 2) for side in window
    )
    return rows[:, None] * columns[None]


def feathered(canvas: Size, regions: Sequence[Region], windows: Sequence[Tensor], deviation: float) -> Tensor:
    """The mean of windows (1, C, h, w) on a canvas, weighted by `gaussian_window`: (1, C, H, W)."""
    weight = gaussian_window(Size(*windows[0].shape[-2:]), deviation).to(windows[0])
    total = windows[0].new_zeros(1, windows[0].shape[1], *canvas)
    share = windows[0].new_zeros(*canvas)
    for region, window in zip(regions, windows, strict=True):
        region.crop(total).add_(window * weight)
        region.crop(share).add_(weight)
    return total / share


@dataclass(frozen=True)
class PixelRush(Diffusion):
    """One inversion and one step of each window. Made for few-step models (SDXL-Turbo in the paper), without guidance.

    The paper: the enlarged latent is cut into windows; each is inverted to timestep 249 of 999 only, by one step of DDIM
    backwards, since the enlargement already holds the layout; noise is injected, or the result would be too smooth; one step of
    the few-step model takes it back; the windows are put together with Gaussian feathers. There is no code, and we hold the
    paper's abstract and its project page.

    Guessed, as neither gives them: windows half a window apart; a feather whose deviation is a sixth of a window; the
    inversion's network pass at timestep 249, as diffusers inverts; and how noise is injected: the inversion's noise e becomes
    sqrt(1 - lambda^2) e + lambda n with n of the canvas, and lambda 0.5.
    """

    name: ClassVar = "pixelrush"
    title: ClassVar = "PixelRush"
    paper: ClassVar = (
        "Lai, Nguyen, Tran, PixelRush: Ultra-Fast, Training-Free High-Resolution Image Generation via One-step Diffusion, "
        "CVPR 2026, arXiv 2602.12769"
    )

    timestep: float = 249.0
    guidance: float = 1.0
    stride: float = 0.5  # of a window's side
    feather: float = 1 / 6
    injection: float = 0.5  # lambda

    def samples(self, size: tuple[int, int], scale: float, geometry: Geometry) -> int:
        plan = layout(size, scale, geometry)
        return doubled(2 * len(self.windows(plan.canvas, plan.window)), self.guidance)

    def windows(self, canvas: Size, window: Size) -> list[Region]:
        """All of them."""
        return strided(canvas, window, part_of(window, self.stride))

    def enlarge(self, work: Work) -> Run:
        image = work.task.image
        first = work.encode(image)
        latent = enlarged(first, image.size, work.output, work.canvas)
        return work.decode((yield from self.refined(work, latent)), work.output)

    def refined(self, work: Work, latent: Tensor) -> Generator[Progress, None, Tensor]:
        """(1, C, H, W) to the same."""
        settings = work.settings(guidance=self.guidance)
        levels = Levels(work.backbone, settings, work.window)
        level = levels.nearest(self.timestep)
        t = levels.schedule.timesteps[level]
        regions = self.windows(work.canvas, work.window)
        fresh = draw_noise(latent.shape, settings.seed).to(latent.device)
        keep = (1 - self.injection**2) ** 0.5

        with work.backbone.denoiser(settings, (), work.canvas, work.canvas) as denoiser:
            clean = [region.crop(latent) for region in regions]
            outputs = yield from work.predict(denoiser, t, clean, regions)
            inverted = []
            for z, output, region in zip(clean, outputs, regions, strict=True):
                noise = keep * levels.noise(output, z, level) + self.injection * region.crop(fresh)
                inverted.append(levels.schedule.noised(z, noise, level))
            found = yield from work.predict(denoiser, t, inverted, regions)
        x0 = [levels.x0(output, z, level) for output, z in zip(found, inverted, strict=True)]
        return feathered(work.canvas, regions, x0, self.feather)
