"""What follows the controls: the plan's line, the link, the picture of the cutoff, the captions on their regions."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import gradio as gr

from cupscale.captions import scaled
from cupscale.errors import CupscaleError
from cupscale.images import Picture
from cupscale.page import (
    bounds,
    creativity,
    cutoff,
    engine,
    examples,
    links,
    mask,
    regions,
    run,
    share,
    size,
    source,
    visit,
)
from cupscale.page.jobs import Updates
from cupscale.page.session import FOLLOWING, SILENT, TOASTING, Session, Step, Values, complain
from cupscale.planning import Plan, duration, output_size
from cupscale.settings import MAX_SCALE, Settings, default_cutoff

if TYPE_CHECKING:
    from cupscale.page.upscale import UpscaleTab

NO_IMAGE = "Choose an image to see what a run takes."


class Following:
    """Shows what the present settings mean.

    Args:
        session: What the tabs share.
        tab: The Upscale tab, which shows it.
    """

    def __init__(self, session: Session, tab: UpscaleTab) -> None:
        self._session = session
        self._plan_line = tab.plan_line
        self._smaller = tab.smaller
        self._creativity = tab.creativity
        self._links = tab.links
        self._kept = tab.advanced.kept
        self._kept_line = tab.advanced.kept_line
        self._followed = tab.followed
        self._kept_visit = tab.visit

    def wire(self, laying: Step, drawing: Step) -> None:
        """Let all of it follow every control, the image and the table. laying, drawing: of the Regions tab, the last steps."""
        session, controls = self._session, self._session.controls
        known = session.inputs | {session.book, session.laid}
        outputs = [self._plan_line, self._links, self._kept, self._kept_line, session.laid, session.rows]
        outputs += [self._kept_visit, self._creativity, self._smaller]
        moved = [
            component.change
            for component in (
                *controls.all,
                session.randomize,
                session.captioner,
                session.image,
                session.table,
                session.again,
            )
        ]
        planned = gr.on(moved, self.refresh, known, outputs, **SILENT, **FOLLOWING)
        planned.then(**laying, **FOLLOWING).then(**drawing, **FOLLOWING)
        self._kept_visit.change(None, self._kept_visit, None, js=visit.KEEP)
        self._wire_first()
        session.table.input(self.remember, known, [session.book], **TOASTING)
        controls["scale"].change(
            self.cutoff_of_scale,
            [controls["scale"], controls["cutoff"], self._followed, controls["model"]],
            [controls["cutoff"], self._followed],
            trigger_mode="always_last",
            **SILENT,
        )

    def _wire_first(self) -> None:
        """The first screen's own controls, which write settings."""
        session, controls = self._session, self._session.controls
        controls["scale"].target(self.sized, session.image, controls["scale"], **TOASTING)
        self._smaller.click(self.made_smaller, session.inputs, controls["scale"], **TOASTING)
        moved = [controls[name] for name in creativity.MOVED]
        self._creativity.choose(self.created, controls["model"], moved, **SILENT)

    def refresh(self, values: Values) -> Updates:
        """Everything that follows."""
        session = self._session
        try:
            settings = session.controls.settings(values)
        except CupscaleError as error:
            return {self._plan_line: run.plan_html(str(error), wrong=True)}
        if not values[session.image]:
            return self._without_image(values, settings)
        try:
            picture = session.picture(values)
            asked = self._asked(values, settings)
            held = mask.of_visit(values, session, picture.size)
            plan = bounds.allowed_plan(picture, asked, session.limits, session.writer(values))
        except CupscaleError as error:
            line = run.plan_html(str(error), wrong=True)
            return {self._plan_line: line, **self._quiet, **self._shared(values, settings, None)}
        quota = engine.quota_line(picture, asked, session.writer(values))
        rest = run.plan_rest(plan, quota) + bounds.line(session.limits)
        laid, rows, note = self._lay(values, plan)
        with contextlib.suppress(
            CupscaleError
        ):  # too long a caption is refused at the run and on the Regions tab
            settings = settings.replace(captions=session.captions(rows, values[session.book]))
        if held is not None:
            note = f", with the places you protect as the base upscale has them{note}"
        return {
            self._plan_line: run.plan_html(rest + note, lead=f"{run.plan_lead(plan)}."),
            **self._warned(picture, asked, plan),
            **laid,
            **self._shared(values, settings, picture, plan.output),
            **self._low_frequencies(picture, settings),
        }

    def _asked(self, values: Values, settings: Settings) -> Settings:
        """With the captions that are there: where there are some, nobody writes."""
        session = self._session
        with contextlib.suppress(
            CupscaleError
        ):  # too long a caption is refused at the run and on the Regions tab
            typed = session.captions(values[session.table], values[session.book])
            laid = values[session.laid]
            if typed and laid and laid["image"] == values[session.image]:
                output = output_size(session.picture(values).size, settings.scale)
                return settings.replace(captions=scaled(typed, laid["output"], output))
        return settings

    def _without_image(self, values: Values, settings: Settings) -> Updates:
        return {
            self._plan_line: run.plan_html(NO_IMAGE),
            **self._quiet,
            **self._shared(values, settings, None),
            self._kept: gr.update(visible=False),
            self._kept_line: "",
        }

    @property
    def _quiet(self) -> Updates:
        return {self._smaller: gr.update(visible=False)}

    def _warned(self, picture: Picture, settings: Settings, plan: Plan) -> Updates:
        """Where a run is long, the largest size that is not."""
        if engine.expected_seconds(plan, settings) <= bounds.LONG_SECONDS:
            return self._quiet
        found = bounds.shorter(picture.size, settings)
        if found is None:
            line = f"Above {duration(bounds.LONG_SECONDS)}, at any size: fewer steps or a smaller image take less"
            return {self._smaller: gr.update(visible=True, interactive=False, value=line)}
        width, height = output_size(picture.size, found[0])
        line = f"Above {duration(bounds.LONG_SECONDS)}: make it {width} × {height} instead, about {duration(found[1])}"
        return {self._smaller: gr.update(visible=True, interactive=True, value=line)}

    def made_smaller(self, values: Values) -> Any:
        """The scale of the largest result that does not take long."""
        session = self._session
        try:
            settings = session.controls.settings(values)
            found = bounds.shorter(session.picture(values).size, settings)
        except CupscaleError as error:
            complain(error)
            return gr.skip()
        return found[0] if found else gr.skip()

    def sized(self, image: str | None, event: gr.EventData) -> Any:
        """The scale for a size that a person named."""
        try:
            return size.scale_to(str(event.kind), event.value, image, self._session.limits)
        except CupscaleError as error:
            complain(error)
            return gr.skip()

    def created(self, model: str, event: gr.EventData) -> Updates:
        """The settings for a place of the Creativity slider."""
        return self._session.controls.show(creativity.chosen(model, event.level))

    def _lay(self, values: Values, plan: Plan) -> tuple[Updates, Any, str]:
        """Lay the book's captions on the plan's regions where those changed.

        Captions whose regions are gone, as after a new scale, are carried over to those that lie there now.

        Returns:
            What to update, the rows of the table, and a note for the person.
        """
        session = self._session
        laid = {
            "boxes": plan.boxes,
            "output": plan.output,
            "image": values[session.image],
            "stamp": values[session.book]["stamp"],
        }
        before, table = values[session.laid], values[session.table]
        if before and all(before[name] == laid[name] for name in laid):
            # The note stands for as long as it is so: a second plan of one change would take it away.
            return {}, table, before["note"]
        serial, captions = regions.read_book(values[session.book], plan.output)
        rows, note = regions.rows_of(plan, captions), ""
        same = before and all(before[name] == laid[name] for name in ("image", "stamp"))
        if same and len(table or ()) == len(before["boxes"]):
            there = regions.carried_over(table, before, plan)
            if any(new[2] and not row[2] for row, new in zip(rows, there, strict=True)):
                rows = [row if row[2] else new for row, new in zip(rows, there, strict=True)]
                note = "; the regions changed, and each took the caption of the one that covers most of it"
        laid["note"] = note
        return {session.laid: laid, session.rows: regions.packed_rows(serial, rows)}, rows, note

    def _shared(
        self,
        values: Values,
        settings: Settings,
        picture: Picture | None,
        output: tuple[int, int] | None = None,
    ) -> Updates:
        session = self._session
        name, image, drawn = values[session.example], values[session.image], bool(values[session.randomize])
        protected = mask.belonging(values[session.mask], image)
        kept = visit.packed(settings, output, image, name, drawn, protected)
        file: str | None = "photo.png"
        example = examples.named(name)
        if example:
            file = example.place
        elif picture:
            settings = links.as_drawn(picture, settings)
            file = None if settings.size else source.file_name(image)
        return {
            self._links: share.texts(
                settings, name, file, session.limits, mask.file_name(image) if protected else None
            ),
            self._kept_visit: kept,
            self._creativity: creativity.shown(settings),
        }

    def _low_frequencies(self, picture: Picture, settings: Settings) -> Updates:
        geometry = engine.geometry(settings.model)
        low, line = cutoff.kept(picture.rgb, settings.cutoff, settings.scale, geometry)
        return {self._kept: gr.update(value=low, visible=True), self._kept_line: line}

    def remember(self, values: Values) -> Any:
        """An edit of the table goes into the book."""
        session = self._session
        try:
            captions = session.captions(values[session.table], values[session.book])
            _, _, plan = session.plan(values)
        except CupscaleError as error:
            complain(error)
            return gr.skip()
        book = values[session.book]
        regions.write_edited(book, values[session.laid], captions, plan)
        return {session.book: book}

    def cutoff_of_scale(self, scale: float, now: float, followed: float, model: str) -> Any:
        """The cutoff goes with the scale until a person moves it."""
        if not isinstance(scale, int | float) or not 1 <= scale <= MAX_SCALE:
            return gr.skip()
        usual = engine.defaults(model).get("cutoff") if model in engine.names() else None
        wanted = float(str(usual)) if usual is not None else default_cutoff(scale)
        cutoff_control = self._session.controls["cutoff"]
        return {cutoff_control: wanted, self._followed: wanted} if now == followed else gr.skip()
