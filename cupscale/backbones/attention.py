"""Attention processors that let the composer mix their output, and the hooks that install and remove them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.attention import AttentionModuleMixin
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.attention_processor import (
    Attention,
    AttnProcessor,
    AttnProcessor2_0,
    FusedAttnProcessor2_0,
    FusedJointAttnProcessor2_0,
    JointAttnProcessor2_0,
    SlicedAttnProcessor,
    XFormersAttnProcessor,
    XFormersJointAttnProcessor,
)
from torch import Tensor

from cupscale.errors import CupscaleError
from cupscale.method.composer import Composer
from cupscale.method.joint import Stream, compose_joint

# Those that compute plain attention, each in its own way: ours stand in for them during a call.
USUAL_CROSS = (
    AttnProcessor,
    AttnProcessor2_0,
    FusedAttnProcessor2_0,
    SlicedAttnProcessor,
    XFormersAttnProcessor,
)
USUAL_JOINT = (JointAttnProcessor2_0, FusedJointAttnProcessor2_0, XFormersJointAttnProcessor)


def is_cross(layer: str) -> bool:
    """Whether a module's name is that of a cross-attention: the second attention of a block."""
    return layer.endswith("attn2")


def is_self(layer: str) -> bool:
    """Whether a module's name is that of a self-attention: the first attention of a block."""
    return layer.endswith("attn1")


def layers_of(network: Any, chosen: Callable[[str], bool]) -> dict[str, Any]:
    """Attention layers of `network`, by name. chosen: whether a module's name is that of one of them."""
    return {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, (Attention, AttentionModuleMixin)) and chosen(name)
    }


@contextmanager
def exchanged(
    network: Any,
    make: Callable[[str], Any],
    chosen: Callable[[str], bool],
    usual: Sequence[type],
    otherwise: str,
    kind: str = "text attention",
) -> Iterator[None]:
    """The processors of some attention layers of `network`, exchanged; its own are put back at the end.

    Args:
        network: Of diffusers.
        make: A processor for a layer's name.
        chosen: Whether a module's name is that of one of the layers.
        usual: The processors that ours can stand in for.
        otherwise: What cannot be done with any other, and the remedy.
        kind: What the layers are, for messages.

    Raises:
        CupscaleError: The network has no such layer, or another processor.
    """
    layers = layers_of(network, chosen)
    if not layers:
        raise CupscaleError(
            f"no layer that reads the text was found in {type(network).__name__}, so the priors would do nothing: "
            "use the network as diffusers loads it, or set attention and detail to 0"
        )
    before = {name: module.processor for name, module in layers.items()}
    for processor in before.values():
        if type(processor) not in usual:  # a subclass computes something else
            raise CupscaleError(
                f"{kind} of this pipeline runs through {type(processor).__name__}, which {otherwise}"
            )
    try:
        for name, module in layers.items():
            module.processor = make(name)
        with uncompiled(network):
            yield
    finally:
        for name, module in layers.items():
            module.processor = before[name]


@contextmanager
def uncompiled(network: Any) -> Iterator[None]:
    """What `Module.compile` put into a network, its blocks too, left out meanwhile: it would keep the processors it has seen."""
    compiled = {
        module: module._compiled_call_impl for module in network.modules() if module._compiled_call_impl
    }
    try:
        for module in compiled:
            module._compiled_call_impl = None
        yield
    finally:
        for module, call in compiled.items():
            module._compiled_call_impl = call


@contextmanager
def composed(
    network: Any,
    composer: Composer,
    make: Callable[[str, Composer], Any],
    text_layer: Callable[[str], bool],
    usual: Sequence[type],
) -> Iterator[None]:
    """The text attention of `network` under the composer; its own processors are put back at the end.

    make: a processor for a layer's name. text_layer: whether a module's name is one that reads the text.
    usual: the processors that ours can stand in for.
    """
    otherwise = "the attention priors cannot compose: unload it (e.g. unload_ip_adapter()), or set attention and detail to 0"
    try:
        with exchanged(network, lambda name: make(name, composer), text_layer, usual, otherwise):
            yield
    finally:
        composer.clear()


def composed_cross(network: Any, composer: Composer) -> AbstractContextManager[None]:
    """`composed` for networks whose second attention of a block, "attn2", reads the text."""
    return composed(network, composer, ComposedCross, is_cross, USUAL_CROSS)


def heads(attn: Any, x: Tensor) -> Tensor:
    """(B, n, C) -> (B, heads, n, d)."""
    return x.unflatten(-1, (attn.heads, -1)).transpose(1, 2)


def turned(x: Tensor, freqs: Tensor) -> Tensor:
    """Rotary positions: pairs of channels of x (B, n, heads, d) as complex numbers, turned by freqs (B or 1, n, d / 2)."""
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * freqs[:, :, None]).flatten(-2).to(x.dtype)


