"""The server of the voters' page: what it gives away, and what it refuses."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from simulated import COLOURS, make_folder, row_of
from starlette.testclient import TestClient

from cupscale import images
from cupscale.errors import CupscaleError
from cupscale.study.page import Page
from cupscale.study.pairs import Asked, open_study
from cupscale.study.pictures import Pictures
from cupscale.study.store import FILE, Store


@pytest.fixture
def folder(tmp_path):
    return make_folder(tmp_path / "out", size=(240, 160))


@pytest.fixture
def page(folder, tmp_path):
    study = open_study(folder)
    (tmp_path / "scratch").mkdir()
    return Page(study, Store(folder), Pictures(study, tmp_path / "scratch"), round=4)


@pytest.fixture
def visitors(page):
    """Makes visitors, each with cookies of their own."""
    app = page.app()
    return lambda: TestClient(app, base_url="http://study.test")


def ask(visitor):
    return visitor.post("/questions").json()["questions"]


def answer(visitor, question, given="first"):
    return visitor.post("/votes", json={"question": question["id"], "answer": given})


def picture(visitor, question, side):
    return visitor.get(f"/pictures/{question['id']}/{side}")


def pixels(response):
    return np.asarray(Image.open(io.BytesIO(response.content)).convert("RGB")).astype(float)


def test_a_vote_is_about_the_pictures_that_were_shown(page, visitors):
    visitor = visitors()
    for number in range(6):
        question = ask(visitor)[0]
        shown = [
            row_of(pixels(picture(visitor, question, side)).mean((0, 1))) for side in ("first", "second")
        ]
        said = answer(visitor, question, ["second", "first", "equal"][number % 3])
        assert said.status_code == 200 and said.json()["outcome"] == "counted"
        assert said.json()["answered"] == number + 1
        kept = next(vote for vote in page.store.votes() if vote.id == question["id"])
        assert [kept.first, kept.second] == shown and kept.answer == ["second", "first", "equal"][number % 3]


def test_nothing_tells_what_is_compared(page, visitors, folder):
    """No name of a row, an image or a folder in any address, head or body; the files' own settings are gone."""
    visitor = visitors()
    hidden = [*COLOURS, "boat", "lake", str(folder), "input", "expected", "check", "made by"]
    assert b"made by lanczos" in (folder / "lanczos" / "boat.png").read_bytes()
    answers = [visitor.get(path) for path in ("/", "/study.js", "/study.css")]
    assert all(one.status_code == 200 for one in answers)
    spoken = []
    while questions := (asked := visitor.post("/questions")).json()["questions"]:
        spoken += [asked, *(picture(visitor, questions[0], side) for side in ("first", "second", "original"))]
        spoken.append(answer(visitor, questions[0]))
    assert len(spoken) > 40 and {one.status_code for one in spoken} == {200}
    for one in spoken:
        text = f"{one.request.url} {dict(one.headers)} ".encode() + one.content
        assert [word for word in hidden if word.encode() in text] == []
        assert "etag" not in one.headers and "last-modified" not in one.headers
    for one in answers:  # the page speaks of checks and of input, but of no row and no image
        assert [word for word in [*COLOURS, "boat", "fox.png", "lake"] if word in one.text] == []
    for one in spoken:
        if one.headers["content-type"] == "image/png":
            assert Image.open(io.BytesIO(one.content)).info == {}


def test_pictures_are_shown_as_they_are(page, visitors, folder):
    visitor = visitors()
    question = next(q for q in ask(visitor) if not page.store.question(q["id"], _voter(page)).expected)
    asked = page.store.question(question["id"], _voter(page))
    for side, row in (("first", asked.first), ("second", asked.second)):
        stored = np.asarray(Image.open(folder / row / f"{asked.image}.png"))
        assert (pixels(picture(visitor, question, side)) == stored).all()
    assert pixels(picture(visitor, question, "original")).shape == (16, 24, 3)
    assert (question["width"], question["height"], question["original"]) == (240, 160, True)


