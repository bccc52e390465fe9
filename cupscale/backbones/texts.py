"""Prompts that the text encoder reads to their end; of captions see `cupscale.captions.within_budget`."""

from __future__ import annotations

from cupscale.backbones import Backbone
from cupscale.captions import fit
from cupscale.settings import Settings


def readable(settings: Settings, backbone: Backbone) -> tuple[Settings, list[str]]:
    """The settings with their prompts cut, at a word, to what `backbone` reads, and what was cut, for a person."""
    messages = []
    for name in ("prompt", "negative_prompt"):
        short, rest = fit(getattr(settings, name), backbone.budget)
        if rest:
            settings = settings.model_copy(update={name: short})
            messages.append(
                f"the text encoder reads {backbone.budget.limit} tokens: the {name.replace('_', ' ')} was cut, "
                f"without {rest!r}"
            )
    return settings, messages
