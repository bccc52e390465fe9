"""What of gradio's browser side is mended: its installed build must be the one that is known."""

from __future__ import annotations

import asyncio

from cupscale.page import mended


def test_the_installed_gradio_is_mended_once():
    (path,) = mended._scripts()
    code = (mended._ASSETS / path.rpartition("/")[2]).read_text("utf-8")
    assert len(mended._COMES.findall(code)) == 1 and len(mended._IS_SET.findall(code)) == 1
    assert mended.mended(mended.mended(code)) == mended.mended(code) != code


def test_another_build_goes_out_as_it_is():
    assert mended.mended("let a=1;") == "let a=1;"


def test_it_serves_the_one_script_and_nothing_else():
    """What is not that script's own path is the page's to answer, whatever it says."""
    passed, sent = [], []

    async def page(scope, receive, send):
        passed.append(scope)

    async def send(message):
        sent.append(message)

    def ask(path, kind="http"):
        passed.clear(), sent.clear()
        asyncio.run(mended.Mended(page)({"type": kind, "method": "GET", "path": path}, None, send))

    (path,) = mended._scripts()
    name = path.rpartition("/")[2]
    ask(path)
    better = mended.mended((mended._ASSETS / name).read_text("utf-8")).encode()
    assert not passed and sent[0]["status"] == 200 and sent[1]["body"] == better
    assert dict(sent[0]["headers"])[b"content-type"].startswith(b"text/javascript")
    others = ["/", "/assets/", f"{path}x", f"/x{path}", f"/assets//{name}", f"/assets/../assets/{name}", name]
    others += [f"{mended._ASSETS}/{name}", "/etc/hostname", f"/assets/{name.replace('.js', '.css')}"]
    for scope in [*((other, "http") for other in others), (path, "websocket")]:
        ask(*scope)
        assert len(passed) == 1 and not sent, scope
