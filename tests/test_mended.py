"""What of gradio's browser side is mended: its installed build must be the one that is known."""

from __future__ import annotations

import asyncio
from pathlib import Path

import brotli

from cupscale.page import mended


def test_the_installed_gradio_is_mended_once():
    (file,) = mended._ASSETS.glob("core-*.js")
    code = file.read_text("utf-8")
    assert len(mended._COMES.findall(code)) == 1 and len(mended._IS_SET.findall(code)) == 1
    assert mended.mended(mended.mended(code)) == mended.mended(code) != code


def test_another_build_goes_out_as_it_is():
    assert mended.mended("let a=1;") == "let a=1;"


def asked(path, kind="http", accept=b"gzip, deflate, br"):
    """What is answered to a request: status, headers and body, or nothing where the page is left to answer."""
    passed, sent = [], []

    async def page(scope, receive, send):
        passed.append(scope)

    async def send(message):
        sent.append(message)

    scope = {"type": kind, "method": "GET", "path": path, "headers": [(b"accept-encoding", accept)]}
    asyncio.run(mended.Assets(page)(scope, None, send))
    assert len(passed) == (not sent)
    return (sent[0]["status"], dict(sent[0]["headers"]), sent[1]["body"]) if sent else None


def test_it_serves_scripts_and_sheets_and_nothing_else():
    """What is no file of gradio's own is the page's to answer, whatever it says."""
    (script,) = mended._ASSETS.glob("core-*.js")
    other = next(mended._ASSETS.glob("Index-*.js"))
    sheet = next(mended._ASSETS.glob("Index-*.css"))
    better = mended.mended(script.read_text("utf-8")).encode()
    known = {script: better, other: other.read_bytes(), sheet: sheet.read_bytes()}
    for file, text in known.items():
        status, headers, body = asked(f"/assets/{file.name}")
        assert (status, headers[b"content-encoding"], brotli.decompress(body)) == (200, b"br", text)
        assert (
            headers[b"content-length"] == str(len(body)).encode() and headers[b"vary"] == b"Accept-Encoding"
        )
        kind = b"text/css" if file is sheet else b"text/javascript"
        assert headers[b"content-type"].startswith(kind)
        status, headers, body = asked(f"/assets/{file.name}", accept=b"gzip")
        assert body == text and b"content-encoding" not in headers
    path, name = f"/assets/{script.name}", script.name
    others = ["/", "/assets/", f"{path}x", f"/x{path}", f"/assets//{name}", f"/assets/../assets/{name}", name]
    others += [f"{mended._ASSETS}/{name}", "/etc/hostname", "/assets/..", "/assets/none.js"]
    for path_of_another in others:
        assert asked(path_of_another) is None, path_of_another
    assert asked(path, "websocket") is None


def test_files_go_out_of_memory_and_stay_in_the_browser(monkeypatch):
    """Read and compressed for the first visitor only; their names hold the hash of what is in them."""
    path = f"/assets/{next(mended._ASSETS.glob('Index-*.js')).name}"
    first, plain = asked(path), asked(path, accept=b"gzip")

    def again(*given, **named):
        raise AssertionError("a second time")

    for owner, name in ((Path, "read_text"), (Path, "read_bytes"), (brotli, "compress")):
        monkeypatch.setattr(owner, name, again)
    assert (asked(path), asked(path, accept=b"gzip")) == (first, plain)
    for _, headers, _ in (first, plain):
        assert headers[b"cache-control"] == b"public, max-age=31536000, immutable"
