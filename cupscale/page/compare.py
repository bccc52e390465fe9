"""The Compare tab: one input through several variants, in one grid with one zoom."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

import gradio as gr

from cupscale import images
from cupscale.errors import CupscaleError
from cupscale.page import engine, queue, run, scratch, source, viewer
from cupscale.page.session import GPU, PRIVATE, SILENT, Page, complain
from cupscale.planning import output_size
from cupscale.settings import Settings
from cupscale.upscalers import NAMES, available

# The ablation's rows, as settings over the page's own. A weight at 0 leaves its prior out.
ABLATION: dict[str, dict[str, Any]] = {
    "no prior": {"structure": 0.0, "attention": 0.0, "detail": 0.0},
    "+ structure (GSP)": {"attention": 0.0, "detail": 0.0},
    "+ attention (RAP)": {"detail": 0.0},
    "+ captions (RSP)": {},
}
PLAIN = "plain enlargement"


def variants(settings: Settings) -> dict[str, Settings | None]:
    """title -> the settings of a run; None for the plain enlargement, which is none."""
    made: dict[str, Settings | None] = {PLAIN: None}
    made |= {title: settings.replace(**fields) for title, fields in ABLATION.items()}
    made |= {f"base upscaler: {kind}": settings.replace(upscaler=kind) for kind in NAMES if available(kind)}
    return made


def titles() -> list[str]:
    return list(variants(Settings.build()))


def build(page: Page) -> None:
    """The components."""
    gr.Markdown(
        "The image and the settings of the Upscale tab, run once per variant. Wheel or slider zooms all pictures at once, "
        "dragging or the arrow keys move them.", elem_classes="cu-small",
    )  # fmt: skip
    page.wanted = gr.CheckboxGroup(
        titles(), value=[PLAIN, *ABLATION], label="Variants", elem_id="variants", show_select_all=True
    )
    with gr.Row():
        page.compare = gr.Button("Compare", variant="primary", scale=3, elem_id="compare-run")
        page.compare_cancel = gr.Button("Cancel", scale=1, min_width=90, elem_id="compare-cancel")
    page.compare_status = gr.HTML(run.status_html(""), elem_id="compare-status")
    page.grid = viewer.Grid(elem_id="grid")
    page.shots = gr.State([], time_to_live=page.limits.kept_seconds, delete_callback=_forget)


def wire(page: Page) -> None:
    """The events."""
    limits = page.limits

    def start(values: Mapping[Any, Any]) -> Generator[dict[Any, Any], None, None]:
        _forget(values[page.shots])
        shots: list[run.Shot] = []
        cells: list[tuple[str, str | Path, str]] = []
        try:
            picture, settings, plan = page.plan(values)
            if not values[page.wanted]:
                raise CupscaleError("no variant is chosen: tick at least one")
            every = variants(settings)
            wanted = [title for title in every if title in values[page.wanted]]
            stem = source.name(values[page.image])
            runs = [title for title in wanted if every[title] is not None]
            seconds = sum(engine.planned(picture.size, s).seconds or 0 for t in runs if (s := every[t]))
            note = f"{len(wanted)} variants at {plan.output[0]} × {plan.output[1]}, seed {settings.seed}"
            yield {page.compare_status: run.status_html(note + (f", about {run.clock(seconds)}" if seconds else ""), 0.0),
                   page.shots: []}  # fmt: skip
            for k, title in enumerate(wanted):
                chosen = every[title]
                if chosen is None:
                    shot = _plain(picture, settings, stem)
                    line = "Lanczos, no network"
                else:
                    with contextlib.closing(run.watch(picture, chosen, limits, stem)) as sights:
                        for sight in sights:
                            if sight.shot:
                                shot = sight.shot
                                break
                            fraction = (k + sight.fraction) / len(wanted)
                            yield {page.compare_status: run.status_html(f"{title}: {sight.status}", fraction)}
                    line = shot.note.rpartition(", ")[2]
                shots.append(shot)
                cells.append((title, shot.png, line))
                yield {page.grid: viewer.grid(cells, note), page.shots: list(shots)}
        except CupscaleError as error:
            complain(error)
            yield {page.compare_status: run.plan_html(str(error), wrong=True)}
            return
        yield {page.compare_status: run.status_html("Done.")}

    started = queue.admitted(page.compare.click, limits)(
        start, page.inputs | {page.wanted, page.shots, page.laid}, [page.compare_status, page.grid, page.shots],
        show_progress="minimal", show_progress_on=[page.compare_status], trigger_mode="once", **GPU, **PRIVATE,
    )  # fmt: skip
    page.compare_cancel.click(
        lambda: run.status_html("Cancelled. What is done stays."),
        None,
        page.compare_status,
        cancels=[started],
        **SILENT,
    )


def _plain(picture: images.Picture, settings: Settings, stem: str) -> run.Shot:
    folder = scratch.new_folder()
    size = output_size(picture.size, settings.scale)
    plain = images.resize(picture, size, "lanczos")
    path = images.write(images.finish(plain.rgb, plain.alpha), folder / f"{stem}-plain.png")
    return run.Shot(str(folder), str(path), str(path), stem, settings, size, "")


def _forget(shots: Any) -> None:
    for shot in shots or []:
        run.forget(shot)
