"""Which base upscaler suits a picture, and whether its damage is taken away first (ours).

RealSR gives a clean picture its sharpness back, and makes cracks of what a JPEG or noise left behind; Real-ESRGAN takes
such damage away, and much of the fine detail with it. So noise and grain are taken away first (`upscalers.restore`), and
Real-ESRGAN is for what was a JPEG. What decides is whether and how the picture is damaged:

- A JPEG's own tables say how coarsely it was stored.
- A picture that once was a JPEG still has the steps: the cosine coefficients of its 8 x 8 blocks gather at multiples
  of the step, at one place of the grid only, whatever file it lies in now (if it was cut, but not resized).
- Noise: what is left of the finest detail in the calmest places, of brightness and of colour. Colour has next to
  no fine detail in a photograph, so noise shows there first; film grain is the same in all channels, and as strong in
  busy places as in calm ones, where fine texture is not. A clean photograph that is taken for a grainy one loses its
  texture, and a grainy one that is taken for clean keeps its grain: in doubt it is clean.

Drawings, which are mostly flat, have networks of their own: waifu2x keeps the lines and colours of clean ones, and
Real-ESRGAN's for drawings takes the damage of others away.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from cupscale.images import Picture
from cupscale.settings import Settings, Share
from cupscale.upscalers import available as can_run

SAMPLE_PX = 512  # longest side of the middle that is looked at for traces of JPEG, and of each tile for noise
CLEAN_QUALITY = 97  # of a JPEG, from which on the steps are too small to matter
TRACES = 2.0  # undamaged pictures have 0.3 to 0.9, JPEG 92 has 4.7 and more, coarser ones more than 7
COLOURED = (
    1.5  # levels of colour noise; undamaged photographs have at most 1.0, noise of sigma 2 gives 2.2 and more
)
NOISY = 3.5  # levels of colour noise, from which on RealSR makes cracks of it; sigma 5 gives 5.1 and more
GRAIN = 1.1  # levels, where there is none in the colours; undamaged photographs have 0.3 in the median, but rind has 2.5
EVEN = 0.6  # of `Signs.even`: film grain is nearly as strong everywhere, and fine texture is not
DRAWN = 0.4  # share of pixels that are the same as their neighbours
HIGH, LOW = 1.0, 0.1  # fidelity on clean or restored and on damaged input

_STEPS = np.arange(2, 41, dtype=np.float32)  # of quantization, that are looked for
_WAVES = ((0, 1), (1, 0), (1, 1), (0, 2), (2, 0), (1, 2), (2, 1), (2, 2), (0, 3), (3, 0))  # (down, across)
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


@dataclass(frozen=True)
class Signs:
    """What a picture shows of its past.

    Attributes:
        quality: Of the JPEG file that it is, 1 to 100; None for other files.
        traces: Of JPEG in the pixels; see `TRACES`.
        grain: Noise of brightness in the calmest places, in levels.
        even: The same in the calmest hundredth over that in the calmest quarter, 0 to 1.
        colour_noise: The same of red less green.
        flat: Share of pixels that are the same as their neighbours to the right and below.
    """

    quality: int | None
    traces: float
    grain: float
    even: float
    colour_noise: float
    flat: float


@dataclass(frozen=True)
class Choice:
    """A base upscaler, the restoration before it and the fidelity that suit a picture, and why, in a few words."""

    upscaler: str
    restore: float
    fidelity: float
    reason: str


def settle(settings: Settings, picture: Picture) -> tuple[Settings, str]:
    """Put what suits a picture in the place of "auto".

    Args:
        settings: Of a run.
        picture: Its input.

    Returns:
        Settings that give the same result whenever they are used again, and why this base upscaler; "" where the
        settings name one.
    """
    if "auto" not in (settings.upscaler, settings.restore, settings.fidelity):
        return settings, ""
    choice = choose(examine(picture.rgb, picture.quality), can_run, settings.restore)
    fields: dict[str, str | float] = {"restore": choice.restore}
    if settings.upscaler == "auto":
        fields["upscaler"] = choice.upscaler
    if settings.fidelity == "auto":  # at scale 1 full fidelity would undo the whole run
        fields["fidelity"] = round(choice.fidelity * min(1.0, settings.scale - 1), 4)
    return settings.replace(**fields), choice.reason if "upscaler" in fields else ""


def examine(image: Image.Image, quality: int | None = None) -> Signs:
    """Measure what a picture shows of its past.

    Args:
        image: RGB.
        quality: Of the JPEG file that it came from.

    Returns:
        Traces of JPEG, noise and flatness, as `choose` reads them.
    """
    left, top = (max(0, (side - SAMPLE_PX) // 2) for side in image.size)
    middle = image.crop((left, top, min(left + SAMPLE_PX, image.width), min(top + SAMPLE_PX, image.height)))
    samples = np.asarray(middle, np.float32)
    pixels = np.asarray(middle)
    same = (pixels[1:, :-1] == pixels[:-1, :-1]) & (pixels[:-1, 1:] == pixels[:-1, :-1])
    luma = samples @ _LUMA
    grain = calmest(luma, samples, 0.01)
    return Signs(
        quality,
        jpeg_traces(luma),
        grain,
        grain / max(calmest(luma, samples, 0.25), 1e-6),
        calmest(samples[..., 0] - samples[..., 1], samples, 0.05),
        float(same.all(axis=2).mean()),
    )


def choose(signs: Signs, available: Callable[[str], bool], restore: Share = "auto") -> Choice:
    """The base upscaler for what a picture shows.

    Args:
        signs: See `examine`.
        available: Whether a base upscaler can run here; the next best one takes the place of one that cannot.
        restore: As in the settings. "auto" restores noisy and grainy photographs wholly, and no JPEGs nor drawings: what is
            left at a JPEG's edges turns to waves in RealSR, and Real-ESRGAN's networks know both.
    """
    found, drawn = damage(signs), signs.flat > DRAWN
    noise = found != "" and not _was_jpeg(signs)
    share = float(noise and not drawn) if restore == "auto" else restore
    left = "" if noise and share >= 0.5 else found  # of the damage, where the base upscaler looks
    wanted: tuple[str, ...]
    if drawn:
        wanted = ("anime", "realesrgan") if left else ("waifu2x", "anime", "realsr")
    else:
        wanted = ("realesrgan", "realsr") if left else ("realsr", "realesrgan")
    why = ", ".join(["a drawing"] * drawn + [found] * bool(found)) or "clean input"
    if found and share > 0:
        why += ", restored"
    name = next((name for name in wanted if available(name)), "lanczos")
    if name != wanted[0]:
        why += f", {wanted[0]} not installed"
    return Choice(name, share, LOW if left else HIGH, why)


def damage(signs: Signs) -> str:
    """What is wrong with a picture, in a few words; empty for a clean one."""
    if _was_jpeg(signs):
        known = signs.quality is not None and signs.quality < CLEAN_QUALITY
        return f"JPEG of quality {signs.quality}" if known else "traces of JPEG"
    if signs.colour_noise > NOISY:
        return f"noise of {signs.colour_noise / 2**0.5:.1f} levels"
    if signs.grain > GRAIN and signs.even > EVEN and signs.colour_noise < COLOURED:
        return f"grain of {signs.grain:.1f} levels"
    return ""


def _was_jpeg(signs: Signs) -> bool:
    return signs.traces > TRACES or (signs.quality is not None and signs.quality < CLEAN_QUALITY)


def jpeg_traces(luma: np.ndarray) -> float:
    """How much clearer the best place of the 8 x 8 grid shows steps of quantization than the usual one.

    For each place of the grid, each wave and each step q the coefficients c above q / 2 vote with cos(2 pi c / q),
    which is 1 at multiples of the step and below 0 in the mean for coefficients of any other kind.

    Args:
        luma: (h, w) levels; 0 for less than 24 pixels a side.
    """
    if min(luma.shape) < 24:
        return 0.0
    basis = _cosines()
    across = np.lib.stride_tricks.sliding_window_view(luma, 8, axis=1) @ basis.T
    votes = np.zeros((8, 8))
    for down, wave in _WAVES:
        windows = np.lib.stride_tricks.sliding_window_view(across[..., wave], 8, axis=0)
        found = np.abs(windows @ basis[down])
        for y in range(8):
            for x in range(8):
                votes[y, x] += _step_vote(found[y::8, x::8].ravel()) / len(_WAVES)
    return float(votes.max() - np.median(votes))


def calmest(channel: np.ndarray, samples: np.ndarray, share: float) -> float:
    """The noise of a channel where it is calmest: Immerkaer's measure (1996) in blocks of 8 x 8.

    Args:
        channel: (h, w) levels.
        samples: (h, w, 3). Blocks that touch black or white in them do not count: clipping takes their noise.
        share: Of the blocks, that have less than what is returned.
    """
    rough = channel[:-2] - 2 * channel[1:-1] + channel[2:]
    rough = (rough[:, :-2] - 2 * rough[:, 1:-1] + rough[:, 2:]) / 6
    height, width = (side // 8 * 8 for side in rough.shape)
    if not height or not width:
        return 0.0

    def blocks(values: np.ndarray) -> np.ndarray:
        return values[:height, :width].reshape(height // 8, 8, width // 8, 8)

    noise = np.sqrt((blocks(rough) ** 2).mean(axis=(1, 3)))
    light = blocks(samples.mean(axis=2)[1:-1, 1:-1])
    inside = (light.min(axis=(1, 3)) > 4) & (light.max(axis=(1, 3)) < 251)
    return float(np.quantile(noise[inside] if inside.sum() >= 20 else noise, share))


def _step_vote(found: np.ndarray) -> float:
    """The clearest step's vote, in standard deviations of chance."""
    large = found[None] > _STEPS[:, None] / 2
    count = large.sum(axis=1)
    mean = (np.cos(2 * np.pi * found[None] / _STEPS[:, None]) * large).sum(axis=1) / np.maximum(count, 1)
    return float(max(0.0, np.where(count >= 12, mean * np.sqrt(2 * count), 0).max()))


def _cosines() -> np.ndarray:
    """The 8-point DCT-II, orthonormal: (wave, sample)."""
    waves, samples = np.arange(8)[:, None], np.arange(8)[None]
    basis = 0.5 * np.cos((2 * samples + 1) * waves * np.pi / 16)
    basis[0] /= np.sqrt(2)
    return basis.astype(np.float32)
