"""A reload, a lost server, a click elsewhere: the run and what was set come back."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest
from browser_hands import download, expect, give, open_part, setting, upscale, visit
from page_server import FAST, LONG, photo, start
from waiting import free_port

# The size of the result in the slider, once it is decoded.
SHOWN = """async () => {
  const image = document.querySelector('#result .cu-after'); await image.decode()
  return [image.naturalWidth, image.naturalHeight]
}"""


def kept(page, text):
    """Wait until the browser keeps it."""
    page.wait_for_function("(text) => sessionStorage.getItem('cupscale-visit')?.includes(text)", arg=text)


def test_a_reload_comes_back_to_the_run_and_its_settings(page, url, small):
    """In the queue of its own place, to its end, and to its result when it is over."""
    visit(page, url, "seed=3&steps=60&strength=0.9&guidance=4&overlap=0.5&upscaler=lanczos")
    give(page, small)
    page.locator("#set-prompt textarea").fill("a hill")
    kept(page, "a hill")
    page.locator("#run").click()
    expect(page.locator("#status")).to_contain_text("denoising")
    page.reload()
    expect(page.locator("#status")).to_contain_text(re.compile(r"step \d+ of 54|Done"))
    expect(page.locator("#set-prompt textarea")).to_have_value("a hill")
    expect(setting(page, "seed")).to_have_value("3")
    expect(page.locator("#image img")).to_be_visible()
    expect(page.locator("#status")).to_contain_text("Done.")
    expect(page.locator("#result .cu-view")).to_have_attribute("data-state", "pair")
    expect(page.locator("#png")).to_be_visible()
    page.reload()
    expect(page.locator("#result .cu-view")).to_have_attribute("data-state", "pair")
    expect(page.locator("#result .cu-note")).to_contain_text("seed 3")
    page.get_by_role("tab", name="History").click()
    expect(page.locator("#history li")).to_have_count(1)
    page.goto(url)  # and not with another link
    expect(page.locator("#plan")).to_contain_text("Choose an image")
    expect(page.locator("#result .cu-note")).to_contain_text("Example:")


def test_a_reload_can_cancel(page, url, small):
    visit(page, url, LONG)
    give(page, small)
    page.locator("#run").click()
    expect(page.locator("#status")).to_contain_text("denoising")
    page.reload()
    expect(page.locator("#status")).to_contain_text("step")
    expect(page.locator("#run")).to_be_disabled()
    page.locator("#cancel").click()
    expect(page.locator("#status")).to_contain_text("Cancelled")
    visit(page, url, FAST)
    give(page, small)
    upscale(page)


def test_a_link_that_is_opened_is_not_the_visit_before(page, url, small):
    visit(page, url, FAST + "&prompt=before")
    give(page, small)
    visit(page, url, FAST.replace("seed=3", "seed=8") + "&prompt=after")
    expect(page.locator("#set-prompt textarea")).to_have_value("after")
    expect(page.locator("#plan")).to_contain_text("Choose an image")


def test_an_image_that_the_server_forgot_is_given_to_it_again(page, url, small, folder):
    visit(page, url)
    give(page, small)
    kept(page, "small.png")
    page.wait_for_function(
        "() => new Promise((done) => { const open = indexedDB.open('cupscale-inputs'); open.onsuccess = () => {"
        " const base = open.result; if (!base.objectStoreNames.length) { base.close(); done(false); return }"
        " const all = base.transaction('inputs').objectStore('inputs').count();"
        " all.onsuccess = () => { base.close(); done(all.result === 1) } } })"
    )
    (upload,) = (folder / "tmp").glob("cupscale-*/uploads/*/small.png")
    os.utime(upload, (0, 0))  # an old file, of which a browser takes its own copy for the server's
    page.evaluate(
        "fetch(`gradio_api/file=${JSON.parse(sessionStorage.getItem('cupscale-visit')).image}`, {cache: 'reload'})"
    )
    upload.unlink()
    page.reload()
    expect(page.locator("#plan b")).to_contain_text("64 × 48 → 128 × 96")
    expect(page.locator(".toast-wrap")).not_to_contain_text("again")
    upscale(page)
    expect(page.locator("#result .cu-note")).to_contain_text("64 × 48 → 128 × 96, seed 3")


def kept_under_a_link(page, url, photograph):
    """Make a result and keep it: its link, and the secret that this browser has for it."""
    visit(page, url)
    give(page, photograph)
    upscale(page)
    open_part(page, "share")
    page.locator("#keep-link").click()
    expect(page.locator("#kept-links textarea")).to_have_value(re.compile(r"\?kept=[\w-]{32}$"))
    (link,) = page.evaluate("cupscaleLinks.live()")
    return page.locator("#kept-links textarea").input_value(), link["secret"]


def file_of(link):
    return re.sub(r"\?kept=([\w-]+)$", r"kept/\1", link)


def test_the_browser_that_made_a_link_deletes_it_later_and_no_other_can(page, chromium, url, small, folder):
    """After a reload, in another tab."""
    link, secret = kept_under_a_link(page, url, small)
    page.reload()
    open_part(page, "share")
    row = page.locator("#kept-links .cu-share > div")
    expect(row).to_have_count(1)
    expect(row).to_contain_text("Link to 64 × 48 → 128 × 96, seed 3")
    expect(row.locator("textarea")).to_have_value(link)

    context = chromium.new_context()
    other, heard = context.new_page(), []
    other.on("response", lambda answer: heard.append(answer))
    other.goto(link)
    expect(other.locator("#result .cu-view")).to_have_attribute("data-state", "pair")
    open_part(other, "share")
    expect(other.locator("#keep-link")).to_be_visible()
    expect(other.locator("#kept-links section")).to_be_attached()
    assert other.evaluate("cupscaleLinks.live()") == [] and other.locator("#kept-links textarea").count() == 0
    told = other.content() + other.request.get(f"{url}config").text()
    told += "".join(one.text() for one in heard if "json" in (one.header_value("content-type") or ""))
    token = file_of(link).rpartition("/")[2]
    refused = other.evaluate("(token) => cupscaleLinks.remove({ token, secret: token })", token)
    assert refused.startswith("Nothing was deleted") and other.request.get(f"{file_of(link)}/after.png").ok
    logs = "".join(log.read_text() for log in folder.glob("server-*.log"))
    (held,) = [
        file for file in (folder / "tmp").glob("cupscale-*/links/*/kept.json") if token in file.read_text()
    ]
    for text in (told, logs, held.read_text()):
        assert secret not in text
    context.close()

    tab = page.context.new_page()
    tab.goto(url)
    open_part(tab, "share")
    tab.locator("#kept-links").get_by_role("button", name="Delete this link").click()
    expect(tab.locator("#kept-links .cu-note")).to_contain_text("Deleted")
    expect(tab.locator("#kept-links textarea")).to_have_count(0)
    assert page.request.get(f"{file_of(link)}/after.png").status == 404
    assert not held.parent.exists()
    row.get_by_role("button", name="Delete this link").click()
    expect(page.locator("#kept-links .cu-note")).to_contain_text("Nothing was deleted: there is no link here")
    expect(row).to_have_count(0)


def test_a_link_that_seems_to_be_gone_is_forgotten_after_its_time(page, url, small):
    link, _ = kept_under_a_link(page, url, small)
    page.reload()
    page.wait_for_function("window.cupscaleLinks")  # the page's own scripts come after its HTML
    gone = "cupscaleLinks.add({ token: 'x'.repeat(32), secret: 'y', seconds: %d, note: '' })"
    held = "cupscaleBase('cupscale-links', 'links')('readonly', (links) => links.getAllKeys())"
    page.evaluate(gone % 60)
    page.route("**/card.jpg?kept=*", lambda route: route.fulfill(status=404))
    assert page.evaluate("cupscaleLinks.live()") == [] and len(page.evaluate(held)) == 2
    page.unroute("**/card.jpg?kept=*")
    assert [one["token"] for one in page.evaluate("cupscaleLinks.live()")] == [link[-32:]]
    page.evaluate(gone % -1)
    assert len(page.evaluate("cupscaleLinks.live()")) == 1 and page.evaluate(held) == [link[-32:]]
    page.evaluate("cupscaleLinks.clear()")
    assert page.evaluate(held) == []


def test_delete_all_deletes_what_is_under_links_too(page, url, small):
    link, _ = kept_under_a_link(page, url, small)
    page.reload()
    page.get_by_role("tab", name="History").click()
    note, all_of_it = page.locator("#history .cu-note"), page.get_by_role("button", name="Delete all")
    page.route("**/kept/*", lambda route: route.abort())
    all_of_it.click()
    expect(note).to_contain_text("Links to results are still there (1): the server did not delete them.")
    page.unroute("**/kept/*")
    assert page.request.get(f"{file_of(link)}/after.png").ok
    all_of_it.click()
    expect(note).to_contain_text("input images that this browser kept, and its links.")
    assert page.request.get(f"{file_of(link)}/after.png").status == 404
    assert page.evaluate("cupscaleLinks.live()") == []


def test_where_the_browser_keeps_nothing_the_visit_deletes_its_links_one_by_one(page, url, small):
    page.add_init_script("indexedDB.open = () => { throw new Error('off') }")
    link, _ = kept_under_a_link(page, url, small)
    page.locator("#keep-link").click()  # once more: the link that is there stays
    boxes, delete = page.locator("#kept-links textarea"), page.locator("#kept-links [data-do='delete']")
    expect(boxes).to_have_count(2)
    assert boxes.evaluate_all("all => all.map(one => one.value)")[1] == link
    assert page.request.get(f"{file_of(link)}/after.png").ok
    delete.nth(1).click()
    expect(page.locator("#kept-links .cu-note")).to_contain_text("Deleted")
    expect(boxes).to_have_count(1)
    assert page.request.get(f"{file_of(link)}/after.png").status == 404
    assert page.request.get(f"{file_of(boxes.input_value())}/after.png").ok


def test_captions_come_back(page, url, small):
    visit(page, url)
    give(page, small)
    page.get_by_role("tab", name="Regions").click()
    page.locator("#caption textarea").click()
    page.keyboard.insert_text("a red boat")
    expect(page.locator("#captions")).to_contain_text("a red boat")
    kept(page, "a red boat")
    page.reload()
    expect(page.get_by_role("tab", name="Regions")).to_have_attribute("aria-selected", "true")
    expect(page.locator("#captions")).to_contain_text("a red boat")


def test_the_address_carries_the_tab(page, url):
    visit(page, url)
    page.get_by_role("tab", name="Compare").click()
    expect(page).to_have_url(re.compile(r"seed=3.*&tab=compare"))
    page.goto(page.url)
    expect(page.get_by_role("tab", name="Compare")).to_have_attribute("aria-selected", "true")
    expect(page.locator("#compare-run")).to_be_visible()
    page.get_by_role("tab", name="Upscale").click()
    expect(page).not_to_have_url(re.compile("tab="))


def test_a_seed_outside_its_range_is_told_the_range(page, url, small):
    visit(page, url)
    give(page, small)
    setting(page, "seed").fill("-5")
    setting(page, "seed").press("Enter")
    expect(page.locator("#plan [data-wrong]")).to_contain_text(
        "Seed goes from 0 to 4294967295, and -5 is outside"
    )
    page.locator("#run").click()
    expect(page.locator("#refused [data-wrong]")).to_contain_text("and -5 is outside")
    expect(page.get_by_text("and -5 is outside").filter(visible=True)).to_have_count(
        1
    )  # once, and nowhere else
    expect(page.locator("#run")).to_be_enabled()


def test_an_example_does_not_hide_a_run(page, url, small):
    visit(page, url, LONG)
    give(page, small)
    page.locator("#run").click()
    expect(page.locator("#result .cu-view")).to_have_attribute("data-state", "preview")
    page.locator("#examples button img").first.click()
    expect(page.locator(".toast-wrap")).to_contain_text("The run goes on")
    kept(page, "raccoon")
    expect(page.locator("#status")).to_contain_text("denoising")
    expect(page.locator("#result .cu-view")).to_have_attribute("data-state", "preview")
    expect(page.locator("#cancel")).to_be_enabled()
    page.locator("#cancel").click()
    expect(page.locator("#status")).to_contain_text("Cancelled")


@pytest.mark.slow
def test_after_kill_9_nothing_is_lost_but_the_run_which_says_so(page, tmp_path):
    """An open tab says that nobody answers; then its settings and image, the results before and every link are there."""
    port = str(free_port())
    with start(tmp_path, GRADIO_SERVER_PORT=port) as (url, process):
        visit(page, url)
        give(page, photo(tmp_path / "small.png"))
        upscale(page)
        open_part(page, "share")
        page.locator("#keep-link").click()
        box = page.locator("#kept-links textarea")
        expect(box).to_have_value(re.compile(r"\?kept=[\w-]{32}$"))
        link, shared = box.input_value(), f"{url}?{FAST.replace('seed=3', 'seed=8')}&prompt=shared"
        made = Path(download(page, "#png").path()).read_bytes()
        open_part(page, "advanced")
        page.locator("#set-steps input").fill("1000")
        page.locator("#set-strength input").first.fill("1")
        page.locator("#set-prompt textarea").fill("kept")
        page.locator("#run").click()
        expect(page.locator("#status")).to_contain_text(re.compile(r"denoising, step \d+ of 1000"))
        kept(page, "kept")
        process.send_signal(signal.SIGKILL)
        process.wait()
        expect(page.locator(".cu-lost")).to_contain_text("The server does not answer")
    with start(tmp_path, GRADIO_SERVER_PORT=port):
        expect(page.locator("#status")).to_contain_text("The last run was lost")
        expect(page.locator("#set-prompt textarea")).to_have_value("kept")
        expect(page.locator("#plan b")).to_contain_text("64 × 48 → 128 × 96")
        expect(page.locator(".cu-lost")).to_have_count(0)
        page.get_by_role("tab", name="History").click()
        expect(page.locator("#history li")).to_have_count(1)
        page.locator("#history li").get_by_role("button", name="Open").click()
        expect(page.locator("#result .cu-view")).to_have_attribute("data-state", "pair")
        expect(page.locator("#result .cu-note")).to_contain_text("64 × 48 → 128 × 96, seed 3")
        expect(setting(page, "steps")).to_have_value("4")
        assert page.evaluate(SHOWN) == [128, 96]
        upscale(page)  # and it runs on
        page.goto(shared)
        expect(page.locator("#set-prompt textarea")).to_have_value("shared")
        expect(setting(page, "seed")).to_have_value("8")
        page.goto(link)
        expect(page.locator("#result .cu-view")).to_have_attribute("data-state", "pair")
        expect(page.locator("#result .cu-note")).to_contain_text("64 × 48 → 128 × 96, seed 3")
        assert page.request.get(page.locator("#result .cu-after").evaluate("e => e.src")).body() == made
        open_part(page, "share")
        page.locator("#kept-links").get_by_role("button", name="Delete this link").click()
        expect(page.locator("#kept-links .cu-note")).to_contain_text("Deleted")
        assert page.request.get(f"{file_of(link)}/after.png").status == 404


@pytest.mark.slow
def test_an_idle_tab_comes_back_too(page, tmp_path):
    port = str(free_port())
    with start(tmp_path, GRADIO_SERVER_PORT=port) as (url, process):
        visit(page, url)
        page.locator("#set-prompt textarea").fill("kept")
        kept(page, "kept")
        process.send_signal(signal.SIGKILL)
        process.wait()
        expect(page.locator(".cu-lost")).to_be_visible()
    with start(tmp_path, GRADIO_SERVER_PORT=port):
        expect(page.locator(".cu-lost")).to_have_count(0)
        expect(page.locator("#set-prompt textarea")).to_have_value("kept")
        give(page, photo(tmp_path / "small.png"))
