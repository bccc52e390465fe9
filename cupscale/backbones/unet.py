"""U-Net pipelines of diffusers: Stable Diffusion 1.5 (and 2), SDXL, and their relatives."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar

import torch
from torch import Tensor

from cupscale.backbones.attention import composed_cross
from cupscale.backbones.base import DiffusersBackbone
from cupscale.backbones.control import UNET_KINDS, check_control
from cupscale.backbones.denoiser import Call, Text, split
from cupscale.checkpoints import REFINER
from cupscale.errors import CupscaleError
from cupscale.method.composer import Composer


class SDBackbone(DiffusersBackbone):
    """`StableDiffusionPipeline`, with every LoRA, fine-tune and scheduler of that class."""

    NETWORK = "unet"
    PARTS: ClassVar = {
        "vae": "AutoencoderKL",
        "unet": "UNet2DConditionModel",
        "scheduler": "DDIMScheduler",
        "text_encoder": "CLIPTextModel",
        "tokenizer": "CLIPTokenizer",
    }

    def _window_cells(self) -> int:
        return 2 ** (len(self.network.config.block_out_channels) - 1)

    def _width(self) -> int:
        return int(self.network.config.block_out_channels[0])

    def encode_texts(self, prompts: Sequence[str]) -> list[Text]:
        embeds, _ = self.pipe.encode_prompt(list(prompts), self.device, 1, False)
        return split(embeds)

    def _hooks(self, composer: Composer) -> AbstractContextManager[None]:
        return composed_cross(self.network, composer)

    def conditions(self, call: Call) -> dict[str, Tensor] | None:
        """`added_cond_kwargs` of the network."""
        return None

    def check_control(self) -> None:
        check_control(self.pipe, UNET_KINDS)

    def call(self, call: Call, composer: Composer) -> Tensor:
        words, _ = call.words(composer)
        latents, conditions = call.latents.to(words.dtype), self.conditions(call)
        controlled: dict[str, Any] = {}
        if self._control is not None:
            prompts = words[:, : words.shape[1] - composer.own]
            controlled = self._control.of_unet(call, latents, prompts, conditions)
        return self.runner(
            latents,
            call.t,
            encoder_hidden_states=words,
            added_cond_kwargs=conditions,
            return_dict=False,
            **controlled,
        )[0].float()


class SDXLBackbone(SDBackbone):
    """`StableDiffusionXLPipeline`, with every LoRA, fine-tune and scheduler of that class."""

    UPCASTS = True
    PARTS: ClassVar = {
        "vae": "AutoencoderKL",
        "unet": "UNet2DConditionModel",
        "scheduler": "EulerDiscreteScheduler",
        "text_encoder_2": "CLIPTextModelWithProjection",
        "tokenizer_2": "CLIPTokenizer",
    }

    def __init__(self, pipe: Any):
        super().__init__(pipe)
        self._check_no_refiner()
        # The bundled model's codec says which factor its U-Net was trained to take for a sharp photograph.
        self.source_scale = float(getattr(pipe.vae.config, "source_scale", 1.0))

    def _check_no_refiner(self) -> None:
        """Raises CupscaleError where the network is told five numbers of a picture, not six: the last is its beauty."""
        config = self.network.config
        told = config.projection_class_embeddings_input_dim - self.pipe.text_encoder_2.config.projection_dim
        if told == 5 * config.addition_time_embed_dim:
            raise CupscaleError(f"this {REFINER}")

    def encode_texts(self, prompts: Sequence[str]) -> list[Text]:
        embeds, _, pooled, _ = self.pipe.encode_prompt(
            list(prompts), device=self.device, do_classifier_free_guidance=False
        )
        return split(embeds, pooled)

    def nothing(self, like: Text) -> Text | None:
        """The zeros SDXL was trained with, where the pipeline says so."""
        if not self.pipe.config.force_zeros_for_empty_prompt or like.pooled is None:
            return None
        return Text(torch.zeros_like(like.embeds), torch.zeros_like(like.pooled))

    def _time_ids(self, call: Call) -> Tensor:
        """SDXL's micro-conditioning of the regions, (R, 6) in pixels (height, width): original size, crop's corner, target size.

        Both sizes are the canvas', as if the region had been cropped from it (as DemoFusion has it). `source_scale` asks a
        model trained for it for the look of a photograph that was reduced by that factor.
        """
        cell, corners = self.geometry.cell, call.corners[:, :2] * self.geometry.cell
        full = torch.stack(
            [torch.full_like(corners[:, 0], side * cell) for side in call.canvas], dim=1
        )  # made where it is needed
        return torch.cat((full * self.source_scale, corners, full), dim=1)

    def conditions(self, call: Call) -> dict[str, Tensor] | None:
        pooled = call.pooled()
        times = self._time_ids(call).to(pooled.dtype)
        return {"text_embeds": pooled, "time_ids": times.repeat(len(call.texts) // len(times), 1)}
