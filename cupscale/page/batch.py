"""The Batch tab: several images with the same settings, one after the other in one turn of the queue, and one archive."""

from __future__ import annotations

import contextlib
import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from cupscale import images
from cupscale.bounded import parse_object
from cupscale.errors import CupscaleError
from cupscale.page import bounds, engine, queue, references, run, scratch, source
from cupscale.page.jobs import Display, Steps, Updates
from cupscale.page.limits import Limits
from cupscale.page.session import (
    FOLLOWING,
    LOST,
    PRIVATE,
    RUN,
    SILENT,
    TOASTING,
    Session,
    Values,
    comes_back,
    complain,
    refusal,
)
from cupscale.page.viewer import Scripted
from cupscale.planning import Plan, duration
from cupscale.settings import Settings

if TYPE_CHECKING:
    from cupscale.page.opening import Opening

FORMATS = {"PNG": "png", "WebP": "webp", "JPEG": "jpg"}
_LOST = "The last batch is no longer on the server: choose its images again, and Upscale all runs them."
# Why the plan is made again, as a text that is never the same twice. What changes together, such as the files and then the
# settings after a reload, is asked for once: only the last of several tells why, and that the files are others is not lost.
BECAUSE = """async () => {
  const why = '%s', waiting = (window.cupscaleBatch ??= { last: 0, files: false })
  if (why === 'settings' && !document.querySelector('#batch-list li')) return {__type__: 'update'}
  const mine = ++waiting.last
  waiting.files ||= why === 'files'
  await new Promise((settled) => setTimeout(settled, 200))
  if (mine !== waiting.last) return {__type__: 'update'}
  const told = waiting.files ? 'files' : why
  waiting.files = false
  return `${told} ${performance.now()}`
}"""
_NO_FILES = "Choose images to see what a batch takes."
_CLICK_DOWNLOAD = (
    "() => setTimeout(() => document.querySelector('#zip-file a, a#zip-file, #zip-file')?.click(), 150)"
)


@dataclass(frozen=True)
class Entry:
    """An image of a batch.

    Attributes:
        path: The upload.
        name: Its file's name.
        stem: For the names of its downloads, unlike those of the other images.
        state: "ready", "running", "done" or "failed".
        line: What to say of it.
        settings: Of its run; None where it is refused.
        plan: Of its run.
        shot: Its result.
    """

    path: str
    name: str
    stem: str
    state: str = "ready"
    line: str = ""
    settings: Settings | None = None
    plan: Plan | None = None
    shot: run.Shot | None = None

    @property
    def seconds(self) -> float:
        """That its run takes; 0 where there is none."""
        return engine.expected_seconds(self.plan, self.settings) if self.plan and self.settings else 0.0


@dataclass
class Batch:
    """The images of a batch, and the folder of their results."""

    entries: list[Entry] = field(default_factory=list)
    folder: str = ""

    def rows(self) -> dict[str, Any]:
        """For the list on the page."""
        return {"rows": [{"name": e.name, "state": e.state, "line": e.line} for e in self.entries]}

    @property
    def shots(self) -> list[run.Shot]:
        """The results so far."""
        return [entry.shot for entry in self.entries if entry.shot]


class Rows(Scripted):
    """The list on the page. Its value is made by `Batch.rows`; triggers `open` with the index of a result."""

    def __init__(self, **options: Any) -> None:
        super().__init__("batch", Batch().rows(), **options)


def archive(batch: Batch, suffix: str) -> Path:
    """One ZIP file of all results, with a text that names what failed.

    Args:
        batch: With a result at least.
        suffix: Of the pictures: "png", "webp" or "jpg"; a JPEG of a transparent one lies on white.

    Raises:
        CupscaleError: There are none, or they are gone.
    """
    shots = batch.shots
    if not shots or not all(Path(shot.png).is_file() for shot in shots):
        raise CupscaleError("these results are no longer on the server: run the batch again")
    noun = "image" if len(shots) == 1 else "images"
    path = Path(batch.folder) / f"cupscale-{len(shots)}-{noun}-{suffix}.zip"
    failed = [entry for entry in batch.entries if entry.state == "failed"]
    part = path.with_suffix(".part")
    with zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as packed:  # pictures do not get smaller
        for shot in shots:
            made = Path(shot.png if suffix == "png" else run.encode(shot, suffix))
            packed.write(made, made.name)
        if failed:
            packed.writestr("errors.txt", "".join(f"{entry.name}: {entry.line}\n" for entry in failed))
    return part.replace(path)


