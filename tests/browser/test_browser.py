"""The page in a real browser."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import re
import shlex
import subprocess
import sys
import time
import urllib.parse
from pathlib import Path

import numpy as np
import pytest
from browser_hands import WAIT, download, expect, give, open_part, setting, upscale, visit
from gradio_client import Client, handle_file
from page_server import ENDLESS, FAST, ROOT, photo, serve
from PIL import Image

from cupscale import images
from cupscale.page import links
from cupscale.settings import Settings


def test_upload_run_progress_slider_lens_downloads(page, url, small, tmp_path):
    visit(page, url)
    give(page, small)
    plan = page.locator("#plan").inner_text()
    assert "64 × 48 → 128 × 96" in plan and "regions" in plan and "model calls" in plan

    page.evaluate("""() => {
      window.seen = [];
      const [status, view] = ['#status', '#result .cu-view'].map((name) => document.querySelector(name));
      const look = () => seen.push(status.innerText + '|' + view.dataset.state);
      new MutationObserver(look).observe(document.body, {subtree: true, childList: true, characterData: true, attributes: true});
    }""")
    upscale(page)
    seen = page.evaluate("window.seen.join('\\n')")
    assert re.search(r"step 1 of 2", seen) and "|preview" in seen and "left" in seen

    slider = page.locator("#result .cu-range")
    slider.focus()
    for _ in range(10):
        page.keyboard.press("ArrowRight")
    assert float(slider.input_value()) == 55
    assert page.locator("#result .cu-stage").evaluate("e => e.style.getPropertyValue('--cut')") == "55%"
    box = page.locator("#result .cu-stage").bounding_box()
    page.mouse.click(box["x"] + box["width"] * 0.2, box["y"] + box["height"] * 0.3)
    assert 15 < float(slider.input_value()) < 25

    page.locator("#result [data-do=lens]").click()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    lens = page.locator("#result .cu-lens")
    assert lens.is_visible()
    pane = lens.locator("span").nth(1)
    assert pane.evaluate("e => e.style.backgroundSize") == "128px 96px"  # one pixel to one pixel

    shown = [
        page.locator(f"#result .cu-{which}").evaluate("e => [e.naturalWidth, e.naturalHeight]")
        for which in ("before", "after")
    ]
    assert shown == [[128, 96], [128, 96]]
    for what, kind in (("#png", "PNG"), ("#webp", "WEBP"), ("#jpeg", "JPEG")):
        file = tmp_path / download(page, what).suggested_filename
        download(page, what).save_as(file)
        with Image.open(file) as image:
            assert (image.format, image.size) == (kind, (128, 96))
        settings = Settings.build(images.read_settings(file))
        assert (settings.scale, settings.steps, settings.model) == (2, 4, "random")


def test_location_data_is_gone_and_orientation_applied(page, url, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010F] = "SecretCamera"
    exif.get_ifd(0x8825)[1] = "N"
    path = tmp_path / "turned.jpg"
    with Image.open(photo(tmp_path / "plain.png")) as plain:
        plain.save(path, exif=exif)
    visit(page, url)
    give(page, path, "48 × 64")
    upscale(page)
    file = tmp_path / "out.jpg"
    download(page, "#jpeg").save_as(file)
    with Image.open(file) as image:
        assert image.size == (96, 128)
        assert 0x8825 not in image.getexif() and 0x010F not in image.getexif()
    assert b"SecretCamera" not in file.read_bytes()


def test_the_plan_follows_the_controls(page, url, small):
    visit(page, url)
    give(page, small)
    plan = page.locator("#plan")
    first = plan.inner_text()
    scale = page.locator("#set-scale input[type=number]")
    scale.fill("3")
    scale.press("Enter")
    expect(plan).to_contain_text("192 × 144")
    open_part(page, "advanced")
    overlap = page.locator("#set-overlap input[type=number]")
    overlap.fill("0.6")
    overlap.press("Enter")
    expect(plan).not_to_contain_text(first)
    regions = int(re.search(r"(\d+) regions", plan.inner_text())[1])
    assert regions > int(re.search(r"(\d+) regions", first)[1])
    expect(page.locator("#kept img")).to_be_visible()
    page.get_by_role("button", name="Quick", exact=True).click()
    expect(page.locator("#set-steps input")).to_have_value("16")
    page.get_by_role("button", name="Reset", exact=True).click()
    expect(page.locator("#set-steps input")).to_have_value("50")
    expect(scale).to_have_value("3")


def test_an_edited_caption_is_used_and_travels(page, url, small, tmp_path):
    visit(page, url)
    give(page, small)
    page.get_by_role("tab", name="Regions").click()
    expect(page.locator("#overlay img")).to_be_visible()
    number = page.locator("#chosen input")
    expect(page.locator("#chosen")).to_contain_text("1 to ")
    number.fill("2")
    number.press("Enter")
    text = "a <b>bold</b> red fox <img src=x onerror=window.hit=1>"
    page.locator("#caption textarea").press_sequentially(text)
    expect(page.locator("#captions")).to_contain_text("hit=1>")
    expect(page.locator("#captions")).to_contain_text("<b>bold</b>")  # as text, not as markup
    number.fill("1")
    number.press("Enter")
    expect(page.locator("#caption textarea")).to_have_value("")
    number.fill("2")
    number.press("Enter")
    expect(page.locator("#caption textarea")).to_have_value(text)
    assert page.evaluate("window.hit") is None
    saved = json.loads(Path(download(page, "#save").path()).read_text())
    assert [region["caption"] for region in saved["regions"]] == [text]
    page.get_by_role("tab", name="Upscale").click()
    upscale(page)
    file = tmp_path / "out.png"
    download(page, "#png").save_as(file)
    used = images.read_settings(file)["captions"]
    assert [caption["caption"] for caption in used] == [text]

    open_part(page, "share")
    link = page.locator('[data-row="link"] textarea').input_value()
    packed = dict(urllib.parse.parse_qsl(link.partition("?")[2]))["captions"]
    assert [caption["caption"] for caption in links.unpack_captions(packed)] == [text]
    other = page.context.browser.new_context()
    fresh = other.new_page()
    fresh.goto(link)
    fresh.locator("#image input[type=file]").set_input_files(str(small))
    fresh.get_by_role("tab", name="Regions").click()
    expect(fresh.locator("#captions")).to_contain_text("red fox")
    assert fresh.evaluate("window.hit") is None
    other.close()


def test_a_click_on_the_grid_chooses_a_region(page, url, small):
    visit(page, url)
    give(page, small)
    page.get_by_role("tab", name="Regions").click()
    picture = page.locator("#overlay img")
    expect(picture).to_be_visible()
    box = picture.bounding_box()
    page.mouse.click(box["x"] + box["width"] * 0.95, box["y"] + box["height"] * 0.95)
    last = int(re.search(r"1 to (\d+)", page.locator("#chosen").inner_text())[1])
    expect(page.locator("#chosen input")).to_have_value(str(last))
    expect(page.locator("#crop img")).to_be_visible()


def test_captions_from_a_file(page, url, small, tmp_path):
    visit(page, url)
    give(page, small)
    file = tmp_path / "captions.json"
    file.write_text(
        json.dumps({"size": [256, 192], "regions": [{"box": [0, 0, 128, 128], "caption": "a blue door"}]})
    )
    page.get_by_role("tab", name="Regions").click()
    expect(page.locator("#overlay img")).to_be_visible()
    page.locator("input[type=file][accept*='.json']").set_input_files(str(file))
    expect(page.locator("#captions")).to_contain_text("a blue door")
    bad = tmp_path / "bad.json"
    bad.write_text("{")
    page.locator("input[type=file][accept*='.json']").set_input_files(str(bad))
    expect(page.locator(".toast-wrap")).to_contain_text("not JSON")
    expect(page.locator("#captions")).to_contain_text("a blue door")


def test_a_link_opens_in_a_fresh_browser(page, url):
    query = FAST + "&prompt=" + urllib.parse.quote("a fox & <i>snow</i>") + "&scale=3.5&cutoff=0.31"
    query = query.replace("seed=3", "seed=77")
    visit(page, url, query)
    expect(page.locator("#set-prompt textarea")).to_have_value("a fox & <i>snow</i>")
    expect(setting(page, "seed")).to_have_value("77")
    expect(page.locator("#set-scale input[type=number]")).to_have_value("3.5")
    open_part(page, "share")
    expect(page.locator('[data-row="command"] textarea')).to_have_value(re.compile("--seed 77"))
    link = page.locator('[data-row="link"] textarea').input_value()
    assert link.startswith(url)
    given = dict(urllib.parse.parse_qsl(link.partition("?")[2]))
    assert (given["seed"], given["scale"], given["cutoff"], given["prompt"]) == (
        "77",
        "3.5",
        "0.31",
        "a fox & <i>snow</i>",
    )
    expect(page.locator("#share-rows .cu-note")).to_contain_text("cannot be in a link")
    copy = page.locator('[data-row="link"] button')
    for _ in range(2):
        copy.click()
        expect(copy).to_have_text("Copied")
    expect(copy).to_have_text("Copy link")  # and not "Copied" for ever
    open_part(page, "advanced")
    expect(page.locator("#set-cutoff input[type=number]")).to_have_value("0.31")


def test_a_bad_part_of_a_link_is_named_and_the_rest_kept(page, url):
    page.goto(f"{url}?seed=5&scale=99&example=nowhere&captions=damaged&model=%2Fetc")
    toasts = page.locator(".toast-wrap")
    expect(toasts).to_contain_text("scale")
    expect(toasts).to_contain_text("captions")
    expect(toasts).to_contain_text("not on this page")
    expect(setting(page, "seed")).to_have_value("5")


def test_a_result_gives_its_settings_back(page, url, small, tmp_path):
    settings = Settings(prompt="an old door", seed=123, scale=2.5, steps=7, cutoff=0.27, model="random")
    file = tmp_path / "made.webp"
    images.write(Image.new("RGB", (80, 60), "teal"), file, settings.to_json())
    visit(page, url)
    open_part(page, "share")
    page.locator("#restore input[type=file]").set_input_files(str(file))
    expect(page.locator("#set-prompt textarea")).to_have_value("an old door")
    expect(setting(page, "seed")).to_have_value("123")
    open_part(page, "advanced")
    expect(page.locator("#set-steps input")).to_have_value("7")
    page.locator("#restore button[aria-label*='emove'], #restore button[aria-label*='lear']").first.click()
    page.locator("#restore input[type=file]").set_input_files(str(small))
    expect(page.locator(".toast-wrap")).to_contain_text("no settings of ours")
    expect(page.locator("#set-prompt textarea")).to_have_value("an old door")


def test_history_is_kept_by_the_browser_and_can_be_deleted(page, url, small):
    visit(page, url, FAST.replace("seed=3", "seed=41") + "&prompt=kept")
    give(page, small)
    upscale(page)
    page.get_by_role("tab", name="History").click()
    entries = page.locator("#history li")
    expect(entries).to_have_count(1)
    page.goto(url)
    page.get_by_role("tab", name="History").click()
    expect(entries).to_have_count(1)
    with page.expect_download() as waiting:
        page.get_by_role("button", name=re.compile("^Download .*seed41")).click()
    with Image.open(io.BytesIO(Path(waiting.value.path()).read_bytes())) as image:
        assert image.size == (128, 96)
    page.get_by_role("button", name=re.compile("^Use the settings")).click()
    page.get_by_role("tab", name="Upscale").click()
    expect(setting(page, "seed")).to_have_value("41")
    expect(page.locator("#set-prompt textarea")).to_have_value("kept")
    page.get_by_role("tab", name="History").click()
    page.get_by_role("button", name=re.compile("^Delete .*seed41")).click()
    expect(entries).to_have_count(0)
    page.reload()
    page.get_by_role("tab", name="History").click()
    expect(entries).to_have_count(0)
    held = "() => new Promise((done) => { const open = indexedDB.open('cupscale-inputs'); open.onsuccess = () => {"
    held += " const all = open.result.transaction('inputs').objectStore('inputs').count();"
    held += " all.onsuccess = () => { open.result.close(); done(all.result) } } })"
    assert page.evaluate(held) == 1  # the input is there though no result is
    page.get_by_role("button", name="Delete all").click()
    expect(page.locator("#history .cu-note")).to_contain_text("Deleted: the results and the input images")
    assert page.evaluate(held) == 0


def test_compare_shows_the_variants_under_one_zoom(page, url, small):
    visit(page, url)
    give(page, small)
    page.get_by_role("tab", name="Compare").click()
    page.get_by_label("+ RSP (C-Upscale)").uncheck()
    page.locator("#compare-run").click()
    expect(page.locator("#compare-status")).to_contain_text("Done.")
    pictures = page.locator("#grid img")
    expect(pictures).to_have_count(4)
    cells = page.locator("#grid .cu-cells")
    page.locator("#grid [data-do=reset]").focus()
    page.keyboard.press("Tab")
    assert cells.evaluate("e => e === document.activeElement && getComputedStyle(e).outlineStyle") == "solid"
    page.keyboard.press("+")
    page.keyboard.press("ArrowRight")

    def moved():
        moves = pictures.evaluate_all("all => all.map((e) => e.style.transform)")
        assert len(set(moves)) == 1
        return [
            float(number) for number in re.findall(r"-?[\d.]+", moves[0])
        ]  # scale, and percent to the right and down

    assert moved() == pytest.approx([1.25, -8, 0])
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("-")
    pictures.nth(1).scroll_into_view_if_needed()
    box = pictures.nth(1).bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.wheel(0, -100)
    page.wait_for_function("document.querySelector('#grid img').style.transform.startsWith('scale(1.2)')")
    page.mouse.down()
    page.mouse.move(x + box["width"] * 0.05, y - box["height"] * 0.03)  # the picture goes with the hand
    page.mouse.up()
    assert moved() == pytest.approx([1.2, 5 / 1.2, -3 / 1.2], abs=0.1)


BAD = {
    "text.png": (b"this is no picture", "not an image"),
    "cut.png": (None, "truncated"),
    "dot.png": (None, "16"),
    "large.png": (None, "megapixels"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_images_are_refused_and_nothing_typed_is_lost(page, url, tmp_path, name):
    data, words = BAD[name]
    buffer = io.BytesIO()
    if name == "cut.png":
        with Image.open(photo(tmp_path / "whole.png", (200, 200))) as image:
            image.save(buffer, "PNG")
        data = buffer.getvalue()[: len(buffer.getvalue()) // 2]
    elif name == "dot.png":
        Image.new("RGB", (12, 40)).save(buffer, "PNG")
        data = buffer.getvalue()
    elif name == "large.png":
        Image.new("1", (16000, 8000)).save(buffer, "PNG")
        data = buffer.getvalue()
    path = tmp_path / name
    path.write_bytes(data)
    visit(page, url)
    page.locator("#set-prompt textarea").fill("keep me")
    page.locator("#image input[type=file]").set_input_files(str(path))
    plan = page.locator("#plan [data-wrong]")
    expect(plan).to_contain_text(words)
    assert "/tmp" not in plan.inner_text()
    page.locator("#run").click()
    refused = page.locator("#refused [data-wrong]")
    expect(refused).to_contain_text(words)  # said again, in the plan's place
    expect(page.get_by_text(refused.inner_text()).filter(visible=True)).to_have_count(1)
    expect(page.locator("#run")).to_be_enabled()
    expect(page.locator("#set-prompt textarea")).to_have_value("keep me")
    open_part(page, "advanced")
    expect(page.locator("#set-steps input")).to_have_value("4")


def test_no_image_and_too_large_an_output_are_refused(page, url, tmp_path):
    visit(page, url)
    page.locator("#run").click()
    expect(page.locator("#refused [data-wrong]")).to_contain_text("upload, paste or drop")
    visit(page, url, FAST + "&scale=16")
    give(page, photo(tmp_path / "long.png", (1100, 20)), "1100")
    expect(page.locator("#plan [data-wrong]")).to_contain_text("16384")


def test_formats_a_browser_cannot_show_are_shown(page, url, tmp_path):
    path = tmp_path / "deep.tiff"
    Image.fromarray(np.linspace(0, 65535, 64 * 48).astype(np.uint16).reshape(48, 64)).save(path)
    visit(page, url)
    give(page, path)
    expect(page.locator("#image img")).to_be_visible()
    assert (
        page.locator("#image img").evaluate("async (e) => { await e.decode(); return e.naturalWidth }") == 64
    )


def test_phone_width_has_no_sideways_scroll(phone, url, small):
    page = phone
    visit(page, url)
    give(page, small)
    upscale(page)
    for name in ("Upscale", "Regions", "Batch", "Compare", "History"):
        tab = page.get_by_role("tab", name=name)
        if tab.count() and tab.first.is_visible():
            tab.first.click()
        else:
            page.locator(".overflow-menu button").first.click()
            page.locator(".overflow-dropdown button", has_text=name).click()
        page.wait_for_timeout(150)
        assert page.evaluate("document.documentElement.scrollWidth") <= 375, name


def test_dark_follows_the_system(chromium, url):
    context = chromium.new_context(color_scheme="dark")
    page = context.new_page()
    page.goto(url)
    page.locator("#run").wait_for()
    expect(page.locator("body")).to_have_class(re.compile("dark"))
    colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert sum(int(part) for part in re.findall(r"\d+", colour)[:3]) < 200
    context.close()


def unnamed(page):
    """Controls on show that a screen reader has no name for."""
    return page.evaluate("""() => {
      const named = (e) => e.getAttribute('aria-label') || e.getAttribute('aria-labelledby') || e.title || e.innerText?.trim()
        || e.closest('label')?.innerText.trim() || (e.id && document.querySelector(`label[for="${e.id}"]`))
        || e.getAttribute('placeholder') || e.alt || e.querySelector('img')?.alt;
      return [...document.querySelectorAll('button, input, textarea, select')]
        .filter((e) => e.offsetParent && !named(e)).map((e) => e.outerHTML.slice(0, 200));
    }""")


def test_keyboard_alone_and_labels(page, url, small):
    visit(page, url)
    give(page, small)
    for part in ("advanced", "share"):
        open_part(page, part)
    for name in ("Regions", "Batch", "Compare", "History", "Upscale"):
        tab = page.get_by_role("tab", name=name)
        tab.focus()
        page.keyboard.press("Enter")
        expect(tab).to_have_attribute("aria-selected", "true")
        assert unnamed(page) == [], name
    for part in ("advanced", "share"):
        page.locator(f"#{part} button.label-wrap").first.click()
    page.locator("#set-prompt textarea").focus()
    for _ in range(12):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "run":
            break
    assert page.evaluate("document.activeElement.id") == "run"
    page.keyboard.press("Enter")
    expect(page.locator("#status")).to_contain_text("Done.")


def test_two_visitors_do_not_see_each_other(chromium, url, tmp_path):
    pages = []
    for k in range(2):
        context = chromium.new_context()
        context.set_default_timeout(WAIT)
        page = context.new_page()
        visit(page, url, FAST.replace("seed=3", f"seed={k + 1}"))
        give(page, photo(tmp_path / f"visitor{k}.png", seed=k + 5))
        pages.append(page)
    for page in pages:
        page.locator("#run").click()
    for k, page in enumerate(pages):
        expect(page.locator("#status")).to_contain_text("Done.")
        expect(page.locator("#result .cu-note")).to_contain_text(f"seed {k + 1}")
        page.get_by_role("tab", name="History").click()
        expect(page.locator("#history li")).to_have_count(1)
        page.context.close()


def picture_of(page, selector):
    """What an image on the page shows, as an array."""
    data = page.locator(selector).evaluate("""async (e) => {
      const blob = await (await fetch(e.src)).blob();
      return await new Promise((done) => {
        const reader = new FileReader(); reader.onload = () => done(reader.result.split(',')[1]); reader.readAsDataURL(blob);
      });
    }""")
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        return np.asarray(image.convert("L")).astype(float)


def test_the_cutoff_picture_shows_what_is_kept(page, url, small):
    visit(page, url)
    give(page, small)
    open_part(page, "advanced")
    field = page.locator("#set-cutoff input[type=number]")
    roughness = {}
    for cutoff in ("0.05", "1"):
        before = page.locator("#kept img").get_attribute("src")
        field.fill(cutoff)
        field.press("Enter")
        expect(page.locator("#kept img")).not_to_have_attribute("src", before)
        roughness[cutoff] = np.abs(np.diff(picture_of(page, "#kept img"), axis=1)).mean()
    assert roughness["0.05"] < 0.7 * roughness["1"]


def test_paper_sets_what_the_paper_states(page, url):
    visit(page, url)
    open_part(page, "advanced")
    page.get_by_role("button", name="Paper", exact=True).click()
    expect(page.locator("#set-strength input[type=number]")).to_have_value("0.45")
    expect(page.locator("#set-overlap input[type=number]")).to_have_value("0.5")
    expect(page.locator("#set-steps input")).to_have_value("50")


def test_a_new_seed_for_every_run_is_shown_and_used(page, url, small, tmp_path):
    visit(page, url)
    give(page, small)
    seed = setting(page, "seed")
    page.get_by_label("Randomize seed").check()
    shown = "3"
    for k in range(2):
        page.locator("#run").click()
        expect(seed).not_to_have_value(shown)
        shown = seed.input_value()
        expect(page.locator("#result .cu-note")).to_contain_text(f"seed {shown}")
        file = tmp_path / f"{k}.png"
        download(page, "#png").save_as(file)
        assert images.read_settings(file)["seed"] == int(shown)


def test_a_cell_of_the_table_is_edited_and_used(page, url, small, tmp_path):
    visit(page, url)
    give(page, small)
    page.get_by_role("tab", name="Regions").click()
    expect(page.locator("#captions")).to_contain_text("0, 0")
    cell = page.locator("#captions [data-testid='cell-1-2']")
    cell.dblclick()
    page.keyboard.type("a wet stone")
    page.keyboard.press("Enter")
    expect(page.locator("#captions")).to_contain_text("a wet stone")
    expect(page.locator("#chosen input")).to_have_value("2")
    expect(page.locator("#caption textarea")).to_have_value("a wet stone")
    saved = json.loads(Path(download(page, "#save").path()).read_text())
    assert [region["caption"] for region in saved["regions"]] == ["a wet stone"]
    page.get_by_role("tab", name="Upscale").click()
    upscale(page)
    file = tmp_path / "out.png"
    download(page, "#png").save_as(file)
    assert [caption["caption"] for caption in images.read_settings(file)["captions"]] == ["a wet stone"]
    page.get_by_role("tab", name="Regions").click()
    page.locator("#clear").click()
    expect(page.locator("#captions")).not_to_contain_text("a wet stone")


def choose(page, selector, text):
    """An option of a dropdown."""
    page.locator(f"{selector} input").click()
    page.get_by_role("option", name=text, exact=True).click()


def test_captions_are_written_by_a_button_and_a_failure_leaves_the_prompt(page, url, small):
    visit(page, url, FAST + "&prompt=kept")
    give(page, small)
    page.get_by_role("tab", name="Regions").click()
    expect(page.locator("#overlay img")).to_be_visible()
    choose(page, "#captioner", "away")
    page.locator("#write").click()
    expect(page.locator(".toast-wrap")).to_contain_text("no connection")
    expect(page.locator("#writing")).to_contain_text("use the prompt")
    choose(page, "#captioner", "appearance")
    page.locator("#write").click()
    expect(page.locator("#writing")).to_contain_text(re.compile(r"\d+ of \d+ regions have a caption"))
    page.get_by_role("tab", name="Upscale").click()
    expect(page.locator("#set-prompt textarea")).to_have_value("kept")
    upscale(page)


def test_an_example_is_shown_at_a_click_and_goes_into_the_link(page, url):
    page.goto(url)
    page.locator("#examples button img").first.click()
    expect(page.locator("#result .cu-view")).to_have_attribute("data-state", "pair")
    expect(page.locator("#result .cu-note")).to_contain_text("Example:")
    expect(page.locator("#plan")).to_contain_text("regions")
    open_part(page, "share")
    link = page.locator('[data-row="link"] textarea')
    expect(link).to_have_value(re.compile("example=raccoon"))
    page.goto(link.input_value())
    expect(page.locator("#result .cu-note")).to_contain_text("Example:")
    expect(page.locator("#image img")).to_be_visible()


def test_the_copied_command_and_python_make_the_same_picture(page, url, small, tmp_path):
    visit(page, url, FAST + "&model=tiny&scale=1.5&prompt=it%27s%20a%20%22hill%22")
    give(page, small)
    open_part(page, "share")
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    texts = {}
    for row in ("command", "python"):
        page.locator(f'[data-row="{row}"] button').click()
        texts[row] = page.evaluate("navigator.clipboard.readText()")
        assert texts[row] == page.locator(f'[data-row="{row}"] textarea').input_value()
    upscale(page)
    download(page, "#png").save_as(tmp_path / "page.png")
    words = shlex.split(texts["command"])
    assert words[:4] == ["python", "-m", "cupscale", "upscale"]
    program = tmp_path / "run.py"
    program.write_text(texts["python"])
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    for command in ([sys.executable, *words[1:], "--out", "command.png"], [sys.executable, str(program)]):
        subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True)
    made = [np.asarray(Image.open(tmp_path / name)) for name in ("page.png", "command.png", "big.png")]
    assert made[0].shape == (72, 96, 3)
    for other in made[1:]:
        assert np.abs(made[0].astype(int) - other).max() <= 1


def test_paste_and_webcam(chromium, url, small):
    context = chromium.new_context(permissions=["clipboard-read", "clipboard-write", "camera"])
    context.set_default_timeout(WAIT)
    page = context.new_page()
    visit(page, url)
    page.evaluate(
        """async (data) => {
      const blob = await (await fetch('data:image/png;base64,' + data)).blob();
      await navigator.clipboard.write([new ClipboardItem({'image/png': blob})]);
    }""",
        base64.b64encode(small.read_bytes()).decode(),
    )
    page.locator("#image button[aria-label*='lipboard']").click()
    expect(page.locator("#plan")).to_contain_text("64 × 48")
    page.locator("#image button[aria-label*='lear'], #image button[aria-label*='emove']").first.click()
    expect(page.locator("#plan")).to_contain_text("Choose an image")
    page.get_by_label("Capture from camera").click()
    page.get_by_text("Click to Access Webcam").click()
    page.wait_for_function("() => document.querySelector('#image video')?.videoWidth > 0")
    taken = re.compile(r"\d+ × \d+ → .*regions")
    for _ in range(6):  # a click before the camera's first frame takes nothing, and a person clicks again
        if page.get_by_label("capture photo").is_visible():
            page.get_by_label("capture photo").click()
        with contextlib.suppress(AssertionError):
            expect(page.locator("#plan")).to_contain_text(taken, timeout=10_000)
            break
    expect(page.locator("#plan")).to_contain_text(taken)
    context.close()


def test_a_full_queue_says_how_much_waits_and_keeps_all(page, tmp_path):
    endless = json.dumps(ENDLESS)
    picture = photo(tmp_path / "queued.png")
    with serve(tmp_path, CUPSCALE_QUEUE="1") as address:
        client = Client(address, verbose=False)
        jobs = []
        for _ in range(2):
            jobs.append(client.submit(handle_file(picture), scale=2, settings=endless, api_name="/upscale"))
            while not jobs[-1].outputs():  # the first one runs, the second one was told its place
                time.sleep(0.1)
        visit(page, address, FAST + "&prompt=kept")
        page.locator("#image input[type=file]").set_input_files(str(picture))
        expect(page.locator("#image img")).to_be_visible()
        page.locator("#run").click()
        expect(page.locator(".toast-wrap")).to_contain_text(re.compile("The queue is full: 1 run.*try again"))
        expect(page.locator("#set-prompt textarea")).to_have_value("kept")
        expect(page.locator("#run")).to_be_enabled()
        for job in jobs:
            job.cancel()


def test_a_picture_is_drawn_from_the_prompt_and_becomes_the_input(page, url):
    """Another seed draws another; what was drawn is enlarged like any image."""
    visit(page, url, f"{FAST}&scale=2")
    page.locator("#draw").click()
    expect(page.locator("#refused [data-wrong]")).to_contain_text("neither an image nor a prompt")
    page.locator("#set-prompt textarea").fill("a lighthouse in a storm")
    page.locator("#draw").click()
    expect(page.locator("#status")).to_contain_text("Drawn.")
    image = page.locator("#image img")
    expect(image).to_be_visible()
    first = image.get_attribute("src")
    expect(page.locator("#plan")).to_contain_text("64 × 64 → 128 × 128")
    setting(page, "seed").fill("9")
    page.locator("#draw").click()
    expect(image).not_to_have_attribute("src", first)
    expect(page.locator("#draw")).to_be_enabled()
    upscale(page)
    expect(page.locator("#png")).to_be_visible()


@pytest.mark.parametrize("how", ["pasted", "dictated"])
def test_a_caption_that_no_key_wrote_is_used(page, url, small, tmp_path, how):
    visit(page, url)
    give(page, small)
    page.get_by_role("tab", name="Regions").click()
    box = page.locator("#caption textarea")
    expect(page.locator("#captions")).to_contain_text("1")
    box.click()
    if how == "dictated":
        page.keyboard.insert_text("a red boat")  # an input event and no key, as phones and dictation do
    else:
        page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        page.evaluate("navigator.clipboard.writeText('a red boat')")
        page.keyboard.press("Control+V")
    expect(page.locator("#captions")).to_contain_text("a red boat")
    page.get_by_role("tab", name="Upscale").click()
    upscale(page)
    name = tmp_path / "made.png"
    download(page, "#png").save_as(name)
    assert images.read_settings(name)["captions"][0]["caption"] == "a red boat"


CONTRASTS = """() => {
  const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number)
  const linear = (c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4
  const luminance = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b)
  const background = (node) => {
    for (; node; node = node.parentElement) {
      const style = getComputedStyle(node)
      if (style.backgroundImage !== 'none') return null
      const [r, g, b, a = 1] = numbers(style.backgroundColor)
      if (a > 0.95) return [r, g, b]
    }
    return [255, 255, 255]
  }
  const found = []
  for (const node of document.querySelectorAll('body *')) {
    const own = [...node.childNodes].some((child) => child.nodeType === 3 && child.textContent.trim())
    const hint = node.placeholder && !node.value
    if (!(own || hint) || !node.checkVisibility({opacityProperty: true, visibilityProperty: true})) continue
    const box = node.getBoundingClientRect()
    if (box.width < 2 || box.height < 2 || node.closest('button:disabled, svg, footer, .cu-stage')) continue
    const behind = background(node), style = getComputedStyle(node, hint ? '::placeholder' : null)
    if (!behind) continue
    const [one, other] = [luminance(numbers(style.color)), luminance(behind)].sort((a, b) => b - a)
    const ratio = (one + 0.05) / (other + 0.05)
    const text = hint ? node.placeholder : node.textContent
    if (ratio < 4.5) found.push(`${ratio.toFixed(2)} ${node.tagName} ${text.trim().slice(0, 40)}`)
  }
  return found
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_can_be_read(chromium, url, scheme):
    """A contrast of 4.5 to 1 at least (WCAG 2.2, 1.4.3), on every tab, with Advanced open."""
    context = chromium.new_context(viewport={"width": 1280, "height": 900}, color_scheme=scheme)
    context.set_default_timeout(WAIT)
    page = context.new_page()
    visit(page, url)
    open_part(page, "advanced")
    expect(page.locator("#set-strength")).to_be_visible()
    for tab in ("Upscale", "Regions", "Batch", "Compare", "History"):
        page.get_by_role("tab", name=tab).click()
        expect(page.get_by_role("tab", name=tab)).to_have_attribute("aria-selected", "true")
        assert page.evaluate(CONTRASTS) == [], tab
    context.close()


