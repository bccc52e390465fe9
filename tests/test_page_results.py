"""What becomes of results: archives, links that are kept, cards, grids, blind comparisons. Without a browser."""

from __future__ import annotations

import base64
import errno
import gzip
import hashlib
import hmac
import json
import os
import re
import secrets
import tempfile
import time
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import numpy as np
import pytest
from PIL import Image, ImageColor, ImageDraw
from starlette.applications import Starlette
from starlette.responses import HTMLResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from cupscale import images
from cupscale.errors import CupscaleError
from cupscale.page import (
    batch,
    blind,
    card,
    kept_links,
    limits as limits_module,
    opening as opening_module,
    previews,
    references,
    run,
    scratch,
    sheet,
)
from cupscale.page.limits import Limits
from cupscale.page.opening import Opening
from cupscale.settings import Settings

SETTINGS = Settings.build({"seed": 5, "scale": 2.0, "prompt": "a door"})


def shot(stem, colour="teal", size=(96, 64), alpha=None):
    """A result whose plain enlargement is grey."""
    folder = scratch.new_folder()
    image = Image.new("RGB", size, colour)
    if alpha is not None:
        image.putalpha(alpha)
    png = images.write(image, folder / f"{stem}.png", SETTINGS.to_json())
    before = images.write(Image.new("RGB", size, "gray"), folder / f"{stem}-before.jpg")
    note = f"48 × 32 → {size[0]} × {size[1]}, seed 5, model {SETTINGS.model}, 1 s"
    return run.Shot(str(folder), str(png), str(before), stem, SETTINGS, size, note, alpha is not None, stem)