class BatchTab:
    """Its components, made inside its `gr.Tab`, and what they do."""

    def __init__(self, session: Session) -> None:
        self._session = session
        gr.Markdown(
            "Several images, one after the other, each with the settings of the Upscale tab. Captions of single regions belong "
            "to one image and are left out.",
            elem_classes="cu-small",
        )
        self.files = gr.File(
            label=f"Images, up to {session.limits.batch}",
            file_count="multiple",
            height=170,
            elem_id="batch-files",
        )
        self.plan_line = gr.HTML(run.plan_html(_NO_FILES), elem_id="batch-plan")
        self.refused = gr.HTML("", elem_id="batch-refused", elem_classes="cu-refused")
        with gr.Row():
            self.run = gr.Button("Upscale all", variant="primary", scale=3, elem_id="batch-run")
            self.cancel = gr.Button(
                "Cancel", interactive=False, scale=1, min_width=90, elem_id="batch-cancel"
            )
        self.status = gr.HTML(run.status_html(""), elem_id="batch-status")
        gr.HTML(run.TELL)
        with gr.Row(visible=False, elem_id="batch-downloads") as self.downloads:
            self.format = gr.Radio(
                list(FORMATS), value="PNG", label="Format", container=False, scale=2, elem_id="batch-format"
            )
            self.zip = gr.Button("Download all (ZIP)", scale=3, elem_id="batch-zip")
        self.zip_file = gr.DownloadButton("archive", visible="hidden", elem_id="zip-file")
        self.list = Rows(elem_id="batch-list")
        self.token = gr.Textbox(visible="hidden", elem_id="batch-name")  # of the run that this tab shows
        self.moved = gr.Textbox(visible="hidden", elem_id="batch-moved")  # why the plan is made again
        self.kept = gr.Textbox(visible="hidden", elem_id="batch-kept")  # the files, for the browser to keep
        kept = session.limits.kept_seconds
        self.batch = gr.State(None, time_to_live=kept, delete_callback=_forget)

    def wire(self, demo: gr.Blocks, tab: gr.Tab, opening: Opening) -> None:
        """Connect the tab.

        Args:
            demo: Whose loading finds a batch again.
            tab: The tab itself: as it opens, the plan follows the settings.
            opening: Shows a result in the slider.
        """
        session = self._session
        # One step for all: of two, the older could answer last, as where a reload brings the settings after the files.
        for event, why in (
            (self.files.change, "files"),
            (tab.select, "tab"),
            (session.again.change, "settings"),
        ):
            event(None, None, self.moved, js=BECAUSE % why, trigger_mode="multiple")
        known = session.inputs | {self.files, self.token, self.batch, self.moved}
        self.moved.change(self.planned, known, [self.plan_line, self.list, self.kept], **SILENT, **FOLLOWING)
        shown = [self.refused, self.status, self.list, self.batch, self.run, self.cancel]
        outputs = [*shown, self.token, self.downloads]
        queue.admitted(self.run.click, session.limits)(
            self.start,
            session.inputs | {self.files, self.batch},
            outputs,
            show_progress="hidden",
            trigger_mode="once",
            **RUN,
            **PRIVATE,
        )
        self.cancel.click(session.jobs.stop, self.token, None, **SILENT)
        made = self.zip.click(
            self.packed, [self.batch, self.format], self.zip_file, show_progress="minimal", **PRIVATE
        )
        made.success(None, js=_CLICK_DOWNLOAD)
        comes_back(demo, self.token, "batch", self.returned, outputs)
        self._wire_files(demo)
        opening.follow(self.list.open, self.opened(opening), [self.batch, opening.token])

    def _wire_files(self, demo: gr.Blocks) -> None:
        """The browser keeps which files there are, and brings them back after a reload."""
        self.kept.change(None, self.kept, None, js="(paths) => { cupscaleInputs.keepBatch(paths) }")
        back = gr.Textbox("", visible=False, elem_id="batch-files-back")  # beside the tab, as a run's token
        demo.load(None, None, back, js="() => cupscaleInputs.broughtBatch()")
        back.change(self.brought_back, back, [self.token, self.files], **TOASTING)

    # Handlers

    def brought_back(self, text: str) -> Updates:
        """The files of before a reload, and the run of theirs; those that are gone are told."""
        paths, name = _kept(text)
        there = []
        for path in paths[: self._session.limits.batch]:
            with contextlib.suppress(CupscaleError):
                there.append(references.check(path))
        if lost := len(paths) - len(there):
            complain(
                CupscaleError(f"{lost} of {len(paths)} images are no longer on the server: give them again"),
                "Part of the batch is gone",
            )
        updates: Updates = {self.files: there or gr.skip()}
        return {self.token: name, **updates} if self._session.jobs.named(name.partition(" ")[0]) else updates

    def planned(self, values: Values) -> Updates:
        """What the batch would take, and what is wrong with single images.

        Where there are no files, as where the browser keeps none, a batch that was found again stays in sight.
        """
        job = self._session.jobs.named(str(values[self.token]).partition(" ")[0])
        if job and not job.over:
            return {self.plan_line: gr.skip()}
        files = list(values[self.files] or ())
        if not files and not str(values[self.moved]).startswith("files"):
            return {self.plan_line: gr.skip()}
        kept = {self.kept: json.dumps([str(path) for path in files])}
        if not files:
            return {self.plan_line: run.plan_html(_NO_FILES), self.list: Batch().rows(), **kept}
        try:
            entries = self._entries(values)
            self._check_total(entries)
        except CupscaleError as error:
            return {self.plan_line: run.plan_html(str(error), wrong=True), **kept}
        line = run.plan_html(_summary(entries) + bounds.line(self._session.limits))
        before = values[self.batch] or (job.shown(self.batch) if job else None)
        if isinstance(before, Batch) and [one.path for one in before.entries] == files:
            return {self.plan_line: line, **kept}  # the list has their results
        return {self.plan_line: line, self.list: Batch(entries).rows(), **kept}

    def start(self, values: Values) -> Steps:
        """All runs in one turn of the queue; each result shows as it ends."""
        session = self._session
        try:
            if not values[self.files]:
                raise CupscaleError("no images yet: choose some, or drop them here")
            entries = self._entries(values, draw_seed=True)
            self._check_total(entries)
            if all(entry.settings is None for entry in entries):
                raise CupscaleError(f"none of these can be enlarged; {entries[0].name}: {entries[0].line}")
        except CupscaleError as error:
            yield {self.refused: run.refusal_html(str(error))}
            return
        batch = Batch(entries)
        display = Display(
            token=self.token,
            waiting=lambda line: {self.status: run.status_html(line)},
            opening=lambda: {
                self.refused: "",
                self.status: run.status_html("starting", 0.0),
                self.list: batch.rows(),
                **self._buttons(True),
            },
            stopped=lambda began: self._ended(batch, "Cancelled. What is done stays."),
            failed=lambda line: {**self._ended(batch, ""), self.status: run.plan_html(line, wrong=True)},
        )
        steps = self._runs(batch, session.writer(values), values[self.batch])
        yield from session.jobs.run(steps, display, sum(entry.seconds for entry in entries))

    def returned(self, token: str) -> Steps:
        """The batch of this tab after a reload: where it is now, or its results."""
        job = self._session.jobs.named((token or "").partition(" ")[0])
        batch = job.shown(self.batch) if job else None
        gone = isinstance(batch, Batch) and batch.folder and not Path(batch.folder).is_dir()
        if job and not gone:
            yield from job.follow()
        elif token:
            yield {self.status: run.plan_html(_LOST, wrong=True), self.token: LOST}
        else:
            yield {self.token: gr.skip()}  # gradio takes a generator that gives nothing for empty components

    def packed(self, batch: Batch | None, format: str) -> str:
        """The archive, made when someone wants it."""
        try:
            return str(archive(batch or Batch(), FORMATS.get(format, "png")))
        except CupscaleError as error:  # raised, so that no download follows
            raise refusal(error) from None

    def opened(self, opening: Opening) -> Any:
        """A handler that shows a result of the list in the slider."""

        def show(event: gr.EventData, batch: Batch | None, token: str) -> Updates:
            try:
                number = event.index
                entry = batch.entries[number] if batch and isinstance(number, int) else None
                if entry is None or entry.shot is None:
                    raise CupscaleError(run.GONE)
                return opening.shot(entry.shot, entry.path, token)
            except (CupscaleError, IndexError) as error:
                complain(error if isinstance(error, CupscaleError) else CupscaleError(run.GONE))
                return {opening.token: gr.skip()}

        return show

    # The runs

    def _entries(self, values: Values, *, draw_seed: bool = False) -> list[Entry]:
        """Each file with its plan, or with what is wrong with it.

        Raises:
            CupscaleError: There are too many, or the settings are wrong.
        """
        session = self._session
        files, most = values[self.files], session.limits.batch
        if len(files) > most:
            raise CupscaleError(f"{len(files)} images: a batch here has at most {most}; take some away")
        random = draw_seed and bool(values[session.randomize])
        writer = session.writer(values)
        entries: list[Entry] = []
        for path in files:
            settings = session.controls.settings(values, randomize=random)
            stem = _unlike(source.name(path), [entry.stem for entry in entries])
            entry = Entry(path, source.file_name(path), stem)
            entries.append(self._planned(entry, settings, writer))
        return entries

    def _planned(self, entry: Entry, settings: Settings, writer: str) -> Entry:
        limits = self._session.limits
        try:
            size = _size(references.check(entry.path), limits)
            plan = bounds.allowed_plan(size, settings, limits, writer)
        except CupscaleError as error:
            return replace(entry, state="failed", line=str(error))
        line = f"{size[0]} × {size[1]} → {plan.output[0]} × {plan.output[1]}"
        return replace(entry, line=line, settings=settings, plan=plan)

    def _check_total(self, entries: Sequence[Entry]) -> None:
        """A batch is one run: together its images stay within the page's bounds. Raises CupscaleError."""
        limits = self._session.limits
        allowed = bounds.seconds_allowed(limits)
        seconds = samples = fitting = 0.0
        for entry in entries:
            seconds += entry.seconds
            samples += entry.plan.samples if entry.plan else 0
            beyond = (allowed and seconds > allowed) or (limits.max_samples and samples > limits.max_samples)
            fitting += not beyond
        if fitting == len(entries):
            return
        ways = [f"the first {fitting:.0f} of them"] * (fitting > 0) + ["a smaller scale", "fewer steps"]
        raise CupscaleError(
            f"these {len(entries)} images would take about {duration(seconds)} and {samples:.0f} samples of the network, "
            f"more than one run may take here{bounds.line(limits)}; choose {', '.join(ways[:-1])} or {ways[-1]}"
        )

    def _runs(self, batch: Batch, writer: str, before: Batch | None) -> Steps:
        _forget(before)
        folder = scratch.new_folder()
        batch.folder = str(folder)
        deadline = bounds.Deadline(self._session.limits)
        yield {self.batch: batch, self.downloads: gr.update(visible=False)}
        with scratch.holding([folder, *(entry.path for entry in batch.entries)]):
            for number in range(len(batch.entries)):
                if batch.entries[number].settings is None:
                    continue
                try:
                    yield from self._run(batch, number, writer, deadline)
                except CupscaleError as error:
                    failed = replace(batch.entries[number], state="failed", line=str(error))
                    batch.entries[number] = failed
                except MemoryError:
                    line = "out of memory: choose a smaller scale, or a machine with more of it"
                    batch.entries[number] = replace(batch.entries[number], state="failed", line=line)
                yield {
                    self.list: batch.rows(),
                    self.batch: batch,
                    self.downloads: gr.update(visible=bool(batch.shots)),
                }
        yield self._ended(batch, "Done.")

    def _run(self, batch: Batch, number: int, writer: str, deadline: bounds.Deadline) -> Steps:
        """One image. Raises CupscaleError."""
        entry = replace(batch.entries[number], state="running")
        assert entry.settings is not None
        batch.entries[number] = entry
        yield {self.list: batch.rows()}
        seconds = [one.seconds for one in batch.entries]
        total = sum(seconds) or 1.0
        picture = source.read(entry.path, self._session.limits)
        sights = run.watch(
            picture,
            entry.settings,
            self._session.limits,
            entry.stem,
            writer,
            later=sum(seconds[number + 1 :]),
            folder=Path(batch.folder),
        )
        with contextlib.closing(sights):
            for sight in sights:
                deadline.check()
                if sight.shot:
                    batch.entries[number] = replace(
                        entry, state="done", line=sight.shot.note, shot=sight.shot
                    )
                    continue
                fraction = (sum(seconds[:number]) + sight.fraction * seconds[number]) / total
                line = f"{number + 1} of {len(seconds)}, {entry.name}: {sight.status}"
                yield {self.status: run.status_html(line, fraction)}

    def _buttons(self, going: bool) -> Updates:
        return {self.run: gr.update(interactive=not going), self.cancel: gr.update(interactive=going)}

    def _ended(self, batch: Batch, line: str) -> Updates:
        """What is shown at the end, however that came."""
        done, failed = len(batch.shots), sum(entry.state == "failed" for entry in batch.entries)
        stopped = [
            replace(entry, state="ready") if entry.state == "running" else entry for entry in batch.entries
        ]
        counts = f"{done} of {len(batch.entries)} images are done"
        wrong = f", {failed} failed: the list says why" if failed else ""
        return {
            self.status: run.status_html(f"{line} {counts}{wrong}.".strip()),
            self.list: Batch(stopped).rows(),
            self.batch: batch,
            self.downloads: gr.update(visible=bool(done)),
            **self._buttons(False),
        }


