"""What of gradio's browser side is mended: its installed build must be the one that is known."""

from __future__ import annotations

import asyncio
from pathlib import Path

import brotli
import pytest

from cupscale.page import mended


def script(start):
    """The text of the one script of gradio's that begins so and is mended."""
    texts = [file.read_text("utf-8") for file in mended._ASSETS.glob(f"{start}*.js")]
    (code,) = [code for code in texts if mended.mended(code) != code]
    return code


@pytest.mark.parametrize(
    ("start", "places"),
    [
        ("core-", {"_COMES": 1, "_IS_SET": 1, "_LOOKS": 1, "_GROWS": 2}),
        ("Blocks-", {"_BUILT": 1, "_SAYS": 1}),
        ("Index-", {"_CONSISTS": 1}),
        ("runtime-", {"_LANGUAGE": 1}),
    ],
)
def test_the_installed_gradio_is_mended_once(start, places):
    code = script(start)
    assert {name: len(getattr(mended, name).findall(code)) for name in places} == places
    assert mended.mended(mended.mended(code)) == mended.mended(code)


@pytest.mark.parametrize(
    ("code", "better"),
    [
        ("v(),oe(()=>{O.reload(r.components,x)})", "v()&&oe(()=>{O.reload(r.components,x)})"),
        (
            "async set_event_args(e,t){let n={};}",
            "async set_event_args(e,t){if(!Object.keys(t).length)return()=>{};let n={};}",
        ),
        ("R(M,S(G).get_url_config(),!0),oe(S(M))", "R(M,S(G).get_url_config()),oe(S(M))"),
        (
            "e.resolveLocale=function(t){if(Intl.Locale!==void 0){}}",
            "e.resolveLocale=function(t){if(typeof t==`string`)return new Intl.Locale(t);if(Intl.Locale!==void 0){}}",
        ),
        (
            "this.root=this.create_node({id:t.id,children:[]},new Map,!0);f();this.root.children=[],"
            "this.postprocess(this.root),this.root",
            "this.cupscaleRoot=this.create_node({id:t.id,children:[]},new Map,!0);f();this.cupscaleRoot.children=[],"
            "this.postprocess(this.cupscaleRoot),this.root",
        ),
    ],
)
def test_what_is_slow_is_mended_in_its_place_alone(code, better):
    assert mended.mended(f"a();{code};b()") == f"a();{better};b()"


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
