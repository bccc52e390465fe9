"""Operations and memory of a step of SDXL: windows, and ScaleDiff's call of the whole canvas, worked out without a card.

    python -m benchmarks.scalediff

A U-Net of SDXL's real size stands on torch's meta device, in half precision. Operations are those of
`torch.utils.flop_counter.FlopCounterMode`, for one sample of each window; guidance doubles them. Memory is what lives at the
same time above the weights in one call of one window, or of the canvas, with guidance (`benchmarks.memory`).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.memory import GIB, watched
from benchmarks.real_size_sdxl import UNET
from cupscale.backbones.nearby import nearby
from cupscale.method.regions import Region, Size
from cupscale.method.windows import Placement, Placing, even_grid
from cupscale.models import SDXL_GEOMETRY
from cupscale.planning import Geometry

SIDES_PX = (2048, 4096)
NATIVE = SDXL_GEOMETRY.native // SDXL_GEOMETRY.cell
WINDOW = Size(NATIVE, NATIVE)


def network() -> UNet2DConditionModel:
    with torch.device("meta"):
        return UNet2DConditionModel(**UNET).to(torch.float16).eval()


def given(rows: int, cells: Size) -> dict[str, Any]:
    """What a call of `rows` samples is given."""
    like: dict[str, Any] = {"device": "meta", "dtype": torch.float16}
    return {
        "sample": torch.empty(rows, 4, *cells, **like),
        "timestep": torch.tensor(500, device="meta"),
        "encoder_hidden_states": torch.empty(rows, 77, UNET["cross_attention_dim"], **like),
        "added_cond_kwargs": {
            "text_embeds": torch.empty(rows, 1280, **like),
            "time_ids": torch.empty(rows, 6, **like),
        },
    }


def tflop(unet: UNet2DConditionModel, cells: Size, near: bool = False) -> float:
    """Of one sample, in 1e12 operations. near: with self-attention in neighbourhoods of native size."""
    hooks = nearby(unet, cells, NATIVE) if near else nullcontext()
    with hooks, torch.no_grad(), FlopCounterMode(display=False) as counter:
        unet(**given(1, cells))
    return counter.get_total_flops() / 1e12


def peak(unet: UNet2DConditionModel, cells: Size, near: bool = False) -> float:
    """Of a guided call, in GiB above the weights."""
    hooks = nearby(unet, cells, NATIVE) if near else nullcontext()
    with hooks, watched(unet) as live:
        unet(**given(2, cells))
    return live.peak / GIB


def by_turns(canvas: Size, placing: Placing, geometry: Geometry = SDXL_GEOMETRY) -> Sequence[Region]:
    """The windows of one step that moves them, as the loop places them without overlap."""
    placement = Placement(placing, unit=geometry.align // geometry.cell)
    return placement.grids(canvas, WINDOW, 0.0, 1, torch.Generator().manual_seed(0))[0].regions


def row(side_px: int, what: str, calls: int, cells: Size, operations: float, memory: float) -> None:
    print(
        f"| {side_px} px | {what} | {calls} of {cells.h} x {cells.w} | {calls * operations:.0f} | {memory:.2f} |",
        flush=True,
    )


def main() -> None:
    unet = network()
    print(
        "| canvas | a step | samples, in cells | TFLOP | GiB a call, guided |\n|---|---|---|---|---|",
        flush=True,
    )
    for side_px in SIDES_PX:
        side = side_px // SDXL_GEOMETRY.cell
        canvas = Size(side, side)
        for what, regions in (
            ("windows, half an overlap", even_grid(canvas, WINDOW, 0.5).regions),
            ("windows shifted along both axes", by_turns(canvas, "shifted")),
            ("windows by turns (preset quick)", by_turns(canvas, "alternating")),
            ("windows without overlap, still", even_grid(canvas, WINDOW, 0.0).regions),
        ):
            cells = Size(regions[0].h, regions[0].w)
            row(side_px, what, len(regions), cells, tflop(unet, cells), peak(unet, cells))
        for what, near in (("ScaleDiff, the whole canvas", True), ("the whole canvas, plain", False)):
            row(side_px, what, 1, canvas, tflop(unet, canvas, near), peak(unet, canvas, near))


if __name__ == "__main__":
    main()
