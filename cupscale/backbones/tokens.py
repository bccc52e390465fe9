"""How many tokens of a text each family's encoder reads: one rule for a loaded pipeline and for its tokenizer alone."""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from cupscale.captions import TokenBudget
from cupscale.models import KNOWN


@dataclass(frozen=True)
class Rule:
    """Of one family.

    Attributes:
        tokenizer: The pipeline's part that counts.
        marks: Tokens that the tokenizer adds of its own.
        length: The most tokens that are read, marks included; None for the tokenizer's own limit, which is kept in any case.
        chat: The text is read inside of the tokenizer's chat template, whose tokens are marks.
        thinking: The template's own switch.
        template: Gives words with "{}" in them that the text is read inside of, whose tokens are marks, and how many of the
            first tokens the network does not get to see; None where there are none.
    """

    tokenizer: str = "tokenizer"
    marks: int = 2
    length: int | None = None
    chat: bool = False
    thinking: bool = True
    template: Callable[[], tuple[str, int]] | None = None

    def budget(self, tokenizer: Any) -> TokenBudget:
        """With the tokenizer at hand."""
        length = int(tokenizer.model_max_length)
        length = length if self.length is None else min(self.length, length)
        words, dropped = self.template() if self.template else ("", 0)

        def total(text: str) -> int:
            if self.chat:
                messages = [{"role": "user", "content": text}]
                text = tokenizer.apply_chat_template(
                    messages, tokenize=False, add_generation_prompt=True, enable_thinking=self.thinking
                )
            elif words:
                text = words.format(text)
            return len(tokenizer(text, truncation=False, verbose=False).input_ids)

        marks = total("") if self.chat or words else self.marks
        return TokenBudget(lambda text: total(text) - marks, length + dropped - marks)


def rule_of(pipeline: str, parts: Container[str]) -> Rule:
    """The rule of a pipeline's class, by its name; SD3's depends on whether it has its T5 among its parts."""
    pipeline = pipeline.replace("Img2Img", "")
    if pipeline == "StableDiffusion3Pipeline" and not ("text_encoder_3" in parts and "tokenizer_3" in parts):
        return Rule()
    return _RULES.get(pipeline, Rule())


@lru_cache(maxsize=1)
def _of_qwen_image() -> tuple[str, int]:
    """As its pipeline has them, which needs no weights for that."""
    from diffusers import QwenImagePipeline

    empty: Any = QwenImagePipeline(*[None] * 5)
    return empty.prompt_template_encode, empty.prompt_template_encode_start_idx


_RULES = {
    "StableDiffusionPipeline": Rule(),
    "StableDiffusionXLPipeline": Rule("tokenizer_2"),
    "StableDiffusionControlNetPipeline": Rule(),
    "StableDiffusionXLControlNetPipeline": Rule("tokenizer_2"),
    "StableDiffusionXLControlNetUnionPipeline": Rule("tokenizer_2"),
    "PixArtAlphaPipeline": Rule(marks=1, length=120),  # the lengths they were trained on
    "PixArtSigmaPipeline": Rule(marks=1, length=300),
    "StableDiffusion3Pipeline": Rule("tokenizer_3", marks=1, length=256),
    "ZImagePipeline": Rule(length=512, chat=True),
    "ZImageControlNetPipeline": Rule(length=512, chat=True),
    "Flux2KleinPipeline": Rule(length=512, chat=True, thinking=False),
    "QwenImagePipeline": Rule(length=512, template=_of_qwen_image),
}


def token_budget(model: str) -> TokenBudget | None:
    """Without loading the model: for a known one, a hub id or a folder; None where its tokenizer cannot be read."""
    from diffusers import DiffusionPipeline
    from transformers import AutoTokenizer

    source = KNOWN[model].source if model in KNOWN else model
    try:
        index = DiffusionPipeline.load_config(source)
        parts = {name for name, kind in index.items() if isinstance(kind, (list, tuple)) and kind[0]}
        rule = rule_of(str(index["_class_name"]), parts)
        folder = Path(source) / rule.tokenizer
        place = (
            {"pretrained_model_name_or_path": str(folder)}
            if folder.is_dir()
            else {"pretrained_model_name_or_path": source, "subfolder": rule.tokenizer}
        )
        return rule.budget(AutoTokenizer.from_pretrained(**place))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
