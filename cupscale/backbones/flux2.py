"""FLUX.2 klein (Black Forest Labs, 2026), a flow-matching transformer.

In its first blocks image and text are apart; in the others both stand in one sequence.

Its autoencoder gives 32 channels for 8 x 8 pixels. Four neighbours make one token, and each of the 128 numbers of a token has a
mean and a variance of its own. A cell is therefore a token here, 16 x 16 pixels with 128 channels: a window may begin at
any cell, and what lies in its channels stays what it was. The structure prior lays the four places side by side again.

Rotary positions have four axes. Image tokens count rows and columns from the window's own corner, text tokens on the last axis,
so that a region's caption has the positions that the prompt has, and each of the two reads the image and itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLFlux2
from diffusers.models.embeddings import apply_rotary_emb
from diffusers.models.transformers.transformer_flux2 import (
    Flux2AttnProcessor,
    Flux2KVAttnProcessor,
    Flux2KVParallelSelfAttnProcessor,
    Flux2ParallelSelfAttnProcessor,
)
from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu
from torch import Tensor

from cupscale.backbones.attention import composed
from cupscale.backbones.base import DiffusersBackbone
from cupscale.backbones.denoiser import Call, Text, split
from cupscale.errors import CupscaleError
from cupscale.method.composer import Composer
from cupscale.method.joint import Stream, compose_joint

TEXT_TOKENS = 512
PLACES = 2  # of the VAE's own cells to a token, a side
# Without a kept reference picture, which no run has, the last two compute what the first two do.
USUAL = (
    Flux2AttnProcessor,
    Flux2ParallelSelfAttnProcessor,
    Flux2KVAttnProcessor,
    Flux2KVParallelSelfAttnProcessor,
)


class Flux2Backbone(DiffusersBackbone):
    """`Flux2KleinPipeline`."""

    PARTS: ClassVar = {
        "vae": "AutoencoderKLFlux2",
        "transformer": "Flux2Transformer2DModel",
        "scheduler": "FlowMatchEulerDiscreteScheduler",
        "text_encoder": "Qwen3ForCausalLM",
        "tokenizer": "Qwen2TokenizerFast",
    }

    def __init__(self, pipe: Any):
        super().__init__(pipe)
        self._layout = Layout()

    def _check_network(self) -> None:
        if not isinstance(self.pipe.vae, AutoencoderKLFlux2):
            raise CupscaleError(
                f"FLUX.2 takes the statistics of its latents from its own autoencoder, and {type(self.pipe.vae).__name__} has "
                "none: load its AutoencoderKLFlux2 again"
            )
        super()._check_network()

    def _cell_px(self) -> int:
        return PLACES * super()._cell_px()

    def _given_channels(self, config: Any) -> int:
        return PLACES**2 * int(config.latent_channels)

    def _patch(self) -> int:
        return 1

    def _sigmas(self, steps: int) -> list[float]:
        """From 1 to 1 / steps, evenly, as the pipeline has it."""
        return [1 - i / steps for i in range(steps)]

    def _dynamic_shift(self, tokens: int, steps: int) -> float:
        return float(compute_empirical_mu(tokens, steps))

    # Codec

    def _of_network(self, vae: Any, z: Tensor) -> Tensor:
        mean, std = _statistics(vae, z)
        return (F.pixel_unshuffle(z, PLACES) - mean) / std

    def _of_vae(self, vae: Any, latents: Tensor) -> Tensor:
        mean, std = _statistics(vae, latents)
        return F.pixel_shuffle(latents * std + mean, PLACES)

    # Text

    def encode_texts(self, prompts: Sequence[str]) -> list[Text]:
        most = min(TEXT_TOKENS, int(self._tokenizer.model_max_length))
        embeds, _ = self.pipe.encode_prompt(list(prompts), self.device, max_sequence_length=most)
        return split(embeds)

    # Network

    def _hooks(self, composer: Composer) -> AbstractContextManager[None]:
        network, layout = self.network, self._layout
        double = {f"transformer_blocks.{k}.attn" for k in range(len(network.transformer_blocks))}
        single = {
            f"single_transformer_blocks.{k}.attn" for k in range(len(network.single_transformer_blocks))
        }

        def make(name: str, composer: Composer) -> Any:
            return (
                ComposedDouble(name, composer) if name in double else ComposedParallel(name, composer, layout)
            )

        return composed(network, composer, make, (double | single).__contains__, USUAL)

    def call(self, call: Call, composer: Composer) -> Tensor:
        words, _ = call.words(composer)
        height, width = call.latents.shape[-2:]
        self._layout.texts = words.shape[1]
        prompt = words.shape[1] - composer.own
        output = self.runner(
            hidden_states=call.latents.to(words.dtype).flatten(2).transpose(1, 2),
            encoder_hidden_states=words,
            timestep=call.t.expand(len(words)).to(words.dtype) / 1000,
            img_ids=_of_image(height, width, words.device),
            txt_ids=torch.cat([_of_text(length, words.device) for length in (prompt, composer.own)]),
            return_dict=False,
        )[0]
        return output.transpose(1, 2).unflatten(2, (height, width)).float()


def _statistics(vae: Any, like: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each number of a token, (1, 4 C, 1, 1)."""
    mean, variance = (x.view(1, -1, 1, 1).to(like) for x in (vae.bn.running_mean, vae.bn.running_var))
    return mean, (variance + vae.config.batch_norm_eps).sqrt()


