"""How long a run takes: fitted to earlier runs of the same model on the same device, and guessed before the first.

    seconds = fixed + input a + samples b + output c

input are megapixels that a base upscaler's network enlarges, output those of the result, samples the network's, each of a
window of native size. The three parts are timed apart, so each is fitted alone, by least squares of the relative errors (ours): a
slow first run, which reads files and compiles kernels, counts as much as a fast one, and an outlier less than its neighbours. The
guess counts as a part of one more run, and so decides what the runs do not tell.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

KEPT = 10  # runs of a model
NEWER = 0.8  # the weight of a run beside that of the next
TRUST = 0.02  # in the guess, beside 1 of a run
OUTLIER = 0.15  # relative error from which on a run counts less

# Floating point operations a second that a run reaches, in 1e12: 40% of the dense half-precision peak in NVIDIA's data sheets.
ACCELERATORS = {
    "H200": 395,
    "H100": 395,
    "A100": 125,
    "L40": 72,
    "A10G": 28,
    "A10": 50,
    "L4": 48,
    "T4": 26,
    "V100": 50,
    "4090": 66,
    "3090": 28,
}
OTHER_ACCELERATOR = 20.0
APPLE = 3.0
CORE = 0.06  # of a CPU in float32, as measured on an AMD EPYC
UPSCALER_CORE_SECONDS = (
    418.0  # of one core for a megapixel that Real-ESRGAN enlarges (`python -m benchmarks.run parts`)
)
FIXED_SECONDS = 0.3
CANVAS_CORE_SECONDS = 0.5  # for a megapixel of the result: resizing, correcting, an exact codec
CODEC_TFLOP = 8.0  # of an autoencoder of SDXL's kind, in and out, for a megapixel


@dataclass(frozen=True)
class Run:
    """One run: how much there was, and its seconds.

    input: megapixels that a base upscaler's network enlarged. samples: of the network, in windows of native size.
    output: megapixels. enlarge, network, rest: seconds of that upscaler, of the steps, of everything else but captions.
    """

    input: float
    samples: float
    output: float
    enlarge: float
    network: float
    rest: float

    @classmethod
    def read(cls, data: object) -> Run | None:
        """From JSON data; None where it makes no sense."""
        if not isinstance(data, Mapping) or set(data) != set(cls.__dataclass_fields__):
            return None
        values = list(data.values())
        if any(isinstance(value, bool) or not isinstance(value, (int, float)) for value in values):
            return None
        if not all(0 <= value < math.inf for value in values) or not data["output"] > 0:
            return None
        return cls(**{name: float(value) for name, value in data.items()})

    def to_dict(self) -> dict[str, float]:
        return asdict(self)

    @property
    def seconds(self) -> float:
        return self.enlarge + self.network + self.rest


@dataclass(frozen=True)
class Speed:
    """fixed: seconds. input, output: seconds a megapixel. sample: seconds."""

    fixed: float
    input: float
    sample: float
    output: float

    def seconds(self, input: float, samples: float, output: float) -> float:
        """Of a run; see `Run`."""
        return self.fixed + input * self.input + samples * self.sample + output * self.output


def guessed(tflop: float, device: str, cores: int, exact_codec: bool = False) -> Speed:
    """Guess how fast a model is before its first run.

    Args:
        tflop: Of one network sample of a window of native size, in 1e12 floating point operations.
        device: Its name, "cpu" for one without an accelerator, "mps" for Apple's.
        cores: Of the CPU.
        exact_codec: The model has no autoencoder.

    Returns:
        Seconds of a network sample and of a megapixel in and out, as other devices had them.
    """
    rate = _rate(device, cores)
    codec = 0.0 if exact_codec else CODEC_TFLOP / rate
    return Speed(
        FIXED_SECONDS,
        UPSCALER_CORE_SECONDS / max(1, cores),
        tflop / rate,
        CANVAS_CORE_SECONDS / max(1, min(2, cores)) + codec,
    )


def _rate(device: str, cores: int) -> float:
    if device == "cpu":
        return CORE * max(1, cores)
    if device == "mps":
        return APPLE
    found = [rate for name, rate in ACCELERATORS.items() if re.search(rf"(^|\W){name}", device)]
    return float(found[0]) if found else OTHER_ACCELERATOR


def fitted(runs: Sequence[Run], guess: Speed | None) -> Speed:
    """Fit how fast a model is to its runs.

    Args:
        runs: Of one model on one device, the oldest first, at least one.
        guess: Of it; None where there is none.

    Returns:
        Fixed seconds, and seconds of a sample and of a megapixel in and out; newer runs weigh more.
    """
    first = runs[-1]
    guess = guess or Speed(
        0.1 * first.rest or 0.1,
        UPSCALER_CORE_SECONDS / 2,
        first.network / first.samples if first.samples else 1.0,
        first.rest / first.output,
    )
    ages = [NEWER**age for age in reversed(range(len(runs)))]
    _, sample = _line([r.samples for r in runs], [r.network for r in runs], ages, (0.0, guess.sample))
    _, enlarge = _line([r.input for r in runs], [r.enlarge for r in runs], ages, (0.0, guess.input))
    fixed, output = _line([r.output for r in runs], [r.rest for r in runs], ages, (guess.fixed, guess.output))
    return Speed(fixed, enlarge, sample, output)


def _line(
    amounts: Sequence[float], seconds: Sequence[float], weights: Sequence[float], guess: tuple[float, float]
) -> tuple[float, float]:
    """The fixed part and the slope, neither below 0, of seconds over amounts; without a fixed part where the guess has none."""
    rows = [(x, y, w) for x, y, w in zip(amounts, seconds, weights, strict=True) if x > 0 and y > 0]
    if not rows:
        return guess
    x, y, w = (np.array(column) for column in zip(*rows, strict=True))
    free = [k for k in (0, 1) if guess[k] > 0]
    design = np.stack((np.ones_like(x), x), axis=1)[:, free] / y[:, None]
    prior = np.array(guess)[free]
    robust = np.ones_like(y)
    for _ in range(8):
        weight = np.sqrt(w * robust)
        a = np.concatenate((design * weight[:, None], np.diag(np.sqrt(TRUST) / prior)))
        b = np.concatenate((weight, np.full(len(free), np.sqrt(TRUST))))
        found = np.maximum(np.linalg.lstsq(a, b, rcond=None)[0], 1e-3 * prior)
        robust = 1 / np.maximum(1, np.abs(design @ found - 1) / OUTLIER)
    line = [0.0, 0.0]
    for k, value in zip(free, found, strict=True):
        line[k] = float(value)
    return line[0], line[1]
