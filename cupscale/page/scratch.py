"""The server's files of visits: a folder for each, under one root, deleted in time whoever made it."""

from __future__ import annotations

import atexit
import shutil
import tempfile
import threading
import time
from functools import lru_cache
from pathlib import Path


@lru_cache(maxsize=1)
def root() -> Path:
    """Where the folders are. It goes when the process ends."""
    path = Path(tempfile.mkdtemp(prefix="cupscale-"))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


def new_folder() -> Path:
    """A folder that no one else is given."""
    return Path(tempfile.mkdtemp(dir=root()))


def sweep(seconds: float) -> None:
    """Delete the folders that nothing was added to for `seconds`."""
    for folder in root().iterdir():
        try:
            old = time.time() - folder.stat().st_mtime > seconds
        except FileNotFoundError:  # its visit ended
            continue
        if old:
            shutil.rmtree(folder, ignore_errors=True)


@lru_cache(maxsize=1)
def keep_clean(seconds: int) -> None:
    """Sweep from now on, until the process ends."""

    def clean() -> None:
        while True:
            time.sleep(min(600, seconds))
            sweep(seconds)

    threading.Thread(target=clean, name="sweeper", daemon=True).start()
