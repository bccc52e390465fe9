"""The input image: a component that hands over the file as it came, and the one way to read it."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import gradio as gr
from gradio.data_classes import ImageData

from cupscale import images
from cupscale.errors import CupscaleError
from cupscale.images import READABLE_SUFFIXES, Picture
from cupscale.page import calls, references
from cupscale.page.limits import Limits
from cupscale.protect import check_size


class SourceImage(gr.Image):
    """An upload, a paste, a webcam shot or an example.

    The value is the path gradio checked, undecoded: what cannot be read is refused by `read`, in our words. Give it
    `type="filepath", image_mode=None`.
    """

    def get_block_name(self) -> str:
        return "image"

    def preprocess(self, payload: ImageData | None) -> str | None:
        if payload is None:
            return None
        if payload.path is None and payload.url and payload.url.startswith("data:"):
            path = super().preprocess(payload)
            return path if isinstance(path, str) else None
        return None if payload.path is None else references.check(payload.path, gone=True)


def read(path: str | None, limits: Limits, mask_of: tuple[int, int] | None = None) -> Picture:
    """Decode an upload.

    Args:
        path: Of the upload; None where there is none.
        limits: Of the page.
        mask_of: (width, height) of the image that this is a mask of: another size is refused before the pixels are decoded.

    Returns:
        The picture, or the mask as a picture.

    Raises:
        CupscaleError: It cannot be read, or is too large; no path of the server is in its message.
    """
    if not path:
        raise CupscaleError("no image yet: upload, paste or drop one, or click an example")
    with calls.alone(limits):
        return _decoded(path, limits, mask_of)


def _decoded(path: str, limits: Limits, mask_of: tuple[int, int] | None) -> Picture:
    try:
        with references.opened(path) as file:
            data = file.read(limits.upload_bytes + 1)
    except OSError:
        raise CupscaleError(references.MISSING) from None
    if len(data) > limits.upload_bytes:
        raise CupscaleError(
            f"the image has more than {limits.upload_bytes / 2**20:.0f} MB, the limit of this page; "
            "save it as a JPEG or WebP, or make it smaller"
        )
    if mask_of:
        check_size(images.read_size(data, max_pixels=limits.input_px), mask_of)
    return images.read(data, max_pixels=limits.input_px)


@lru_cache(maxsize=8)
def _read(path: str, stamp: int, limits: Limits, mask_of: tuple[int, int] | None) -> Picture:
    return read(path, limits, mask_of)


def opened(path: str | None, limits: Limits, mask_of: tuple[int, int] | None = None) -> Picture:
    """`read`, remembered for the moves of a slider. The name of an upload holds the hash of its bytes."""
    if not path or not Path(path).is_file():
        return read(path, limits, mask_of)
    return _read(path, Path(path).stat().st_mtime_ns, limits, mask_of)


def file_name(path: str) -> str:
    """The upload's own file name. What a browser cannot show was given on as `shown_name`."""
    file = Path(path)
    inner = Path(file.stem)
    return inner.name if inner.suffix.lower() in READABLE_SUFFIXES else file.name


def shown_name(path: str) -> str:
    """Of the PNG that stands for a file which browsers cannot show: "me.heic.png"."""
    return f"{Path(path).name}.png"


def name(path: str | None) -> str:
    """The upload's own name without its suffix, for the names of downloads."""
    stem = Path(file_name(path)).stem if path else "image"
    kept = "".join(c if c.isalnum() or c in "-_" else "-" for c in stem).strip("-")
    return kept[:48] or "image"
