"""A real-size Stable Diffusion 3 medium runs one step under all priors on a CPU: shapes and memory, not pictures.

    python -m benchmarks.real_size_transformer

Transformer and autoencoder have the configuration of SD3 medium (2.0 B parameters) and random weights in bfloat16; the text
encoders have its widths and a layer or two each, since their depth changes nothing here. An image of 1024 x 640 becomes
1536 x 960: two regions with a caption each, and the pass over the whole picture. Prints every event, its time and the peak memory
of the process; exits with 1 above 20 GB.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
)

import cupscale
from benchmarks import watching
from benchmarks.letters import t5_tokenizer

TRANSFORMER: dict[str, Any] = {
    "sample_size": 128,
    "patch_size": 2,
    "in_channels": 16,
    "out_channels": 16,
    "num_layers": 24,
    "attention_head_dim": 64,
    "num_attention_heads": 24,
    "joint_attention_dim": 4096,
    "caption_projection_dim": 1536,
    "pooled_projection_dim": 2048,
    "pos_embed_max_size": 192,
}
VAE: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "latent_channels": 16,
    "sample_size": 1024,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "scaling_factor": 1.5305,
    "shift_factor": 0.0609,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}


def clip(tokenizer: CLIPTokenizer, width: int) -> CLIPTextModelWithProjection:
    return CLIPTextModelWithProjection(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            projection_dim=width,
            intermediate_size=4 * width,
            num_hidden_layers=2,
            num_attention_heads=width // 64,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )


def build() -> StableDiffusion3Pipeline:
    """SD3 medium in shape, with random weights. The words do not matter here: the bundled model's, and single letters."""
    torch.manual_seed(0)
    words: CLIPTokenizer = cupscale.load("tiny").tokenizer
    t5 = t5_tokenizer()
    torch.set_default_dtype(torch.bfloat16)
    pipe = StableDiffusion3Pipeline(
        vae=AutoencoderKL(**VAE),
        text_encoder=clip(words, 768),
        tokenizer=words,
        text_encoder_2=clip(words, 1280),
        tokenizer_2=words,
        text_encoder_3=T5EncoderModel(T5Config(vocab_size=len(t5), d_model=4096, num_layers=1, num_heads=64)),
        tokenizer_3=t5,
        transformer=SD3Transformer2DModel(**TRANSFORMER),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )
    torch.set_default_dtype(torch.float32)
    return pipe


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--guidance", type=float, default=1.0)
    arguments = parser.parse_args()
    pipe = build()
    return watching.run(
        pipe,
        pipe.transformer,
        (1024, 640),
        scale=1.5,
        strength=1 / 28,
        steps=28,
        guidance=arguments.guidance,
        overlap=0.5,
        detail=0.5,
        captions=[
            {"box": (0, 0, 1024, 960), "caption": "leaves"},
            {"box": (512, 0, 1536, 960), "caption": "a deer"},
        ],
    )


if __name__ == "__main__":
    sys.exit(main())