@pytest.fixture(autouse=True)
def own_root(tmp_path, monkeypatch):
    """The server's folders in the test's own."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    scratch.root.cache_clear()
    yield
    scratch.clean()
    scratch.root.cache_clear()


# A batch


def entries(*shots):
    made = [batch.Entry(f"/x/{s.stem}.jpg", f"{s.stem}.jpg", s.stem, "done", "", shot=s) for s in shots]
    return batch.Batch(made, str(scratch.new_folder()))


def test_an_archive_has_all_results_and_says_what_failed():
    made = entries(shot("one"), shot("two", "red"))
    made.entries.insert(1, batch.Entry("/x/bad.jpg", "bad.jpg", "bad", "failed", "not an image"))
    path = batch.archive(made, "png")
    with zipfile.ZipFile(path) as packed:
        assert packed.namelist() == ["one.png", "two.png", "errors.txt"]
        assert packed.read("errors.txt") == b"bad.jpg: not an image\n"
        with packed.open("two.png") as file, Image.open(file) as image:
            assert image.getpixel((3, 4)) == (255, 0, 0)
        assert images.read_settings(packed.read("one.png"))["seed"] == 5
    assert path.name == "cupscale-2-images-png.zip"


@pytest.mark.parametrize("suffix", ["webp", "jpg"])
def test_a_result_above_pillows_own_limit_is_written_in_other_formats(suffix, monkeypatch):
    """Half of the limit is where Pillow warns, and above it there are "decompression bombs": 14,000 pixels a side are one."""
    made = shot("large", "teal", (96, 64))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 96 * 64 // 3)
    path = run.encode(made, suffix)
    monkeypatch.undo()
    with Image.open(path) as image:
        assert image.size == (96, 64)


def test_a_transparent_one_lies_on_white_in_an_archive_of_jpegs():
    made = entries(shot("clear", "black", alpha=0), shot("full", "black"))
    with zipfile.ZipFile(batch.archive(made, "jpg")) as packed:
        assert packed.namelist() == ["clear-on-white.jpg", "full.jpg"]
        with packed.open("clear-on-white.jpg") as file, Image.open(file) as image:
            assert min(image.getpixel((50, 30))) > 250
        with packed.open("full.jpg") as file, Image.open(file) as image:
            assert max(image.getpixel((50, 30))) < 5


def test_an_archive_of_results_that_are_gone_is_refused():
    made = entries(shot("one"))
    run.forget(made.entries[0].shot)
    with pytest.raises(CupscaleError, match="run the batch again"):
        batch.archive(made, "png")
    with pytest.raises(CupscaleError, match="run the batch again"):
        batch.archive(batch.Batch(), "png")


def test_downloads_of_files_with_one_name_are_told_apart():
    assert [batch._unlike(name, ["a", "a-2", "b"]) for name in ("a", "b", "c")] == ["a-3", "b-2", "c"]


class Tab(batch.BatchTab):
    """The tab without its components."""

    def __init__(self, limits):
        self._session = type("S", (), {"limits": limits})()


def test_a_batch_is_held_to_the_bounds_of_one_run(monkeypatch):
    """Of three images of 40 s and 100 samples, two fit into 100 s, and one into 150 samples."""
    monkeypatch.setattr(batch.engine, "expected_seconds", lambda plan, settings: 40.0)
    plan = type("P", (), {"samples": 100})()
    three = [batch.Entry(f"{k}", f"{k}", f"{k}", settings=SETTINGS, plan=plan) for k in range(3)]
    Tab(Limits(max_seconds=120, max_samples=300))._check_total(three)
    with pytest.raises(CupscaleError, match=r"3 images would take about 2 min .*the first 2 of them"):
        Tab(Limits(max_seconds=100))._check_total(three)
    with pytest.raises(CupscaleError, match=r"300 samples.*the first 1 of them"):
        Tab(Limits(max_samples=150))._check_total(three)
    with pytest.raises(CupscaleError, match="choose a smaller scale or fewer steps"):
        Tab(Limits(max_samples=50))._check_total(three)


def test_a_run_that_fails_in_a_batch_is_told_and_the_others_go_on():
    wrong = {"one": CupscaleError("the network gave NaN"), "two": MemoryError()}
    tab = Tab(Limits())
    for part in ("batch", "downloads", "list", "status", "run", "cancel"):
        setattr(tab, part, part)

    def run_one(made, number, writer, deadline):
        entry = made.entries[number]
        if entry.name in wrong:
            raise wrong[entry.name]
        yield {}
        made.entries[number] = replace(entry, state="done", shot=shot(entry.name))

    tab._run = run_one
    made = batch.Batch([batch.Entry(name, name, name, settings=SETTINGS) for name in ("one", "two", "three")])
    *_, last = tab._runs(made, "", None)
    assert [entry.state for entry in made.entries] == ["failed", "failed", "done"]
    assert made.entries[0].line == "the network gave NaN" and made.entries[1].line.startswith("out of memory")
    assert "1 of 3 images are done, 2 failed" in last["status"] and last["downloads"]["visible"]
    with zipfile.ZipFile(batch.archive(made, "png")) as packed:
        assert packed.namelist() == ["three.png", "errors.txt"]


def test_a_run_keeps_the_folders_that_it_needs(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(scratch.time, "monotonic", lambda: now[0])
    held, other = scratch.new_folder(), scratch.new_folder()
    with scratch.holding([held / "deep" / "file.png"]):
        for _ in range(3):
            scratch.sweep(10)
            now[0] += 11
        assert held.exists() and not other.exists()
    scratch.sweep(10)
    now[0] += 9
    scratch.sweep(10)
    assert held.exists()  # its time began anew
    now[0] += 2
    scratch.sweep(10)
    assert not held.exists()


# Links that keep a result


def test_a_kept_link_is_found_until_its_time_is_over(monkeypatch):
    now = [50.0]
    monkeypatch.setattr(kept_links.time, "monotonic", lambda: now[0])
    links = kept_links.KeptLinks(Limits(link_seconds=100))
    one, _ = links.keep(shot("one"))
    now[0] += 60
    other, secret = links.keep(shot("two", "red"))
    assert one.token != other.token and len(one.token) == 32
    now[0] += 39.9
    found = links.find(one.token)
    assert found is one and Image.open(found.after).getpixel((1, 1)) == (0, 128, 128)
    now[0] += 0.2
    assert links.find(one.token) is None and not one.folder.exists()
    assert links.find(other.token) is other
    assert links.delete(other.token, secret)
    assert links.find(other.token) is None and not other.folder.exists()


def test_a_kept_link_and_its_secret_are_192_bits_of_the_systems_randomness_each(monkeypatch):
    """A clock or a counter would be guessed, and whoever has the link must not know the secret."""
    drawn = []

    def draw(count):
        drawn.append(bytes(range(len(drawn), len(drawn) + count)))
        return drawn[-1]

    monkeypatch.setattr(secrets, "token_bytes", draw)
    kept, secret = kept_links.KeptLinks(Limits()).keep(shot("one"))
    long = {base64.urlsafe_b64encode(one).decode() for one in drawn if len(one) == 24}
    assert kept.token != secret and {kept.token, secret} <= long


def test_a_link_is_deleted_by_its_own_secret_alone():
    links = kept_links.KeptLinks(Limits())
    (one, secret), (other, others) = links.keep(shot("one")), links.keep(shot("two"))
    for wrong in ("", others, one.token, one.secret_hash, secret[:-1], secret + " ", "é"):
        assert not links.delete(one.token, wrong)
    assert links.find(one.token) is one and one.after.is_file() and links.find(other.token) is other
    assert links.delete(one.token, secret)
    assert links.find(one.token) is None and not one.folder.exists()
    assert not links.delete(one.token, secret)
    assert links.find(other.token) is other


def test_the_server_has_no_secret_but_its_hash():
    kept, secret = kept_links.KeptLinks(Limits()).keep(shot("one"))
    assert kept.secret_hash == hashlib.sha256(secret.encode()).hexdigest()
    files = [file for file in kept.folder.iterdir() if file.is_file()]
    assert len(files) == 4 and not any(secret.encode() in file.read_bytes() for file in files)
    assert secret not in repr(kept)


def test_secrets_are_compared_in_one_time_whether_or_not_there_is_a_link(monkeypatch):
    compared = []
    monkeypatch.setattr(hmac, "compare_digest", lambda *both: compared.append(both) or both[0] == both[1])
    links = kept_links.KeptLinks(Limits())
    kept, _ = links.keep(shot("one"))
    for token in (kept.token, "x" * 32):
        assert not links.delete(token, "guessed")
    assert [len(one) for both in compared for one in both] == [64] * 4


@pytest.mark.parametrize("token", [None, "", "x" * 32, "../" * 10 + "ab", 7, ["a"], "é" * 32])
def test_a_link_that_is_none_finds_nothing(token):
    links = kept_links.KeptLinks(Limits())
    links.keep(shot("one"))
    assert links.find(token) is None
    assert not links.delete(token, "x")


def test_a_kept_link_is_swept_though_nobody_asks(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(scratch.time, "monotonic", lambda: now[0])
    folder = kept_links.KeptLinks(Limits(link_seconds=100)).keep(shot("one"))[0].folder
    for _ in range(2):
        scratch.sweep(10, 100)
        now[0] += 60
    assert folder.exists()
    scratch.sweep(10, 100)
    assert not folder.exists()


def test_a_page_keeps_only_as_much_as_it_has_room_for(monkeypatch):
    links = kept_links.KeptLinks(Limits(links=1, link_seconds=7200))
    links.keep(shot("one"))
    with pytest.raises(CupscaleError, match=r"1 picture under links.*free in 2 h 0 min"):
        links.keep(shot("two"))
    assert len(list((scratch.root() / "links").iterdir())) == 1
    with pytest.raises(CupscaleError, match="room"):
        kept_links.KeptLinks(Limits(links_bytes=10)).keep(shot("three"))
    gone = shot("gone")
    run.forget(gone)
    with pytest.raises(CupscaleError, match="no longer on the server"):
        kept_links.KeptLinks(Limits()).keep(gone)


def test_a_visitor_has_a_share_of_the_links(monkeypatch):
    """It is free again once one is deleted or over. Who made a link is in no file."""
    now = [50.0]
    monkeypatch.setattr(kept_links.time, "monotonic", lambda: now[0])
    links = kept_links.KeptLinks(Limits(own_links=2, link_seconds=7200))
    first, secret = links.keep(shot("one"), "192.0.2.1")
    now[0] += 3600
    links.keep(shot("two"), "192.0.2.1")
    with pytest.raises(CupscaleError, match=r"^2 pictures of yours are .* delete a link, or wait 1 h 0 min$"):
        links.keep(shot("three"), "192.0.2.1")
    assert len(list((scratch.root() / "links").iterdir())) == 2
    kept, _ = links.keep(shot("four"), "192.0.2.2")
    assert links.delete(first.token, secret)
    links.keep(shot("five"), "192.0.2.1")
    assert "192.0.2" not in "".join(file.read_text() for file in kept.folder.parent.glob("*/kept.json"))
    now[0] += 7201
    links.keep(shot("six"), "192.0.2.1")
    many = kept_links.KeptLinks(Limits())
    for k in range(5):
        many.keep(shot(str(k)), "127.0.0.1")


@pytest.fixture
def killed(tmp_path, monkeypatch):
    """What is kept in a folder as a killed process leaves it, its secret, and what gives the next page's links."""
    left = tmp_path / "cupscale-left"
    (left / "links").mkdir(parents=True)
    (tmp_path / "cupscale-left.alive").write_text("")
    with monkeypatch.context() as patch:
        patch.setattr(scratch, "new_folder", lambda kind="links": Path(tempfile.mkdtemp(dir=left / kind)))
        kept, secret = kept_links.KeptLinks(Limits()).keep(shot("one"))

    def adopt(seconds):
        """By a page of these link_seconds; whatever was left is away."""
        assert scratch.sweep_left() == 1 and not left.exists()
        links = kept_links.KeptLinks(Limits(link_seconds=seconds))
        links.adopt(scratch.adopted())
        assert scratch.adopted() == []
        return links

    return kept, secret, adopt


