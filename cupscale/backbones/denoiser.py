"""One run of a network over regions: its texts, a call of it, and the loop's `Denoiser`. The same for all families."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from cupscale.method.attention import boxes_of
from cupscale.method.composer import Composer
from cupscale.method.regions import Region, Size


@dataclass(frozen=True)
class Text:
    """An encoded prompt. embeds: (1, tokens, D). pooled: (1, P). mask: (1, tokens), 1 where a token is read."""

    embeds: Tensor
    pooled: Tensor | None = None
    mask: Tensor | None = None


def split(embeds: Sequence[Tensor], pooled: Tensor | None = None, masks: Tensor | None = None) -> list[Text]:
    """A batch of encoded prompts as one `Text` each. embeds: each (tokens, D). pooled: (B, P). masks: (B, tokens)."""
    return [
        Text(
            one[None], None if pooled is None else pooled[k, None], None if masks is None else masks[k, None]
        )
        for k, one in enumerate(embeds)
    ]


class Texts(NamedTuple):
    """The encoded texts of a run. negative: None without guidance. captions: one a region, empty without any."""

    prompt: Text
    negative: Text | None
    captions: Sequence[Text]


@dataclass(frozen=True)
class Call:
    """One call of the network. Its rows are the regions once or, guided, twice: the unconditional half comes first.

    Attributes:
        latents: (B, C, h, w), as the schedule wants them for the network.
        t: The timestep, a scalar.
        texts: A prompt for each of the B rows.
        regions: Where the rows lie on the canvas; R of them.
        corners: The same on the device, (R, 4) of (top, left, bottom, right).
        canvas: Its size in cells.
        own: The regions' captions, which join the last R rows; empty where every region has the global prompt.
    """

    latents: Tensor
    t: Tensor
    texts: Sequence[Text]
    regions: Sequence[Region]
    corners: Tensor
    canvas: Size
    own: Sequence[Text] = ()

    def words(self, composer: Composer) -> tuple[Tensor, Tensor | None]:
        """(B, tokens, D) and its mask: the prompts and, behind them, the captions. The composer is told how many are whose."""
        embeds, masks = _together(self.texts)
        composer.own = 0
        if self.own:
            room = (0, 0, 0, 0, len(self.texts) - len(self.own), 0)  # rows before the conditional half
            captions, read = _together(self.own)
            composer.own = captions.shape[1]
            if masks is not None or read is not None:
                masks, read = _mask(embeds, masks), _mask(captions, read)
                masks = torch.cat((masks, F.pad(read, room[2:])), dim=1)
            embeds = torch.cat((embeds, F.pad(captions, room)), dim=1)
        return embeds, masks

    def pooled(self) -> Tensor:
        """(B, P), the prompts' pooled embeddings. They stay the global prompt's in every region."""
        return torch.cat([text.pooled for text in self.texts if text.pooled is not None])


def _together(texts: Sequence[Text]) -> tuple[Tensor, Tensor | None]:
    """(B, tokens, D) of several texts, and which tokens are read: shorter ones are filled up. None where all are."""
    if len({text.embeds.shape[1] for text in texts}) == 1:
        masks = [text.mask for text in texts if text.mask is not None]
        return torch.cat([text.embeds for text in texts]), torch.cat(masks) if masks else None
    embeds = pad_sequence([text.embeds[0] for text in texts], batch_first=True)
    return embeds, pad_sequence([_mask(text.embeds, text.mask)[0] for text in texts], batch_first=True)


def _mask(embeds: Tensor, mask: Tensor | None) -> Tensor:
    """(B, tokens): which are read, all where nothing is said."""
    return embeds.new_ones(embeds.shape[:2], dtype=torch.bool) if mask is None else mask


def _as_guided(guided: Tensor, conditional: Tensor) -> Tensor:
    return guided


class RegionDenoiser:
    """One run's prompts and regions: the loop's `Denoiser`.

    Args:
        network: Calls the network.
        composer: What the attention hooks ask.
        texts: The encoded prompts.
        canvas: In cells.
        overview: In cells.
        guidance: Its scale, or a scale per cell of the canvas, (1, 1, H, W).
        apart: `predict` gives what the prompt adds too, for a guidance of its own for low frequencies.
        rescaled: Puts what guidance gave into a family's own scale, from that and the conditional outputs.
    """

    def __init__(
        self,
        network: Callable[[Call, Composer], Tensor],
        composer: Composer,
        texts: Texts,
        canvas: Size,
        overview: Size,
        guidance: float | Tensor,
        apart: bool = False,
        rescaled: Callable[[Tensor, Tensor], Tensor] = _as_guided,
    ):
        self.composer = composer
        self.texts = texts
        self._network = network
        self._guidance = guidance
        self._apart = apart
        self._rescaled = rescaled
        self._canvas = canvas
        self._overview = overview
        # Numbers that a call needs are taken from here: a tensor made of Python's would be a transfer each time.
        side = max(*canvas, *overview) + 1
        self._counted = torch.arange(side, dtype=torch.float32, device=texts.prompt.embeds.device)

    @property
    def plain(self) -> bool:
        """No prior touches the attention."""
        return self.composer.attention == 0 and not self.texts.captions

    @property
    def guided(self) -> bool:
        """Every window takes two samples."""
        return self.texts.negative is not None

    def capture(self, latents: Tensor, t: Tensor) -> Tensor:
        whole = Region(0, 0, *self._overview)
        call = Call(latents, t, [self.texts.prompt], [whole], self._corners([whole]), self._overview)
        return self._call(call, "capture")

    def predict(
        self, latents: Tensor, t: Tensor, regions: Sequence[Region], ids: Sequence[int], guided: bool = True
    ) -> Tensor:
        unconditional, conditional = self.halves(latents, t, regions, ids, guided)
        if unconditional is None:
            return conditional
        scale = self._guidance
        if isinstance(scale, Tensor):
            scale = torch.cat([region.crop(scale) for region in regions])
        added = conditional - unconditional
        output = self._rescaled(unconditional + scale * added, conditional)
        return torch.cat((output, added), dim=1) if self._apart else output

    def halves(
        self, latents: Tensor, t: Tensor, regions: Sequence[Region], ids: Sequence[int], guided: bool = True
    ) -> tuple[Tensor | None, Tensor]:
        """The unconditional outputs (None without guidance) and the conditional ones, as `predict` takes them together."""
        corners = self._corners(regions)
        self.composer.boxes = boxes_of(corners, self._canvas)
        self.composer.cells = Size(*latents.shape[-2:])
        prompt, negative, captions = self.texts
        own = [captions[k] for k in ids] if captions else ()
        prompts = [prompt] * len(regions)
        if negative is None or not guided:
            return None, self._call(Call(latents, t, prompts, regions, corners, self._canvas, own), "compose")
        both = torch.cat((latents, latents))
        prompts = [negative] * len(regions) + prompts
        output = self._call(Call(both, t, prompts, regions, corners, self._canvas, own), "compose")
        unconditional, conditional = output.chunk(2)
        return unconditional, conditional

    def _corners(self, regions: Sequence[Region]) -> Tensor:
        """(R, 4) of (top, left, bottom, right) in cells, on the device."""
        known = self._counted
        sides = [side for y, x, h, w in regions for side in (y, x, y + h, x + w)]
        if min(sides) < 0 or max(sides) >= len(known):  # windows of peers reach over the canvas
            return known.new_tensor(sides).view(-1, 4)
        return torch.stack([known[side] for side in sides]).view(-1, 4)

    def _call(self, call: Call, mode: Literal["capture", "compose"]) -> Tensor:
        self.composer.mode, self.composer.own = mode, 0
        self.composer.prompts = tuple(map(id, call.texts))
        try:
            with torch.no_grad():
                return self._network(call, self.composer)
        finally:
            self.composer.mode, self.composer.own, self.composer.prompts = "off", 0, ()
