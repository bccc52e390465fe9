"""ControlNet "tile": a second network looks at the enlarged input and tells the first what lies where.

Ours, beside the paper, for those who want a result that keeps nearer to the input than the structure prior alone holds it. The
ControlNet sees each region's piece of the base upscale, and the global prompt, never a caption; `control` scales what it
adds. The pass over the whole picture at native size has it too.

Its weights come with the pipeline: one of diffusers' ControlNet pipelines. For Stable Diffusion and SDXL its `controlnet` is a
`ControlNetModel` trained for tiles (lllyasviel/control_v11f1e_sd15_tile) or a `ControlNetUnionModel` that knows tiles (xinsir's
ControlNet-Union for SDXL, ProMax), and sees pixels. For Z-Image it is a `ZImageControlNetModel` (alibaba-pai's "Fun" Union), and
sees latents.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import ControlNetModel, ControlNetUnionModel, ZImageControlNetModel
from torch import Tensor

from cupscale.backbones.denoiser import Call
from cupscale.errors import CupscaleError
from cupscale.method.regions import Size

TILE = 6  # the place of "tile" among the control types of ControlNet-Union


def check_control(pipe: Any, kinds: tuple[type, ...]) -> None:
    """See that a pipeline has a ControlNet for tiles.

    Args:
        pipe: Of diffusers.
        kinds: The classes of ControlNet that its family works with.

    Raises:
        CupscaleError: It has none, or one of another kind; the message names the remedy.
    """
    network: Any = getattr(pipe, "controlnet", None)
    if network is None:
        raise CupscaleError(
            f"control needs a ControlNet, and {type(pipe).__name__} has none: load the model with one (controlnet, or "
            "--controlnet), or set control to 0"
        )
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
        images: The enlarged input in each of the sizes that are denoised (in cells): pixels (3, H, W) uint8, or latents
            (C, h, w).
        cell: Of those images, a side: pixels to a cell, or 1.
    """

    network: Any
    weight: float
    images: Mapping[Size, Tensor]
    cell: int

    def crops(self, call: Call, rows: int) -> Tensor:
        """What lies in the regions of a call, (rows, ...): once, or for both halves of guidance."""
        image = self.images[call.canvas]
        crops = torch.stack([region.scaled(self.cell).crop(image) for region in call.regions])
        return crops.repeat(rows // len(crops), 1, 1, 1)

    def of_unet(
        self, call: Call, latents: Tensor, words: Tensor, conditions: Mapping[str, Tensor] | None
    ) -> dict[str, Any]:
        """What it adds to a call of a U-Net, as the U-Net's arguments.

        Args:
            call: Of the U-Net.
            latents: (B, C, h, w), as the U-Net gets them.
            words: (B, tokens, D), the prompts without the captions.
            conditions: The U-Net's `added_cond_kwargs`.
        """
        seen = self.crops(call, len(latents)).to(latents.device, latents.dtype) / 255
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

    def of_zimage(
        self, call: Call, latents: Sequence[Tensor], time: Tensor, words: Sequence[Tensor], behind: int
    ) -> dict[int, Tensor]:
        """What it adds to Z-Image's layers, by their number, (B, tokens, D).

        Args:
            call: Of the transformer.
            latents: B times (C, 1, h, w), as the transformer gets them.
            time: (B,), likewise.
            words: B times (tokens, D), the prompts without the captions.
            behind: Tokens that the captions put behind the sequence, to which nothing is added.
        """
        seen = self.crops(call, len(latents))
        seen = F.pad(seen, (0, 0, 0, 0, 0, self.network.config.control_in_dim - seen.shape[1]))
        seen = seen[:, :, None].to(latents[0].device, latents[0].dtype)
        added = self.network(latents, time, words, seen, conditioning_scale=self.weight)
        return {layer: F.pad(each, (0, 0, 0, behind)) for layer, each in added.items()}


UNET_KINDS = (ControlNetModel, ControlNetUnionModel)
ZIMAGE_KINDS = (ZImageControlNetModel,)


def _kinds(network: Any) -> int | None:
    """How many kinds of control a ControlNet-Union knows; None for another ControlNet."""
    known = network.config.get("num_control_type")
    return None if known is None else int(known)