def test_what_a_killed_page_kept_under_a_link_is_kept_by_the_next(killed):
    kept, secret, adopt = killed
    made = kept.after.read_bytes()
    links = adopt(100)
    found = links.find(kept.token)
    assert found.folder.parent == scratch.root() / "links" and found.after.read_bytes() == made
    assert found == replace(
        kept,
        folder=found.folder,
        **{name: found.folder / getattr(kept, name).name for name in ("before", "after", "card")},
    )
    assert not links.delete(kept.token, secret[::-1]) and found.after.is_file()
    assert links.delete(kept.token, secret) and not found.folder.exists()


@pytest.mark.parametrize(
    "damage",
    ["over", "offered no more", "no text", "half a text", "no picture", "token", "hash", "no hash"],
)
def test_what_is_over_or_damaged_is_not_taken_over(killed, damage):
    kept, _, adopt = killed
    told = kept.folder / "kept.json"
    fields = json.loads(told.read_text())
    if damage == "over":
        told.write_text(json.dumps(fields | {"since": time.monotonic() - 101}))
    elif damage == "no text":
        told.unlink()
    elif damage == "half a text":
        told.write_text(told.read_text()[:-9])
    elif damage == "no picture":
        kept.after.unlink()
    elif damage == "token":
        told.write_text(json.dumps(fields | {"token": "../../x"}))
    elif damage == "hash":
        told.write_text(json.dumps(fields | {"secret_hash": "é"}))
    elif damage == "no hash":
        del fields["secret_hash"]
        told.write_text(json.dumps(fields))
    assert adopt(0 if damage == "offered no more" else 100).find(kept.token) is None
    assert list((scratch.root() / "links").iterdir()) == []


