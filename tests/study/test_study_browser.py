"""The voters' page in a real browser."""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from chromium import WAIT, expect, launched
from PIL import Image
from simulated import COLOURS, make_folder, row_of
from waiting import answering, free_port

from cupscale.study.store import Store

ROOT = Path(__file__).parent.parent.parent


@contextlib.contextmanager
def serve(folder, *options):
    """The page of a folder, as its command serves it."""
    port = free_port()
    command = [sys.executable, "-m", "cupscale", "study", "serve", str(folder), "--port", str(port), *options]
    url, log = f"http://127.0.0.1:{port}/", folder.parent / "study.log"
    with answering(command, url, log, 120, env={**os.environ, "PYTHONPATH": str(ROOT)}):
        yield url


@pytest.fixture
def folder(tmp_path):
    return make_folder(tmp_path / "out", size=(600, 400))


@pytest.fixture
def url(folder):
    with serve(folder, "--round", "6") as address:
        yield address


@pytest.fixture(scope="module")
def chromium():
    with launched() as browser:
        yield browser


@pytest.fixture
def visit(chromium, url):
    """Opens the page for someone new, and starts."""
    opened, problems = [], []

    def start(**options):
        context = chromium.new_context(**({"viewport": {"width": 1280, "height": 800}} | options))
        context.set_default_timeout(WAIT)
        expect.set_options(timeout=WAIT)
        opened.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on(
            "console", lambda line: problems.append(line.text) if "Content Security" in line.text else None
        )
        page.goto(url)
        page.locator("#go").click()
        ready(page)
        return page

    yield start
    assert problems == []
    for context in opened:
        context.close()


def ready(page):
    """The pair is there and takes an answer."""
    expect(page.locator("body")).to_have_attribute("data-state", "pair")
    expect(page.locator("[data-answer=first]")).to_have_attribute("aria-disabled", "false")


def progress(page, number):
    expect(page.locator("#progress")).to_have_text(f"Pair {number} of 6")
    ready(page)


