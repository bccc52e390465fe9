"""What a person does on the page, in Chromium. Without a browser the tests that import this are skipped."""

from __future__ import annotations

import os
import re
import shutil
import urllib.parse

import pytest
from page_server import FAST

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
WAIT = int(os.environ.get("CUPSCALE_BROWSER_WAIT", "60")) * 1000

try:
    from playwright.sync_api import expect, sync_playwright
except ImportError:
    sync_playwright = None  # type: ignore[assignment]

if CHROMIUM is None or sync_playwright is None:
    missing = (
        "no chromium: apt-get install chromium"
        if sync_playwright
        else "no playwright: pip install playwright"
    )
    if os.environ.get("CUPSCALE_REQUIRE_BROWSER"):
        raise RuntimeError(missing)
    pytest.skip(missing, allow_module_level=True)


def visit(page, url, query=FAST):
    page.goto(f"{url}?{query}")
    page.locator("#run").wait_for()
    seed = dict(urllib.parse.parse_qsl(query))["seed"]
    expect(page.locator("#set-seed input")).to_have_value(seed)  # the link was read


def give(page, path, size="64"):
    """Upload, and wait for the plan."""
    page.locator("#image input[type=file]").set_input_files(str(path))
    expect(page.locator("#plan")).to_contain_text(
        re.compile(rf"{size}|limit|not an image|truncated", re.IGNORECASE)
    )


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
