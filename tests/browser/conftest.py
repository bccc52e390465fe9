"""A browser, a page to visit, and a tab whose errors fail the test. Where there is no browser `chromium` skips."""

from __future__ import annotations

import pytest
from page_server import photo, serve


def pytest_collection_modifyitems(items):
    """A test in the browser that failed is tried once more, and reported as such: a real fault fails twice.

    Four processes of gradio, Chromium and the model share each core, and some of the orders that this brings are not the page's.
    """
    for item in items:
        if item.path.parent.name == "browser":
            item.add_marker(pytest.mark.flaky(reruns=1))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("page")


@pytest.fixture(scope="module")
def url(folder):
    with serve(folder, CUPSCALE_CAPTIONERS="away=http://127.0.0.1:9/v1") as address:
        yield address


@pytest.fixture(scope="module")
def chromium():
    from chromium import launched

    with launched() as browser:
        yield browser


@pytest.fixture
def page(chromium):
    yield from _opened(chromium, viewport={"width": 1280, "height": 900}, accept_downloads=True)


@pytest.fixture
def phone(chromium):
    """A page on a phone's screen, under fingers."""
    yield from _opened(
        chromium, viewport={"width": 375, "height": 740}, device_scale_factor=2, has_touch=True
    )


def _opened(chromium, **options):
    from chromium import WAIT, expect

    context = chromium.new_context(**options)
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
