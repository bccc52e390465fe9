"""Several pictures: a batch, the history, comparisons and their blind form, and links that keep a result."""

from __future__ import annotations

import io
import re
import zipfile
from pathlib import Path

import pytest
from browser_hands import WAIT, download, expect, give, open_part, upscale, visit
from page_server import FAST, photo, serve
from PIL import Image

from cupscale import images
from cupscale.page.batch import BECAUSE


@pytest.fixture
def several(tmp_path):
    """Three pictures, two of them of one name, and a file that is none."""
    (tmp_path / "other").mkdir()
    bad = tmp_path / "notes.txt"
    bad.write_text("no picture")
    paths = [photo(tmp_path / "a.png", (64, 48)), photo(tmp_path / "other" / "a.png", (72, 48), seed=1)]
    return [str(path) for path in (*paths, bad, photo(tmp_path / "c.png", (48, 64), seed=2))]


def batch(page, paths):
    page.get_by_role("tab", name="Batch").click()
    page.locator("#batch-files input[type=file]").set_input_files(paths)
    expect(page.locator("#batch-list li")).to_have_count(len(paths))


def packed(page):
    waiting = download(page, "#batch-zip")
    return waiting.suggested_filename, zipfile.ZipFile(io.BytesIO(Path(waiting.path()).read_bytes()))


def test_changes_that_come_together_are_asked_for_once(page):
    """The last of several tells, and that the files are others is not lost; without files settings tell nothing."""
    page.set_content("<ul id='batch-list'><li></li></ul>")

    def told(*why):
        calls = ", ".join(f"({BECAUSE % one})()" for one in why)
        found = page.evaluate(f"Promise.all([{calls}])")
        return [one.split()[0] if isinstance(one, str) else one for one in found]

    nothing = {"__type__": "update"}
    assert told("files", "settings", "tab") == [nothing, nothing, "files"]
    assert told("tab", "settings") == [nothing, "settings"]
    page.set_content("<ul id='batch-list'></ul>")
    assert told("settings") == [nothing] and told("tab", "settings") == ["tab", nothing]


def test_a_batch_goes_through_and_comes_as_one_archive(page, url, several):
    visit(page, url, FAST + "&prompt=a%20hill&scale=2.5")
    batch(page, several)
    rows = page.locator("#batch-list li")
    expect(rows.nth(0)).to_contain_text("64 × 48 → 160 × 120")
    expect(rows.nth(2)).to_contain_text("not an image")
    expect(page.locator("#batch-plan")).to_contain_text("3 images, about")
    expect(page.locator("#batch-plan")).to_contain_text("1 cannot be enlarged")
    page.locator("#batch-run").click()
    expect(page.locator("#batch-status")).to_contain_text("3 of 4 images are done, 1 failed")
    name, archive = packed(page)
    assert name == "cupscale-3-images-png.zip"
    assert archive.namelist() == ["a-x2.5-seed3.png", "a-2-x2.5-seed3.png", "c-x2.5-seed3.png", "errors.txt"]
    assert archive.read("errors.txt").startswith(b"notes.txt: the image is not an image")
    for file, size in (("a-x2.5-seed3.png", (160, 120)), ("a-2-x2.5-seed3.png", (180, 120))):
        data = archive.read(file)
        assert Image.open(io.BytesIO(data)).size == size
        assert images.read_settings(data)["prompt"] == "a hill"
    page.get_by_label("JPEG", exact=True).check()
    name, archive = packed(page)
    assert name.endswith("jpg.zip") and Image.open(archive.open("c-x2.5-seed3.jpg")).format == "JPEG"
    page.get_by_label("WebP", exact=True).check()
    name, archive = packed(page)
    assert name.endswith("webp.zip") and Image.open(archive.open("c-x2.5-seed3.webp")).format == "WEBP"
    page.get_by_role("button", name="Open a.png").nth(1).click()
    expect(page.get_by_role("tab", name="Upscale")).to_have_attribute("aria-selected", "true")
    expect(page.locator("#result .cu-note")).to_contain_text("72 × 48 → 180 × 120")
    expect(page.locator("#plan")).to_contain_text("72 × 48 → 180 × 120")
    assert Image.open(download(page, "#png").path()).size == (180, 120)
    upscale(page)  # a run does not take the batch's results away
    page.get_by_role("tab", name="Batch").click()
    assert len(packed(page)[1].namelist()) == 4


