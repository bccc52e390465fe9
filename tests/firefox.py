"""Firefox, for the tests of pages: Debian's own, over WebDriver BiDi, which it speaks itself (https://w3c.github.io/webdriver-bidi/).

Playwright drives a Firefox of its own build alone. Where there is none the tests that import this are skipped.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import secrets
import shutil
import socket
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tabs import WAIT, Tab
from waiting import until

FIREFOX = shutil.which("firefox-esr") or shutil.which("firefox")

if FIREFOX is None:
    pytest.skip("no firefox: apt-get install firefox-esr", allow_module_level=True)


class Socket:
    """A WebSocket's client end (RFC 6455), for text."""

    def __init__(self, host: str, port: int, path: str) -> None:
        self._socket = socket.create_connection((host, port), timeout=WAIT)
        key = base64.b64encode(secrets.token_bytes(16)).decode()
        self._socket.sendall(
            f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        self._file = self._socket.makefile("rb")
        status = self._file.readline()
        assert b" 101 " in status, status
        while self._file.readline().strip():
            pass

    def send(self, text: str) -> None:
        self._frame(1, text.encode())

    def receive(self) -> str:
        """The next message; a ping is answered."""
        whole = b""
        while True:
            first, second = self._file.read(2)
            size = second & 127
            if size > 125:
                size = int.from_bytes(self._file.read(2 if size == 126 else 8), "big")
            data = self._file.read(size)
            if first & 15 == 9:
                self._frame(10, data)
            elif first & 15 == 8:
                raise ConnectionError("the browser ended the connection")
            elif first & 15 in (0, 1, 2):
                whole += data
                if first & 128:
                    return whole.decode()

    def close(self) -> None:
        self._file.close()
        self._socket.close()

    def _frame(self, kind: int, data: bytes) -> None:
        size = len(data)
        head = bytes([128 | size]) if size < 126 else b"\xfe" + struct.pack("!H", size)
        head = head if size < 65536 else b"\xff" + struct.pack("!Q", size)
        mask = secrets.token_bytes(4)
        masked = bytes(byte ^ mask[k % 4] for k, byte in enumerate(data))
        self._socket.sendall(bytes([128 | kind]) + head + mask + masked)


class FirefoxTab(Tab):
    """problems: What the console calls an error, too."""

    def __init__(self, socket: Socket, downloads: Path) -> None:
        self._socket = socket
        self.downloads = downloads
        self._number = 0
        self.problems: list[str] = []
        self._ask("session.new", capabilities={})
        self._ask("session.subscribe", events=["log.entryAdded"])
        self._context = self._ask("browsingContext.getTree")["contexts"][0]["context"]

    def size(self, width: int, height: int) -> None:
        self._tell("browsingContext.setViewport", viewport={"width": width, "height": height})

    def open(self, url: str) -> None:
        self._tell("browsingContext.navigate", url=url, wait="interactive")

    def value(self, expression: str) -> Any:
        answer = self._ask(
            "script.evaluate", expression=expression, target={"context": self._context}, awaitPromise=True
        )
        assert answer["type"] == "success", answer
        return answer["result"].get("value")

    def give(self, selector: str, path: Path) -> None:
        self._tell("input.setFiles", element=self._node(selector), files=[str(path)])

    def click(self, selector: str) -> None:
        self.drag(selector, 0)

    def drag(self, selector: str, by: int) -> None:
        self.value(f"document.querySelector({selector!r}).scrollIntoView({{block: 'center'}})")
        origin = {"type": "element", "element": self._node(selector)}
        steps = [
            {"type": "pointerMove", "x": 0, "y": 0, "origin": origin},
            {"type": "pointerDown", "button": 0},
            {"type": "pointerMove", "x": by, "y": 0, "origin": origin},
            {"type": "pointerUp", "button": 0},
        ]
        self._tell("input.performActions", actions=[{"type": "pointer", "id": "mouse", "actions": steps}])

    def press(self, keys: str, held: str = "") -> None:
        steps = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        if held:
            steps = [{"type": "keyDown", "value": held}, *steps, {"type": "keyUp", "value": held}]
        self._tell("input.performActions", actions=[{"type": "key", "id": "keys", "actions": steps}])

    def _node(self, selector: str) -> dict[str, Any]:
        found = self._tell("browsingContext.locateNodes", locator={"type": "css", "value": selector})["nodes"]
        assert found, f"not there: {selector}"
        return {"sharedId": found[0]["sharedId"]}

    def _tell(self, method: str, **given: Any) -> dict[str, Any]:
        return self._ask(method, context=self._context, **given)

    def _ask(self, method: str, **given: Any) -> dict[str, Any]:
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": given}))
        while True:
            message = json.loads(self._socket.receive())
            if message.get("method") == "log.entryAdded" and message["params"]["level"] == "error":
                self.problems.append(str(message["params"]["text"]))
            if message.get("id") == self._number:
                assert message["type"] == "success", message
                return dict(message["result"])


@contextlib.contextmanager
def launched(folder: Path) -> Iterator[FirefoxTab]:
    """A browser without a window, with a profile of its own in `folder`."""
    profile = folder / "profile"
    downloads = folder / "downloads"
    for made in (profile, downloads):
        made.mkdir()
    wishes = {"browser.download.folderList": 2, "browser.download.dir": str(downloads)}
    lines = (f"user_pref({json.dumps(name)}, {json.dumps(value)});" for name, value in wishes.items())
    (profile / "user.js").write_text("\n".join(lines))
    log = folder / "firefox.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [FIREFOX, "--headless", "--no-remote", "--profile", profile, "--remote-debugging-port", "0"],
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "HOME": str(folder), "MOZ_CRASHREPORTER_DISABLE": "1"},
        )
        try:
            tab_socket = Socket(*_address(log, process), "/session")
            yield FirefoxTab(tab_socket, downloads)
            tab_socket.close()
        finally:
            process.terminate()
            process.wait(30)


def _address(log: Path, process: subprocess.Popen[bytes]) -> tuple[str, int]:
    """Where it listens, as it says itself."""

    def find() -> re.Match[str] | None:
        assert process.poll() is None, log.read_text()[-2000:]
        return re.search(r"WebDriver BiDi listening on ws://([\d.]+):(\d+)", log.read_text())

    found = until(find, WAIT, lambda: log.read_text()[-2000:])
    return found[1], int(found[2])
