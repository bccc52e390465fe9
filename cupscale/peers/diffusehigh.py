"""DiffuseHigh: the sharpened enlargement denoised on the whole canvas, its low frequencies held in pixels by a wavelet."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from cupscale import images
from cupscale.images.tensors import to_tensor
from cupscale.method.regions import Region, Size
from cupscale.peers.base import Diffusion, Progress, Run, Task, Work, check_whole_canvas, doubled, layout
from cupscale.peers.phases import Phase, phases
from cupscale.planning import Geometry, Plan
from cupscale.settings import Settings

# Daubechies' scaling filter with four vanishing moments (1988), for synthesis; backwards for analysis.
DB4 = (
    0.2303778133088965,
    0.7148465705529157,
    0.6308807679298589,
    -0.027983769416859854,
    -0.18703481171909309,
    0.030841381835560764,
    0.0328830116668852,
    -0.010597401785069032,
)


def approximation(x: Tensor) -> Tensor:
    """The LL band of a wavelet transform (db4, one level), the picture mirrored at its edges.

    LL[k] = sum_j h[j] x[2 k - 6 + j] along either axis.

    Args:
        x: (B, C, H, W).

    Returns:
        (B, C, (H + 7) // 2, (W + 7) // 2).
    """
    taps = x.new_tensor(DB4)
    for axis in (-1, -2):
        length = x.shape[axis]
        count = (length + len(DB4) - 1) // 2
        places = torch.arange(2 - len(DB4), 2 * count) % (2 * length)
        mirrored = torch.where(places < length, places, 2 * length - 1 - places).to(x.device)
        rows = x.index_select(x.ndim + axis, mirrored).unfold(axis, len(DB4), 2)
        x = torch.einsum("...t,t->...", rows, taps)
    return x


def from_approximation(low: Tensor, size: Size) -> Tensor:
    """The picture (B, C, *size) whose LL band is `low`, and whose other bands are empty."""
    taps = low.new_tensor(DB4)
    for axis, length in ((-1, size.w), (-2, size.h)):
        along = low.movedim(axis, -1)
        flat = along.reshape(-1, 1, along.shape[-1])
        wide = F.conv_transpose1d(flat, taps[None, None], stride=2)[..., len(DB4) - 2 :][..., :length]
        low = wide.reshape(*along.shape[:-1], length).movedim(-1, axis)
    return low


def with_approximation(x: Tensor, low: Tensor) -> Tensor:
    """`x` (B, C, H, W) with its LL band replaced; the transform is linear, so its other bands need not be made."""
    return x + from_approximation(low - approximation(x), Size(*x.shape[-2:]))


def sharpened(x: Tensor, sigma: float, alpha: float) -> Tensor:
    """Unsharp masking, (1 + alpha) x - alpha blur(x), with a Gaussian of 3 x 3 pixels, the picture mirrored at its edges."""
    side = torch.exp(torch.tensor(-0.5 / sigma**2))
    taps = (torch.stack((side, torch.ones(()), side)) / (1 + 2 * side)).to(x)
    soft = F.pad(x, (1, 1, 1, 1), mode="reflect").unfold(-1, 3, 1) @ taps
    return (1 + alpha) * x - alpha * (soft.unfold(-2, 3, 1) @ taps)


def any_sigma(random: torch.Generator) -> float:
    """The deviation that the authors draw for each picture, from 0.1 to 2."""
    return 0.1 + 1.9 * torch.rand((), generator=random).item()


@dataclass(frozen=True)
class DiffuseHigh(Diffusion):
    """Phases k = 2 .. K; in each the last steps, on the whole canvas.

    The paper: the last phase's picture is enlarged bicubically in pixels, sharpened, encoded and noised to 15 of 50 steps before
    the end. In the first 5 of them the estimate is decoded, its wavelet band LL is replaced by that of the enlarged
    picture, and it is encoded again. From the authors' program: db4, one level, mirrored edges; a Gaussian of 3 x 3 whose
    deviation is drawn from 0.1 to 2 for each picture; guidance 10 in these phases.

    Ours: the input stands where the first picture would (`phases`), and the sampler is the model's own where theirs is Euler.
    """

    name: ClassVar = "diffusehigh"
    title: ClassVar = "DiffuseHigh"
    paper: ClassVar = (
        "Kim, Hwang, Zhang, Park, DiffuseHigh: Training-free Progressive High-Resolution Image Synthesis through Structure "
        "Guidance, 2024, arXiv 2406.18459"
    )

    steps: int = 50
    last_steps: int = 15
    wavelet_steps: int = 5
    guidance: float = 10.0
    sharpening: float = 1.0  # alpha

    def samples(self, size: tuple[int, int], scale: float, geometry: Geometry) -> int:
        _, rest = phases(size, layout(size, scale, geometry).output, geometry.native)
        return doubled(len(rest) * self.last_steps, self.guidance)

    def check(self, task: Task, plan: Plan) -> None:
        check_whole_canvas(self.title, task, plan.canvas)

    def enlarge(self, work: Work) -> Run:
        settings = work.settings(
            strength=self.last_steps / self.steps, steps=self.steps, guidance=self.guidance
        )
        start, rest = phases(work.task.image.size, work.output, work.geometry.native)
        pixels = to_tensor(images.resize(work.task.image.convert("RGB"), start.size, "bicubic"))
        sigmas, noise = work.random(2), work.random(0)
        for phase in rest:
            wide = F.interpolate(pixels, phase.size[::-1], mode="bicubic", align_corners=False)
            guide = sharpened(wide, any_sigma(sigmas), self.sharpening)
            pixels = yield from self.phase(work, settings, guide, phase, noise)
        return images.to_image(pixels)

    def phase(
        self, work: Work, settings: Settings, guide: Tensor, phase: Phase, random: torch.Generator
    ) -> Generator[Progress, None, Tensor]:
        """One phase. guide: (1, 3, H, W), the enlarged and sharpened picture. Returns the next (1, 3, H, W)."""
        cells = work.cells(phase.size)
        low = approximation(guide)
        z = work.encode_pixels(guide, cells)
        schedule = work.backbone.schedule(settings, cells)
        z = schedule.noised(z, torch.randn(z.shape, generator=random).to(z.device), 0)
        with work.backbone.denoiser(settings, (), cells, cells) as denoiser:
            for i, t in enumerate(schedule.timesteps):
                x = schedule.model_input(z, i)
                (output,) = yield from work.predict(denoiser, t, [x], [Region(0, 0, *cells)])
                if i < self.wavelet_steps:
                    pixels = work.decode_pixels(schedule.to_x0(output, z, i), phase.size)
                    x0 = work.encode_pixels(with_approximation(pixels, low), cells)
                    output = schedule.from_x0(x0, z, i)
                z = schedule.step(output, z, i)
        return work.decode_pixels(z, phase.size)
