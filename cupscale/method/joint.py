"""The composer for joint attention (SD3, Z-Image, FLUX.2, Qwen-Image).

There image queries attend to image and text keys in one softmax.

That softmax is a sum of two (ours):

    softmax over both = p T + (1 - p) I,    p = exp(lse_text - lse_both)

T and I are the attention to the text's keys alone and to the image's alone, lse the log-sum-exp of the scores. RAP
replaces T in O_g and puts it back with its mass p. O_r, the region's own joint attention, has its own T and p, so that
lambda = 1 with mu = 0 is exactly the network with the region's prompt. Text queries are left as they are: either text
reads the image and itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from cupscale.method.composer import Composer


class Stream(NamedTuple):
    """One stream of a joint attention. query, key, value: (B, heads, n, d). mask: (B, n), True where a token is read."""

    query: Tensor
    key: Tensor
    value: Tensor
    mask: Tensor | None = None

    def rows(self, rows: slice) -> Stream:
        """Some rows of the batch."""
        mask = None if self.mask is None else self.mask[rows]
        return Stream(self.query[rows], self.key[rows], self.value[rows], mask)


def compose_joint(
    composer: Composer,
    layer: str,
    image: Stream,
    text: Stream,
    own: Stream | None = None,
    tokens: int | None = None,
) -> tuple[Tensor, Tensor]:
    """The composed outputs of one joint attention layer.

    Args:
        composer: The run's composer.
        layer: The layer's name, under which the overview's output is kept.
        image: The image's stream.
        text: The global prompt's stream.
        own: The stream of the regions' own prompts, of which only the conditional half is read.
        tokens: How many of the image's tokens make up its grid. The rest are padding and are left as they are.

    Returns:
        The image's (B, n, C) and the texts' (B, n_text + n_own, C).
    """
    tokens = image.query.shape[2] if tokens is None else tokens
    if composer.mode == "capture":
        query = image.query[-1:, :, :tokens]
        composer.overview.keep(layer, _flat(attend(query, text.rows(slice(-1, None)))))
    if composer.mode != "compose":
        return _plain(image, text)
    count = len(composer.boxes)
    unconditional, conditional = slice(0, -count), slice(-count, None)
    images, texts = [], []
    if image.query.shape[0] > count:
        rest, words = _plain(image.rows(unconditional), text.rows(unconditional))
        images.append(rest)
        texts.append(words if own is None else F.pad(words, (0, 0, 0, own.query.shape[2])))
    image, text = image.rows(conditional), text.rows(conditional)
    own = None if own is None else own.rows(conditional)
    grid = _composed_grid(composer, layer, image._replace(query=image.query[:, :, :tokens]), text, own)
    others = torch.cat((image.query[:, :, tokens:], text.query), dim=2)
    sizes = (others.shape[2] - text.query.shape[2], text.query.shape[2])
    padding, words = _flat(attend(others, image, text)).split(sizes, 1)
    images.append(torch.cat((grid, padding), dim=1))
    if own is not None:
        words = torch.cat((words, _flat(attend(own.query, image, own))), dim=1)
    texts.append(words)
    return torch.cat(images), torch.cat(texts)


def _composed_grid(composer: Composer, layer: str, image: Stream, text: Stream, own: Stream | None) -> Tensor:
    """(R, tokens, C) of the conditional half's image queries."""
    streams = [text] if own is None else [text, own]
    part, masses = split(image.query, image, streams)
    plain = attend(image.query, text)
    screened = plain
    if composer.attention > 0:
        flat = composer.screened(layer, _flat(plain))
        screened = flat.unflatten(-1, (plain.shape[1], -1)).transpose(1, 2)
    out = _flat(merge(part, masses[0], screened, masses[1]))
    if own is not None:
        own_out = merge(part, masses[0], attend(image.query, own), masses[2])
        out = composer.with_semantics(out, _flat(own_out))
    elif composer.detail > 0 and composer.attention > 0:  # the global prompt serves as the region's own
        out = composer.with_semantics(out, _flat(merge(part, masses[0], plain, masses[1])))
    return out


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
