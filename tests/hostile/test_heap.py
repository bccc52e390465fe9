"""What many pictures leave behind in the page's process."""

from __future__ import annotations

import asyncio
import ctypes
import os
import subprocess
import sys
import weakref
from pathlib import Path

import gradio as gr
import pytest
from gradio.state_holder import SessionState
from PIL import Image

from cupscale.errors import CupscaleError
from cupscale.page.blocks import Guarded

ROOT = Path(__file__).resolve().parents[2]
MEGA = 2**20
THREADS, SIDE = 12, 2048
# Each thread reads a picture of its own and waits, as the threads do that answer requests.
READ = """
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from cupscale import images, page

def resident():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))

page.build()
data = Path(sys.argv[1]).read_bytes()
threads = [ThreadPoolExecutor(1) for _ in range(int(sys.argv[2]))]
before = resident()
for thread in threads:
    thread.submit(lambda: images.read(data).size).result()
print(resident() - before)
"""


def left_by_threads(picture: Path, **environment: str) -> int:
    """Bytes that the process has more, after each of its threads has read a picture and dropped it."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    done = subprocess.run(
        [sys.executable, "-c", READ, picture, str(THREADS)],
        env=kept | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"} | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout.split()[-1])


@pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"), reason="glibc's heaps"
)
def test_threads_do_not_each_keep_what_a_picture_took(tmp_path):
    """16 MB of pixels each, read in 48 MB: without the one heap 12 threads kept 530 MB."""
    picture = tmp_path / "large.png"
    Image.linear_gradient("L").resize((SIDE, SIDE)).convert("RGB").save(picture)
    assert left_by_threads(picture) < 200 * MEGA


def test_a_session_keeps_nothing_of_what_it_sent_and_saw():
    """Every call of a program is a session of its own, and gradio keeps 10,000."""
    with Guarded() as demo:
        text, answer = gr.Textbox(), gr.JSON()
        gr.Button().click(lambda given: {"given": given}, text, answer)
    (fn,) = demo.fns.values()
    state = SessionState(demo)
    assert asyncio.run(demo.preprocess_data(fn, ["sent"], state)) == ["sent"] and not state.config_values
    (shown,) = asyncio.run(demo.postprocess_data(fn, [{"given": "seen"}], state))
    assert "seen" in str(shown) and not state.config_values
    state = SessionState(demo)
    with pytest.raises(gr.Error):
        asyncio.run(demo.preprocess_data(fn, [{"path": "/etc/hostname"}], state))
    assert not state.config_values


class Picture:
    """Of so many bytes that one more or less counts."""


def test_a_refusal_keeps_nothing_of_what_was_refused():
    """gradio holds the error in a ring with itself, and Python looks for rings when there are very many of them."""
    seen = []

    def inner(picture):
        raise CupscaleError("too large")

    def handler():
        picture = Picture()
        seen.append(weakref.ref(picture))
        try:
            inner(picture)
        except CupscaleError as error:
            raise gr.Error(str(error)) from None

    with Guarded() as demo:
        gr.Button().click(handler)
    (fn,) = demo.fns.values()
    with pytest.raises(gr.Error) as kept:
        asyncio.run(demo.call_function(fn, []))
    assert kept.value.message == "too large" and seen[0]() is None
