"""The bundled model as a denoiser: one network call at the timestep that matches the noise."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from training import model
from training.metrics import timestep_of


@torch.no_grad()
def denoise(parts, tokenizer, noisy: np.ndarray, sigma: float, caption: str = "") -> np.ndarray:
    """Take Gaussian noise of `sigma` (of 255) out of a picture (H, W, 3) in 0..1 by one call of the network.

    `parts` maps "unet", "text_encoder" and "text_encoder_2" to modules. The size conditioning asks for the sharp statistics
    of a photograph that was reduced by 2, as the pipeline does.
    """
    height, width = noisy.shape[:2]
    x = torch.from_numpy(noisy.astype(np.float32)).permute(2, 0, 1)[None] * 2 - 1
    x = F.pad(x, (0, -width % 16, 0, -height % 16), mode="reflect")
    t = timestep_of(sigma, model.make_scheduler().alphas_cumprod)
    ratio = 2 * sigma / 255  # noise over signal in latents
    a = 1 / (1 + ratio**2) ** 0.5
    tokens, pooled = model.encode_text([caption], tokenizer, parts["text_encoder"], parts["text_encoder_2"])
    sizes = torch.tensor([[2.0 * height, 2.0 * width, 0, 0, height, width]])
    latents = a * F.pixel_unshuffle(x, 2)
    v = parts["unet"](latents, t, tokens, added_cond_kwargs={"text_embeds": pooled, "time_ids": sizes}).sample
    clean = F.pixel_shuffle(a * latents - ratio * a * v, 2)[0, :, :height, :width]
    return (clean.permute(1, 2, 0).numpy() + 1) / 2
