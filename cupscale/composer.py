"""Attention Composer: fuses the regional attention prior and the regional semantic prior where text meets image.

The paper's composer has no public equation. Ours, for the conditional half of a guidance batch:

    O_g = mu crop(O_L, r) + (1 - mu) softmax(Q K_g^T / sqrt d) V_g
    O   = (1 - lambda) O_g + lambda softmax(Q K_r^T / sqrt d) V_r

K_g, V_g from the global prompt, K_r, V_r from region r's own. mu = lambda = 0 is plain regional denoising.

In joint attention (SD3, Z-Image) image queries attend to image and text keys in one softmax, which is a sum of two:

    softmax over both = p T + (1 - p) I,    p = exp(lse_text - lse_both)

T, I are the attention to the text's keys alone and to the image's alone, lse the log-sum-exp of the scores. RAP replaces T in
O_g and puts it back with its mass p. O_r, the region's own joint attention, has its own T and p, so that lambda = 1, mu = 0
is exactly the network with the region's prompt. Text queries are left as they are: either text reads the image and itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from cupscale.priors.attention import Box, GlobalAttention, token_grid
from cupscale.regions import Size


class Stream(NamedTuple):
    """One stream of a joint attention. query, key, value: (B, heads, n, d). mask: (B, n), True where a token is read."""

    query: Tensor
    key: Tensor
    value: Tensor
    mask: Tensor | None = None

    def rows(self, rows: slice) -> Stream:
        mask = None if self.mask is None else self.mask[rows]
        return Stream(self.query[rows], self.key[rows], self.value[rows], mask)


@dataclass
class Composer:
    """The composer's state in one run. Adapters' attention processors ask it what to do.

    mode: "off" leaves attention alone; "capture" keeps the outputs of the pass over the whole picture; "compose"
        mixes them into the regions `boxes`, whose latents have `cells`. own: tokens of the regions' own captions, which
        lie behind the global prompt's in the text; 0 where every region has the global prompt.
    """

    mu: float
    lam: float
    picture: GlobalAttention
    mode: Literal["off", "capture", "compose"] = "off"
    boxes: Sequence[Box] = ()
    cells: Size = Size(0, 0)
    own: int = 0

    def compose(self, layer: str, plain: Tensor, regional: Callable[[], Tensor]) -> Tensor:
        """The composed output of one cross-attention layer.

        plain: (B, tokens, C), the global prompt's attention; its last R rows are the conditional half.
        regional: the attention of the conditional half to the regions' own captions, (R, tokens, C).
        """
        if self.mode == "off":
            return plain
        if self.mode == "capture":
            self.picture.keep(layer, plain[-1:])
            return plain
        rest, conditional = plain[: -len(self.boxes)], plain[-len(self.boxes) :]
        own = regional() if self.own else conditional
        out = compose(self._global(layer, conditional), conditional, own, self.mu, self.lam)
        return torch.cat((rest, out)) if len(rest) else out

    def joint(
        self, layer: str, image: Stream, text: Stream, own: Stream | None = None, tokens: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """The composed outputs of one joint attention layer: the image's (B, n, C), the texts' (B, n_text + n_own, C).

        text: the global prompt's stream. own: the regions', of which only the conditional half is read.
        tokens: how many of the image's tokens make up its grid; the rest are padding and are left as they are.
        """
        tokens = image.query.shape[2] if tokens is None else tokens
        if self.mode == "capture":
            self.picture.keep(layer, _flat(attend(image.query[-1:, :, :tokens], text.rows(slice(-1, None)))))
        if self.mode != "compose":
            return _plain(image, text)
        count = len(self.boxes)
        unconditional, conditional = slice(0, -count), slice(-count, None)
        pictures, texts = [], []
        if image.query.shape[0] > count:
            picture, words = _plain(image.rows(unconditional), text.rows(unconditional))
            pictures.append(picture)
            texts.append(words if own is None else F.pad(words, (0, 0, 0, own.query.shape[2])))
        image, text = image.rows(conditional), text.rows(conditional)
        own = None if own is None else own.rows(conditional)
        grid = self._joint(layer, image._replace(query=image.query[:, :, :tokens]), text, own)
        others = torch.cat((image.query[:, :, tokens:], text.query), dim=2)
        padding, words = (
            _flat(attend(others, image, text)).split((others.shape[2] - text.query.shape[2], text.query.shape[2]), 1)
        )  # fmt: skip
        pictures.append(torch.cat((grid, padding), dim=1))
        if own is not None:
            words = torch.cat((words, _flat(attend(own.query, image, own))), dim=1)
        texts.append(words)
        return torch.cat(pictures), torch.cat(texts)

    def _joint(self, layer: str, image: Stream, text: Stream, own: Stream | None) -> Tensor:
        """(R, tokens, C) of the conditional half's image queries."""
        streams = [text] if own is None else [text, own]
        part, masses = split(image.query, image, streams)
        to_text = attend(image.query, text)
        if self.mu > 0:
            heads = to_text.shape[1]
            cropped = self._global(layer, _flat(to_text)).unflatten(-1, (heads, -1)).transpose(1, 2)
            to_text = self.mu * cropped + (1 - self.mu) * to_text
        out = merge(part, masses[0], to_text, masses[1])
        if own is not None:
            regional = merge(part, masses[0], attend(image.query, own), masses[2])
            out = (1 - self.lam) * out + self.lam * regional
        return _flat(out)

    def _global(self, layer: str, conditional: Tensor) -> Tensor:
        if self.mu == 0:
            return conditional
        return self.picture.cropped(layer, self.boxes, token_grid(conditional.shape[1], self.cells))


