"""WebKit, the engine of Safari and of every browser on an iPhone: Debian's GTK build, over WebDriver (https://www.w3.org/TR/webdriver2/).

Without the browser, its driver or a screen in software the tests that import this are skipped.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tabs import WAIT, Tab
from waiting import answering, free_port

DRIVER, SCREEN = shutil.which("WebKitWebDriver"), shutil.which("Xvfb")
BROWSER = next(iter(sorted(Path("/usr/lib").glob("*/webkit2gtk-4.*/MiniBrowser"))), None)
_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the standard's own name of a reference to an element

if not (DRIVER and SCREEN and BROWSER):
    pytest.skip("no WebKit: apt-get install webkit2gtk-driver xvfb", allow_module_level=True)


class WebKitTab(Tab):
    """A tab by its driver's address."""

    def __init__(self, driver: str, downloads: Path) -> None:
        self._session = driver.rstrip("/") + "/session"
        self.downloads = downloads
        options = {"binary": str(BROWSER), "args": ["--automation"]}
        always = {"webkitgtk:browserOptions": options, "timeouts": {"script": WAIT * 1000}}
        made = self._ask("POST", "", capabilities={"alwaysMatch": always})
        self._session += f"/{made['sessionId']}"

    @property
    def problems(self) -> list[str]:  # type: ignore[override]
        found: list[str] = self.value("window.cupscaleProblems ?? []")
        return found

    def size(self, width: int, height: int) -> None:
        self._ask("POST", "/window/rect", width=width, height=height)

    def open(self, url: str) -> None:
        self._ask("POST", "/url", url=url)
        self._ask(
            "POST",
            "/execute/sync",
            script="""window.cupscaleProblems = [];
              addEventListener("error", (event) => cupscaleProblems.push(event.message));
              addEventListener("unhandledrejection", (event) => cupscaleProblems.push(String(event.reason)))""",
            args=[],
        )

    def value(self, expression: str) -> Any:
        return self._ask("POST", "/execute/sync", script=f"return {expression}", args=[])

    def give(self, selector: str, path: Path) -> None:
        self._ask("POST", f"/element/{self._node(selector)}/value", text=str(path))

    def click(self, selector: str) -> None:
        self._ask("POST", f"/element/{self._node(selector)}/click")

    def drag(self, selector: str, by: int) -> None:
        origin = {_ELEMENT: self._node(selector)}
        steps = [
            {"type": "pointerMove", "x": 0, "y": 0, "origin": origin},
            {"type": "pointerDown", "button": 0},
            {"type": "pointerMove", "x": by, "y": 0, "origin": origin},
            {"type": "pointerUp", "button": 0},
        ]
        self._ask("POST", "/actions", actions=[{"type": "pointer", "id": "mouse", "actions": steps}])

    def press(self, keys: str, held: str = "") -> None:
        steps = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        if held:
            steps = [{"type": "keyDown", "value": held}, *steps, {"type": "keyUp", "value": held}]
        self._ask("POST", "/actions", actions=[{"type": "key", "id": "keys", "actions": steps}])

    def close(self) -> None:
        self._ask("DELETE", "")

    def _node(self, selector: str) -> str:
        found = self._ask("POST", "/element", using="css selector", value=selector)
        return str(found[_ELEMENT])

    def _ask(self, method: str, path: str, **given: Any) -> Any:
        data = json.dumps(given).encode() if method == "POST" else None
        request = urllib.request.Request(self._session + path, data, method=method)
        try:
            with urllib.request.urlopen(request, timeout=2 * WAIT) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{method} {path} {given}: {error.read().decode()[:500]}") from None


@contextlib.contextmanager
def launched(folder: Path) -> Iterator[WebKitTab]:
    """A browser on a screen in software, with a home of its own in `folder`."""
    home, downloads = folder / "home", folder / "downloads"
    for made in (home / ".config", downloads):
        made.mkdir(parents=True)
    (home / ".config" / "user-dirs.dirs").write_text(f'XDG_DOWNLOAD_DIR="{downloads}"\n')
    with _screen() as display:
        port = free_port()
        driver, url = [str(DRIVER), f"--port={port}"], f"http://127.0.0.1:{port}/status"
        around = {
            **{name: value for name, value in os.environ.items() if not name.startswith("XDG_")},
            "HOME": str(home),
            "DISPLAY": display,
            "LIBGL_ALWAYS_SOFTWARE": "1",
            "WEBKIT_DISABLE_SANDBOX_THIS_IS_DANGEROUS": "1",  # bubblewrap wants more than a container has
        }
        with answering(driver, url, folder / "webkit.log", WAIT, env=around):
            tab = WebKitTab(url.removesuffix("/status"), downloads)
            try:
                yield tab
            finally:
                tab.close()


@contextlib.contextmanager
def _screen() -> Iterator[str]:
    """The name of a display that nobody sees, as its server says it once it is ready."""
    read, write = os.pipe()
    command = [str(SCREEN), "-displayfd", str(write), "-screen", "0", "1400x1100x24", "-nolisten", "tcp"]
    process = subprocess.Popen(command, pass_fds=[write], stderr=subprocess.DEVNULL)
    os.close(write)
    try:
        with open(read) as said:
            number = said.readline().strip()
        assert number, "Xvfb did not start"
        yield f":{number}"
    finally:
        process.terminate()
        process.wait(WAIT)
