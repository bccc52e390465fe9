"""The Upscale tab: image, settings, plan, run, result."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from cupscale import images
from cupscale.errors import CupscaleError
from cupscale.page import engine, examples, history, keeping, light, mask, run, scratch, share, source, viewer
from cupscale.page.advanced import Advanced
from cupscale.page.creativity import Creativity
from cupscale.page.filling import Examples, Filling
from cupscale.page.following import NO_IMAGE, Following
from cupscale.page.jobs import Updates
from cupscale.page.opening import CLICK_DOWNLOAD, Opening
from cupscale.page.painting import SHAPES, Painting
from cupscale.page.session import (
    PRIVATE,
    TOASTING,
    Session,
    Step,
    complain,
    new_book,
    refusal,
)
from cupscale.planning import Target

_SHOWN_BY_BROWSERS = ("PNG", "JPEG", "WEBP", "AVIF", "GIF", "BMP")


class UpscaleTab:
    """Its components, made inside its `gr.Tab`, and what they do."""

    def __init__(self, session: Session) -> None:
        self._session = session
        with gr.Row(equal_height=False, elem_id="first"):
            with gr.Column(scale=5, min_width=320):
                self._build_input()
                self.protecting = mask.Protecting(session)
            with gr.Column(scale=7, min_width=320, elem_id="shown"):
                self._build_result()
        self.advanced = Advanced(session)
        kept = session.limits.kept_seconds
        self.token = gr.Textbox("", visible=False, elem_id="run-name")  # of the run that this tab shows
        self.wrote = gr.Textbox("", visible=False, elem_id="wrote")  # captions of a run, as they arrive
        self.visit = gr.Textbox(visible="hidden", elem_id="visit")  # that the browser keeps
        # The address and the visit that the page was opened with.
        self.address = gr.Textbox("", visible=False, elem_id="address")
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
        controls.text("prompt", "What the picture shows. May stay empty.", lines=1)
        controls.size()
        self.creativity = Creativity(controls.first, elem_id="creativity")
        self.plan_line = gr.HTML(run.plan_html(NO_IMAGE), elem_id="plan")
        self.refused = gr.HTML("", elem_id="refused", elem_classes="cu-refused")
        self.smaller = gr.Button("", size="sm", visible=False, elem_id="smaller")
        with gr.Row():
            self.run = gr.Button("Upscale", variant="primary", scale=3, elem_id="run")
            self.cancel = gr.Button("Cancel", interactive=False, scale=1, min_width=90, elem_id="cancel")
        drawers = bool(engine.drawers())
        with gr.Row(visible=drawers, elem_id="words"):
            self.draw = gr.Button("No image? Draw one from the prompt", size="sm", scale=3, elem_id="draw")
            self.shape = gr.Dropdown(
                list(SHAPES),
                value="1:1",
                container=False,
                label="Shape",
                scale=1,
                min_width=90,
                elem_id="shape",
                visible=drawers,
            )

    def _build_result(self) -> None:
        best = examples.best()
        self.viewer = viewer.BeforeAfter(
            elem_id="result", label="Result", first=best.pair() if best else None
        )
        self.status = gr.HTML(run.status_html(""), elem_id="status")
        gr.HTML(run.TELL)
        with gr.Row(visible=False, elem_id="downloads") as self.downloads:
            self.png = gr.DownloadButton(
                "Download PNG", size="sm", min_width=80, elem_id="png", visible=False
            )
            self.webp = gr.Button("Download WebP", size="sm", min_width=80, elem_id="webp")
            self.jpeg = gr.Button("Download JPEG", size="sm", min_width=80, elem_id="jpeg")
        # Filled on demand and clicked by a script: encoding waits until someone wants the format.
        self.other = gr.DownloadButton("other", visible=False, elem_id="other")
        self.strip: examples.Strip | None = None
        if examples.every():
            self.strip = examples.Strip(elem_id="examples")
        with gr.Accordion("Link, command, restore", open=False, elem_id="share") as self.sharing:
            self.links = share.Share(elem_id="share-rows")
            self.links.value = share.texts(
                self._session.controls.first, None, "photo.png", self._session.limits
            )
            self.keeping = keeping.Keeping(self._session.limits)
            self.dropped = gr.File(
                label="Drop a result here to get its settings back",
                file_types=["image"],
                height=160,
                elem_id="restore",
            )

    # Events

    def wire(
        self, demo: gr.Blocks, steps: tuple[Step, Step], past: history.History, tabs: gr.Tabs
    ) -> Opening:
        """Connect the tab.

        Args:
            demo: Whose loading is a link's opening.
            steps: Of the Regions tab, after the plan: what fills the table, and what draws the regions.
            past: The history, whose entries give their settings back, and open in the slider.
            tabs: Of the page.

        Returns:
            What opens results of other tabs in this one.
        """
        session = self._session
        following = Following(session, self)
        following.wire(*steps)
        filling = Filling(session, self.followed)
        filling.wire_presets(self.advanced)
        light.later(self.advanced.part, self.advanced.part.expand)
        self.protecting.wire()
        light.later(self.sharing, self.sharing.expand)
        restored = filling.outputs
        session.follow(self.dropped.upload, filling.from_file, self.dropped, restored, **TOASTING)
        session.follow(self.inside.click, filling.from_file, session.image, restored, **TOASTING)
        session.follow(past.select, filling.from_history, None, restored, **TOASTING)
        shown = Examples(session, filling, self)
        self._wire_image()
        shown.wire(self.strip, demo)
        Painting(session, self).wire(demo)
        self._wire_formats()
        opening = Opening(session, filling, self, tabs)
        opening.wire(past)
        self.keeping.wire(demo, opening)
        return opening

    def _wire_image(self) -> None:
        session = self._session
        outputs = [session.image, session.example, self.inside, session.book, session.laid]
        outputs += [session.target, session.controls["scale"]]
        given = [session.image, session.laid, session.target]
        session.follow(session.image.input, self.arrived, given, outputs, **TOASTING)

    def _wire_formats(self) -> None:
        for button, suffix in ((self.webp, "webp"), (self.jpeg, "jpg")):
            made = button.click(
                self._encoder(suffix), self.shot, self.other, show_progress="minimal", **PRIVATE
            )
            made.success(None, js=CLICK_DOWNLOAD)

    # Handlers

    def arrived(self, path: str | None, laid: Any, target: Target | None = None) -> Updates:
        """Take a new input image.

        Captions of another one go, and the size that a link asked for becomes its scale. What a browser cannot show,
        or may show in other colours than those of the result, is shown as PNG.
        """
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
        if target:
            updates[session.target] = None
            try:
                updates[session.controls["scale"]] = target.scale(picture.size)
            except CupscaleError as error:
                complain(error, "The size of the link was left out")
        with Image.open(path) as opened:
            plain = opened.format in _SHOWN_BY_BROWSERS and not picture.converted
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
                    raise CupscaleError(run.GONE)
                return gr.update(value=run.encode(shot, suffix), visible="hidden")
            except CupscaleError as error:  # raised, so that no download follows
                raise refusal(error) from None

        return encode
