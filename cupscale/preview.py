"""Previews of a run without the decoder (ours)."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from cupscale import images
from cupscale.method.regions import Size
from cupscale.planning import Plan


class Pace:
    """At most one preview in `seconds`: each takes a transfer from the accelerator, and makes it wait.

    Args:
        seconds: Between the end of one and the beginning of the next.
        clock: Tells the seconds.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic):
        self._seconds = seconds
        self._clock = clock
        self._last: float | None = None

    def due(self) -> bool:
        """Whether the next one may come."""
        return self._last is None or self._clock() - self._last >= self._seconds

    def shown(self) -> None:
        """One has come."""
        self._last = self._clock()


class PreviewMap:
    """Latents to small RGB pictures by the linear map that fits the base upscale best.

    It is fitted on the run's own image and latents, so it serves any VAE.

    Args:
        latents: (1, C, H, W), of the base upscale.
        image: The base upscale.
        side: Longer side of a preview in pixels.
        plan: Of the run.
    """

    def __init__(self, latents: Tensor, image: Image.Image, side: int, plan: Plan):
        cells_w = max(1, plan.output[0] // plan.cell_px)
        cells_h = max(1, plan.output[1] // plan.cell_px)
        self._crop = Size(cells_h, cells_w)
        shrink = min(1.0, side / max(cells_w, cells_h))
        self._size = Size(max(1, round(cells_h * shrink)), max(1, round(cells_w * shrink)))
        small = images.resize(image, (self._size.w, self._size.h), "lanczos")
        pixels = images.to_tensor(small)[0].flatten(1).T  # (n, 3)
        z = self._features(latents)
        ridge = 1e-3 * torch.eye(z.shape[1]) * len(z)
        self._map = torch.linalg.solve(z.T @ z + ridge, z.T @ pixels)  # (C + 1, 3)

    def _features(self, latents: Tensor) -> Tensor:
        z = latents[..., : self._crop.h, : self._crop.w].float()
        z = z.cpu() if z.device.type == "mps" else z  # whose averages must come out even
        z = F.interpolate(z, size=self._size, mode="area")[0].flatten(1).T.cpu()
        return torch.cat((z, torch.ones(len(z), 1)), dim=1)

    def __call__(self, latents: Tensor) -> Image.Image:
        """A preview of latents (1, C, H, W)."""
        pixels = (self._features(latents) @ self._map).T.reshape(1, 3, *self._size)
        return images.to_image(pixels.clamp(-1, 1))
