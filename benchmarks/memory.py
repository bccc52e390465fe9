"""Memory of real-size networks on an accelerator, worked out without one: every tensor is made on torch's meta device.

    python -m benchmarks.memory            all of them, some minutes on one core
    python -m benchmarks.memory sdxl       one

What lives at the same time is added up call by call: weights, activations, what the priors keep. Attention is counted as a
fused kernel has it, without its map. Not counted: what cuDNN takes for a convolution, gaps between blocks, CUDA itself.
"""

from __future__ import annotations

import argparse
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    UNet2DConditionModel,
)
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import cupscale
from benchmarks import real_size_sdxl, real_size_transformer
from cupscale.backbones import Backbone, Tiles, adapt
from cupscale.backbones.denoiser import Text
from cupscale.method.memory import module_bytes
from cupscale.method.regions import Region, Size
from cupscale.planning import device_bytes, make_plan

GIB = 2**30
# (way, side of the picture, side of a tile, precision). The VAEs of SD 1.5, SDXL and SD3 differ in their channels only.
VAE_RUNS = (
    ("encode", 4096, 1024, torch.float16),
    ("encode", 8192, 1024, torch.float16),
    ("decode", 4096, 1024, torch.float16),
    ("decode", 4096, 1024, torch.float32),
    ("decode", 4096, 512, torch.float16),
    ("decode", 4096, 256, torch.float16),
    ("decode", 8192, 1024, torch.float16),
    ("decode", 8192, 1024, torch.float32),
)
UNET_SD15: dict[str, Any] = {
    "sample_size": 64,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
    "attention_head_dim": 8,
    "cross_attention_dim": 768,
}


class Live(TorchDispatchMode):
    """Bytes of the tensors that live at the same time above a network's weights, and the most there were."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known = {tensor.untyped_storage()._cdata: 0 for tensor in network.state_dict().values()}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._seen(tensor.untyped_storage())
        return result

    def _seen(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._known:
            return
        self._known[key] = storage.nbytes()
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._gone, key)

    def _gone(self, key: int) -> None:
        self.now -= self._known.pop(key, 0)


def fused(query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """What a fused attention kernel allocates: its result."""
    return query.new_empty(*query.shape[:-1], value.shape[-1])


@contextmanager
def watched(network: torch.nn.Module) -> Iterator[Live]:
    usual = F.scaled_dot_product_attention
    F.scaled_dot_product_attention = fused
    try:
        with torch.no_grad(), Live(network) as live:
            yield live
    finally:
        F.scaled_dot_product_attention = usual


@dataclass(frozen=True)
class Model:
    """A model of real size whose network and VAE are on the meta device, in a checkpoint's small pipeline.

    text: widths of an encoded prompt's tokens, their number, and the width of the pooled embedding, 0 for none.
    """

    name: str
    pipe: Any
    text: tuple[int, int, int]
    step: float
    dtype: torch.dtype = torch.float16


def _meta(make: Callable[[], Any], dtype: torch.dtype) -> Any:
    with torch.device("meta"):
        return make().to(dtype).eval()


def models() -> dict[str, Callable[[], Model]]:
    return {"sd15": _sd15, "sdxl": _sdxl, "sd3": _sd3}


def tiny_as(kind: str, **parts: Any) -> Any:
    """The bundled model's pipeline, as that of another class, with other parts."""
    import diffusers

    tiny = cupscale.load("tiny", device="cpu")
    words = {"text_encoder": tiny.text_encoder, "tokenizer": tiny.tokenizer}
    if kind == "StableDiffusionPipeline":
        more = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    else:
        more = {"text_encoder_2": tiny.text_encoder_2, "tokenizer_2": tiny.tokenizer_2}
    if kind == "StableDiffusion3Pipeline":
        more |= {"text_encoder": tiny.text_encoder_2, "text_encoder_3": None, "tokenizer_3": None}
    return getattr(diffusers, kind)(**{"scheduler": tiny.scheduler} | words | more | parts)


def _sd15() -> Model:
    network = _meta(lambda: UNet2DConditionModel(**UNET_SD15), torch.float16)
    vae = _meta(lambda: AutoencoderKL(**real_size_sdxl.VAE), torch.float16)
    return Model("sd15", tiny_as("StableDiffusionPipeline", unet=network, vae=vae), (768, 77, 0), 500)