def _voter(page):
    """The only one there is."""
    import sqlite3

    with sqlite3.connect(page.store.file) as db:
        ((voter,),) = db.execute("SELECT id FROM voters").fetchall()
    db.close()
    return voter


@pytest.mark.parametrize("expected", ["first", "second"])
def test_a_check_shows_a_picture_beside_a_blurred_copy_of_it(page, folder, expected):
    asked = Asked("fox", "lanczos", "lanczos", expected)
    spoilt = "second" if expected == "first" else "first"
    good, bad = (
        np.asarray(Image.open(io.BytesIO(page.pictures.side(asked, side)))).astype(float)
        for side in (expected, spoilt)
    )
    assert (good == np.asarray(Image.open(folder / "lanczos" / "fox.png"))).all()
    assert good.shape == bad.shape and bad.mean() == pytest.approx(good.mean(), abs=1)
    grain = [np.abs(np.diff(one, axis=1)).mean() for one in (good, bad)]
    assert grain[1] < grain[0] / 5


def test_what_is_encoded_has_bounds(folder, tmp_path):
    study = open_study(folder)
    (tmp_path / "few").mkdir()
    one = len(Pictures(study, tmp_path / "few").side(Asked("fox", "lanczos", "+ gsp"), "first"))
    pictures = Pictures(study, tmp_path / "few", kept_bytes=int(2.5 * one))
    for row in study.rows * 2:
        for image in study.files:
            pictures.side(Asked(image, row, row), "first")
            kept = sum(file.stat().st_size for file in (tmp_path / "few").iterdir())
            assert kept <= 3.6 * one  # with the one from above, which it does not know
    assert pictures.side(Asked("fox", "lanczos", "lanczos"), "first")


def test_a_vote_counts_once(page, visitors):
    visitor = visitors()
    question = ask(visitor)[0]
    first, again = answer(visitor, question, "second"), answer(visitor, question, "first")
    assert (first.json()["outcome"], again.json()["outcome"]) == ("counted", "counted before")
    assert first.json()["questions"] == again.json()["questions"] and again.json()["answered"] == 1
    assert [vote.answer for vote in page.store.votes()] == ["second"]


def test_a_question_is_its_voters_own(page, visitors):
    ann, bob, nobody = visitors(), visitors(), visitors()
    question = ask(ann)[0]
    ask(bob)
    for stranger in (bob, nobody):
        assert answer(stranger, question).status_code == 404
        assert picture(stranger, question, "first").status_code == 404
    assert "reload" in answer(nobody, question).json()["error"] and page.store.votes() == []
    assert not list(nobody.cookies)
    assert answer(ann, question).status_code == 200
    assert picture(ann, question, "first").status_code == 404  # answered: shown no more


@pytest.mark.parametrize("id", ["0" * 32, "x", "%00", "..%2f..%2fetc", "' OR 1=1 --", "é", "a" * 900])
def test_a_token_that_does_not_exist_is_refused(page, visitors, id):
    visitor = visitors()
    ask(visitor)
    assert answer(visitor, {"id": id}).status_code == 404
    assert visitor.get(f"/pictures/{id}/first").status_code == 404
    assert page.store.votes() == []


@pytest.mark.parametrize(
    "path",
    [
        "/votes.sqlite",
        "/lanczos/fox.png",
        "/pictures",
        "/pictures/..%2f..%2fvotes.sqlite/first",
        "/%2e%2e/%2e%2e/etc/passwd",
        "//etc/passwd",
        "/static/study.js",
        "/results",
        "/study.html",
        "/page.py",
    ],
)
def test_no_path_reaches_a_file(visitors, path):
    assert visitors().get(path).status_code == 404


