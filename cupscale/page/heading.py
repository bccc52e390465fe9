"""What the page is, which model runs where, and where to read more: its first lines."""

from __future__ import annotations

import os
from html import escape

import gradio as gr

from cupscale import machine, models
from cupscale.installation import ASSETS
from cupscale.page import engine, light

PAPER = "https://arxiv.org/abs/2505.16976"
CARD = ASSETS / "tiny" / "README.md"
_CHIPS = {"cpu": "a CPU", "cuda": "a GPU", "mps": "a Mac's GPU", "xpu": "a GPU"}


def html() -> str:
    """A heading, the promise in one line, and the model with links to paper, code and card."""
    model = engine.default_model()
    links = {"Paper": PAPER, "Code": _code(), "Model card": _card(model)}
    more = " · ".join(f'<a href="{escape(link)}">{name}</a>' for name, link in links.items() if link)
    return (
        "<h1>cupscale</h1><p>Upscale images to 4K and 8K with a diffusion model: adds detail, keeps the content.</p>"
        f"<p>Model <b>{escape(model)}</b> on {_where()} · {more}</p>"
    )


def method() -> None:
    """What the paper states, what is second-hand and what is ours, below all else and closed: README's table, from its file."""
    with gr.Accordion(
        "What the paper states, what is second-hand, and what is ours", open=False, elem_id="method"
    ) as part:
        gr.Markdown((ASSETS / "method.md").read_text("utf-8"), elem_id="method-text")
    light.later(part, part.expand)


def _where() -> str:
    return "ZeroGPU" if engine.ZERO else _CHIPS.get(machine.best_device(), "this machine")


def _code() -> str:
    """The Space's own files; elsewhere the page does not know where its code was had from."""
    space = os.environ.get("SPACE_ID", "")
    return f"https://huggingface.co/spaces/{space}/tree/main" if space else ""


def _card(model: str) -> str:
    """The card of a model from the hub, or of the bundled one, which this page serves."""
    known = models.known_of(model)
    if known is None:
        return ""
    if known.source == str(models.BUNDLED):
        return f"gradio_api/file={CARD}"
    return f"https://huggingface.co/{known.source}"