@lru_cache(maxsize=1000)
def _size(path: str, limits: Limits) -> tuple[int, int]:
    """Of an upload, whose name holds the hash of its bytes. Raises CupscaleError."""
    data = references.content(path)
    return images.read_size(data, max_pixels=limits.input_px, max_bytes=limits.upload_bytes)


def _summary(entries: Sequence[Entry]) -> str:
    good = [entry for entry in entries if entry.settings]
    line = f"{len(good)} image{'s' * (len(good) != 1)}, about {duration(sum(e.seconds for e in good))} in all"
    wrong = len(entries) - len(good)
    return line + (f"; {wrong} cannot be enlarged, the list says why" if wrong else "")


def _kept(text: str) -> tuple[list[str], str]:
    """The paths of a batch's files and the name of its run, as the browser kept them; nothing of what is none of ours."""
    try:
        kept = parse_object(text, "the batch")
    except CupscaleError:
        return [], ""
    files = kept.get("files")
    paths = [path for path in files if isinstance(path, str)] if isinstance(files, list) else []
    return paths, str(kept.get("name") or "")


def _unlike(stem: str, others: Sequence[str]) -> str:
    number, unlike = 2, stem
    while unlike in others:
        unlike, number = f"{stem}-{number}", number + 1
    return unlike


def _forget(batch: Any) -> None:
    """Delete a batch's results."""
    if isinstance(batch, Batch) and batch.folder:
        run.forget_folder(batch.folder)
