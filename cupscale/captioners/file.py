"""The captions file, whole under its name or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from cupscale.errors import CupscaleError


def check_target(path: str | Path) -> Path:
    """Refuse before the captioner works what `write_text` would refuse after it. Raises CupscaleError."""
    path = Path(path)
    if path.is_dir():
        raise CupscaleError(f"'{path}' is a folder; give the name of a file in it")
    if not path.parent.is_dir():
        raise CupscaleError(f"'{path}': the folder '{path.parent}' does not exist; make it first")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise CupscaleError(f"'{path}' may not be written; choose another name or folder")
    return path


def write_text(path: str | Path, text: str) -> None:
    """Written beside the final name and renamed. Raises CupscaleError for a full disk and the like."""
    path = check_target(path)
    part = path.with_name(f".captions-{secrets.token_hex(8)}.part")
    try:
        part.write_text(text, "utf-8")
        os.replace(part, path)
    except OSError as error:
        raise CupscaleError(
            f"'{path}' cannot be written: {error.strerror or error}; choose another folder"
        ) from None
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
