"""Answers kept on disk by content: the same images, model and instruction are not asked twice."""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

from cupscale.captioners.base import Request
from cupscale.machine import cache_folder

MAX_BYTES = 16 * 2**20  # about 50,000 captions
_OVERHEAD = 150  # bytes of a row next to its text


class Cache:
    """A small SQLite file; over `max_bytes` the answers that were not used for longest go.

    It never fails a run: a folder that cannot be written or a broken file only means that answers are not kept.
    """

    def __init__(self, folder: str | Path | None = None, max_bytes: int = MAX_BYTES):
        place = Path(folder) if folder else cache_folder()
        self.file = None if place is None else place / "captions.sqlite"
        self.max_bytes = max_bytes

    def get(self, key: str) -> str | None:
        with self._open() as db:
            if db is None:
                return None
            row = db.execute("select answer from answers where key = ?", (key,)).fetchone()
            if row is None:
                return None
            db.execute("update answers set used = ? where key = ?", (time.time_ns(), key))
            return str(row[0])
        return None

    def put(self, key: str, answer: str) -> None:
        with self._open() as db:
            if db is None:
                return
            size = len(answer.encode()) + _OVERHEAD
            db.execute(
                "insert or replace into answers values (?, ?, ?, ?)", (key, answer, size, time.time_ns())
            )
            over = (db.execute("select sum(bytes) from answers").fetchone()[0] or 0) - self.max_bytes
            if over > 0:
                for old, old_size in db.execute("select key, bytes from answers order by used").fetchall():
                    db.execute("delete from answers where key = ?", (old,))
                    over -= old_size
                    if over <= -self.max_bytes // 10:  # some room, so that not every answer sweeps
                        break

    def clear(self) -> None:
        if self.file is not None:
            with contextlib.suppress(OSError):
                self.file.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection | None]:
        db: sqlite3.Connection | None = None
        if self.file is None:
            yield None
            return
        try:
            try:
                self.file.parent.mkdir(parents=True, exist_ok=True)
                db = sqlite3.connect(self.file, timeout=5)
                db.execute("pragma auto_vacuum = full")
                db.execute(
                    "create table if not exists answers (key text primary key, answer text, bytes int, used int)"
                )
                db.execute("create index if not exists by_use on answers (used)")
            except (OSError, sqlite3.Error) as error:
                if isinstance(error, sqlite3.DatabaseError) and not isinstance(
                    error, sqlite3.OperationalError
                ):
                    self.clear()  # not a database: the next run starts a new one
                yield None
                return
            with contextlib.suppress(sqlite3.Error), db:
                yield db
        finally:
            if db is not None:
                db.close()


def key_of(name: str, request: Request) -> str:
    """Hash of what an answer depends on: the captioner, the instruction, and the images' pixels."""
    digest = hashlib.sha256(f"{name}\0{request.instruction}".encode())
    for image in request.images:
        digest.update(f"\0{image.size}".encode())
        digest.update(image.tobytes())
    return digest.hexdigest()
