"""The Upscale button has captions written, as in the paper: seen as they arrive, stopped, edited, never overwritten."""

from __future__ import annotations

import re

import pytest
from browser_hands import download, expect, give, upscale, visit
from caption_server import caption_server
from page_server import FAST, photo, serve

from cupscale import images

PROMPTED = FAST + "&prompt=a%20farm"  # so that the captions alone are asked for


@pytest.fixture
def writer():
    with caption_server() as server:
        yield server


@pytest.fixture
def farm(tmp_path, writer):
    """A page whose `auto` is a caption server."""
    with serve(tmp_path, CUPSCALE_CAPTIONER=writer.url) as address:
        yield address


@pytest.fixture
def wide(tmp_path):
    """Of regions that no two share a caption."""
    return photo(tmp_path / "wide.png", (96, 64), seed=4)


def used(page, path):
    download(page, "#png").save_as(path)
    return images.read_settings(path)["captions"]


def test_the_plan_says_who_writes_and_how_often(page, farm, wide, writer):
    visit(page, farm, PROMPTED)
    give(page, wide, "96")
    expect(page.locator("#plan")).to_contain_text(re.compile(r"\d+ captioner calls of .*small-vlm|model at"))
    page.get_by_role("tab", name="Regions").click()
    page.locator("#captioner input").click()
    page.get_by_role("option", name="none", exact=True).click()
    page.get_by_role("tab", name="Upscale").click()
    expect(page.locator("#plan")).not_to_contain_text("captioner")
    upscale(page)
    assert writer.seen == 0


def test_upscale_writes_captions_and_the_file_says_who(page, farm, wide, writer, tmp_path):
    writer.let(10_000)
    visit(page, farm, PROMPTED)
    give(page, wide, "96")
    upscale(page)
    captions = used(page, tmp_path / "made.png")
    assert captions and all(one["caption"].startswith("a red barn") for one in captions)
    assert all("small-vlm" in one["source"] for one in captions)
    page.get_by_role("tab", name="Regions").click()
    expect(page.locator("#captions")).to_contain_text("a red barn, number 1")


def test_captions_are_seen_as_they_arrive_and_a_person_stops_edits_and_goes_on(
    page, farm, wide, writer, tmp_path
):
    visit(page, farm, PROMPTED)
    give(page, wide, "96")
    writer.let(2)
    page.locator("#run").click()
    expect(page.locator("#status")).to_contain_text(re.compile(r"writing captions, call 2 of"))
    page.get_by_role("tab", name="Regions").click()
    expect(page.locator("#captions")).to_contain_text("a red barn, number 2")
    page.get_by_role("tab", name="Upscale").click()
    page.locator("#cancel").click()
    expect(page.locator("#status")).to_contain_text("Upscale goes on with them")
    page.get_by_role("tab", name="Regions").click()
    cells = page.locator("#captions [data-testid^='cell-'][data-testid$='-2']").filter(has_text="a red barn")
    expect(cells).to_have_count(2)
    row = int(cells.first.get_attribute("data-testid").split("-")[1])
    page.locator("#chosen input").fill(str(row + 1))
    page.locator("#chosen input").press("Enter")
    box = page.locator("#caption textarea")
    expect(box).to_have_value(re.compile("a red barn"))
    box.fill("a blue barn")
    expect(page.locator("#captions")).to_contain_text("a blue barn")
    page.get_by_role("tab", name="Upscale").click()
    upscale(page)
    captions = used(page, tmp_path / "made.png")
    assert sorted(one["caption"].split(",")[0] for one in captions) == ["a blue barn", "a red barn"]
    assert {one["source"] for one in captions if "blue" in one["caption"]} == {"user"}


def step(page, name):
    """The number of the step that a handler does."""
    return page.evaluate("(name) => gradio_config.dependencies.find((d) => d.api_name === name).id", name)


def test_what_is_typed_while_captions_arrive_stays(page, farm, wide, writer):
    """The table is slow to follow the first caption: it follows the later ones all the same, and keeps the typed words."""
    visit(page, farm, PROMPTED)
    give(page, wide, "96")
    page.locator("#run").click()
    expect(page.locator("#status")).to_contain_text("writing captions")
    page.get_by_role("tab", name="Regions").click()
    page.locator("#caption textarea").click()
    page.keyboard.insert_text("my own")
    expect(page.locator("#captions")).to_contain_text("my own")
    number, held = step(page, "refresh"), []

    def follows(request):
        return request.method == "POST" and f'"fn_index":{number},' in (request.post_data or "")

    def hold(route):
        if held or not follows(route.request):
            route.continue_()
        else:
            held.append((route, route.fetch()))  # of what is known now

    page.route(re.compile("gradio_api"), hold)
    with page.expect_request(follows):
        writer.let(1)
    page.keyboard.insert_text(" words")
    writer.let(10_000)
    expect(page.locator("#status")).to_have_text("Done.")
    (route, answer), *_ = held
    route.fulfill(response=answer)
    expect(page.locator("#captions")).to_contain_text("my own words")
    # The regions are asked for together, so which number would have been the typed one's is not known.
    page.wait_for_function(
        "() => new Set(document.querySelector('#captions').innerText.match(/a red barn, number \\d+/g)).size === 11"
    )
    page.unroute_all()
