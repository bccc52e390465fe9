"""PixArt-Sigma, Z-Image, FLUX.2 klein and Qwen-Image in their real sizes, with random weights: for `benchmarks.gpu --random`.

Networks, autoencoders and text encoders have the configurations of the released checkpoints (those of the papers and of
diffusers' and transformers' classes), in full depth, so that memory and time are real; the pictures are noise.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLFlux2,
    AutoencoderKLQwenImage,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3Model,
    T5Config,
    T5EncoderModel,
)

from benchmarks import real_size_sdxl
from benchmarks.letters import qwen_tokenizer, t5_tokenizer

T5_XXL: dict[str, Any] = {
    "vocab_size": 32128,
    "d_model": 4096,
    "d_kv": 64,
    "d_ff": 10240,
    "num_layers": 24,
    "num_heads": 64,
    "feed_forward_proj": "gated-gelu",
}
QWEN3_4B: dict[str, Any] = {
    "vocab_size": 151936,
    "hidden_size": 2560,
    "intermediate_size": 9728,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "tie_word_embeddings": True,
}
QWEN25_VL_7B: dict[str, Any] = {
    "text_config": {
        "vocab_size": 152064,
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
    },
    "vision_config": {
        "depth": 32,
        "hidden_size": 1280,
        "intermediate_size": 3420,
        "num_heads": 16,
        "out_hidden_size": 3584,
    },
}
KLEIN_4B: dict[str, Any] = {
    "num_layers": 5,
    "num_single_layers": 20,
    "num_attention_heads": 24,
    "joint_attention_dim": 7680,
    "guidance_embeds": False,
}
PIXART: dict[str, Any] = {
    "caption_channels": 4096,
    "use_additional_conditions": False,
    "interpolation_scale": 2,
}
# Z-Image's transformer and Qwen-Image's whole are the defaults of their classes.
FLUX_VAE: dict[str, Any] = real_size_sdxl.VAE | {
    "latent_channels": 16,
    "scaling_factor": 0.3611,
    "shift_factor": 0.1159,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}


@contextlib.contextmanager
def _precision(dtype: torch.dtype) -> Iterator[None]:
    """Weights are drawn in it: float32 would take twice the main memory."""
    before = torch.get_default_dtype()
    torch.manual_seed(0)
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def pixart_sigma(dtype: torch.dtype) -> PixArtSigmaPipeline:
    """0.6 B parameters, and T5-XXL."""
    with torch.device("cpu"):  # its tables are copied as they are made, which a meta device has not
        scheduler = DPMSolverMultistepScheduler()
    with _precision(dtype):
        return PixArtSigmaPipeline(
            vae=AutoencoderKL(**real_size_sdxl.VAE),
            text_encoder=T5EncoderModel(T5Config(**T5_XXL)),
            tokenizer=t5_tokenizer(),
            transformer=PixArtTransformer2DModel(**PIXART),
            scheduler=scheduler,
        )


def z_image(dtype: torch.dtype) -> ZImagePipeline:
    """6 B parameters, and Qwen3-4B."""
    with _precision(dtype):
        return ZImagePipeline(
            vae=AutoencoderKL(**FLUX_VAE),
            text_encoder=Qwen3Model(Qwen3Config(**QWEN3_4B)),
            tokenizer=qwen_tokenizer(),
            transformer=ZImageTransformer2DModel(),
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        )


def flux2_klein(dtype: torch.dtype) -> Flux2KleinPipeline:
    """4 B parameters, and Qwen3-4B."""
    with _precision(dtype):
        return Flux2KleinPipeline(
            vae=AutoencoderKLFlux2(),
            text_encoder=Qwen3ForCausalLM(Qwen3Config(**QWEN3_4B)),
            tokenizer=qwen_tokenizer(),
            transformer=Flux2Transformer2DModel(**KLEIN_4B),
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
            is_distilled=True,
        )


def qwen_image(dtype: torch.dtype) -> QwenImagePipeline:
    """20 B parameters, and Qwen2.5-VL-7B."""
    with _precision(dtype):
        return QwenImagePipeline(
            vae=AutoencoderKLQwenImage(),
            text_encoder=Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(**QWEN25_VL_7B)),
            tokenizer=qwen_tokenizer(),
            transformer=QwenImageTransformer2DModel(),
            scheduler=FlowMatchEulerDiscreteScheduler(
                use_dynamic_shifting=True,
                base_shift=0.5,
                max_shift=0.9,
                max_image_seq_len=8192,
                shift_terminal=0.02,
            ),
        )
