"""The runs of the Upscale tab: a click, the queue, what is shown meanwhile, the end; and a run that was found again."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Generator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from cupscale.bounded import parse_object
from cupscale.errors import CupscaleError
from cupscale.images import Picture
from cupscale.page import bounds, engine, history, links, mask, queue, regions, run, source, viewer
from cupscale.page.jobs import Display, Steps, Updates
from cupscale.page.session import LOST, PRIVATE, RUN, SILENT, Session, Values, comes_back, complain, new_book
from cupscale.planning import Plan, nearest_size
from cupscale.settings import Caption, Settings

if TYPE_CHECKING:
    from cupscale.page.upscale import UpscaleTab

SHAPES = {"1:1": 1.0, "4:3": 4 / 3, "3:4": 3 / 4, "16:9": 16 / 9, "9:16": 9 / 16}  # of a picture from words
_LOST = "The last run was lost: the page or its server went away. Upscale runs it again."
# On a phone the result lies below the controls, and is looked at when a run begins.
_KEEP_NAME = """(name) => {
  const before = sessionStorage.getItem('cupscale-run')
  name?.trim() ? sessionStorage.setItem('cupscale-run', name) : sessionStorage.removeItem('cupscale-run')
  if (name?.trim() && !name.endsWith(' over') && name !== before && matchMedia('(max-width: 640px)').matches) {
    document.querySelector('#result')?.scrollIntoView({behavior: 'smooth'})
  }
}"""


class Painting:
    """What the buttons Upscale, Draw and Cancel do.

    Args:
        session: What the tabs share.
        tab: Whose buttons they are.
    """

    def __init__(self, session: Session, tab: UpscaleTab) -> None:
        self._session = session
        self._tab = tab
        self._display = Display(
            token=tab.token,
            waiting=lambda line: {tab.status: run.status_html(line)},
            opening=self._opening,
            stopped=self._stopped,
            failed=self._failed,
        )

    def wire(self, demo: gr.Blocks) -> None:
        """Connect the buttons, and the opening of the page."""
        session, tab = self._session, self._tab
        shown = [tab.viewer, tab.status, tab.refused, tab.run, tab.draw, tab.cancel, tab.token, tab.wrote]
        outputs = [*shown, session.controls["seed"], tab.shot, tab.downloads, tab.png, tab.jpeg]
        outputs += [session.image, session.example, session.book, session.laid, session.drawn, tab.inside]
        given = session.inputs | {tab.shot, session.laid, tab.shape}
        for button, handler in ((tab.run, self.start), (tab.draw, self.drawn)):
            click = queue.admitted(button.click, session.limits)
            click(handler, given, outputs, show_progress="hidden", trigger_mode="once", **RUN, **PRIVATE)
        tab.cancel.click(session.jobs.stop, tab.token, None, **SILENT)
        known = session.inputs | {session.laid, tab.wrote}
        session.follow(
            tab.wrote.change,
            self.taken_over,
            known,
            [session.book, session.laid],
            trigger_mode="always_last",
            **SILENT,
        )
        comes_back(demo, tab.token, "run", self.returned, outputs, keep=_KEEP_NAME)

    # Handlers

    def start(self, values: Values) -> Generator[Updates, None, None]:
        """The run, from the button to the result. What cannot be done is said before it waits for anything."""
        session = self._session
        try:
            settings = session.settings(values, draw_seed=True)
            picture = session.picture(values)
            held = mask.of_visit(values, session, picture.size)
            settings = links.as_drawn(picture, settings)
            plan = bounds.allowed_plan(picture, settings, session.limits, session.writer(values))
        except CupscaleError as error:
            yield self._refused(error)
            return
        wrote: list[Caption] = []
        path = values[session.image]
        plain = viewer.preview(
            None, "The plain enlargement; the result takes shape over it", plan.output, path
        )
        display = replace(
            self._display,
            opening=lambda: {
                **self._opening(),
                self._tab.viewer: plain,
                self._tab.downloads: gr.update(visible=False),
            },
            stopped=lambda began: self._stopped(began, wrote, values[self._tab.shot]),
        )
        steps = self._guarded(self._painted(values, picture, held, settings, plan, wrote), values)
        yield from session.jobs.run(steps, display, engine.expected_seconds(plan, settings))

    def drawn(self, values: Values) -> Generator[Updates, None, None]:
        """A picture from the prompt, which becomes the input; another seed draws another."""
        try:
            settings, plan = self._to_draw(values)
        except CupscaleError as error:
            yield self._refused(error)
            return
        steps = self._guarded(self._drawing(settings), values)
        yield from self._session.jobs.run(steps, self._display, engine.expected_seconds(plan, settings))

    def returned(self, token: str) -> Steps:
        """The run of this tab after a reload: where it is now, or its result, or that it was lost."""
        name, _, over = (token or "").partition(" ")
        job = self._session.jobs.named(name)
        shot = job.shown(self._tab.shot) if job else None
        if job and not (isinstance(shot, run.Shot) and not Path(shot.png).is_file()):
            yield from job.follow()
        elif name and not over:
            yield {self._tab.status: run.plan_html(_LOST, wrong=True), self._tab.token: LOST}
        else:
            yield {
                self._tab.token: gr.skip()
            }  # gradio takes a generator that gives nothing for empty components

    def taken_over(self, values: Values) -> Updates:
        """Captions that a run's captioner wrote go where a person reads and edits them; what was typed meanwhile stays."""
        session = self._session
        with contextlib.suppress(CupscaleError):
            given = parse_object(values[self._tab.wrote] or "{}", "the captions")
            output = session.plan(values)[2].output
            if given and (given["image"], given["size"]) == (values[session.image], list(output)):
                wrote = [Caption(**one) for one in given["captions"]]
                there = session.captions(values[session.table], values[session.book])
                book = values[session.book]
                regions.write_arrived(book, there, wrote, output)
                return {session.book: book, session.laid: None}
        return {session.book: gr.skip()}

    # What is shown

    def _guarded(self, steps: Steps, values: Values) -> Steps:
        """The updates of a run that has begun: the result before it goes, and a failure is a line."""
        tab = self._tab
        run.forget(values[tab.shot])
        yield {tab.shot: None, tab.downloads: gr.update(visible=False)}
        try:
            yield from steps
        except CupscaleError as error:
            yield self._failed(str(error))
        except MemoryError:
            yield self._failed(
                "out of memory, one region at a time: choose a smaller scale, or a machine with more of it"
            )
        except Exception:  # what nobody foresaw: the buttons come back, and the log has the rest
            logging.getLogger(__name__).exception("a run failed")
            yield self._failed(
                "the run failed through a fault of this program, which its log names: try again"
            )

    def _painted(
        self,
        values: Values,
        picture: Picture,
        held: Picture | None,
        settings: Settings,
        plan: Plan,
        wrote: list[Caption],
    ) -> Steps:
        """held: the mask. wrote: takes the captions that were written for the run."""
        session, tab = self._session, self._tab
        fraction = 0.0
        path, writer = values[session.image], session.writer(values)
        stem = source.name(path)
        sights = run.watch(picture, settings, session.limits, stem, writer, held)
        with contextlib.closing(sights):
            for sight in sights:
                fraction = max(fraction, sight.fraction)
                if sight.notice:
                    complain(CupscaleError(sight.notice), "Note")
                if sight.shot:
                    yield self._finished(sight.shot, path)
                    continue
                updates = {
                    tab.status: run.status_html(sight.status, fraction),
                    session.controls["seed"]: settings.seed,
                }
                if sight.captions:
                    wrote[:] = sight.captions
                    updates[tab.wrote] = _packed(sight.captions, plan, path)
                if sight.preview is not None:
                    updates[tab.viewer] = viewer.preview(
                        sight.preview, "Preview of the result", sight.size, path
                    )
                yield updates

    def _to_draw(self, values: Values) -> tuple[Settings, Plan]:
        session = self._session
        settings = session.controls.settings(values, randomize=bool(values[session.randomize]))
        width, height = nearest_size(SHAPES[values[self._tab.shape]], engine.geometry(settings.model))
        settings = settings.replace(scale=1.0, size=f"{width}x{height}", captions=())
        return settings, bounds.allowed_plan(None, settings, session.limits)

    def _drawing(self, settings: Settings) -> Steps:
        session, tab = self._session, self._tab
        with contextlib.closing(run.watch(None, settings, session.limits, "words")) as sights:
            for sight in sights:
                if sight.shot is None:
                    yield {tab.status: run.status_html(sight.status, sight.fraction)}
                    continue
                yield {
                    **self._idle(),
                    session.image: sight.shot.png,
                    session.example: None,
                    session.book: new_book(),
                    session.laid: None,
                    session.controls["seed"]: settings.seed,
                    tab.inside: gr.update(visible=False),
                    tab.viewer: viewer.empty(),
                    tab.status: run.status_html("Drawn. Upscale enlarges it; another seed draws another."),
                }

    def _opening(self) -> Updates:
        tab = self._tab
        return {
            tab.cancel: gr.update(interactive=True),
            tab.run: gr.update(interactive=False),
            tab.draw: gr.update(interactive=False),
            tab.refused: "",
            tab.status: run.status_html("starting", 0.0),
        }

    def _idle(self) -> Updates:
        tab = self._tab
        return {
            tab.cancel: gr.update(interactive=False),
            tab.run: gr.update(interactive=True),
            tab.draw: gr.update(interactive=True),
        }

    def _finished(self, shot: run.Shot, path: str) -> Updates:
        """path: of the input."""
        tab = self._tab
        kept = history.entry(shot, path)
        return {
            tab.viewer: viewer.pair(shot.before, shot.png, shot.size, shot.note, kept),
            tab.status: run.status_html("Done."),
            tab.shot: shot,
            tab.png: gr.update(value=shot.png, visible=True),
            tab.jpeg: gr.update(value=shot.jpeg),
            tab.downloads: gr.update(visible=True),
            **self._idle(),
        }

    def _refused(self, error: CupscaleError) -> Updates:
        """In the plan's place, just above the button."""
        tab = self._tab
        return {tab.refused: run.refusal_html(str(error)), tab.status: run.status_html("")}

    def _failed(self, line: str) -> Updates:
        tab = self._tab
        return {**self._idle(), tab.viewer: viewer.empty(), tab.status: run.plan_html(line, wrong=True)}

    def _stopped(self, began: bool, wrote: Sequence[Caption] = (), before: Any = None) -> Updates:
        """before: the result that was in sight; a run that never began leaves it there."""
        tab = self._tab
        kept: Updates = {tab.viewer: viewer.empty()}
        if not began and isinstance(before, run.Shot):
            shown = viewer.pair(before.before, before.png, before.size, before.note)
            kept = {tab.viewer: shown, tab.downloads: gr.update(visible=True)}
        line = "Cancelled. Nothing was kept." if began else "Cancelled, before it began."
        if wrote:
            line = "Stopped. The captions so far are on the Regions tab: edit them, and Upscale goes on with them."
        return {**kept, tab.status: run.status_html(line), **self._idle()}


def _packed(captions: Sequence[Caption], plan: Plan, image: Any) -> str:
    """Captions for `Painting.taken_over`, with what they belong to."""
    kept = [caption.model_dump() for caption in captions]
    return json.dumps({"image": image, "size": plan.output, "captions": kept})
