"""What the tabs share: the components, by name, and the few values a visit carries."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import gradio as gr

from cupscale.captions import scaled
from cupscale.errors import CupscaleError
from cupscale.images import Picture
from cupscale.page import engine, regions, source
from cupscale.page.controls import Controls
from cupscale.page.limits import Limits
from cupscale.planning import Plan, output_size
from cupscale.settings import Caption, Settings

PRIVATE: dict[str, Any] = {"api_visibility": "private"}
SILENT: dict[str, Any] = {"api_visibility": "private", "queue": False, "show_progress": "hidden"}
# gradio shows a toast for queued events only
TOASTING: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden", "concurrency_limit": None}
GPU: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": "gpu"}


def new_book(captions: Sequence[Mapping[str, Any]] = (), size: Any = None) -> dict[str, Any]:
    """Captions for the table to take over. The stamp tells them from those it already shows; edits keep it."""
    return {"size": size, "captions": list(captions), "stamp": time.time_ns() if captions else 0}


class Page:
    """Made inside `gr.Blocks`. The tabs add their components in `build` and connect them in `wire`.

    book: the captions of this visit: {"size": of the output they are for, "captions": a list}. laid: the boxes that the
    table shows. example: the name of the example that is the input, or None.
    drawn: what the Regions tab shows.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.controls = Controls(limits)
        self.book = gr.State(new_book(), time_to_live=limits.kept_seconds)
        self.laid = gr.State(None, time_to_live=limits.kept_seconds)
        self.drawn = gr.State(None, time_to_live=limits.kept_seconds)
        self.chain: list[dict[str, Any]] = []  # what follows a change of the settings or the image
        self.example = gr.State(None, time_to_live=limits.kept_seconds)

    if TYPE_CHECKING:

        def __setattr__(self, name: str, value: Any) -> None:
            """A tab's component."""

    def __getattr__(self, name: str) -> Any:
        """The tabs' components, set in their `build`."""
        raise AttributeError(f"the page has no component '{name}' yet: its tab is built later")

    def follow(self, event: Any) -> None:
        """Let the plan, the regions and all else that depends on the settings follow an event."""
        for step in self.chain:
            event = event.then(**step)

    @property
    def inputs(self) -> set[Any]:
        """What every handler that needs the settings takes."""
        return {self.image, self.randomize, self.table, self.example, *self.controls.all}

    def picture(self, values: Mapping[Any, Any]) -> Picture:
        """The input image. Raises CupscaleError."""
        return source.opened(values[self.image], self.limits)

    def settings(self, values: Mapping[Any, Any], *, draw_seed: bool = False) -> Settings:
        """The settings as the page shows them, captions included. Raises CupscaleError."""
        captions = regions.captions_of(values[self.table], self.limits)
        laid = values.get(self.laid)
        if captions and laid and values[self.image]:  # the table may not have followed the last move yet
            plain = self.controls.settings(values)
            output = output_size(self.picture(values).size, plain.scale)
            if output != tuple(laid["output"]):
                captions = scaled(captions, laid["output"], output)
        return self.controls.settings(values, captions, randomize=draw_seed and bool(values[self.randomize]))

    def plan(self, values: Mapping[Any, Any]) -> tuple[Picture, Settings, Plan]:
        """What a run would do. Raises CupscaleError for what a run would refuse."""
        settings = self.settings(values)
        picture = self.picture(values)
        plan = engine.planned(picture, settings)
        self.limits.check_output(plan)
        return picture, settings, plan

    @staticmethod
    def written(book: Mapping[str, Any], plan: Plan) -> tuple[Caption, ...]:
        """The captions in the book, for the output of a plan."""
        captions = tuple(Caption(**caption) for caption in book["captions"])
        return scaled(captions, book["size"], plan.output) if book["size"] else captions


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
