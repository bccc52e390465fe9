"""How soon the page is ready, beside an empty gradio page: `python -m benchmarks.ready [--visits 5]`.

Each visit is a browser's first one, the two pages in turn; ready is when the main button, or the empty page's heading, is there.
Needs Chromium and playwright.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))


# The page's own clock: playwright looks for an element at growing intervals of up to half a second.
SEEN = """(what) => {
  const look = () => {
    if (document.querySelector(what)?.checkVisibility()) window.readyAt = performance.now();
    else requestAnimationFrame(look);
  };
  look();
}"""


def ready(browser: Any, url: str, what: str) -> float:
    """Seconds from the call of a page to an element of it in sight, in a context of its own."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    page = context.new_page()
    page.add_init_script(f"({SEEN})({what!r})")
    page.goto(url, wait_until="commit")
    took = float(page.wait_for_function("window.readyAt").json_value()) / 1000
    context.close()
    return took


def main() -> None:
    import gradio as gr
    from chromium import launched
    from page_server import serve
    from waiting import free_port

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--visits", type=int, default=5)
    visits = parser.parse_args().visits
    with gr.Blocks() as empty:
        gr.HTML("<h1 id='there'>empty</h1>")
    port = free_port()
    empty.launch(server_port=port, prevent_thread_lock=True, quiet=True)
    with tempfile.TemporaryDirectory() as folder, serve(Path(folder)) as url, launched() as browser:
        pages = {"empty": (f"http://127.0.0.1:{port}/", "#there"), "cupscale": (url, "#run")}
        took: dict[str, list[float]] = {name: [] for name in pages}
        for visit in range(visits + 1):  # the first warms both servers
            for name, (address, what) in pages.items():
                seconds = ready(browser, address, what)
                if visit:
                    took[name].append(seconds)
    empty.close()
    medians = {name: statistics.median(times) for name, times in took.items()}
    for name, times in took.items():
        print(f"{name}: median {medians[name]:.2f} s of {', '.join(f'{one:.2f}' for one in times)}")
    print(f"{medians['cupscale'] / medians['empty']:.2f} times the empty page (the aim: at most 1.3)")


if __name__ == "__main__":
    main()