def test_the_files_of_a_batch_come_back_after_a_reload(page, url, folder, several):
    """Those that the server has no more, too; and beside the results once there are some."""
    one, other = several[0], several[3]
    visit(page, url, FAST + "&scale=2.5")
    batch(page, [one, other])
    page.wait_for_function("sessionStorage.getItem('cupscale-batch-files')?.includes('c.png')")
    page.wait_for_function(
        "() => indexedDB.databases().then((all) => all.length && new Promise((done) => {"
        " const open = indexedDB.open('cupscale-inputs'); open.onsuccess = () => { const base = open.result;"
        " const all = base.transaction('inputs').objectStore('inputs').count();"
        " all.onsuccess = () => { base.close(); done(all.result === 2) } } }))"
    )
    for upload in (folder / "tmp").glob("cupscale-*/uploads/*/c.png"):
        upload.unlink()
    page.reload()
    rows = page.locator("#batch-list li")
    expect(rows).to_have_count(2)
    expect(rows.nth(1)).to_contain_text("48 × 64 → 120 × 160")
    expect(page.locator("#batch-plan")).to_contain_text("2 images, about")
    page.locator("#batch-run").click()
    expect(page.locator("#batch-status")).to_contain_text("2 of 2 images are done")
    page.reload()
    expect(page.locator("#batch-plan")).to_contain_text("2 images, about")
    expect(rows.nth(1)).to_have_attribute("data-state", "done")
    assert packed(page)[1].namelist() == ["a-x2.5-seed3.png", "c-x2.5-seed3.png"]
    page.goto(f"{url}?{FAST}&tab=batch")  # and not with another link
    expect(page.locator("#batch-plan")).to_contain_text("Choose images")
    expect(rows).to_have_count(0)


# What the tab's visit was is asked of the server after all else.
LATE_VISIT = """() => {
  const send = window.fetch.bind(window);
  window.fetch = async (...given) => {
    if (String(given[1]?.body || "").includes("query")) await new Promise((resolve) => setTimeout(resolve, 4000));
    return send(...given);
  };
}"""


def test_the_plan_of_a_batch_follows_settings_that_come_after_its_files(page, url, several):
    visit(page, url, FAST + "&scale=2.5")
    batch(page, several[:1])
    page.wait_for_function("sessionStorage.getItem('cupscale-batch-files')?.includes('a.png')")
    page.wait_for_function("sessionStorage.getItem('cupscale-visit')?.includes('2.5')")
    page.add_init_script(f"({LATE_VISIT})()")
    page.reload()
    expect(page.locator("#batch-list li").first).to_contain_text("64 × 48 → 160 × 120")


def test_a_batch_survives_a_reload_and_keeps_what_is_done_when_cancelled(page, url, several):
    visit(page, url, "seed=3&steps=150&strength=0.9&guidance=4&overlap=0.5&upscaler=lanczos")
    batch(page, several)
    page.locator("#batch-run").click()
    expect(page.locator("#batch-list li").nth(0)).to_have_attribute("data-state", "running")
    page.reload()
    expect(page.locator("#batch-list li").nth(1)).to_have_attribute("data-state", "running")
    expect(page.locator("#batch-list li").nth(0)).to_have_attribute("data-state", "done")
    page.locator("#batch-cancel").click()
    expect(page.locator("#batch-status")).to_contain_text("Cancelled. What is done stays. 1 of 4")
    expect(page.locator("#batch-run")).to_be_enabled()
    assert packed(page)[1].namelist() == ["a-x2-seed3.png", "errors.txt"]


def test_too_many_or_too_much_is_refused_before_it_runs(page, tmp_path, several):
    with serve(tmp_path, CUPSCALE_BATCH="3", CUPSCALE_MAX_SAMPLES="20") as address:
        visit(page, address)
        page.get_by_role("tab", name="Batch").click()
        page.locator("#batch-run").click()
        expect(page.locator("#batch-refused [data-wrong]")).to_contain_text("no images yet")
        files = page.locator("#batch-files input[type=file]")
        files.set_input_files(several)
        expect(page.locator("#batch-plan [data-wrong]")).to_contain_text(
            "4 images: a batch here has at most 3"
        )
        page.locator("#batch-files button[aria-label*='lear']").click()
        files.set_input_files([several[0], several[1]])
        expect(page.locator("#batch-plan [data-wrong]")).to_contain_text("choose the first 1 of them")


