"""Clients that ask for too much, fill the queue, or go away: over HTTP, and the desk's rules on a clock of the test's own."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import re
import socket
import urllib.error
import urllib.request
from contextlib import contextmanager

import numpy as np
import pytest
from page_server import ENDLESS, FAST_SETTINGS, photo, serve
from PIL import Image
from starlette.responses import JSONResponse

from cupscale import models
from cupscale.errors import CupscaleError
from cupscale.images import Picture
from cupscale.page import bounds, desk as desk_module, engine, limits as limits_module, queue, run
from cupscale.page.desk import Desk, Dropped, Refusal
from cupscale.page.limits import Limits
from cupscale.page.visitor import visitor
from cupscale.settings import Settings

FAST = json.dumps(FAST_SETTINGS)


def request(url, body=None, **headers):
    data = None if body is None else json.dumps(body).encode()
    made = urllib.request.Request(url, data, {"Content-Type": "application/json", **headers})
    return urllib.request.urlopen(made, timeout=120)


def upload(url, path):
    mark = "part"
    head = (
        f'--{mark}\r\nContent-Disposition: form-data; name="files"; filename="{path.name}"\r\n\r\n'.encode()
    )
    kind = {"Content-Type": f"multipart/form-data; boundary={mark}"}
    body = head + path.read_bytes() + f"\r\n--{mark}--\r\n".encode()
    with urllib.request.urlopen(urllib.request.Request(f"{url}gradio_api/upload", body, kind)) as answer:
        return {"path": json.load(answer)[0], "meta": {"_type": "gradio.FileData"}}


def join(url, file, settings, scale=2, **headers):
    """Ask for a run and do not listen: its event id."""
    sizes = [None, None, None, "", ""]
    data = [file, "", "", scale, 0, "", "none", json.dumps(settings), "png", None, *sizes]
    with request(f"{url}gradio_api/call/upscale", {"data": data}, **headers) as answer:
        return json.load(answer)["event_id"]


@contextmanager
def stream(url, event):
    with request(f"{url}gradio_api/call/upscale/{event}") as answer:
        yield answer


def until(lines, mark):
    """The data of the first event of this kind; what comes before it is read."""
    for line in lines:
        if line.startswith(f"event: {mark}".encode()):
            return next(lines).decode()
    raise AssertionError(f"the stream ended with no '{mark}'")


def last(url, event):
    with stream(url, event) as lines:
        return lines.read().decode()


def answered(url, file, settings):
    """As `last`, of a run whose listener was there in time: on a busy machine that takes some tries."""
    for _ in range(10):
        told = last(url, join(url, file, settings))
        if "nobody listened" not in told:
            return told
    raise AssertionError(told)


def refused(call):
    with pytest.raises(urllib.error.HTTPError) as caught:
        call()
    return caught.value.code, json.loads(caught.value.read())["detail"], caught.value.headers


@pytest.fixture
def file_of(tmp_path):
    return lambda url: upload(url, photo(tmp_path / "small.png"))


def test_a_run_over_the_bound_is_refused_with_the_largest_that_fits(tmp_path, file_of):
    with serve(tmp_path, CUPSCALE_MAX_SAMPLES="40") as url:
        file = file_of(url)
        answer = last(url, join(url, file, {**FAST_SETTINGS, "strength": 1.0}, scale=16))
        assert "event: error" in answer and "this page allows 40 a run" in answer
        fits = float(re.search(r"a scale of at most ([\d.]+)", answer)[1])
        assert 1 <= fits < 16
        plan = [
            file,
            fits,
            "",
            "none",
            json.dumps({**FAST_SETTINGS, "strength": 1.0}),
            None,
            None,
            None,
            "",
            "",
        ]
        for scale, good in ((fits, True), (fits + 0.1, False)):
            plan[1] = scale
            with request(f"{url}gradio_api/call/plan", {"data": plan}) as joined:
                event = json.load(joined)["event_id"]
            with request(f"{url}gradio_api/call/plan/{event}") as lines:
                text = lines.read().decode()
            assert ("event: complete" in text and "at most 40 samples" in text) is good, text
        assert "event: complete" in last(url, join(url, file, FAST_SETTINGS))


def test_one_visitor_holds_a_share_and_others_come_in(tmp_path, file_of):
    with serve(
        tmp_path, SPACE_ID="someone/cupscale", CUPSCALE_MAX_SECONDS="0", CUPSCALE_MAX_SAMPLES="0"
    ) as url:
        file = file_of(url)
        one = {"X-Forwarded-For": "8.8.8.8"}
        first = join(url, file, ENDLESS, **one)
        with stream(url, first) as lines:
            until(lines, "generating")
            join(url, file, FAST_SETTINGS, **one)
            code, line, headers = refused(lambda: join(url, file, FAST_SETTINGS, **one))
            assert code == 429 and "2 runs of yours" in line and int(headers["Retry-After"]) >= 1
            spoofed = {
                "X-Forwarded-For": "9.9.9.9, 8.8.8.8"
            }  # what stands before the proxy's word is the visitor's own
            assert refused(lambda: join(url, file, FAST_SETTINGS, **spoofed))[0] == 429
            join(url, file, FAST_SETTINGS, **{"X-Forwarded-For": "1.1.1.1"})


def test_a_full_queue_is_told_with_a_status_and_a_line(tmp_path, file_of):
    with serve(tmp_path, CUPSCALE_QUEUE="1") as url:
        file = file_of(url)
        with stream(url, join(url, file, ENDLESS)) as lines:
            until(lines, "generating")
            join(url, file, FAST_SETTINGS)
            code, line, _ = refused(lambda: join(url, file, FAST_SETTINGS))
            assert code == 503 and line.startswith("The queue is full: 1 run is waiting")


def test_a_run_that_nobody_listens_to_ends_and_the_next_one_runs(tmp_path, file_of):
    with serve(tmp_path, CUPSCALE_UNHEARD_SECONDS="2") as url:
        file = file_of(url)
        endless = join(url, file, ENDLESS)  # and no word more
        for _ in range(2):  # the first may be ready before it; the second hours later, were it not ended
            assert "event: complete" in answered(url, file, FAST_SETTINGS)
        told = last(url, endless)
        assert "event: complete" not in told and told.count("event: error") == 1
        assert "nobody listened to it for 2 s; read the event stream of its event_id while it runs" in told


def test_a_program_that_waits_is_told_its_place_and_how_long(tmp_path, file_of):
    """And of a run before it whose plan is known: seconds. What is wrong with it is said before it waits."""
    with serve(tmp_path) as url:
        file = file_of(url)
        first = join(url, file, ENDLESS)
        with stream(url, first) as lines:
            until(lines, "generating")
            with stream(url, join(url, file, ENDLESS)) as others:
                data = json.loads(until(others, "generating").partition(":")[2])
                assert data[1]["ahead"] == 1 and data[1]["wait_seconds"] > 0
                assert data[1]["status"].startswith("waiting in the queue, 1 run before this one, about ")
            assert "Steps: input should be" in last(url, join(url, file, {"steps": 0}))


def test_a_run_whose_listener_goes_ends(tmp_path, file_of):
    with serve(tmp_path, CUPSCALE_UNHEARD_SECONDS="2") as url:
        file = file_of(url)
        host, port = re.match(r"http://([\d.]+):(\d+)/", url).groups()
        seen = b""
        while b"generating" not in seen:  # a listener that came too late comes once more
            event, seen = join(url, file, ENDLESS), b""
            with socket.create_connection((host, int(port))) as raw:
                raw.sendall(f"GET /gradio_api/call/upscale/{event} HTTP/1.0\r\nHost: {host}\r\n\r\n".encode())
                while b"generating" not in seen and (more := raw.recv(4096)):
                    seen += more
        assert "event: complete" in answered(url, file, FAST_SETTINGS)


def test_a_run_that_is_listened_to_is_not_ended(tmp_path, file_of):
    with serve(tmp_path, CUPSCALE_UNHEARD_SECONDS="3") as url:
        slow = {**FAST_SETTINGS, "steps": 80, "strength": 1.0}
        assert "event: complete" in answered(url, file_of(url), slow)


# The desk's rules.


@pytest.fixture
def clock(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(desk_module.time, "monotonic", lambda: now[0])
    return now


def enter(desk, who, event, session=None):
    place = desk.enter(who, "upscale", session)
    if not isinstance(place, Refusal):
        desk.name(place, event)
    return place


def test_the_announced_wait_is_the_work_that_is_left(clock):
    desk = Desk(Limits(queue=2, unheard_seconds=10**6))
    enter(desk, "a", "e0")
    desk.begin("e0")
    clock[0] += 40
    desk.end("e0", whole=True)  # a run takes 40 s
    for event in ("e1", "e2", "e3"):
        assert not isinstance(enter(desk, "a", event), Refusal)
        if event == "e1":
            desk.begin("e1")
            desk.expect("e1", 100.0)
    clock[0] += 30
    refusal = enter(desk, "b", "e4")
    assert refusal.status == 503 and refusal.after == pytest.approx(70 + 2 * 40)
    assert "2 runs are waiting, about 2 min 30 s of work" in refusal.line
    desk.end("e1")  # cancelled: its time tells nothing of others
    desk.cancel("e2")
    desk.cancel("e3")
    assert desk.refusal("b") is None


def test_a_run_that_nobody_waits_for_frees_its_place(clock):
    desk = Desk(Limits(queue=1, share=1, unheard_seconds=60))
    enter(desk, "a", "e1", "session")
    assert enter(desk, "a", "e2").status == 503
    desk.listen("session")
    clock[0] += 1000
    assert isinstance(enter(desk, "a", "e2"), Refusal)  # it is listened to
    desk.leave("session")
    clock[0] += 11
    assert desk.refusal("a") is None
    with pytest.raises(Dropped):  # its turn comes all the same
        desk.begin("e1")


def test_a_run_that_was_given_up_stays_so_for_whoever_listens_later(clock):
    """In one long step it cannot end yet; and it neither waits again, nor goes on."""
    desk = Desk(Limits(unheard_seconds=60))
    for event in ("e1", "e2", "e3"):
        enter(desk, "a", event)
    assert desk.begin("e1")
    clock[0] += 60
    desk.listen("e3")  # in time
    clock[0] += 1
    for event in ("e1", "e2"):
        desk.listen(event)
    assert desk.unheard("e1")
    desk.leave("e1")
    desk.listen("e1")
    clock[0] += 1
    assert desk.unheard("e1") and not desk.unheard("e3")
    with pytest.raises(Dropped):
        desk.begin("e2")
    desk.end("e1")
    assert desk.begin("e3")


@pytest.mark.parametrize("visited", [False, True])
def test_a_run_that_gradio_took_slowly_was_not_unheard_meanwhile(clock, visited):
    """Before it has its name nobody can listen; from then on it is as any other, with a listener that came and went too."""
    desk = Desk(Limits(unheard_seconds=60))
    place = desk.enter("a", "upscale", "session")
    if visited:
        desk.listen("session")
        desk.leave("session")
    clock[0] += 1000
    assert desk.refusal("a") is None
    desk.name(place, "e1")
    assert desk.begin("e1") and not desk.unheard("e1")
    clock[0] += 61
    assert desk.unheard("e1")


def test_a_turn_that_comes_before_the_name_is_the_same_run(clock):
    desk = Desk(Limits(share=1, unheard_seconds=60))
    place = desk.enter("a", "upscale", None)
    assert desk.begin("e1")
    desk.name(place, "e1")
    assert isinstance(desk.enter("a", "upscale", None), Refusal)  # it is the visitor's
    clock[0] += 61
    assert desk.unheard("e1")
    desk.end("e1")
    assert desk.refusal("a") is None


def test_one_runs_at_a_time_in_the_order_of_arrival(clock):
    desk = Desk(Limits(unheard_seconds=10**6))
    for event in ("e1", "e2", "e3"):
        enter(desk, "a", event)
    assert desk.begin("e2")  # nobody runs, and e1 is not there yet to begin
    assert not desk.begin("e3") and not desk.begin("e1")
    desk.end("e2")
    assert not desk.begin("e3")  # e1 came earlier, and is there
    assert desk.begin("e1")
    desk.cancel("e3")
    with pytest.raises(Dropped):
        desk.begin("e3")


def test_a_place_says_how_many_and_how_long(clock):
    desk = Desk(Limits(unheard_seconds=10**6))
    for event in ("e1", "e2", "e3"):
        enter(desk, "a", event)
    assert desk.begin("e1") and desk.place("e1") is None
    assert (desk.place("e3").ahead, desk.place("e3").seconds) == (2, None)  # nobody knows
    desk.expect("e1", 50.0)
    desk.expect("e2", 30.0)  # of a run that waits: from its beginning
    clock[0] += 20
    assert (desk.place("e2").ahead, desk.place("e2").seconds) == (1, 30.0)
    assert (desk.place("e3").ahead, desk.place("e3").seconds) == (2, 60.0)
    assert desk.place("e3").line == "waiting in the queue, 2 runs before this one, about 1 min to wait"
    desk.expect("e1", 10.0)  # as the run goes it knows better
    clock[0] += 4
    assert desk.place("e3").seconds == 36.0
    desk.stopping("e1")
    assert desk.place("e2").seconds == 0 and desk.place("e2").line.endswith("about 1 s to wait")
    desk.end("e1")
    assert desk.place("e2").line.startswith("next")


def test_a_run_that_came_later_and_runs_already_is_ahead(clock):
    desk = Desk(Limits(unheard_seconds=10**6))
    for event in ("e1", "e2"):
        enter(desk, "a", event)
    assert desk.begin("e2") and desk.place("e1").ahead == 1


def test_a_run_that_was_cut_short_tells_nothing_of_others(clock):
    desk = Desk(Limits(unheard_seconds=10**6))
    for event, seconds, whole in (("e1", 40, True), ("e2", 2, False)):
        enter(desk, "a", event)
        assert desk.begin(event)
        clock[0] += seconds
        desk.end(event, whole=whole)
    for event in ("e3", "e4"):
        enter(desk, "a", event)
    assert desk.begin("e3") and desk.place("e4").seconds == 40


def test_a_run_that_lasts_is_heard_by_whoever_follows_it(clock):
    """Not by the session that asked for it; and its event may end before it."""
    desk = Desk(Limits(share=1, unheard_seconds=60))
    desk.listen("session")
    enter(desk, "a", "e1", "session")
    desk.last("e1")
    assert desk.begin("e1")
    desk.answered("e1")
    assert isinstance(desk.enter("a", "upscale", None), Refusal)  # it goes on
    desk.listen("e1")
    clock[0] += 1000
    assert not desk.unheard("e1")
    desk.leave("e1")
    clock[0] += 59
    assert not desk.unheard("e1")
    clock[0] += 2
    assert desk.unheard("e1")
    desk.stopping("e1")  # and counts for nobody any more
    assert desk.refusal("a") is None


def test_a_run_that_ended_before_it_had_its_name_is_over(clock):
    desk = Desk(Limits(share=1))
    place = desk.enter("a", "upscale", "session")
    desk.last("e1")
    assert desk.begin("e1")
    desk.end("e1", whole=True)
    desk.name(place, "e1")
    assert desk.refusal("a") is None


def test_places_are_taken_before_gradio_answers(clock):
    desk = Desk(Limits(queue=20, share=2))
    places = [desk.enter("a", "upscale", None) for _ in range(5)]
    assert [isinstance(place, Refusal) for place in places] == [False, False, True, True, True]
    desk.name(places[0], None)  # gradio refused it
    assert not isinstance(desk.enter("a", "upscale", None), Refusal)


@pytest.mark.parametrize(
    ("forwarded", "behind", "expected"),
    [
        ("8.8.8.8", True, "8.8.8.8"),
        ("9.9.9.9, 8.8.8.8", True, "8.8.8.8"),
        ("8.8.8.8, 10.0.0.7", True, "8.8.8.8"),
        ("8.8.8.8", False, "10.1.1.1"),
        ("nonsense", True, "10.1.1.1"),
        ("", True, "10.1.1.1"),
        ("2600:1:2:3:4::5", True, "2600:1:2:3::/64"),
    ],
)
def test_the_visitor_is_who_the_proxy_says(forwarded, behind, expected):
    assert visitor("10.1.1.1", {"x-forwarded-for": forwarded}, behind) == expected


@pytest.mark.parametrize("space", [True, False])
def test_a_name_that_a_visitor_gives_himself_counts_behind_a_space_s_proxy_alone(space, monkeypatch):
    """Elsewhere nobody stands between, and X-Forwarded-For is the visitor's own text: it takes no second share."""
    monkeypatch.setenv("SPACE_ID", "me/it" if space else "")
    page = type("Page", (), {"desk": Desk(Limits(share=1)), "fns": {}})()
    run = {"api_name": "upscale", "api_visibility": "public", "concurrency_id": queue.RUN["concurrency_id"]}
    page.fns[0] = type("Fn", (), run)()

    async def accept(scope, receive, send):
        await JSONResponse({"event_id": scope["path"]})(scope, receive, send)

    def ask(address):
        body = [{"type": "http.request", "body": b'{"data": []}'}]
        headers = [(b"x-forwarded-for", address)]
        scope = {"type": "http", "method": "POST", "path": "/gradio_api/call/upscale", "headers": headers}
        sent = []

        async def receive():
            return body.pop()

        async def send(message):
            sent.append(message)

        asyncio.run(queue.Watch(accept, page)(scope | {"client": ("10.0.0.1", 1)}, receive, send))
        return sent[0]["status"], dict(sent[0]["headers"]).get(b"retry-after")

    assert ask(b"8.8.8.8") == (200, None)
    assert ask(b"8.8.8.8") == (429, b"30")
    assert ask(b"1.1.1.1") == ((200, None) if space else (429, b"30"))


