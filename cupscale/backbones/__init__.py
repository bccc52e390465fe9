"""What a diffusers pipeline must offer the loop. Nothing outside this package knows a model's name."""

from __future__ import annotations

import typing
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from cupscale.captions import TokenBudget
from cupscale.errors import CupscaleError
from cupscale.method.regions import Region, Size
from cupscale.method.sampler import Denoiser, Schedule
from cupscale.planning import TILE_PX, Geometry
from cupscale.settings import Settings


@dataclass(frozen=True)
class Tiles:
    """Explicit tile sizes for a VAE, in pixels: `side` of a tile, `overlap` as a fraction of it.

    statistics: by which activations are normalized, a tile's own, or those of the whole "picture", which takes one more tile.
    """

    side: int = TILE_PX
    overlap: float = 0.25
    statistics: Literal["tile", "picture"] = "tile"


class GuidedDenoiser(Denoiser, Protocol):
    """A denoiser whose two outputs, which guidance takes together, can be had apart. guided: there are two."""

    @property
    def guided(self) -> bool: ...
    def halves(
        self, latents: Tensor, t: Tensor, regions: Sequence[Region], ids: Sequence[int]
    ) -> tuple[Tensor | None, Tensor]:
        """The unconditional outputs, None without guidance, and the conditional ones: each (R, C, h, w), see `predict`."""


class Backbone(Protocol):
    """An adapter of one family of pipelines."""

    geometry: Geometry
    shuffle: int  # see GlobalStructure
    control_sees_latents: bool
    budget: TokenBudget  # of the text encoder
    defaults: Mapping[str, Any]  # settings for a model of this family that has no name of its own

    @property
    def device(self) -> torch.device: ...
    @property
    def network(self) -> Any: ...
    def most_cells(self) -> int | None:
        """The longest side of a window, in cells, that the network has positions for; None where there is no end."""

    def word_tokens(self, prompt: str) -> list[tuple[str, slice]]:
        """Each word of a prompt with the places of its tokens among those that cross-attention reads."""

    def check_control(self) -> None:
        """See that `control` can be had. Raises CupscaleError, with the remedy."""

    def encode(self, pixels: Tensor, tiles: Tiles) -> Tensor:
        """(1, 3, H, W), uint8 or in -1..1 -> (1, C, H / cell_px, W / cell_px) float32 latents."""

    def decode(
        self, latents: Tensor, tiles: Tiles, keep: Callable[[Tensor], Tensor] = Tensor.float
    ) -> Tensor:
        """The inverse: (1, 3, H, W) on the CPU, each part as `keep` gives it."""

    def schedule(self, settings: Settings, cells: Size | None = None) -> Schedule:
        """cells: of the picture that a dynamic shift looks at; None for a window of native size."""

    def denoiser(
        self,
        settings: Settings,
        captions: Sequence[str | None],
        canvas: Size,
        overview: Size,
        guidance: Tensor | None = None,
        known: dict[str, Any] | None = None,
        enlarged: Mapping[Size, Tensor] | None = None,
    ) -> AbstractContextManager[GuidedDenoiser]:
        """The network with its prompts. Its hooks are gone when the context ends, however it ends.

        captions: one per region of the plan, None for the global prompt. canvas, overview: in cells. guidance: its scale in
        each cell of the canvas, (1, 1, H, W); None for the settings' own everywhere. known: texts that are encoded already;
        what is new is put there too. enlarged: what a ControlNet looks at, the base upscale for each of the two sizes in cells,
        pixels (3, H, W) uint8, or latents (C, h, w) where `control_sees_latents`; None leaves it out.
        """

    def release(self) -> None:
        """Give back what offloading still holds on the accelerator."""


class Family(NamedTuple):
    """An adapter, by module and class, and what its family's models take otherwise than `USUAL`."""

    module: str
    backbone: str
    over: Mapping[str, Any] = {}

    def load(self) -> Any:
        """Its adapter's class, imported."""
        return getattr(import_module(f"cupscale.backbones.{self.module}"), self.backbone)


USUAL: Mapping[str, Any] = {"strength": 0.45, "steps": 50, "guidance": 7.5, "overlap": 0.5}
FEW_STEPS: Mapping[str, Any] = {"steps": 8, "guidance": 1.0}  # of distilled models
DISTILLED_SCHEDULERS = ("LCMScheduler", "TCDScheduler", "FlowMatchLCMScheduler")

_PIXART = Family("pixart", "PixArtBackbone", {"steps": 20, "guidance": 4.5})
_ZIMAGE = Family("zimage", "ZImageBackbone", FEW_STEPS)
SUPPORTED: Mapping[str, Family] = {
    "StableDiffusionPipeline": Family("unet", "SDBackbone"),
    "StableDiffusionXLPipeline": Family("unet", "SDXLBackbone"),
    "StableDiffusionControlNetPipeline": Family("unet", "SDBackbone"),
    "StableDiffusionXLControlNetPipeline": Family("unet", "SDXLBackbone"),
    "StableDiffusionXLControlNetUnionPipeline": Family("unet", "SDXLBackbone"),
    "PixArtAlphaPipeline": _PIXART,
    "PixArtSigmaPipeline": _PIXART,
    "StableDiffusion3Pipeline": Family("sd3", "SD3Backbone", {"steps": 28, "guidance": 5.0}),
    "ZImagePipeline": _ZIMAGE,
    "ZImageControlNetPipeline": _ZIMAGE,
    "Flux2KleinPipeline": Family("flux2", "Flux2Backbone", {"guidance": 4.0}),
    "QwenImagePipeline": Family("qwen", "QwenImageBackbone", {"guidance": 4.0}),
}


def adapt(pipe: Any) -> Backbone:
    """The backbone for a diffusers pipeline. Raises CupscaleError for a class that is not supported."""
    import diffusers

    for name, family in SUPPORTED.items():
        sister = name.replace("Pipeline", "Img2ImgPipeline")
        kinds = tuple(getattr(diffusers, kind) for kind in (name, sister) if hasattr(diffusers, kind))
        if isinstance(pipe, kinds):
            return typing.cast(Backbone, family.load()(pipe))
    raise CupscaleError(f"{type(pipe).__name__} is not supported: use one of {', '.join(SUPPORTED)}")


def family_defaults(pipeline: str, scheduler: str, distilled: bool = False) -> Mapping[str, Any] | None:
    """The settings for a model of a family that has no name of its own; None for a class that is not supported.

    Args:
        pipeline: Name of its diffusers class.
        scheduler: Name of its scheduler's class.
        distilled: Its checkpoint says that it is made for few steps.
    """
    family = SUPPORTED.get(pipeline.replace("Img2Img", ""))
    if family is None:
        return None
    few = distilled or scheduler in DISTILLED_SCHEDULERS
    return {**USUAL, **family.over, **(FEW_STEPS if few else {})}
