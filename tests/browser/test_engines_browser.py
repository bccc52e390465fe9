"""The main job in the other engines, Firefox and WebKit: the page, an upload, a run, the slider, a download, a paste, a link."""

from __future__ import annotations

import importlib

import pytest
from page_server import FAST, photo
from PIL import Image


@pytest.fixture(params=["firefox", "webkit"])
def tab(request, tmp_path):
    driver = importlib.import_module(request.param)  # skips where there is none
    with driver.launched(tmp_path) as opened:
        opened.size(1280, 1000)
        yield opened


def follow(tab, address):
    """A link, with the picture that it opens on."""
    tab.open(address)
    tab.wait("!!document.querySelector('#run')")
    tab.wait("document.querySelector('#result .cu-view')?.dataset.state === 'pair'")


@pytest.mark.slow
def test_the_main_job(tab, url, tmp_path):
    from tabs import CONTROL

    follow(tab, f"{url}?{FAST}")
    tab.wait("document.querySelector('#visit textarea')?.value.includes('\"seed\": 3')")
    tab.give("#image input[type=file]", photo(tmp_path / "small.png"))
    tab.wait("document.querySelector('#plan').innerText.includes('64 × 48 → 128 × 96')")
    tab.click("#run")
    tab.wait("document.querySelector('#status').innerText.includes('Done.')")
    tab.wait("document.querySelector('#result .cu-note').innerText.includes('64 × 48 → 128 × 96')")
    tab.wait("document.querySelector('#result .cu-after').naturalWidth === 128")
    tab.drag("#result .cu-stage", 100)
    tab.wait("+document.querySelector('#result .cu-range').value > 55")
    tab.click("#png")
    with Image.open(tab.downloaded("small*.png")) as saved:
        assert saved.size == (128, 96) and '"seed":3' in saved.info["cupscale"].replace(" ", "")
    tab.click("#set-prompt textarea")
    tab.press("a red boat")
    tab.press("ac", held=CONTROL)
    tab.click("#tabs [role=tab]:nth-of-type(2)")
    tab.wait("document.querySelector('#caption textarea')?.offsetWidth > 0")
    tab.click("#caption textarea")
    tab.press("v", held=CONTROL)
    tab.wait("document.querySelector('#caption textarea').value === 'a red boat'")
    tab.wait("document.querySelector('#captions').innerText.includes('a red boat')")
    tab.wait("document.querySelector('#visit textarea').value.includes('\"caption\": \"a red boat\"')")
    assert tab.problems == []
    follow(tab, f"{url}?example=raccoon&seed=7")
    tab.wait("document.querySelector('#result .cu-note').innerText.includes('raccoon')")
    tab.wait("document.querySelector('#plan').innerText.includes('1024 × 768')")
    assert tab.problems == []


@pytest.mark.slow
def test_each_field_holds_its_name(tab, url):
    """WebKit lays the name of a `fieldset` over its edge, whatever the styles say."""
    follow(tab, url)
    tab.wait("document.querySelectorAll('.cu-field').length === 2")
    inside = """[...document.querySelectorAll('.cu-field')].map((field) => (field.querySelector('.cu-name')
      .getBoundingClientRect().top - field.getBoundingClientRect().top)).join()"""
    assert all(float(below) >= 4 for below in tab.value(inside).split(",")), tab.value(inside)