def test_a_full_disk_is_no_lost_result(monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "")

    monkeypatch.setattr(kept_links.shutil, "copyfile", full)
    with pytest.raises(CupscaleError, match="the picture cannot be kept: this server's disk is full"):
        kept_links.KeptLinks(Limits()).keep(shot("one"))


def test_a_space_keeps_none():
    assert limits_module.SPACE.link_seconds == 0
    with pytest.raises(CupscaleError, match="keeps no pictures under links"):
        kept_links.KeptLinks(limits_module.SPACE).keep(shot("one"))


# Previews of links

PAGE = """<!doctype html><html><head><meta charset="utf-8">
<meta property="og:title" content="Gradio" /><meta
  property="og:image"
  content="" /><meta name="twitter:title" content="Gradio" /><title>cupscale</title></head><body>here</body></html>"""


@pytest.fixture
def previewed():
    """A page behind the previews, and what it keeps."""
    links = kept_links.KeptLinks(Limits())
    page = Starlette(routes=[Route("/", lambda request: HTMLResponse(PAGE))])
    demo = type("D", (), {"links": links, "blocks": {}})()
    return TestClient(previews.Previews(page, demo), base_url="http://up.example"), links


def tags(text):
    return dict(re.findall(r'<meta (?:property|name)="([^"]+)" content="([^"]*)">', text))


