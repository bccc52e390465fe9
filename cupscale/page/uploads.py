"""What an upload may hold: files, each with a name, and together no more than a batch of them.

gradio bounds each file; a part that has no file name it keeps in memory whole, whatever its length.
"""

from __future__ import annotations

from python_multipart.exceptions import FormParserError, MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope

from cupscale.errors import CupscaleError
from cupscale.page.limits import Limits


def watched(scope: Scope, receive: Receive, limits: Limits) -> Receive:
    """A `receive` that looks at each piece of an upload before anyone else has it.

    Raises:
        CupscaleError: Its boundary is longer than a boundary may be.
        MultipartParseError: By the `receive`, which gradio answers: with status 400 where a part has no file name, with 413
            where more has come than all files of a batch.
    """
    try:
        parts = _Parts(Headers(scope=scope).get("content-type", ""))
    except FormParserError as error:
        raise CupscaleError(f"the upload's boundary: {error}") from None
    come = 0

    async def look() -> Message:
        nonlocal come
        message = await receive()
        piece = message.get("body", b"")
        come += len(piece)
        if come > limits.uploads_bytes:
            raise MultipartParseError(
                f"more than {limits.uploads_bytes} bytes, the maximum allowed size of an upload to this page; "
                "send fewer files at a time"
            )
        parts.read(piece)
        return message

    return look


class _Parts:
    """Reads the heads of a multipart body's parts as they come."""

    def __init__(self, content_type: str) -> None:
        _, options = parse_options_header(content_type)
        boundary = options.get(b"boundary")
        self._parser: MultipartParser | None = None  # without a boundary, which gradio refuses
        self._name = self._value = b""
        self._disposition = b""
        if boundary:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_header_field": self._on_field,
                    "on_header_value": self._on_value,
                    "on_header_end": self._on_header,
                    "on_headers_finished": self._on_head,
                },
            )

    def read(self, piece: bytes) -> None:
        if self._parser is not None and piece:
            self._parser.write(piece)

    def _on_field(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _on_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header(self) -> None:
        if self._name.lower() == b"content-disposition":
            self._disposition = self._value
        self._name = self._value = b""

    def _on_head(self) -> None:
        _, options = parse_options_header(self._disposition)
        self._disposition = b""
        if b"filename" not in options:
            raise MultipartParseError(
                "a part of the upload has no file name: this page takes files alone, as parts named 'files' with a filename"
            )
