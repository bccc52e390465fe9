"""Runs that go on by themselves: what a follower is given, and what the desk is told."""

from __future__ import annotations

import threading

import pytest

from cupscale.page.desk import Desk
from cupscale.page.jobs import Display, Job
from cupscale.page.limits import Limits


@pytest.fixture
def desk():
    return Desk(Limits(share=1))


def job(desk, steps, event="e1"):
    """A run of visitor "a"; what it shows in its components is told by their names."""
    desk.name(desk.enter("a", "upscale", None), event)
    display = Display(
        token="token",
        waiting=lambda line: {"status": line},
        opening=lambda: {"status": "starting"},
        stopped=lambda began: {"status": f"stopped, begun: {began}"},
        failed=lambda line: {"status": line},
    )
    return Job(desk, event, display, steps)


def iter_of(*updates):
    yield from updates


def shown(run):
    """The newest of each component, from the beginning to the end."""
    seen = {}
    for updates in run.follow():
        seen |= updates
    return seen


def test_whoever_follows_late_is_given_all_that_was_shown(desk):
    run = job(desk, iter_of({"status": "one"}, {"viewer": "half"}, {"status": "two"}))
    run.start()
    for _ in range(2):  # and again after the end, as after a reload
        assert shown(run) == {"status": "two", "viewer": "half", "token": f"{run.token} over"}
    assert run.over and desk.refusal("a") is None


def test_a_run_that_is_stopped_is_at_its_end_at_once_and_nothing_of_it_comes_after(desk):
    begun, go_on = threading.Event(), threading.Event()

    def steps():
        yield {"status": "denoising"}
        begun.set()
        assert go_on.wait(60)  # one call of the network
        yield {"status": "denoising still"}

    run = job(desk, steps())
    run.start()
    assert begun.wait(60) and desk.refusal("a") is not None
    run.stop()
    assert shown(run)["status"] == "stopped, begun: True"
    assert desk.refusal("a") is None  # the visitor may ask for the next
    desk.name(desk.enter("b", "upscale", None), "e2")
    assert desk.place("e2").ahead == 1 and desk.place("e2").seconds == 0  # it ends within that call
    go_on.set()
    assert desk.begin("e2", wait=60)
    assert run.shown("status") == "stopped, begun: True"


def test_one_that_waits_is_stopped_before_it_begins(desk):
    desk.name(desk.enter("b", "upscale", None), "first")
    assert desk.begin("first")
    run = job(desk, iter_of({"status": "never"}))
    run.start()
    run.stop()
    assert shown(run)["status"] == "stopped, begun: False"
    assert desk.refusal("a") is None


def test_a_run_that_breaks_says_so_and_frees_its_place(desk):
    def steps():
        yield {"status": "one"}
        raise ZeroDivisionError("secret words")

    run = job(desk, steps())
    run.start()
    seen = shown(run)["status"]
    assert seen.startswith("the run broke (ZeroDivisionError)") and "secret" not in seen
    assert desk.refusal("a") is None
