"""A real-size SDXL runs 1024 -> 2048 for two steps on a CPU: shapes and memory, not pictures.

    python -m benchmarks.real_size_sdxl

The networks have the configuration of SDXL base 1.0 and random weights in bfloat16. Prints every step, the time of each and the
peak memory of the process; exits with 1 above 20 GB. Takes about half an hour on two cores with all priors.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

import cupscale
from benchmarks import watching

UNET: dict[str, Any] = {
    "sample_size": 128,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (320, 640, 1280),
    "layers_per_block": 2,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
VAE: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "latent_channels": 4,
    "sample_size": 1024,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "scaling_factor": 0.13025,
    "force_upcast": True,
}
TEXT: dict[str, Any] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "projection_dim": 768,
}
TEXT_2: dict[str, Any] = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "projection_dim": 1280,
    "hidden_act": "gelu",
}


def build(tokenizer: CLIPTokenizer) -> StableDiffusionXLPipeline:
    """SDXL base 1.0 in shape, with random weights. The tokenizer is the bundled model's: words do not matter here."""
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    marks = {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": tokenizer.bos_token_id}
    pipe = StableDiffusionXLPipeline(
        vae=AutoencoderKL(**VAE),
        text_encoder=CLIPTextModel(CLIPTextConfig(**TEXT, **marks)),
        text_encoder_2=CLIPTextModelWithProjection(CLIPTextConfig(**TEXT_2, **marks)),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=UNet2DConditionModel(**UNET),
        scheduler=EulerDiscreteScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            timestep_spacing="leading",
            steps_offset=1,
        ),
    )
    torch.set_default_dtype(torch.float32)
    return pipe


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--overlap", type=float, default=0.5)
    parser.add_argument("--guidance", type=float, default=1.0)
    arguments = parser.parse_args()
    pipe = build(cupscale.load("tiny").tokenizer)
    return watching.run(
        pipe,
        pipe.unet,
        (1024, 1024),
        scale=2,
        strength=0.04,
        steps=50,
        guidance=arguments.guidance,
        overlap=arguments.overlap,
        captions=[{"box": (0, 0, 1024, 1024), "caption": "leaves"}],
    )


if __name__ == "__main__":
    sys.exit(main())
