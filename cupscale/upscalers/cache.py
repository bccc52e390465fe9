"""What networks made, kept on disk by content, so that a picture is not enlarged twice."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import time
from pathlib import Path

from PIL import Image

from cupscale.machine import cache_folder

MAX_BYTES = 512 * 2**20
MAX_AGE_S = 7 * 24 * 3600
_LEVEL = 1  # of PNG's compression


class Cache:
    """A folder of pictures; over `max_bytes` the ones that were not used for longest go, and all that are too old.

    It never fails a run: a folder that cannot be written or a damaged file only means that the work is done
    again. A file appears whole or not at all, so several processes may share the folder.

    Args:
        folder: None for the user's cache folder; where there is none, nothing is kept.
        max_bytes: Of all files together. A larger picture is not kept.
        max_age: Seconds since a picture was last used.
    """

    def __init__(
        self, folder: str | Path | None = None, *, max_bytes: int = MAX_BYTES, max_age: float = MAX_AGE_S
    ):
        own = cache_folder()
        self.folder = Path(folder) if folder else own and own / "enlarged"
        self.max_bytes = max_bytes
        self.max_age = max_age

    @staticmethod
    def key(image: Image.Image, size: tuple[int, int], method: str) -> str:
        """The hash of all that a result depends on: the pixels, its size, the method and its weights."""
        digest = hashlib.sha256(f"{method}\0{image.mode} {image.size} {tuple(size)}\0".encode())
        digest.update(image.tobytes())
        return digest.hexdigest()

    def get(self, key: str, size: tuple[int, int]) -> Image.Image | None:
        """The picture of a key, RGB of `size`; None where there is none, or where it is damaged."""
        if self.folder is None:
            return None
        file = self.folder / f"{key}.png"
        try:
            if time.time() - file.stat().st_mtime > self.max_age:
                raise ValueError("too old")
            with Image.open(file, formats=["PNG"]) as image:
                if image.size != tuple(size) or image.mode != "RGB":
                    raise ValueError("another picture")
                image.load()
            os.utime(file)
            return image.copy()
        except FileNotFoundError:
            return None
        except Exception:  # decoders raise nearly anything for a damaged file
            with contextlib.suppress(OSError):
                file.unlink()
            return None

    def put(self, key: str, image: Image.Image) -> None:
        """Keep an RGB picture, and sweep the folder."""
        if self.folder is None:
            return
        part = self.folder / f".{secrets.token_hex(8)}.part"
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            try:
                with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                    image.save(file, "PNG", compress_level=_LEVEL)
                part.replace(self.folder / f"{key}.png")
            finally:
                part.unlink(missing_ok=True)
        except OSError:
            return
        self._sweep()

    def _sweep(self) -> None:
        assert self.folder is not None
        kept = []
        for file in self.folder.iterdir():
            with contextlib.suppress(OSError):  # another process was faster
                status = file.stat()
                kept.append((status.st_mtime, status.st_size, file))
        total, oldest = 0, time.time() - self.max_age
        for used, size, file in sorted(kept, reverse=True):
            total += size
            if total > self.max_bytes or used < oldest:
                with contextlib.suppress(OSError):
                    file.unlink()
