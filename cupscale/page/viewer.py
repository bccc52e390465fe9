"""Pictures a person can look into: the before / after slider with its 1:1 lens, and the grid with one zoom for all.

Both are `gr.HTML` with a fixed template. Values reach the DOM through `textContent` and image addresses only, never
as markup.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

STATIC = Path(__file__).parent / "static"


def file(path: str | Path) -> dict[str, Any]:
    """A file for the browser: gradio copies it into its cache and adds the address."""
    return {"path": str(path), "meta": {"_type": "gradio.FileData"}}


def data_url(image: Image.Image, quality: int = 80) -> str:
    """A small picture as text."""
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "JPEG", quality=quality)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getbuffer()).decode()


class Scripted(gr.HTML):
    """HTML with a fixed template and a script: the files of `STATIC` by the name `part`."""

    def __init__(self, part: str, value: Any, **options: Any) -> None:
        super().__init__(
            value,
            html_template=(STATIC / f"{part}.html").read_text("utf-8"),
            js_on_load=(STATIC / f"{part}.js").read_text("utf-8"),
            **options,
        )


class BeforeAfter(Scripted):
    """The slider. Its value is made by `empty`, `preview` and `pair`. first: what it shows at the start."""

    def __init__(self, first: dict[str, Any] | None = None, **options: Any) -> None:
        super().__init__("viewer", first or empty(), **options)

    def api_info(self) -> dict[str, Any]:
        return {"type": "object", "description": "before and after, as files"}


def empty(note: str = "") -> dict[str, Any]:
    return {"state": "empty", "note": note}


def preview(
    image: Image.Image | None, note: str, size: tuple[int, int], before: str | None = None
) -> dict[str, Any]:
    """The estimate while a run goes on, at the size the result will have.

    Args:
        image: The estimate; None for the plain enlargement alone, before there is one.
        note: A line under it.
        size: Of the result, (width, height) px.
        before: The input's file, which the browser enlarges plainly.
    """
    return {
        "state": "preview",
        "image": data_url(image) if image else None,
        "before": file(before) if before else None,
        "note": note,
        "width": size[0],
        "height": size[1],
    }


def kept(number: int, note: str) -> dict[str, Any]:
    """A result that the browser has in its history, by its number there."""
    return {"state": "kept", "id": number, "note": note}


def pair(
    before: str | Path,
    after: str | Path,
    size: tuple[int, int],
    note: str,
    keep: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """before and after: files of one size, (width, height). keep: what the browser keeps of it in its history."""
    return {
        "state": "pair",
        "before": file(before),
        "after": file(after),
        "note": note,
        "width": size[0],
        "height": size[1],
        "keep": keep,
    }


class Grid(Scripted):
    """Pictures side by side under one zoom. Its value is made by `grid`."""

    def __init__(self, **options: Any) -> None:
        super().__init__("grid", grid([], ""), **options)

    def api_info(self) -> dict[str, Any]:
        return {"type": "object", "description": "pictures with their titles"}


def grid(
    cells: Sequence[tuple[str, str | Path, str]], note: str, usable: Sequence[str] = ()
) -> dict[str, Any]:
    """cells: (title, file, a line under it). usable: titles of those with a button that triggers `use` with the title."""
    return {
        "cells": [{"title": t, "image": file(p), "line": line} for t, p, line in cells],
        "note": note,
        "usable": list(usable),
    }
