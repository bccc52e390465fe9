"""The Regions tab: components and events."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from typing import Any

import gradio as gr

from cupscale.errors import CupscaleError
from cupscale.page import captions as captions_module, queue, regions
from cupscale.page.session import GPU, PRIVATE, SILENT, TOASTING, Page, complain, new_book

# While someone types in the caption box, an update of nothing.
SHOW_ROW = """(region, table) => document.activeElement?.closest("#caption")
  ? {__type__: "update"} : table?.data?.[(region || 1) - 1]?.[2] ?? ''"""


def build(page: Page) -> None:
    """The components."""
    gr.Markdown(
        "The picture is painted in overlapping regions. Each may have a caption of its own; one without takes the prompt. "
        "Click a region, or choose its number.", elem_classes="cu-small",
    )  # fmt: skip
    with gr.Row(equal_height=False):
        with gr.Column(scale=6, min_width=320):
            page.overlay = gr.Image(
                label="Regions",
                interactive=False,
                buttons=[],
                elem_id="overlay",
                alt_text="The image with the grid of regions",
            )
            page.chosen = gr.Number(1, label="Region", minimum=1, precision=0, elem_id="chosen")
        with gr.Column(scale=4, min_width=300):
            page.crop = gr.Image(
                label="This region",
                interactive=False,
                buttons=[],
                height=240,
                elem_id="crop",
                alt_text="The chosen region",
            )
            page.caption = gr.Textbox(
                label="Its caption", lines=3, max_length=page.limits.caption_chars, elem_id="caption",
                placeholder="One sentence about this region. Empty: the prompt serves.",
            )  # fmt: skip
    page.table = gr.Dataframe(
        headers=regions.HEADERS, datatype=["number", "str", "str"], type="array", interactive=True, static_columns=[0, 1],
        column_widths=["110px", "230px", "auto"], wrap=True, max_height=420, label="Captions", elem_id="captions",
        column_count=3, row_count=1, value=[], buttons=[],
    )  # fmt: skip
    with gr.Row():
        kinds = captions_module.kinds()
        page.captioner = gr.Dropdown(kinds, value=kinds[0], label="Captioner", scale=2, elem_id="captioner")
        page.write = gr.Button("Write the captions", variant="primary", scale=2, elem_id="write")
        page.stop_writing = gr.Button("Cancel", scale=1, min_width=80, elem_id="stop-writing")
    page.writing = gr.HTML("", elem_id="writing")
    with gr.Row():
        page.save = gr.Button("Save captions", size="sm", elem_id="save")
        page.load = gr.UploadButton("Load captions", file_types=[".json"], size="sm", elem_id="load")
        page.clear = gr.Button("Clear captions", size="sm", elem_id="clear")
        page.saved = gr.DownloadButton("captions.json", visible="hidden", elem_id="saved")


def drawing(page: Page) -> dict[str, Any]:
    """The step that draws the grid, the chosen region and its caption, where they changed."""

    def draw(values: dict[Any, Any]) -> Any:
        try:
            picture, _, plan = page.plan(values)
        except CupscaleError:
            return {page.overlay: None, page.crop: None, page.caption: "", page.drawn: None,
                    page.chosen: gr.update(maximum=1, value=1)}  # fmt: skip
        chosen = min(max(int(values[page.chosen] or 1), 1), len(plan.boxes))
        key = (values[page.image], plan.boxes, plan.output, chosen)
        if values[page.drawn] == key:
            return gr.skip()
        number = gr.update(maximum=len(plan.boxes), label=f"Region, 1 to {len(plan.boxes)}")
        if chosen != values[page.chosen]:  # and only then: another number may have been typed since
            number["value"] = chosen
        return {
            page.overlay: regions.overlay(picture.rgb, plan, chosen - 1),
            page.crop: regions.crop(picture.rgb, plan, chosen - 1),
            page.chosen: number,
            page.drawn: key,
        }

    return {
        "fn": draw,
        "inputs": page.inputs | {page.laid, page.book, page.chosen, page.drawn},
        "outputs": [page.overlay, page.crop, page.caption, page.chosen, page.drawn],
        **SILENT,
    }


def wire(page: Page) -> None:
    """The events."""
    limits = page.limits
    known = page.inputs | {page.laid, page.book}
    page.chosen.change(**drawing(page), trigger_mode="always_last")

    def click(event: gr.SelectData, laid: Any) -> Any:
        if not laid:
            return gr.skip()
        return regions.nearest_box(laid["boxes"], laid["output"], *event.index) + 1

    page.overlay.select(click, page.laid, page.chosen, **SILENT)

    def row(event: gr.SelectData) -> Any:
        index = event.index
        return int(index[0] if isinstance(index, (list, tuple)) else index) + 1

    page.table.select(row, None, page.chosen, **SILENT)

    def typed(text: str, chosen: float, rows: Any, laid: Any, book: Any) -> Any:
        """The caption box goes into the table and the book."""
        k = int(chosen or 1) - 1
        if not laid or not rows or k >= len(rows) or str(rows[k][2] or "") == text:
            return gr.skip()
        rows = [list(r) for r in rows]
        rows[k][2] = text
        return {page.table: rows, page.book: _book(page, rows, laid, book)}

    # What follows from the table follows its change, the last one last: a chain behind every letter could end out of order.
    page.caption.input(typed, [page.caption, page.chosen, page.table, page.laid, page.book], [page.table, page.book],
                       trigger_mode="always_last", **SILENT)  # fmt: skip

    # The caption box shows its row of the table. It does so in the browser, and not while someone types in it: an answer of
    # the server would come late, and take the first letters back.
    gr.on([page.chosen.change, page.table.change], None, [page.chosen, page.table], page.caption, js=SHOW_ROW,
          **SILENT)  # fmt: skip

    def save(values: dict[Any, Any]) -> Any:
        try:
            _, settings, plan = page.plan(values)
            if not settings.captions:
                raise CupscaleError(
                    "there are no captions yet: type some into the table, or let a captioner write them"
                )
            return regions.save(settings.captions, plan.output, settings.prompt)
        except CupscaleError as error:
            complain(error)
            return gr.skip()

    js = "() => setTimeout(() => document.querySelector('#saved a, a#saved, #saved')?.click(), 150)"
    page.save.click(save, known, page.saved, **TOASTING).success(None, js=js)

    def load(path: str, laid: Any) -> Any:
        try:
            if not laid:
                raise CupscaleError("no image yet: captions need its regions")
            captions = regions.load(path, laid["output"], limits)
        except CupscaleError as error:
            complain(error)
            return gr.skip()
        return {
            page.book: new_book([c.model_dump() for c in captions], laid["output"]),
            page.laid: None,
            page.drawn: None,
        }

    page.follow(
        page.load.upload(load, [page.load, page.laid], [page.book, page.laid, page.drawn], **TOASTING)
    )
    page.follow(
        page.clear.click(
            lambda: (new_book(), None, None),
            None,
            [page.book, page.laid, page.drawn],
            **SILENT,
        )
    )

    @queue.attended
    def write(values: dict[Any, Any]) -> Generator[dict[Any, Any], None, None]:
        """A failed captioner leaves the prompt to serve, with a warning."""
        try:
            picture, settings, plan = page.plan(values)
            with contextlib.closing(
                captions_module.write(values[page.captioner], picture, plan, settings)
            ) as steps:
                for step in steps:
                    updates: dict[Any, Any] = {page.writing: step.html}
                    if step.warning:
                        complain(CupscaleError(step.warning), "Captions")
                    if step.captions is not None:
                        book = new_book([c.model_dump() for c in step.captions], plan.output)
                        updates |= {page.book: book, page.laid: None, page.drawn: None}
                        if step.prompt and not settings.prompt:
                            updates[page.controls["prompt"]] = step.prompt
                    yield updates
        except CupscaleError as error:
            complain(error)
            yield {page.writing: ""}

    started = queue.admitted(page.write.click, limits)(
        write, known | {page.captioner}, [page.writing, page.book, page.laid, page.drawn, page.controls["prompt"]],
        show_progress="minimal", show_progress_on=[page.writing], **GPU, **PRIVATE,
    )  # fmt: skip
    page.follow(started)
    page.stop_writing.click(lambda: "", None, page.writing, cancels=[started], **SILENT)


def _book(page: Page, rows: Any, laid: Any, book: Any) -> Any:
    """The book after an edit of the table."""
    with contextlib.suppress(CupscaleError):
        captions = regions.captions_of(rows, page.limits)
        return {**book, "size": laid["output"], "captions": [c.model_dump() for c in captions]}
    return book
