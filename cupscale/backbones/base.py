"""What the adapters share: the autoencoder, the encoded texts of a run, its hooks.

A family is one class under `DiffusersBackbone`: how its encoders read texts, and how its network is called. One run's prompts and
regions, the same for all families, are `cupscale.backbones.denoiser`'s.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from cupscale import offload
from cupscale.backbones import SUPPORTED, Tiles, family_defaults, own
from cupscale.backbones.control import Control
from cupscale.backbones.denoiser import Call, RegionDenoiser, Text, Texts
from cupscale.backbones.schedules import DiffusersSchedule, FlowSchedule, is_flow
from cupscale.backbones.tiling import decoded, encoded, in_bands, in_range, of_frames
from cupscale.backbones.tokens import rule_of
from cupscale.errors import CupscaleError
from cupscale.method.attention import GlobalAttention
from cupscale.method.bands import by_bands
from cupscale.method.composer import Composer
from cupscale.method.memory import module_bytes
from cupscale.method.regions import Size
from cupscale.method.word_screen import WordScreen
from cupscale.planning import Geometry
from cupscale.settings import Settings

PARK_BYTES = 2**30  # text encoders above this leave the accelerator once the prompts are encoded
TEXTS_AT_ONCE = 64  # in one call of the encoders: T5 of 4,096 captions at once would fill an accelerator
NATIVE_PX = 1024  # of families whose networks have no size of their own


class DiffusersBackbone(ABC):
    """The parts of a diffusers pipeline, by the names that all its families use.

    NETWORK: name of the denoising network. PARTS: what must be there, and the class that loads it.
    UPCASTS: its VAEs may overflow in float16, and run in float32 there unless their configuration says otherwise.
    """

    NETWORK = "transformer"
    PARTS: ClassVar[Mapping[str, str]] = {}
    UPCASTS = False
    control_sees_latents = False

    def __init__(self, pipe: Any):
        for part, kind in self.PARTS.items():
            if getattr(pipe, part, None) is None:
                raise CupscaleError(
                    f"the pipeline has no {part}: add it with pipe.register_modules({part}={kind}.from_pretrained(model, "
                    f'subfolder="{part}")), or load the whole pipeline'
                )
        self.pipe = pipe
        self._pinned: torch.device | None = None
        self._control: Control | None = None
        self._hooked = True
        self._check_network()
        own.check_caches(self.network)
        cell = self._cell_px()
        self.geometry = Geometry(
            native=self._native_cells() * cell,
            cell=cell,
            align=cell * self._window_cells(),
            channels=self._channels(),
            width=self._width(),
            weights=offload.weights_there(pipe, "none"),
            longest=cell * (self.most_cells() or 0),
        )
        self.geometry = replace(self.geometry, tile=_tile_bytes(pipe.vae, self._upcasts()))
        # How many places a side lie in a cell's channels: pixels of an exact codec, or cells of the VAE.
        self.shuffle = getattr(pipe.vae, "block_size", cell // pipe.vae_scale_factor)
        parts = {name for name, part in pipe.components.items() if part is not None}
        rule = rule_of(self._family(), parts)
        self._tokenizer = getattr(pipe, rule.tokenizer)
        self.budget = rule.budget(self._tokenizer)
        distilled = bool(pipe.config.get("is_distilled"))
        self.defaults = family_defaults(self._family(), type(pipe.scheduler).__name__, distilled) or {}

    def _check_network(self) -> None:
        """See that the network denoises the VAE's latents, from text alone.

        Raises:
            CupscaleError: It is one of another kind, or an adapter is loaded that reads a picture besides.
        """
        config, vae = self.network.config, self.pipe.vae.config
        channels, given = config.in_channels, self._given_channels(vae)
        if channels != given:
            raise CupscaleError(
                f"this network takes {channels} channels where its VAE gives {given}: it is made for inpainting or editing; use "
                "a text-to-image model"
            )
        reads_pictures = getattr(config, "encoder_hid_dim_type", None) == "ip_image_proj"
        if reads_pictures or getattr(self.network, "image_proj", None) is not None:
            raise CupscaleError(
                "an IP-Adapter is loaded, and the regions have no picture of their own for it: call "
                "pipe.unload_ip_adapter() first"
            )

    @property
    def network(self) -> Any:
        """The denoising network; of one that torch.compile wrapped, what is inside: hooks and layers' names need that."""
        network = getattr(self.pipe, self.NETWORK)
        return getattr(network, "_orig_mod", network)

    @property
    def runner(self) -> Any:
        """What is called for an output: the network as the caller has it, compiled or not, where no hook is in it."""
        return self.network if self._hooked else getattr(self.pipe, self.NETWORK)

    @property
    def device(self) -> torch.device:
        return self._pinned or self.pipe._execution_device

    def check_control(self) -> None:
        raise CupscaleError(
            f"control works with Stable Diffusion 1.5, SDXL and Z-Image, not with {type(self.pipe).__name__}: set control to 0"
        )

    def release(self) -> None:
        self.pipe.maybe_free_model_hooks()

    def _native_cells(self) -> int:
        """As the network's configuration says it; else 1024 px."""
        return int(self.network.config.get("sample_size") or NATIVE_PX // self._cell_px())

    def _cell_px(self) -> int:
        """Pixels to a cell, a side."""
        return int(self.pipe.vae_scale_factor)

    def _channels(self) -> int:
        """Of the latents that are denoised."""
        return int(self.network.config.in_channels)

    def _width(self) -> int:
        """Channels of the network's first level; of a transformer, as many as take the memory that its windows take."""
        return Geometry.width

    def _given_channels(self, config: Any) -> int:
        """What the network would take of the latents of a VAE with this configuration."""
        return int(config.get("latent_channels") or self.network.config.in_channels)

    def _window_cells(self) -> int:
        """Windows are multiples of this many cells."""
        return self._patch()

    def most_cells(self) -> int | None:
        """The longest side of a window, in cells, that the network has positions for; None where there is no end."""
        return None

    def _patch(self) -> int:
        """Latent cells to a token, a side."""
        return int(self.network.config.patch_size)

    # Text

    def _family(self) -> str:
        """The pipeline's class as diffusers names it, whatever a subclass is called."""
        names = [kind.__name__ for kind in type(self.pipe).__mro__]
        return next((name for name in names if name.replace("Img2Img", "") in SUPPORTED), names[0])

    def word_tokens(self, prompt: str) -> list[tuple[str, slice]]:
        """Each word of a prompt with the places of its tokens among those that the network reads.

        For tokenizers that look at one word after another and put one mark behind the text, as those of CLIP and T5 do.
        """
        start = len(self._tokenizer("").input_ids) - 1
        words = []
        for word in prompt.split():
            end = start + self.budget.count(word)
            words.append((word, slice(start, end)))
            start = end
        return words

    @abstractmethod
    def encode_texts(self, prompts: Sequence[str]) -> list[Text]:
        """One call of the text encoders for all of `prompts`."""

    def nothing(self, like: Text) -> Text | None:
        """What guidance leads away from without a negative prompt; None where that is the empty text, encoded."""
        return None

    def _encoded(self, wanted: Sequence[str], known: dict[str, Text]) -> None:
        """Encode what is not yet in `known`, as few calls as the memory allows."""
        missing = [text for text in dict.fromkeys(wanted) if text not in known]
        for start in range(0, len(missing), TEXTS_AT_ONCE):
            some = missing[start : start + TEXTS_AT_ONCE]
            known.update(zip(some, self.encode_texts(some), strict=True))

    # Codec

    def _upcasts(self) -> bool:
        """Whether the VAE has to run in float32 in place of its own precision."""
        vae = self.pipe.vae
        return (
            self.UPCASTS and vae.dtype == torch.float16 and bool(getattr(vae.config, "force_upcast", False))
        )

    @contextmanager
    def _vae(self, tiles: Tiles) -> Iterator[Any]:
        vae = self.pipe.vae
        dtype = vae.dtype
        upcast = self._upcasts()
        try:
            if upcast:
                vae.to(dtype=torch.float32)
            with tiled(vae, tiles, self.pipe.vae_scale_factor), torch.no_grad():
                yield vae
        finally:
            if upcast:
                vae.to(dtype=dtype)

    def encode(self, pixels: Tensor, tiles: Tiles) -> Tensor:
        with self._vae(tiles) as vae:
            if in_bands(vae):
                z = encoded(vae, pixels, tiles, self.pipe.vae_scale_factor, self.device)
                return self._of_network(vae, z)
            if tiny := hasattr(vae, "latent_magnitude"):  # TAESD; its tiles are made for four channels
                vae.use_tiling = self.geometry.channels == 4
            found = vae.encode(in_range(pixels.to(self.device)).to(vae.dtype))
            z = (found.latents if tiny else found.latent_dist.mode()).float()
        return self._of_network(vae, z)

    def decode(
        self, latents: Tensor, tiles: Tiles, keep: Callable[[Tensor], Tensor] = Tensor.float
    ) -> Tensor:
        with self._vae(tiles) as vae:
            z = self._of_vae(vae, latents)
            if in_bands(vae):
                return decoded(vae, z, tiles, self.pipe.vae_scale_factor, self.device, keep)
            return keep(vae.decode(z.to(self.device, vae.dtype), return_dict=False)[0]).cpu()

    def _of_network(self, vae: Any, z: Tensor) -> Tensor:
        """A VAE's own latents (B, C, h, w) as the network takes them, in their memory where the two are of one shape."""
        mean, std = latent_scale(vae, z)
        return by_bands(lambda z: (z - mean) / std, z, out=z)

    def _of_vae(self, vae: Any, latents: Tensor) -> Tensor:
        """The inverse, which leaves `latents` as they are."""
        mean, std = latent_scale(vae, latents)
        if not isinstance(std, Tensor) and (mean, std) == (0, 1):  # an exact codec's, which may be large
            return latents
        return by_bands(lambda z: z * std + mean, latents)

    # Network

    def schedule(self, settings: Settings, cells: Size | None = None) -> DiffusersSchedule | FlowSchedule:
        args = (self.pipe.scheduler, settings.scheduler, settings.strength, settings.steps, settings.seed)
        shift = settings.sigma_shift
        if is_flow(self.pipe.scheduler):
            height, width = cells or (self.geometry.native // self.geometry.cell,) * 2
            tokens = (height // self._patch()) * (width // self._patch())
            sigmas, mu = self._sigmas(settings.steps), self._dynamic_shift(tokens, settings.steps)
            return FlowSchedule(*args, self.device, tokens, sigmas, shift, mu)
        return DiffusersSchedule(*args, self.device, shift)

    def _sigmas(self, steps: int) -> list[float] | None:
        """The noise levels a flow pipeline asks its scheduler for, before they are shifted; None for the scheduler's."""
        return None

    def _dynamic_shift(self, tokens: int, steps: int) -> float | None:
        """The logarithm of a dynamic shift, where it is a family's own; None for the scheduler's."""
        return None

    def rescaled(self, guided: Tensor, conditional: Tensor) -> Tensor:
        """What guidance gave, (B, C, h, w), in a family's own scale; `conditional` is what it began with."""
        return guided

    @contextmanager
    def denoiser(
        self,
        settings: Settings,
        captions: Sequence[str | None],
        canvas: Size,
        overview: Size,
        guidance: Tensor | None = None,
        known: dict[str, Text] | None = None,
        enlarged: Mapping[Size, Tensor] | None = None,
    ) -> Iterator[RegionDenoiser]:
        self._pinned = self.device
        if settings.control > 0 and enlarged:
            side = 1 if self.control_sees_latents else self.geometry.cell
            self._control = Control(self.pipe.controlnet, settings.control, enlarged, side)
        try:
            with torch.no_grad():
                texts = self._texts(settings, captions, {} if known is None else known)
            scale = settings.guidance if guidance is None else guidance.to(self._pinned)
            composer = self._composer(settings, overview)
            apart = settings.guidance_low > 0 and texts.negative is not None
            denoiser = RegionDenoiser(
                self.call, composer, texts, canvas, overview, scale, apart, self.rescaled
            )
            self._hooked = not denoiser.plain
            hooks = self._hooks(composer) if self._hooked else nullcontext()
            with parked(self.pipe, self._pinned), hooks:
                yield denoiser
        finally:
            self._pinned = self._control = None
            self._hooked = True

    def _composer(self, settings: Settings, overview: Size) -> Composer:
        composer = Composer(settings.attention, settings.detail, GlobalAttention(overview))
        if settings.attention_form == "screen" and settings.attention > 0:
            composer.words = WordScreen(overview, [places for _, places in self.word_tokens(settings.prompt)])
        if settings.composer == "frequency":
            composer.cutoff = settings.cutoff
        return composer

    def _texts(self, settings: Settings, captions: Sequence[str | None], known: dict[str, Text]) -> Texts:
        """The encoded texts of a run; equal captions share theirs."""
        own = captions if settings.detail > 0 and any(captions) else ()
        away = [settings.negative_prompt] * (settings.guidance > 1)
        self._encoded([settings.prompt, *away, *(caption for caption in own if caption)], known)
        prompt = known[settings.prompt]
        negative = known[settings.negative_prompt] if away else None
        if away and not settings.negative_prompt:
            negative = self.nothing(prompt) or negative
        return Texts(prompt, negative, [known[caption] if caption else prompt for caption in own])

    @abstractmethod
    def call(self, call: Call, composer: Composer) -> Tensor:
        """The network's float outputs (B, C, h, w)."""

    @abstractmethod
    def _hooks(self, composer: Composer) -> AbstractContextManager[None]: ...


def latent_scale(vae: Any, like: Tensor) -> tuple[float | Tensor, float | Tensor]:
    """Mean and standard deviation (numbers, or (1, C, 1, 1)) by which a VAE's own latents are made those of the network.

    From its configuration: shift_factor and 1 / scaling_factor, or for each channel latents_mean and latents_std /
    scaling_factor (Playground v2.5, and Qwen-Image, which has no scaling_factor).
    """
    config = vae.config
    mean, std = getattr(config, "latents_mean", None), getattr(config, "latents_std", None)
    if mean is None or std is None:
        return getattr(config, "shift_factor", None) or 0.0, 1 / config.scaling_factor
    of_mean, of_std = (torch.tensor(values).view(1, -1, 1, 1).to(like.device) for values in (mean, std))
    return of_mean, of_std / (getattr(config, "scaling_factor", None) or 1.0)


def _tile_bytes(vae: Any, upcast: bool) -> int:
    """Bytes of a pixel of a tile in the decoder, in maps of its first width as measured; 0 for an exact codec."""
    if hasattr(vae, "block_size"):
        return 0
    maps = 18.1 * vae.config.base_dim if of_frames(vae) else 6.1 * vae.config.block_out_channels[0]
    return int(maps * (4 if upcast or vae.dtype == torch.float32 else 2))


@contextmanager
def tiled(vae: Any, tiles: Tiles, cell_px: int) -> Iterator[None]:
    """The VAE with explicit tile sizes; what it had is put back at the end."""
    names = ("use_tiling", "tile_sample_min_size", "tile_latent_min_size", "tile_overlap_factor")
    before = {name: getattr(vae, name) for name in names if hasattr(vae, name)}
    try:
        vae.use_tiling = not of_frames(vae)  # whose own tiles are of another kind
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
        and module_bytes(part) > PARK_BYTES
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
