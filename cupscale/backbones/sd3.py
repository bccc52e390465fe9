"""Stable Diffusion 3 and 3.5 (Esser et al. 2024): a flow-matching transformer with joint attention.

A window is cut into patches of 2 x 2 cells. The network takes a window's positions from the middle of its table, wherever on
the canvas the window lies. The text's own tokens change from layer to layer with the image they read, so the regions' captions go
through the network behind the global prompt, each of the two reading the image and itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import ClassVar

import torch
from diffusers.models.attention_processor import JointAttnProcessor2_0
from torch import Tensor

from cupscale.backbones.attention import ComposedJoint, composed
from cupscale.backbones.base import DiffusersBackbone, RegionDenoiser, Text
from cupscale.method.regions import Region, Size
from cupscale.settings import Settings

T5_TOKENS = 256


class SD3Backbone(DiffusersBackbone):
    """`StableDiffusion3Pipeline`, with or without its T5 (text_encoder_3)."""

    PARTS: ClassVar = {
        "vae": "AutoencoderKL",
        "transformer": "SD3Transformer2DModel",
        "scheduler": "FlowMatchEulerDiscreteScheduler",
        "text_encoder": "CLIPTextModelWithProjection",
        "tokenizer": "CLIPTokenizer",
        "text_encoder_2": "CLIPTextModelWithProjection",
        "tokenizer_2": "CLIPTokenizer",
    }
    DEFAULTS: ClassVar = {"strength": 0.45, "steps": 28, "guidance": 5.0, "overlap": 0.5}

    def prompts(self, prompt: str, negative: str, guided: bool) -> tuple[Text, Text | None]:
        text, other, pooled, other_pooled = self.pipe.encode_prompt(
            prompt,
            None,
            None,
            device=self.device,
            do_classifier_free_guidance=guided,
            negative_prompt=negative,
            max_sequence_length=T5_TOKENS,
        )
        return Text(text, pooled), Text(other, other_pooled) if guided else None

    def _denoiser(
        self, settings: Settings, captions: Sequence[str | None], canvas: Size, overview: Size
    ) -> RegionDenoiser:
        return SD3Denoiser(self, settings, captions, canvas, overview)

    def _hooks(self, denoiser: SD3Denoiser) -> AbstractContextManager[None]:
        return composed(
            self.network,
            denoiser.composer,
            ComposedJoint,
            lambda name: name.endswith(".attn"),
            (JointAttnProcessor2_0,),
        )


class SD3Denoiser(RegionDenoiser):
    """One run of SD3's transformer. The pooled embedding stays the global prompt's."""

    def call(
        self,
        latents: Tensor,
        t: Tensor,
        texts: Sequence[Text],
        regions: Sequence[Region],
        canvas: Size,
        own: Sequence[Text] | None = None,
    ) -> Tensor:
        words, _ = self.words(texts, own)
        with torch.no_grad():
            return self.backbone.network(
                hidden_states=latents.to(words.dtype),
                timestep=t.expand(len(texts)),
                encoder_hidden_states=words,
                pooled_projections=torch.cat([text.pooled for text in texts if text.pooled is not None]),
                return_dict=False,
            )[0].float()
