"""What of gradio's browser side is mended: its installed build must be the one that is known."""

from __future__ import annotations

from cupscale.page import mended


def test_the_installed_gradio_is_mended_once():
    (path,) = mended._scripts()
    code = (mended._ASSETS / path.rpartition("/")[2]).read_text("utf-8")
    assert len(mended._COMES.findall(code)) == 1 and len(mended._IS_SET.findall(code)) == 1
    assert mended.mended(mended.mended(code)) == mended.mended(code) != code


def test_another_build_goes_out_as_it_is():
    assert mended.mended("let a=1;") == "let a=1;"
