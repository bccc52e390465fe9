"""Ultimate SD Upscale: tiles denoised one after another, each through the VAE and back."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from itertools import product
from typing import ClassVar

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor

from cupscale import images
from cupscale.backbones import GuidedDenoiser
from cupscale.method.regions import Region, Size
from cupscale.method.sampler import draw_noise
from cupscale.peers.base import Diffusion, Progress, Run, Work, doubled, layout, run_steps
from cupscale.planning import Geometry
from cupscale.settings import Settings

Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels


def tile_boxes(size: tuple[int, int], tile: int) -> list[Box]:
    """Squares side by side from the top left, row by row; the last ones are cut at the edge. size: (width, height)."""
    width, height = size
    return [
        (left, top, min(left + tile, width), min(top + tile, height))
        for top, left in product(range(0, height, tile), range(0, width, tile))
    ]


def squared(box: Box, size: tuple[int, int]) -> Box:
    """A box grown to a square about its middle, moved inside a picture of (width, height), cut where that is smaller."""
    side = max(box[2] - box[0], box[3] - box[1])
    ends = []
    for near, far, length in ((box[0], box[2], size[0]), (box[1], box[3], size[1])):
        start = max(0, min(near - (side - (far - near)) // 2, length - side))
        ends.append((start, min(start + side, length)))
    (left, right), (top, bottom) = ends
    return left, top, right, bottom


@dataclass(frozen=True)
class UltimateUpscale(Diffusion):
    """The public script's usual redraw: tiles in reading order, each an image to image of its own, no fusion per step.

    There is no paper. As the script (with the web UI it runs in) has it: a tile's place is a mask, blurred; what the network
    sees is the mask's bounding box with some padding, grown to a square and resized to the tile's size; inside of a step
    the estimate is kept at the input outside of the mask; the result is resized back and laid over the picture through the
    blurred mask, and the next tile sees it. Padding 32, blur 8, guidance 7 and 20 steps are the defaults; its tile of 512 px
    is the native side of the models it was made for, and here that of the model at hand.

    Guessed: the strength, which the web UI sets at 0.75 for any use and people lower to about 0.35 for this one; Lanczos for
    the first enlargement, which the script leaves to its user; one noise for all tiles, as one seed gives there. Its seam
    fixes, off by default, are left out.
    """

    name: ClassVar = "ultimate"
    title: ClassVar = "Ultimate SD Upscale"
    paper: ClassVar = "none; the script ultimate-upscale-for-automatic1111 (Coyote-A, 2023)"

    strength: float = 0.35
    steps: int = 20
    guidance: float = 7.0
    padding: int = 32
    blur: int = 8

    def samples(self, size: tuple[int, int], scale: float, geometry: Geometry) -> int:
        tiles = tile_boxes(layout(size, scale, geometry).output, geometry.native)
        return doubled(len(tiles) * run_steps(self.strength, self.steps), self.guidance)

    def enlarge(self, work: Work) -> Run:
        settings = work.settings(strength=self.strength, steps=self.steps, guidance=self.guidance)
        tile = work.geometry.native
        cells = work.cells((tile, tile))
        picture = images.resize(work.task.image.convert("RGB"), work.output)
        with work.backbone.denoiser(settings, (), cells, cells) as denoiser:
            for box in tile_boxes(picture.size, tile):
                mask = Image.new("L", picture.size)
                mask.paste(255, box)
                mask = mask.filter(ImageFilter.GaussianBlur(self.blur))
                view = squared(self._seen(mask), picture.size)
                z = yield from self._redrawn(work, settings, denoiser, picture.crop(view), mask.crop(view))
                drawn = images.resize(work.decode(z, (tile, tile)), (view[2] - view[0], view[3] - view[1]))
                picture.paste(drawn, view, mask.crop(view))
        return picture

    def _seen(self, mask: Image.Image) -> Box:
        """The bounding box of what is not black, with the padding, inside the picture."""
        box = mask.getbbox()
        assert box is not None, "a tile is at least a pixel"
        left, top, right, bottom = box
        pad = self.padding
        return (
            max(0, left - pad),
            max(0, top - pad),
            min(mask.width, right + pad),
            min(mask.height, bottom + pad),
        )

    def _redrawn(
        self, work: Work, settings: Settings, denoiser: GuidedDenoiser, view: Image.Image, mask: Image.Image
    ) -> Generator[Progress, None, Tensor]:
        """Image to image of one view: its latent (1, C, h, w) at the tile's size."""
        tile = (work.geometry.native,) * 2
        latent = work.encode(images.resize(view, tile))
        inside = inside_cells(mask, Size(*latent.shape[-2:])).to(latent.device)
        schedule = work.backbone.schedule(settings, Size(*latent.shape[-2:]))
        z = schedule.noised(latent, draw_noise(latent.shape, settings.seed).to(latent.device), 0)
        whole = Region(0, 0, *latent.shape[-2:])
        for i, t in enumerate(schedule.timesteps):
            (output,) = yield from work.predict(denoiser, t, [schedule.model_input(z, i)], [whole])
            x0 = torch.where(inside, schedule.to_x0(output, z, i), latent)
            z = schedule.step(schedule.from_x0(x0, z, i), z, i)
        return z


def inside_cells(mask: Image.Image, cells: Size) -> Tensor:
    """(h, w) bool: the cells that a mask covers by half or more."""
    small = mask.resize((cells.w, cells.h), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(small)) >= 128
