"""The Compare tab: one input through several variants, in one grid with one zoom."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from pathlib import Path
from typing import Any

import gradio as gr

from cupscale import images
from cupscale.errors import CupscaleError
from cupscale.page import bounds, engine, queue, run, scratch, source, viewer
from cupscale.page.session import GPU, PRIVATE, SILENT, Session, Updates, Values, complain
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


class CompareTab:
    """Its components, made inside its `gr.Tab`, and what they do."""

    def __init__(self, session: Session) -> None:
        self._session = session
        gr.Markdown(
            "The image and the settings of the Upscale tab, run once per variant. Wheel or slider zooms all pictures at once, "
            "dragging or the arrow keys move them.",
            elem_classes="cu-small",
        )
        self.wanted = gr.CheckboxGroup(
            titles(),
            value=[PLAIN, *ABLATION],
            label="Variants",
            elem_id="variants",
            show_select_all=True,
        )
        with gr.Row():
            self.compare = gr.Button("Compare", variant="primary", scale=3, elem_id="compare-run")
            self.cancel = gr.Button("Cancel", scale=1, min_width=90, elem_id="compare-cancel")
        self.status = gr.HTML(run.status_html(""), elem_id="compare-status")
        self.grid = viewer.Grid(elem_id="grid")
        kept = session.limits.kept_seconds
        self.shots = gr.State([], time_to_live=kept, delete_callback=_forget)

    def wire(self) -> None:
        """Connect the tab."""
        session = self._session
        started = queue.admitted(self.compare.click, session.limits)(
            self.start,
            session.inputs | {self.wanted, self.shots, session.laid},
            [self.status, self.grid, self.shots],
            show_progress="minimal",
            show_progress_on=[self.status],
            trigger_mode="once",
            **GPU,
            **PRIVATE,
        )
        self.cancel.click(self.stopped, None, self.status, cancels=[started], **SILENT)

    def stopped(self) -> str:
        """Cancel."""
        return run.status_html("Cancelled. What is done stays.")

    @queue.attended
    def start(self, values: Values) -> Generator[Updates, None, None]:
        """One run after the other; each shows as it ends."""
        _forget(values[self.shots])
        try:
            yield from self._runs(values)
        except CupscaleError as error:
            complain(error)
            yield {self.status: run.plan_html(str(error), wrong=True)}
            return
        yield {self.status: run.status_html("Done.")}

    def _runs(self, values: Values) -> Generator[Updates, None, None]:
        session = self._session
        picture, settings, plan = session.plan(values)
        chosen = {title: s for title, s in variants(settings).items() if title in values[self.wanted]}
        if not chosen:
            raise CupscaleError("no variant is chosen: tick at least one")
        runs = [s for s in chosen.values() if s is not None]
        bounds.check_run(picture.size, runs or [settings], session.limits)
        stem = source.name(values[session.image])
        seconds = sum(engine.planned(picture.size, s).seconds or 0 for s in runs)
        note = f"{len(chosen)} variants at {plan.output[0]} × {plan.output[1]}, seed {settings.seed}"
        line = note + (f", about {run.clock(seconds)}" if seconds else "")
        yield {self.status: run.status_html(line, 0.0), self.shots: []}
        shots: list[run.Shot] = []
        cells: list[tuple[str, str | Path, str]] = []
        for title, variant in chosen.items():
            if variant is None:
                shot, line = _plain(picture, settings, stem), "Lanczos, no network"
            else:
                done = len(shots) / len(chosen)
                shot = yield from self._run(picture, variant, stem, title, (done, len(chosen)))
                line = shot.note.rpartition(", ")[2]
            shots.append(shot)
            cells.append((title, shot.png, line))
            yield {self.grid: viewer.grid(cells, note), self.shots: list(shots)}

    def _run(
        self, picture: images.Picture, settings: Settings, stem: str, title: str, part: tuple[float, int]
    ) -> Generator[Updates, None, run.Shot]:
        """part: how much of all variants is done, and how many there are."""
        with contextlib.closing(run.watch(picture, settings, self._session.limits, stem)) as sights:
            for sight in sights:
                if sight.shot:
                    return sight.shot
                fraction = part[0] + sight.fraction / part[1]
                yield {self.status: run.status_html(f"{title}: {sight.status}", fraction)}
        raise RuntimeError("the run ended without a result")


def _plain(picture: images.Picture, settings: Settings, stem: str) -> run.Shot:
    folder = scratch.new_folder()
    size = output_size(picture.size, settings.scale)
    plain = images.resize(picture, size, "lanczos")
    path = images.write(images.finish(plain.rgb, plain.alpha), folder / f"{stem}-plain.png")
    return run.Shot(str(folder), str(path), str(path), stem, settings, size, "")


def _forget(shots: Any) -> None:
    for shot in shots or []:
        run.forget(shot)
