"""The votes of a study, in a SQLite file beside its rows.

One row a vote. A question is a row of its own until it is answered: answering takes it away and puts the vote in, in one
transaction, so a vote counts once however often it is sent. The file survives a killed process and a lost machine: it is
written ahead, and each vote is synced before the voter is told. A connection lives as long as one operation.
"""

from __future__ import annotations

import contextlib
import hashlib
import secrets
import sqlite3
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal, NamedTuple

from cupscale.errors import CupscaleError
from cupscale.study.pairs import Asked, Unit, counted

FILE = "votes.sqlite"
MAX_VOTERS = 10_000
ANSWERS = ("first", "second", "equal")
ORIGINS = ("person", "simulated")
KEPT_OPEN = timedelta(days=1)  # a question that is not answered by then is taken back
LOOKED_AT = timedelta(hours=1)  # so long an open question counts as one that will be answered
_BUSY_SECONDS = 20.0
_LAYOUT = 1  # of the tables, in the file's user_version

_TABLES = """
CREATE TABLE voters (id TEXT PRIMARY KEY, secret TEXT UNIQUE, began TEXT NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE questions (
    id TEXT PRIMARY KEY, voter TEXT NOT NULL REFERENCES voters, image TEXT NOT NULL, first TEXT NOT NULL,
    second TEXT NOT NULL, expected TEXT NOT NULL, asked TEXT NOT NULL, place INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE votes (
    id TEXT PRIMARY KEY, voter TEXT NOT NULL REFERENCES voters, image TEXT NOT NULL, first TEXT NOT NULL,
    second TEXT NOT NULL, expected TEXT NOT NULL CHECK (expected IN ('', 'first', 'second')),
    answer TEXT NOT NULL CHECK (answer IN ('first', 'second', 'equal')),
    origin TEXT NOT NULL CHECK (origin IN ('person', 'simulated')), voted TEXT NOT NULL) STRICT, WITHOUT ROWID;
CREATE INDEX questions_of ON questions (voter);
CREATE INDEX votes_of ON votes (voter);
"""


class Vote(NamedTuple):
    """One answer.

    Attributes:
        id: Of the question it answers; unguessable, the same in every copy of the vote.
        voter: A pseudonym of the study's own making.
        image: The image's name.
        first: The row on the first side.
        second: The row on the second side; in an attention check the same row.
        expected: "" in a comparison, else the check's right answer, "first" or "second".
        answer: "first", "second" or "equal".
        origin: "person", or "simulated" for a vote that no person gave.
        voted: When, in UTC, as ISO 8601 to the second.
    """

    id: str
    voter: str
    image: str
    first: str
    second: str
    expected: str
    answer: str
    origin: str
    voted: str

    @property
    def asked(self) -> Asked:
        """What it answers."""
        return Asked(self.image, self.first, self.second, self.expected)


Choose = Callable[[Collection[Unit], Mapping[Unit, int], int, str], Asked | None]
Outcome = Literal["counted", "counted before", "unknown"]


