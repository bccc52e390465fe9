"""Results that come back into the slider: of a batch, a comparison, the history."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import gradio as gr

from cupscale.errors import CupscaleError
from cupscale.page import card, history, references, run, scratch, source, viewer
from cupscale.page.filling import Filling
from cupscale.page.jobs import Updates
from cupscale.page.kept_links import Kept
from cupscale.page.session import TOASTING, Session, complain, new_book, refusal
from cupscale.settings import Settings

if TYPE_CHECKING:
    from cupscale.page.upscale import UpscaleTab

# The button is there a moment after its first file.
CLICK_DOWNLOAD = """() => {
  const click = (tries) => setTimeout(() => {
    const button = document.querySelector('#other a, a#other, #other')
    button ? button.click() : tries && click(tries - 1)
  }, 150)
  click(400)
}"""
_GOES_ON = (
    "The run goes on. The image and the settings are there for the next one; open it again after this run."
)


class Opening:
    """Puts a result, its input and its settings on the Upscale tab, which it opens.

    Attributes:
        token: Of the run that the tab shows.
        shown: The result in its slider, of this visit.
        outputs: What a handler that opens a result may change.

    Args:
        session: What the tabs share.
        filling: Puts settings on the page.
        tab: Whose slider it is.
        tabs: Of the page.
    """

    def __init__(self, session: Session, filling: Filling, tab: UpscaleTab, tabs: gr.Tabs) -> None:
        self._session = session
        self._filling = filling
        self._tab = tab
        self._tabs = tabs
        self.token, self.shown = tab.token, tab.shot
        self.outputs = [*filling.outputs, session.image, session.example, tabs]
        self.outputs += [tab.viewer, tab.status, tab.inside, tab.shot, tab.downloads, tab.png, tab.jpeg]
        self.outputs.append(tab.token)

    def wire(self, past: history.History) -> None:
        """Connect the history and the slider's own buttons."""
        self.follow(past.open, self.from_history, self.token)
        use = self._tab.viewer.use
        outputs = [self._session.image, self._session.example, self._session.book, self._session.laid]
        outputs += [self._tab.inside]
        self._session.follow(use, self.used, self._tab.shot, outputs, **TOASTING)
        made = self._tab.viewer.card(self.carded, self._tab.shot, self._tab.other, **TOASTING)
        made.success(None, js=CLICK_DOWNLOAD)

    def follow(self, event: Callable[..., Any], handler: Callable[..., Any], inputs: Any) -> None:
        """Let a handler of `outputs` open a result at an event, and the plan and all else follow."""
        self._session.follow(event, handler, inputs, self.outputs, **TOASTING)

    def shot(self, shot: run.Shot, path: str | None, token: str) -> Updates:
        """A result that is on the server.

        Args:
            shot: It stays whose it is: what is shown is a copy.
            path: The upload it was made from.
            token: Of the run that the tab shows.

        Raises:
            CupscaleError: It is gone.
        """
        updates = self._restored(shot.settings, path, shot.size)
        if self._goes_on(token):
            return updates
        own, tab = run.copied(shot), self._tab
        return {
            **updates,
            tab.viewer: viewer.pair(own.before, own.png, own.size, own.note, history.entry(own, path)),
            tab.status: run.status_html(""),
            tab.shot: own,
            tab.png: gr.update(value=own.png, visible=True),
            tab.jpeg: gr.update(value=own.jpeg),
            tab.downloads: gr.update(visible=True),
        }

    def from_history(self, event: gr.EventData, token: str) -> Updates:
        """A result that the browser kept, with its settings and, where it kept that too, its input."""
        tab = self._tab
        try:
            given: Mapping[str, Any] = event._data or {}
            settings = Settings.from_json(str(given.get("settings")))
            number = given.get("id")
            path = given.get("input")
            updates = self._restored(settings, references.check(path) if isinstance(path, str) else None)
            if isinstance(number, int) and not self._goes_on(token):
                updates |= {
                    tab.viewer: viewer.kept(number, str(given.get("note", ""))[:400]),
                    tab.status: run.status_html(""),
                    tab.shot: None,
                    tab.downloads: gr.update(visible=False),
                }
        except CupscaleError as error:
            complain(error)
            return {tab.token: gr.skip()}
        return updates

    def used(self, event: gr.EventData, shot: Any) -> Updates:
        """The result in the slider becomes the input. Of the history's it is what the browser sent back."""
        session = self._session
        given = event._data or {}
        path = given.get("input")
        try:
            if isinstance(path, str):
                references.check(path)
            elif isinstance(shot, run.Shot) and shot.key == given.get("key"):
                path = run.copied(shot).png
            else:
                raise CupscaleError(run.GONE)
        except CupscaleError as error:
            complain(error)
            return {session.image: gr.skip()}
        gr.Info(
            "The result is the input now: Upscale enlarges it further.", title="Used as input", duration=5
        )
        return {
            session.image: path,
            session.example: None,
            session.book: new_book(),
            session.laid: None,
            self._tab.inside: gr.update(visible=False),
        }

    def carded(self, event: gr.EventData, shot: Any) -> Any:
        """The card of what the slider shows, of the part in sight. What is not on the server comes from the browser.

        Raises:
            CupscaleError: The server has the result no more; raised as gradio's error.
        """
        given: Mapping[str, Any] = event._data or {}
        try:
            part = _part(given.get("part"))
            if isinstance(shot, run.Shot) and shot.key == given.get("key"):
                made = card.of_files(shot.before, shot.png, shot.settings.prompt, shot.line, part)
                name = shot.stem
            else:
                limits = self._session.limits
                before, after = (source.read(str(given.get(side)), limits) for side in ("before", "after"))
                line = str(given.get("note", "")).partition(", seed")[0]
                made = card.encoded(card.make(before.rgb, after.rgb, "", line, part))
                name = source.name(str(given.get("name", "picture")))
        except OSError:
            raise refusal(CupscaleError(run.GONE)) from None
        except CupscaleError as error:  # raised, so that no download follows
            raise refusal(error) from None
        path = scratch.new_folder() / f"{name}-card.jpg"
        path.write_bytes(made)
        return gr.update(value=str(path), visible="hidden")

    def kept(self, found: Kept, *, settings: bool) -> Updates:
        """What a link kept. settings: those, too."""
        tab = self._tab
        shown: Updates = {
            tab.viewer: found.pair(),
            tab.status: run.status_html(""),
            tab.downloads: gr.update(visible=False),
        }
        return {**self._filling.fill(found.settings.model_dump()), **shown} if settings else shown

    def _restored(self, settings: Settings, path: str | None, size: tuple[int, int] | None = None) -> Updates:
        updates = {**self._filling.fill(settings.model_dump(), size), self._tabs: gr.Tabs(selected="upscale")}
        if path:
            with contextlib.suppress(CupscaleError):  # an upload that is gone by now
                updates[self._session.image] = references.check(path)
                updates[self._session.example] = None
                updates[self._tab.inside] = gr.update(visible=False)
        return updates

    def _goes_on(self, token: str) -> bool:
        job = self._session.jobs.named(token)
        if job is None or job.over:
            return False
        gr.Info(_GOES_ON, duration=8)
        return True


def _part(value: Any) -> tuple[float, float, float, float] | None:
    """What is in sight, in shares; None for all of it. Raises CupscaleError."""
    if value is None:
        return None
    good = isinstance(value, list) and len(value) == 4 and all(isinstance(n, (int, float)) for n in value)
    if not good or not (0 <= value[0] < value[2] <= 1 and 0 <= value[1] < value[3] <= 1):
        raise CupscaleError("the part of the picture is damaged: zoom anew, and make the card again")
    left, top, right, bottom = map(float, value)
    return left, top, right, bottom
