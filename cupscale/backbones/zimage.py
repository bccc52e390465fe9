"""Z-Image and Z-Image-Turbo (Tongyi-MAI, 2025): a flow-matching transformer in which image and text are one sequence.

The modern model of choice here, of Z-Image, Qwen-Image and FLUX. Its licence is Apache-2.0. With its text encoder it takes
21 GB in bf16, where Qwen-Image (20 B and an encoder of 7 B) does not fit a 48 GB card. diffusers 0.42 has an img2img pipeline
of it to compare with; its autoencoder is the `AutoencoderKL` that is tiled here already; its attention is a processor that can
be exchanged; and its Turbo runs in 8 steps without guidance.

A window is cut into patches of 2 x 2 cells, whose rotary positions count from the window's own corner, behind the text's on
the first axis. A region's caption goes through the layers behind the global prompt and is placed so that it ends where the
prompt ends: seen from the image it lies where it would lie alone. Guidance here is 1 + the `guidance_scale` of diffusers'
pipeline, for whom 0 is off.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from diffusers.models.transformers.transformer_z_image import ZSingleStreamAttnProcessor
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from cupscale.backbones.attention import composed, turned
from cupscale.backbones.base import DiffusersBackbone
from cupscale.backbones.control import ZIMAGE_KINDS, check_control
from cupscale.backbones.denoiser import Call, Text, split
from cupscale.method.composer import Composer
from cupscale.method.joint import Stream, compose_joint

TEXT_TOKENS = 512
NATIVE_TOKENS = 64  # a side: 1024 px


class ZImageBackbone(DiffusersBackbone):
    """`ZImagePipeline`."""

    PARTS: ClassVar = {
        "vae": "AutoencoderKL",
        "transformer": "ZImageTransformer2DModel",
        "scheduler": "FlowMatchEulerDiscreteScheduler",
        "text_encoder": "AutoModel",
        "tokenizer": "AutoTokenizer",
    }
    control_sees_latents = True

    def __init__(self, pipe: Any):
        super().__init__(pipe)
        self._layout = Layout()

    def _native_cells(self) -> int:
        """1024 px, or as far as the table of positions reaches."""
        return min(NATIVE_TOKENS, *self.network.config.axes_lens[1:]) * self._patch()

    def most_cells(self) -> int:
        return min(self.network.config.axes_lens[1:]) * self._patch()

    def _patch(self) -> int:
        return int(self.network.config.all_patch_size[0])

    def _sigmas(self, steps: int) -> list[float]:
        """From 1 to 1 / steps, evenly, as the pipeline has it."""
        return [1 - i / steps for i in range(steps)]

    def check_control(self) -> None:
        check_control(self.pipe, ZIMAGE_KINDS)

    # Text

    def encode_texts(self, prompts: Sequence[str]) -> list[Text]:
        embeds, _ = self.pipe.encode_prompt(
            list(prompts), self.device, False, max_sequence_length=TEXT_TOKENS
        )
        return split(embeds)

    # Network

    @contextmanager
    def _hooks(self, composer: Composer) -> Iterator[None]:
        network = self.network
        self._layout = layout = Layout()
        names = {f"layers.{k}.attention" for k in range(len(network.layers))}
        hooks = composed(
            network,
            composer,
            lambda name, composer: ComposedSingle(name, composer, layout),
            names.__contains__,
            (ZSingleStreamAttnProcessor,),
        )
        with hooks:
            network._build_unified_sequence = self._unified(network._build_unified_sequence)
            try:
                yield
            finally:
                self._layout = Layout()
                del network._build_unified_sequence  # the class has its own

    def call(self, call: Call, composer: Composer) -> Tensor:
        layout, patch = self._layout, self._patch()
        height, width = call.latents.shape[-2:]
        layout.tokens = (height // patch) * (width // patch)
        layout.captions = call.own
        composer.own = len(call.own)
        latents = list(call.latents.to(call.texts[0].embeds.dtype)[:, :, None])  # each (C, 1, h, w)
        time = (1 - call.t / 1000).expand(len(call.texts))
        words = [text.embeds[0] for text in call.texts]
        added = None
        if self._control is not None:
            behind = max((_padded(len(text.embeds[0])) for text in call.own), default=0)
            added = self._control.of_zimage(call, latents, time, words, behind)
        outputs = self.runner(latents, time, words, return_dict=False, controlnet_block_samples=added)[0]
        return -torch.stack(list(outputs))[:, :, 0].float()  # towards the image: against the scheduler's way

    def _unified(self, build: Any) -> Any:
        """The network's own way of joining image and text, with the regions' captions put behind them."""
        layout = self._layout

        def joined(
            x: Any,
            x_freqs: Any,
            x_lengths: Any,
            x_noise: Any,
            words: Any,
            word_freqs: Any,
            word_lengths: Any,
            *rest: Any,
        ) -> Any:
            sequence, freqs, mask, noise = build(
                x, x_freqs, x_lengths, x_noise, words, word_freqs, word_lengths, *rest
            )
            layout.image = x_lengths[0]
            layout.words = sequence.shape[1] - layout.image
            layout.own = None
            if layout.captions:
                captions = [self._caption(text) for text in layout.captions]
                places = [self._places(len(caption), word_lengths[-1]) for caption in captions]
                before = len(sequence) - len(captions)  # rows before the conditional half
                room = (0, 0, 0, 0, before, 0)
                own = torch.nn.functional.pad(pad_sequence(captions, batch_first=True), room)
                own_freqs = pad_sequence(places, batch_first=True)
                own_freqs = torch.cat((own_freqs.new_zeros(before, *own_freqs.shape[1:]), own_freqs))
                read = pad_sequence(
                    [c.new_ones(len(c), dtype=torch.bool) for c in captions], batch_first=True
                )
                layout.own = torch.nn.functional.pad(read, (0, 0, before, 0))
                sequence = torch.cat((sequence, own.to(sequence.dtype)), dim=1)
                freqs = torch.cat((freqs, own_freqs), dim=1)
            return sequence, freqs, mask, noise

        return joined

    def _caption(self, text: Text) -> Tensor:
        """(tokens, D): a caption as the layers take it. It depends on nothing else, so it is kept for the run."""
        refined = self._layout.refined
        if id(text) not in refined:
            network = self.network
            embeds = text.embeds[0]
            length = _padded(len(embeds))
            padded, ids, pad_mask, _, _ = network._pad_with_ids(
                embeds, (length, 1, 1), (1, 0, 0), embeds.device
            )
            out, freqs, mask, _, _ = network._prepare_sequence(
                [network.cap_embedder(padded)], [ids], [pad_mask], network.cap_pad_token, None, embeds.device
            )
            for layer in network.context_refiner:
                out = layer(out, mask, freqs)
            refined[id(text)] = out[0]
        return refined[id(text)]

    def _places(self, length: int, end: int) -> Tensor:
        """(length, d / 2): rotary positions on the first axis from end - length + 1 to end, below 0 too."""
        embed = self.network.rope_embedder
        device = self.device
        ids = torch.zeros(length, 3, dtype=torch.int32, device=device)
        ids[:, 0] = torch.arange(1, length + 1, device=device)
        shift = torch.zeros(1, 3, dtype=torch.int32, device=device)
        shift[:, 0] = abs(end - length)
        turn = embed(shift)
        return embed(ids) * (turn if end >= length else turn.conj())


def _padded(tokens: int) -> int:
    """Texts are filled up to a multiple of 32 tokens."""
    return tokens + -tokens % 32


@dataclass
class Layout:
    """Where in the sequence of a call the image, the global prompt and the regions' captions lie: in this order.

    image: tokens of the image, of which the first `tokens` are its grid. words: of the prompt, padded. own: the mask of the
    regions' captions (B, tokens), or None. refined: the captions as the layers take them, by their identity.
    """

    image: int = 0
    tokens: int = 0
    words: int = 0
    own: Tensor | None = None
    captions: Sequence[Text] = field(default=(), repr=False)
    refined: dict[int, Tensor] = field(default_factory=dict, repr=False)


class ComposedSingle:
    """Joint attention of one sequence, composed."""

    def __init__(self, layer: str, composer: Composer, layout: Layout):
        self._layer = layer
        self._composer = composer
        self._layout = layout

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        freqs_cis: Tensor | None = None,
    ) -> Tensor:
        """attention_mask: (B, image and words), True where a token is read. freqs_cis: (B, tokens, d / 2), complex."""
        query, key, value = (
            f(hidden_states).unflatten(-1, (attn.heads, -1)) for f in (attn.to_q, attn.to_k, attn.to_v)
        )
        query = query if attn.norm_q is None else attn.norm_q(query)
        key = key if attn.norm_k is None else attn.norm_k(key)
        if freqs_cis is not None:
            query, key = turned(query, freqs_cis), turned(key, freqs_cis)
        n, end = self._layout.image, self._layout.image + self._layout.words
        query, key, value = (x.transpose(1, 2) for x in (query, key, value))

        def stream(of: slice, mask: Tensor | None = None) -> Stream:
            return Stream(query[:, :, of], key[:, :, of], value[:, :, of], mask)

        mask = None if attention_mask is None else attention_mask[:, n:end]
        own = self._layout.own
        image, text = compose_joint(
            self._composer,
            self._layer,
            stream(slice(n)),
            stream(slice(n, end), mask),
            None if own is None else stream(slice(end, None), own),
            self._layout.tokens,
        )
        out = attn.to_out[0](torch.cat((image, text), dim=1))
        return attn.to_out[1](out) if len(attn.to_out) > 1 else out
