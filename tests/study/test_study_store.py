"""Votes in their file: counted once, whoever answers at once, whatever ends the process."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
from simulated import make_folder, vote

from cupscale.errors import CupscaleError
from cupscale.study.pairs import choose, open_study
from cupscale.study.store import FILE, Store

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def folder(tmp_path):
    return make_folder(tmp_path / "out")


@pytest.fixture
def draw(folder):
    return partial(choose, open_study(folder))


def test_a_voter_is_known_by_a_secret_that_the_file_does_not_hold(folder):
    store = Store(folder)
    voter, secret = store.new_voter()
    assert Store(folder).known(secret) == voter
    assert store.known(secret + "x") is None and store.known("") is None
    assert store.new_voter()[0] != voter
    for file in folder.glob(f"{FILE}*"):
        assert secret.encode() not in file.read_bytes()


def test_a_vote_counts_once_and_the_first_answer_stands(folder, draw):
    store = Store(folder)
    voter, _ = store.new_voter()
    ((id, asked), (next_id, _)) = store.ask(voter, draw, 2)
    assert store.question(id, voter) == asked
    assert store.answer(id, voter, "second") == "counted"
    assert store.answer(id, voter, "first") == "counted before"
    (kept,) = store.votes()
    assert kept.asked == asked and (kept.answer, kept.voter, kept.origin) == ("second", voter, "person")
    assert store.question(id, voter) is None and store.number(voter) == 1
    assert store.ask(voter, draw, 2)[0][0] == next_id


def test_a_question_of_another_voter_or_of_nobody_is_unknown(folder, draw):
    store = Store(folder)
    ann, bob = store.new_voter()[0], store.new_voter()[0]
    ((id, _),) = store.ask(ann, draw, 1)
    assert store.question(id, bob) is None
    for wrong in (id, "", "nothing", id[:-1], "' OR 1=1 --"):
        assert store.answer(wrong, bob, "first") == "unknown"
    assert store.answer(id, ann, "first") == "counted"
    assert store.answer(id, bob, "first") == "unknown"
    assert len(store.votes()) == 1


def test_asked_again_the_same_questions_come_back(folder, draw):
    store = Store(folder)
    voter, _ = store.new_voter()
    assert store.ask(voter, draw, 2) == Store(folder).ask(voter, draw, 2)


def test_many_voters_at_once_spread_over_the_pairs(folder, draw):
    """Six voters in threads of their own: each pair is asked as often as any other, or once more."""
    problems = []

    def take_part():
        try:
            store = Store(folder)
            voter, _ = store.new_voter()
            for _ in range(6):
                ((id, _),) = store.ask(voter, draw, 1)
                assert store.answer(id, voter, "equal") == "counted"
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=take_part) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    votes = Store(folder).votes()
    times = Counter(one.asked.unit for one in votes if not one.expected)
    assert len(votes) == 36 and len(times) == 9 and max(times.values()) - min(times.values()) <= 1


def test_one_answer_sent_by_many_at_once_counts_once(folder, draw):
    store = Store(folder)
    voter, _ = store.new_voter()
    ((id, _),) = store.ask(voter, draw, 1)
    said, together = [], threading.Barrier(12)

    def answer():
        own = Store(folder)
        together.wait()
        said.append(own.answer(id, voter, "first"))

    threads = [threading.Thread(target=answer) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Counter(said) == {"counted": 1, "counted before": 11}
    assert len(store.votes()) == 1


VOTE_ON = """
import sys
from functools import partial
from pathlib import Path
from cupscale.study.pairs import choose, open_study
from cupscale.study.store import Store
folder = Path(sys.argv[1])
store, draw = Store(folder), partial(choose, open_study(folder))
while True:
    voter, _ = store.new_voter()
    for id, _ in store.ask(voter, draw, 3):
        store.answer(id, voter, "first")
        print(id, flush=True)