# The bounds.


@pytest.fixture
def tiny():
    return Settings.build(models.defaults("tiny"), model="tiny", scale=4.0)


def test_seconds_are_bounded_by_the_plan_and_by_a_guess_before_it(tiny, monkeypatch):
    for speed in (None, {"sample": 1.0, "cells": 128 * 128, "megapixel": 1.0}):
        monkeypatch.setattr(engine.machine, "known_speed", lambda *_, speed=speed: speed)
        long = tiny.replace(steps=1000)
        with pytest.raises(
            CupscaleError, match=r"would take about .*: this page allows 1 min a run; choose"
        ) as error:
            bounds.check_run((256, 256), [long], Limits(max_seconds=60))
        words = str(error.value)
        changes = [{"scale": float(x)} for x in re.findall(r"scale of at most ([\d.]+)", words)]
        changes += [{"steps": int(n)} for n in re.findall(r"(?<!with) at most (\d+) steps", words)]
        changes += [{"scale": 1.0, "steps": int(n)} for n in re.findall(r"with at most (\d+) steps", words)]
        assert changes
        for change in changes:
            fits = long.replace(**change)
            bounds.check_run((256, 256), [fits], Limits(max_seconds=60))
        bounds.check_run((256, 256), [long], Limits())


def test_a_captioners_seconds_are_bounded_before_it_is_asked(tiny, monkeypatch):
    monkeypatch.setattr(
        engine.machine,
        "known_speed",
        lambda *_: {"sample": 1e-6, "cells": 128 * 128, "megapixel": 1e-6, "call": 10.0},
    )
    noise = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    picture = Picture(Image.fromarray(noise))
    settings = tiny.replace(detail=0.5, prompt="a")
    calls = engine.planned(picture, settings, "appearance").caption_calls
    assert calls > 2
    enough, little = Limits(max_seconds=10 * calls + 1), Limits(max_seconds=10 * calls - 1)
    for check in (
        lambda limits: bounds.allowed_plan(picture, settings, limits, "appearance"),
        lambda limits: bounds.check_captions(picture, settings, limits, "appearance"),
    ):
        check(enough)
        with pytest.raises(
            CupscaleError, match=f"{calls} calls of the captioner .* less overlap or no captioner"
        ):
            check(little)
    bounds.allowed_plan(picture, settings, little)  # nobody writes


