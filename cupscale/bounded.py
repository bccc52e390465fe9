"""JSON that someone else wrote: settings, captions, links, the inside of a picture, files of a cache.

Length, number of items and depth are looked at before anything is built from it, so that a small file cannot take much
memory or time. This is the one way in for all of them.
"""

from __future__ import annotations

import json
import os
import re
import stat
from pathlib import Path
from typing import Any, NoReturn

from cupscale.errors import CupscaleError

MAX_BYTES = 2 * 2**20
MAX_ITEMS = 200_000  # commas, brackets and colons outside of texts: 4,096 captions have 60,000
MAX_DEPTH = 32

_TEXTS = re.compile(r'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)  # possessive: linear on any text
_BRACKETS = re.compile(r"[\[\]{}]")


def parse_object(text: str | bytes, what: str) -> dict[str, Any]:
    """A JSON object from text, with or without a byte order mark.

    Args:
        text: At most 2 MB, UTF-8 where it is bytes.
        what: Its name in messages.

    Raises:
        CupscaleError: Too long, too many items, too deep, not JSON, or not an object; with the place where it broke.
    """
    size = len(text)
    if size > MAX_BYTES:
        raise CupscaleError(f"{what}: {size} bytes of text, the limit is {MAX_BYTES}; give less of it")
    if isinstance(text, bytes):
        try:
            text = text.decode("utf-8")
        except UnicodeDecodeError:
            raise CupscaleError(f"{what}: not UTF-8 text; save it as UTF-8") from None
    text = text.removeprefix("\ufeff")
    check_shape(text, what)
    try:
        data = json.loads(text, parse_constant=_refused_constant)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}: {error.msg}"
        raise CupscaleError(f"{what}: not JSON ({place})") from None
    except ValueError as error:  # a number of more digits than Python takes, or a constant that is no JSON
        raise CupscaleError(f"{what}: not JSON ({str(error)[:80]})") from None
    except RecursionError:
        raise CupscaleError(f"{what}: nested too deeply; the limit is {MAX_DEPTH} levels") from None
    if not isinstance(data, dict):
        raise CupscaleError(f"{what}: expected a JSON object, found {type(data).__name__}")
    return data


def read_object(path: str | Path, what: str) -> dict[str, Any]:
    """A JSON object from a regular file of at most 2 MB.

    Raises:
        CupscaleError: A missing, unreadable, too large or malformed file.
    """
    return parse_object(read_bytes(path, what, MAX_BYTES), f"{what} '{path}'")


def read_bytes(path: str | Path, what: str, limit: int) -> bytes:
    """The content of a regular file of at most `limit` bytes. Devices and pipes are refused, not waited for.

    Raises:
        CupscaleError: A missing, unreadable, too large file, or something that is no file.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise CupscaleError(f"{what}: '{path}' is not a regular file; give a file")
        with open(path, "rb") as file:
            data = file.read(limit + 1)
    except FileNotFoundError:
        raise CupscaleError(f"{what}: no file '{path}'") from None
    except OSError as error:
        raise CupscaleError(f"{what}: cannot read '{path}': {error.strerror}") from None
    except CupscaleError:
        raise
    except ValueError:  # a NUL in the path
        raise CupscaleError(f"{what}: '{path}' is not a valid path") from None
    if len(data) > limit:
        raise CupscaleError(f"{what}: '{path}' has more than {limit} bytes, the limit; give less of it")
    return data


def check_shape(text: str, what: str) -> None:
    """Look at JSON before anything is built from it, in a time that grows with the length of the text alone.

    Raises:
        CupscaleError: Too many items or too many levels.
    """
    if sum(map(text.count, ",:[{")) <= MAX_DEPTH:  # texts included: nothing can be wrong
        return
    bones = _TEXTS.sub("", text)
    items = sum(map(bones.count, ",:[{"))
    if items > MAX_ITEMS:
        raise CupscaleError(f"{what}: {items} items, the limit is {MAX_ITEMS}; give less of it")
    depth = deepest = 0
    for bracket in _BRACKETS.finditer(bones):
        depth += 1 if bracket.group() in "[{" else -1
        deepest = max(deepest, depth)
    if deepest > MAX_DEPTH:
        raise CupscaleError(f"{what}: {deepest} levels of brackets, the limit is {MAX_DEPTH}")


def _refused_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")
