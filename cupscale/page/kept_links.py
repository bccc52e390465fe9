"""Results that a visitor asked to keep under a link: for a day, for whoever has the link, on this server alone.

Whoever has the link sees the result. Whoever has the link's secret deletes it, and only the browser that made the link has that:
here there is its hash alone.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
import shutil
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cupscale.bounded import read_object
from cupscale.errors import CupscaleError
from cupscale.page import card, run, scratch
from cupscale.page.limits import Limits
from cupscale.planning import duration
from cupscale.settings import Settings

_TOKEN = re.compile(r"[A-Za-z0-9_-]{32}")
_HASH = re.compile(r"[0-9a-f]{64}")
_NOBODYS = "0" * 64  # what a secret is compared with where there is no link, so that this takes as long
_TOLD = "kept.json"  # beside the files, what a page needs that starts after this one was killed


@dataclass(frozen=True)
class Kept:
    """A result under a link.

    secret_hash: of the secret that deletes it (SHA-256, hex). before, after, card: its files. since: on the monotonic
    clock. size: (width, height) px. visitor: who made the link, which no file tells; empty for one that was taken over.
    """

    token: str
    secret_hash: str
    folder: Path
    before: Path
    after: Path
    card: Path
    settings: Settings
    note: str
    size: tuple[int, int]
    since: float
    bytes: int
    visitor: str = ""

    @classmethod
    def read(cls, folder: Path) -> Kept:
        """From its folder, as `tell` left it.

        Raises:
            CupscaleError: There is none, or it is damaged.
        """
        told = read_object(folder / _TOLD, "a kept result")
        try:
            before, after, made = (next(folder.glob(f"{name}.*")) for name in ("before", "after", "card"))
            token, secret_hash = str(told["token"]), str(told["secret_hash"])
            note, (width, height) = str(told["note"]), told["size"]
            size, since = (int(width), int(height)), min(float(told["since"]), time.monotonic())
            settings = Settings.from_json(str(told["settings"]))
        except (
            KeyError,
            TypeError,
            ValueError,
            RuntimeError,
        ) as error:  # a generator's end is a RuntimeError
            raise CupscaleError(f"a kept result: damaged ({type(error).__name__})") from None
        if not _TOKEN.fullmatch(token) or not _HASH.fullmatch(secret_hash):
            raise CupscaleError("a kept result: damaged (its link)")
        held = sum(file.stat().st_size for file in (before, after, made))
        return cls(token, secret_hash, folder, before, after, made, settings, note, size, since, held)

    def tell(self) -> None:
        """Let a page find it that starts after this one was killed. The monotonic clock goes on from one to the other."""
        names = ("token", "secret_hash", "note", "size", "since")
        told = {name: getattr(self, name) for name in names}
        (self.folder / _TOLD).write_text(json.dumps(told | {"settings": self.settings.to_json()}))

    def pair(self) -> dict[str, Any]:
        """For the slider. The files are served under the link only, so that no copy of them outlasts it."""
        sides = {
            side: {"url": f"kept/{self.token}/{getattr(self, side).name}"} for side in ("before", "after")
        }
        return {"state": "pair", **sides, "note": self.note, "width": self.size[0], "height": self.size[1]}


class KeptLinks:
    """The results of a page that are kept under links. Every method may be called from any thread."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._kept: dict[str, Kept] = {}
        self._lock = threading.Lock()

    @property
    def offered(self) -> bool:
        """Whether this page keeps any."""
        return self.limits.link_seconds > 0

    def keep(self, shot: run.Shot, visitor: str = "") -> tuple[Kept, str]:
        """Copy a result under a new link, which nobody can guess.

        Args:
            shot: The result.
            visitor: Who asks; see `cupscale.page.visitor`.

        Returns:
            What is kept, and the secret that deletes it, which is told here only.

        Raises:
            CupscaleError: This page keeps none, or no more, or no more of this visitor's, or the result is gone.
        """
        if not self.offered:
            raise CupscaleError(
                "this page keeps no pictures under links: download the result and send the file"
            )
        folder = scratch.new_folder("links")
        secret = secrets.token_urlsafe(24)
        try:
            with scratch.with_room("the picture"):
                kept = replace(self._copied(shot, folder, _hashed(secret)), visitor=visitor)
                kept.tell()
            with self._lock:
                self._purge()
                self._check_room(kept)
                self._kept[kept.token] = kept
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return kept, secret

    def _check_room(self, kept: Kept) -> None:
        every = list(self._kept.values())
        own = [one for one in every if one.visitor == kept.visitor]
        if 0 < self.limits.own_links <= len(own):
            raise CupscaleError(
                f"{_pictures(own)} of yours {'is' if len(own) == 1 else 'are'} under links here, the most that one visitor may "
                f"have: delete a link, or wait {duration(max(60.0, min(map(self._left, own))))}"
            )
        full = sum(one.bytes for one in every) + kept.bytes > self.limits.links_bytes
        if full or len(every) >= self.limits.links:
            wait = min(map(self._left, every), default=0.0)
            raise CupscaleError(
                f"this page keeps {_pictures(every)} under links, all it has room for: the next place is "
                f"free in {duration(max(60.0, wait))}; download the result and send the file"
            )

    def adopt(self, folders: Iterable[Path]) -> None:
        """Take over what a killed process kept. What is over by now, or damaged, is deleted."""
        for folder in folders:
            try:
                kept = Kept.read(folder)
            except CupscaleError:
                shutil.rmtree(folder, ignore_errors=True)
                continue
            with self._lock:
                self._kept[kept.token] = kept
        with self._lock:
            self._purge()

    def find(self, token: Any) -> Kept | None:
        """The result under a link; None for a link that is none, or that is over."""
        if not isinstance(token, str) or not _TOKEN.fullmatch(token):
            return None
        with self._lock:
            self._purge()
            return self._kept.get(token)

    def delete(self, token: str, secret: str) -> bool:
        """Delete what is under a link, for whoever has its secret.

        Returns:
            Whether it was; not with another secret, and not where there is no such link.
        """
        found = self.find(token)
        expected = found.secret_hash if found else _NOBODYS
        if not hmac.compare_digest(_hashed(secret), expected):
            return False
        with self._lock:
            kept = self._kept.pop(token, None)
        if kept:
            shutil.rmtree(kept.folder, ignore_errors=True)
        return True

    def _copied(self, shot: run.Shot, folder: Path, secret_hash: str) -> Kept:
        names = {"before": shot.before, "after": shot.png}
        files = {name: folder / f"{name}{Path(path).suffix}" for name, path in names.items()}
        files["card"] = folder / "card.jpg"
        try:
            for name, path in names.items():
                shutil.copyfile(path, files[name])
            data = card.of_files(shot.before, shot.png, shot.settings.prompt, shot.line)
        except FileNotFoundError:
            raise CupscaleError(run.GONE) from None
        files["card"].write_bytes(data)
        return Kept(
            token=secrets.token_urlsafe(24),
            secret_hash=secret_hash,
            folder=folder,
            before=files["before"],
            after=files["after"],
            card=files["card"],
            settings=shot.settings,
            note=shot.note,
            size=shot.size,
            since=time.monotonic(),
            bytes=sum(file.stat().st_size for file in files.values()),
        )

    def _left(self, kept: Kept) -> float:
        return self.limits.link_seconds - (time.monotonic() - kept.since)

    def _purge(self) -> None:
        for token in [token for token, kept in self._kept.items() if self._left(kept) <= 0]:
            shutil.rmtree(self._kept.pop(token).folder, ignore_errors=True)


def _pictures(kept: Sequence[Kept]) -> str:
    return f"{len(kept)} picture{'s' * (len(kept) != 1)}"


def _hashed(secret: str) -> str:
    """192 random bits need no salt and no slow hash."""
    return hashlib.sha256(secret.encode()).hexdigest()
