"""The Upscale tab: image, settings, plan, run, result."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from cupscale import images, models
from cupscale.errors import CupscaleError
from cupscale.page import engine, examples, history, run, scratch, share, source, viewer
from cupscale.page.filling import Examples, Filling
from cupscale.page.following import Following
from cupscale.page.jobs import Updates
from cupscale.page.painting import SHAPES, Painting
from cupscale.page.session import (
    PRIVATE,
    SILENT,
    TOASTING,
    Session,
    Step,
    new_book,
    refusal,
)

_SHOWN_BY_BROWSERS = ("PNG", "JPEG", "WEBP", "AVIF", "GIF", "BMP")
_CLICK_DOWNLOAD = "() => setTimeout(() => document.querySelector('#other a, a#other, #other')?.click(), 150)"


class UpscaleTab:
    """Its components, made inside its `gr.Tab`, and what they do."""

    def __init__(self, session: Session) -> None:
        self._session = session
        with gr.Row(equal_height=False):
            with gr.Column(scale=5, min_width=320):
                self._build_input()
                self._build_advanced()
            with gr.Column(scale=7, min_width=320):
                self._build_result()
        kept = session.limits.kept_seconds
        self.token = gr.Textbox(visible="hidden", elem_id="run-name")  # of the run that this tab shows
        self.wrote = gr.Textbox(visible="hidden", elem_id="wrote")  # captions of a run, as they arrive
        self.visit = gr.Textbox(visible="hidden", elem_id="visit")  # that the browser kept
        self.shot = gr.State(None, time_to_live=kept, delete_callback=run.forget)
        self.followed = gr.State(session.controls.first.cutoff, time_to_live=kept)

    def _build_input(self) -> None:
        session, controls = self._session, self._session.controls
        session.image.render()  # type: ignore[no-untyped-call]
        self.inside = gr.Button(
            "This picture was made here: use the settings inside it",
            size="sm",
            visible=False,
            elem_id="inside",
        )
        controls.text("prompt", "What the whole picture shows, in plain words. May stay empty.")
        with gr.Row(visible=bool(engine.drawers()), elem_id="words"):
            self.draw = gr.Button("No image? Draw one from the prompt", size="sm", scale=3, elem_id="draw")
            self.shape = gr.Dropdown(
                list(SHAPES),
                value="1:1",
                container=False,
                label="Shape",
                scale=1,
                min_width=90,
                elem_id="shape",
            )
        with gr.Row():
            with gr.Column(scale=3, min_width=180):
                controls.slider("scale")
            with gr.Column(scale=2, min_width=150):
                controls.number("seed", 0, 2**32 - 1)
                session.randomize.render()
        self.plan_line = gr.HTML(run.plan_html("Choose an image to see what a run takes."), elem_id="plan")
        with gr.Row():
            self.run = gr.Button("Upscale", variant="primary", scale=3, elem_id="run")
            self.cancel = gr.Button("Cancel", interactive=False, scale=1, min_width=90, elem_id="cancel")

    def _build_advanced(self) -> None:
        controls = self._session.controls
        with gr.Accordion("Advanced", open=False, elem_id="advanced"):
            with gr.Row():
                offered = models.presets(controls.model)
                self.quick = gr.Button("Quick", size="sm", min_width=80, visible="quick" in offered)
                self.paper = gr.Button("Paper", size="sm", min_width=80, visible="paper" in offered)
                self.reset = gr.Button("Reset", size="sm", min_width=80)
            gr.Markdown(
                "**Quick** takes fewer model calls, **Paper** is what the paper states (for models that can), **Reset** "
                "is what suits the model best.",
                elem_classes="cu-small",
            )
            controls.text(
                "negative_prompt", "What the picture should not show. Needs a guidance above 1.", lines=1
            )
            controls.slider("cutoff")
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
            for name in ("structure", "attention", "detail", "strength"):
                controls.slider(name)
            controls.number("steps", 1, 1000)
            for name in ("guidance", "flat_guidance", "flat_strength", "overlap"):
                controls.slider(name)
            for name in ("upscaler", "scheduler", "model"):
                controls.choice(name)
            controls.share("fidelity")
            with gr.Accordion("What the paper leaves open", open=False, elem_id="choices"):
                controls.choices()

    def _build_result(self) -> None:
        self.viewer = viewer.BeforeAfter(elem_id="result", label="Result")
        self.status = gr.HTML(run.status_html(""), elem_id="status")
        with gr.Row(visible=False, elem_id="downloads") as self.downloads:
            self.png = gr.DownloadButton("PNG", size="sm", min_width=80, elem_id="png")
            self.webp = gr.Button("WebP", size="sm", min_width=80, elem_id="webp")
            self.jpeg = gr.Button("JPEG", size="sm", min_width=80, elem_id="jpeg")
        # Filled on demand and clicked by a script: encoding waits until someone wants the format.
        self.other = gr.DownloadButton("other", visible="hidden", elem_id="other")
        self.gallery: gr.Gallery | None = None
        if examples.every():
            self.gallery = gr.Gallery(
                [(e.path(e.after), e.title) for e in examples.every()],
                label="Examples: a click shows the result",
                columns=4,
                rows=2,
                height="auto",
                object_fit="cover",
                allow_preview=False,
                buttons=[],
                elem_id="examples",
                interactive=False,
            )
        with gr.Accordion("Link, command, restore", open=False, elem_id="share"):
            self.links = share.Share(elem_id="share-rows")
            self.dropped = gr.File(
                label="Drop a result here to get its settings back",
                file_types=["image"],
                height=120,
                elem_id="restore",
            )

    # Events

    def wire(self, demo: gr.Blocks, drawing: Step, past: history.History) -> None:
        """Connect the tab.

        Args:
            demo: Whose loading is a link's opening.
            drawing: The step that draws the regions.
            past: The history, whose entries give their settings back.
        """
        session = self._session
        parts = self.plan_line, self.links, self.kept, self.kept_line, self.followed, self.visit
        following = Following(session, *parts)
        following.wire(drawing)
        filling = Filling(session, self.followed)
        filling.wire_presets(self.quick, self.paper, self.reset)
        restored = filling.outputs
        session.follow(self.dropped.upload(filling.from_file, self.dropped, restored, **TOASTING))
        session.follow(self.inside.click(filling.from_file, session.image, restored, **TOASTING))
        session.follow(past.select(filling.from_history, None, restored, **TOASTING))
        shown = Examples(session, filling, self)
        self._wire_image()
        shown.wire(self.gallery, demo)
        Painting(session, self).wire(demo)
        self._wire_formats()

    def _wire_image(self) -> None:
        session = self._session
        outputs = [session.image, session.example, self.inside, session.book, session.laid]
        session.follow(session.image.input(self.arrived, [session.image, session.laid], outputs, **SILENT))

    def _wire_formats(self) -> None:
        for button, suffix in ((self.webp, "webp"), (self.jpeg, "jpg")):
            made = button.click(
                self._encoder(suffix), self.shot, self.other, show_progress="minimal", **PRIVATE
            )
            made.success(None, js=_CLICK_DOWNLOAD)

    # Handlers

    def arrived(self, path: str | None, laid: Any) -> Updates:
        """A new input image: captions of another one go, and what a browser cannot show is shown as PNG."""
        session = self._session
        updates: Updates = {session.example: None, self.inside: gr.update(visible=False)}
        if laid is not None and laid["image"] != path:
            updates |= {session.book: new_book(), session.laid: None}
        if not path:
            return updates
        try:
            picture = source.opened(path, session.limits)
        except CupscaleError:  # the plan line says it, and so does the run
            return updates
        with Image.open(path) as opened:
            plain = opened.format in _SHOWN_BY_BROWSERS
        if not plain:
            shown = scratch.new_folder() / source.shown_name(path)
            image = images.finish(picture.rgb, picture.alpha)
            updates[session.image] = str(images.write(image, shown, picture.settings_text))
        if picture.settings_text:
            updates[self.inside] = gr.update(visible=True)
        return updates

    def _encoder(self, suffix: str) -> Callable[[Any], Any]:
        """A handler that gives the result in another format, encoded when someone wants it."""

        def encode(shot: Any) -> Any:
            try:
                if not isinstance(shot, run.Shot) or not Path(shot.png).is_file():
                    raise CupscaleError(
                        "this result is no longer on the server: take it from the History tab, or run again"
                    )
                return run.encode(shot, suffix)
            except CupscaleError as error:  # raised, so that no download follows
                raise refusal(error) from None

        return encode
