"""Answers that nobody hears: what a page keeps of them is bounded, and whoever listens loses nothing by it."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import gradio as gr
import pytest
from gradio.server_messages import ProcessCompletedMessage

from cupscale.page import answers
from cupscale.page.blocks import Guarded

SIZE = 10_000


@pytest.fixture
def queue(monkeypatch):
    """gradio's own, of a page; 100 KB and five sessions are the most."""
    monkeypatch.setattr(answers, "MAX_BYTES", 10 * SIZE)
    monkeypatch.setattr(answers, "MAX_SESSIONS", 5)
    with Guarded() as demo:
        gr.Textbox()
    return demo.queue(api_open=False)._queue


def join(queue, session):
    """As gradio's `push`."""
    if session not in queue.pending_messages_per_session:
        queue.pending_messages_per_session[session] = asyncio.Queue()
    queue.pending_event_ids_session.setdefault(session, set()).add("event")


def say(queue, session, size):
    """As a run of the session does."""
    message = ProcessCompletedMessage(output={"data": ["a" * size]}, success=True)
    queue.send_message(SimpleNamespace(_id="event", session_hash=session, alive=True), message)


def held(queue):
    return list(queue.pending_messages_per_session)


async def heard(queue, session):
    """As gradio's stream, which takes the next answer."""
    return (await queue.pending_messages_per_session[session].get()).output["data"][0]


def test_what_nobody_hears_is_dropped_the_oldest_first(queue):
    for k in range(200):
        join(queue, f"s{k}")
        say(queue, f"s{k}", 2 * SIZE)
        assert len(held(queue)) <= 4
    assert held(queue) == ["s196", "s197", "s198", "s199"] == list(queue.pending_event_ids_session)
    say(queue, "s3", SIZE)  # its run goes on, for nobody
    assert "s3" not in held(queue)
    for k in range(200):  # of nothing, as they begin
        join(queue, f"t{k}")
    assert held(queue) == [f"t{k}" for k in range(195, 200)] == list(queue.pending_event_ids_session)


def test_one_session_alone_holds_no_more(queue):
    join(queue, "s")
    for _ in range(9):
        say(queue, "s", SIZE)
    assert held(queue) == ["s"]
    say(queue, "s", SIZE)
    assert held(queue) == []


def test_many_small_things_are_as_large_as_they_are(queue):
    join(queue, "s")
    message = ProcessCompletedMessage(
        output={"data": [{"a": [k, str(k)]} for k in range(1000)]}, success=True
    )
    queue.send_message(SimpleNamespace(_id="event", session_hash="s", alive=True), message)
    assert held(queue) == []


def test_who_listens_keeps_what_is_his(queue, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(answers.time, "monotonic", lambda: now[0])

    async def visit():
        join(queue, "mine")
        waiting = asyncio.ensure_future(heard(queue, "mine"))
        await asyncio.sleep(0)  # it has asked
        for k in range(50):
            join(queue, f"s{k}")
            say(queue, f"s{k}", 5 * SIZE)
        assert "mine" in held(queue)
        say(queue, "mine", 7)
        assert await waiting == "a" * 7
        for _ in range(3):  # what was heard counts no more
            for _ in range(8):
                say(queue, "mine", SIZE)
            for _ in range(8):
                assert len(await heard(queue, "mine")) == SIZE
        now[0] += 61
        join(queue, "other")
        for _ in range(12):
            say(queue, "other", SIZE)
        assert "mine" not in held(queue)

    asyncio.run(visit())


def test_a_listener_who_takes_nothing_is_no_excuse(queue):
    """His connection is open, and its end full."""

    async def visit():
        join(queue, "slow")
        say(queue, "slow", 7)
        await heard(queue, "slow")
        for _ in range(30):
            say(queue, "slow", SIZE)
        assert held(queue) == []
        join(queue, "slow")
        say(queue, "slow", 9)
        assert await heard(queue, "slow") == "a" * 9

    asyncio.run(visit())
