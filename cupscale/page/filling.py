"""Settings that come back to the page: from a picture, the history, an example, a link, a preset."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import gradio as gr

from cupscale import images, models
from cupscale.errors import CupscaleError
from cupscale.page import engine, examples, links, references, run, viewer, visit
from cupscale.page.advanced import Advanced, presets_html
from cupscale.page.controls import EFFECTS, LABELS
from cupscale.page.jobs import Updates
from cupscale.page.session import SILENT, TOASTING, Session, complain, new_book
from cupscale.planning import Target
from cupscale.settings import RECORDED, Settings

if TYPE_CHECKING:
    from cupscale.page.upscale import UpscaleTab


class Filling:
    """Puts settings on the page.

    Attributes:
        followed: The cutoff that was set for the scale; while the control still has it, it goes with the scale.
        outputs: What a handler that restores settings may change.
    """

    def __init__(self, session: Session, followed: gr.State) -> None:
        self._session = session
        self._controls = session.controls
        self.followed = followed
        self.outputs = [*session.controls.all, session.book, session.laid, session.randomize]

    def fill(self, fields: Mapping[str, Any], size: Any = None) -> Updates:
        """Put every setting there is on the page, the rest at the model's defaults; captions go into the book.

        Args:
            fields: Settings; those that are not given are the model's own.
            size: Of the output that the captions are for; None for this image's.

        Returns:
            What changes, by component.

        Raises:
            CupscaleError: A setting that is none, or out of its range.
        """
        session = self._session
        model = str(fields.get("model") or self._controls.model)
        if model not in engine.names():
            own = self._controls.model
            gr.Warning(f"The picture was made with another model than this page has; {own} takes its place.")
            model = own
        settings = Settings.build(engine.defaults(model), {**fields, "model": model})
        updates = self._controls.show(settings.model_dump(exclude=set(RECORDED)))
        captions = [caption.model_dump() for caption in settings.captions]
        return {
            **updates,
            session.book: new_book(captions, size),
            session.laid: None,
            session.randomize: False,
        }

    def from_file(self, path: str | None) -> Any:
        """Take the settings inside a result, of any size: nothing is decoded."""
        if not path:
            return gr.skip()
        try:
            with references.opened(path) as file:
                fields, size = images.read_head(file)
            if not fields:
                raise CupscaleError(
                    "there are no settings of ours in this picture: only files that were downloaded here or written by the "
                    "command hold them, and other programs remove them when they save"
                )
            updates = self.fill(fields, size)
        except CupscaleError as error:
            complain(error)
            return gr.skip()
        line = "The settings of this picture are back. Give the image they were used on."
        if fields.get("mask"):
            line += " It was made under a mask, which is not inside: paint that again."
        gr.Info(line, title="Restored", duration=6)
        return updates

    def from_history(self, event: gr.EventData) -> Any:
        """The settings of an entry of the history."""
        try:
            updates = self.fill(Settings.from_json(str(event.settings)).model_dump())
        except CupscaleError as error:
            complain(error)
            return gr.skip()
        gr.Info("The settings are back on the Upscale tab.", title="Restored", duration=4)
        return updates

    def wire_presets(self, part: Advanced) -> None:
        """The three buttons, and what else follows the model."""
        controls = self._controls
        shown = [controls[name] for name in LABELS if name in EFFECTS or name == "negative_prompt"]
        for name, button in (*part.presets.items(), (None, part.reset)):
            inputs = [controls["model"], controls["scale"]]
            button.click(self._preset(name), inputs, [*shown, self.followed], **SILENT)

        def offered(model: str) -> Updates:
            """Only what the model can do."""
            names = models.presets(model)
            return {
                **{button: gr.update(visible=name in names) for name, button in part.presets.items()},
                part.presets_line: presets_html(names),
                controls["control"]: gr.update(visible=model in engine.controlnets()),
            }

        outputs = [*part.presets.values(), part.presets_line, controls["control"]]
        controls["model"].change(offered, controls["model"], outputs, **SILENT)

    def _preset(self, name: str | None) -> Callable[[str, float], Updates]:
        def press(model: str, scale: float) -> Updates:
            try:
                fields = models.preset(model, name)
                settings = Settings.build(engine.defaults(model), fields, scale=scale)
            except CupscaleError as error:
                complain(error)
                return {self.followed: gr.skip()}
            shown = self._controls.show(settings.model_dump(include=set(EFFECTS)))
            shown[self.followed] = settings.cutoff
            if name is None:
                shown |= self._controls.show({"negative_prompt": settings.negative_prompt})
            return shown

        return press


class Examples:
    """Examples, links, which may name one, and the visit that a reload goes on with.

    Args:
        session: What the tabs share.
        filling: Puts settings on the page.
        tab: Whose result an example's is shown in.
    """

    def __init__(self, session: Session, filling: Filling, tab: UpscaleTab) -> None:
        self._session = session
        self._filling = filling
        self._tab = tab

    def wire(self, strip: examples.Strip | None, demo: gr.Blocks) -> None:
        """A click in the strip, and the page's own address."""
        session, tab = self._session, self._tab
        outputs = [*self._filling.outputs, session.image, session.example]
        outputs += [tab.viewer, tab.status, tab.inside, tab.downloads, tab.shot]
        outputs += [session.mask, tab.protecting.brush, session.target]
        if strip is not None:
            session.follow(strip.chosen, self.chosen, tab.token, outputs, **TOASTING)
        demo.load(None, None, tab.address, js=visit.READ)
        session.follow(tab.address.change, self.opened, tab.address, outputs, **TOASTING)

    def chosen(self, event: gr.EventData, token: str) -> Any:
        """An example of the strip, with its result; a run that goes on stays in sight."""
        session, tab = self._session, self._tab
        example = examples.named(str(event.name))
        if example is None:
            return gr.skip()
        updates: Updates = {
            **self._filling.fill(example.settings),
            **self._input(example),
            tab.inside: gr.update(visible=False),
        }
        job = session.jobs.named(token)
        if job and not job.over:
            gr.Info(
                "The run goes on. The example's image and settings are there for the next one; click it again "
                "after this run to see its result.",
                duration=8,
            )
            return updates
        shown: Updates = {
            tab.viewer: example.pair(),
            tab.status: run.status_html(""),
            tab.downloads: gr.update(visible=False),
            tab.shot: None,  # what stood there before is in the history
        }
        return updates | shown

    def opened(self, arrived: str) -> Any:
        """A link: its settings and its example. After a reload the visit goes on instead."""
        query, kept = visit.read(arrived)
        if kept:
            with contextlib.suppress(CupscaleError):
                return self._resumed(visit.unpacked(kept))
        good, name, wrong = links.from_query(query)
        target: Target | None = None
        try:
            target = links.size_of(query)
        except CupscaleError as error:
            wrong.append(f"in the link, {error}")
        for line in wrong:
            complain(CupscaleError(line), "Part of the link was left out")
        example = examples.named(name)
        if name and example is None:
            gr.Warning("The example of this link is not on this page.", title="Part of the link was left out")
        if not good and example is None and target is None:
            return gr.skip()
        fields = {**(example.settings if example else {}), **good}
        if target and example:
            fields |= self._reached(target, example, good)
        updates = self._filling.fill(fields)
        if target and not example:
            updates[self._session.target] = target
            gr.Info("The size in the link counts for the image that you give.", duration=6)
        if example:
            updates |= self._input(example)
            same = not target and all(
                example.settings.get(key, value) == value for key, value in good.items()
            )
            updates[self._tab.viewer] = example.pair() if same else viewer.empty()
        return updates

    @staticmethod
    def _reached(target: Target, example: examples.Example, good: Mapping[str, Any]) -> dict[str, Any]:
        """The scale that takes an example to a size, and the cutoff that goes with it unless a link has another."""
        try:
            scale = target.scale(images.read_size(example.path(example.input)))
        except CupscaleError as error:
            complain(error, "Part of the link was left out")
            return {}
        return {"scale": scale} if "cutoff" in good else {"scale": scale, "cutoff": None}

    def _resumed(self, found: visit.Visit) -> Updates:
        updates = self._filling.fill(found.fields, found.size)
        updates[self._session.randomize] = found.randomize
        example = examples.named(found.example)
        resumed = self._tab.protecting.resumed
        if example:
            return updates | self._input(example) | resumed(found.mask, example.path(example.input))
        if found.image:
            updates[self._session.image] = found.image
            updates |= resumed(found.mask, found.image)
        if found.gone:
            complain(
                CupscaleError("your settings are back; the image is no longer on the server: give it again"),
                "The page was started again",
            )
        return updates

    def _input(self, example: examples.Example) -> Updates:
        return {self._session.image: example.path(example.input), self._session.example: example.name}
