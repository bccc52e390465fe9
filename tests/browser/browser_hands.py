"""What a person does on the page."""

from __future__ import annotations

import re
import urllib.parse

from chromium import WAIT, expect
from page_server import FAST

__all__ = ["WAIT", "expect"]


def visit(page, url, query=FAST):
    page.goto(f"{url}?{query}")
    page.locator("#run").wait_for()
    seed = dict(urllib.parse.parse_qsl(query))["seed"]
    # The link was read, and the plan followed.
    expect(page.locator("#visit textarea")).to_have_value(re.compile(rf'"seed": {seed}\b'))


def give(page, path, size="64"):
    """Upload, and wait for the plan."""
    page.locator("#image input[type=file]").set_input_files(str(path))
    expect(page.locator("#plan")).to_contain_text(
        re.compile(rf"{size}|limit|not an image|truncated", re.IGNORECASE)
    )


def setting(page, name):
    """The input of a setting that lies under Advanced."""
    open_part(page, "advanced")
    return page.locator(f"#set-{name} input").first


def upscale(page):
    page.locator("#run").click()
    expect(page.locator("#status")).to_contain_text("Done.")
    expect(page.locator("#result .cu-view")).to_have_attribute("data-state", "pair")


def download(page, what):
    with page.expect_download() as waiting:
        page.locator(what).click()
    return waiting.value


def open_part(page, name):
    """An accordion, opened."""
    head = page.locator(f"#{name} button.label-wrap").first
    if "open" not in (head.get_attribute("class") or "").split():
        head.click()