def shown(page):
    """The rows in front of the voter, by their colour on the screen."""
    rows = []
    for pane in page.locator(".pane").all():
        screen = Image.open(io.BytesIO(pane.screenshot())).convert("RGB")
        middle = np.asarray(screen)[screen.height // 2 - 30 : screen.height // 2 + 30, screen.width // 3 : -9]
        rows.append(row_of(middle.mean((0, 1))))
    return rows


def test_voting_by_keys(visit, folder):
    page = visit()
    seen = []
    for number, key in enumerate("12=01", 1):
        progress(page, number)
        seen.append(shown(page))
        page.keyboard.press(key)
    progress(page, 6)
    votes = Store(folder).votes()
    answered = Counter(((one.first, one.second), one.answer) for one in votes)
    keys = ("first", "second", "equal", "equal", "first")
    assert answered == Counter((tuple(rows), given) for rows, given in zip(seen, keys, strict=True))
    page.keyboard.press("2")
    expect(page.locator("#card")).to_contain_text("You have answered 6 questions")
    page.keyboard.press("1")  # at the card no key votes
    page.locator("#go").press("Enter")
    progress(page, 1)
    assert len(Store(folder).votes()) == 6


def test_no_name_is_in_the_page_nor_in_a_request(visit):
    page = visit()
    asked = []
    page.on("request", lambda request: asked.append(f"{request.url} {request.post_data} {request.headers}"))
    for number in range(1, 6):
        progress(page, number)
        page.keyboard.press("o")
        hidden = [*COLOURS, "boat", "lake", "votes.sqlite"]
        for text in (page.content(), page.title(), page.evaluate("document.cookie"), *asked):
            assert [word for word in hidden if word in text] == []
        page.keyboard.press("1")
    progress(page, 6)
    assert len(asked) > 10


def test_a_double_click_and_a_held_key_count_once(visit, folder):
    page = visit()
    page.locator("[data-answer=second]").dblclick()
    progress(page, 2)
    page.keyboard.down("1")
    progress(page, 3)
    for _ in range(3):
        page.keyboard.down("1")  # held: the browser repeats it
    page.keyboard.up("1")
    page.keyboard.press("=")
    progress(page, 4)
    assert Counter(one.answer for one in Store(folder).votes()) == {"second": 1, "first": 1, "equal": 1}


def test_the_second_click_of_a_slow_double_click_is_not_meant_for_the_next_pair(visit, folder):
    page = visit()
    page.locator("[data-answer=first]").evaluate(
        "button => button.dispatchEvent(new MouseEvent('click', {detail: 2, bubbles: true}))"
    )
    page.keyboard.press("2")
    progress(page, 2)
    assert [one.answer for one in Store(folder).votes()] == ["second"]


def test_no_answer_is_taken_before_the_pair_is_there(chromium, url, folder):
    """Neither while the pictures load, nor in the moment after, when a press may have been meant for the pair before."""
    context = chromium.new_context()
    page = context.new_page()
    page.set_default_timeout(WAIT)
    page.clock.install()
    held = []
    page.route("**/pictures/**", lambda route: held.append(route))
    page.goto(url)
    page.locator("#go").click()
    expect(page.locator("body")).to_have_attribute("data-state", "loading")
    page.locator("[data-answer=first]").click(force=True)
    page.keyboard.press("1")
    page.clock.pause_at(page.evaluate("Date.now()") + 1000)
    for route in held:
        route.continue_()
    page.unroute("**/pictures/**")
    expect(page.locator("body")).to_have_attribute("data-state", "pair")
    page.locator("[data-answer=first]").click(force=True)
    page.keyboard.press("1")
    page.clock.run_for(1000)
    ready(page)
    page.keyboard.press("2")
    page.clock.resume()
    progress(page, 2)
    context.close()
    assert [one.answer for one in Store(folder).votes()] == ["second"]


def test_who_starts_before_the_first_pair_is_there_is_one_voter(chromium, url, folder):
    context = chromium.new_context()
    page = context.new_page()
    page.set_default_timeout(WAIT)
    held = []
    page.route("**/questions", lambda route: held.append(route))
    with page.expect_request("**/questions"):
        page.goto(url)
    page.locator("#go").click()
    page.evaluate("() => new Promise((done) => setTimeout(done, 0))")  # the click has been heard
    assert len(held) == 1
    held[0].continue_()
    ready(page)
    page.keyboard.press("1")
    progress(page, 2)
    context.close()
    with Store(folder)._reading() as db:
        assert db.execute("SELECT count(*) FROM voters").fetchone() == (1,)


def test_a_question_that_is_gone_gives_way_to_another(visit, folder):
    page = visit()
    Store(folder).take_back(lambda asked: True)
    with page.expect_response("**/questions"):
        page.keyboard.press("1")
    progress(page, 1)
    expect(page.locator("#problem")).to_be_hidden()
    page.keyboard.press("2")
    progress(page, 2)
    assert [one.answer for one in Store(folder).votes()] == ["second"]


def test_two_browsers_at_once(visit, folder):
    ann, bob = visit(), visit(color_scheme="dark")
    for number in range(1, 5):
        for page, key in ((ann, "1"), (bob, "2")):
            progress(page, number)
            page.keyboard.press(key)
    for page in (ann, bob):
        progress(page, 5)
    votes = Store(folder).votes()
    given = Counter((one.voter, one.answer) for one in votes)
    assert sorted(given.values()) == [4, 4] and {answer for _, answer in given} == {"first", "second"}
    met = Counter(one.asked.unit for one in votes if not one.expected)
    assert max(met.values()) == 1  # nine pairs for at most eight questions: none was asked twice


def test_a_reload_and_a_second_tab_show_the_same_pair(visit, folder):
    page = visit()
    page.keyboard.press("1")
    progress(page, 2)
    before = shown(page)
    other = page.context.new_page()
    other.goto(page.url)
    other.locator("#go").click()
    progress(other, 2)
    assert shown(other) == before
    page.reload()
    page.locator("#go").click()
    progress(page, 2)
    assert shown(page) == before
    page.keyboard.press("2")
    progress(page, 3)
    other.keyboard.press("1")  # the same question: counted already
    progress(other, 3)
    assert [one.answer for one in Store(folder).votes()].count("first") == 1
    assert len(Store(folder).votes()) == 2


def places(page):
    """Where both pictures lie in their panes: (left, top, width, height) of each."""
    return page.evaluate("""() => [...document.querySelectorAll('.pane')].map((pane) => {
      const [at, box] = [pane.querySelector('img:not(.original)').getBoundingClientRect(), pane.getBoundingClientRect()];
      return [at.left - box.left, at.top - box.top, at.width, at.height].map((value) => Math.round(value * 10) / 10);
    })""")


def test_both_pictures_zoom_and_move_together(visit):
    page = visit()
    whole = places(page)
    assert whole[0] == whole[1] and whole[0][2] / whole[0][3] == pytest.approx(1.5, abs=0.01)
    box = page.locator(".pane").nth(1).bounding_box()
    at = (box["width"] * 0.3, box["height"] * 0.45)
    page.mouse.move(box["x"] + at[0], box["y"] + at[1])
    page.mouse.wheel(0, -400)
    expect(page.locator("#zoom")).to_have_text("Fit")
    zoomed = places(page)
    assert zoomed[0] == zoomed[1] and zoomed[0][2] > 1.5 * whole[0][2]
    for side in range(2):  # the point below the pointer has stayed
        before = (at[side] - whole[0][side]) / whole[0][2 + side]
        assert (at[side] - zoomed[0][side]) / zoomed[0][2 + side] == pytest.approx(before, abs=0.01)
    assert page.locator(".ring").first.is_visible() and not page.locator(".ring").nth(1).is_visible()

    page.mouse.down()
    page.mouse.move(box["x"] + at[0] + 60, box["y"] + at[1] - 40, steps=4)
    page.mouse.up()
    moved = places(page)
    assert moved[0] == moved[1]
    assert [moved[0][i] - zoomed[0][i] for i in range(4)] == pytest.approx([60, -40, 0, 0], abs=0.3)
    page.keyboard.press("ArrowLeft")
    assert places(page)[1][0] == pytest.approx(min(moved[0][0] + 80, 0), abs=0.3)
    page.keyboard.press("z")
    assert places(page) == whole
    page.locator(".pane").first.dblclick(position={"x": 50, "y": box["height"] / 2})
    assert places(page)[0] == places(page)[1] != whole[0]
    for _ in range(40):
        page.keyboard.press("+")
    most = places(page)
    assert most[0] == most[1] and most[0][2] == pytest.approx(8 * 600)  # eight pixels of the screen for one
    page.keyboard.press("1")
    progress(page, 2)
    assert places(page) == whole  # the next pair is whole again


def test_the_original_is_shown_on_both_sides(visit):
    page = visit()
    page.keyboard.press("o")
    expect(page.locator("#original")).to_have_attribute("aria-pressed", "true")
    for pane in page.locator(".pane").all():
        expect(pane.locator("img.original")).to_be_visible()
        screen = Image.open(io.BytesIO(pane.screenshot())).convert("RGB")
        assert screen.getpixel((screen.width // 2, screen.height // 2)) == (128, 128, 128)
    page.locator("#original").click()
    expect(page.locator("figcaption").first).to_have_text("1")
    assert set(shown(page)) <= set(COLOURS)


def test_pinching_zooms_both(visit):
    """Two fingers on one pane, as the browser reports them."""
    page = visit(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    before = places(page)
    box = page.locator(".pane").first.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    session = page.context.new_cdp_session(page)
    for kind, apart in (("touchStart", 40), ("touchMove", 80), ("touchMove", 120)):
        points = [{"x": x - apart, "y": y, "id": 1}, {"x": x + apart, "y": y, "id": 2}]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    session.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    expect(page.locator("#zoom")).to_have_text("Fit")
    after = places(page)
    assert after[0] == after[1] and after[0][2] / before[0][2] == pytest.approx(3, rel=0.1)


@pytest.mark.parametrize(
    ("size", "share", "way"),
    [((390, 844), 0.6, "column"), ((844, 390), 0.6, "row"), ((1280, 800), 0.5, "row")],
)
def test_the_pictures_are_the_largest_thing(visit, size, share, way):
    page = visit(viewport={"width": size[0], "height": size[1]})
    assert page.locator("#stage").get_attribute("data-way") == way
    pictures = sum(width * height for _, _, width, height in places(page))
    assert pictures / (size[0] * size[1]) > share
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
    for button in page.locator("#answers button").all():
        box = button.bounding_box()
        assert box["height"] >= 44 and box["y"] + box["height"] <= size[1]
    words = ("Left", "Right") if way == "row" else ("Upper", "Lower")
    assert [page.locator(f"[data-answer={side}] span").inner_text() for side in ("first", "second")] == [
        *words
    ]


def test_an_answer_that_does_not_arrive_can_be_given_again(visit, folder):
    page = visit()
    page.route("**/votes", lambda route: route.abort())
    page.keyboard.press("1")
    expect(page.locator("#problem")).to_contain_text("Your answer was not saved")
    ready(page)
    page.unroute("**/votes")
    page.keyboard.press("2")
    progress(page, 2)
    expect(page.locator("#problem")).to_be_hidden()
    assert [one.answer for one in Store(folder).votes()] == ["second"]


def test_a_damaged_picture_is_passed_over(chromium, folder):
    for row in COLOURS:
        for name in ("boat", "lake"):
            file = folder / row / f"{name}.png"
            file.write_bytes(file.read_bytes()[:3000])
    context = chromium.new_context()
    with serve(folder, "--round", "6") as url:
        page = context.new_page()
        page.set_default_timeout(WAIT)
        page.goto(url)
        page.locator("#go").click()
        ready(page)
        page.keyboard.press("1")
        progress(page, 2)
    context.close()
    assert {one.image for one in Store(folder).votes()} == {"fox"}


def test_when_every_pair_was_seen(chromium, tmp_path):
    folder = make_folder(tmp_path / "out", ("boat",))
    context = chromium.new_context()
    with serve(folder, "--row", "lanczos", "--row", "demofusion", "--ask", "Which <b>is</b> sharper?") as url:
        page = context.new_page()
        page.set_default_timeout(WAIT)
        page.goto(url)
        page.locator("#go").click()
        ready(page)
        expect(page.locator("#ask")).to_have_text("Which <b>is</b> sharper?")
        for _ in range(3):  # one pair, and perhaps a check before it
            if page.locator("body").get_attribute("data-state") == "card":
                break
            ready(page)
            with page.expect_response("**/votes"):
                page.keyboard.press("=")
            expect(page.locator("body")).to_have_attribute("data-state", re.compile("pair|card"))
        expect(page.locator("#card")).to_contain_text("You have seen every pair")
        expect(page.locator("#go")).to_be_hidden()
    context.close()
