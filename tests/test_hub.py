"""Models from a hub: a licence that was not accepted, and a download that breaks off."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hub_server import Hub, serving
from PIL import Image

ROOT = Path(__file__).parent.parent
NAME = "someone/a-model"


@pytest.fixture
def hub(folders):
    with serving(Hub(Path(folders("sd15")), NAME)) as server:
        yield server


@pytest.fixture
def upscale(hub, tmp_path):
    """The command, with an empty cache of its own; a connection that breaks is tried once again."""
    Image.new("RGB", (40, 24), "teal").save(tmp_path / "in.png")
    files = [str(tmp_path / "in.png"), "--out", str(tmp_path / "out.png"), "--model", NAME]
    options = [
        "--scale",
        "2",
        "--steps",
        "2",
        "--upscaler",
        "lanczos",
        "--captioner",
        "none",
        "--guidance",
        "1",
    ]

    def run():
        return subprocess.run(
            [sys.executable, "-m", "cupscale", "upscale", *files, *options],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "HF_HUB_OFFLINE": "0",
                "HF_ENDPOINT": hub.url,
                "HF_HOME": str(tmp_path / "home"),
                "HF_HUB_DISABLE_XET": "1",
                "HF_HUB_DISABLE_TELEMETRY": "1",
            },
        )

    return run


def test_a_gated_model_says_how_to_accept_its_licence(hub, upscale):
    hub.gated = True
    done = upscale()
    assert done.returncode == 2
    line = done.stderr.strip().splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert NAME in line and "licence must be accepted" in line and "hf auth login" in line


@pytest.mark.slow
def test_after_a_download_that_breaks_the_same_command_fetches_the_rest(hub, upscale, tmp_path):
    hub.breaks_after = 100_000
    done = upscale()
    assert done.returncode == 2 and "Traceback" not in done.stderr
    line = done.stderr.strip().splitlines()[-1]
    assert "download" in line and "same command" in line, line
    came = {name for name, size in hub.files() if size <= hub.breaks_after} & {name for name, _ in hub.asked}
    hub.asked.clear()
    hub.breaks_after = None
    done = upscale()
    assert done.returncode == 0, done.stderr
    assert Image.open(tmp_path / "out.png").size == (80, 48)
    again = {name for name, _ in hub.asked}
    assert came and again and not came & again
