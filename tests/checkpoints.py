"""Small random checkpoints of the real classes, saved the real way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer


def clip_tokenizer(folder: Path) -> CLIPTokenizer:
    """A CLIP tokenizer of single letters: every text is read, none is known."""
    folder.mkdir(parents=True, exist_ok=True)
    letters = [chr(c) for c in range(33, 127)]
    words = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: k for k, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=77)


def clip_config(tokenizer: CLIPTokenizer, **overrides: Any) -> CLIPTextConfig:
    values: dict[str, Any] = {
        "vocab_size": len(tokenizer), "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 2, "projection_dim": 16, "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }  # fmt: skip
    return CLIPTextConfig(**values | overrides)


def small_vae(channels: int = 4) -> AutoencoderKL:
    """4 px to a cell."""
    return AutoencoderKL(
        block_out_channels=(8, 16, 16), layers_per_block=1, latent_channels=channels, norm_num_groups=4, sample_size=64,
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3, scaling_factor=0.5,
    )  # fmt: skip


def make_sdxl(folder: Path, **unet: Any) -> Path:
    """SDXL: windows of 16 cells = 64 px. `unet` overrides parts of its configuration."""
    torch.manual_seed(0)
    tokenizer = clip_tokenizer(folder / "words")
    config: dict[str, Any] = {
        "sample_size": 16, "in_channels": 4, "out_channels": 4, "block_out_channels": (16, 32), "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": 1, "attention_head_dim": (2, 4), "cross_attention_dim": 32,
        "use_linear_projection": True, "addition_embed_type": "text_time", "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 64, "norm_num_groups": 4,
    }  # fmt: skip
    pipe = StableDiffusionXLPipeline(
        vae=small_vae(),
        text_encoder=CLIPTextModel(clip_config(tokenizer)),
        text_encoder_2=CLIPTextModelWithProjection(clip_config(tokenizer, hidden_act="gelu")),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=UNet2DConditionModel(**config | unet),
        scheduler=EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1),
    )
    pipe.save_pretrained(folder, safe_serialization=True)
    return folder
