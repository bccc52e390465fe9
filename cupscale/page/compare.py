"""The Compare tab: one input through several variants, in one grid with one zoom."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr

from cupscale import images
from cupscale.errors import CupscaleError
from cupscale.page import bounds, engine, queue, run, scratch, sheet, source, viewer
from cupscale.page.blind import Blind
from cupscale.page.jobs import Display, Steps, Updates
from cupscale.page.opening import Opening
from cupscale.page.session import (
    LOST,
    PRIVATE,
    RUN,
    SILENT,
    Session,
    Values,
    comes_back,
    complain,
    refusal,
)
from cupscale.planning import output_size
from cupscale.reproduce.rows import read_rows
from cupscale.settings import Settings
from cupscale.upscalers import NAMES, available

# The ablation's rows of `cupscale reproduce`, as settings over the page's own.
ABLATION = {row.title: dict(row.settings) for row in read_rows().values() if row.group == "ablation"}
_LOST = "The last comparison is no longer on the server: Compare runs it again."
PLAIN = "plain enlargement"
_CLICK_DOWNLOAD = (
    "() => setTimeout(() => document.querySelector('#grid-file a, a#grid-file, #grid-file')?.click(), 150)"
)


def variants(settings: Settings) -> dict[str, Settings | None]:
    """title -> the settings of a run; None for the plain enlargement, which is none."""
    made: dict[str, Settings | None] = {PLAIN: None}
    made |= {title: settings.replace(**fields) for title, fields in ABLATION.items()}
    made |= {f"base upscaler: {kind}": settings.replace(upscaler=kind) for kind in NAMES if available(kind)}
    return made


def titles() -> list[str]:
    return list(variants(Settings.build()))


class _Asked(NamedTuple):
    """What a comparison is of.

    chosen: settings by title, None for the plain enlargement. stem: of downloads. path: of the input.
    """

    picture: images.Picture
    settings: Settings
    output: tuple[int, int]
    chosen: dict[str, Settings | None]
    stem: str
    path: str


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
        kept = session.limits.kept_seconds
        self.blind = Blind(kept)
        with gr.Row(visible=False, elem_id="compare-after") as self.after:
            self.download = gr.Button("Download the grid", size="sm", elem_id="grid-save")
            self.blind.start.render()
        self.file = gr.DownloadButton("grid", visible="hidden", elem_id="grid-file")
        self.grid = viewer.Grid(elem_id="grid")
        self.shots = gr.State({}, time_to_live=kept, delete_callback=_forget)
        self.input = gr.State(None, time_to_live=kept)  # of the comparison in sight

    def wire(self, demo: gr.Blocks, opening: Opening) -> None:
        """Connect the tab.

        Args:
            demo: Whose loading finds a comparison again.
            opening: Puts a variant on the Upscale tab.
        """
        session = self._session
        outputs = [self.status, self.grid, self.shots, self.input, self.compare, self.cancel, self.token]
        outputs += [self.after, self.blind.panel, self.blind.result, self.blind.start, self.wanted]
        queue.admitted(self.compare.click, session.limits)(
            self.start,
            session.inputs | {self.wanted, self.shots, session.laid},
            outputs,
            show_progress="hidden",
            trigger_mode="once",
            **RUN,
            **PRIVATE,
        )
        self.cancel.click(session.jobs.stop, self.token, None, **SILENT)
        comes_back(demo, self.token, "compare", self.returned, outputs)
        made = self.download.click(self.sheet, self.shots, self.file, show_progress="minimal", **PRIVATE)
        made.success(None, js=_CLICK_DOWNLOAD)
        self.blind.wire(self.shots, self.grid)

        def used(event: gr.EventData, shots: dict[str, run.Shot], path: str | None, token: str) -> Updates:
            try:
                shot = shots.get(str((event._data or {}).get("title")))
                if shot is None:
                    raise CupscaleError(run.GONE)
                return opening.shot(shot, path, token)
            except CupscaleError as error:
                complain(error)
                return {opening.token: gr.skip()}

        given = [self.shots, self.input, opening.token]
        opening.follow(self.grid.use, used, given)

    def sheet(self, shots: dict[str, run.Shot]) -> str:
        """The grid as one picture."""
        try:
            return str(sheet.write(shots, scratch.new_folder()))
        except CupscaleError as error:  # raised, so that no download follows
            raise refusal(error) from None

    def start(self, values: Values) -> Steps:
        """One run after the other; each shows as it ends."""
        session = self._session
        try:
            asked = self._asked(values)
        except CupscaleError as error:
            yield self._failed(str(error))
            return
        display = Display(
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
        yield from session.jobs.run(self._guarded(asked, values), display, seconds)

    def returned(self, token: str) -> Steps:
        """The comparison of this tab after a reload: where it is now, or its grid."""
        job = self._session.jobs.named((token or "").partition(" ")[0])
        shots = (job.shown(self.shots) if job else None) or {}
        if job and all(Path(shot.png).is_file() for shot in shots.values()):
            yield from job.follow()
        elif token:
            yield {self.status: run.plan_html(_LOST, wrong=True), self.token: LOST}
        else:
            yield {self.token: gr.skip()}  # gradio takes a generator that gives nothing for empty components

    def _asked(self, values: Values) -> _Asked:
        session = self._session
        picture, settings, plan = session.plan(values)
        chosen = {title: s for title, s in variants(settings).items() if title in values[self.wanted]}
        if not chosen:
            raise CupscaleError("no variant is chosen: tick at least one")
        runs = [s for s in chosen.values() if s is not None]
        bounds.check_run(picture.size, runs or [settings], session.limits)
        path = values[session.image]
        return _Asked(picture, settings, plan.output, chosen, source.name(path), path)

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
        return {self.status: run.refusal_html(line), **self._buttons(False)}

    def _runs(self, asked: _Asked) -> Steps:
        picture, settings, chosen = asked.picture, asked.settings, asked.chosen
        runs = [s for s in chosen.values() if s is not None]
        seconds = sum(engine.planned(picture.size, s).seconds or 0 for s in runs)
        note = f"{len(chosen)} variants at {asked.output[0]} × {asked.output[1]}, seed {settings.seed}"
        line = note + (f", about {run.clock(seconds)}" if seconds else "")
        yield {
            self.status: run.status_html(line, 0.0),
            self.shots: {},
            self.input: asked.path,
            self.wanted: list(chosen),  # as they are: a reload brings them back
            self.after: gr.update(visible=False),
            self.grid: gr.update(value=viewer.grid([], note), visible=True),
            self.blind.start: gr.update(interactive=True),
            **self.blind.hidden(),
        }
        shots: dict[str, run.Shot] = {}
        cells: list[tuple[str, str | Path, str]] = []
        for title, variant in chosen.items():
            if variant is None:
                shot, line = _plain(picture, settings, asked.stem), "Lanczos, no network"
            else:
                done = len(shots) / len(chosen)
                later = [s for s in list(chosen.values())[len(shots) + 1 :] if s is not None]
                left = sum(engine.planned(picture.size, s).seconds or 0 for s in later)
                part = (done, len(chosen), left)
                shot = yield from self._run(picture, variant, asked.stem, title, part)
                line = shot.note.rpartition(", ")[2]
            shots[title] = shot
            cells.append((title, shot.png, line))
            yield {
                self.grid: viewer.grid(cells, note, [one for one in shots if one != PLAIN]),
                self.shots: dict(shots),
                self.after: gr.update(visible=True),
                self.blind.start: gr.update(visible=len(shots) > 1),
            }

    def _run(
        self,
        picture: images.Picture,
        settings: Settings,
        stem: str,
        title: str,
        part: tuple[float, int, float],
    ) -> Generator[Updates, None, run.Shot]:
        """part: how much of all variants is done, how many there are, and the seconds that those after this one take."""
        sights = run.watch(picture, settings, self._session.limits, stem, later=part[2])
        with contextlib.closing(sights):
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
    for shot in (shots or {}).values():
        run.forget(shot)
