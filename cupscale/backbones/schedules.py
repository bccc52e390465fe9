"""A diffusers scheduler as the loop's `Schedule`: diffusion with every prediction type, and flow matching.

Either may tell the network of less noise than there is, so that it leaves some as detail (Detail Daemon, a tool for Stable
Diffusion; github.com/muerrilla/sd-webui-detail-daemon). At step i of n the noise level s_i is told as

    s_i (1 - a (1 - cos(2 pi (i + 1/2) / n)) / 2),    a = sigma_shift

x0 is what the network means by its output at the level that it was told, and the sampler goes on from that x0.
"""

from __future__ import annotations

import copy
import inspect
import math
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    PNDMScheduler,
)
from torch import Tensor

from cupscale.errors import CupscaleError
from cupscale.method.bands import bands, by_bands
from cupscale.method.sampler import generator

SCHEDULERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "ddim": (DDIMScheduler, {"clip_sample": False, "set_alpha_to_one": False}),
    "euler": (EulerDiscreteScheduler, {}),
    "dpm++2m": (DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++", "solver_order": 2}),
}


def is_flow(scheduler: Any) -> bool:
    """Whether a scheduler is one of flow matching: its network predicts a velocity along a straight line."""
    if type(scheduler).__name__.startswith("FlowMatch"):
        return True
    return scheduler.config.get("prediction_type") == "flow_prediction"


def acts_by_cell(scheduler: Any) -> bool:
    """Whether a scheduler's step is the same for a part of a canvas as for the whole: it draws no noise and measures nothing."""
    config = scheduler.config
    if config.get("thresholding") or config.get("stochastic_sampling"):
        return False
    if type(scheduler) is DPMSolverMultistepScheduler:
        return not config.algorithm_type.startswith("sde")
    return type(scheduler) in (DDIMScheduler, EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler)


def told_shares(steps: int, shift: float) -> list[float]:
    """What share of its noise level the network is told at each step; 1 everywhere for a shift of 0."""
    return [1 - shift * (1 - math.cos(2 * math.pi * (i + 0.5) / steps)) / 2 for i in range(steps)]


class _Truncated(ABC):
    """The last ceil(strength x steps) steps of a scheduler. The caller's own scheduler object is never touched.

    timesteps: as the network is told them, on its device.
    """

    def __init__(
        self,
        scheduler: Any,
        strength: float,
        steps: int,
        seed: int,
        device: torch.device,
        shift: float,
        **options: Any,
    ):
        if scheduler.order != 1:
            raise CupscaleError(
                f"{type(scheduler).__name__} evaluates the network twice a step, which is not supported: "
                f"choose scheduler {', '.join(SCHEDULERS)}"
            )
        self._scheduler = scheduler
        # A sampler reads its timesteps as numbers: those that lay on an accelerator would make it wait at each.
        scheduler.set_timesteps(**{"num_inference_steps": steps, "device": "cpu"} | options)
        self._first = max(0, len(scheduler.timesteps) - max(1, math.ceil(strength * steps - 1e-6)))
        self._timesteps: Tensor = scheduler.timesteps[self._first :]
        self._device = device
        self.timesteps = self._timesteps.to(device)
        self._shift = shift
        self._shares = told_shares(len(self._timesteps), shift)
        self._of_bands: list[
            Any
        ] = []  # a band of the canvas each, with the state that it keeps between steps
        self._options: dict[str, Any] = {}
        if "generator" in inspect.signature(scheduler.step).parameters:
            self._options["generator"] = generator(seed, 2)

    def draws_from(self, source: torch.Generator) -> None:
        """Take the noise of steps from here, where the scheduler draws some.

        A pipeline's own call draws all of it from one generator, and its canvas first.
        """
        if "generator" in self._options:
            self._options["generator"] = source

    def _begin(self) -> None:
        if hasattr(self._scheduler, "set_begin_index"):
            self._scheduler.set_begin_index(self._first)

    def from_noise(self, noise: Tensor) -> Tensor:
        """The state a pipeline of diffusers begins with: unit noise at the scheduler's own scale."""
        scale = getattr(self._scheduler, "init_noise_sigma", 1.0)  # flow has none: it begins with noise
        return noise * float(scale)

    @abstractmethod
    def to_x0(self, output: Tensor, sample: Tensor, i: int) -> Tensor: ...
    @abstractmethod
    def _from_true(self, x0: Tensor, sample: Tensor, i: int) -> Tensor:
        """The output that means x0 at the noise level there is."""

    def step(self, output: Tensor, sample: Tensor, i: int) -> Tensor:
        if self._shift:
            output = by_bands(lambda o, s: self._from_true(self.to_x0(o, s, i), s, i), output, sample)
        parts = bands(sample) if acts_by_cell(self._scheduler) else [slice(None)]
        if not self._of_bands:
            self._of_bands = [self._scheduler, *(copy.deepcopy(self._scheduler) for _ in parts[1:])]
        if len(parts) == 1:
            return self._stepped(self._scheduler, output, sample, i)
        stepped = torch.empty_like(sample)
        for scheduler, rows in zip(self._of_bands, parts, strict=True):
            stepped[..., rows, :] = self._stepped(scheduler, output[..., rows, :], sample[..., rows, :], i)
        return stepped

    def _stepped(self, scheduler: Any, output: Tensor, sample: Tensor, i: int) -> Tensor:
        t = self._timesteps[i]
        # Euler's own scaling only marks the call here; `model_input` has already been given to the network.
        if hasattr(scheduler, "scale_model_input"):
            scheduler.scale_model_input(sample[..., :1, :1], t)
        return scheduler.step(output, t, sample, return_dict=False, **self._options)[0]


