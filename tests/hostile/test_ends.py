"""How the page's process ends, and what the next one finds."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest
from page_server import FAST_SETTINGS, photo, start
from PIL import Image
from test_clients import join, last, upload as upload_file

from cupscale import images
from cupscale.errors import CupscaleError
from cupscale.page import scratch

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
def test_the_page_removes_its_folders_when_it_is_told_to_end(tmp_path, number, monkeypatch):
    monkeypatch.setenv(
        "GRADIO_TEMP_DIR", str(tmp_path / "of a page in this process")
    )  # `start` passes none on
    with start(tmp_path, anew=True) as (url, process):
        upload(url, photo(tmp_path / "a.png").read_bytes())
        assert list((tmp_path / "tmp").rglob("a.png"))
        process.send_signal(number)
        process.wait(60)
        assert [path for path in (tmp_path / "tmp").rglob("*") if path.is_file()] == []


def test_after_kill_9_the_next_page_sweeps_and_serves(tmp_path):
    with start(tmp_path, anew=True) as (url, process):
        upload(url, photo(tmp_path / "a.png").read_bytes())
        process.kill()
        process.wait(60)
        assert list((tmp_path / "tmp").rglob("a.png"))
    with start(tmp_path, anew=True) as (url, _):
        assert list((tmp_path / "tmp").rglob("a.png")) == []
        upload(url, b"again")


@contextlib.contextmanager
def disk_of(size: int, process: int = 0):
    """No file of a process, or of this one, grows beyond that: as on a full disk."""
    held = psutil.Process(process or os.getpid())
    before = held.rlimit(psutil.RLIMIT_FSIZE)
    held.rlimit(psutil.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        held.rlimit(psutil.RLIMIT_FSIZE, before)


@pytest.mark.skipif(sys.platform != "linux", reason="bounds the files of a process")
def test_a_full_disk_of_the_page_is_said_without_a_path(tmp_path):
    noise = Image.effect_noise((64, 64), 90)
    with disk_of(1000), pytest.raises(CupscaleError) as caught, scratch.with_room("the result"):
        images.write(noise, tmp_path / "a.png")
    line = "the result cannot be kept: this server's disk is full; try again later, or tell whoever runs it"
    assert str(caught.value) == line and not list(tmp_path.iterdir())
    with pytest.raises(CupscaleError, match="the upload cannot be kept"), scratch.with_room("the upload"):
        raise OSError(errno.ENOSPC, "")
    with pytest.raises(CupscaleError, match="does not exist"), scratch.with_room("the result"):
        images.write(noise, tmp_path / "none" / "a.png")
    with pytest.raises(PermissionError), scratch.with_room("the upload"):
        raise PermissionError(errno.EACCES, "")


def test_the_part_of_an_upload_that_was_cut_off_is_swept_in_time(monkeypatch):
    """gradio writes it as a file beside the folders of whole uploads, and forgets it when its sender goes."""
    clock = [1000.0]
    monkeypatch.setattr(scratch.time, "monotonic", lambda: clock[0])
    part = scratch.root() / "uploads" / "tmpcut"
    part.write_bytes(b"half")
    scratch.sweep(1800)
    clock[0] += 1700
    scratch.sweep(1800)
    assert part.exists()
    part.write_bytes(b"half and")  # more comes
    os.utime(part, ns=(1, 1))
    scratch.sweep(1800)
    clock[0] += 1700
    scratch.sweep(1800)
    assert part.exists()
    clock[0] += 101
    scratch.sweep(1800)
    assert not part.exists()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="bounds the files of a process")
def test_on_a_full_disk_the_page_goes_on(tmp_path):
    """It says so with a status, keeps nothing half, and works again once there is room."""
    large = photo(tmp_path / "large.png", (400, 400))
    small = photo(tmp_path / "small.png")
    with start(tmp_path, anew=True) as (url, process):
        file = upload_file(url, small)
        with disk_of(20_000, process.pid):
            with pytest.raises(urllib.error.HTTPError) as refused:
                upload_file(url, large)
            said = refused.value.read().decode()
            assert refused.value.code == 507 and "this server's disk is full" in said
            answer = last(url, join(url, file, FAST_SETTINGS))
            assert "event: error" in answer and "The result cannot be kept" in answer
            assert str(tmp_path) not in answer
            left = [path for path in (tmp_path / "tmp").rglob("*") if path.is_file() and path.stat().st_size]
            parts = [path for path in left if path.name != "small.png"]  # gradio leaves them, in its folder
            assert {path.parent for path in parts} <= {Path(file["path"]).parents[1]}
        assert "event: complete" in last(url, join(url, file, FAST_SETTINGS))


def upload(url: str, data: bytes) -> None:
    mark = "part"
    head = f'--{mark}\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'.encode()
    kind = {"Content-Type": f"multipart/form-data; boundary={mark}"}
    body = head + data + f"\r\n--{mark}--\r\n".encode()
    urllib.request.urlopen(urllib.request.Request(f"{url}gradio_api/upload", body, kind)).close()