"""


def test_a_killed_process_loses_no_vote_that_it_confirmed(folder):
    command = [sys.executable, "-c", VOTE_ON, str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        confirmed = [process.stdout.readline().strip() for _ in range(20)]
        process.send_signal(signal.SIGKILL)
        confirmed += process.stdout.read().split()
    store = Store(folder)
    assert set(filter(lambda id: len(id) == 32, confirmed)) <= {one.id for one in store.votes()}
    with sqlite3.connect(folder / FILE) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    db.close()


def test_what_was_never_answered_is_forgotten(folder, draw):
    store = Store(folder)
    ann, bob = store.new_voter()[0], store.new_voter()[0]
    ((old, _), (kept, _)) = store.ask(ann, draw, 2)
    store.ask(bob, draw, 1)
    with sqlite3.connect(folder / FILE) as db:
        db.execute("UPDATE questions SET asked = '2026-01-01T00:00:00Z' WHERE id != ?", [kept])
        db.execute("UPDATE voters SET began = '2026-01-01T00:00:00Z'")
    db.close()
    store.forget_unanswered()
    assert store.question(old, ann) is None and store.question(kept, ann) is not None
    assert store.answer(kept, ann, "first") == "counted"
    with sqlite3.connect(folder / FILE) as db:
        assert db.execute("SELECT id FROM voters").fetchall() == [(ann,)]
    db.close()


def test_pairs_left_open_long_ago_are_asked_of_others(folder, draw):
    """They count as asked for an hour, so that two voters at once get different pairs; then not."""
    store = Store(folder)
    ann, bob = store.new_voter()[0], store.new_voter()[0]
    asked = {one.unit for _, one in store.ask(ann, draw, 9) if not one.expected}
    counts = []

    def look(seen, votes, number, voter):
        counts.append(set(votes))
        return None

    store.ask(bob, look, 1)
    with sqlite3.connect(folder / FILE) as db:
        db.execute("UPDATE questions SET asked = '2026-01-01T00:00:00Z'")
    db.close()
    store.ask(bob, look, 1)
    assert counts == [asked, set()]


def test_votes_from_elsewhere_are_taken_once_and_whole(folder):
    store = Store(folder)
    votes = [
        vote("ann", "boat", "lanczos", "+ gsp", "first"),
        vote("bob", "fox", "+ gsp", "lanczos", "equal"),
    ]
    assert (store.add(votes), store.add(votes)) == (2, 0)
    assert sorted(store.votes()) == sorted(votes)
    other = [vote("cyd", "fox", "+ gsp", "lanczos", "first"), votes[0]._replace(answer="second")]
    with pytest.raises(CupscaleError, match="says something else"):
        store.add(other)
    assert len(store.votes()) == 2


def test_simulated_votes_do_not_steer_what_people_are_asked(folder):
    store = Store(folder)
    simulated = vote("ann", "boat", "lanczos", "+ gsp", "first")
    store.add([simulated, simulated._replace(id="p", origin="person")])
    counts = []
    store.ask(store.new_voter()[0], lambda seen, votes, number, voter: counts.append(dict(votes)), 1)
    assert counts == [{simulated.asked.unit: 1}]


@pytest.mark.parametrize("content", [b"not a database" * 99, None])
def test_a_file_that_holds_no_votes_is_one_line(folder, content):
    if content is None:
        with sqlite3.connect(folder / FILE) as db:
            db.execute("CREATE TABLE something (else_ TEXT)")
        db.close()
    else:
        (folder / FILE).write_bytes(content)
    before = (folder / FILE).read_bytes()
    with pytest.raises(CupscaleError, match="move it away"):
        Store(folder)
    assert content is None or (folder / FILE).read_bytes() == before


def test_a_folder_where_nothing_can_be_written_is_one_line(folder):
    (folder / FILE).mkdir()
    with pytest.raises(CupscaleError, match="cannot be used"):
        Store(folder)


def test_a_study_takes_so_many_voters(folder, monkeypatch):
    monkeypatch.setattr("cupscale.study.store.MAX_VOTERS", 2)
    store = Store(folder)
    store.new_voter(), store.new_voter()
    with pytest.raises(CupscaleError, match="the limit"):
        store.new_voter()
