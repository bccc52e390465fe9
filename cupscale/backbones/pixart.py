"""PixArt-alpha and PixArt-Sigma (Chen et al. 2023, 2024): transformers with cross-attention to T5's text.

A window is cut into patches of 2 x 2 cells. The network makes the positions from the window's own size, wherever on the canvas it
lies, so a window of native size has the positions the model was trained with.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import ClassVar

from torch import Tensor

from cupscale.backbones.attention import composed_cross
from cupscale.backbones.base import DiffusersBackbone
from cupscale.backbones.denoiser import Call, Text, split
from cupscale.backbones.tokens import rule_of
from cupscale.method.composer import Composer


class PixArtBackbone(DiffusersBackbone):
    """`PixArtAlphaPipeline`, `PixArtSigmaPipeline`."""

    UPCASTS = True
    PARTS: ClassVar = {
        "vae": "AutoencoderKL",
        "transformer": "PixArtTransformer2DModel",
        "scheduler": "DPMSolverMultistepScheduler",
        "text_encoder": "T5EncoderModel",
        "tokenizer": "T5Tokenizer",
    }

    def encode_texts(self, prompts: Sequence[str]) -> list[Text]:
        embeds, masks, _, _ = self.pipe.encode_prompt(
            list(prompts),
            False,
            device=self.device,
            max_sequence_length=rule_of(self._family(), ()).length,
        )
        return split(embeds, masks=masks)

    def _hooks(self, composer: Composer) -> AbstractContextManager[None]:
        return composed_cross(self.network, composer)

    def call(self, call: Call, composer: Composer) -> Tensor:
        words, mask = call.words(composer)
        rows = len(call.texts)
        sizes: dict[str, Tensor | None] = {"resolution": None, "aspect_ratio": None}
        if self.network.config.sample_size == 128:  # the 1024 px models are told the size: here, of a window
            size = (call.corners[:1, 2:] - call.corners[:1, :2]) * self.geometry.cell
            sizes = {
                "resolution": size.to(words.dtype).repeat(rows, 1),
                "aspect_ratio": (size[:, :1] / size[:, 1:]).to(words.dtype).repeat(rows, 1),
            }
        output = self.runner(
            call.latents.to(words.dtype),
            encoder_hidden_states=words,
            encoder_attention_mask=mask,
            timestep=call.t.expand(rows),
            added_cond_kwargs=sizes,
            return_dict=False,
        )[0]
        # A learned variance in the other channels is not used.
        return output[:, : call.latents.shape[1]].float()
