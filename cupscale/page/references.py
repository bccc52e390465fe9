"""Which files of the server a request may name: the page's uploads and its examples, and no other.

gradio checks the path of a file only where the value carries `meta`, and not every component demands that. So every value
that a request brings is looked through here before any component sees it, whatever the endpoint or the component.
"""

from __future__ import annotations

import os
import re
import stat
from functools import lru_cache
from typing import Any, BinaryIO
from urllib.parse import unquote

from gradio.utils import get_upload_folder

from cupscale.errors import CupscaleError
from cupscale.page import examples

# One line for all that is refused, so that nobody learns from it whether a file exists.
ADDRESS = "pictures are not fetched from an address: upload the file, or give it as a data: URL"
MISSING = "the file is not among this page's uploads, which are kept for a while only: upload it again"
_DEEPEST = 64
_OWN_ADDRESS = re.compile(r"https?://[^?#]*/gradio_api/file=([^?#]+)")


def upload_folder() -> str:
    """The real path of the folder that gradio puts uploads in."""
    return os.path.realpath(get_upload_folder())


@lru_cache(maxsize=1)
def _examples() -> frozenset[str]:
    return frozenset(
        os.path.realpath(example.path(file))
        for example in examples.every()
        for file in (example.input, example.before, example.after)
    )


def check(path: str, *, gone: bool = False) -> str:
    """See that a path names an upload or an example.

    Args:
        path: As the request gives it.
        gone: Whether an upload that was deleted passes, for a caller that finds better words for it.

    Returns:
        The path.

    Raises:
        CupscaleError: With the same line for a path outside, a link to there, a folder, a pipe and nothing at all.
    """
    try:
        real = os.path.realpath(path)
        inside = real.startswith(upload_folder() + os.sep)
        if not inside and real not in _examples():
            raise CupscaleError(MISSING)
        if not stat.S_ISREG(os.stat(real).st_mode):
            raise CupscaleError(MISSING)
    except FileNotFoundError:
        if not gone:
            raise CupscaleError(MISSING) from None
    except (OSError, ValueError):  # too long a name, a loop of links, a zero byte
        raise CupscaleError(MISSING) from None
    return path


def opened(path: str) -> BinaryIO:
    """An upload or an example, open for reading. Never waits for a pipe's other end. Raises CupscaleError."""
    try:
        descriptor = os.open(check(path), os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        file = os.fdopen(descriptor, "rb")
    except OSError:
        raise CupscaleError(MISSING) from None
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise CupscaleError(MISSING)
    return file


def content(path: str) -> bytes:
    """The bytes of an upload or an example. Raises CupscaleError."""
    with opened(path) as file:
        return file.read()


def checked(value: Any, *, gone: bool = False) -> Any:
    """A request's value, with every file in it checked, at any depth.

    The address of a file of this server, as an earlier answer gave it, becomes its path; no other address is fetched: the
    answer could be of any size.

    Args:
        value: JSON, as it came.
        gone: See `check`.

    Returns:
        The value, changed in place where it held an address of this server.

    Raises:
        CupscaleError: For a file that is none of this page's, or that comes without gradio's `meta`.
    """
    left = [(value, 0)]
    while left:
        part, depth = left.pop()
        if not isinstance(part, (dict, list)):
            continue
        if depth > _DEEPEST:
            raise CupscaleError(f"a value is nested more than {_DEEPEST} deep: give a flatter one")
        if isinstance(part, dict) and part.get("path") is not None:
            part["path"] = _reference(part, gone)
        elif isinstance(part, dict) and _is_address(part.get("url")):
            raise CupscaleError(ADDRESS)
        left += [(inner, depth + 1) for inner in (part.values() if isinstance(part, dict) else part)]
    return value


def _is_address(url: Any) -> bool:
    """Alone it would be taken for no image, and where there is a prompt another picture drawn in its place."""
    return isinstance(url, str) and bool(url) and not url.startswith("data:")


def _reference(given: dict[str, Any], gone: bool) -> str:
    path, meta = given["path"], given.get("meta")
    if not isinstance(path, str) or not isinstance(meta, dict) or meta.get("_type") != "gradio.FileData":
        raise CupscaleError(MISSING)
    if own := _OWN_ADDRESS.fullmatch(path):
        path = unquote(own[1])
    elif path.lower().startswith(("http://", "https://")):
        raise CupscaleError(ADDRESS)
    given["is_stream"] = False
    return check(path, gone=gone)
