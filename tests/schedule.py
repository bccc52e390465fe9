"""A schedule whose steps can be worked out by hand."""

from __future__ import annotations

import torch


class Schedule:
    """x_i = a_i x0 + s_i noise; the network's input is x_i / 2, its output the noise. `step` goes on with the estimate."""

    a = (0.5, 0.6, 0.8, 0.9)
    s = (0.9, 0.7, 0.5, 0.2, 0.0)

    def __init__(self, steps: int = 4) -> None:
        self.timesteps = torch.tensor([900.0, 600.0, 300.0, 100.0])[:steps]

    def noised(self, x0, noise, i):
        return self.a[i] * x0 + self.s[i] * noise

    def model_input(self, sample, i):
        return sample / 2

    def to_x0(self, output, sample, i):
        return (sample - self.s[i] * output) / self.a[i]

    def from_x0(self, x0, sample, i):
        return (sample - self.a[i] * x0) / self.s[i]

    def step(self, output, sample, i):
        return self.to_x0(output, sample, i) + self.s[i + 1] * output