def _of_image(height: int, width: int, device: torch.device) -> Tensor:
    """(tokens, 4): rows and columns on the second and third axis."""
    ids = torch.zeros(height, width, 4, device=device)
    ids[..., 1] = torch.arange(height, device=device)[:, None]
    ids[..., 2] = torch.arange(width, device=device)
    return ids.flatten(0, 1)


def _of_text(length: int, device: torch.device) -> Tensor:
    """(tokens, 4): places on the last axis."""
    ids = torch.zeros(length, 4, device=device)
    ids[:, 3] = torch.arange(length, device=device)
    return ids


@dataclass
class Layout:
    """texts: how many tokens of a call's sequence are the texts'; the image's follow them."""

    texts: int = 0


class ComposedDouble:
    """Joint attention of image and text with projections of their own, composed."""

    def __init__(self, layer: str, composer: Composer):
        self._layer = layer
        self._composer = composer

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        query, key, value = (_heads(attn, f(hidden_states)) for f in (attn.to_q, attn.to_k, attn.to_v))
        projections = (attn.add_q_proj, attn.add_k_proj, attn.add_v_proj)
        text_query, text_key, text_value = (_heads(attn, f(encoder_hidden_states)) for f in projections)
        query = torch.cat((attn.norm_added_q(text_query), attn.norm_q(query)), dim=1)
        key = torch.cat((attn.norm_added_k(text_key), attn.norm_k(key)), dim=1)
        value = torch.cat((text_value, value), dim=1)
        image, text = _composed(
            self._composer,
            self._layer,
            (query, key, value),
            image_rotary_emb,
            encoder_hidden_states.shape[1],
        )
        return attn.to_out[1](attn.to_out[0](image)), attn.to_add_out(text)


class ComposedParallel:
    """Joint attention of one sequence beside its feed-forward, with which it shares its projections, composed."""

    def __init__(self, layer: str, composer: Composer, layout: Layout):
        self._layer = layer
        self._composer = composer
        self._layout = layout

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        sizes = [attn.inner_dim] * 3 + [attn.mlp_hidden_dim * attn.mlp_mult_factor]
        query, key, value, forward = attn.to_qkv_mlp_proj(hidden_states).split(sizes, dim=-1)
        query, key, value = (_heads(attn, x) for x in (query, key, value))
        image, text = _composed(
            self._composer,
            self._layer,
            (attn.norm_q(query), attn.norm_k(key), value),
            image_rotary_emb,
            self._layout.texts,
        )
        return attn.to_out(torch.cat((torch.cat((text, image), dim=1), attn.mlp_act_fn(forward)), dim=-1))


def _heads(attn: Any, x: Tensor) -> Tensor:
    """(B, n, C) -> (B, n, heads, d)."""
    return x.unflatten(-1, (-1, attn.head_dim))


def _composed(
    composer: Composer,
    layer: str,
    parts: tuple[Tensor, Tensor, Tensor],
    places: tuple[Tensor, Tensor] | None,
    texts: int,
) -> tuple[Tensor, Tensor]:
    """The composed outputs of one layer, for image and texts: each (B, tokens, C).

    Args:
        composer: The run's.
        layer: The layer's name.
        parts: Query, key and value of the whole sequence, texts first: each (B, n, heads, d).
        places: Cosine and sine of the rotary positions, each (n, d).
        texts: How many tokens are the texts'.
    """
    query, key, value = parts
    if places is not None:
        turn: Any = apply_rotary_emb  # whose annotation knows one of its two results
        query, key = (turn(x, places, sequence_dim=1) for x in (query, key))
    query, key, value = (x.transpose(1, 2) for x in (query, key, value))
    words = texts - composer.own

    def stream(of: slice) -> Stream:
        return Stream(query[:, :, of], key[:, :, of], value[:, :, of])

    own = stream(slice(words, texts)) if composer.own else None
    return compose_joint(composer, layer, stream(slice(texts, None)), stream(slice(words)), own)
