"""How the page's process ends, and what the next one finds."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from page_server import photo, serve, start

HOLD = """
import sys
from cupscale.page import scratch
scratch.leave_on_terminate()
folder = scratch.new_folder()
(folder / "result.png").write_bytes(b"x")
print(scratch.root(), flush=True)
sys.stdin.read()
"""
SWEEP = "from cupscale.page import scratch; print(scratch.sweep_left())"


@contextlib.contextmanager
def holder(tmp: Path):
    """A process with a folder in `tmp`: (process, its root)."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD],
        env={**os.environ, "TMPDIR": str(tmp)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield process, Path(process.stdout.readline().strip())
    finally:
        process.kill()
        process.communicate()


def swept(tmp: Path) -> int:
    env = {**os.environ, "TMPDIR": str(tmp)}
    return int(subprocess.run([sys.executable, "-c", SWEEP], env=env, capture_output=True, check=True).stdout)


def test_sigterm_removes_the_folders(tmp_path):
    with holder(tmp_path) as (process, root):
        assert list(root.glob("visits/*/result.png"))
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 128 + signal.SIGTERM
        assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_what_a_killed_process_left_is_swept_and_what_a_live_one_has_is_not(tmp_path):
    with holder(tmp_path) as (dead, left), holder(tmp_path) as (_, alive):
        dead.kill()
        dead.wait(60)
        long_ago = time.time() - 10**7
        os.utime(alive, (long_ago, long_ago))  # its age by the clock says nothing
        ahead = time.time() + 10**7
        os.utime(left, (ahead, ahead))
        assert left.exists()
        assert swept(tmp_path) == 1
        assert not left.exists() and list(alive.glob("visits/*/result.png"))
        assert swept(tmp_path) == 0


def test_a_stranger_s_link_is_not_followed(tmp_path):
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("x")
    (tmp_path / "cupscale-x").symlink_to(precious)
    (tmp_path / "cupscale-x.alive").write_text("")
    swept(tmp_path)
    assert (precious / "file").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_page_removes_its_folders_when_it_is_told_to_end(tmp_path, number):
    with start(tmp_path) as (url, process):
        upload(url, photo(tmp_path / "a.png").read_bytes())
        assert list((tmp_path / "tmp").rglob("a.png"))
        process.send_signal(number)
        process.wait(60)
        assert [path for path in (tmp_path / "tmp").rglob("*") if path.is_file()] == []


def test_after_kill_9_the_next_page_sweeps_and_serves(tmp_path):
    with start(tmp_path) as (url, process):
        upload(url, photo(tmp_path / "a.png").read_bytes())
        process.kill()
        process.wait(60)
        assert list((tmp_path / "tmp").rglob("a.png"))
    with serve(tmp_path) as url:
        assert list((tmp_path / "tmp").rglob("a.png")) == []
        upload(url, b"again")


def upload(url: str, data: bytes) -> None:
    import urllib.request

    mark = "part"
    head = f'--{mark}\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'.encode()
    kind = {"Content-Type": f"multipart/form-data; boundary={mark}"}
    body = head + data + f"\r\n--{mark}--\r\n".encode()
    urllib.request.urlopen(urllib.request.Request(f"{url}gradio_api/upload", body, kind)).close()
