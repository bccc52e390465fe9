"""Many calls of one visitor, none of them a run: they have a bound, and do not keep others waiting."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import threading
from types import SimpleNamespace

import gradio as gr
import pytest
from page_server import photo, serve
from test_clients import upload

from cupscale import page
from cupscale.page import calls, queue as queue_module, source
from cupscale.page.api import Endpoints
from cupscale.page.calls import Calls, Lines, TooMany, Turns
from cupscale.page.limits import OPEN, SPACE, Limits
from cupscale.page.session import RUN

ONE, OTHER = "127.0.0.2", "127.0.0.1"


def event(visitor, name="", size=0, concurrency="plan"):
    """As gradio's, of a visitor's request."""
    scope = {}
    with Calls(Limits()).taken(visitor, scope) as call:
        call.bytes = size
    return SimpleNamespace(request=SimpleNamespace(scope=scope), name=name, concurrency_id=concurrency)


def queue(waiting=(), running=()):
    """As gradio's."""
    return SimpleNamespace(
        event_queue_per_concurrency_id={"any": SimpleNamespace(queue=list(waiting))},
        active_jobs=[None, *([one] for one in running)],
    )


def test_visitors_take_turns():
    """Each one's first, then each one's second, in the order in which they came; a line that moved on begins anew."""
    lines = Lines()
    lines["plan"] = SimpleNamespace(queue=[])
    line = lines["plan"].queue
    assert isinstance(line, Turns)
    for name in ("a1", "a2", "a3", "b1", "c1", "b2", "a4"):
        line.append(event(name[0], name))
    assert [one.name for one in line] == ["a1", "b1", "c1", "a2", "b2", "a3", "a4"]
    line.remove(line[0])
    line.append(event("d", "d1"))
    assert [one.name for one in line] == ["b1", "c1", "a2", "d1", "b2", "a3", "a4"]


def test_a_visitor_has_a_share_of_what_waits_and_runs():
    waiting = [
        event("a"),
        event("b"),
        event("a", concurrency=RUN["concurrency_id"]),
    ]  # a run is the desk's to count
    shared = Calls(Limits(calls=3), queue(waiting, running=[event("a")]))
    with shared.taken("a", {}):
        with pytest.raises(TooMany, match="3 calls of yours") as error, shared.taken("a", {}):
            pass
        assert error.value.status == 429
        with shared.taken("b", {}), shared.taken("b", {}):
            pass
    with shared.taken("a", {}):  # the one before was answered
        pass
    with contextlib.ExitStack() as free:
        for _ in range(100):  # a machine of one's own
            free.enter_context(Calls(Limits(), queue(waiting * 100)).taken("a", {}))


def test_all_visitors_together_have_a_bound(monkeypatch):
    monkeypatch.setattr(calls, "_ALL", 2)
    shared = Calls(Limits(calls=2), queue([event("a"), event("b")]))
    with pytest.raises(TooMany) as error, shared.taken("c", {}):
        pass
    assert error.value.status == 503


def test_what_calls_bring_is_bounded_together():
    """By hand: bodies of at most 1000 * 4 // 3 + 4 MB, and twice as much of one visitor, eight times that of all."""
    limits = Limits(calls=100, upload_bytes=1000)
    most = 2 * (1333 + 4 * 2**20)
    assert limits.calls_bytes == most
    shared = Calls(limits, queue([event("a", size=most - 10)]))
    with shared.taken("a", {}) as call, shared.taken("b", {}) as other:
        shared.grew(call, 4)
        shared.grew(call, 6)
        shared.grew(other, most)
        with pytest.raises(TooMany) as error:
            shared.grew(call, 1)
        assert error.value.status == 429 and f"more than {most} bytes" in str(error.value)
    full = Calls(limits, queue([event(str(k), size=most) for k in range(8)]))
    with full.taken("new", {}) as call, pytest.raises(TooMany) as error:
        full.grew(call, 1)
    assert error.value.status == 503


def test_a_page_that_others_reach_has_shares():
    assert 0 < SPACE.calls <= OPEN.calls and Limits().calls == 0


@pytest.fixture
def visit():
    """Lets the present thread work for a visitor."""

    def begin(visitor):
        gr.context.LocalContext.request.set(event(visitor))

    yield begin
    gr.context.LocalContext.request.set(None)


def test_one_picture_of_a_visitor_is_decoded_at_a_time(visit):
    """A second waits for the first; another visitor's does not; and what is within another belongs to it."""
    limits, order, inside = Limits(calls=1), [], threading.Event()

    def work(visitor, name):
        visit(visitor)
        inside.set()
        with calls.alone(limits):
            order.append(name)

    visit("a")
    with calls.alone(limits), calls.alone(limits):
        second = threading.Thread(target=work, args=("a", "second of a"))
        second.start()
        inside.wait(60)
        other = threading.Thread(target=work, args=("b", "first of b"))
        other.start()
        other.join(60)
        order.append("first of a")
    second.join(60)
    assert order == ["first of b", "first of a", "second of a"]
    with pytest.raises(ZeroDivisionError), calls.alone(limits):
        raise ZeroDivisionError
    with calls.alone(limits):  # it was given back
        pass


