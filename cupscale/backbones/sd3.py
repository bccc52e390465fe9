"""Stable Diffusion 3 and 3.5 (Esser et al. 2024): a flow-matching transformer with joint attention.

A window is cut into patches of 2 x 2 cells. The network takes a window's positions from the middle of its table, wherever on
the canvas the window lies. The text's own tokens change from layer to layer with the image they read, so the regions' captions go
through the network behind the global prompt, each of the two reading the image and itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import ClassVar

from torch import Tensor

from cupscale.backbones.attention import USUAL_JOINT, ComposedJoint, composed
from cupscale.backbones.base import DiffusersBackbone
from cupscale.backbones.denoiser import Call, Text, split
from cupscale.method.composer import Composer

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

    def most_cells(self) -> int:
        return int(self.network.config.pos_embed_max_size) * self._patch()

    def encode_texts(self, prompts: Sequence[str]) -> list[Text]:
        embeds, _, pooled, _ = self.pipe.encode_prompt(
            list(prompts),
            None,
            None,
            device=self.device,
            do_classifier_free_guidance=False,
            max_sequence_length=T5_TOKENS,
        )
        return split(embeds, pooled)

    def _hooks(self, composer: Composer) -> AbstractContextManager[None]:
        return composed(
            self.network,
            composer,
            ComposedJoint,
            lambda name: name.endswith(".attn"),
            USUAL_JOINT,
        )

    def call(self, call: Call, composer: Composer) -> Tensor:
        words, _ = call.words(composer)
        return self.runner(
            hidden_states=call.latents.to(words.dtype),
            timestep=call.t.expand(len(call.texts)),
            encoder_hidden_states=words,
            pooled_projections=call.pooled(),
            return_dict=False,
        )[0].float()
