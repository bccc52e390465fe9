"""What a browser's tab keeps of a visit, so that a reload, or a server that starts again, does not lose what was set."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

from cupscale.bounded import parse_object
from cupscale.errors import CupscaleError
from cupscale.page import references
from cupscale.settings import Settings

# What the page is opened with: the query of its address, and what the browser kept. A reload and the way back have the
# visit; a link that is opened does not. Nothing is asked of the server where there is neither. An image that the server has
# no more is given to it again first.
READ = """async () => {
  const found = performance.getEntriesByType('navigation')[0]?.type !== 'navigate'
    && sessionStorage.getItem('cupscale-visit') || ''
  const kept = found && await cupscaleInputs.brought(found)
  return kept || location.search.length > 1 ? JSON.stringify({query: location.search.slice(1), kept}) : ''
}"""

KEEP = """(visit) => {
  try { sessionStorage.setItem('cupscale-visit', visit) } catch { /* full, or off: a reload starts anew */ }
  cupscaleInputs.keep(visit)
}"""


class Visit(NamedTuple):
    """fields: settings, checked.

    size: of the output that their captions are for. image: the upload on this server, None where it is gone. gone:
    there was one. example: its name. mask: of the image, an upload too; None where there is none.
    """

    fields: dict[str, Any]
    size: Sequence[int] | None
    image: str | None
    gone: bool
    example: str | None
    randomize: bool
    mask: str | None = None


def read(arrived: str) -> tuple[dict[str, str], str]:
    """What the page was opened with, as `READ` gives it.

    Returns:
        The query of its address, and what the browser kept; both are empty for what is none of ours.
    """
    try:
        given = parse_object(arrived, "the address")
    except CupscaleError:
        return {}, ""
    return dict(parse_qsl(str(given.get("query", "")), keep_blank_values=True)), str(given.get("kept") or "")


def packed(
    settings: Settings,
    size: Sequence[int] | None,
    image: str | None,
    example: str | None,
    randomize: bool,
    mask: str | None = None,
) -> str:
    """For the browser to keep."""
    fields = settings.model_dump(mode="json")
    kept = {
        "settings": fields,
        "size": size,
        "image": image,
        "example": example,
        "randomize": randomize,
        "mask": mask,
    }
    return json.dumps(kept, ensure_ascii=False)


def unpacked(text: str) -> Visit:
    """What the browser kept.

    Raises:
        CupscaleError: It is none of ours, or damaged.
    """
    kept = parse_object(text, "the visit")
    fields = kept.get("settings")
    size = kept.get("size")
    if not isinstance(fields, Mapping) or not (size is None or _is_size(size)):
        raise CupscaleError("the visit: damaged")
    image = kept.get("image")
    found = _upload(image)
    example = kept.get("example")
    return Visit(
        fields=Settings.build(fields).model_dump(),
        size=size,
        image=found,
        gone=bool(image) and not found,
        example=example if isinstance(example, str) else None,
        randomize=bool(kept.get("randomize")),
        mask=_upload(kept.get("mask")),
    )


def _upload(path: Any) -> str | None:
    """An upload that is still there."""
    try:
        return references.check(path) if isinstance(path, str) else None
    except CupscaleError:
        return None


def _is_size(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(isinstance(n, int) and n > 0 for n in value)
