"""Chromium, for the tests of pages. Without a browser the tests that import this are skipped."""

from __future__ import annotations

import contextlib
import os
import shutil

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
WAIT = int(os.environ.get("CUPSCALE_BROWSER_WAIT", "60")) * 1000
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

try:
    from playwright.sync_api import expect, sync_playwright
except ImportError:
    expect = sync_playwright = None  # type: ignore[assignment]

if CHROMIUM is None or sync_playwright is None:
    missing = (
        "no chromium: apt-get install chromium"
        if sync_playwright
        else "no playwright: pip install playwright"
    )
    if os.environ.get("CUPSCALE_REQUIRE_BROWSER"):
        raise RuntimeError(missing)
    pytest.skip(missing, allow_module_level=True)


@contextlib.contextmanager
def launched():
    """A browser."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()
