"""U-Net pipelines of diffusers: Stable Diffusion 1.5 (and 2), SDXL, and their relatives."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar

import torch
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from torch import Tensor

from cupscale.backbones.attention import ComposedCross, composed
from cupscale.backbones.base import DiffusersBackbone, RegionDenoiser, Text
from cupscale.method.regions import Region, Size
from cupscale.settings import Settings


class SDBackbone(DiffusersBackbone):
    """`StableDiffusionPipeline`, with every LoRA, fine-tune and scheduler of that class."""

    NETWORK = "unet"
    PARTS: ClassVar = {
        "vae": "AutoencoderKL",
        "unet": "UNet2DConditionModel",
        "scheduler": "DDIMScheduler",
        "text_encoder": "CLIPTextModel",
        "tokenizer": "CLIPTokenizer",
    }

    def _window_cells(self) -> int:
        return 2 ** (len(self.network.config.block_out_channels) - 1)

    def prompts(self, prompt: str, negative: str, guided: bool) -> tuple[Text, Text | None]:
        text, other = self.pipe.encode_prompt(prompt, self.device, 1, guided, negative_prompt=negative)
        return Text(text), Text(other) if guided else None

    def _denoiser(
        self, settings: Settings, captions: Sequence[str | None], canvas: Size, overview: Size
    ) -> RegionDenoiser:
        return UNetDenoiser(self, settings, captions, canvas, overview)

    def _hooks(self, denoiser: UNetDenoiser) -> AbstractContextManager[None]:
        return composed(
            self.network,
            denoiser.composer,
            ComposedCross,
            lambda name: name.endswith("attn2"),
            (AttnProcessor, AttnProcessor2_0),
        )


class SDXLBackbone(SDBackbone):
    """`StableDiffusionXLPipeline`, with every LoRA, fine-tune and scheduler of that class."""

    PARTS: ClassVar = {
        "vae": "AutoencoderKL",
        "unet": "UNet2DConditionModel",
        "scheduler": "EulerDiscreteScheduler",
        "text_encoder_2": "CLIPTextModelWithProjection",
        "tokenizer_2": "CLIPTokenizer",
    }

    def __init__(self, pipe: Any):
        super().__init__(pipe)
        # The bundled model's codec says which factor its U-Net was trained to take for a sharp photograph.
        self.source_scale = float(getattr(pipe.vae.config, "source_scale", 1.0))

    def prompts(self, prompt: str, negative: str, guided: bool) -> tuple[Text, Text | None]:
        text, other, pooled, other_pooled = self.pipe.encode_prompt(
            prompt,
            device=self.device,
            negative_prompt=negative or None,  # None: the zeros SDXL was trained with
            do_classifier_free_guidance=guided,
        )
        return Text(text, pooled), Text(other, other_pooled) if guided else None

    def _denoiser(
        self, settings: Settings, captions: Sequence[str | None], canvas: Size, overview: Size
    ) -> RegionDenoiser:
        return SDXLDenoiser(self, settings, captions, canvas, overview)


class UNetDenoiser(RegionDenoiser):
    """One run of a U-Net."""

    def conditions(self, texts: Sequence[Text], regions: Sequence[Region], canvas: Size) -> Any:
        """`added_cond_kwargs` of the network."""
        return None

    def call(
        self,
        latents: Tensor,
        t: Tensor,
        texts: Sequence[Text],
        regions: Sequence[Region],
        canvas: Size,
        own: Sequence[Text] | None = None,
    ) -> Tensor:
        words, _ = self.words(texts, own)
        with torch.no_grad():
            return self.backbone.network(
                latents.to(words.dtype),
                t,
                encoder_hidden_states=words,
                added_cond_kwargs=self.conditions(texts, regions, canvas),
                return_dict=False,
            )[0].float()


class SDXLDenoiser(UNetDenoiser):
    """One run of SDXL's U-Net. The pooled embedding stays the global prompt's."""

    def _time_ids(self, canvas: Size, region: Region) -> list[float]:
        """SDXL's micro-conditioning of a region, in pixels (height, width): original size, crop's corner, target size.

        Both sizes are the canvas', as if the region had been cropped from it (as DemoFusion has it). `source_scale` asks a
        model trained for it for the look of a photograph that was reduced by that factor.
        """
        cell, scale = self.backbone.geometry.cell, self.backbone.source_scale
        full = (canvas.h * cell, canvas.w * cell)
        return [full[0] * scale, full[1] * scale, region.y * cell, region.x * cell, *full]

    def conditions(self, texts: Sequence[Text], regions: Sequence[Region], canvas: Size) -> Any:
        pooled = torch.cat([text.pooled for text in texts if text.pooled is not None])
        ids = [self._time_ids(canvas, region) for region in regions] * (len(texts) // len(regions))
        return {
            "text_embeds": pooled,
            "time_ids": torch.tensor(ids, dtype=pooled.dtype, device=pooled.device),
        }