def test_the_remedy_is_the_largest_that_fits(tiny, monkeypatch):
    # 1 s a sample of any window, nothing else: 10 s are 10 samples. One region, guided, and the attention prior's pass
    # make 3 samples a step, of which start = 0.1 runs a tenth: 3 steps of the last of 30 to 39.
    monkeypatch.setattr(
        engine.machine, "known_speed", lambda *_: {"sample": 1.0, "cells": 128 * 128, "megapixel": 0.0}
    )
    one = tiny.replace(scale=1.0, steps=1000)
    assert engine.planned((256, 256), one).seconds == 300.0
    with pytest.raises(CupscaleError) as error:
        bounds.check_run((256, 256), [one], Limits(max_seconds=10))
    steps = int(re.search(r"at most (\d+) steps", str(error.value))[1])
    assert engine.planned((256, 256), one.replace(steps=steps)).seconds == 9.0
    assert engine.planned((256, 256), one.replace(steps=steps + 1)).seconds == 12.0


def test_runs_that_are_asked_for_at_once_are_counted_together(tiny):
    one = engine.planned((256, 256), tiny).samples
    bounds.check_run((256, 256), [tiny], Limits(max_samples=one))
    with pytest.raises(CupscaleError, match=f"{2 * one} samples"):
        bounds.check_run((256, 256), [tiny, tiny], Limits(max_samples=one))


