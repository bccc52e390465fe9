"""What the adapters share: the autoencoder, text encoders that make room, the guided batch of regions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from cupscale.backbones import SUPPORTED, Tiles
from cupscale.backbones.schedules import DiffusersSchedule, FlowSchedule, is_flow
from cupscale.backbones.tokens import rule_of
from cupscale.errors import CupscaleError
from cupscale.method.attention import Box, GlobalAttention
from cupscale.method.composer import Composer
from cupscale.method.regions import Region, Size
from cupscale.planning import Geometry
from cupscale.settings import Settings

PARK_BYTES = 2**30  # text encoders above this leave the accelerator once the prompts are encoded
FEW_STEPS = ("LCMScheduler", "TCDScheduler", "FlowMatchLCMScheduler")


@dataclass(frozen=True)
class Text:
    """An encoded prompt. embeds: (1, tokens, D). pooled: (1, P). mask: (1, tokens), 1 where a token is read."""

    embeds: Tensor
    pooled: Tensor | None = None
    mask: Tensor | None = None


class DiffusersBackbone(ABC):
    """The parts of a diffusers pipeline, by the names that all its families use.

    NETWORK: name of the denoising network. PARTS: what must be there, and the class that loads it.
    """

    NETWORK = "transformer"
    PARTS: ClassVar[Mapping[str, str]] = {}
    DEFAULTS: ClassVar[Mapping[str, Any]] = {"strength": 0.45, "steps": 50, "guidance": 7.5, "overlap": 0.5}

    def __init__(self, pipe: Any):
        for part, kind in self.PARTS.items():
            if getattr(pipe, part, None) is None:
                raise CupscaleError(
                    f"the pipeline has no {part}: add it with pipe.register_modules({part}={kind}.from_pretrained(model, "
                    f'subfolder="{part}")), or load the whole pipeline'
                )
        self.pipe = pipe
        self._pinned: torch.device | None = None
        cell = pipe.vae_scale_factor
        self.geometry = Geometry(
            native=self._native_cells() * cell,
            cell=cell,
            align=cell * self._window_cells(),
            channels=self.network.config.in_channels,
            weights=sum(
                p.numel() * p.element_size()
                for part in pipe.components.values()
                if isinstance(part, torch.nn.Module)
                for p in part.parameters()
            ),
        )
        # An exact codec says how many pixels it lays side by side in a cell's channels.
        self.shuffle = getattr(pipe.vae, "block_size", 1)
        parts = {name for name, part in pipe.components.items() if part is not None}
        rule = rule_of(self._family(), parts)
        self.budget = rule.budget(getattr(pipe, rule.tokenizer))
        few = type(pipe.scheduler).__name__ in FEW_STEPS
        self.defaults = dict(self.DEFAULTS) | ({"steps": 8, "guidance": 1.0} if few else {})

    @property
    def network(self) -> Any:
        return getattr(self.pipe, self.NETWORK)

    @property
    def device(self) -> torch.device:
        return self._pinned or self.pipe._execution_device

    def release(self) -> None:
        self.pipe.maybe_free_model_hooks()

    def _native_cells(self) -> int:
        return int(self.network.config.sample_size)

    def _window_cells(self) -> int:
        """Windows are multiples of this many cells."""
        return self._patch()

    def _patch(self) -> int:
        """Latent cells to a token, a side."""
        return int(self.network.config.patch_size)

    # Text

    def _family(self) -> str:
        """The pipeline's class as diffusers names it, whatever a subclass is called."""
        names = [kind.__name__ for kind in type(self.pipe).__mro__]
        return next((name for name in names if name.replace("Img2Img", "") in SUPPORTED), names[0])

    @abstractmethod
    def prompts(self, prompt: str, negative: str, guided: bool) -> tuple[Text, Text | None]:
        """The prompt and, where guidance asks for it, what is guided away from."""

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

    def schedule(self, settings: Settings) -> DiffusersSchedule | FlowSchedule:
        args = (self.pipe.scheduler, settings.scheduler, settings.strength, settings.steps, settings.seed)
        if is_flow(self.pipe.scheduler):
            tokens = (self.geometry.native // self.geometry.cell // self._patch()) ** 2
            return FlowSchedule(*args, self.device, tokens, self._sigmas(settings.steps))
        return DiffusersSchedule(*args, self.device)

    def _sigmas(self, steps: int) -> list[float] | None:
        """The noise levels a flow pipeline asks its scheduler for, before they are shifted; None for the scheduler's."""
        return None

    @contextmanager
    def denoiser(
        self,
        settings: Settings,
        captions: Sequence[str | None],
        canvas: Size,
        overview: Size,
        guidance: Tensor | None = None,
    ) -> Iterator[RegionDenoiser]:
        self._pinned = self.device
        try:
            with torch.no_grad():
                denoiser = self._denoiser(settings, captions, canvas, overview)
            if guidance is not None:
                denoiser.guidance = guidance.to(self._pinned)
            hooks = nullcontext() if denoiser.plain else self._hooks(denoiser)
            with parked(self.pipe, self._pinned), hooks:
                yield denoiser
        finally:
            self._pinned = None

    @abstractmethod
    def _denoiser(
        self, settings: Settings, captions: Sequence[str | None], canvas: Size, overview: Size
    ) -> RegionDenoiser: ...

    @abstractmethod
    def _hooks(self, denoiser: Any) -> AbstractContextManager[None]: ...


class RegionDenoiser(ABC):
    """One run's prompts and conditioning. The unconditional half of a guided batch comes first."""

    def __init__(
        self,
        backbone: Any,
        settings: Settings,
        captions: Sequence[str | None],
        canvas: Size,
        overview: Size,
    ):
        self.backbone = backbone
        self.canvas = canvas
        self.overview = overview
        self.guidance: float | Tensor = settings.guidance  # or a scale per cell of the canvas, (1, 1, H, W)
        self.prompt, self._negative = backbone.prompts(
            settings.prompt, settings.negative_prompt, settings.guidance > 1
        )
        # One text per region; equal captions share theirs.
        self.captions: list[Text] | None = None
        if settings.detail > 0 and any(captions):
            known = {caption: backbone.prompts(caption, "", False)[0] for caption in {*captions} if caption}
            self.captions = [known[caption] if caption else self.prompt for caption in captions]
        self.composer = Composer(settings.attention, settings.detail, GlobalAttention(overview))

    @property
    def plain(self) -> bool:
        """No prior touches the attention."""
        return self.composer.attention == 0 and self.captions is None

    @abstractmethod
    def call(
        self,
        latents: Tensor,
        t: Tensor,
        texts: Sequence[Text],
        regions: Sequence[Region],
        canvas: Size,
        own: Sequence[Text] | None = None,
    ) -> Tensor:
        """Float outputs of latents (B, C, h, w), B = len(texts): the regions once or, guided, twice.

        own: the regions' captions, which join the last len(regions) rows.
        """

    def capture(self, latents: Tensor, t: Tensor) -> None:
        self.composer.mode, self.composer.own = "capture", 0
        try:
            self.call(latents, t, [self.prompt], [Region(0, 0, *self.overview)], self.overview)
        finally:
            self.composer.mode = "off"

    def predict(self, latents: Tensor, t: Tensor, regions: Sequence[Region], ids: Sequence[int]) -> Tensor:
        composer, count = self.composer, len(regions)
        composer.boxes = [Box.of(region, self.canvas) for region in regions]
        composer.cells = Size(*latents.shape[-2:])
        own = None if self.captions is None else [self.captions[k] for k in ids]
        composer.mode = "compose"
        try:
            if self._negative is None:
                return self.call(latents, t, [self.prompt] * count, regions, self.canvas, own)
            texts = [self._negative] * count + [self.prompt] * count
            output = self.call(torch.cat((latents, latents)), t, texts, regions, self.canvas, own)
        finally:
            composer.mode, composer.own = "off", 0
        unconditional, conditional = output.chunk(2)
        scale = self.guidance
        if isinstance(scale, Tensor):
            scale = torch.cat([region.crop(scale) for region in regions])
        return unconditional + scale * (conditional - unconditional)

    def words(self, texts: Sequence[Text], own: Sequence[Text] | None) -> tuple[Tensor, Tensor | None]:
        """(B, tokens, D) and its mask: the prompts and, behind them, the regions' captions in the conditional half."""
        embeds = torch.cat([text.embeds for text in texts])
        masks = None if texts[0].mask is None else torch.cat([_read(text) for text in texts])
        self.composer.own = 0
        if own:
            room = (0, 0, 0, 0, len(texts) - len(own), 0)  # rows before the conditional half
            captions = torch.cat([text.embeds for text in own])
            self.composer.own = captions.shape[1]
            embeds = torch.cat((embeds, F.pad(captions, room)), dim=1)
            if masks is not None:
                masks = torch.cat((masks, F.pad(torch.cat([_read(text) for text in own]), room[2:])), dim=1)
        return embeds, masks


def _read(text: Text) -> Tensor:
    assert text.mask is not None
    return text.mask


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


@contextmanager
def parked(pipe: Any, device: torch.device) -> Iterator[None]:
    """Large text encoders (T5, Qwen) wait in main memory and are put back at the end.

    Nothing is moved on a CPU, nor where the pipeline's own offloading looks after them.
    """
    large = [
        part
        for name, part in pipe.components.items()
        if name.startswith("text_encoder")
        and isinstance(part, torch.nn.Module)
        and not any(hasattr(m, "_hf_hook") or hasattr(m, "_diffusers_hook") for m in part.modules())
        and sum(p.numel() * p.element_size() for p in part.parameters()) > PARK_BYTES
        and not getattr(part, "is_quantized", False)
    ]
    if device.type == "cpu":
        large = []
    try:
        for part in large:
            part.to("cpu")
        yield
    finally:
        for part in large:
            part.to(device)
