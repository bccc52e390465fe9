"""U-Net pipelines of diffusers: SDXL and its relatives."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from torch import Tensor

from cupscale.backbones import Tiles
from cupscale.backbones.schedules import DiffusersSchedule
from cupscale.composer import Composer
from cupscale.errors import CupscaleError
from cupscale.planning import Geometry
from cupscale.priors.attention import Box, GlobalAttention
from cupscale.regions import Region, Size
from cupscale.settings import Settings


class ComposedAttention:
    """A cross-attention processor that lets the composer mix its output, before the layer's last projection."""

    def __init__(self, layer: str, composer: Composer):
        self._layer = layer
        self._composer = composer

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor, *args: Any, **kwargs: Any
    ) -> Tensor:
        query = attn.to_q(hidden_states)  # (B, tokens, C)
        plain = _attend(attn, query, encoder_hidden_states)

        def regional(captions: Tensor) -> Tensor:
            return _attend(attn, query[-len(captions) :], captions)

        out = self._composer.compose(self._layer, plain, regional)
        return attn.to_out[1](attn.to_out[0](out)) / attn.rescale_output_factor


def _attend(attn: Any, query: Tensor, text: Tensor) -> Tensor:
    """softmax(Q K^T / sqrt d) V of a query (B, tokens, C) and text (B, tokens_text, D)."""
    key, value = attn.to_k(text), attn.to_v(text)
    query, key, value = (x.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for x in (query, key, value))
    return F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)


@contextmanager
def composed(unet: Any, composer: Composer) -> Iterator[None]:
    """Cross-attention of `unet` under the composer; its own processors are put back at the end."""
    before = dict(unet.attn_processors)
    ours: dict[str, Any] = {}
    for name, processor in before.items():
        if ".attn2." not in name:
            ours[name] = processor
            continue
        if not isinstance(processor, (AttnProcessor, AttnProcessor2_0)):
            raise CupscaleError(
                f"cross-attention of this pipeline runs through {type(processor).__name__}, which the attention priors "
                "cannot compose: unload it (e.g. unload_ip_adapter()), or set attention and detail to 0"
            )
        ours[name] = ComposedAttention(name, composer)
    modules = {
        f"{name}.processor": module for name, module in unet.named_modules() if f"{name}.processor" in before
    }
    try:
        for name, module in modules.items():
            module.processor = ours[name]
        yield
    finally:
        for name, module in modules.items():
            module.processor = before[name]
        composer.picture.clear()


@contextmanager
def tiled(vae: Any, tiles: Tiles, cell_px: int) -> Iterator[None]:
    """The VAE with explicit tile sizes; what it had is put back at the end."""
    names = ("use_tiling", "tile_sample_min_size", "tile_latent_min_size", "tile_overlap_factor")
    before = {name: getattr(vae, name) for name in names if hasattr(vae, name)}
    try:
        vae.use_tiling = True
        vae.tile_sample_min_size = tiles.side
        vae.tile_latent_min_size = tiles.side // cell_px
        vae.tile_overlap_factor = tiles.overlap
        yield
    finally:
        for name, value in before.items():
            setattr(vae, name, value)


class SDXLBackbone:
    """`StableDiffusionXLPipeline`, with every LoRA, fine-tune and scheduler of that class."""

    def __init__(self, pipe: Any):
        for part in ("vae", "unet", "scheduler"):
            if getattr(pipe, part, None) is None:
                raise CupscaleError(f"the pipeline has no {part}: load it with {part}=...")
        if getattr(pipe, "text_encoder_2", None) is None or getattr(pipe, "tokenizer_2", None) is None:
            raise CupscaleError("the pipeline has no text_encoder_2 or tokenizer_2: load it with both")
        self.pipe = pipe
        cell = pipe.vae_scale_factor
        self.geometry = Geometry(
            native=pipe.unet.config.sample_size * cell,
            cell=cell,
            align=cell * 2 ** (len(pipe.unet.config.block_out_channels) - 1),
            channels=pipe.unet.config.in_channels,
            weights=sum(
                p.numel() * p.element_size()
                for part in pipe.components.values()
                if isinstance(part, torch.nn.Module)
                for p in part.parameters()
            ),
        )
        # An exact codec says how many pixels it lays side by side in a cell's channels.
        self.shuffle = getattr(pipe.vae, "block_size", 1)
        # The bundled model's codec says which factor its U-Net was trained to take for a sharp photograph.
        self.source_scale = float(getattr(pipe.vae.config, "source_scale", 1.0))
        self.text_limit = pipe.tokenizer_2.model_max_length - 2

    @property
    def device(self) -> torch.device:
        return self.pipe._execution_device

    def count_tokens(self, text: str) -> int:
        return len(self.pipe.tokenizer_2(text, truncation=False, verbose=False).input_ids) - 2

    # Codec

    @contextmanager
    def _vae(self, tiles: Tiles) -> Iterator[Any]:
        vae = self.pipe.vae
        dtype = vae.dtype
        upcast = dtype == torch.float16 and vae.config.force_upcast
        try:
            if upcast:
                vae.to(dtype=torch.float32)
            with tiled(vae, tiles, self.geometry.cell), torch.no_grad():
                yield vae
        finally:
            if upcast:
                vae.to(dtype=dtype)

    def encode(self, pixels: Tensor, tiles: Tiles) -> Tensor:
        with self._vae(tiles) as vae:
            z = vae.encode(pixels.to(self.device, vae.dtype)).latent_dist.mode().float()
        return (z - (getattr(vae.config, "shift_factor", None) or 0.0)) * vae.config.scaling_factor

    def decode(self, latents: Tensor, tiles: Tiles) -> Tensor:
        with self._vae(tiles) as vae:
            z = latents / vae.config.scaling_factor + (getattr(vae.config, "shift_factor", None) or 0.0)
            return vae.decode(z.to(self.device, vae.dtype), return_dict=False)[0].float().cpu()

    # Network

    def schedule(self, settings: Settings) -> DiffusersSchedule:
        return DiffusersSchedule(
            self.pipe.scheduler,
            settings.scheduler,
            settings.start,
            settings.steps,
            settings.seed,
            self.device,
        )

    @contextmanager
    def denoiser(
        self, settings: Settings, captions: Sequence[str | None], canvas: Size, picture: Size
    ) -> Iterator[_SDXLDenoiser]:
        with torch.no_grad():
            denoiser = _SDXLDenoiser(self, settings, captions, canvas, picture)
        if settings.attention == 0 and denoiser.captions is None:
            yield denoiser
        else:
            with composed(self.pipe.unet, denoiser.composer):
                yield denoiser

    def release(self) -> None:
        self.pipe.maybe_free_model_hooks()


