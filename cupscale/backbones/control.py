"""ControlNet "tile": a second network looks at the enlarged input and tells the U-Net what lies where.

Ours, beside the paper, for those who want a result that keeps nearer to the input than the structure prior alone holds it. The
ControlNet sees each region's piece of the base upscale, and the global prompt, never a caption; `control` scales what it
adds. The pass over the whole picture at native size has it too.

Its weights come with the pipeline: one of diffusers' ControlNet pipelines for Stable Diffusion or SDXL, whose `controlnet` is
a `ControlNetModel` trained for tiles (lllyasviel/control_v11f1e_sd15_tile) or a `ControlNetUnionModel` that knows tiles
(xinsir's ControlNet-Union for SDXL, ProMax).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import ControlNetModel, ControlNetUnionModel
from torch import Tensor

from cupscale.backbones.denoiser import Call
from cupscale.errors import CupscaleError
from cupscale.method.regions import Size

TILE = 6  # the place of "tile" among the control types of ControlNet-Union


def check_control(pipe: Any) -> None:
    """See that a pipeline has a ControlNet for tiles.

    Raises:
        CupscaleError: It has none, or one of another kind; the message names the remedy.
    """
    network: Any = getattr(pipe, "controlnet", None)
    if network is None:
        raise CupscaleError(
            f"control needs a ControlNet, and {type(pipe).__name__} has none: load the model with one (controlnet, or "
            "--controlnet), or set control to 0"
        )
    kinds = (ControlNetModel, ControlNetUnionModel)
    if not isinstance(network, kinds):
        raise CupscaleError(
            f"control works with {' or '.join(kind.__name__ for kind in kinds)}, not {type(network).__name__}: give one, or "
            "set control to 0"
        )
    if (kinds_known := _kinds(network)) is not None and kinds_known <= TILE:
        raise CupscaleError(
            f"this ControlNet-Union knows {kinds_known} kinds of control and no tiles: take the ProMax "
            "weights, or set control to 0"
        )


@dataclass(frozen=True)
class Control:
    """The ControlNet of one run.

    Attributes:
        network: The pipeline's ControlNet.
        weight: What its outputs are multiplied by, 0 to 1.
        images: The enlarged input in each of the sizes that are denoised (in cells), (3, H, W) uint8.
        cell_px: Pixels to a cell.
    """

    network: Any
    weight: float
    images: Mapping[Size, Tensor]
    cell_px: int

    def residuals(
        self, call: Call, latents: Tensor, words: Tensor, conditions: Mapping[str, Tensor] | None
    ) -> dict[str, Any]:
        """What it adds to a call of the U-Net, as the U-Net's arguments.

        Args:
            call: Of the U-Net.
            latents: (B, C, h, w), as the U-Net gets them.
            words: (B, tokens, D), the prompts without the captions.
            conditions: The U-Net's `added_cond_kwargs`.
        """
        image = self.images[call.canvas]
        crops = torch.stack([region.scaled(self.cell_px).crop(image) for region in call.regions])
        seen = crops.to(latents.device, latents.dtype) / 255
        seen = seen.repeat(len(latents) // len(seen), 1, 1, 1)
        rest: dict[str, Any] = {"controlnet_cond": seen}
        if (kinds_known := _kinds(self.network)) is not None:
            kinds = torch.zeros(len(latents), kinds_known)
            kinds[:, TILE] = 1
            rest = {
                "controlnet_cond": [seen],
                "control_type": kinds.to(latents.device, latents.dtype),
                "control_type_idx": [TILE],
            }
        down, mid = self.network(
            latents,
            call.t,
            encoder_hidden_states=words,
            conditioning_scale=self.weight,
            added_cond_kwargs=conditions,
            return_dict=False,
            **rest,
        )
        return {"down_block_additional_residuals": down, "mid_block_additional_residual": mid}


def _kinds(network: Any) -> int | None:
    """How many kinds of control a ControlNet-Union knows; None for another ControlNet."""
    known = network.config.get("num_control_type")
    return None if known is None else int(known)