class DiffusersSchedule(_Truncated):
    """Diffusion: x_t = alpha_t x0 + sigma_t noise.

    With alpha_t, sigma_t of the variance-preserving process (alpha^2 + sigma^2 = 1) and x the model's input:
    epsilon: x0 = (x - sigma e) / alpha; v_prediction: x0 = alpha x - sigma v; sample: x0 is the output.
    """

    def __init__(
        self,
        scheduler: Any,
        name: str,
        strength: float,
        steps: int,
        seed: int,
        device: torch.device,
        shift: float = 0.0,
    ):
        # PNDM takes its first step twice, which a run from the middle of the schedule leaves out: DDIM is its first order.
        if name == "model" and isinstance(scheduler, PNDMScheduler):
            name = "ddim"
        if name == "model":
            scheduler = copy.deepcopy(scheduler)
        else:
            kind, options = SCHEDULERS[name]
            scheduler = kind.from_config(scheduler.config, **options)
        self.prediction = scheduler.config.prediction_type
        if self.prediction not in ("epsilon", "v_prediction", "sample"):
            raise CupscaleError(
                f"prediction type '{self.prediction}' is not supported: epsilon, v_prediction, sample"
            )
        super().__init__(scheduler, strength, steps, seed, device, shift)
        # What the scheduler itself does to a unit image and unit noise tells alpha_t and sigma_t, whatever its family.
        one, zero = torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1)
        self._scales = [
            (scheduler.add_noise(one, zero, t[None]).item(), scheduler.add_noise(zero, one, t[None]).item())
            for t in self._timesteps
        ]
        self._told = [(a, s * share) for (a, s), share in zip(self._scales, self._shares, strict=True)]
        if shift:
            self.timesteps = self._nearest([s / a for a, s in self._told])
        self._begin()

    def _nearest(self, levels: list[float]) -> Tensor:
        """The timesteps, in fractions, at which sigma / alpha is each of `levels`."""
        kept = self._scheduler.alphas_cumprod.cpu().double().numpy()
        known = np.sqrt((1 - kept) / kept)
        steps = np.interp(levels, known, np.arange(len(known)))
        return torch.tensor(steps, dtype=torch.float32, device=self._device)

    def noised(self, x0: Tensor, noise: Tensor, i: int) -> Tensor:
        a, s = self._scales[i]
        return a * x0 + s * noise

    def model_input(self, sample: Tensor, i: int) -> Tensor:
        return sample / math.hypot(*self._told[i])

    def to_x0(self, output: Tensor, sample: Tensor, i: int) -> Tensor:
        alpha, sigma = _preserving(self._told[i])
        x = self.model_input(sample, i)
        if self.prediction == "epsilon":
            return (x - sigma * output) / alpha
        return alpha * x - sigma * output if self.prediction == "v_prediction" else output

    def from_x0(self, x0: Tensor, sample: Tensor, i: int) -> Tensor:
        return self._from(x0, sample, self._told[i])

    def _from_true(self, x0: Tensor, sample: Tensor, i: int) -> Tensor:
        return self._from(x0, sample, self._scales[i])

    def _from(self, x0: Tensor, sample: Tensor, scales: tuple[float, float]) -> Tensor:
        alpha, sigma = _preserving(scales)
        x = sample / math.hypot(*scales)
        if self.prediction == "epsilon":
            return (x - alpha * x0) / sigma
        return (alpha * x - x0) / sigma if self.prediction == "v_prediction" else x0