class _SDXLDenoiser:
    """One run's prompts and conditioning."""

    def __init__(
        self,
        backbone: SDXLBackbone,
        settings: Settings,
        captions: Sequence[str | None],
        canvas: Size,
        picture: Size,
    ):
        self._backbone = backbone
        self._pipe = backbone.pipe
        self._settings = settings
        self._canvas = canvas
        self._picture = picture
        self._guided = settings.guidance > 1
        text, negative, pooled, negative_pooled = self._pipe.encode_prompt(
            settings.prompt,
            device=backbone.device,
            negative_prompt=settings.negative_prompt or None,  # None: the zeros SDXL was trained with
            do_classifier_free_guidance=self._guided,
        )
        # (1, 77, D) and (1, P), the unconditional first
        self._text = torch.cat((negative, text)) if self._guided else text
        self._pooled = torch.cat((negative_pooled, pooled)) if self._guided else pooled
        self.captions = self._encode(captions, text) if settings.detail > 0 and any(captions) else None
        self.composer = Composer(settings.attention, settings.detail, GlobalAttention(picture))

    def _encode(self, captions: Sequence[str | None], text: Tensor) -> list[Tensor]:
        """One (1, 77, D) per region; equal captions share theirs. The pooled embedding stays the global one."""
        known: dict[str, Tensor] = {}
        for caption in captions:
            if caption and caption not in known:
                known[caption] = self._pipe.encode_prompt(
                    caption, device=self._backbone.device, do_classifier_free_guidance=False
                )[0]
        return [known[caption] if caption else text for caption in captions]

    def _time_ids(self, canvas: Size, region: Region) -> list[float]:
        """SDXL's micro-conditioning of a region, in pixels (height, width): original size, crop's corner, target size.

        Both sizes are the canvas', as if the region had been cropped from it (as DemoFusion has it). `source_scale` asks a
        model trained for it for the look of a photograph that was reduced by that factor.
        """
        cell, scale = self._backbone.geometry.cell, self._backbone.source_scale
        full = (canvas.h * cell, canvas.w * cell)
        return [full[0] * scale, full[1] * scale, region.y * cell, region.x * cell, *full]

    def _call(self, latents: Tensor, t: Tensor, ids: list[list[float]]) -> Tensor:
        """Network outputs of (B, C, h, w) latents, B the guided batch."""
        unet, count = self._pipe.unet, len(ids)
        halves = len(latents) // count
        text = self._text[-halves:].repeat_interleave(count, 0)
        pooled = self._pooled[-halves:].repeat_interleave(count, 0)
        time_ids = torch.tensor(ids * halves, dtype=text.dtype, device=text.device)
        with torch.no_grad():
            return unet(
                latents.to(text.dtype),
                t,
                encoder_hidden_states=text,
                added_cond_kwargs={"text_embeds": pooled, "time_ids": time_ids},
                return_dict=False,
            )[0].float()

    def look(self, latents: Tensor, t: Tensor) -> None:
        self.composer.mode = "capture"
        try:
            self._call(latents, t, [self._time_ids(self._picture, Region(0, 0, *self._picture))])
        finally:
            self.composer.mode = "off"

    def predict(self, latents: Tensor, t: Tensor, regions: Sequence[Region], ids: Sequence[int]) -> Tensor:
        composer = self.composer
        composer.boxes = [Box.of(region, self._canvas) for region in regions]
        composer.cells = Size(*latents.shape[-2:])
        composer.captions = None if self.captions is None else torch.cat([self.captions[k] for k in ids])
        composer.mode = "compose"
        try:
            time_ids = [self._time_ids(self._canvas, region) for region in regions]
            output = self._call(torch.cat((latents, latents)) if self._guided else latents, t, time_ids)
        finally:
            composer.mode = "off"
        if not self._guided:
            return output
        unconditional, conditional = output.chunk(2)
        return unconditional + self._settings.guidance * (conditional - unconditional)
