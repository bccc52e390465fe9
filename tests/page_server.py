"""The page as its users meet it: a process of its own, on a small random checkpoint."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import prepared
from checkpoints import make_sdxl
from PIL import Image
from waiting import Process, answering, free_port, once_it_answers

ROOT = Path(__file__).parent.parent
SET_BY_A_PAGE = {"GRADIO_TEMP_DIR"}  # a page that was built in the tests' own process left it there
START_SECONDS = 5 * int(os.environ.get("CUPSCALE_BROWSER_WAIT", "60"))  # a busy machine takes minutes
FAST = (
    "seed=3&steps=4&strength=0.5&guidance=1&attention=0&overlap=0.25&upscaler=lanczos"  # 2 steps: for links
)
# Minutes of work on any machine: what it does is begun and never finished.
LONG = "seed=3&scale=4&steps=1000&strength=1&guidance=4&overlap=0.5&upscaler=lanczos"
FAST_SETTINGS = {
    "steps": 4,
    "strength": 0.5,
    "guidance": 1,
    "attention": 0,
    "overlap": 0.25,
    "upscaler": "lanczos",
}
ENDLESS = {**FAST_SETTINGS, "steps": 1000, "strength": 1.0}  # as LONG, for programs


def photo(path: Path, size: tuple[int, int] = (64, 48), seed: int = 0) -> Path:
    """A picture with broad shapes and some noise."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (4, 5, 3), dtype=np.uint8)).resize(
        size, Image.Resampling.BICUBIC
    )
    noise = random.integers(-12, 13, (size[1], size[0], 3))
    Image.fromarray(np.clip(np.asarray(coarse).astype(int) + noise, 0, 255).astype(np.uint8)).save(path)
    return path


@contextlib.contextmanager
def serve(folder: Path, **environment: str) -> Iterator[str]:
    """Start the page and give its address. `folder` takes the checkpoint, the caches and the temporary files."""
    with start(folder, **environment) as (url, _):
        yield url


@contextlib.contextmanager
def start(folder: Path, *, anew: bool = False, **environment: str) -> Iterator[tuple[str, Process]]:
    """As `serve`, with the process beside the address.

    anew: By an interpreter of its own, as a person starts it; else forked from one that has imported what a page needs.
    """
    model = folder / "random"
    if not model.exists():
        make_sdxl(model)
    temporary = folder / "tmp"
    temporary.mkdir(exist_ok=True)
    port = int(environment.get("GRADIO_SERVER_PORT") or free_port())
    url = f"http://127.0.0.1:{port}/"
    around = {
        **{name: value for name, value in os.environ.items() if name not in SET_BY_A_PAGE},
        "PYTHONPATH": str(ROOT),
        "GRADIO_SERVER_PORT": str(port),
        "GRADIO_SERVER_NAME": "127.0.0.1",
        "GRADIO_ANALYTICS_ENABLED": "False",
        "CUPSCALE_MODELS": f"random={model}",
        "CUPSCALE_MODEL": "random",
        "XDG_CACHE_HOME": str(folder / "cache"),
        "TMPDIR": str(temporary),
        "HF_HUB_OFFLINE": "1",
        **environment,
    }
    log = folder / f"server-{port}.log"
    # Elsewhere a process that has imported so much is better not forked, or cannot be.
    if anew or sys.platform != "linux":
        command = [sys.executable, str(prepared.APP)]
        with answering(command, url, log, START_SECONDS, cwd=folder, env=around) as process:
            yield url, process
        return
    log.touch()
    page = prepared.forked(folder, around, log)
    with once_it_answers(page, url, log, START_SECONDS):
        yield url, page
