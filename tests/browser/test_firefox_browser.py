"""The main job in Firefox: the page, an upload, a run, a caption that is pasted."""

from __future__ import annotations

import pytest
from page_server import FAST, photo


@pytest.mark.slow
def test_the_main_job_in_firefox(url, tmp_path):
    from firefox import CONTROL, launched

    with launched(tmp_path) as tab:
        tab.size(1280, 900)
        tab.open(f"{url}?{FAST}")
        tab.wait("!!document.querySelector('#run')")
        tab.wait("document.querySelector('#visit textarea')?.value.includes('\"seed\": 3')")
        tab.wait("document.querySelector('#result .cu-view')?.dataset.state === 'pair'")
        tab.give("#image input[type=file]", photo(tmp_path / "small.png"))
        tab.wait("document.querySelector('#plan').innerText.includes('64 × 48 → 128 × 96')")
        tab.click("#run")
        tab.wait("document.querySelector('#status').innerText.includes('Done.')")
        tab.wait("document.querySelector('#result .cu-note').innerText.includes('64 × 48 → 128 × 96')")
        tab.wait("document.querySelector('#result .cu-after').naturalWidth === 128")
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