def _preserving(scales: tuple[float, float]) -> tuple[float, float]:
    """alpha and sigma of the variance-preserving process with the same ratio."""
    norm = math.hypot(*scales)
    return scales[0] / norm, scales[1] / norm


class FlowSchedule(_Truncated):
    """Flow matching: x_s = (1 - s) x0 + s noise, and the network predicts the velocity v = noise - x0.

    S is the same fraction of the schedule's steps as in diffusion; how much noise that is, is for the schedule's shift to
    say: strength 0.45 is s = 0.45 unshifted and 0.71 at shift 3. tokens: of a window of native size, which a dynamic shift
    looks at. sigmas: the unshifted noise levels a pipeline asks for; None for the scheduler's own. mu: the logarithm of a
    dynamic shift; None for the scheduler's own.
    """

    def __init__(
        self,
        scheduler: Any,
        name: str,
        strength: float,
        steps: int,
        seed: int,
        device: torch.device,
        tokens: int,
        sigmas: list[float] | None = None,
        shift: float = 0.0,
        mu: float | None = None,
    ):
        config = scheduler.config
        options: dict[str, Any] = {}
        if config.get("use_dynamic_shifting"):
            options["mu"] = dynamic_shift(config, tokens) if mu is None else mu
        if name == "dpm++2m":
            flow_shift = math.exp(options.pop("mu")) if "mu" in options else config.get("shift", 1.0)
            scheduler = DPMSolverMultistepScheduler(
                num_train_timesteps=config.num_train_timesteps,
                prediction_type="flow_prediction",
                use_flow_sigmas=True,
                flow_shift=flow_shift,
                algorithm_type="dpmsolver++",
                solver_order=2,
            )
        elif name == "model":
            scheduler = copy.deepcopy(scheduler)
        else:  # DDIM of a straight line is Euler's step
            scheduler = FlowMatchEulerDiscreteScheduler.from_config(config)
        if sigmas is not None and "sigmas" in inspect.signature(scheduler.set_timesteps).parameters:
            options["sigmas"] = sigmas
        super().__init__(scheduler, strength, steps, seed, device, shift, **options)
        self._noise = scheduler.sigmas[self._first :].tolist()
        self._told = [level * share for level, share in zip(self._noise, self._shares, strict=False)]
        if shift:  # a flow's timestep is its noise level, in thousandths
            self.timesteps = (self._timesteps * torch.tensor(self._shares)).to(device)
        self._begin()

    def noised(self, x0: Tensor, noise: Tensor, i: int) -> Tensor:
        return (1 - self._noise[i]) * x0 + self._noise[i] * noise

    def model_input(self, sample: Tensor, i: int) -> Tensor:
        return sample

    def to_x0(self, output: Tensor, sample: Tensor, i: int) -> Tensor:
        return sample - self._told[i] * output

    def from_x0(self, x0: Tensor, sample: Tensor, i: int) -> Tensor:
        return (sample - x0) / self._told[i]

    def _from_true(self, x0: Tensor, sample: Tensor, i: int) -> Tensor:
        return (sample - x0) / self._noise[i]


def dynamic_shift(config: Any, tokens: int) -> float:
    """mu, the logarithm of the shift: linear in the tokens of an image, as the model was trained."""
    low, high = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    least, most = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
    return least + (most - least) * (tokens - low) / (high - low)
