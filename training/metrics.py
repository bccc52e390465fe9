"""The measures of the bundled model. Pictures are float arrays (H, W, 3) in 0..1 unless said otherwise."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F


def psnr(reference: np.ndarray, picture: np.ndarray) -> float:
    """Return the peak signal to noise ratio in dB. Peak is 1; infinite where both are the same."""
    error = float(np.square(np.clip(picture, 0, 1).astype(np.float64) - reference).mean())
    return float("inf") if error == 0 else -10 * float(np.log10(error))


def timestep_of(sigma: float, alphas: torch.Tensor) -> float:
    """Return the timestep, with its fraction, whose noise over signal is `sigma` (of 255 grey levels).

    `alphas` is the schedule's cumulative product. Latents span -1..1, so sigma grey levels are 2 sigma / 255 there.
    """
    ratios = ((1 - alphas) / alphas).sqrt().double().numpy()
    return float(np.interp(2 * sigma / 255, ratios, np.arange(len(ratios))))


@torch.no_grad()
def denoise(
    parts, tokenizer, picture: np.ndarray, sigma: float, caption: str = "", seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Add Gaussian noise of `sigma` (of 255) to a picture and take it away by one network call at the matching t.

    `parts` maps "unet", "text_encoder" and "text_encoder_2" to modules. Returns the noisy and the denoised picture. The
    noisy one is not clipped, as is usual for this measure (Zhang et al. 2018, "FFDNet").
    """
    from training import model

    alphas = model.make_scheduler().alphas_cumprod
    height, width = picture.shape[:2]
    generator = np.random.default_rng(seed)
    noisy = picture + generator.standard_normal(picture.shape) * (sigma / 255)
    x = torch.from_numpy(noisy.astype(np.float32)).permute(2, 0, 1)[None] * 2 - 1
    x = F.pad(x, (0, -width % 16, 0, -height % 16), mode="reflect")
    t = timestep_of(sigma, alphas)
    ratio = 2 * sigma / 255
    a = 1 / (1 + ratio**2) ** 0.5
    s = ratio * a
    tokens, pooled = model.encode_text([caption], tokenizer, parts["text_encoder"], parts["text_encoder_2"])
    sizes = torch.tensor([[2.0 * height, 2.0 * width, 0, 0, height, width]])
    latents = a * F.pixel_unshuffle(x, 2)
    v = parts["unet"](latents, t, tokens, added_cond_kwargs={"text_embeds": pooled, "time_ids": sizes}).sample
    clean = F.pixel_shuffle(a * latents - s * v, 2)[0, :, :height, :width]
    return noisy.astype(np.float32), (clean.permute(1, 2, 0).numpy() + 1) / 2
