"""The Compare tab: one input through several variants, in one grid with one zoom."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr

from cupscale import images
from cupscale.errors import CupscaleError
from cupscale.page import bounds, engine, queue, run, scratch, source, viewer
from cupscale.page.jobs import Look, Steps, Updates
from cupscale.page.session import PRIVATE, RUN, SILENT, Session, Values
from cupscale.planning import output_size
from cupscale.reproduce.rows import read_rows
from cupscale.settings import Settings
from cupscale.upscalers import NAMES, available

# The ablation's rows of `cupscale reproduce`, as settings over the page's own.
ABLATION = {row.title: dict(row.settings) for row in read_rows().values() if row.group == "ablation"}
PLAIN = "plain enlargement"


def variants(settings: Settings) -> dict[str, Settings | None]:
    """title -> the settings of a run; None for the plain enlargement, which is none."""
    made: dict[str, Settings | None] = {PLAIN: None}
    made |= {title: settings.replace(**fields) for title, fields in ABLATION.items()}
    made |= {f"base upscaler: {kind}": settings.replace(upscaler=kind) for kind in NAMES if available(kind)}
    return made


def titles() -> list[str]:
    return list(variants(Settings.build()))


class _Asked(NamedTuple):
    """What a comparison is of. chosen: settings by title, None for the plain enlargement. stem: of downloads."""

    picture: images.Picture
    settings: Settings
    output: tuple[int, int]
    chosen: dict[str, Settings | None]
    stem: str


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
            self.cancel = gr.Button(
                "Cancel", interactive=False, scale=1, min_width=90, elem_id="compare-cancel"
            )
        self.status = gr.HTML(run.status_html(""), elem_id="compare-status")
        self.token = gr.Textbox(visible="hidden", elem_id="compare-name")  # of the run that this tab shows
        self.grid = viewer.Grid(elem_id="grid")
        kept = session.limits.kept_seconds
        self.shots = gr.State([], time_to_live=kept, delete_callback=_forget)

    def wire(self) -> None:
        """Connect the tab."""
        session = self._session
        queue.admitted(self.compare.click, session.limits)(
            self.start,
            session.inputs | {self.wanted, self.shots, session.laid},
            [self.status, self.grid, self.shots, self.compare, self.cancel, self.token],
            show_progress="hidden",
            trigger_mode="once",
            **RUN,
            **PRIVATE,
        )
        self.cancel.click(session.jobs.stop, self.token, None, **SILENT)

    def start(self, values: Values) -> Steps:
        """One run after the other; each shows as it ends."""
        session = self._session
        try:
            asked = self._asked(values)
        except CupscaleError as error:
            yield self._failed(str(error))
            return
        look = Look(
            token=self.token,
            waiting=lambda line: {self.status: run.status_html(line)},
            opening=lambda: {self.status: run.status_html("starting", 0.0), **self._buttons(True)},
            stopped=lambda began: {
                self.status: run.status_html("Cancelled. What is done stays."),
                **self._buttons(False),
            },
            failed=self._failed,
        )
        runs = [one for one in asked.chosen.values() if one is not None]
        seconds = sum(engine.expected_seconds(engine.planned(asked.picture.size, one), one) for one in runs)
        yield from session.jobs.run(self._guarded(asked, values), look, seconds)

    def _asked(self, values: Values) -> _Asked:
        session = self._session
        picture, settings, plan = session.plan(values)
        chosen = {title: s for title, s in variants(settings).items() if title in values[self.wanted]}
        if not chosen:
            raise CupscaleError("no variant is chosen: tick at least one")
        runs = [s for s in chosen.values() if s is not None]
        bounds.check_run(picture.size, runs or [settings], session.limits)
        return _Asked(picture, settings, plan.output, chosen, source.name(values[session.image]))

    def _guarded(self, asked: _Asked, values: Values) -> Steps:
        _forget(values[self.shots])
        try:
            yield from self._runs(asked)
        except CupscaleError as error:
            yield self._failed(str(error))
        else:
            yield {self.status: run.status_html("Done."), **self._buttons(False)}

    def _buttons(self, going: bool) -> Updates:
        return {self.compare: gr.update(interactive=not going), self.cancel: gr.update(interactive=going)}

    def _failed(self, line: str) -> Updates:
        stamp = time.time_ns()
        return {self.status: run.plan_html(line, wrong=True, stamp=stamp), **self._buttons(False)}

    def _runs(self, asked: _Asked) -> Steps:
        picture, settings, chosen = asked.picture, asked.settings, asked.chosen
        runs = [s for s in chosen.values() if s is not None]
        seconds = sum(engine.planned(picture.size, s).seconds or 0 for s in runs)
        note = f"{len(chosen)} variants at {asked.output[0]} × {asked.output[1]}, seed {settings.seed}"
        line = note + (f", about {run.clock(seconds)}" if seconds else "")
        yield {self.status: run.status_html(line, 0.0), self.shots: []}
        shots: list[run.Shot] = []
        cells: list[tuple[str, str | Path, str]] = []
        for title, variant in chosen.items():
            if variant is None:
                shot, line = _plain(picture, settings, asked.stem), "Lanczos, no network"
            else:
                done = len(shots) / len(chosen)
                shot = yield from self._run(picture, variant, asked.stem, title, (done, len(chosen)))
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
