"""The Upscale tab: image, settings, plan, run, result."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from cupscale import images, models
from cupscale.errors import CupscaleError
from cupscale.page import engine, examples, history, queue, run, scratch, share, source, viewer
from cupscale.page.filling import Examples, Filling
from cupscale.page.following import Following
from cupscale.page.session import (
    GPU,
    PRIVATE,
    SILENT,
    TOASTING,
    Session,
    Step,
    Updates,
    Values,
    complain,
    new_book,
    refusal,
)
from cupscale.planning import nearest_size

SHAPES = {"1:1": 1.0, "4:3": 4 / 3, "3:4": 3 / 4, "16:9": 16 / 9, "9:16": 9 / 16}  # of a picture from words
_SHOWN_BY_BROWSERS = ("PNG", "JPEG", "WEBP", "AVIF", "GIF", "BMP")
# A run leaves a mark in its tab that its end takes away. One that is still there when the page opens tells of a run that was
# lost with the connection, the server or the page itself.
_MARK_RUN = "() => { sessionStorage.setItem('cupscale-run', '1') }"
_UNMARK_RUN = "() => { sessionStorage.removeItem('cupscale-run') }"
_TELL_LOST = """(status) => {
  if (!sessionStorage.getItem('cupscale-run')) return {__type__: 'update'}
  sessionStorage.removeItem('cupscale-run')
  return LOST
}"""
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
            for name in ("guidance", "flat_guidance", "overlap"):
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
        following = Following(session, self.plan_line, self.links, self.kept, self.kept_line, self.followed)
        following.wire(drawing)
        filling = Filling(session, self.followed)
        filling.wire_presets(self.quick, self.paper, self.reset)
        restored = filling.outputs
        session.follow(self.dropped.upload(filling.from_file, self.dropped, restored, **TOASTING))
        session.follow(self.inside.click(filling.from_file, session.image, restored, **TOASTING))
        session.follow(past.select(filling.from_history, None, restored, **TOASTING))
        shown = Examples(session, filling, self.viewer, self.status, self.inside, self.downloads)
        self._wire_image()
        shown.wire(self.gallery, demo)
        self._wire_run()
        lost = run.plan_html(
            "The last run was lost: the page or its server went away. Upscale runs it again.", wrong=True
        )
        demo.load(None, self.status, self.status, js=_TELL_LOST.replace("LOST", json.dumps(lost)), **SILENT)
        self._wire_formats()

    def _wire_image(self) -> None:
        session = self._session
        outputs = [session.image, session.example, self.inside, session.book, session.laid]
        session.follow(session.image.input(self.arrived, [session.image, session.laid], outputs, **SILENT))

    def _wire_run(self) -> None:
        """The two buttons that run something, and the one that stops it."""
        session = self._session
        controls = [self.viewer, self.status, self.run, self.draw, self.cancel]
        outputs = [*controls, session.controls["seed"], self.shot, self.downloads]
        started = self._run_at(
            self.run, self.start, {self.shot, session.laid}, [*outputs, self.png, self.jpeg]
        )
        self.run.click(None, js=_MARK_RUN)
        started.success(None, js=_UNMARK_RUN)
        self.cancel.click(None, js=_UNMARK_RUN)
        laid = [session.image, session.example, session.book, session.laid, self.inside]
        drawn = self._run_at(self.draw, self.drawn, {self.shot, self.shape}, [*outputs, *laid])
        session.follow(drawn)
        self.cancel.click(self.stopped, None, controls, cancels=[started, drawn], **SILENT)

    def _run_at(
        self, button: gr.Button, handler: Callable[..., Any], more: set[Any], outputs: list[Any]
    ) -> Any:
        """A click that runs something. more: inputs beside the settings."""
        return queue.admitted(button.click, self._session.limits)(
            handler,
            self._session.inputs | more,
            outputs,
            show_progress="minimal",
            show_progress_on=[self.status],
            trigger_mode="once",
            **GPU,
            **PRIVATE,
        )

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
            updates[session.image] = str(images.write(images.finish(picture.rgb, picture.alpha), shown))
        if picture.settings_text:
            updates[self.inside] = gr.update(visible=True)
        return updates

    @queue.attended
    def start(self, values: Values) -> Generator[Updates, None, None]:
        """The run, from the button to the result."""
        yield from self._guarded(self._watched(values), values)

    @queue.attended
    def drawn(self, values: Values) -> Generator[Updates, None, None]:
        """A picture from the prompt, which becomes the input; another seed draws another."""
        yield from self._guarded(self._drawing(values), values)

    def _guarded(
        self, steps: Generator[Updates, None, None], values: Values
    ) -> Generator[Updates, None, None]:
        """The updates of a run, whose buttons come back after every end."""
        run.forget(values[self.shot])
        yield {
            self.cancel: gr.update(interactive=True),
            self.run: gr.update(interactive=False),
            self.draw: gr.update(interactive=False),
            self.shot: None,
            self.downloads: gr.update(visible=False),
            self.status: run.status_html("starting", 0.0),
        }
        try:
            yield from steps
        except CupscaleError as error:
            yield self._failed(str(error))
        except MemoryError:
            yield self._failed(
                "out of memory, one region at a time: choose a smaller scale, or a machine with more of it"
            )

    def _watched(self, values: Values) -> Generator[Updates, None, None]:
        session = self._session
        settings = session.settings(values, draw_seed=True)
        picture = source.read(values[session.image], session.limits)
        fraction = 0.0
        sights = run.watch(picture, settings, session.limits, source.name(values[session.image]))
        with contextlib.closing(sights):
            for sight in sights:
                fraction = max(fraction, sight.fraction)
                if sight.notice:
                    complain(CupscaleError(sight.notice), "Note")
                if sight.shot:
                    yield self._finished(sight.shot)
                    continue
                updates = {
                    self.status: run.status_html(sight.status, fraction),
                    session.controls["seed"]: settings.seed,
                }
                if sight.preview is not None:
                    updates[self.viewer] = viewer.preview(sight.preview, "Preview of the result", sight.size)
                yield updates

    def _drawing(self, values: Values) -> Generator[Updates, None, None]:
        session = self._session
        settings = session.controls.settings(values, randomize=bool(values[session.randomize]))
        width, height = nearest_size(SHAPES[values[self.shape]], engine.geometry(settings.model))
        settings = settings.replace(scale=1.0, size=f"{width}x{height}", captions=())
        with contextlib.closing(run.watch(None, settings, session.limits, "words")) as sights:
            for sight in sights:
                if sight.shot is None:
                    yield {self.status: run.status_html(sight.status, sight.fraction)}
                    continue
                yield {
                    **self._idle(),
                    session.image: sight.shot.png,
                    session.example: None,
                    session.book: new_book(),
                    session.laid: None,
                    session.controls["seed"]: settings.seed,
                    self.inside: gr.update(visible=False),
                    self.viewer: viewer.empty(),
                    self.status: run.status_html("Drawn. Upscale enlarges it; another seed draws another."),
                }

    def _idle(self) -> Updates:
        return {
            self.cancel: gr.update(interactive=False),
            self.run: gr.update(interactive=True),
            self.draw: gr.update(interactive=True),
        }

    def _finished(self, shot: run.Shot) -> Updates:
        return {
            self.viewer: viewer.pair(shot.before, shot.png, shot.size, shot.note, history.entry(shot)),
            self.status: run.status_html("Done."),
            self.shot: shot,
            self.png: shot.png,
            self.jpeg: gr.update(value="JPEG on white" if shot.transparent else "JPEG"),
            self.downloads: gr.update(visible=True),
            **self._idle(),
        }

    def _failed(self, line: str) -> Updates:
        complain(CupscaleError(line))
        return {**self._idle(), self.status: run.plan_html(line, wrong=True)}

    def stopped(self) -> Updates:
        """Cancel."""
        return {
            self.status: run.status_html("Cancelled. Nothing was kept."),
            self.viewer: viewer.empty(),
            **self._idle(),
        }

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