def test_only_the_sides_there_are(visitors):
    visitor = visitors()
    question = ask(visitor)[0]
    for side in ("third", "", "first.png", "lanczos", "..%2ffirst", "FIRST"):
        assert picture(visitor, question, side).status_code == 404


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"first",
        b"[]",
        b"{}",
        b'{"question": 7, "answer": "first"}',
        b'{"question": "x", "answer": "third"}',
        b'{"question": "x", "answer": ["first"]}',
        b'{"question": "x", "answer": null}',
        b"\xff\xfe",
        b"[" * 900,
        b'{"question": "' + b"x" * 980 + b'", "answer": "first"}',
    ],
)
def test_a_malformed_vote_is_one_line(page, visitors, body):
    visitor = visitors()
    said = visitor.post("/votes", content=body)
    assert said.status_code == 422 and set(said.json()) == {"error"} and "\n" not in said.json()["error"]
    assert page.store.votes() == []


def test_a_body_has_a_limit(visitors):
    said = visitors().post("/questions", content=b" " * 1001)
    assert said.status_code == 422 and "1000 bytes, the limit" in said.json()["error"]


def test_wrong_methods_are_refused(visitors):
    visitor = visitors()
    assert visitor.get("/votes").status_code == visitor.get("/questions").status_code == 405
    assert visitor.post("/").status_code == visitor.delete("/votes").status_code == 405


def test_a_cookie_that_someone_made_up_is_nobodys(page, visitors):
    visitor = visitors()
    first = ask(visitor)
    (name,) = list(visitor.cookies)
    for wrong in ("x", "0" * 5000, "' OR 1=1 --"):
        stranger = visitors()
        said = stranger.post("/questions", headers={"Cookie": f"{name}={wrong}"})
        assert said.status_code == 200 and said.json()["questions"][0] not in first
    assert ask(visitor) == first  # a reload shows the same pair
    given = visitor.post("/questions").headers["set-cookie"]
    assert "HttpOnly" in given and "SameSite=lax" in given


def test_a_damaged_picture_takes_its_image_out(page, visitors, folder):
    visitor = visitors()
    question = ask(visitor)[0]
    asked = page.store.question(question["id"], _voter(page))
    file = folder / asked.second / f"{asked.image}.png"
    file.write_bytes(file.read_bytes()[:2000])  # its head is whole
    assert picture(visitor, question, "second").status_code == 410
    assert asked.image not in page.study.files
    following = ask(visitor)
    assert following and question not in following
    for one in following:
        assert picture(visitor, one, "second").status_code == 200
    assert answer(visitor, question).status_code == 404


def test_a_damaged_original_takes_nothing_out(page, visitors, folder):
    for file in (folder / "input").iterdir():
        file.write_bytes(file.read_bytes()[:50])
    visitor = visitors()
    question = ask(visitor)[0]
    assert picture(visitor, question, "original").status_code == 410
    assert picture(visitor, question, "first").status_code == 200 and len(page.study.files) == 3


def test_a_file_of_votes_that_cannot_be_used_says_so(page, visitors, folder):
    visitor = visitors()
    question = ask(visitor)[0]
    for file in folder.glob(f"{FILE}*"):
        file.unlink()
    (folder / FILE).mkdir()
    said = answer(visitor, question)
    assert said.status_code == 422 and "nothing was counted" in said.json()["error"]


@pytest.mark.parametrize("path", ["/", "/study.js", "/nothing"])
def test_every_answer_is_guarded(visitors, path):
    headers = visitors().get(path).headers
    assert "default-src 'none'" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"


def test_the_page_takes_no_script_and_no_picture_from_elsewhere():
    static = Path(images.__file__).parent.parent / "study" / "static"
    for file in static.iterdir():
        assert not re.search(r"https?://|//[a-z]+\.[a-z]", file.read_text("utf-8")), file


@pytest.mark.parametrize("ask", ["", "x" * 121, "two\nlines"])
def test_the_question_has_bounds(page, ask):
    with pytest.raises(CupscaleError, match="1 to 120"):
        Page(page.study, page.store, page.pictures, ask)


def test_the_question_is_data_and_not_markup(page):
    said = "<img src=x onerror=alert(1)>"
    visitor = TestClient(Page(page.study, page.store, page.pictures, said).app())
    assert visitor.post("/questions").json()["ask"] == said  # the page puts it in as text
    assert json.dumps(said) not in visitor.get("/").text