def test_a_link_is_previewed_with_its_own_card(previewed):
    client, links = previewed
    plain, bee = tags(client.get("/").text), tags(client.get("/?example=bee").text)
    assert plain["og:title"] == "cupscale" and plain["og:image"] == "http://up.example/card.jpg"
    assert bee["og:title"].startswith("A honey bee") and bee["og:image"].endswith("/card.jpg?example=bee")
    assert "Gradio" not in client.get("/").text and client.get("/").text.endswith("<body>here</body></html>")
    pictures = [client.get(one["og:image"]).content for one in (plain, bee)]
    assert pictures[0] != pictures[1]
    for data in pictures:
        path = Path(scratch.new_folder()) / "card.jpg"
        path.write_bytes(data)
        assert Image.open(path).size == (1200, 630)
    kept, secret = links.keep(shot("mine", "red"))
    page = client.get(f"/?kept={kept.token}")
    own = tags(page.text)
    assert own["og:image"].endswith(f"?kept={kept.token}") and own["robots"] == "noindex"
    answer = client.get(own["og:image"])
    assert answer.content == kept.card.read_bytes() and answer.headers["x-robots-tag"] == "noindex"
    assert client.get(f"/kept/{kept.token}/after.png").content == kept.after.read_bytes()
    assert links.delete(kept.token, secret)
    for gone in (own["og:image"], f"/kept/{kept.token}/after.png", f"/kept/{kept.token}/before.jpg"):
        assert client.get(gone).status_code == 404


def test_the_page_goes_out_compressed_to_whom_reads_that(previewed, monkeypatch):
    """Once for all who get the same; a file does not."""
    client, _ = previewed
    work, compress = [], gzip.compress

    def counted(html, *rest, **options):
        work.append(html)
        return compress(html, *rest, **options)

    monkeypatch.setattr(previews.light.gzip, "compress", counted)
    previews.light.compressed.cache_clear()
    plain = client.get("/", headers={"accept-encoding": "identity"})
    assert "content-encoding" not in plain.headers and not work
    for _ in range(2):
        page = client.get("/", headers={"accept-encoding": "gzip, br"})
        assert page.headers["content-encoding"] == "gzip" and page.headers["vary"] == "Accept-Encoding"
        assert page.content == plain.content and int(page.headers["content-length"]) != len(plain.content)
    assert len(work) == 1
    assert "content-encoding" not in client.get("/card.jpg", headers={"accept-encoding": "gzip"}).headers
    assert client.head("/", headers={"accept-encoding": "gzip"}).content == b""


