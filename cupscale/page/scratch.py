"""The server's files of visits: a folder for each, under one root for each process, deleted in time whoever made it.

Whether a root is still in use is told by a lock that its process holds on a file beside it, and the age of a folder is taken
on the monotonic clock: a clock that is set forward or back deletes nothing. The lock goes with its process, however that
ends, so that the next start finds what was left.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import os
import shutil
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from types import FrameType

try:
    import fcntl
except ImportError:  # not a POSIX system: what a killed process leaves is the system's to clean
    fcntl = None  # type: ignore[assignment]

from cupscale.errors import CupscaleError

_PREFIX = "cupscale-"
_KINDS = ("visits", "uploads", "links")
_ALIVE = ".alive"
_LAST_SECONDS = 5.0  # from a SIGTERM to the end, whatever still runs
_seen: dict[Path, tuple[int, float]] = {}  # folder -> its time of change, and when that was first seen
_lasting: set[Path] = set()
_adopted: list[Path] = []
_held: Counter[Path] = Counter()  # folders that a run needs to its end, however long that takes


@lru_cache(maxsize=1)
def root() -> Path:
    """Where the folders are. It goes when the process ends."""
    path = Path(tempfile.mkdtemp(prefix=_PREFIX))
    _hold(_beside(path))
    atexit.register(clean)
    for name in _KINDS:
        (path / name).mkdir()
    return path


def _beside(path: Path) -> Path:
    return path.with_name(path.name + _ALIVE)


def _hold(path: Path) -> None:
    """Lock a new file for as long as the process lives. It has its name only once it is locked."""
    if fcntl is None:
        return
    part = path.with_name(f"{path.name}.part")
    descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)  # left open on purpose
    with contextlib.suppress(OSError):  # a file system without locks: nothing is swept there either
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        part.replace(path)


def clean() -> None:
    """Delete this process's folders."""
    if not root.cache_info().currsize:
        return
    shutil.rmtree(root(), ignore_errors=True)
    if not root().exists():
        _beside(root()).unlink(missing_ok=True)


def sweep_left() -> int:
    """Delete the roots whose process has ended.

    Returns:
        How many there were.
    """
    if fcntl is None:
        return 0
    found = 0
    for alive in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*{_ALIVE}"):
        with contextlib.suppress(OSError):
            found += _sweep_one(alive)
    return found


def _sweep_one(alive: Path) -> bool:
    if alive.is_symlink() or alive.stat().st_uid != os.getuid():
        return False
    with alive.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # an OSError where its process lives
        path = alive.with_name(alive.name.removesuffix(_ALIVE))
        with contextlib.suppress(OSError):
            _adopt(path)
        shutil.rmtree(path, ignore_errors=True)
        if not path.exists():
            alive.unlink()
    return True


def _adopt(left: Path) -> None:
    """Take over what a killed process kept under links; one that ended in order has deleted it."""
    if left.is_symlink() or left.stat().st_uid != os.getuid():
        return
    for folder in (left / "links").iterdir():
        _adopted.append(folder.rename(root() / "links" / folder.name))


def adopted() -> list[Path]:
    """The folders that `sweep_left` took over, once."""
    found = _adopted.copy()
    _adopted.clear()
    return found


def new_folder(kind: str = "visits") -> Path:
    """A folder that no one else is given. kind: "visits", or "links" for what a link keeps."""
    return Path(tempfile.mkdtemp(dir=root() / kind))


def take_uploads() -> bool:
    """Let gradio put its files under the root, unless the operator names another folder.

    Returns:
        Whether they are there, so that `sweep` deletes them in time.
    """
    own = str(root() / "uploads")
    return os.environ.setdefault("GRADIO_TEMP_DIR", own) == own


def keep_present() -> None:
    """What is there now belongs to the page, not to a visit: it stays."""
    _lasting.update((root() / "uploads").iterdir())


@contextlib.contextmanager
def with_room(what: str) -> Iterator[None]:
    """Write into the folders; a full disk is said in words that name no path of the server.

    Args:
        what: Is written, for the line.

    Raises:
        CupscaleError: The disk is full.
    """
    try:
        yield
    except (OSError, CupscaleError) as error:  # `images.write` has made words of it, for one's own folder
        cause = error if isinstance(error, OSError) else error.__context__
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise CupscaleError(
                f"{what} cannot be kept: this server's disk is full; try again later, or tell whoever runs it"
            ) from None
        raise


@contextlib.contextmanager
def holding(files: Iterable[str | Path]) -> Iterator[None]:
    """Keep the folders of some files, and some folders, from being swept meanwhile; their time begins anew after it."""
    kinds = [root() / kind for kind in _KINDS]
    parts = [part for file in files for part in (Path(file), *Path(file).parents)]
    folders = {part for part in parts if part.parent in kinds}
    _held.update(folders)
    try:
        yield
    finally:
        _held.subtract(folders)
        for folder in folders:
            _seen.pop(folder, None)


def sweep(seconds: float, links: float = 0.0) -> None:
    """Delete the folders and files that nothing was added to for `seconds`, counted from when a sweep first saw them so.

    Args:
        seconds: Of visits and uploads.
        links: The same, of what links keep.
    """
    now = time.monotonic()
    folders = [folder for kind in _KINDS for folder in (root() / kind).iterdir()]
    for gone in _seen.keys() - set(folders):
        del _seen[gone]
    for folder in folders:
        try:
            changed = folder.stat().st_mtime_ns
        except FileNotFoundError:  # its visit ended
            continue
        if folder in _lasting or _held[folder] > 0 or _seen.get(folder, (None,))[0] != changed:
            _seen[folder] = (changed, now)
        elif now - _seen[folder][1] > (links if folder.parent.name == "links" else seconds):
            if folder.is_dir():
                shutil.rmtree(folder, ignore_errors=True)
            else:  # of an upload that was cut off
                folder.unlink(missing_ok=True)


@lru_cache(maxsize=1)
def keep_clean(seconds: int, links: int = 0) -> None:
    """Sweep what earlier processes left, and from now on what is old here, until the process ends."""
    sweep_left()

    def clean_up() -> None:
        while True:
            time.sleep(min(60, max(1, seconds / 4)))
            with contextlib.suppress(OSError):
                sweep(seconds, links)

    threading.Thread(target=clean_up, name="sweeper", daemon=True).start()


def leave_on_terminate() -> None:
    """Let SIGTERM end the process as Ctrl-C does, with the folders deleted; its exit status is 143."""
    if threading.current_thread() is not threading.main_thread():
        return
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:  # someone else's to handle
        return

    def leave(number: int, frame: FrameType | None) -> None:
        last = threading.Timer(_LAST_SECONDS, os._exit, (128 + number,))
        last.daemon = True
        last.start()
        clean()
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, leave)
