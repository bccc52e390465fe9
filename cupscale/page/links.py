"""Settings as a link's query, as a command and as Python, and back. No state is kept on the server."""

from __future__ import annotations

import base64
import binascii
import json
import shlex
import zlib
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode

from cupscale import models
from cupscale.errors import CupscaleError
from cupscale.images import Picture
from cupscale.planning import SIZES, Target, take_target
from cupscale.settings import RECORDED, Settings

_LONGEST_JSON = 2**21


def to_query(settings: Settings, example: str | None = None) -> str:
    """Every setting, and the example's name: "example=fox&scale=4.0&seed=7...". Captions are packed JSON."""
    fields = settings.model_dump(mode="json", exclude=set(RECORDED))
    pairs: dict[str, Any] = {"example": example} if example else {}
    pairs |= {
        name: _text(value) for name, value in fields.items()
    }  # empty texts too: a model's own may not be
    if settings.captions:
        boxes = [[*caption.box, caption.caption, caption.source] for caption in settings.captions]
        packed = zlib.compress(json.dumps(boxes, ensure_ascii=False, separators=(",", ":")).encode(), 9)
        pairs["captions"] = base64.urlsafe_b64encode(packed).decode().rstrip("=")
    return urlencode(pairs, quote_via=quote)


def _text(value: Any) -> str:
    """Exact and short: 4.0 -> "4"."""
    return repr(value).removesuffix(".0") if isinstance(value, float) else str(value)


def from_query(query: Mapping[str, str]) -> tuple[dict[str, Any], str | None, list[str]]:
    """(settings that are good, the example's name, one line for every part that is not)."""
    good: dict[str, Any] = {}
    wrong: list[str] = []
    for name, text in query.items():
        if name not in Settings.model_fields:
            continue
        try:
            value = unpack_captions(text) if name == "captions" else text
            good[name] = getattr(Settings.build({name: value}), name)
        except CupscaleError as error:
            wrong.append(f"in the link, {error}")
    return good, query.get("example"), wrong


def size_of(query: Mapping[str, str]) -> Target | None:
    """The size that a link asks for in place of a scale, as "width=3840" or "to=4k". Raises CupscaleError as `take_target`."""
    named = {name: text for name, text in query.items() if name in (*SIZES, "scale")}
    return take_target(named)


def unpack_captions(text: str) -> list[dict[str, Any]]:
    """The `captions` of a query. Raises CupscaleError for damaged text."""
    try:
        inflate = zlib.decompressobj()
        raw = inflate.decompress(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)), _LONGEST_JSON)
        if inflate.unconsumed_tail or not inflate.eof:
            raise ValueError("too long or cut off")
        return [{"box": row[:4], "caption": row[4], "source": row[5]} for row in json.loads(raw)]
    except (ValueError, binascii.Error, zlib.error, TypeError, IndexError, KeyError, RecursionError):
        raise CupscaleError(
            "captions: damaged; copy the whole link, or load the captions from a file"
        ) from None


_DRAWING = ("prompt", "negative_prompt", "seed", "steps", "guidance", "scheduler", "model")


def redrawn_size(picture: Mapping[str, Any], settings: Settings) -> str:
    """The size at which these settings draw a picture again that was drawn from words.

    Args:
        picture: The settings inside it.
        settings: Of the run that enlarges it.

    Returns:
        As `Settings.size`; empty where the picture was not drawn, or would be another one by now.
    """
    same = all(picture.get(name) == getattr(settings, name) for name in _DRAWING)
    return str(picture.get("size", "")) if same and picture.get("scale") == 1 else ""


def as_drawn(picture: Picture, settings: Settings) -> Settings:
    """Settings with the size at which they draw their input again, where it was drawn from words."""
    try:
        inside = picture.metadata
    except CupscaleError:  # they are no settings
        return settings
    size = redrawn_size(inside, settings)
    return settings.replace(size=size) if size else settings


def _own(settings: Settings) -> dict[str, Any]:
    """What differs from the model's own defaults; always the scale, the seed and the model."""
    usual = Settings.build(models.defaults(settings.model), scale=settings.scale)
    return {
        name: value
        for name, value in settings.model_dump(exclude=set(RECORDED)).items()
        if name in ("scale", "seed", "model") or value != getattr(usual, name)
    }


def to_command(settings: Settings, image: str | None = "photo.png", mask: str | None = None) -> str:
    """The same run in a shell. Captions and mask go by file. image: None where it is drawn from words. mask: its file."""
    parts = ["python", "-m", "cupscale", "upscale", *([image] if image else [])]
    for name, value in _own(settings).items():
        text = _text(value)
        flag = f"--{name.replace('_', '-')}"
        parts += [f"{flag}={text}"] if text.startswith("-") else [flag, text]
    if settings.captions:
        parts += ["--captions", "captions.json"]
    if mask:
        parts += ["--mask", mask]
    return shlex.join(parts)


def to_python(settings: Settings, image: str | None = "photo.png", mask: str | None = None) -> str:
    """The same run in Python. image, mask: as of `to_command`."""
    own = _own(settings)
    model = own.pop("model")
    fields = "".join(f"    {name}={value!r},\n" for name, value in own.items())
    lines = ["import cupscale", ""]
    if settings.captions:
        lines.insert(0, "import json\n")
        lines += ['captions = json.load(open("captions.json"))["regions"]  # saved on the Regions tab']
        fields += "    captions=captions,\n"
    if mask:
        fields += f"    mask={mask!r},\n"
    given = f"    {image!r},\n" if image else ""
    lines += [
        f"pipe = cupscale.load({model!r})",
        f"result = cupscale.upscale(\n    pipe,\n{given}{fields})",
    ]
    return "\n".join([*lines, 'result.save("big.png")'])