class Store:
    """The file of votes of one folder."""

    def __init__(self, folder: Path) -> None:
        """Open it, or make it.

        Args:
            folder: Of the study.

        Raises:
            CupscaleError: It cannot be made or written, or is not a file of votes of this version.
        """
        self.file = folder / FILE
        with self._writing() as db:
            (layout,) = db.execute("PRAGMA user_version").fetchone()
            if layout == 0 and not db.execute("SELECT 1 FROM sqlite_master").fetchone():
                for statement in _TABLES.split(";"):
                    db.execute(statement)
                db.execute(f"PRAGMA user_version = {_LAYOUT}")
            elif layout != _LAYOUT:
                raise CupscaleError(f"'{self.file}' is not a file of votes of this version: move it away")

    def known(self, secret: str) -> str | None:
        """The id of the voter who holds a secret that was given out; None for any other."""
        with self._reading() as db:
            row = db.execute("SELECT id FROM voters WHERE secret = ?", [_hash(secret)]).fetchone()
        return row[0] if row else None

    def new_voter(self) -> tuple[str, str]:
        """(the id of a new voter, the secret to keep). The file has a hash of the secret only.

        Raises:
            CupscaleError: The study has all the voters it takes.
        """
        voter, secret = secrets.token_hex(8), secrets.token_urlsafe(24)
        with self._writing() as db:
            (number,) = db.execute("SELECT count(*) FROM voters").fetchone()
            if number >= MAX_VOTERS:
                raise CupscaleError(f"this study has {MAX_VOTERS} voters, the limit; tell who sent you here")
            db.execute("INSERT INTO voters VALUES (?, ?, ?)", [voter, _hash(secret), _now()])
        return voter, secret

    def ask(self, voter: str, choose: Choose, wanted: int) -> list[tuple[str, Asked]]:
        """The open questions of a voter, new ones drawn where there are fewer than wanted.

        Args:
            voter: Who is asked.
            choose: Draws one, from the pairs the voter has met, how often each pair was asked of anyone, the number of the
                question, and the voter; None where there is none left.
            wanted: How many are open at once.

        Returns:
            (id, question), the oldest first. Asked again, the same come back: a reload is no way around a pair.
        """
        with self._writing() as db:
            opened = self._open_questions(db, voter)
            while len(opened) < wanted:
                asked = self._met(db, voter)
                new = choose(*asked, voter)
                if new is None:
                    break
                id = secrets.token_hex(16)
                row = [id, voter, *new, _now(), asked[2]]
                db.execute("INSERT INTO questions VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
                opened.append((id, new))
        return opened

    def question(self, id: str, voter: str) -> Asked | None:
        """A voter's open question; None where it is not open, or not theirs."""
        with self._reading() as db:
            return dict(self._open_questions(db, voter)).get(id)

    def answer(self, id: str, voter: str, answer: str) -> Outcome:
        """Count a vote, once.

        Args:
            id: Of the question.
            voter: Who answers; it must be theirs.
            answer: One of `ANSWERS`.

        Returns:
            "counted"; "counted before", where the first answer stands; "unknown", where no such question was asked of them.
        """
        with self._writing() as db:
            asked = dict(self._open_questions(db, voter)).get(id)
            if asked is None:
                known = db.execute("SELECT 1 FROM votes WHERE id = ? AND voter = ?", [id, voter]).fetchone()
                return "counted before" if known else "unknown"
            db.execute("DELETE FROM questions WHERE id = ?", [id])
            _insert(db, Vote(id, voter, *asked, answer, "person", _now()))
        return "counted"

    def take_back(self, unfit: Callable[[Asked], bool]) -> None:
        """Drop the open questions that cannot be shown."""
        with self._writing() as db:
            rows = db.execute("SELECT id, image, first, second, expected FROM questions").fetchall()
            gone = [[id] for id, *rest in rows if unfit(Asked(*rest))]
            db.executemany("DELETE FROM questions WHERE id = ?", gone)

    def forget_unanswered(self) -> None:
        """Drop questions that were left open for a day, and voters who never voted."""
        before = _text(datetime.now(UTC) - KEPT_OPEN)
        with self._writing() as db:
            db.execute("DELETE FROM questions WHERE asked < ?", [before])
            db.execute(
                "DELETE FROM voters WHERE began < ? AND id NOT IN (SELECT voter FROM votes)"
                " AND id NOT IN (SELECT voter FROM questions)",
                [before],
            )

    def number(self, voter: str) -> int:
        """How many questions a voter has answered."""
        with self._reading() as db:
            return db.execute("SELECT count(*) FROM votes WHERE voter = ?", [voter]).fetchone()[0]

    def votes(self) -> list[Vote]:
        """All votes, the oldest first."""
        with self._reading() as db:
            return [Vote(*row) for row in db.execute("SELECT * FROM votes ORDER BY voted, id")]

    def add(self, votes: Iterable[Vote]) -> int:
        """Take in votes that were counted elsewhere, all or none.

        Args:
            votes: Checked. One that is here already is left alone.

        Returns:
            How many were new.

        Raises:
            CupscaleError: A vote of the same id is here, and says something else.
        """
        new = 0
        with self._writing() as db:
            for vote in votes:
                row = db.execute("SELECT * FROM votes WHERE id = ?", [vote.id]).fetchone()
                if row is None:
                    db.execute("INSERT OR IGNORE INTO voters VALUES (?, NULL, ?)", [vote.voter, vote.voted])
                    _insert(db, vote)
                    new += 1
                elif Vote(*row) != vote:
                    raise CupscaleError(f"the vote {vote.id} is here already and says something else")
        return new

    def _open_questions(self, db: sqlite3.Connection, voter: str) -> list[tuple[str, Asked]]:
        fields = "id, image, first, second, expected"
        rows = db.execute(f"SELECT {fields} FROM questions WHERE voter = ? ORDER BY asked, place", [voter])
        return [(id, Asked(*rest)) for id, *rest in rows]

    def _met(self, db: sqlite3.Connection, voter: str) -> tuple[set[Unit], Counter[Unit], int]:
        fields = "voter, image, first, second, expected"
        opened = db.execute(f"SELECT {fields}, asked FROM questions").fetchall()
        votes = db.execute(f"SELECT {fields} FROM votes WHERE origin = 'person'").fetchall()
        own = [Asked(*row[1:5]) for row in (*opened, *votes) if row[0] == voter]
        since = _text(datetime.now(UTC) - LOOKED_AT)
        anyone = [Asked(*row[1:5]) for row in (*votes, *(row for row in opened if row[5] > since))]
        return set(counted(own)), counted(anyone), len(own)

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        try:
            db = sqlite3.connect(self.file, timeout=_BUSY_SECONDS, isolation_level=None)
            try:
                db.execute("PRAGMA journal_mode = WAL")
                db.execute("PRAGMA synchronous = FULL")
                db.execute("PRAGMA foreign_keys = ON")
                yield db
            finally:
                db.close()
        except sqlite3.OperationalError as error:
            raise CupscaleError(f"'{self.file}' cannot be used: {error}; nothing was counted") from None
        except sqlite3.DatabaseError as error:
            raise CupscaleError(f"'{self.file}' is no file of votes ({error}): move it away") from None

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction, which no other writer comes between."""
        with self._reading() as db:
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
            except BaseException:
                db.execute("ROLLBACK")
                raise
            db.execute("COMMIT")


def _insert(db: sqlite3.Connection, vote: Vote) -> None:
    db.execute("INSERT INTO votes VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", vote)


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _now() -> str:
    return _text(datetime.now(UTC))


def _text(time: datetime) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")