def test_the_history_opens_in_the_slider_with_its_input(page, url, small, tmp_path):
    visit(page, url, FAST.replace("seed=3", "seed=41") + "&prompt=first")
    give(page, small)
    upscale(page)
    made = Path(download(page, "#png").path()).read_bytes()
    give(page, photo(tmp_path / "wide.png", (96, 32)), "96")
    page.locator("#set-prompt textarea").fill("second")
    upscale(page)
    page.get_by_role("tab", name="History").click()
    expect(page.locator("#history li")).to_have_count(2)
    page.get_by_role("button", name="Open small-x2-seed41.png in the slider").click()
    expect(page.get_by_role("tab", name="Upscale")).to_have_attribute("aria-selected", "true")
    expect(page.locator("#result .cu-note")).to_contain_text("64 × 48 → 128 × 96, seed 41")
    expect(page.locator("#set-prompt textarea")).to_have_value("first")
    expect(page.locator("#plan")).to_contain_text("64 × 48 → 128 × 96")
    expect(page.locator("#png")).not_to_be_visible()  # it was the second result's
    sides = page.locator("#result .cu-layer img").evaluate_all(
        "all => all.map((e) => [e.naturalWidth, e.naturalHeight])"
    )
    assert sides == [[128, 96], [128, 96]]
    waiting = download(page, "#result [data-do=save]")
    assert Path(waiting.path()).read_bytes() == made and waiting.suggested_filename == "small-x2-seed41.png"
    upscale(page)  # the input is there, on the server, for another run
    expect(page.locator("#result .cu-note")).to_contain_text("64 × 48 → 128 × 96, seed 41")


def test_the_history_shows_small_pictures_and_keeps_the_newest_forty(page, url, tmp_path):
    visit(page, url)
    give(page, photo(tmp_path / "wide.png", (200, 150)), "200")
    upscale(page)
    page.get_by_role("tab", name="History").click()
    # Of 400 x 300; until the small one is made, the whole one may stand there.
    page.wait_for_function(
        "(({ naturalWidth, naturalHeight }) => naturalWidth === 320 && naturalHeight === 240)"
        "(document.querySelector('#history li img') || {})"
    )
    page.evaluate("""async () => {
      const url = (await cupscaleStore.all())[0].blob, made = URL.createObjectURL(url)
      for (let k = 0; k < 40; k += 1) await cupscaleStore.add({ url: made, name: `${k}.png`, note: "", settings: "{}" })
    }""")
    entries = page.locator("#history li")
    expect(entries).to_have_count(40)
    names = entries.locator("img").evaluate_all("all => all.map((e) => e.alt)")
    assert names == [f"{k}.png" for k in range(39, -1, -1)]  # the newest first, and the run's own is gone


def compare(page, url, small, *titles):
    visit(page, url)
    give(page, small)
    page.get_by_role("tab", name="Compare").click()
    expect(page.locator("#variants input[type=checkbox]").first).to_be_visible()
    for box in page.locator("#variants input[type=checkbox]").all()[1:]:
        box.uncheck()
    for title in titles:
        page.get_by_label(title, exact=True).check()
    page.locator("#compare-run").click()
    expect(page.locator("#compare-status")).to_contain_text("Done.")
    expect(page.locator("#grid img")).to_have_count(len(titles))


def test_a_comparison_is_downloaded_and_a_variant_is_used(page, url, small, tmp_path):
    compare(page, url, small, "plain enlargement", "+ GSP")
    page.reload()  # after which all of it is there
    expect(page.locator("#grid img")).to_have_count(2)
    expect(page.locator("#variants input:checked")).to_have_count(2)
    waiting = download(page, "#grid-save")
    with Image.open(waiting.path()) as made:
        assert waiting.suggested_filename == "small-compared.png" and made.width == 2 * 128 + 3 * 16
    expect(page.locator("#grid figcaption button:visible")).to_have_count(1)  # the plain one has no settings
    cell = page.request.get(page.locator("#grid img").nth(1).evaluate("e => e.src")).body()
    page.get_by_role("tab", name="Upscale").click()
    give(page, photo(tmp_path / "wide.png", (96, 32)), "96")
    page.get_by_role("tab", name="Compare").click()
    page.get_by_role("button", name="Use these settings: + GSP").click()
    expect(page.get_by_role("tab", name="Upscale")).to_have_attribute("aria-selected", "true")
    expect(page.locator("#result .cu-view")).to_have_attribute("data-state", "pair")
    expect(page.locator("#plan")).to_contain_text("64 × 48 → 128 × 96")  # with the input that was compared
    made = Path(download(page, "#png").path()).read_bytes()
    assert made == cell  # what stood in the grid is the result that it opens
    settings = images.read_settings(made)
    open_part(page, "advanced")
    for name in ("structure", "attention"):
        shown = page.locator(f"#set-{name} input[type=number]")
        expect(shown).to_have_value(f"{settings[name]:g}")
    assert settings["structure"] > 0 and settings["attention"] == 0