def test_no_more_are_decoded_than_the_page_can_hold(visit, monkeypatch):
    monkeypatch.setattr(calls, "_AT_WORK", 1)
    limits, order = Limits(calls=1), []

    def work():
        visit("b")
        with calls.alone(limits):
            order.append("b")

    visit("a")
    with calls.alone(limits):
        other = threading.Thread(target=work)
        other.start()
        order.append("a")
    other.join(60)
    assert order == ["a", "b"]
    with calls.alone(Limits()):  # a machine of one's own
        work()


def test_pictures_plans_and_settings_are_read_alone(tmp_path, monkeypatch):
    """Each of them, of a request."""
    asked = []
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    monkeypatch.setattr(calls, "alone", lambda limits: asked.append(limits) or contextlib.nullcontext())
    limits, path = Limits(calls=3), str(photo(tmp_path / "a.png"))
    source.read(path, limits)
    assert asked == [limits]
    Endpoints(limits).read_settings(path)
    assert asked == [limits] * 2
    Endpoints(limits).plan(path)
    assert asked == [limits] * 4  # the plan's, and its picture's within it


def test_the_page_s_own_queue_takes_turns_and_begins_at_once():
    """Whose turn it is, is not decided by who came first with eight calls that are slow."""
    demo = page.build(OPEN)
    assert isinstance(demo._queue.event_queue_per_concurrency_id, Lines)
    limits = {fn.concurrency_limit for fn in demo.fns.values() if fn.api_name in ("plan", "read_settings")}
    assert limits == {"default"} and demo._queue.default_concurrency_limit is None


def test_a_body_is_counted_as_it_comes():
    pieces = [
        {"type": "http.request", "body": body, "more_body": body != b"]"} for body in (b"]", b"1, 2", b"[")
    ]
    grew = []

    async def receive():
        return pieces.pop()

    body, _ = asyncio.run(queue_module._taken({"headers": []}, receive, 100, grew.append))
    assert body == b"[1, 2]" and grew == [1, 4, 1]


def line_of(url, visitor):
    return http.client.HTTPConnection(
        url.removeprefix("http://").rstrip("/"), timeout=120, source_address=(visitor, 0)
    )


def ask(url, visitor, path, body=None):
    """The status, the headers and the answer, of a request from an address of this machine."""
    line = line_of(url, visitor)
    line.request(
        "GET" if body is None else "POST", f"/gradio_api/{path}", body, {"Content-Type": "application/json"}
    )
    answer = line.getresponse()
    found = answer.status, answer.headers, answer.read().decode()
    line.close()
    return found


def test_a_visitor_with_too_many_calls_is_told_when_to_come_again(tmp_path):
    """Two requests whose bodies do not come; the third is refused, and another visitor is served."""
    with serve(tmp_path, CUPSCALE_CALLS="2") as url:
        file = upload(url, photo(tmp_path / "small.png"))
        body = json.dumps({"image": file})
        with contextlib.ExitStack() as held:
            for path in ("call/plan", "run/predict"):
                line = held.enter_context(contextlib.closing(line_of(url, ONE)))
                line.putrequest("POST", f"/gradio_api/{path}")
                line.putheader("Content-Length", "10")
                line.endheaders()
            statuses = set()
            while 429 not in statuses:  # until both have come
                status, headers, said = ask(url, ONE, "call/v2/plan", body)
                statuses.add(status)
            assert headers["Retry-After"] == "5" and "2 calls of yours" in json.loads(said)["detail"]
            status, _, said = ask(url, OTHER, "call/v2/plan", body)
            assert status == 200
            event = json.loads(said)["event_id"]
            assert "event: complete" in ask(url, OTHER, f"call/plan/{event}")[2]
        while ask(url, ONE, "call/v2/plan", body)[0] == 429:  # until both have gone
            pass


@pytest.mark.slow
def test_five_hundred_plans_of_one_visitor_do_not_keep_another_waiting(tmp_path):
    """The other's plan is there before the first one's: not all places of that one are free again."""
    with serve(tmp_path, CUPSCALE_CALLS="32") as url:
        body = json.dumps({"image": upload(url, photo(tmp_path / "large.png", (4000, 3000)))})
        other = json.dumps({"image": upload(url, photo(tmp_path / "small.png"))})
        statuses = [ask(url, ONE, "call/v2/plan", body)[0] for _ in range(500)]
        assert set(statuses) == {200, 429}
        event = json.loads(ask(url, OTHER, "call/v2/plan", other)[2])["event_id"]
        assert "event: complete" in ask(url, OTHER, f"call/plan/{event}")[2]
        free = 0
        while ask(url, ONE, "call/v2/plan", body)[0] == 200:
            free += 1
        assert free < 32
