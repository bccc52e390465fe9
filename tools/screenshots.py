"""The README's screenshots: `python tools/screenshots.py URL` against a running page (`python app.py`)."""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

FOLDER = Path(__file__).parent.parent / "assets" / "screenshots"
EXAMPLE = "example=raccoon"


def main(url: str) -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--headless", "--no-sandbox", "--disable-gpu"]
        )
        shots = (("page", 1280, 940, "light"), ("page-dark", 1280, 940, "dark"), ("phone", 390, 844, "light"))
        for name, width, height, scheme in shots:
            tab = browser.new_context(
                viewport={"width": width, "height": height}, color_scheme=scheme
            ).new_page()
            tab.goto(f"{url}?{EXAMPLE}")
            # The link is followed: its example in the slider, and the plan of it.
            tab.locator("#result .cu-note", has_text="raccoon").wait_for(timeout=120_000)
            tab.locator("#plan", has_text="1024 × 768").wait_for(timeout=120_000)
            tab.wait_for_timeout(1500)
            tab.screenshot(path=FOLDER / f"{name}.png")
            if name == "page":
                tab.get_by_role("tab", name="Regions").click()
                tab.locator("#overlay img").wait_for(timeout=120_000)
                tab.locator("#captions", has_text="192, 0, 448, 256").wait_for(timeout=120_000)
                tab.wait_for_timeout(800)
                tab.screenshot(path=FOLDER / "regions.png")
            tab.context.close()
        browser.close()
    for name in (
        "regions",
        *(shot[0] for shot in shots),
    ):  # 256 colours are enough, and keep a file below 500 kB
        file = FOLDER / f"{name}.png"
        with Image.open(file) as opened:
            image = opened.convert("RGB")
        image.quantize(palette=image.quantize(256)).save(file, optimize=True)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:7860/")
