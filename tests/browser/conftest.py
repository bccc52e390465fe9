"""A browser, a page to visit, and a tab whose errors fail the test. Where there is no browser `browser_hands` skips."""

from __future__ import annotations

import pytest
from page_server import photo, serve

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("page")


@pytest.fixture(scope="module")
def url(folder):
    with serve(folder, CUPSCALE_CAPTIONERS="away=http://127.0.0.1:9/v1") as address:
        yield address


@pytest.fixture(scope="module")
def chromium():
    from browser_hands import CHROMIUM, sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(chromium):
    from browser_hands import WAIT, expect

    context = chromium.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)
    context.set_default_timeout(WAIT)
    expect.set_options(timeout=WAIT)
    tab = context.new_page()
    tab.problems = []
    tab.on("pageerror", lambda error: tab.problems.append(str(error)))
    yield tab
    assert tab.problems == []
    context.close()


@pytest.fixture
def small(tmp_path):
    return photo(tmp_path / "small.png")
