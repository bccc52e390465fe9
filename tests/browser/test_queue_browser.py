"""Two visitors at one machine: who waits sees where and how long, and can leave; who cancels is heard."""

from __future__ import annotations

import contextlib
import re

import pytest
from browser_hands import WAIT, expect, give, upscale, visit
from page_server import FAST, LONG, photo


@pytest.fixture
def visitors(chromium):
    """New visitors, each a browser of its own."""
    with contextlib.ExitStack() as stack:

        def come():
            context = stack.enter_context(contextlib.closing(chromium.new_context()))
            context.set_default_timeout(WAIT)
            expect.set_options(timeout=WAIT)
            return context.new_page()

        yield come


def begin(page, url, path, query=LONG):
    """Press Upscale, and see it paint."""
    visit(page, url, query)
    give(page, path)
    page.locator("#run").click()
    expect(page.locator("#status")).to_contain_text("denoising")


WATCH = """() => {
  window.seen = []
  const status = document.querySelector('#status')
  new MutationObserver(() => seen.push(status.innerText.trim())).observe(
    status, {subtree: true, childList: true, characterData: true})
}"""


def test_the_second_visitor_sees_the_place_and_the_wait_and_can_leave(visitors, url, small):
    first, second = visitors(), visitors()
    begin(first, url, small)
    visit(second, url)
    give(second, small)
    second.locator("#run").click()
    status = second.locator("#status")
    expect(status).to_contain_text(
        re.compile(r"waiting in the queue, 1 run before this one, about .+ to wait")
    )
    assert status.locator("[role=status]").bounding_box()["height"] > 10  # and it can be seen
    expect(second.locator("#run")).to_be_disabled()
    second.locator("#cancel").click()
    expect(status).to_contain_text("Cancelled, before it began")
    expect(second.locator("#run")).to_be_enabled()
    expect(second.locator("#cancel")).to_be_disabled()
    expect(first.locator("#status")).to_contain_text("denoising")  # the other one goes on
    second.locator("#run").click()
    expect(status).to_contain_text("1 run before this one")
    first.locator("#cancel").click()
    expect(first.locator("#status")).to_contain_text("Cancelled. Nothing was kept.")
    expect(status).to_contain_text("Done.")  # its turn came


@pytest.mark.slow
def test_the_wait_counts_down_with_the_run_before(visitors, url, small):
    """It is what the run before has left, as that one is told."""
    first, second = visitors(), visitors()
    begin(first, url, small, LONG.replace("scale=4&steps=1000", "scale=2&steps=200"))
    visit(second, url)
    give(second, small)
    second.evaluate(WATCH)
    second.locator("#run").click()
    expect(second.locator("#status")).to_contain_text("Done.")
    told = second.evaluate("seen.filter((line) => line.includes('to wait'))")
    spans = [re.search(r"about (?:(\d+) min)? ?(?:(\d+) s)? to wait", line) for line in told]
    seconds = [60 * int(span[1] or 0) + int(span[2] or 0) for span in spans if span]
    assert len(set(seconds)) > 2 and seconds[-1] == min(seconds) < max(seconds)
    assert seconds[-1] <= 3


def test_a_third_visitor_comes_after_the_second(visitors, url, small):
    pages = [visitors() for _ in range(3)]
    begin(pages[0], url, small)
    for ahead, page in enumerate(pages[1:], 1):
        visit(page, url)
        give(page, small)
        page.locator("#run").click()
        runs = "1 run before" if ahead == 1 else f"{ahead} runs before"
        expect(page.locator("#status")).to_contain_text(runs)
    pages[1].locator("#cancel").click()
    expect(pages[2].locator("#status")).to_contain_text("1 run before")
    pages[0].locator("#cancel").click()
    expect(pages[2].locator("#status")).to_contain_text("Done.")


def test_cancel_frees_the_queue(page, url, small, tmp_path):
    begin(page, url, small)
    expect(page.locator("#cancel")).to_be_enabled()
    page.locator("#cancel").click()
    expect(page.locator("#status")).to_contain_text("Cancelled")
    expect(page.locator("#run")).to_be_enabled()
    visit(page, url)
    give(page, photo(tmp_path / "next.png", seed=1))
    upscale(page)


def test_nothing_the_run_still_says_comes_after_cancelled(page, url, small):
    """Told while the network is at work: a word that was on its way must not stand over it."""
    begin(page, url, small)
    page.evaluate(WATCH)
    page.locator("#cancel").click()
    expect(page.locator("#status")).to_contain_text("Cancelled")
    page.locator(
        "#run"
    ).click()  # and the next run waits for the last call of the one before, if for anything
    expect(page.locator("#status")).to_contain_text("denoising")
    page.locator("#cancel").click()
    expect(page.locator("#status")).to_contain_text("Cancelled")
    seen = page.evaluate("seen")
    ends = [k for k, line in enumerate(seen) if "Cancelled" in line]
    begins = [k for k, line in enumerate(seen) if "starting" in line or "queue" in line]
    assert all("denoising" not in line for line in seen[ends[0] : begins[0]])


def test_compare_and_the_captioner_wait_in_the_same_queue(visitors, url, small):
    first, second = visitors(), visitors()
    begin(first, url, small)
    visit(second, url, FAST)
    give(second, small)
    second.get_by_role("tab", name="Compare").click()
    second.locator("#compare-run").click()
    expect(second.locator("#compare-status")).to_contain_text("1 run before this one")
    second.get_by_role("tab", name="Regions").click()
    second.locator("#write").click()
    expect(second.locator("#writing")).to_contain_text("2 runs before this one")
    second.locator("#stop-writing").click()
    expect(second.locator("#writing")).to_contain_text("Cancelled")
    second.get_by_role("tab", name="Compare").click()
    second.locator("#compare-cancel").click()
    expect(second.locator("#compare-status")).to_contain_text("Cancelled")
