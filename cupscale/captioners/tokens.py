"""How many tokens a model's text encoder counts, without loading the model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cupscale.models import KNOWN


@dataclass(frozen=True)
class TokenCounter:
    """count: tokens of a text, the tokenizer's marks left out. limit: how many the encoder reads."""

    count: Callable[[str], int]
    limit: int


def token_counter(model: str) -> TokenCounter | None:
    """For a known model, a hub id or a folder; None where its tokenizer cannot be read."""
    from transformers import AutoTokenizer

    source = KNOWN[model].source if model in KNOWN else model
    for folder in ("tokenizer_2", "tokenizer"):
        if Path(source).is_dir() and not (Path(source) / folder).is_dir():
            continue
        try:
            tokenizer = AutoTokenizer.from_pretrained(source, subfolder=folder)
        except (OSError, ValueError, KeyError):
            continue
        marks = len(tokenizer("").input_ids)

        def count(text: str, tokenizer: object = tokenizer, marks: int = marks) -> int:
            return len(tokenizer(text, truncation=False, verbose=False).input_ids) - marks  # type: ignore[operator]

        return TokenCounter(count, tokenizer.model_max_length - marks)
    return None
