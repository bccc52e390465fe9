"""Everything that the first screen leaves out, in groups, under "Advanced"."""

from __future__ import annotations

from collections.abc import Collection

import gradio as gr

from cupscale import models
from cupscale.page.session import Session
from cupscale.settings import CHOICES, PRESETS, SAVINGS


class Advanced:
    """Its components, made where it stands.

    Attributes:
        part: The accordion.
        presets: Their buttons, by name. reset: the one for the model's own defaults. presets_line: what they do.
        kept, kept_line: What the cutoff keeps of the image.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        with gr.Accordion("Advanced", open=False, elem_id="advanced") as self.part:
            self._presets()
            with gr.Row(equal_height=False):  # beside one another, so that all is seen at once
                for group in (self._keeping, self._words, self._sampling):
                    with gr.Column(min_width=280):
                        group()
            with gr.Accordion("Fewer model calls", open=False, elem_id="savings"):
                session.controls.several(SAVINGS)
            with gr.Accordion("What the paper leaves open", open=False, elem_id="choices"):
                session.controls.several(CHOICES)

    def _presets(self) -> None:
        offered = models.presets(self._session.controls.model)
        with gr.Row():
            self.presets = {
                name: gr.Button(name.title(), size="sm", min_width=80, visible=name in offered)
                for name in PRESETS
            }
            self.reset = gr.Button("Reset", size="sm", min_width=80)
        self.presets_line = gr.HTML(presets_html(offered), elem_id="presets")

    def _keeping(self) -> None:
        controls = self._session.controls
        _heading("Keep or invent")
        for name in ("strength", "structure", "cutoff", "control"):
            controls.slider(name)
        self.kept = gr.Image(
            label="What the cutoff keeps of your image",
            interactive=False,
            buttons=[],
            height=170,
            visible=False,
            alt_text="Your image, and its low-frequency part, which stays put",
            elem_id="kept",
        )
        self.kept_line = gr.Markdown("", elem_classes="cu-small")
        with gr.Row():
            controls.share("restore")
            controls.share("fidelity")
        controls.share("flat_strength")

    def _words(self) -> None:
        controls = self._session.controls
        _heading("Words")
        controls.text(
            "negative_prompt", "What the picture should not show. Needs a guidance scale above 1.", lines=1
        )
        for name in ("guidance", "flat_guidance", "attention", "detail"):
            controls.slider(name)

    def _sampling(self) -> None:
        controls = self._session.controls
        _heading("Model and sampling")
        with gr.Row():
            controls.number("seed", 0, 2**32 - 1)
            self._session.randomize.render()
        with gr.Row():
            controls.choice("model")
            controls.choice("upscaler")
        with gr.Row():
            controls.number("steps", 1, 1000)
            controls.choice("scheduler")
        controls.slider("overlap")
        controls.choice("seamless")


_DO = {
    "quick": "takes fewer model calls",
    "turbo": "takes one or two steps",
    "paper": "is what the paper states",
}


def presets_html(offered: Collection[str]) -> str:
    """What the buttons of presets do that a model offers, and Reset."""
    said = [f"<b>{name.title()}</b> {_DO[name]}" for name in PRESETS if name in offered]
    return f'<p class="cu-small">{", ".join([*said, "<b>Reset</b> is what suits the model best"])}.</p>'


def _heading(text: str) -> None:
    gr.HTML(f'<h2 class="cu-group">{text}</h2>')
