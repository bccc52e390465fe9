"""A model hub on this machine, with one repository: as the real one, as far as a download asks."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """What it does, and what it was asked.

    Attributes:
        folder: The repository's files.
        name: Of the repository, "owner/name".
        gated: Whether its files need a licence to be accepted.
        breaks_after: Bytes of a file after which a connection breaks; None where none does.
        asked: (file, first byte) of every download.
    """

    folder: Path
    name: str
    gated: bool = False
    breaks_after: int | None = None
    url: str = ""
    asked: list[tuple[str, int]] = field(default_factory=list)

    def files(self) -> list[tuple[str, int]]:
        """(name, bytes) of each."""
        every = sorted(file for file in self.folder.rglob("*") if file.is_file())
        return [(str(file.relative_to(self.folder)), file.stat().st_size) for file in every]


@contextlib.contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """The hub, at its `url`."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        hub, path = self.hub, self.path.split("?")[0]
        if path.startswith(f"/api/models/{hub.name}/tree/"):
            every = hub.files()
            return self.tell(
                [{"type": "file", "path": name, "oid": COMMIT, "size": size} for name, size in every]
            )
        if path.startswith(f"/api/models/{hub.name}"):
            return self.tell(self.about())
        name = path.partition(f"/{hub.name}/resolve/")[2].partition("/")[2]
        file = hub.folder / name
        if not name or not file.is_file():
            return self.answer(404, b"", {"X-Error-Code": "EntryNotFound"})
        if hub.gated:
            said = (
                f"Access to model {hub.name} is restricted. You must have access to it and be authenticated."
            )
            return self.answer(401, b"", {"X-Error-Code": "GatedRepo", "X-Error-Message": said})
        return self.give(name, file.read_bytes())

    def about(self) -> dict[str, object]:
        files = [{"rfilename": name} for name, _ in self.hub.files()]
        gated = "manual" if self.hub.gated else False
        plain = {"_id": "1", "private": False, "downloads": 0, "likes": 0, "tags": []}
        return plain | {"id": self.hub.name, "sha": COMMIT, "gated": gated, "siblings": files}

    def give(self, name: str, data: bytes) -> None:
        """A file, from where it is asked."""
        etag = f'"{hashlib.sha256(data).hexdigest()}"'
        first = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0])
        if self.command == "GET":
            self.hub.asked.append((name, first))
        headers = {"X-Repo-Commit": COMMIT, "ETag": etag, "Accept-Ranges": "bytes"}
        if first:
            headers["Content-Range"] = f"bytes {first}-{len(data) - 1}/{len(data)}"
        self.answer(206 if first else 200, data[first:], headers)

    def tell(self, what: object) -> None:
        self.answer(200, json.dumps(what).encode(), {"Content-Type": "application/json"})

    def answer(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in (headers | {"Content-Length": str(len(data))}).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data[: self.hub.breaks_after])
