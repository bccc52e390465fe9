"""What a card of 8 to 24 GB holds: the way of offloading that `--offload auto` takes, worked out without a card.

    python -m benchmarks.cards
    python -m benchmarks.cards --parameters    the networks' sizes beside their makers' figures

Networks of real size stand on torch's meta device, in half precision. A card's free memory is its size less 1 GiB, ours, for
CUDA itself and the screen. What a run takes beside the weights is counted as `auto` counts it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLFlux2,
    AutoencoderKLQwenImage,
    Flux2Transformer2DModel,
    PixArtTransformer2DModel,
    QwenImageTransformer2DModel,
    SD3Transformer2DModel,
    UNet2DConditionModel,
    ZImageTransformer2DModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3Config,
    Qwen3Model,
    T5Config,
    T5EncoderModel,
)

from benchmarks.memory import UNET_SD15
from benchmarks.real_size_families import KLEIN_4B, QWEN3_4B, QWEN25_VL_7B, T5_XXL
from benchmarks.real_size_sdxl import TEXT, TEXT_2, UNET, VAE
from benchmarks.real_size_transformer import TRANSFORMER, VAE as VAE_16
from cupscale import models, offload
from cupscale.planning import Geometry

CARDS_GB = (8, 12, 16, 24)
SIDES_PX = (2048, 4096, 8192)
SYSTEM_BYTES = 2**30


def clip_l() -> Any:
    return CLIPTextModelWithProjection(CLIPTextConfig(**TEXT))


def clip_g() -> Any:
    return CLIPTextModelWithProjection(CLIPTextConfig(**TEXT_2))


def t5() -> Any:
    """T5 XXL."""
    return T5EncoderModel(T5Config(**T5_XXL))


def qwen() -> Any:
    """Qwen3 4B."""
    return Qwen3Model(Qwen3Config(**QWEN3_4B))


def qwen_vl() -> Any:
    """Qwen2.5-VL 7B."""
    return Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(**QWEN25_VL_7B))


def klein() -> Any:
    """FLUX.2 klein 4B."""
    return Flux2Transformer2DModel(**KLEIN_4B)


def sd35(layers: int, **more: Any) -> Any:
    """SD3.5: medium has 24 layers, large 38."""
    config: dict[str, Any] = TRANSFORMER | {
        "num_layers": layers,
        "num_attention_heads": layers,
        "caption_projection_dim": 64 * layers,
        "qk_norm": "rms_norm",
    }
    return SD3Transformer2DModel(**config | more)


def small_vae() -> Any:
    return AutoencoderKL(**VAE)


def vae_of_16() -> Any:
    return AutoencoderKL(**VAE_16)


# A name of `cupscale models` -> its parts that have weights. Networks without arguments have the published model's size.
PARTS: dict[str, tuple[Callable[[], Any], ...]] = {
    "sd15": (
        small_vae,
        lambda: CLIPTextModel(CLIPTextConfig(**TEXT)),
        lambda: UNet2DConditionModel(**UNET_SD15),
    ),
    "sdxl": (small_vae, clip_l, clip_g, lambda: UNet2DConditionModel(**UNET)),
    "pixart-sigma": (small_vae, t5, lambda: PixArtTransformer2DModel(caption_channels=4096, sample_size=128)),
    "sd3": (vae_of_16, clip_l, clip_g, t5, lambda: SD3Transformer2DModel(**TRANSFORMER)),
    "sd35-medium": (
        vae_of_16,
        clip_l,
        clip_g,
        t5,
        lambda: sd35(24, dual_attention_layers=tuple(range(13)), pos_embed_max_size=384),
    ),
    "sd35-large": (vae_of_16, clip_l, clip_g, t5, lambda: sd35(38)),
    "z-image": (vae_of_16, qwen, ZImageTransformer2DModel),
    "flux2-klein-base": (AutoencoderKLFlux2, qwen, klein),
    "qwen-image": (AutoencoderKLQwenImage, qwen_vl, QwenImageTransformer2DModel),
}


# The denoising network's size as its makers give it, in billions, and where that was read.
PUBLIC = {
    "sd15": (0.86, "SDXL's paper, table 1 (arXiv 2307.01952)"),
    "sdxl": (2.6, "the same"),
    "pixart-sigma": (0.6, "PixArt-alpha's paper (arXiv 2310.00426)"),
    "sd3": (2.0, "SD3's announcement, medium; to one digit"),
    "sd35-medium": (2.5, "its announcement; its file has 4.76 GiB, 168 MB of them the VAE"),
    "sd35-large": (8.1, "its announcement"),
    "z-image": (6.0, "its repository; to one digit"),
    "flux2-klein-base": (3.875, "its file of 7.75 GB in bfloat16; '4B' by its name"),
    "qwen-image": (20.0, "its paper (arXiv 2508.02324); to two digits"),
}


def sizes(name: str) -> tuple[int, int]:
    """Numbers in the denoising network, without and with its tables, on the meta device."""
    with torch.device("meta"):
        network = PARTS[name][-1]()
    parameters = sum(p.numel() for p in network.parameters())
    return parameters, parameters + sum(b.numel() for b in network.buffers())


def pipeline(name: str) -> Any:
    """As much of a pipeline as `cupscale.offload` looks at."""
    with torch.device("meta"):
        parts = [make().to(torch.float16) for make in PARTS[name]]
    return SimpleNamespace(components={str(number): part for number, part in enumerate(parts)})


def cell(pipe: Any, geometry: Geometry, side_px: int, free: int) -> str:
    """The fastest way that fits, with what it needs; "-" where none does."""
    work = models.work_bytes(geometry, side_px)
    needed = {way: offload.weights_there(pipe, way) + work for way in offload.WAYS}
    return next((f"{way}, {size / 1e9:.1f} GB" for way, size in needed.items() if size <= free), "-")


def parameters() -> None:
    print("| model | parameters | with tables | its makers | apart | whose figure |")
    print("|---|---|---|---|---|---|")
    for name, (billions, where) in PUBLIC.items():
        own, whole = sizes(name)
        apart = f"{whole / (billions * 1e9) - 1:+.1%}"
        print(f"| {name} | {own:,} | {whole:,} | {billions:g} billion | {apart} | {where} |", flush=True)


def main() -> None:
    if "--parameters" in sys.argv[1:]:
        parameters()
        return
    print(f"| model | weights | result | {' | '.join(f'{card} GB' for card in CARDS_GB)} |")
    print(f"|---|---|---|{'---|' * len(CARDS_GB)}")
    for name in PARTS:
        pipe, geometry = pipeline(name), models.KNOWN[name].geometry
        size = offload.weights_there(pipe, "none") / 1e9
        for side_px in SIDES_PX:
            cells = [cell(pipe, geometry, side_px, card * 10**9 - SYSTEM_BYTES) for card in CARDS_GB]
            print(f"| {name} | {size:.1f} GB | {side_px} px | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
