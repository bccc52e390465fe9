"""ScaleDiff: the whole canvas in one call, its self-attention in neighbourhoods, its low frequencies held in latents."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from cupscale import images
from cupscale.backbones.nearby import check_nearby, nearby
from cupscale.images.tensors import to_tensor
from cupscale.method.regions import Region, Size
from cupscale.method.sampler import Schedule
from cupscale.peers.base import Diffusion, Progress, Run, Task, Work, doubled, layout, run_steps
from cupscale.peers.phases import enlarged, stages
from cupscale.planning import Geometry, Plan
from cupscale.settings import Settings


def refined(x: Tensor, towards: Tensor, weight: float, share: float, shuffle: int = 1) -> Tensor:
    """x + weight (LP(towards) - LP(x)), where LP reduces a plane to a share of its sides and enlarges it again, bilinearly.

    Args:
        x: (1, C, H, W).
        towards: Of the same shape.
        weight: 0 to 1.
        share: Of the sides, which are rounded down to whole places, one at least.
        shuffle: How many places a side lie in a cell's channels (`GlobalStructure`); they are laid out first.

    Returns:
        (1, C, H, W).
    """
    apart = F.pixel_shuffle(towards - x, shuffle)
    small = [max(1, int(side * share)) for side in apart.shape[-2:]]
    low = F.interpolate(apart, small, mode="bilinear", antialias=True)
    low = F.interpolate(low, apart.shape[-2:], mode="bilinear")
    return x + weight * F.pixel_unshuffle(low, shuffle)


def noise_share(schedule: Schedule, i: int) -> float:
    """The noise's share of the power of a sample at step i: s^2 / (a^2 + s^2) of a x0 + s eps; 1 - abar of diffusion."""
    one, none = torch.ones(1), torch.zeros(1)
    a, s = (schedule.noised(*pair, i).item() for pair in ((one, none), (none, one)))
    return s**2 / (a**2 + s**2)


@dataclass(frozen=True)
class ScaleDiff(Diffusion):
    """Sizes that double; at each the last steps, the whole canvas in one call.

    The paper: upsample, diffuse, denoise, from 1024 px to 2048 to 4096. Neighborhood Patch Attention (NPA) keeps self-attention
    to neighbourhoods, a patch of h/2 x w/2 queries reading the h x w keys and values around it (`cupscale.backbones.nearby`);
    all other layers see the whole canvas. Latent Frequency Mixing (LFM) makes the reference, of the high frequencies of the
    picture, enlarged and encoded, and of the low ones of its latent, enlarged. Structure Guidance (SG) draws the low frequencies
    of x0 towards the reference's, with a weight that falls. The noise begins at timestep 400 of SDXL. At second hand, from what
    is written about the authors' program: 50 steps of guidance 7.5, both enlargements bicubic, the low-pass a resize to an eighth
    and back, the weight (1 - abar_t) / (1 - abar_400), one size's result as the next one's start, and no jitter of the patches,
    which is FLUX's alone there.

    Ours: the input stands where the first picture would (`stages`), and outputs above four native sizes go through their half;
    a patch at the far edge is what is left; the micro-conditioning of SDXL is told the canvas; the sampler is the model's own;
    LFM and SG have a weight each, 1 as in the paper, so that its ablation (0) can be run. Transformers are refused: the paper
    runs FLUX and Lumina, whose positions are rotary, and those families that are here are not among its models.
    """

    name: ClassVar = "scalediff"
    title: ClassVar = "ScaleDiff"
    paper: ClassVar = (
        "Koh, Cha, Oh, Lee, Kim, ScaleDiff: Higher-Resolution Image Synthesis via Efficient and Model-Agnostic Diffusion, "
        "NeurIPS 2025, arXiv 2510.25818"
    )

    strength: float = 0.4  # tau / T
    steps: int = 50
    guidance: float = 7.5
    low: float = 0.125  # of the sides, to which the low-pass reduces
    mixing: float = 1.0  # weight of the latent's low frequencies in LFM
    structure: float = 1.0  # weight of SG at the first step

    def samples(self, size: tuple[int, int], scale: float, geometry: Geometry) -> int:
        _, sizes = stages(size, layout(size, scale, geometry).output, geometry.native)
        return doubled(len(sizes) * run_steps(self.strength, self.steps), self.guidance)

    def check(self, task: Task, plan: Plan) -> None:
        check_nearby(self.title, task.backbone.network)

    def enlarge(self, work: Work) -> Run:
        settings = work.settings(strength=self.strength, steps=self.steps, guidance=self.guidance)
        before, sizes = stages(work.task.image.size, work.output, work.geometry.native)
        pixels = to_tensor(images.resize(work.task.image.convert("RGB"), before, "bicubic"))
        z = work.encode_pixels(pixels, work.cells(before))
        noise = work.random(0)
        for size in sizes:
            reference = self.reference(work, z, pixels, before, size)
            z = yield from self.stage(work, settings, reference, noise)
            pixels, before = work.decode_pixels(z, size), size
        return images.to_image(pixels)

    def reference(
        self, work: Work, z: Tensor, pixels: Tensor, before: tuple[int, int], size: tuple[int, int]
    ) -> Tensor:
        """LFM.

        Args:
            work: The run.
            z: (1, C, h, w), the latent of the size before.
            pixels: (1, 3, h, w), its picture.
            before: (width, height) in pixels.
            size: Likewise, of this stage.

        Returns:
            (1, C, H, W).
        """
        cells, shuffle = work.cells(size), work.backbone.shuffle
        wide = F.interpolate(pixels, size[::-1], mode="bicubic", align_corners=False)
        laid_out = Size(*(side * shuffle for side in cells))
        latent = F.pixel_unshuffle(enlarged(F.pixel_shuffle(z, shuffle), before, size, laid_out), shuffle)
        return refined(work.encode_pixels(wide, cells), latent, self.mixing, self.low, shuffle)

    def stage(
        self, work: Work, settings: Settings, reference: Tensor, random: torch.Generator
    ) -> Generator[Progress, None, Tensor]:
        """One size, from its reference (1, C, H, W) to its latent of the same shape."""
        cells = Size(*reference.shape[-2:])
        window = work.geometry.native // work.geometry.cell
        schedule = work.backbone.schedule(settings, cells)
        z = schedule.noised(reference, torch.randn(reference.shape, generator=random).to(reference.device), 0)
        first = noise_share(schedule, 0)
        with (
            work.backbone.denoiser(settings, (), cells, cells) as denoiser,
            nearby(work.backbone.network, cells, window),
        ):
            for i, t in enumerate(schedule.timesteps):
                x = schedule.model_input(z, i)
                (output,) = yield from work.predict(denoiser, t, [x], [Region(0, 0, *cells)])
                weight = self.structure * noise_share(schedule, i) / first
                x0 = schedule.to_x0(output, z, i)
                x0 = refined(x0, reference, weight, self.low, work.backbone.shuffle)
                z = schedule.step(schedule.from_x0(x0, z, i), z, i)
        return z