def attended(query: Tensor, key: Tensor, value: Tensor, added: Tensor | None = None) -> Tensor:
    """softmax(Q K^T / sqrt d + added) V, (B, heads, n, d): by the user's backend of attention where nothing is added.

    Flash and Sage take no scores to add, so torch's own computes those.
    """
    if added is not None:
        return F.scaled_dot_product_attention(query, key, value, attn_mask=added)
    out = dispatch_attention_fn(query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2))
    return out.transpose(1, 2)


def mean_maps(query: Tensor, key: Tensor, added: Tensor | None = None) -> Tensor:
    """softmax(Q K^T / sqrt d + added), the mean of its heads: (B, heads, n, d), (B, heads, m, d) -> (B, n, m) float32."""
    scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
    return (scores if added is None else scores + added).float().softmax(-1).mean(1)


def projected(attn: Any, read: Tensor) -> Tensor:
    """What a layer gives of what its queries read, (B, places, C): through its last projection."""
    return attn.to_out[1](attn.to_out[0](read)) / attn.rescale_output_factor


class CrossAttention(ABC):
    """A processor of cross-attention: what comes before and after the reading of the text is the layer's own."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Tensor:
        """hidden_states: (B, places, C). attention_mask: (B, 1, tokens), added to the scores."""
        query = heads(attn, attn.to_q(hidden_states))
        return projected(attn, self.read(attn, query, encoder_hidden_states, attention_mask))

    @abstractmethod
    def read(self, attn: Any, query: Tensor, text: Tensor, mask: Tensor | None) -> Tensor:
        """What the queries (B, heads, places, d) read in the text (B, tokens, D): (B, places, C)."""


class ComposedCross(CrossAttention):
    """Cross-attention, composed before the layer's last projection. The text is the global prompt's, then the region's."""

    def __init__(self, layer: str, composer: Composer):
        self._layer = layer
        self._composer = composer
        self._known: dict[tuple[Hashable, ...], tuple[Tensor, Tensor]] = {}

    def read(self, attn: Any, query: Tensor, text: Tensor, mask: Tensor | None) -> Tensor:
        composer = self._composer
        words = text.shape[1] - composer.own

        def attend(
            rows: slice, part: slice, read: tuple[Tensor, Tensor], screened: Tensor | None = None
        ) -> Tensor:
            added = None if mask is None else mask[rows, None, :, part]
            if screened is not None:
                added = screened if added is None else added + screened
            key, value = read
            composer.see(self._layer, lambda: mean_maps(query[rows], key, added))
            return attended(query[rows], key, value, added).transpose(1, 2).flatten(2)

        def regional() -> Tensor:
            rows, part = slice(-len(composer.boxes), None), slice(words, None)
            return attend(rows, part, _keys_and_values(attn, text[rows, part]))

        screened = composer.screening(len(text), words, query.dtype)
        plain = attend(slice(None), slice(words), self._of_prompts(attn, text[:, :words]), screened)
        return composer.compose(self._layer, plain, regional)

    def _of_prompts(self, attn: Any, text: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of the global prompts (B, words, D). They do not depend on the step, and are made once a run."""
        prompts = self._composer.prompts
        if len(prompts) != len(text):
            return _keys_and_values(attn, text)
        apart = tuple(dict.fromkeys(prompts))  # the rows of one prompt follow each other
        each = len(prompts) // len(apart)
        if apart not in self._known:
            self._known[apart] = _keys_and_values(attn, text[::each])
        key, value = self._known[apart]
        return (
            (key, value) if each == 1 else (key.repeat_interleave(each, 0), value.repeat_interleave(each, 0))
        )


def _keys_and_values(attn: Any, text: Tensor) -> tuple[Tensor, Tensor]:
    """Each (B, heads, tokens, d), of a text (B, tokens, D)."""
    return heads(attn, attn.to_k(text)), heads(attn, attn.to_v(text))


class ComposedJoint:
    """SD3's joint attention: image and text each have their own projections.

    The text is the global prompt's, then the region's.
    """

    def __init__(self, layer: str, composer: Composer):
        self._layer = layer
        self._composer = composer

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        query, key, value = (heads(attn, f(hidden_states)) for f in (attn.to_q, attn.to_k, attn.to_v))
        image = Stream(_normed(attn.norm_q, query), _normed(attn.norm_k, key), value)
        query, key, value = (
            heads(attn, f(encoder_hidden_states)) for f in (attn.add_q_proj, attn.add_k_proj, attn.add_v_proj)
        )
        both = (_normed(attn.norm_added_q, query), _normed(attn.norm_added_k, key), value)
        own = self._composer.own
        words = encoder_hidden_states.shape[1] - own
        out, text = compose_joint(
            self._composer,
            self._layer,
            image,
            Stream(*(x[:, :, :words] for x in both)),
            Stream(*(x[:, :, words:] for x in both)) if own else None,
        )
        if not attn.context_pre_only:
            text = attn.to_add_out(text)
        return attn.to_out[1](attn.to_out[0](out)), text


def _normed(norm: Any, x: Tensor) -> Tensor:
    return x if norm is None else norm(x)
