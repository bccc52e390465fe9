"""The folder of a run: what is done, on disk, so that the same command goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from cupscale import images
from cupscale.bounded import parse_object, read_object
from cupscale.captioners.file import write_text
from cupscale.errors import CupscaleError

RUN = "run.json"
GOES_ON = "what is done is kept, and the same command goes on"


class Folder:
    """Files of a run.

    run.json: what decides its results, and the command. inputs/, originals/: as they were enlarged and reduced, with the words
    of each in a .json beside it. results/ROW/: a picture an item, and its record.
    """

    def __init__(self, path: Path):
        self.path = path

    def make(self) -> None:
        """Make it.

        Raises:
            CupscaleError: It cannot be made.
        """
        self._make(self.path)

    def settle(self, decides: Mapping[str, Any], command: str) -> None:
        """Keep what decides the results, or see that it is what is kept already. Rows may be added to those that are there.

        Args:
            decides: As JSON data; its "rows" are of this run.
            command: That was typed.

        Raises:
            CupscaleError: Another run is in the folder.
        """
        decides = dict(json.loads(json.dumps(decides)))
        kept = self.kept()
        rows: dict[str, Any] = decides["rows"]
        if kept:
            if fault := difference(kept["decides"], decides):
                raise CupscaleError(
                    f"'{self.path}' holds another run ({fault}): give another --out, or the command that it began with"
                )
            rows = kept["decides"]["rows"] | rows
        text = {"command": command, "decides": decides | {"rows": rows}}
        write_text(self.path / RUN, json.dumps(text, indent=1, ensure_ascii=False) + "\n")

    def kept(self) -> dict[str, Any] | None:
        """What run.json holds; None where there is none."""
        return read_object(self.path / RUN, "run") if (self.path / RUN).is_file() else None

    # Inputs

    def input_path(self, name: str) -> Path:
        return self.path / "inputs" / f"{name}.png"

    def original_path(self, name: str) -> Path:
        return self.path / "originals" / f"{name}.png"

    def words(self, name: str) -> dict[str, Any] | None:
        """The prompt and the captions of an input; None where they are not known."""
        words = self._json(self.input_path(name).with_suffix(".json"))
        return None if words is None or "error" in words else words

    def fault(self, name: str) -> str:
        """Why an input could not be used; empty where it could."""
        words = self._json(self.input_path(name).with_suffix(".json"))
        return str(words.get("error", "")) if words else ""

    def keep_words(self, name: str, words: Mapping[str, Any]) -> None:
        self._write_json(self.input_path(name).with_suffix(".json"), words)

    # Results

    def result_path(self, row: str, item: str) -> Path:
        return self.path / "results" / row / f"{item}.png"

    def record(self, row: str, item: str) -> dict[str, Any] | None:
        """Of a finished result; None where it is not there, or not as it was written."""
        path = self.result_path(row, item)
        record = self._json(path.with_suffix(".json"))
        if not record or "sha256" not in record or not path.is_file():
            return None
        return record if digest(path) == record["sha256"] else None

    def failure(self, row: str, item: str) -> str:
        """Why there is no result; empty where that is not known."""
        record = self._json(self.result_path(row, item).with_suffix(".json"))
        return str(record.get("error", "")) if record else ""

    def keep_record(self, row: str, item: str, record: Mapping[str, Any]) -> None:
        """Written last: a result counts from here on."""
        self._write_json(self.result_path(row, item).with_suffix(".json"), record)

    def keep_picture(self, path: Path, image: Image.Image, settings_json: str | None = None) -> None:
        """Whole or not at all.

        Raises:
            CupscaleError: It cannot be written.
        """
        self._make(path.parent)
        images.write(image, path, settings_json)

    def keep_text(self, name: str, text: str) -> None:
        """A file of the report, likewise."""
        write_text(self.path / name, text)

    # Helpers

    def _write_json(self, path: Path, data: Mapping[str, Any]) -> None:
        self._make(path.parent)
        write_text(path, json.dumps(data, indent=1, ensure_ascii=False) + "\n")

    @staticmethod
    def _json(path: Path) -> dict[str, Any] | None:
        try:
            return parse_object(path.read_bytes(), "record")
        except (OSError, CupscaleError):  # not there, or not whole: it is made again
            return None

    @staticmethod
    def _make(path: Path) -> None:
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CupscaleError(f"the folder '{path}' cannot be made: {error.strerror}") from None


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def difference(kept: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The first thing in which two runs differ, in words; empty where they may share a folder.

    Args:
        kept: What decided the one.
        now: The other. A row that only one of them has is no difference.
    """
    for key in {**kept, **now}:
        one, two = kept.get(key), now.get(key)
        if key == "rows":
            ours, theirs = dict(one or {}), dict(two or {})
            changed = [name for name in ours if name in theirs and ours[name] != theirs[name]]
            if changed:
                return f"its row {changed[0]} has other settings"
        elif isinstance(one, dict) and isinstance(two, dict):
            changed = [name for name in {**one, **two} if one.get(name) != two.get(name)]
            if changed:
                name = changed[0]
                return f"{key}, {name}: {_short(one.get(name))} there, {_short(two.get(name))} now"
        elif one != two:
            return f"{key}: {_short(one)} there, {_short(two)} now"
    return ""


def _short(value: Any) -> str:
    return "none" if value is None else str(value)[:40]