def test_a_slider_shows_that_it_has_the_focus(page, url):
    visit(page, url)
    page.locator("#set-scale input[type=number]").focus()
    for _ in range(4):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.type") == "range":
            break
    style = page.evaluate(
        "(({outlineStyle, outlineWidth}) => [outlineStyle, outlineWidth])(getComputedStyle(document.activeElement))"
    )
    assert page.evaluate("document.activeElement.type") == "range" and style == ["solid", "3px"]


def transparent(path):
    """Its left half shows what is behind it."""
    image = Image.open(photo(path)).convert("RGBA")
    alpha = Image.new("L", image.size, 255)
    alpha.paste(0, (0, 0, image.width // 2, image.height))
    image.putalpha(alpha)
    image.save(path)
    return path


def test_a_jpeg_is_of_what_is_shown(page, url, small, tmp_path):
    """After a photograph, a transparent picture: its JPEG lies on white, and is not the photograph's."""
    visit(page, url)
    give(page, small)
    upscale(page)
    first = tmp_path / "first.jpg"
    expect(page.locator("#jpeg")).to_have_text("Download JPEG")
    download(page, "#jpeg").save_as(first)
    give(page, transparent(tmp_path / "clear.png"))
    upscale(page)
    expect(page.locator("#jpeg")).to_have_text("Download JPEG on white")
    waiting = download(page, "#jpeg")
    assert waiting.suggested_filename.endswith("-on-white.jpg") and "clear" in waiting.suggested_filename
    waiting.save_as(tmp_path / "second.jpg")
    with Image.open(tmp_path / "second.jpg") as image:
        assert np.asarray(image)[:, : image.width // 4].min() > 245  # white, but for the JPEG's own error


def test_captions_follow_a_new_scale(page, url, small, tmp_path):
    """Each new region takes the caption of the old one that covers most of it; going back brings the old ones."""
    visit(page, url)
    give(page, small)
    page.get_by_role("tab", name="Regions").click()
    page.locator("#caption textarea").click()
    page.keyboard.insert_text("a red boat")
    expect(page.locator("#captions")).to_contain_text("a red boat")
    page.get_by_role("tab", name="Upscale").click()
    page.locator("#set-scale input[type=number]").fill("4")
    page.locator("#set-scale input[type=number]").press("Enter")
    expect(page.locator("#plan")).to_contain_text("each took the caption of the one that covers most of it")
    upscale(page)
    name = tmp_path / "made.png"
    download(page, "#png").save_as(name)
    used = images.read_settings(name)["captions"]
    assert used and {one["caption"] for one in used} == {"a red boat"}
    assert [0, 0, 64, 64] in [one["box"] for one in used]


def test_copied_commands_name_the_persons_own_file(page, url, tmp_path):
    visit(page, url)
    Image.open(photo(tmp_path / "x.png")).save(tmp_path / "me.jpg")
    Image.open(photo(tmp_path / "x.png")).save(tmp_path / "scan.tif")
    open_part(page, "share")
    for name in ("me.jpg", "scan.tif"):
        give(page, tmp_path / name)
        for row in ("command", "python"):
            expect(page.locator(f'[data-row="{row}"] textarea')).to_have_value(re.compile(rf"\b{name}\b"))
    page.locator("#examples button").nth(1).click()
    command = page.locator('[data-row="command"] textarea')
    expect(command).to_have_value(re.compile("cupscale/assets/examples/"))
    assert (ROOT / shlex.split(command.input_value())[4]).is_file()
