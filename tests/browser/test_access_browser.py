"""axe-core on every tab: nothing beyond what an empty gradio page has."""

from __future__ import annotations

import re

import pytest
from axe_playwright_python.sync_playwright import Axe
from browser_hands import WAIT, expect, give, open_part, setting, upscale, visit
from waiting import free_port

TABS = ("Upscale", "Regions", "Batch", "Compare", "History")


@pytest.fixture(scope="module")
def empty():
    """The address of a gradio page with a heading and nothing else."""
    import gradio as gr

    with gr.Blocks() as demo:
        gr.Markdown("# empty")
    port = free_port()
    demo.launch(server_port=port, prevent_thread_lock=True, quiet=True)
    yield f"http://127.0.0.1:{port}/"
    demo.close()


def found(page):
    """(rule, where) of what axe-core finds."""
    page.evaluate(
        "async () => { await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));"
        " const moving = document.getAnimations().filter((one) => one instanceof CSSTransition);"
        " await Promise.allSettled(moving.map((one) => one.finished)) }"
    )
    rules = Axe().run(page).response["violations"]
    return {(rule["id"], " ".join(map(str, node["target"]))) for rule in rules for node in rule["nodes"]}


def looked_through(page):
    """Of each tab."""
    everything = {}
    for tab in TABS:
        page.get_by_role("tab", name=tab).click()
        expect(page.get_by_role("tab", name=tab)).to_have_attribute("aria-selected", "true")
        if tab == "Regions":
            expect(page.locator("#captions")).to_contain_text("0, 0")
        everything[tab] = found(page)
    page.get_by_role("tab", name="Upscale").click()
    return everything


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_of_ours(chromium, url, empty, small, scheme):
    context = chromium.new_context(viewport={"width": 1280, "height": 900}, color_scheme=scheme)
    context.set_default_timeout(WAIT)
    expect.set_options(timeout=WAIT)
    page = context.new_page()
    page.goto(empty)
    page.get_by_role("heading", name="empty").wait_for()
    page.get_by_role("button", name="Settings").wait_for()
    usual = found(page)
    assert usual  # gradio's own footer
    visit(page, url)
    give(page, small)
    for tab, wrong in looked_through(page).items():
        assert wrong <= usual, (tab, "closed")
    for part in ("advanced", "share"):
        open_part(page, part)
    setting(page, "seed").fill("-5")
    setting(page, "seed").press("Enter")
    expect(page.locator("#plan [data-wrong]")).to_be_visible()
    assert found(page) <= usual  # a refusal in sight
    setting(page, "seed").fill("3")
    setting(page, "seed").press("Enter")
    upscale(page)
    for tab, wrong in looked_through(page).items():
        assert wrong <= usual, (tab, "open, with a result")
    context.close()


def test_axe_finds_nothing_in_a_batch_a_blind_comparison_and_a_kept_link(page, url, empty, small, tmp_path):
    """Each filled, in light and in dark."""
    page.goto(empty)
    page.get_by_role("button", name="Settings").wait_for()
    usual = found(page)

    def nothing(page, where):
        for _ in ("light", "dark"):
            assert found(page) <= usual, where
            page.evaluate("document.body.classList.toggle('dark')")

    visit(page, url)
    give(page, small)
    page.get_by_role("tab", name="Batch").click()
    bad = tmp_path / "notes.txt"
    bad.write_text("no picture")
    page.locator("#batch-files input[type=file]").set_input_files([str(small), str(bad)])
    page.locator("#batch-run").click()
    expect(page.locator("#batch-status")).to_contain_text("1 of 2 images")
    expect(page.locator("#batch-zip")).to_be_visible()
    nothing(page, "batch")
    page.get_by_role("tab", name="Compare").click()
    for box in page.locator("#variants input[type=checkbox]").all()[3:]:
        box.uncheck()
    page.locator("#compare-run").click()
    expect(page.locator("#compare-status")).to_contain_text("Done.")
    page.locator("#blind-start").click()
    expect(page.locator("#blind-grid img")).to_have_count(2)
    nothing(page, "blind comparison")
    page.get_by_role("tab", name="Upscale").click()
    upscale(page)
    open_part(page, "share")
    page.locator("#keep-link").click()
    expect(page.locator("#kept-links textarea")).to_have_value(re.compile("kept="))
    nothing(page, "links of this browser")
    page.goto(page.locator("#kept-links textarea").input_value())
    expect(page.locator("#result .cu-view")).to_have_attribute("data-state", "pair")
    nothing(page, "kept link")


def test_axe_would_see_a_text_that_cannot_be_read(page, url):
    visit(page, url)
    before = found(page)
    page.evaluate("document.querySelector('.cu-plan').style.color = '#ddd'")
    new = found(page) - before
    assert {rule for rule, _ in new} == {"color-contrast"}
