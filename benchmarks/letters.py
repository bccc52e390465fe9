"""Tokenizers of single letters and bytes, for random weights: every text is read, none is known."""

from __future__ import annotations

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, T5Tokenizer


def t5_tokenizer() -> T5Tokenizer:
    """A T5 tokenizer of single letters."""
    marks = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    vocab = [*marks, *((chr(c), -3.0) for c in range(33, 127))]
    return T5Tokenizer(vocab=vocab, extra_ids=0, model_max_length=512)


def qwen_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of bytes with a chat template."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    marks = ["<|end|>", "<|start|>"]
    words = Tokenizer(models.BPE(vocab={word: k for k, word in enumerate([*marks, *letters])}, merges=[]))
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="<|end|>",
        eos_token="<|end|>",
        additional_special_tokens=["<|start|>"],
    )
    tokenizer.chat_template = (
        "{% for message in messages %}<|start|>{{ message.role }} {{ message.content }}<|end|>{% endfor %}"
        "<|start|>{% if enable_thinking is false %}none{% endif %}"
    )
    return tokenizer
