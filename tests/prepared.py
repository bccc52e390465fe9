"""Pages that start at once: each is forked from a process that has imported what a page needs.

The imports of gradio, torch and diffusers are most of a page's start. `python tests/prepared.py` is that process: it reads an
order a line, forks, and prints the new process' number; the fork runs `app.py` as a person's `python app.py` does. It ends
with its input. `tests/hostile/test_ends.py` starts its pages without it.
"""

from __future__ import annotations

import atexit
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import psutil

ROOT = Path(__file__).parent.parent
APP = ROOT / "app.py"


class Forked(psutil.Process):
    """A page's process, with the calls of `subprocess.Popen` that tests make. Its status is nobody's."""

    def poll(self) -> int | None:
        """None while it runs."""
        return None if self.is_running() and self.status() != psutil.STATUS_ZOMBIE else -1


def forked(cwd: Path, environment: Mapping[str, str], log: Path) -> Forked:
    """A new page.

    Args:
        cwd: Its folder.
        environment: The whole of it.
        log: Takes what it writes.
    """
    source = _source()
    assert source.stdin is not None and source.stdout is not None
    order = {"cwd": str(cwd), "environment": dict(environment), "log": str(log)}
    source.stdin.write(json.dumps(order) + "\n")
    source.stdin.flush()
    return Forked(int(source.stdout.readline()))


@lru_cache(maxsize=1)
def _source() -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "GRADIO_ANALYTICS_ENABLED": "False"}
    command = [sys.executable, __file__]
    source = subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    atexit.register(source.communicate)
    return source


def _next() -> bool:
    """Fork for every order. True in the new process, False in this one at the end of its input."""
    for line in sys.stdin:
        order = json.loads(line)
        if number := os.fork():
            print(number, flush=True)
            continue
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.chdir(order["cwd"])
        os.environ.clear()
        os.environ.update(order["environment"])
        tempfile.tempdir = None  # it may have been looked up
        for name, flags, to in (
            (os.devnull, os.O_RDONLY, (0,)),
            (order["log"], os.O_WRONLY | os.O_APPEND, (1, 2)),
        ):
            file = os.open(name, flags)
            for descriptor in to:
                os.dup2(file, descriptor)
            os.close(file)
        return True
    return False


def _serve() -> None:
    import diffusers
    import transformers

    from cupscale import page, pipeline, stages  # noqa: F401

    # What a first page would import as it loads its model.
    _ = diffusers.StableDiffusionXLPipeline, transformers.CLIPTextModelWithProjection
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # no page that ended waits for anybody
    if _next():
        sys.argv = [str(APP)]
        runpy.run_path(str(APP), run_name="__main__")


if __name__ == "__main__":
    _serve()
