"""What a program reads before it calls: whole descriptions, ranges, the values there are; and JSON in every answer.

gradio reads a parameter's description from one line of a docstring, knows no range of a number, and hands an agent the text
that Python prints of a result. An agent has nothing but the schema, so the schema has to say it all.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar
from urllib.parse import quote

import gradio as gr

from cupscale.settings import Settings

Function = TypeVar("Function", bound=Callable[..., Any])

_HEAD = re.compile(r"(Args|Returns|Raises):$")
_ENTRY = re.compile(r" {4}\w+: ")


def described(function: Function) -> Function:
    """A function whose docstring has every argument and the result on one line each, as gradio reads them."""
    lines: list[str] = []
    part = ""
    for line in inspect.getdoc(function).splitlines():  # type: ignore[union-attr] # each of ours has one
        if head := _HEAD.match(line):
            part = head[1]
            lines.append(line)
        elif not part or not line or _starts(part, line, lines[-1]):
            lines.append(line)
        else:
            lines[-1] += f" {line.strip()}"
    function.__doc__ = "\n".join(lines)
    return function


def _starts(part: str, line: str, before: str) -> bool:
    """Whether a line of a part of a docstring begins something new."""
    return bool(_ENTRY.match(line)) if part == "Args" else bool(_HEAD.match(before))


class Choice(gr.Textbox):
    """A text that is one of a few. What is none of them goes on to the function, which says so in its own words."""

    def __init__(self, choices: Sequence[str], value: str, **options: Any) -> None:
        self._choices = list(choices)
        super().__init__(value, **options)

    def get_block_name(self) -> str:
        return "textbox"

    def api_info(self) -> dict[str, Any]:
        return {"type": "string", "enum": self._choices}


class Ranged(gr.Number):
    """A number whose range is in the schema."""

    def get_block_name(self) -> str:
        return "number"

    def api_info(self) -> dict[str, Any]:
        return {**super().api_info(), "minimum": self.minimum, "maximum": self.maximum}


class MoreSettings(gr.Textbox):
    """Settings as a JSON object, or as its text."""

    def get_block_name(self) -> str:
        return "textbox"

    def api_info(self) -> dict[str, Any]:
        return {"anyOf": [settings_schema(), {"type": "string"}]}

    def preprocess(self, payload: Any) -> str | None:
        return json.dumps(payload) if isinstance(payload, dict) else super().preprocess(payload)


def settings_schema() -> dict[str, Any]:
    """The JSON schema of the settings. Defaults are left out: they are the model's own, see the endpoint "models".

    That there are no others is left out, too: gradio's clients cannot read it, and a run refuses them by name.
    """
    whole = Settings.model_json_schema()
    properties: dict[str, Any] = _plain(whole["properties"], whole["$defs"])
    return {"type": "object", "properties": properties}


def _plain(node: Any, named: dict[str, Any]) -> Any:
    """A schema without titles and defaults, and with each reference replaced by what it stands for.

    gradio puts it into a document of OpenAPI 3.0, which has no `const`, no tuples and no numbers as exclusive bounds.
    """
    if isinstance(node, list):
        return [_plain(part, named) for part in node]
    if not isinstance(node, dict):
        return node
    if reference := node.get("$ref"):
        return _plain(named[reference.rpartition("/")[2]], named)
    plain: dict[str, Any] = {}
    for key, value in node.items():
        if isinstance(value, dict):  # a field may have any name
            plain[key] = _plain(value, named)
        elif key == "const":
            plain["enum"] = [value]
        elif key == "prefixItems":
            plain["items"] = _plain(value[0], named)  # ours are alike
        elif key in ("exclusiveMinimum", "exclusiveMaximum"):
            plain[key.removeprefix("exclusive").lower()] = value  # the run says the rest
        elif key not in ("title", "default"):
            plain[key] = _plain(value, named)
    return plain


def mend(server: Any) -> None:
    """Make gradio's MCP server say what a file may be given as, and answer with JSON: a text for each output.

    Args:
        server: gradio's, of one page.
    """
    schema_of = server.get_input_schema

    def input_schema(name: str, parameters: dict[str, str] | None = None) -> tuple[dict[str, Any], Any]:
        schema, places = schema_of(name, parameters)
        for place in places:  # gradio asks for http or https only, and takes data URLs
            given = schema["properties"][place[0]]
            kept = {key: given[key] for key in ("type", "description") if key in given}
            schema["properties"][place[0]] = {**kept, "format": "uri"}
        return schema, places

    def answers(data: Any, root_url: str) -> list[Any]:
        several = len(data) == 1 and isinstance(
            data[0], tuple
        )  # the outputs of a function with more than one
        outputs = [_addressed(output, root_url) for output in (data[0] if several else data)]
        return [
            server.types.TextContent(type="text", text=json.dumps(output, ensure_ascii=False))
            for output in outputs
        ]

    server.get_input_schema = input_schema
    server.postprocess_output_data = answers


def _addressed(output: Any, root_url: str) -> Any:
    """A file by the address at which the caller reached this server; its path is nobody's business."""
    meta = output.get("meta") if isinstance(output, dict) else None
    if not isinstance(meta, dict) or meta.get("_type") != "gradio.FileData":
        return output
    return {"url": f"{root_url.rstrip('/')}/gradio_api/file={quote(output['path'])}"}
