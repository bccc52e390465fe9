"""The Upscale tab: image, settings, plan, run, result."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from cupscale import images, models
from cupscale.captions import match
from cupscale.errors import CupscaleError
from cupscale.page import (
    cutoff,
    engine,
    examples,
    history,
    links,
    queue,
    region_tab,
    regions,
    run,
    scratch,
    share,
    source,
    viewer,
)
from cupscale.page.controls import EFFECTS, LABELS
from cupscale.page.session import GPU, PRIVATE, SILENT, TOASTING, Page, complain, new_book
from cupscale.settings import Settings, default_cutoff

_SHOWN_BY_BROWSERS = ("PNG", "JPEG", "WEBP", "AVIF", "GIF", "BMP")


def build(page: Page) -> None:
    """The components."""
    controls = page.controls
    with gr.Row(equal_height=False):
        with gr.Column(scale=5, min_width=320):
            page.image = source.SourceImage(
                type="filepath", image_mode=None, label="Image", sources=["upload", "clipboard", "webcam"],
                height=280, elem_id="image", buttons=[],
                alt_text="The input image", placeholder="Drop an image here\n- or -\nclick to upload",
            )  # fmt: skip
            page.inside = gr.Button(
                "This picture was made here: use the settings inside it",
                size="sm",
                visible=False,
                elem_id="inside",
            )
            controls.text("prompt", "What the whole picture shows, in plain words. May stay empty.")
            with gr.Row():
                with gr.Column(scale=3, min_width=180):
                    controls.slider("scale")
                with gr.Column(scale=2, min_width=150):
                    controls.number("seed", 0, 2**32 - 1)
                    page.randomize = gr.Checkbox(False, label="A new seed for every run", elem_id="randomize")
            page.plan_line = gr.HTML(
                run.plan_html("Choose an image to see what a run takes."), elem_id="plan"
            )
            with gr.Row():
                page.run = gr.Button("Upscale", variant="primary", scale=3, elem_id="run")
                page.cancel = gr.Button("Cancel", interactive=False, scale=1, min_width=90, elem_id="cancel")
            with gr.Accordion("Advanced", open=False, elem_id="advanced"):
                with gr.Row():
                    offered = models.presets(controls.model)
                    page.quick = gr.Button("Quick", size="sm", min_width=80, visible="quick" in offered)
                    page.paper = gr.Button("Paper", size="sm", min_width=80, visible="paper" in offered)
                    page.reset = gr.Button("Reset", size="sm", min_width=80)
                gr.Markdown(
                    "**Quick** takes fewer evaluations, **Paper** is what the paper states (for models that can), **Reset** "
                    "is what suits the model best.", elem_classes="cu-small",
                )  # fmt: skip
                controls.text(
                    "negative_prompt", "What the picture should not show. Needs a guidance above 1.", lines=1
                )
                controls.slider("cutoff")
                page.kept = gr.Image(
                    label="What the cutoff keeps of your image", interactive=False, buttons=[], height=170, visible=False,
                    alt_text="Your image, and its low-frequency part, which stays put", elem_id="kept",
                )  # fmt: skip
                page.kept_line = gr.Markdown("", elem_classes="cu-small")
                for name in ("structure", "attention", "detail", "strength"):
                    controls.slider(name)
                controls.number("steps", 1, 1000)
                for name in ("guidance", "flat_guidance", "overlap"):
                    controls.slider(name)
                for name in ("upscaler", "scheduler", "model"):
                    controls.choice(name)
                controls.share("fidelity")
        with gr.Column(scale=7, min_width=320):
            page.viewer = viewer.BeforeAfter(elem_id="result", label="Result")
            page.status = gr.HTML(run.status_html(""), elem_id="status")
            with gr.Row(visible=False, elem_id="downloads") as page.downloads:
                page.png = gr.DownloadButton("PNG", size="sm", min_width=80, elem_id="png")
                page.webp = gr.Button("WebP", size="sm", min_width=80, elem_id="webp")
                page.jpeg = gr.Button("JPEG", size="sm", min_width=80, elem_id="jpeg")
            # Filled on demand and clicked by a script: encoding waits until someone wants the format.
            page.other = gr.DownloadButton("other", visible="hidden", elem_id="other")
            if examples.every():
                page.gallery = gr.Gallery(
                    [(e.path(e.after), e.title) for e in examples.every()], label="Examples: a click shows the result",
                    columns=4, rows=2, height="auto", object_fit="cover", allow_preview=False, buttons=[], elem_id="examples",
                    interactive=False,
                )  # fmt: skip
            else:
                page.gallery = None
            with gr.Accordion("Link, command, restore", open=False, elem_id="share"):
                page.share = share.Share(elem_id="share-rows")
                page.dropped = gr.File(
                    label="Drop a result here to get its settings back",
                    file_types=["image"],
                    height=120,
                    elem_id="restore",
                )
    page.shot = gr.State(None, time_to_live=page.limits.kept_seconds, delete_callback=run.forget)
    page.followed = gr.State(controls.first.cutoff, time_to_live=page.limits.kept_seconds)


def build_history(page: Page) -> None:
    page.history = history.History(elem_id="history")


def wire(page: Page, demo: gr.Blocks) -> None:
    """The events."""
    controls, limits = page.controls, page.limits
    fillable = [*controls.all, page.book, page.laid]

    def fill(fields: Mapping[str, Any], size: Any = None) -> dict[Any, Any]:
        """Put settings on the page; captions into the book, to be laid on the image's regions."""
        updates = controls.show({name: value for name, value in fields.items() if name != "captions"})
        if "captions" in fields:
            captions = [c if isinstance(c, dict) else c.model_dump() for c in fields["captions"]]
            updates[page.book] = new_book(captions, size)
            updates[page.laid] = None
        return updates

    def whole(fields: Mapping[str, Any], size: Any = None) -> dict[Any, Any]:
        """`fill` with every setting there is, the rest at the model's defaults. Raises CupscaleError."""
        model = str(fields.get("model") or controls.model)
        if model not in engine.names():
            gr.Warning(
                f"The picture was made with another model than this page has; {controls.model} takes its place."
            )
            model = controls.model
        usual = engine.defaults(model)
        settings = Settings.build(usual, {**fields, "model": model})
        return fill(settings.model_dump(), size)

    # The plan, and all that follows the controls.

    def refresh(values: dict[Any, Any]) -> dict[Any, Any]:
        try:
            settings = controls.settings(values)
            if not values[page.image]:
                query = share.texts(settings, values[page.example], "photo", limits)
                return {page.plan_line: run.plan_html("Choose an image to see what a run takes."), page.share: query,
                        page.kept: gr.update(visible=False), page.kept_line: ""}  # fmt: skip
            picture = page.picture(values)
            plan = engine.planned(picture, settings)
            limits.check_output(plan)
        except CupscaleError as error:
            return {page.plan_line: run.plan_html(str(error), wrong=True)}
        updates: dict[Any, Any] = {page.plan_line: run.plan_html(run.plan_line(plan, settings))}
        rows = values[page.table]
        laid = {
            "boxes": plan.boxes,
            "output": plan.output,
            "image": values[page.image],
            "stamp": values[page.book]["stamp"],
        }
        if values[page.laid] != laid:
            captions = page.written(values[page.book], plan)
            rows = regions.rows_of(plan, captions)
            updates |= {page.laid: laid, page.table: rows}
        with contextlib.suppress(
            CupscaleError
        ):  # too long a caption is refused at the run, and on the Regions tab
            settings = settings.replace(captions=regions.captions_of(rows, limits))
        stem = source.name(values[page.image])
        updates[page.share] = share.texts(settings, values[page.example], stem, limits)
        low, line = cutoff.kept(picture.rgb, settings.cutoff, settings.scale, engine.geometry(settings.model))
        updates |= {page.kept: gr.update(value=low, visible=True), page.kept_line: line}
        return updates

    followers = [page.plan_line, page.share, page.kept, page.kept_line, page.laid, page.table]
    moved = [component.change for component in controls.all] + [page.image.change, page.table.change]
    planning: dict[str, Any] = {
        "inputs": page.inputs | {page.book, page.laid},
        "outputs": followers,
        **SILENT,
    }
    drawing = region_tab.drawing(page)
    page.chain = [{"fn": refresh, **planning}, drawing]
    gr.on(moved, refresh, trigger_mode="always_last", **planning).then(**drawing)

    def remember(values: dict[Any, Any]) -> Any:
        """An edit of the table goes into the book; captions that no region takes now stay in it."""
        try:
            captions = regions.captions_of(values[page.table], limits)
            _, _, plan = page.plan(values)
        except CupscaleError as error:
            complain(error)
            return gr.skip()
        extra = match(page.written(values[page.book], plan), plan.boxes, plan.output).extra
        return {
            page.book: {
                **values[page.book],
                "size": plan.output,
                "captions": [c.model_dump() for c in (*captions, *extra)],
            }
        }

    page.table.input(remember, page.inputs | {page.book, page.laid}, [page.book], **TOASTING)

    def follow(scale: float, now: float, followed: float, model: str) -> Any:
        """The cutoff goes with the scale until a person moves it."""
        usual = engine.defaults(model).get("cutoff") if model in engine.names() else None
        wanted = float(str(usual)) if usual is not None else default_cutoff(scale)
        return {controls["cutoff"]: wanted, page.followed: wanted} if now == followed else gr.skip()

    controls["scale"].change(
        follow, [controls["scale"], controls["cutoff"], page.followed, controls["model"]],
        [controls["cutoff"], page.followed], trigger_mode="always_last", **SILENT,
    )  # fmt: skip

    # The image.

    def arrived(path: str | None, laid: Any) -> dict[Any, Any]:
        updates: dict[Any, Any] = {page.example: None, page.inside: gr.update(visible=False)}
        if laid is not None and laid["image"] != path:  # captions of another image
            updates |= {page.book: new_book(), page.laid: None}
        if not path:
            return updates
        try:
            picture = source.opened(path, limits)
        except CupscaleError:  # the plan line says it, and so does the run
            return updates
        with Image.open(path) as opened:
            plain = opened.format in _SHOWN_BY_BROWSERS
        if not plain:
            shown = scratch.new_folder() / f"{source.name(path)}.png"
            updates[page.image] = str(images.write(images.finish(picture.rgb, picture.alpha), shown))
        if picture.settings_text:
            updates[page.inside] = gr.update(visible=True)
        return updates

    page.follow(
        page.image.input(
            arrived,
            [page.image, page.laid],
            [page.image, page.example, page.inside, page.book, page.laid],
            **SILENT,
        )
    )

    def restore(path: str | None) -> Any:
        if not path:
            return gr.skip()
        try:
            data = Path(path).read_bytes()
            fields = images.read_settings(data)
            if not fields:
                raise CupscaleError(
                    "there are no settings of ours in this picture: only files that were downloaded here or written by the "
                    "command hold them, and other programs remove them when they save"
                )
            updates = whole(fields, images.read(data).size)
        except CupscaleError as error:
            complain(error)
            return gr.skip()
        gr.Info(
            "The settings of this picture are back. Give the image they were used on.",
            title="Restored",
            duration=6,
        )
        return {**updates, page.randomize: False}

    page.follow(page.dropped.upload(restore, page.dropped, [*fillable, page.randomize], **TOASTING))
    page.follow(page.inside.click(restore, page.image, [*fillable, page.randomize], **TOASTING))

    def again(event: gr.EventData) -> Any:
        try:
            updates = whole(Settings.from_json(str(event.settings)).model_dump())
        except CupscaleError as error:
            complain(error)
            return gr.skip()
        gr.Info("The settings are back on the Upscale tab.", title="Restored", duration=4)
        return {**updates, page.randomize: False}

    page.follow(page.history.select(again, None, [*fillable, page.randomize], **TOASTING))

    def chosen(event: gr.SelectData) -> dict[Any, Any]:
        example = examples.every()[int(event.index)]
        return {**whole(example.settings), page.image: example.path(example.input), page.example: example.name,
                page.viewer: example.pair(), page.status: run.status_html(""), page.inside: gr.update(visible=False),
                page.downloads: gr.update(visible=False), page.randomize: False}  # fmt: skip

    shown_with_example = [*fillable, page.image, page.example, page.viewer, page.status, page.inside, page.downloads,
                          page.randomize]  # fmt: skip
    if page.gallery is not None:
        page.follow(page.gallery.select(chosen, None, shown_with_example, **TOASTING))

    def opened(request: gr.Request) -> Any:
        """A link: its settings and its example."""
        good, name, wrong = links.from_query(dict(request.query_params))
        for line in wrong:
            complain(CupscaleError(line), "Part of the link was left out")
        example = examples.named(name)
        if name and example is None:
            gr.Warning("The example of this link is not on this page.", title="Part of the link was left out")
        if not good and example is None:
            return gr.skip()
        updates = {**whole({**(example.settings if example else {}), **good}), page.randomize: False}
        if example:
            updates |= {page.image: example.path(example.input), page.example: example.name}
            if all(example.settings.get(key, value) == value for key, value in good.items()):
                updates[page.viewer] = example.pair()
        return updates

    page.follow(demo.load(opened, None, shown_with_example, **TOASTING))

    # Presets.

    def layered(name: str | None) -> Any:
        def press(model: str, scale: float) -> dict[Any, Any]:
            try:
                fields = models.preset(model, name)
            except CupscaleError as error:
                complain(error)
                return {page.followed: gr.skip()}
            settings = Settings.build(engine.defaults(model), fields, scale=scale)
            shown = controls.show(settings.model_dump(include=set(EFFECTS))) | {
                page.followed: settings.cutoff
            }
            if name is None:
                shown |= controls.show({"negative_prompt": settings.negative_prompt})
            return shown

        return press

    def offered(model: str) -> dict[Any, Any]:
        """Only what the model can do."""
        names = models.presets(model)
        return {
            page.quick: gr.update(visible="quick" in names),
            page.paper: gr.update(visible="paper" in names),
        }

    controls["model"].change(offered, controls["model"], [page.quick, page.paper], **SILENT)

    for button, name in ((page.quick, "quick"), (page.paper, "paper"), (page.reset, None)):
        button.click(
            layered(name), [controls["model"], controls["scale"]],
            [controls[k] for k in LABELS if k in EFFECTS or k == "negative_prompt"] + [page.followed], **SILENT,
        )  # fmt: skip

    # The run.

    def start(values: dict[Any, Any]) -> Generator[dict[Any, Any], None, None]:
        run.forget(values[page.shot])
        yield {page.cancel: gr.update(interactive=True), page.run: gr.update(interactive=False), page.shot: None,
               page.downloads: gr.update(visible=False), page.status: run.status_html("starting", 0.0)}  # fmt: skip
        idle = {page.cancel: gr.update(interactive=False), page.run: gr.update(interactive=True)}
        try:
            settings = page.settings(values, draw_seed=True)
            picture = source.read(values[page.image], limits)
            fraction = 0.0
            sights = run.watch(picture, settings, limits, source.name(values[page.image]))
            with contextlib.closing(sights):
                for sight in sights:
                    fraction = max(fraction, sight.fraction)
                    updates = {
                        page.status: run.status_html(sight.status, fraction),
                        controls["seed"]: settings.seed,
                    }
                    if sight.preview is not None:
                        updates[page.viewer] = viewer.preview(
                            sight.preview, "Preview of the result", sight.size
                        )
                    if sight.notice:
                        complain(CupscaleError(sight.notice), "Note")
                    if sight.shot:
                        shot = sight.shot
                        updates = {
                            page.viewer: viewer.pair(shot.before, shot.png, shot.size, shot.note, history.entry(shot)),
                            page.status: run.status_html("Done."), page.shot: shot, page.png: shot.png,
                            page.downloads: gr.update(visible=True), **idle,
                        }  # fmt: skip
                    yield updates
        except CupscaleError as error:
            complain(error)
            yield {**idle, page.status: run.plan_html(str(error), wrong=True)}
        except MemoryError:
            line = "out of memory, one region at a time: choose a smaller scale, or a machine with more of it"
            complain(CupscaleError(line))
            yield {**idle, page.status: run.plan_html(line, wrong=True)}

    outputs = [
        page.viewer,
        page.status,
        page.run,
        page.cancel,
        controls["seed"],
        page.shot,
        page.png,
        page.downloads,
    ]
    page.started = queue.admitted(page.run.click, limits)(
        start, page.inputs | {page.shot, page.laid}, outputs, show_progress="minimal", show_progress_on=[page.status],
        trigger_mode="once", **GPU, **PRIVATE,
    )  # fmt: skip

    def stopped() -> dict[Any, Any]:
        return {page.status: run.status_html("Cancelled. Nothing was kept."), page.viewer: viewer.empty(),
                page.run: gr.update(interactive=True), page.cancel: gr.update(interactive=False)}  # fmt: skip

    page.cancel.click(
        stopped, None, [page.status, page.viewer, page.run, page.cancel], cancels=[page.started], **SILENT
    )

    # Other formats, encoded when someone wants them.

    def other(suffix: str) -> Any:
        def make(shot: Any) -> Any:
            try:
                if not isinstance(shot, run.Shot) or not Path(shot.png).is_file():
                    raise CupscaleError(
                        "this result is no longer on the server: take it from the History tab, or run again"
                    )
                return run.encode(shot, suffix)
            except CupscaleError as error:
                complain(error)
                return gr.skip()

        return make

    click = "() => setTimeout(() => document.querySelector('#other a, a#other, #other')?.click(), 150)"
    for button, suffix in ((page.webp, "webp"), (page.jpeg, "jpg")):
        button.click(other(suffix), page.shot, page.other, show_progress="minimal", **PRIVATE).success(
            None, js=click
        )
