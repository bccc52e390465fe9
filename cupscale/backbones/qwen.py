"""Qwen-Image (Alibaba, 2025, arXiv 2508.02324): a flow-matching transformer with joint attention, and an autoencoder of videos.

A window is cut into patches of 2 x 2 cells, whose rotary positions count from the window's middle; the text's begin where the
image's end. A region's caption goes through the layers behind the global prompt with the positions that the prompt has, and
each of the two reads the image and itself. The autoencoder takes a picture as a video of one frame.

Guidance here keeps the length of what it began with, as in diffusers' pipeline: with v the guided output of a patch, over
all of its channels, and c the conditional one,

    v <- v |c| / |v|
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLQwenImage
from diffusers.models.transformers.transformer_qwenimage import QwenDoubleStreamAttnProcessor2_0
from torch import Tensor

from cupscale.backbones.attention import composed, turned
from cupscale.backbones.base import DiffusersBackbone
from cupscale.backbones.denoiser import Call, Text, split
from cupscale.errors import CupscaleError
from cupscale.method.composer import Composer
from cupscale.method.joint import Stream, compose_joint

TEXT_TOKENS = 512


class QwenImageBackbone(DiffusersBackbone):
    """`QwenImagePipeline`."""

    PARTS: ClassVar = {
        "vae": "AutoencoderKLQwenImage",
        "transformer": "QwenImageTransformer2DModel",
        "scheduler": "FlowMatchEulerDiscreteScheduler",
        "text_encoder": "Qwen2_5_VLForConditionalGeneration",
        "tokenizer": "Qwen2Tokenizer",
    }

    def __init__(self, pipe: Any):
        super().__init__(pipe)
        self._layout = Layout()

    def _check_network(self) -> None:
        if not isinstance(self.pipe.vae, AutoencoderKLQwenImage):
            raise CupscaleError(
                f"Qwen-Image works with its own autoencoder, not with {type(self.pipe.vae).__name__}: load its "
                "AutoencoderKLQwenImage again"
            )
        super()._check_network()

    def _channels(self) -> int:
        return int(self.network.config.in_channels) // self._patch() ** 2

    def _given_channels(self, config: Any) -> int:
        return self._patch() ** 2 * int(config.z_dim)

    def most_cells(self) -> int:
        """As far as the table of positions reaches, each way from the middle, with a whole text behind it."""
        table = len(self.network.pos_embed.pos_freqs)
        return 2 * (table - 2 * TEXT_TOKENS) * self._patch()

    def _sigmas(self, steps: int) -> list[float]:
        """From 1 to 1 / steps, evenly, as the pipeline has it."""
        return [1 - i / steps for i in range(steps)]

    def rescaled(self, guided: Tensor, conditional: Tensor) -> Tensor:
        patch = self._patch()
        lengths = []
        for x in (conditional, guided):
            length = F.avg_pool2d(x.square().sum(1, keepdim=True), patch, divisor_override=1).sqrt()
            lengths.append(length.repeat_interleave(patch, -1).repeat_interleave(patch, -2))
        return guided * (lengths[0] / lengths[1])

    # Text

    def encode_texts(self, prompts: Sequence[str]) -> list[Text]:
        embeds, mask = self.pipe.encode_prompt(list(prompts), self.device, max_sequence_length=TEXT_TOKENS)
        if mask is None:
            return split(embeds)
        return split([one[:length] for one, length in zip(embeds, mask.sum(1).tolist(), strict=True)])

    # Network

    def _hooks(self, composer: Composer) -> AbstractContextManager[None]:
        layout = self._layout
        return composed(
            self.network,
            composer,
            lambda name, composer: ComposedQwen(name, composer, layout),
            lambda name: name.endswith(".attn"),
            (QwenDoubleStreamAttnProcessor2_0,),
        )

    def call(self, call: Call, composer: Composer) -> Tensor:
        words, mask = call.words(composer)
        if self._hooked:  # a network that is told makes a tensor of a number, at every call
            self._layout.read, mask = mask, None
        patch = self._patch()
        packed = F.pixel_unshuffle(call.latents.to(words.dtype), patch)
        height, width = packed.shape[-2:]
        output = self.runner(
            hidden_states=packed.flatten(2).transpose(1, 2),
            encoder_hidden_states=words,
            encoder_hidden_states_mask=mask,
            timestep=call.t.expand(len(words)).to(words.dtype) / 1000,
            img_shapes=[[(1, height, width)]] * len(words),
            return_dict=False,
        )[0]
        return F.pixel_shuffle(output.transpose(1, 2).unflatten(2, (height, width)), patch).float()


@dataclass
class Layout:
    """read: which tokens of a call's texts are read, (B, tokens); None where all are."""

    read: Tensor | None = field(default=None, repr=False)


class ComposedQwen:
    """Joint attention of image and text with projections of their own, composed."""

    def __init__(self, layer: str, composer: Composer, layout: Layout):
        self._layer = layer
        self._composer = composer
        self._layout = layout

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        encoder_hidden_states_mask: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """image_rotary_emb: of the image's and of the text's tokens, (n, d / 2), complex."""
        own = self._composer.own
        words = encoder_hidden_states.shape[1] - own
        image_places, text_places = image_rotary_emb or (None, None)
        if text_places is not None:  # the captions lie where the prompt lies
            text_places = torch.cat((text_places[:words], text_places[:own]))

        def of(x: Tensor, parts: Sequence[Any], norms: Sequence[Any], places: Tensor | None) -> list[Tensor]:
            query, key, value = (part(x).unflatten(-1, (attn.heads, -1)) for part in parts)
            both = [y if norm is None else norm(y) for y, norm in zip((query, key), norms, strict=True)]
            if places is not None:
                both = [turned(y, places[None]) for y in both]
            return [y.transpose(1, 2) for y in (*both, value)]

        image = of(hidden_states, (attn.to_q, attn.to_k, attn.to_v), (attn.norm_q, attn.norm_k), image_places)
        text = of(
            encoder_hidden_states,
            (attn.add_q_proj, attn.add_k_proj, attn.add_v_proj),
            (attn.norm_added_q, attn.norm_added_k),
            text_places,
        )

        def stream(part: slice) -> Stream:
            mask = None if self._layout.read is None else self._layout.read[:, part]
            query, key, value = (x[:, :, part] for x in text)
            return Stream(query, key, value, mask)

        out, text_out = compose_joint(
            self._composer,
            self._layer,
            Stream(*image),
            stream(slice(words)),
            stream(slice(words, None)) if own else None,
        )
        out = attn.to_out[0](out.contiguous())
        out = attn.to_out[1](out) if len(attn.to_out) > 1 else out
        return out, attn.to_add_out(text_out.contiguous())
