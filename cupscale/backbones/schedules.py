"""A diffusers scheduler as the loop's `Schedule`, for every prediction type."""

from __future__ import annotations

import copy
import inspect
import math
from typing import Any

import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler
from torch import Tensor

from cupscale.errors import CupscaleError
from cupscale.sampler import generator

SCHEDULERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "ddim": (DDIMScheduler, {"clip_sample": False, "set_alpha_to_one": False}),
    "euler": (EulerDiscreteScheduler, {}),
    "dpm++2m": (DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++", "solver_order": 2}),
}


class DiffusersSchedule:
    """The last ceil(start x steps) steps of a scheduler. The caller's own scheduler object is never touched.

    With alpha_t, sigma_t of the variance-preserving process (alpha^2 + sigma^2 = 1) and x the model's input:
    epsilon: x0 = (x - sigma e) / alpha; v_prediction: x0 = alpha x - sigma v; sample: x0 is the output.
    """

    def __init__(self, scheduler: Any, name: str, start: float, steps: int, seed: int, device: torch.device):
        if name == "model":
            self._scheduler = copy.deepcopy(scheduler)
        else:
            kind, options = SCHEDULERS[name]
            self._scheduler = kind.from_config(scheduler.config, **options)
        scheduler = self._scheduler
        if scheduler.order != 1:
            raise CupscaleError(
                f"{type(scheduler).__name__} evaluates the network twice a step, which is not supported: "
                f"choose scheduler {', '.join(SCHEDULERS)}"
            )
        self.prediction = scheduler.config.prediction_type
        if self.prediction not in ("epsilon", "v_prediction", "sample"):
            raise CupscaleError(
                f"prediction type '{self.prediction}' is not supported: epsilon, v_prediction, sample"
            )
        scheduler.set_timesteps(steps, device=device)
        first = max(0, len(scheduler.timesteps) - max(1, math.ceil(start * steps - 1e-6)))
        self.timesteps: Tensor = scheduler.timesteps[first:]
        # What the scheduler itself does to a unit image and unit noise tells alpha_t and sigma_t, whatever its family.
        one, zero = torch.ones(1, 1, 1, 1, device=device), torch.zeros(1, 1, 1, 1, device=device)
        self._scales = [
            (scheduler.add_noise(one, zero, t[None]).item(), scheduler.add_noise(zero, one, t[None]).item())
            for t in self.timesteps
        ]
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(first)
        self._options: dict[str, Any] = {}
        if "generator" in inspect.signature(scheduler.step).parameters:
            self._options["generator"] = generator(seed, 2)

    def noised(self, x0: Tensor, noise: Tensor, i: int) -> Tensor:
        a, s = self._scales[i]
        return a * x0 + s * noise

    def model_input(self, sample: Tensor, i: int) -> Tensor:
        a, s = self._scales[i]
        return sample / math.hypot(a, s)

    def _vp(self, i: int) -> tuple[float, float]:
        a, s = self._scales[i]
        norm = math.hypot(a, s)
        return a / norm, s / norm

    def to_x0(self, output: Tensor, sample: Tensor, i: int) -> Tensor:
        alpha, sigma = self._vp(i)
        x = self.model_input(sample, i)
        if self.prediction == "epsilon":
            return (x - sigma * output) / alpha
        return alpha * x - sigma * output if self.prediction == "v_prediction" else output

    def from_x0(self, x0: Tensor, sample: Tensor, i: int) -> Tensor:
        alpha, sigma = self._vp(i)
        x = self.model_input(sample, i)
        if self.prediction == "epsilon":
            return (x - alpha * x0) / sigma
        return (alpha * x - x0) / sigma if self.prediction == "v_prediction" else x0

    def step(self, output: Tensor, sample: Tensor, i: int) -> Tensor:
        # Euler's own scaling only marks the call here; `model_input` has already been given to the network.
        self._scheduler.scale_model_input(sample, self.timesteps[i])
        return self._scheduler.step(output, self.timesteps[i], sample, return_dict=False, **self._options)[0]