def _sdxl() -> Model:
    network = _meta(lambda: UNet2DConditionModel(**real_size_sdxl.UNET), torch.float16)
    vae = _meta(lambda: AutoencoderKL(**real_size_sdxl.VAE), torch.float16)
    pipe = tiny_as("StableDiffusionXLPipeline", unet=network, vae=vae)
    return Model("sdxl", pipe, (2048, 77, 1280), 500)


def _sd3() -> Model:
    network = _meta(lambda: SD3Transformer2DModel(**real_size_transformer.TRANSFORMER), torch.float16)
    vae = _meta(lambda: AutoencoderKL(**real_size_transformer.VAE), torch.float16)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    pipe = tiny_as("StableDiffusion3Pipeline", transformer=network, vae=vae, scheduler=scheduler)
    return Model("sd3", pipe, (4096, 333, 2048), 500.0)


def network_peak(model: Model, regions: int, canvas: Size) -> int:
    """Above the weights: one pass over the overview and one call for some regions, with all priors and guidance."""
    backbone: Any = adapt(model.pipe)
    width, tokens, pooled = model.text

    def encoded(prompts: Any) -> list[Text]:
        like: dict[str, Any] = {"device": "meta", "dtype": model.dtype}
        return [
            Text(torch.empty(1, tokens, width, **like), torch.empty(1, pooled, **like) if pooled else None)
            for _ in prompts
        ]

    backbone.encode_texts = encoded
    side = backbone.geometry.native // backbone.geometry.cell
    window = Size(side, side)
    settings = cupscale.Settings.build(prompt="a", attention=0.6, detail=0.5, guidance=7.5)
    channels = backbone.geometry.channels
    t = torch.tensor(model.step, device="meta")
    with watched(backbone.network) as live:
        with backbone.denoiser(settings, ["b"] * regions, canvas, window) as denoiser:
            denoiser.capture(torch.empty(1, channels, *window, device="meta"), t)
            latents = torch.empty(regions, channels, *window, device="meta")
            some = [Region(0, 0, *window)] * regions
            denoiser.predict(latents, t, some, range(regions))
    return live.peak


def vae_peak(model: Model, side_px: int, tile_px: int, dtype: torch.dtype, way: str) -> int:
    """Above the weights: the autoencoder's pass over a square picture, in tiles."""
    backbone: Any = adapt(model.pipe)
    vae = model.pipe.vae.to(dtype)
    vae.register_to_config(force_upcast=False)
    cells = side_px // backbone.geometry.cell
    with watched(vae) as live, backbone._vae(Tiles(tile_px)):
        if way == "decode":
            vae.decode(
                torch.empty(1, backbone.geometry.channels, cells, cells, device="meta", dtype=dtype),
                return_dict=False,
            )[0].float()
        else:
            pixels = torch.empty(1, 3, side_px, side_px, device="meta")
            vae.encode(pixels.to(dtype)).latent_dist.mode().float()
    return live.peak


def planned(backbone: Backbone, side_px: int) -> int:
    """What the plan takes above the weights, for a square result."""
    settings = cupscale.Settings.build(scale=4)
    plan = make_plan((side_px // 4, side_px // 4), settings, backbone.geometry)
    return device_bytes(plan, backbone.geometry)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="MODEL", help=", ".join(models()))
    names = parser.parse_args().names or list(models())
    print("| model | what | weights, GiB | above them, GiB |\n|---|---|---|---|", flush=True)
    for name in names:
        model = models()[name]()
        network = adapt(model.pipe).network
        for regions in (1, 4, 8):
            what = f"network, {regions} region{'s' * (regions > 1)}, guided, all priors"
            row(name, what, module_bytes(network), network_peak(model, regions, Size(512, 512)))
        for side_px in (1024, 4096, 8192):
            row(name, f"the plan, {side_px} px", 0, planned(adapt(model.pipe), side_px))
    model = _sdxl()
    for way, side_px, tile_px, dtype in VAE_RUNS:
        what = f"{way} {side_px} px in tiles of {tile_px} px, {str(dtype).removeprefix('torch.')}"
        row(
            "VAE", what, module_bytes(model.pipe.vae.to(dtype)), vae_peak(model, side_px, tile_px, dtype, way)
        )


def row(name: str, what: str, held: int, above: int) -> None:
    shown = f"{held / GIB:.2f}" if held else ""
    print(f"| {name} | {what} | {shown} | {above / GIB:.2f} |", flush=True)


if __name__ == "__main__":
    main()