def test_the_page_is_written_once_for_all_who_come_by_one_address():
    asked = []

    def written(request):
        asked.append(request.url.hostname)
        return HTMLResponse(PAGE.replace("here", f"visit {len(asked)} by {request.url.hostname}"))

    app = Starlette(routes=[Route("/", written)])
    app.add_middleware(
        previews.Previews, demo=type("D", (), {"links": kept_links.KeptLinks(Limits()), "blocks": {}})()
    )

    def body(host, query=""):
        text = TestClient(app, base_url=f"http://{host}").get("/" + query).text
        return re.search("<body>(.*)</body>", text)[1]

    assert [body("one.example"), body("one.example", "?example=bee")] == ["visit 1 by one.example"] * 2
    assert body("two.example") == "visit 2 by two.example"
    assert body("one.example") == "visit 1 by one.example"
    assert body("one.example", "?deep_link=x") == "visit 3 by one.example"
    for k in range(20):
        body(f"{k}.example")
    assert body("one.example") == "visit 24 by one.example"  # few are held
    app.auth = {"someone": "password"}
    assert [body("one.example"), body("one.example")] == [
        "visit 25 by one.example",
        "visit 26 by one.example",
    ]


def test_a_kept_file_has_no_other_name(previewed):
    client, links = previewed
    kept, _ = links.keep(shot("mine"))
    for name in ("card.jpg", "after.png.part", "../../../etc/passwd", "before.png", "%2e%2e/after.png", ""):
        assert client.get(f"/kept/{kept.token}/{name}").status_code == 404
    assert client.get(f"/kept/{kept.token}/before.jpg").status_code == 200
    assert client.post(f"/kept/{kept.token}/before.jpg").status_code in (404, 405)


def test_a_refused_deletion_does_not_say_whether_there_is_a_link(previewed):
    client, links = previewed
    kept, secret = links.keep(shot("mine"))
    address, nowhere = f"/kept/{kept.token}", f"/kept/{'x' * 32}"
    answers = [
        client.delete(path, headers=headers)
        for path in (address, nowhere)
        for headers in (
            {},
            {"cupscale-secret": ""},
            {"cupscale-secret": "guessed"},
            {"cupscale-secret": b"\xff"},
        )
    ]
    assert {one.status_code for one in answers} == {403} and len({one.content for one in answers}) == 1
    assert answers[0].json()["detail"].startswith("Nothing was deleted")
    assert len({tuple(sorted(one.headers.items())) for one in answers}) == 1
    for elsewhere in (f"{address}/after.png", f"/?kept={kept.token}", f"/card.jpg?kept={kept.token}"):
        assert client.delete(elsewhere, headers={"cupscale-secret": secret}).status_code in (404, 405)
    for method in ("GET", "POST", "PUT"):
        assert client.request(method, address, headers={"cupscale-secret": secret}).status_code in (404, 405)
    assert client.get(f"{address}/after.png").status_code == 200
    for part in (client.get(f"/?kept={kept.token}"), client.get(f"/card.jpg?kept={kept.token}")):
        assert secret not in part.text and kept.secret_hash not in part.text
    done = client.delete(address, headers={"cupscale-secret": secret})
    assert done.status_code == 204 and not kept.folder.exists()
    assert client.get(f"{address}/after.png").status_code == 404
    again = client.delete(address, headers={"cupscale-secret": secret})
    assert (again.status_code, again.content) == (403, answers[0].content)


def test_a_hostile_address_stays_text(previewed):
    client, _ = previewed
    own = client.get("/").text.count("<script>")  # the page's
    for query in ('?example="><script>x</script>', "?kept=%22%3E%3Cscript%3E"):
        text = client.get("/" + query).text
        assert text.count("<script>") == own and tags(text)["og:image"] == "http://up.example/card.jpg"
    text = client.get("/", headers={"x-forwarded-host": 'a"><script>x</script>'}).text
    assert text.count("<script>") == own


# Cards and grids


