"""Any noise level of a model, and DDIM's step from one to another: for peers that choose their own timesteps."""

from __future__ import annotations

import torch
from torch import Tensor

from cupscale.backbones import Backbone
from cupscale.method.regions import Size
from cupscale.settings import Settings

LEVELS = 500  # of 1000 timesteps: every second


class Levels:
    """The levels of a model's schedule, from the noisiest on.

    Args:
        backbone: Of the model.
        settings: Of the run; the sampler is DDIM, on a flow model Euler, whatever they name.
        cells: Of the picture that a dynamic shift looks at.
    """

    def __init__(self, backbone: Backbone, settings: Settings, cells: Size):
        ddim = settings.replace(scheduler="ddim", steps=LEVELS, strength=1.0)
        self.schedule = backbone.schedule(ddim, cells)
        self.timesteps: list[float] = self.schedule.timesteps.float().tolist()
        one = torch.ones(1)
        self.scales = [
            (self.schedule.noised(one, 0 * one, i).item(), self.schedule.noised(0 * one, one, i).item())
            for i in range(len(self.timesteps))
        ]

    def nearest(self, t: float) -> int:
        """The level whose timestep, of 0 to 1000, is nearest."""
        return min(range(len(self.timesteps)), key=lambda i: abs(self.timesteps[i] - t))

    def shifted(self, i: int, factor: float) -> int:
        """The level whose ratio of signal to noise, in power, is nearest to `factor` times level `i`'s (in octaves)."""
        ratios = [torch.tensor(a / s).log2().item() * 2 if a > 0 else float("-inf") for a, s in self.scales]
        wanted = ratios[i] + torch.tensor(factor).log2().item()
        return min(range(len(ratios)), key=lambda j: abs(ratios[j] - wanted))

    def x0(self, output: Tensor, sample: Tensor, i: int) -> Tensor:
        """The estimate of the picture."""
        return self.schedule.to_x0(output, sample, i)

    def noise(self, output: Tensor, sample: Tensor, i: int) -> Tensor:
        """The estimate of the noise in a sample at level i."""
        a, s = self.scales[i]
        return (sample - a * self.x0(output, sample, i)) / s

    def step(self, output: Tensor, sample: Tensor, i: int, j: int) -> Tensor:
        """DDIM's step without noise of its own, from level i to level j."""
        return self.schedule.noised(self.x0(output, sample, i), self.noise(output, sample, i), j)
