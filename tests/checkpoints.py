"""Small random checkpoints of the real classes, saved the real way."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLFlux2,
    AutoencoderKLQwenImage,
    ControlNetModel,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
    PixArtAlphaPipeline,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    PNDMScheduler,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    ZImageControlNetModel,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3Model,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from benchmarks.letters import qwen_tokenizer, t5_tokenizer

# Windows of all of these are 16 cells = 64 px.


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
        "vocab_size": len(tokenizer),
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "projection_dim": 16,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    return CLIPTextConfig(**values | overrides)


def small_t5(tokenizer: T5Tokenizer) -> T5EncoderModel:
    return T5EncoderModel(
        T5Config(vocab_size=len(tokenizer), d_model=32, d_kv=8, d_ff=32, num_layers=2, num_heads=2)
    )


def small_vae(channels: int = 4, **overrides: Any) -> AutoencoderKL:
    """4 px to a cell."""
    return AutoencoderKL(
        **overrides,
        block_out_channels=(8, 16, 16),
        layers_per_block=1,
        latent_channels=channels,
        norm_num_groups=4,
        sample_size=64,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        scaling_factor=0.5,
    )


def make_sdxl(folder: Path, **unet: Any) -> Path:
    """SDXL: windows of 16 cells = 64 px. `unet` overrides parts of its configuration."""
    torch.manual_seed(0)
    tokenizer = clip_tokenizer(folder / "words")
    config: dict[str, Any] = {
        "sample_size": 16,
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": (16, 32),
        "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": 1,
        "attention_head_dim": (2, 4),
        "cross_attention_dim": 32,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 64,
        "norm_num_groups": 4,
    }
    pipe = StableDiffusionXLPipeline(
        vae=small_vae(),
        text_encoder=CLIPTextModel(clip_config(tokenizer)),
        text_encoder_2=CLIPTextModelWithProjection(clip_config(tokenizer, hidden_act="gelu")),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=UNet2DConditionModel(**config | unet),
        scheduler=EulerDiscreteScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1
        ),
    )
    pipe.save_pretrained(folder, safe_serialization=True)
    return folder


def make_sd15(folder: Path, **unet: Any) -> Path:
    """Stable Diffusion 1.5, with the scheduler its checkpoint has."""
    torch.manual_seed(1)
    tokenizer = clip_tokenizer(folder / "words")
    config: dict[str, Any] = {
        "sample_size": 16,
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": (16, 32),
        "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "attention_head_dim": 2,
        "cross_attention_dim": 16,
        "norm_num_groups": 4,
    }
    pipe = StableDiffusionPipeline(
        vae=small_vae(),
        text_encoder=CLIPTextModel(clip_config(tokenizer)),
        tokenizer=tokenizer,
        unet=UNet2DConditionModel(**config | unet),
        scheduler=PNDMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            skip_prk_steps=True,
            steps_offset=1,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.save_pretrained(folder, safe_serialization=True)
    return folder


def make_pixart(folder: Path, sigma: bool = False, **transformer: Any) -> Path:
    """PixArt-alpha or -Sigma, with a learned variance."""
    torch.manual_seed(2)
    tokenizer = t5_tokenizer()
    config: dict[str, Any] = {
        "sample_size": 16,
        "in_channels": 4,
        "out_channels": 8,
        "patch_size": 2,
        "num_layers": 2,
        "num_attention_heads": 2,
        "attention_head_dim": 8,
        "cross_attention_dim": 16,
        "caption_channels": 32,
        "use_additional_conditions": False,
    }
    kind = PixArtSigmaPipeline if sigma else PixArtAlphaPipeline
    pipe = kind(
        vae=small_vae(),
        text_encoder=small_t5(tokenizer),
        tokenizer=tokenizer,
        transformer=_stirred(PixArtTransformer2DModel(**config | transformer)),
        scheduler=DPMSolverMultistepScheduler(),
    )
    pipe.save_pretrained(folder, safe_serialization=True)
    return folder


def make_sd3(
    folder: Path, t5: bool = True, scheduler: dict[str, Any] | None = None, **transformer: Any
) -> Path:
    """Stable Diffusion 3, with or without its T5."""
    torch.manual_seed(3)
    words, tokenizer = clip_tokenizer(folder / "words"), t5_tokenizer()
    config: dict[str, Any] = {
        "sample_size": 16,
        "in_channels": 4,
        "out_channels": 4,
        "patch_size": 2,
        "num_layers": 3,
        "num_attention_heads": 2,
        "attention_head_dim": 8,
        "joint_attention_dim": 32,
        "caption_projection_dim": 16,
        "pooled_projection_dim": 32,
        "pos_embed_max_size": 24,
        "qk_norm": "rms_norm",
    }
    pipe = StableDiffusion3Pipeline(
        vae=small_vae(shift_factor=0.1),
        text_encoder=CLIPTextModelWithProjection(clip_config(words, hidden_act="quick_gelu")),
        tokenizer=words,
        text_encoder_2=CLIPTextModelWithProjection(clip_config(words, hidden_act="gelu")),
        tokenizer_2=words,
        text_encoder_3=small_t5(tokenizer) if t5 else None,
        tokenizer_3=tokenizer if t5 else None,
        transformer=_stirred(SD3Transformer2DModel(**config | transformer)),
        scheduler=FlowMatchEulerDiscreteScheduler(**{"shift": 3.0} | (scheduler or {})),
    )
    pipe.save_pretrained(folder, safe_serialization=True)
    return folder


def make_zimage(folder: Path, **transformer: Any) -> Path:
    """Z-Image."""
    torch.manual_seed(4)
    tokenizer = qwen_tokenizer()
    config: dict[str, Any] = {
        "in_channels": 4,
        "dim": 32,
        "n_layers": 2,
        "n_refiner_layers": 1,
        "n_heads": 2,
        "n_kv_heads": 2,
        "cap_feat_dim": 16,
        "axes_dims": [4, 6, 6],
        "axes_lens": [1024, 8, 8],
    }
    text = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        pad_token_id=0,
        bos_token_id=0,
        eos_token_id=0,
    )
    pipe = ZImagePipeline(
        vae=small_vae(shift_factor=0.1),
        text_encoder=Qwen3Model(text),
        tokenizer=tokenizer,
        transformer=_stirred(ZImageTransformer2DModel(**config | transformer)),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )
    pipe.save_pretrained(folder, safe_serialization=True)
    return folder


def make_flux2(folder: Path, distilled: bool = False, vae_channels: int = 1) -> Path:
    """FLUX.2 klein. Its text encoder is read at layers 9, 18 and 27; every text is filled up to 96 tokens."""
    torch.manual_seed(5)
    tokenizer = qwen_tokenizer()
    tokenizer.model_max_length = 96
    config: dict[str, Any] = {
        "in_channels": 4 * vae_channels,
        "num_layers": 1,
        "num_single_layers": 1,
        "attention_head_dim": 8,
        "num_attention_heads": 2,
        "joint_attention_dim": 24,
        "timestep_guidance_channels": 16,
        "axes_dims_rope": (2, 2, 2, 2),
        "guidance_embeds": False,
    }
    transformer = _stirred(Flux2Transformer2DModel(**config))
    transformer.register_to_config(sample_size=16)
    vae = AutoencoderKLFlux2(
        block_out_channels=(8, 16),
        layers_per_block=1,
        latent_channels=vae_channels,
        norm_num_groups=4,
        sample_size=64,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
    )
    torch.nn.init.normal_(vae.bn.running_mean)
    torch.nn.init.uniform_(vae.bn.running_var, 0.5, 2.0)
    text = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=27,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=8,
        pad_token_id=0,
        bos_token_id=0,
        eos_token_id=0,
    )
    pipe = Flux2KleinPipeline(
        vae=vae,
        text_encoder=Qwen3ForCausalLM(text),
        tokenizer=tokenizer,
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        is_distilled=distilled,
    )
    pipe.save_pretrained(folder, safe_serialization=True)
    return folder


def make_qwen_image(folder: Path) -> Path:
    """Qwen-Image."""
    torch.manual_seed(6)
    tokenizer = qwen_tokenizer()
    transformer = _stirred(
        QwenImageTransformer2DModel(
            in_channels=16,
            out_channels=4,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=16,
            axes_dims_rope=(2, 2, 4),
        )
    )
    transformer.register_to_config(sample_size=16)
    vae = AutoencoderKLQwenImage(
        base_dim=8,
        z_dim=4,
        dim_mult=[1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True],
        latents_mean=[-0.5, 0.25, 0.1, 0.0],
        latents_std=[0.5, 1.5, 1.0, 2.0],
    )
    text = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "pad_token_id": 0,
            "bos_token_id": 0,
            "eos_token_id": 0,
            "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]},
        },
        vision_config={
            "depth": 1,
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_heads": 2,
            "out_hidden_size": 16,
            "fullatt_block_indexes": [0],
        },
    )
    pipe = QwenImagePipeline(
        vae=vae,
        text_encoder=Qwen2_5_VLForConditionalGeneration(text),
        tokenizer=tokenizer,
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=True,
            base_shift=0.5,
            max_shift=0.9,
            max_image_seq_len=8192,
            shift_terminal=0.02,
        ),
    )
    pipe.save_pretrained(folder, safe_serialization=True)
    return folder


FAMILIES: dict[str, Callable[[Path], Path]] = {
    "sd15": make_sd15,
    "sdxl": make_sdxl,
    "pixart-alpha": make_pixart,
    "pixart-sigma": lambda folder: make_pixart(folder, sigma=True),
    "sd3": make_sd3,
    "z-image": make_zimage,
    "flux2-klein-base": make_flux2,
    "qwen-image": make_qwen_image,
}


def make_controlnet(folder: Path, model: Path) -> Path:
    """A ControlNet "tile" for the U-Net of a checkpoint, 4 px to a cell as its VAE, which adds something, as new ones do not."""
    unet = UNet2DConditionModel.from_pretrained(model / "unet")
    torch.manual_seed(2)
    shifted(ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(8, 8, 16))).save_pretrained(
        folder
    )
    return folder


def make_zimage_controlnet(folder: Path, model: Path) -> Path:
    """A ControlNet for the transformer of a checkpoint of Z-Image."""
    config = ZImageTransformer2DModel.load_config(model / "transformer")
    torch.manual_seed(2)
    network = ZImageControlNetModel(
        control_layers_places=[0, 1],
        control_refiner_layers_places=[0],
        control_in_dim=7,  # more than the latents' 4, as the second version has it
        add_control_noise_refiner="control_noise_refiner",
        **{key: config[key] for key in ("dim", "n_refiner_layers", "n_heads", "n_kv_heads")},
    )
    shifted(network).save_pretrained(folder)
    return folder


def shifted(network: Any) -> Any:
    """A network with noise on all of its parameters."""
    drawn = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=drawn))
    return network


def _stirred(network: Any) -> Any:
    """Layers that start at nothing (gates, modulations, padding) with something in them, so that the text is seen."""
    for parameter in network.parameters():
        if parameter.abs().max() == 0:
            torch.nn.init.normal_(parameter, std=0.2)
    return network