def test_a_card_shows_the_same_part_before_and_after():
    """Left half red, right half blue: the right quarter of both is blue, in the after with a green mark."""
    before = Image.new("RGB", (400, 300), "red")
    before.paste("blue", (200, 0, 400, 300))
    after = before.copy()
    ImageDraw.Draw(after).rectangle((330, 140, 369, 159), fill="lime")
    made = card.make(before, after, "A door", "x", (0.75, 0.25, 1.0, 0.75))
    assert made.size == (1200, 630)
    for x in (60, 500, 660, 1150):
        assert made.getpixel((x, 60)) == (0, 0, 255), x
    # 100 x 150 px fitted to 598 x 558 is 100 x 93.3 px about (350, 150): 5.98 card pixels a pixel
    assert made.getpixel((299, 279)) == (0, 0, 255) and made.getpixel((602 + 299, 279)) == (0, 255, 0)
    for dx, dy, inside in ((-117, 0, True), (-123, 0, False), (0, 57, True), (0, 63, False)):
        colour = made.getpixel((602 + 299 + dx, 279 + dy))
        assert (colour[1] > 200) == inside, (dx, dy, colour)


def test_a_card_looks_where_the_result_adds_most():
    before = Image.new("RGB", (2000, 900), "gray")
    after = before.copy()
    ImageDraw.Draw(after).rectangle((1500, 500, 1560, 560), fill="white")
    left, top, right, bottom = card._busiest(before, after)
    assert left <= 1500 and right >= 1560 and top <= 500 and bottom >= 560
    assert (right - left) / (bottom - top) == pytest.approx(598 / 558)
    assert left >= 0 and right <= 2000 and top >= 0 and bottom <= 900
    assert bottom - top < 900  # a part, so that detail shows


def test_what_the_font_lacks_is_left_out():
    assert card.readable("1024 × 768 → 2048") == "1024 x 768 to 2048"
    assert card.readable("Müller's  door\n1") == "Müller's door 1"
    assert card.readable("ドア") == ""
    card.make(Image.new("L", (20, 16)), Image.new("L", (20, 16)), "w" * 500, "x" * 500)


def test_a_grid_is_one_picture_at_full_size():
    shots = {"one": shot("a", "red"), "two": shot("b", "blue"), "three": shot("c", "lime")}
    with Image.open(sheet.write(shots, scratch.new_folder())) as made:
        assert made.size == (2 * (96 + 16) + 16, 2 * (64 + 56 + 16) + 16)
        assert made.getpixel((16, 16)) == (255, 0, 0)
        assert made.getpixel((16 + 112 + 95, 16 + 63)) == (0, 0, 255)
        assert made.getpixel((16, 16 + 136)) == (0, 255, 0)
        assert made.getpixel((16 + 112, 16 + 136)) == (255, 255, 255)
        for (left, top), colour in (((16, 16), "red"), ((128, 16), "blue"), ((16, 152), "lime")):
            picture = made.crop((left, top, left + 96, top + 64))
            assert picture.getcolors() == [(96 * 64, ImageColor.getrgb(colour))]  # the title is under it
            assert made.crop((left, top + 64, left + 96, top + 64 + 56)).convert("L").getextrema() == (0, 255)
    with pytest.raises(CupscaleError, match="nothing to download"):
        sheet.write({}, scratch.new_folder())


def test_a_large_grid_is_made_smaller(monkeypatch):
    monkeypatch.setattr(sheet, "_LONGEST_PX", 300)
    shots = {name: shot(name, size=(400, 100)) for name in "abcd"}
    with Image.open(sheet.write(shots, scratch.new_folder())) as made:
        assert max(made.size) <= 300
        assert made.size[0] > 280


# What a browser says of a result


