"""Votes as CSV: out for a spreadsheet or another program, and in from another machine's study.

A spreadsheet runs a cell that begins with = + - or @ as a formula, and names of rows may begin so ("+ captions"). Such a cell
gets an apostrophe in front, as do cells that begin with one; reading takes it away again.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path

from cupscale.bounded import read_bytes
from cupscale.errors import CupscaleError
from cupscale.study.pairs import Study, is_name
from cupscale.study.store import ANSWERS, ORIGINS, Vote

MAX_BYTES = 64 * 2**20
MAX_LINE_CHARS = 1000
_FORMULA = tuple("=+-@\t\r'")
_ID = re.compile("[A-Za-z0-9]{1,64}")


def to_csv(votes: Iterable[Vote]) -> str:
    """One line a vote under a line of names, quoted as RFC 4180 has it."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(Vote._fields)
    writer.writerows([_guarded(cell) for cell in vote] for vote in votes)
    return text.getvalue()


def read_csv(file: Path, study: Study) -> list[Vote]:
    """The votes of a CSV file that `to_csv` wrote.

    Args:
        file: At most 64 MB.
        study: Whose rows and images they must be about.

    Raises:
        CupscaleError: With the number of the first line that is not a vote of this study.
    """
    data = read_bytes(file, "votes", MAX_BYTES)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise _wrong(file, line, "not UTF-8 text; save it as UTF-8") from None
    lines = csv.reader(_bounded(file, text), strict=True)
    votes: dict[str, Vote] = {}
    try:
        head = next(lines, [])
        if tuple(head) != Vote._fields:
            raise _wrong(file, 1, f"the columns must be {','.join(Vote._fields)}")
        for cells in lines:
            if not cells:
                continue
            if len(cells) != len(Vote._fields):
                raise _wrong(file, lines.line_num, f"{len(cells)} cells, not {len(Vote._fields)}")
            vote = Vote(*(cell.removeprefix("'") for cell in cells))
            if problem := _problem(vote, study):
                raise _wrong(file, lines.line_num, problem)
            if votes.setdefault(vote.id, vote) != vote:
                raise _wrong(file, lines.line_num, f"the vote {vote.id} stands above and says something else")
    except csv.Error as error:
        raise _wrong(file, lines.line_num, str(error)) from None
    return list(votes.values())


def _guarded(cell: str) -> str:
    return "'" + cell if cell.startswith(_FORMULA) else cell


def _bounded(file: Path, text: str) -> Iterator[str]:
    for number, line in enumerate(io.StringIO(text, newline=""), 1):
        if len(line) > MAX_LINE_CHARS:
            raise _wrong(file, number, f"{len(line)} characters, the limit is {MAX_LINE_CHARS}")
        yield line


def _wrong(file: Path, line: int, problem: str) -> CupscaleError:
    return CupscaleError(f"'{file}' line {line}: {problem}; nothing was imported")


def _problem(vote: Vote, study: Study) -> str:
    """What is wrong with a vote; empty where nothing is."""
    for name in ("id", "voter"):
        if not _ID.fullmatch(getattr(vote, name)):
            return f"{name} must be 1 to 64 letters and digits"
    if not is_name(vote.image) or vote.image not in study.files:
        return f"no image {vote.image[:100]!r} in '{study.folder}'"
    for row in (vote.first, vote.second):
        if row not in study.files[vote.image]:
            return f"no row {row[:100]!r} with the image {vote.image!r} in '{study.folder}'"
    choices = {"answer": ANSWERS, "origin": ORIGINS, "expected": ("", "first", "second")}
    for name, allowed in choices.items():
        if getattr(vote, name) not in allowed:
            return f"{name} {getattr(vote, name)[:40]!r}: it is one of {', '.join(map(repr, allowed))}"
    if (vote.first == vote.second) != bool(vote.expected):
        return "a check shows one row twice and has an expected answer, a comparison has neither"
    return "" if _is_time(vote.voted) else f"voted {vote.voted[:40]!r}: a time such as 2026-01-31T09:30:00Z"


def _is_time(text: str) -> bool:
    try:
        datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ")
    except ValueError:
        return False
    return len(text) == len("2026-01-31T09:30:00Z")