def test_a_run_that_outruns_its_plan_is_stopped(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(bounds.time, "monotonic", lambda: now[0])
    deadline, none = bounds.Deadline(Limits(max_seconds=100)), bounds.Deadline(Limits())
    for now[0] in (50.0, 50.0 + 100 * 1.5 + 29):
        deadline.check()
        none.check()
    now[0] = 50.0 + 100 * 1.5 + 31
    with pytest.raises(CupscaleError, match="was stopped after 3 min 1 s: this page allows 1 min 40 s"):
        deadline.check()
    none.check()


def test_the_deadline_is_asked_while_a_run_goes_on(tmp_path, monkeypatch, tiny):
    from cupscale import images

    asked = []

    def check(self):
        asked.append(self)
        if len(asked) == 5:
            raise CupscaleError("the run was stopped")

    monkeypatch.setattr(bounds.Deadline, "check", check)
    picture = images.read(photo(tmp_path / "small.png"))
    quick = tiny.replace(upscaler="lanczos", scale=2.0, steps=10, strength=1.0)
    with pytest.raises(CupscaleError, match="was stopped"):
        list(run.watch(picture, quick, Limits(), "small"))
    assert len(asked) == 5


@pytest.mark.parametrize(
    ("environment", "seconds", "share"),
    [
        ({}, 0, 0),
        ({"GRADIO_SERVER_NAME": "localhost"}, 0, 0),
        ({"GRADIO_SERVER_NAME": "::1"}, 0, 0),
        ({"GRADIO_SERVER_NAME": "0.0.0.0"}, 3600, 4),
        ({"GRADIO_SERVER_NAME": "::"}, 3600, 4),
        ({"GRADIO_SERVER_NAME": "studio.local"}, 3600, 4),
        ({"GRADIO_SHARE": "True"}, 3600, 4),
        ({"GRADIO_SERVER_NAME": "0.0.0.0", "CUPSCALE_MAX_SECONDS": "0"}, 0, 4),
        ({"SPACE_ID": "me/it", "GRADIO_SERVER_NAME": "0.0.0.0"}, 900, 2),
    ],
)
def test_a_page_that_others_reach_is_bounded_by_itself(environment, seconds, share, monkeypatch):
    for name in ("GRADIO_SERVER_NAME", "GRADIO_SHARE", "SPACE_ID", "CUPSCALE_MAX_SECONDS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    limits = limits_module.current()
    assert (limits.max_seconds, limits.share) == (seconds, share)


def test_a_body_above_the_limit_is_refused_unread(tmp_path, file_of):
    """By its announced length at once; without one, as soon as more has come."""
    with serve(tmp_path, CUPSCALE_UPLOAD_BYTES="1000") as url:
        limit = 1000 * 4 // 3 + 4 * 2**20
        host = url.removeprefix("http://").rstrip("/")
        for path in ("call/plan", "queue/join", "run/predict", "component_server"):
            line = http.client.HTTPConnection(host, timeout=60)
            line.putrequest("POST", f"/gradio_api/{path}")
            line.putheader("Content-Length", str(limit + 1))
            line.endheaders()  # and nothing after it
            answer = line.getresponse()
            assert answer.status == 413 and f"{limit} bytes" in json.loads(answer.read())["detail"]
            line.close()
            line = http.client.HTTPConnection(host, timeout=60)
            chunks = (b"a" * 2**20 for _ in range(6))
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                line.request("POST", f"/gradio_api/{path}", chunks, encode_chunked=True)
            assert line.getresponse().status == 413
            line.close()


def test_a_call_that_does_not_fit_has_a_status(tmp_path, file_of):
    """Names that are missing or unknown, and events that are not there."""
    with serve(tmp_path) as url:
        status, line, _ = refused(lambda: request(f"{url}gradio_api/call/v2/caption", {}))
        assert status == 422 and "image" in line
        status, line, _ = refused(
            lambda: request(f"{url}gradio_api/call/v2/upscale", {"image": None, "x": 1})
        )
        assert status == 422 and "`x`" in line
        for name in ("plan", "upscale"):
            status, _, _ = refused(lambda name=name: request(f"{url}gradio_api/call/{name}/none"))
            assert status == 404
        status, line, _ = refused(lambda: request(f"{url}gradio_api/call/nope", {"data": []}))
        assert status == 404 and "caption, models, plan, read_settings, upscale" in line
        with request(f"{url}gradio_api/call/plan", {"data": [None, 2]}) as answer:
            event = json.load(answer)["event_id"]
        with request(f"{url}gradio_api/call/plan/{event}") as answer:
            told = answer.read().decode()
        assert (
            "Plan takes 10 values and 2 came: image, scale, model, preset" in told and "object at" not in told
        )
        status, _, _ = refused(lambda: request(f"{url}monitoring"))
        assert status in (403, 404)
        with request(f"{url}gradio_api/queue/data?session_hash=none") as answer:
            assert b"unexpected_error" in answer.read()  # to its end: the connection is not broken off
        with request(f"{url}gradio_api/call/v2/plan", {"image": file_of(url)}) as answer:
            event = json.load(answer)["event_id"]
        with request(f"{url}gradio_api/call/plan/{event}") as answer:
            assert b"event: complete" in answer.read()