def opening():
    """Without its components."""
    made = Opening.__new__(Opening)
    made._session = SimpleNamespace(
        image="image", limits=Limits(), jobs=SimpleNamespace(named=lambda token: None)
    )
    made._tab = SimpleNamespace(token="token")
    made._filling = SimpleNamespace(fill=lambda fields, size: {})
    made._tabs, made.token = "tabs", "token"
    return made


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../../etc/passwd", "/dev/zero", "/proc/self/environ", "", "http://127.0.0.1/"]
)
def test_a_browser_names_no_file_of_the_server(path, monkeypatch):
    said = []
    monkeypatch.setattr(opening_module, "complain", lambda error, title="": said.append(str(error)))
    page, event = opening(), SimpleNamespace(_data={"input": path, "settings": SETTINGS.to_json(), "id": 3})
    assert set(page.used(event, shot("mine"))) == {"image"}
    assert set(page.from_history(event, "")) == {"token"}
    assert said == [references.MISSING] * 2
    for given in ({"before": path, "after": path}, {"key": "another"}):
        with pytest.raises(gr.Error, match=r"uploads|o image yet"):
            page.carded(SimpleNamespace(_data=given), shot("mine"))


@pytest.mark.parametrize(
    "part",
    [
        [0, 0, 1],
        [0, 0, 0, 1],
        [0.5, 0, 0.4, 1],
        [0, 0, 1.1, 1],
        ["0", 0, 1, 1],
        "x",
        {},
        [float("nan"), 0, 1, 1],
    ],
)
def test_a_part_that_is_none_is_refused(part):
    with pytest.raises(gr.Error, match="damaged"):
        opening().carded(SimpleNamespace(_data={"key": "mine", "part": part}), shot("mine"))
    path = opening().carded(SimpleNamespace(_data={"key": "mine", "part": [0, 0.5, 0.5, 1]}), shot("mine"))[
        "value"
    ]
    assert Path(path).name == "mine-card.jpg"


# Blind comparisons


def three():
    return {name: shot(name, colour) for name, colour in (("c", "red"), ("a", "blue"), ("b", "lime"))}


def test_every_pair_is_met_once_and_the_result_counts():
    """a beats all, b and c draw: a 2 of 2, b and c half of 2."""
    for _ in range(5):
        trial = blind.Trial.of(three())
        assert trial.pairs == 3
        met = set()
        while trial.asked:
            asked = trial.asked
            assert not asked.expected
            met.add(asked.unit)
            wins = "first" if asked.first == "a" else "second" if asked.second == "a" else "equal"
            trial.answer(wins)
        assert len(met) == 3 == len(trial.votes)
        assert trial.result() == "3 of 3 pairs answered. a won 2 of 2; b won 0.5 of 2; c won 0.5 of 2."


def test_sides_and_order_are_drawn():
    drawn = {tuple(blind.Trial.of(three()).asked[1:3]) for _ in range(60)}
    assert len(drawn) == 6  # each of three pairs on both sides


def test_what_is_shown_tells_no_names():
    shots = three()
    trial = blind.Trial.of(shots)
    cells = trial.shown()
    colours = {"c": (255, 0, 0), "a": (0, 0, 255), "b": (0, 255, 0)}
    for (title, path, line), row in zip(cells, (trial.asked.first, trial.asked.second), strict=True):
        with Image.open(path) as image:
            assert np.array_equal(image.getpixel((0, 0)), colours[row])
            assert not image.info
        assert re.fullmatch(r"[0-9a-f]{16}\.png", Path(path).name) and line == ""
        assert title in ("Left", "Right")
        assert os.stat(path).st_size > 0


def test_a_blind_comparison_takes_two_that_are_there():
    shots = three()
    with pytest.raises(CupscaleError, match="takes two"):
        blind.Trial.of({"a": shots["a"]})
    run.forget(shots["b"])
    with pytest.raises(CupscaleError, match="compare anew"):
        blind.Trial.of(shots)
    assert blind.Trial.of({k: shots[k] for k in "ac"}).result() == "No pair was answered."


def test_a_copy_of_a_result_is_its_own_and_the_same_result():
    first = shot("one")
    other = run.copied(first)
    assert other.folder != first.folder and other.key == first.key
    run.forget(first)
    assert Path(other.png).is_file() and Path(other.before).is_file()
    with pytest.raises(CupscaleError, match="no longer on the server"):
        run.copied(replace(first, stem="x"))
