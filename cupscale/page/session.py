"""The page as one object: its tabs, the few values a visit carries, and the settings as the page shows them."""

from __future__ import annotations

import functools
import inspect
import time
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

import gradio as gr

from cupscale.captions import scaled
from cupscale.errors import CupscaleError
from cupscale.images import Picture
from cupscale.page import bounds, regions, source, writers
from cupscale.page.controls import Controls
from cupscale.page.jobs import Jobs
from cupscale.page.limits import Limits
from cupscale.planning import Plan, output_size
from cupscale.settings import Caption, Settings

PRIVATE: dict[str, Any] = {"api_visibility": "private"}
SILENT: dict[str, Any] = {"api_visibility": "private", "queue": False, "show_progress": "hidden"}
# gradio shows a toast for queued events only
TOASTING: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden", "concurrency_limit": None}
# Of runs, a person's and a program's: gradio begins each at once, and the desk lets it wait, and says where.
RUN: dict[str, Any] = {"concurrency_limit": None, "concurrency_id": "run"}

# What follows an event: gradio drops a `.then` that comes while the one before is under way, and what came last would never
# be shown.
FOLLOWING: dict[str, Any] = {"trigger_mode": "always_last"}

# The browser's tab keeps the name of a run, so that a reload finds it. One that is over comes back after a reload only, and not
# with the next link.
_KEEP_NAME = """(name) => {
  name?.trim() ? sessionStorage.setItem('cupscale-%s', name) : sessionStorage.removeItem('cupscale-%s')
}"""
# The name of a run that is lost: unlike no name, from which an empty part of the page would not change.
LOST = " "
_KEPT_NAME = """() => {
  const name = sessionStorage.getItem('cupscale-%s') || ''
  const linked = performance.getEntriesByType('navigation')[0]?.type === 'navigate'
  return [linked && name.endsWith(' over') ? '' : name]
}"""

Values = Mapping[Any, Any]  # of components, by component
Step = dict[str, Any]  # arguments of gradio's `.then`


def new_book(captions: Sequence[Mapping[str, Any]] = (), size: Any = None) -> dict[str, Any]:
    """Captions for the table to take over. The stamp tells them from those it already shows; edits keep it."""
    return {"size": size, "captions": list(captions), "stamp": time.time_ns() if captions else 0}


