"""Places of the input that a person protects: a brush over the image, whose mask goes with the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from cupscale.errors import CupscaleError
from cupscale.images import Picture
from cupscale.page import light, references, source, viewer
from cupscale.page.jobs import Updates
from cupscale.page.limits import Limits
from cupscale.page.session import TOASTING, Session, Values, complain

_HELP = (
    '<p class="cu-small">Under what you paint nothing is invented: the base upscale stays there, as for faces and letters. '
    "It belongs to this image, and Upscale runs with it; Batch and Compare do without.</p>"
)


class Brush(viewer.Scripted):
    """The image under a brush.

    Its value is made by `shown`. Triggers `painted` with the `path` of the uploaded mask, a PNG of the image's size;
    null where there is none any more.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__("mask", shown(None), **options)

    def api_info(self) -> dict[str, Any]:
        return {"type": "object", "description": "the mask, as a file, and its image"}


def shown(mask: dict[str, str] | None) -> dict[str, Any]:
    """What the brush shows of the session's mask: nothing, or its file, whose it is, and its name for a download."""
    if mask is None:
        return {"mask": None}
    image = mask["image"]
    return {"mask": viewer.file(mask["path"]), "image": Path(image).name, "name": file_name(image)}


def file_name(image: str) -> str:
    """Of a mask that is downloaded. image: the upload that it belongs to."""
    return f"{Path(source.file_name(image)).stem}-mask.png"


def belonging(mask: Any, image: str | None) -> str | None:
    """The file of the session's mask, where it belongs to this image; None where there is none of it."""
    if isinstance(mask, dict) and image and mask.get("image") == image:
        return str(mask["path"])
    return None


def of(path: str | None, size: tuple[int, int], limits: Limits) -> Picture | None:
    """The mask in a file, decoded; None where there is none.

    Args:
        path: An upload.
        size: (width, height) of the image.
        limits: Of the page.

    Raises:
        CupscaleError: It is gone, is no picture, or is of another size than the image.
    """
    return None if path is None else source.opened(path, limits, size)


class Protecting:
    """The part of the Upscale tab with the brush.

    Attributes:
        part: The accordion.
        brush: Its component.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        with gr.Accordion("Protect places", open=False, elem_id="protect") as self.part:
            gr.HTML(_HELP)
            self.brush = Brush(elem_id="brush")

    def wire(self) -> None:
        """Connect the brush."""
        session = self._session
        light.later(self.part, self.part.expand)
        outputs = [session.mask, self.brush]
        session.follow(self.brush.painted, self.painted, session.image, outputs, **TOASTING)

    def painted(self, event: gr.EventData, image: str | None) -> Updates:
        """A mask that was painted, loaded or cleared. One that does not fit is refused, and the one before it stays."""
        session = self._session
        path = (event._data or {}).get("path")
        if not path or not image:
            return {session.mask: None, self.brush: shown(None)}
        try:
            mask = {"path": references.check(str(path)), "image": image}
            of(mask["path"], source.opened(image, session.limits).size, session.limits)
        except CupscaleError as error:
            complain(error)
            return {session.mask: gr.skip()}
        return {session.mask: mask, self.brush: shown(mask)}

    def resumed(self, path: str | None, image: str | None) -> Updates:
        """The mask of a visit that goes on after a reload."""
        mask = {"path": path, "image": image} if path and image else None
        return {self._session.mask: mask, self.brush: shown(mask)}


def of_visit(values: Values, session: Session, size: tuple[int, int]) -> Picture | None:
    """The mask of the image that is on the page. size: the image's. Raises CupscaleError as `of`."""
    return of(belonging(values[session.mask], values[session.image]), size, session.limits)
