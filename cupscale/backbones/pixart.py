"""PixArt-alpha and PixArt-Sigma (Chen et al. 2023, 2024): transformers with cross-attention to T5's text.

A window is cut into patches of 2 x 2 cells. The network makes the positions from the window's own size, wherever on the canvas it
lies, so a window of native size has the positions the model was trained with.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import ClassVar

import torch
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from torch import Tensor

from cupscale.backbones.attention import ComposedCross, composed
from cupscale.backbones.base import DiffusersBackbone, RegionDenoiser, Text
from cupscale.backbones.tokens import rule_of
from cupscale.method.regions import Region, Size
from cupscale.settings import Settings


class PixArtBackbone(DiffusersBackbone):
    """`PixArtAlphaPipeline`, `PixArtSigmaPipeline`."""

    PARTS: ClassVar = {
        "vae": "AutoencoderKL",
        "transformer": "PixArtTransformer2DModel",
        "scheduler": "DPMSolverMultistepScheduler",
        "text_encoder": "T5EncoderModel",
        "tokenizer": "T5Tokenizer",
    }
    DEFAULTS: ClassVar = {"strength": 0.45, "steps": 20, "guidance": 4.5, "overlap": 0.5}

    def prompts(self, prompt: str, negative: str, guided: bool) -> tuple[Text, Text | None]:
        text, mask, other, other_mask = self.pipe.encode_prompt(
            prompt,
            guided,
            negative_prompt=negative,
            device=self.device,
            max_sequence_length=rule_of(self._family(), ()).length,
        )
        return Text(text, mask=mask), Text(other, mask=other_mask) if guided else None

    def _denoiser(
        self, settings: Settings, captions: Sequence[str | None], canvas: Size, overview: Size
    ) -> RegionDenoiser:
        return PixArtDenoiser(self, settings, captions, canvas, overview)

    def _hooks(self, denoiser: PixArtDenoiser) -> AbstractContextManager[None]:
        return composed(
            self.network,
            denoiser.composer,
            ComposedCross,
            lambda name: name.endswith("attn2"),
            (AttnProcessor, AttnProcessor2_0),
        )


class PixArtDenoiser(RegionDenoiser):
    """One run of PixArt's transformer."""

    def call(
        self,
        latents: Tensor,
        t: Tensor,
        texts: Sequence[Text],
        regions: Sequence[Region],
        canvas: Size,
        own: Sequence[Text] | None = None,
    ) -> Tensor:
        network = self.backbone.network
        words, mask = self.words(texts, own)
        sizes: dict[str, Tensor | None] = {"resolution": None, "aspect_ratio": None}
        if network.config.sample_size == 128:  # the 1024 px models are told the size: here, of a window
            cell = self.backbone.geometry.cell
            height, width = (side * cell for side in latents.shape[-2:])
            sizes = {
                "resolution": words.new_tensor([[height, width]]).repeat(len(texts), 1),
                "aspect_ratio": words.new_tensor([[height / width]]).repeat(len(texts), 1),
            }
        with torch.no_grad():
            output = network(
                latents.to(words.dtype),
                encoder_hidden_states=words,
                encoder_attention_mask=mask,
                timestep=t.expand(len(texts)),
                added_cond_kwargs=sizes,
                return_dict=False,
            )[0]
        return output[:, : latents.shape[1]].float()  # a learned variance in the other channels is not used