def compose(picture: Tensor, plain: Tensor, own: Tensor, mu: float, lam: float) -> Tensor:
    """The formula above: picture = crop(O_L, r), plain the global prompt's attention, own the region's. Any one shape."""
    screened = plain if mu == 0 else plain.lerp(picture.to(plain.dtype), mu)
    return screened if lam == 0 else screened.lerp(own, lam)


def attend(query: Tensor, *streams: Stream) -> Tensor:
    """Attention of a query (B, heads, n, d) to the keys of all streams in one softmax."""
    key, value = (torch.cat([getattr(s, name) for s in streams], dim=2) for name in ("key", "value"))
    return F.scaled_dot_product_attention(query, key, value, attn_mask=_mask(streams))


def split(query: Tensor, image: Stream, texts: Sequence[Stream]) -> tuple[Tensor, list[Tensor]]:
    """The parts of one softmax over the image's and all texts' keys: the image's share of the output, every part's mass.

    Fused kernels keep their log-sum-exp to themselves. A part's mass exp(lse_part - lse_all) is what attention
    puts out for values that are 1 in this part and 0 elsewhere: one more channel of the values for each part. The texts' own
    values are 0, so the rest of the output is the image's share. Returns it, (B, heads, n, d), and masses (B, heads, n, 1).
    """
    width, extra = query.shape[-1], 8  # kernels like widths in eights
    parts = (image, *texts)
    values = []
    for k, part in enumerate(parts):
        value = part.value if k == 0 else torch.zeros_like(part.value)
        values.append(torch.cat((value, _marks(value, k, extra)), dim=-1))
    key = torch.cat([F.pad(part.key, (0, extra)) for part in parts], dim=2)
    out = F.scaled_dot_product_attention(
        F.pad(query, (0, extra)), key, torch.cat(values, dim=2), attn_mask=_mask(parts), scale=width**-0.5
    )
    return out[..., :width], [out[..., width + k : width + k + 1] for k in range(len(parts))]


def merge(part: Tensor, image_mass: Tensor, to_text: Tensor, text_mass: Tensor) -> Tensor:
    """The softmax over the image's and one text's keys, from `split`'s parts: (part + p_text T) / (p_image + p_text)."""
    total = part.float() + text_mass.float() * to_text.float()
    return (total / (image_mass.float() + text_mass.float())).to(part.dtype)


def _marks(value: Tensor, channel: int, width: int) -> Tensor:
    marks = value.new_zeros(*value.shape[:-1], width)
    marks[..., channel] = 1
    return marks


def _mask(streams: Sequence[Stream]) -> Tensor | None:
    """(B, 1, 1, keys), or None where every token is read."""
    if all(s.mask is None for s in streams):
        return None
    masks = [
        s.key.new_ones(s.key.shape[0], s.key.shape[2], dtype=torch.bool) if s.mask is None else s.mask
        for s in streams
    ]
    return torch.cat(masks, dim=1)[:, None, None]


def _plain(image: Stream, text: Stream) -> tuple[Tensor, Tensor]:
    out = _flat(attend(torch.cat((image.query, text.query), dim=2), image, text))
    return out[:, : image.query.shape[2]], out[:, image.query.shape[2] :]


def _flat(heads: Tensor) -> Tensor:
    """(B, heads, n, d) -> (B, n, heads * d)."""
    return heads.transpose(1, 2).flatten(2)
