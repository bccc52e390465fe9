"""The Regions tab: the grid over the image, and the captions in a table."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from typing import Any

import gradio as gr

from cupscale.errors import CupscaleError
from cupscale.page import captions, queue, regions, run, writers
from cupscale.page.jobs import Display, Steps, Updates
from cupscale.page.session import (
    FOLLOWING,
    PRIVATE,
    RUN,
    SILENT,
    TOASTING,
    Session,
    Step,
    Values,
    complain,
    new_book,
)
from cupscale.planning import Plan
from cupscale.settings import Settings

# What the page itself puts into the caption box comes as null: the box has no focus then.
_IF_TYPED = "(text, ...rest) => [document.activeElement?.closest('#caption') ? text : null, ...rest]"
# The browser fills the table: with the latest rows that the server laid, of answers that overtake each other, and with what
# someone types in the box, of which the server does not know the last letters yet.
_LAY = """(laid, text, region, table) => {
  const given = laid ? JSON.parse(laid) : null, k = (region || 1) - 1
  let rows = table?.data ?? []
  if (given && given.serial > (window.cupscaleLaid ?? 0)) {
    window.cupscaleLaid = given.serial
    rows = given.rows
  }
  if (document.activeElement?.closest('#caption') && rows[k] && (rows[k][2] ?? '') !== text) {
    rows = rows.map((row, n) => n === k ? [row[0], row[1], text] : row)
  }
  return rows === table?.data ? {__type__: 'update'} : {...table, data: rows}
}"""
# While someone types in the caption box, an update of nothing.
_SHOW_ROW = """(region, table) => document.activeElement?.closest("#caption")
  ? {__type__: "update"} : table?.data?.[(region || 1) - 1]?.[2] ?? ''"""
_CLICK_DOWNLOAD = "() => setTimeout(() => document.querySelector('#saved a, a#saved, #saved')?.click(), 150)"


class RegionsTab:
    """Its components, made inside its `gr.Tab`, and what they do."""

    def __init__(self, session: Session) -> None:
        self._session = session
        gr.Markdown(
            "The picture is denoised in overlapping regions. Each may have a caption of its own; one without takes the prompt. "
            "Click a region, or choose its number. Without an image on the Upscale tab there are none.",
            elem_classes="cu-small",
        )
        with gr.Row(equal_height=False):
            with gr.Column(scale=6, min_width=320):
                self._build_grid()
            with gr.Column(scale=4, min_width=300):
                self._build_region()
        session.table.render()
        self._build_captioner()

    def _build_grid(self) -> None:
        self.overlay = gr.Image(
            label="Regions",
            interactive=False,
            buttons=[],
            elem_id="overlay",
            alt_text="The image with the grid of regions",
        )
        self.chosen = gr.Number(1, label="Region", minimum=1, precision=0, elem_id="chosen")

    def _build_region(self) -> None:
        self.crop = gr.Image(
            label="This region",
            interactive=False,
            buttons=[],
            height=240,
            elem_id="crop",
            alt_text="The chosen region",
        )
        self.caption = gr.Textbox(
            label="Region caption",
            lines=3,
            max_length=self._session.limits.caption_chars,
            elem_id="caption",
            placeholder="One sentence about this region. Empty: the prompt serves.",
        )

    def _build_captioner(self) -> None:
        with gr.Row():
            self._session.captioner.render()
            self.write = gr.Button("Write the captions", variant="primary", scale=2, elem_id="write")
            self.stop_writing = gr.Button(
                "Cancel", interactive=False, scale=1, min_width=80, elem_id="stop-writing"
            )
        self.token = gr.Textbox(visible="hidden", elem_id="writing-name")  # of the run that this tab shows
        self.writing = gr.HTML("", elem_id="writing")
        with gr.Row():
            self.save = gr.Button("Save captions", size="sm", elem_id="save")
            self.load = gr.UploadButton("Load captions", file_types=[".json"], size="sm", elem_id="load")
            self.clear = gr.Button("Clear captions", size="sm", elem_id="clear")
            self.saved = gr.DownloadButton("captions.json", visible="hidden", elem_id="saved")

    # Events

    def laying(self) -> Step:
        """The step that fills the table."""
        session = self._session
        return {
            "fn": None,
            "inputs": [session.rows, self.caption, self.chosen, session.table],
            "outputs": session.table,
            "js": _LAY,
            **SILENT,
        }

    def drawing(self) -> Step:
        """The step that draws the grid and the chosen region, where they changed."""
        session = self._session
        return {
            "fn": self.draw,
            "inputs": session.inputs | {session.laid, session.book, self.chosen, session.drawn},
            "outputs": [self.overlay, self.crop, self.caption, self.chosen, session.drawn],
            **SILENT,
        }

    def wire(self) -> None:
        """Connect the tab. After the Upscale tab, whose plan follows what happens here."""
        session = self._session
        self.chosen.change(**self.drawing(), **FOLLOWING)
        self.overlay.select(self.pointed, session.laid, self.chosen, **SILENT)
        session.table.select(self.row, None, self.chosen, **SILENT)
        # What follows from the table follows its change, the last one last: a chain behind every letter could end out of
        # order.
        # Every change is heard, a paste and dictation too, which press no key; those that a person made have the focus.
        self.caption.change(**self.laying())
        known = [self.caption, self.chosen, session.laid, session.book]
        self.caption.change(self.typed, known, session.book, js=_IF_TYPED, **FOLLOWING, **SILENT)
        # The caption box shows its row of the table. It does so in the browser, and not while someone types in it: an
        # answer of the server would come late, and take the first letters back.
        gr.on(
            [self.chosen.change, session.table.change],
            None,
            [self.chosen, session.table],
            self.caption,
            js=_SHOW_ROW,
            **SILENT,
        )
        self._wire_files()
        self._wire_captioner()

    def _wire_files(self) -> None:
        session = self._session
        known = session.inputs | {session.laid, session.book}
        saved = self.save.click(self.to_file, known, self.saved, **TOASTING)
        saved.success(None, js=_CLICK_DOWNLOAD)
        changed = [session.book, session.laid, session.drawn]
        session.follow(self.load.upload, self.from_file, [self.load, session.laid], changed, **TOASTING)
        session.follow(self.clear.click, self.cleared, None, changed, **SILENT)

    def _wire_captioner(self) -> None:
        session = self._session
        session.follow(
            queue.admitted(self.write.click, session.limits),
            self.written,
            session.inputs | {session.laid, session.book},
            [
                self.writing,
                session.book,
                session.laid,
                session.drawn,
                self.write,
                self.stop_writing,
                self.token,
            ],
            show_progress="hidden",
            trigger_mode="once",
            **RUN,
            **PRIVATE,
        )
        self.stop_writing.click(session.jobs.stop, self.token, None, **SILENT)

    # Handlers

    def draw(self, values: Values) -> Any:
        """The grid, the chosen region and its number."""
        session = self._session
        try:
            picture, _, plan = session.plan(values)
        except CupscaleError:
            number = gr.update(maximum=1, value=1)
            return {
                self.overlay: None,
                self.crop: None,
                self.caption: "",
                session.drawn: None,
                self.chosen: number,
            }
        chosen = min(max(int(values[self.chosen] or 1), 1), len(plan.boxes))
        key = (values[session.image], plan.boxes, plan.output, chosen)
        if values[session.drawn] == key:
            return gr.skip()
        number = gr.update(maximum=len(plan.boxes), label=f"Region, 1 to {len(plan.boxes)}")
        if chosen != values[self.chosen]:  # and only then: another number may have been typed since
            number["value"] = chosen
        return {
            self.overlay: regions.overlay(picture.rgb, plan, chosen - 1),
            self.crop: regions.crop(picture.rgb, plan, chosen - 1),
            self.chosen: number,
            session.drawn: key,
        }

    def pointed(self, event: gr.SelectData, laid: Any) -> Any:
        """A click on the grid chooses the region whose middle is nearest."""
        if not laid:
            return gr.skip()
        return regions.nearest_box(laid["boxes"], laid["output"], *event.index) + 1

    def row(self, event: gr.SelectData) -> int:
        """A click on the table chooses its row's region."""
        index = event.index
        return int(index[0] if isinstance(index, (list, tuple)) else index) + 1

    def typed(self, text: str | None, chosen: float, laid: Any, book: Any) -> Any:
        """The caption box goes into the book. None: the page itself filled the box."""
        k = int(chosen or 1) - 1
        if text is None or not laid or not 0 <= k < len(laid["boxes"]):
            return gr.skip()
        regions.write_typed(book, laid, k, text)
        return book

    def to_file(self, values: Values) -> Any:
        """Save the captions."""
        try:
            _, settings, plan = self._session.plan(values)
            if not settings.captions:
                raise CupscaleError(
                    "there are no captions yet: type some into the table, or let a captioner write them"
                )
            return regions.save(settings.captions, plan.output, settings.prompt)
        except CupscaleError as error:
            complain(error)
            return gr.skip()

    def from_file(self, path: str, laid: Any) -> Any:
        """Load captions."""
        session = self._session
        try:
            if not laid:
                raise CupscaleError("no image yet: captions need its regions")
            found = regions.load(path, laid["output"], session.limits)
        except CupscaleError as error:
            complain(error)
            return gr.skip()
        book = new_book([caption.model_dump() for caption in found], laid["output"])
        return {session.book: book, session.laid: None, session.drawn: None}

    def cleared(self) -> Updates:
        """No captions."""
        session = self._session
        return {session.book: new_book(), session.laid: None, session.drawn: None}

    def written(self, values: Values) -> Steps:
        """Let the captioner write. A failed one leaves the prompt to serve, with a warning."""
        session = self._session
        try:
            picture, settings, plan = session.plan(values)
            name = writers.named(session.writer(values), settings.model)
            steps = captions.write(name, picture, plan, settings, session.limits)
        except CupscaleError as error:
            yield self._failed(str(error))
            return
        display = Display(
            token=self.token,
            waiting=lambda line: {self.writing: run.status_html(line)},
            opening=lambda: {self.writing: run.status_html("starting", 0.0), **self._buttons(True)},
            stopped=lambda began: {self.writing: run.status_html("Cancelled."), **self._buttons(False)},
            failed=self._failed,
        )
        yield from session.jobs.run(self._writing(steps, settings, plan, values[session.book]), display)

    def _writing(
        self,
        steps: Generator[captions.Step, None, None],
        settings: Settings,
        plan: Plan,
        book: dict[str, Any],
    ) -> Steps:
        session = self._session
        try:
            with contextlib.closing(steps):
                for step in steps:
                    updates: Updates = {self.writing: step.html}
                    if step.warning:
                        complain(CupscaleError(step.warning), "Captions")
                    if step.captions is not None:
                        regions.write_arrived(book, settings.captions, step.captions, plan.output)
                        updates |= {session.book: book, session.laid: None, session.drawn: None}
                        if step.prompt and not settings.prompt:
                            updates[self.writing] = step.html + run.plan_html(
                                f"A prompt for the whole: {step.prompt}"
                            )
                    yield updates
        except CupscaleError as error:
            yield self._failed(str(error))
        else:
            yield self._buttons(False)

    def _buttons(self, going: bool) -> Updates:
        return {self.write: gr.update(interactive=not going), self.stop_writing: gr.update(interactive=going)}

    def _failed(self, line: str) -> Updates:
        return {self.writing: run.refusal_html(line), **self._buttons(False)}
