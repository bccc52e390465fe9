"""Captioner and diffusion model on one device: both where it holds both, else one after the other."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from cupscale.captioners.base import Captioner, CaptionerError
from cupscale.machine import free_bytes

ROOM = 1.25  # what a captioner takes at work (images, keys and values), over its weights


@contextlib.contextmanager
def room_for(captioner: Captioner, pipe: Any, device: torch.device, needed: int) -> Iterator[None]:
    """Caption inside; the diffusion model `pipe` runs after it, on `device`, and takes `needed` bytes over its weights.

    Where the accelerator does not hold both, the pipeline waits in main memory meanwhile, and the captioner is released
    before it comes back. Where it does, both stay for the next image.
    """
    with contextlib.suppress(CaptionerError):  # `ask` will say it again
        captioner.load()
    shared = captioner.bytes > 0 and torch.device(captioner.device).type == device.type
    there = pipe.device.type == device.type != "cpu"  # under offload its parts are in main memory already
    aside = shared and there and free_bytes(str(device)) < captioner.bytes * ROOM
    if aside:
        pipe.to("cpu")
    try:
        yield
    finally:
        if shared and (aside or free_bytes(str(device)) < needed):
            captioner.release()
        if aside:
            pipe.to(device)