def test_a_comparison_and_a_batch_that_are_lost_are_said_to_be(page, url):
    visit(page, url)
    page.evaluate(
        "['batch', 'compare'].forEach((kind) => sessionStorage.setItem(`cupscale-${kind}`, 'x over'))"
    )
    page.reload()
    for kind in ("batch", "compare"):
        page.get_by_role("tab", name=kind.capitalize()).click()
        expect(page.locator(f"#{kind}-status [data-wrong]")).to_contain_text("no longer on the server")
    page.wait_for_function(
        "!sessionStorage.getItem('cupscale-batch') && !sessionStorage.getItem('cupscale-compare')"
    )


def test_a_blind_comparison_shows_no_names_until_its_end(page, url, small):
    compare(page, url, small, "plain enlargement", "Regional denoising", "+ GSP")
    page.locator("#blind-start").click()
    for number in range(1, 4):
        expect(page.locator("#blind-line")).to_contain_text(f"Pair {number} of 3: which is better?")
        expect(page.locator("#grid img").first).not_to_be_visible()
        shown = page.locator("#blind").inner_html()
        for name in ("GSP", "Regional", "plain", "small"):
            assert name not in shown
        expect(page.locator("#blind-grid img")).to_have_count(2)
        page.locator("#blind-equal").focus()
        page.keyboard.press("Enter")
    expect(page.locator("#blind-result")).to_contain_text("3 of 3 pairs answered.")
    for title in ("plain enlargement", "Regional denoising", "+ GSP"):
        expect(page.locator("#blind-result")).to_contain_text(f"{title} won 1 of 2")
    expect(page.locator("#grid img").first).to_be_visible()
    page.locator("#blind-start").click()
    expect(page.locator("#blind-line")).to_contain_text("Pair 1 of 3")
    page.locator("#blind-end").click()
    expect(page.locator("#blind-result")).to_contain_text("No pair was answered.")


def test_a_link_keeps_a_result_until_it_is_deleted(page, chromium, url, small):
    visit(page, url, FAST + "&prompt=mine")
    give(page, small)
    open_part(page, "share")
    page.locator("#keep-link").click()
    expect(page.locator(".toast-wrap")).to_contain_text("no result of a run")
    upscale(page)
    page.locator("#keep-link").click()
    box = page.locator("#kept-links textarea")
    expect(box).to_have_value(re.compile(rf"^{re.escape(url)}\?kept=[\w-]{{32}}$"))
    link = box.input_value()
    context = chromium.new_context()
    context.set_default_timeout(WAIT)
    other = context.new_page()
    answer = other.goto(link)
    assert "noindex" in answer.text() and f"card.jpg?{link.partition('?')[2]}" in answer.text()
    expect(other.locator("#result .cu-view")).to_have_attribute("data-state", "pair")
    expect(other.locator("#set-prompt textarea")).to_have_value("mine")
    made, seen = (Path(download(page, "#png").path()).read_bytes(), None)
    seen = other.request.get(other.locator("#result .cu-after").evaluate("e => e.src"))
    assert seen.body() == made
    page.locator("#kept-links [data-do=delete]").click()
    expect(box).not_to_be_visible()
    assert other.request.get(seen.url).status == 404
    other.goto(link)
    expect(other.locator(".toast-wrap")).to_contain_text("the picture of this link is gone", ignore_case=True)
    expect(other.locator("#result .cu-note")).to_contain_text("Example")
    context.close()


def test_each_visitor_has_a_share_of_the_links(chromium, small, tmp_path):
    """By the address that the proxy of a Space names; a visitor who comes again is the same one."""
    limits = {"CUPSCALE_LINK_SECONDS": "3600", "CUPSCALE_OWN_LINKS": "1"}
    with serve(tmp_path, SPACE_ID="someone/cupscale", **limits) as address:
        for visitor, told in (
            ("8.8.8.8", ""),
            ("8.8.8.8", "1 picture of yours is under links"),
            ("9.9.9.9", ""),
        ):
            context = chromium.new_context(
                extra_http_headers={"X-Forwarded-For": f"1.2.3.4, {visitor}, 10.0.0.1"}
            )
            context.set_default_timeout(WAIT)
            page = context.new_page()
            visit(page, address)
            give(page, small)
            upscale(page)
            open_part(page, "share")
            page.locator("#keep-link").click()
            if told:
                expect(page.locator(".toast-wrap")).to_contain_text(told)
                expect(page.locator("#kept-links textarea")).to_have_count(0)
            else:
                expect(page.locator("#kept-links textarea")).to_have_value(re.compile("kept="))
            context.close()


def test_where_links_keep_nothing_there_is_no_button(page, tmp_path):
    with serve(tmp_path, CUPSCALE_LINK_SECONDS="0") as address:
        visit(page, address)
        open_part(page, "share")
        expect(page.locator("#share-rows")).to_be_visible()
        expect(page.locator("#keep-link")).not_to_be_visible()
