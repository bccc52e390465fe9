"""What the benchmarks of real-size networks share: a run whose every event is printed with its time and the peak memory."""

from __future__ import annotations

import resource
import time
from typing import Any

import numpy as np
from PIL import Image

import cupscale

LIMIT_GB = 20


def peak_gb() -> float:
    """Of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def run(pipe: Any, network: Any, size: tuple[int, int], **fields: Any) -> int:
    """Upscale noise of `size` (width, height) and print how it goes. Returns 1 above `LIMIT_GB`, else 0."""
    count = sum(p.numel() for p in network.parameters()) / 1e6
    print(
        f"loaded: {type(network).__name__} of {count:.0f} M parameters, peak so far {peak_gb():.1f} GB",
        flush=True,
    )
    values = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    began = last = time.perf_counter()
    try:
        for event in cupscale.stream(
            pipe,
            Image.fromarray(values),
            prompt="a forest",
            upscaler="lanczos",
            restore=0,
            preview_px=0,
            attention=0.6,
            **fields,
        ):
            now = time.perf_counter()
            if isinstance(event, cupscale.Planned):
                print(event.plan.line(), flush=True)
            elif isinstance(event, cupscale.Progress):
                print(
                    f"{event.stage} step {event.step}/{event.steps} region {event.regions}/{event.total}  "
                    f"{now - last:.1f} s  peak {peak_gb():.1f} GB",
                    flush=True,
                )
            elif isinstance(event, cupscale.Finished):
                print(f"{event.result.image.size} in {now - began:.0f} s")
            last = now
    finally:
        print(f"peak {peak_gb():.1f} GB (limit {LIMIT_GB})")
    return int(peak_gb() > LIMIT_GB)