class Session:
    """What the tabs share. Made inside `gr.Blocks`, before the tabs.

    Attributes:
        limits: Of the page.
        controls: One for every setting.
        book: The captions of this visit: {"size": of the output they are for, "captions": a list, "stamp": its version}.
        laid: The boxes that the table of captions shows.
        drawn: What the Regions tab shows.
        example: The name of the example that is the input, or None.
        target: The size that a link asked for, until there is an image; else None.
        mask: What is protected of the input, as `mask.of` reads it, or None.
        image: The input image; the Upscale tab places it.
        randomize: Whether every run draws a seed; likewise.
        captioner: Who writes captions that are not given; the Regions tab places it.
        table: The captions; the Regions tab places it.
        rows: What the table is to show, as `packed_rows` gives it; the browser puts it there.
        jobs: The runs that go on.
        again: Changes when a handler wants the plan to follow; the Upscale tab listens.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.jobs = Jobs(limits.kept_seconds)
        self.controls = Controls(limits)
        self.book = self._state(new_book())
        self.laid = self._state(None)
        self.drawn = self._state(None)
        self.example = self._state(None)
        self.target = self._state(None)
        self.mask = self._state(None)
        self.image = source.SourceImage(
            type="filepath",
            image_mode=None,
            label="Image",
            sources=["upload", "clipboard", "webcam"],
            height=180,
            elem_id="image",
            buttons=[],
            alt_text="The input image",
            placeholder="Drop an image here\nor click to upload",
            render=False,
        )
        self.randomize = gr.Checkbox(False, label="Randomize seed", elem_id="randomize", render=False)
        self.captioner = gr.Dropdown(
            writers.choices(),
            value=writers.AUTO,
            label="Captioner",
            info="Who writes the captions that you leave empty. 'auto': a multimodal model, where this machine has one.",
            elem_id="captioner",
            scale=2,
            render=False,
        )
        self.table = gr.Dataframe(
            headers=regions.HEADERS,
            datatype=["number", "str", "str"],
            type="array",
            interactive=True,
            static_columns=[0, 1],
            column_widths=["110px", "230px", "auto"],
            wrap=True,
            max_height=420,
            label="Captions",
            elem_id="captions",
            column_count=3,
            row_count=1,
            value=[],
            buttons=[],
            render=False,
        )
        self.rows = gr.Textbox("", visible=False, elem_id="rows")
        self.again = gr.Textbox("", visible=False, elem_id="again")

    def _state(self, value: Any) -> gr.State:
        return gr.State(value, time_to_live=self.limits.kept_seconds)

    def follow(
        self,
        event: Callable[..., Any],
        handler: Callable[..., Any],
        inputs: Any,
        outputs: Any,
        **options: Any,
    ) -> Any:
        """Listen to an event, and let the plan, the regions and all else that depends on the settings follow.

        A step of its own after each event would do the same: the browser goes through all steps as it opens the page, for
        every component.

        Args:
            event: Such as `button.click`.
            handler: What the event does; it gives updates by component, or is a generator of such.
            inputs: Its components.
            outputs: What it may change.
            options: Of the event.

        Returns:
            gradio's dependency, which further steps may follow.
        """
        return event(self._stamping(handler), inputs, [*outputs, self.again], **options)

    def _stamping(self, handler: Callable[..., Any]) -> Callable[..., Any]:
        """The handler, whose last updates say that there is something to follow."""
        if inspect.isgeneratorfunction(handler):

            @functools.wraps(handler)
            def steps(*given: Any, **named: Any) -> Any:
                yield from handler(*given, **named)
                yield {self.again: str(time.time_ns())}

            return steps

        @functools.wraps(handler)
        def once(*given: Any, **named: Any) -> Any:
            updates = handler(*given, **named)
            return {**({} if updates == gr.skip() else updates), self.again: str(time.time_ns())}

        return once

    @property
    def inputs(self) -> set[Any]:
        """What every handler that needs the settings takes."""
        own = {self.image, self.randomize, self.captioner, self.table, self.book, self.example, self.mask}
        return own | set(self.controls.all)

    def picture(self, values: Values) -> Picture:
        """The input image. Raises CupscaleError."""
        return source.opened(values[self.image], self.limits)

    def captions(self, rows: Any, book: Mapping[str, Any]) -> tuple[Caption, ...]:
        """The captions in the table, with who wrote them. Raises CupscaleError for too much of it."""
        return regions.signed(regions.captions_of(rows, self.limits), book["captions"])

    def settings(self, values: Values, *, draw_seed: bool = False) -> Settings:
        """The settings as the page shows them, captions included. Raises CupscaleError."""
        captions = self.captions(values[self.table], values[self.book])
        laid = values.get(self.laid)
        if captions and laid and values[self.image]:  # the table may not have followed the last move yet
            plain = self.controls.settings(values)
            output = output_size(self.picture(values).size, plain.scale)
            if output != tuple(laid["output"]):
                captions = scaled(captions, laid["output"], output)
        return self.controls.settings(values, captions, randomize=draw_seed and bool(values[self.randomize]))

    def plan(self, values: Values) -> tuple[Picture, Settings, Plan]:
        """What a run would do. Raises CupscaleError for what a run would refuse."""
        settings = self.settings(values)
        picture = self.picture(values)
        return picture, settings, bounds.allowed_plan(picture, settings, self.limits)

    def writer(self, values: Values) -> str:
        """Who writes captions that are not given, by name."""
        return str(values[self.captioner] or writers.AUTO)


def comes_back(
    demo: gr.Blocks,
    token: Any,
    kind: str,
    returned: Callable[..., Any],
    outputs: Sequence[Any],
    keep: str = "",
) -> None:
    """Let a reload of the page find a run again.

    Args:
        demo: The page.
        token: Of the run that a part of the page shows.
        kind: Of run, a word of its own.
        returned: What shows the run of a token.
        outputs: What that may change.
        keep: The browser's function that keeps the token, where that is more than to keep it.
    """
    token.change(None, token, None, js=keep or _KEEP_NAME % (kind, kind))
    # Not beside the token: a closed tab's parts hear nothing.
    back = gr.Textbox("", visible=False, elem_id=f"{kind}-back")
    demo.load(None, None, back, js=_KEPT_NAME % kind)
    back.change(returned, back, outputs, **TOASTING)


def refusal(error: CupscaleError) -> gr.Error:
    """The error for a caller of the API."""
    return gr.Error(_line(error), duration=12, title="That does not work", print_exception=False)


def complain(error: CupscaleError, title: str = "That does not work") -> None:
    """The error for a person, as a toast. A raised one would cover every component that the handler could change."""
    gr.Warning(_line(error), title=title, duration=12)


def _line(error: CupscaleError) -> str:
    """Toasts show markup, so the text is escaped."""
    text = str(error)
    return escape(text[0].upper() + text[1:], quote=False)
