"""The slider as a person uses it: zoom, pan, lenses, keys, what is shown while a run goes on, and what becomes of the result."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from browser_hands import WAIT, download, expect, give, upscale, visit
from page_server import FAST, LONG, photo
from PIL import Image

# A run long enough for its bar to be seen on any machine: one of two steps may be over before.
SECONDS = FAST.replace("steps=4&strength=0.5", "steps=40&strength=1")


@pytest.fixture
def result(page, url, small):
    """A page with a result of 128 x 96 px in its slider."""
    visit(page, url)
    give(page, small)
    upscale(page)
    return page


def moves(page):
    """The transforms of both pictures, which must be one."""
    both = [
        page.locator(f"#result .cu-{side}").evaluate("e => e.style.transform") for side in ("before", "after")
    ]
    assert both[0] == both[1]
    return both[0]


def zoom(page):
    """How far it is zoomed in, and the point of the picture in the middle."""
    found = re.fullmatch(r"translate\((.+)%, (.+)%\) scale\((.+)\)", moves(page))
    if not found:
        assert moves(page) == ""
        return 1.0, 0.5, 0.5
    x, y, scale = map(float, found.groups())
    return scale, (0.5 - x / 100) / scale, (0.5 - y / 100) / scale


def zoomed(page, scale, x):
    """Wait until it is zoomed in so far, about the point x; a touch is handled after it was sent."""
    for _ in range(WAIT // 50):
        if zoom(page)[:2] == (pytest.approx(scale, rel=0.05), pytest.approx(x, abs=0.02)):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"{zoom(page)}, not {scale} about {x}")


def stage(page):
    return page.locator("#result .cu-stage").bounding_box()


def seen_at(page, share):
    """Which of the two pictures is in sight in the middle of the stage's height, at a share of its width."""
    box = stage(page)
    return page.evaluate(
        """([x, y]) => document.elementsFromPoint(x, y).map((e) => e.className)
          .filter((name) => ["cu-before", "cu-after"].includes(name))""",
        [box["x"] + box["width"] * share, box["y"] + box["height"] * 0.5],
    )


def test_what_was_before_is_left_of_the_divider(result):
    slider = result.locator("#result .cu-range")
    slider.focus()
    for _ in range(20):
        result.keyboard.press("ArrowRight")
    assert float(slider.input_value()) == 60
    for share, which in ((0.03, "before"), (0.57, "before"), (0.63, "after"), (0.97, "after")):
        assert seen_at(result, share) == [f"cu-{which}"], share
    for which, share in (("before", 0.0), ("after", 1.0)):
        tag = result.locator(f"#result .cu-tag-{which}").bounding_box()
        end = stage(result)["x"] + stage(result)["width"] * share
        assert min(abs(tag["x"] - end), abs(tag["x"] + tag["width"] - end)) < 20
    assert result.locator("#result .cu-before").evaluate("e => e.src").endswith("-before.jpg")
    assert result.locator("#result .cu-after").evaluate("e => e.src").endswith("small-x2-seed3.png")


def test_each_lens_shows_both_pictures_at_one_place(result):
    lens, panes = result.locator("#result .cu-lens"), result.locator("#result .cu-lens span")
    sources = [result.locator(f"#result .cu-{side}").evaluate("e => e.src") for side in ("before", "after")]
    box = stage(result)
    for name, times in (("lens", 1), ("lens2", 2)):
        button = result.locator(f"#result [data-do={name}]")
        button.click()
        expect(button).to_have_attribute("aria-pressed", "true")
        result.mouse.move(box["x"] + box["width"] * 0.25, box["y"] + box["height"] * 0.75)
        shown = panes.evaluate_all("all => all.map((e) => [e.style.backgroundImage, e.style.backgroundSize])")
        assert shown == [[f'url("{source}")', f"{128 * times}px {96 * times}px"] for source in sources]
        for k in range(2):  # the pixel under the pointer is in the middle of each
            x, y, wide, high = panes.nth(k).evaluate(
                "e => [...e.style.backgroundPosition.split(' ').map(parseFloat), e.clientWidth, e.clientHeight]"
            )
            place = ((wide / 2 - x) / (128 * times), (high / 2 - y) / (96 * times))
            assert place == pytest.approx((0.25, 0.75), abs=0.01)
        button.click()
        assert not lens.is_visible()


@pytest.mark.parametrize("kind", ["page", "phone"])
def test_one_to_one_is_a_pixel_of_the_result_on_each_of_the_screen(request, kind, url):
    tab = request.getfixturevalue(kind)
    tab.goto(url)
    expect(tab.locator("#result .cu-note")).to_contain_text("Example:")
    tab.wait_for_function("document.querySelector('#result .cu-after').naturalWidth > 0")
    tab.locator("#result [data-do=true]").click()
    expect(tab.locator("#result .cu-scale")).to_have_text("100%")
    for side in ("before", "after"):
        wide, natural, density = tab.locator(f"#result .cu-{side}").evaluate(
            "e => [e.getBoundingClientRect().width, e.naturalWidth, devicePixelRatio]"
        )
        assert natural > 600 and wide * density == pytest.approx(natural, abs=1)
    tab.locator("#result [data-do=lens]").click()
    for pane in tab.locator("#result .cu-lens span").all():
        assert float(pane.evaluate("e => parseFloat(e.style.backgroundSize)")) * density == natural


def test_buttons_keys_and_two_clicks_go_in_and_out(result):
    for what in ("in", "in", "out"):
        result.locator(f"#result [data-do={what}]").click()
    assert zoom(result)[0] == pytest.approx(1.25)
    result.locator("#result .cu-range").focus()
    result.keyboard.press("-")
    assert zoom(result)[0] == 1
    box = stage(result)
    corner = (box["x"] + box["width"] * 0.2, box["y"] + box["height"] * 0.3)
    result.mouse.dblclick(*corner)
    assert zoom(result) == pytest.approx((2, 0.35, 0.4), abs=2e-3)  # what lay under the pointer stays there
    result.mouse.dblclick(*corner)
    assert zoom(result) == (1, 0.5, 0.5)
    result.evaluate("document.activeElement.blur()")
    result.mouse.click(*corner)  # after which the keys are the picture's
    for full in ("true", "false"):
        result.keyboard.press("f")
        result.wait_for_function(f"Boolean(document.fullscreenElement?.matches('.cu-view')) === {full}")


def test_keys_zoom_and_move_both_pictures(result):
    result.locator("#result .cu-range").focus()
    for key in ("+", "+"):
        result.keyboard.press(key)
    assert zoom(result) == pytest.approx((1.5625, 0.5, 0.5))
    result.keyboard.press("Shift+ArrowRight")
    result.keyboard.press("Shift+ArrowUp")
    assert zoom(result) == pytest.approx((1.5625, 0.5 + 0.08 / 1.5625, 0.5 - 0.08 / 1.5625), abs=1e-4)
    for _ in range(30):
        result.keyboard.press("Shift+ArrowLeft")
    assert zoom(result)[1] == pytest.approx(0.5 / 1.5625, abs=1e-4)  # and no further than the edge
    result.keyboard.press("ArrowRight")  # without Shift: the divider
    assert float(result.locator("#result .cu-range").input_value()) == 50.5
    result.keyboard.press("0")
    assert zoom(result) == (1.0, 0.5, 0.5)
    result.keyboard.press("l")
    lens = result.locator("#result .cu-lens")
    assert lens.is_visible()
    pane = lens.locator("span").nth(1)
    assert pane.evaluate("e => e.style.backgroundSize") == "128px 96px"
    result.keyboard.press("l")
    assert pane.evaluate("e => e.style.backgroundSize") == "256px 192px"
    before = pane.evaluate("e => e.style.backgroundPosition")
    result.keyboard.press("Shift+ArrowRight")  # the lens moves, the picture does not
    assert pane.evaluate("e => e.style.backgroundPosition") != before and moves(result) == ""
    result.keyboard.press("l")
    assert not lens.is_visible()


def test_the_wheel_zooms_about_the_pointer_and_lets_the_page_scroll(result):
    result.mouse.wheel(0, -1)  # at the top of the page: nothing scrolls
    box = stage(result)
    x, y = box["x"] + box["width"] * 0.25, box["y"] + box["height"] * 0.75
    result.mouse.move(x, y)
    result.mouse.wheel(0, -240)
    result.wait_for_function("document.querySelector('#result .cu-after').style.transform !== ''")
    scale, middle_x, middle_y = zoom(result)
    assert scale == pytest.approx(np.exp(0.48), rel=1e-3)
    # What lay under the pointer, a quarter from the left and a quarter from below, lies there still.
    assert middle_x + (0.25 - 0.5) / scale == pytest.approx(0.25, abs=2e-3)
    assert middle_y + (0.75 - 0.5) / scale == pytest.approx(0.75, abs=2e-3)
    assert result.evaluate("scrollY") == 0
    for _ in range(3):
        result.mouse.wheel(0, 300)
    result.wait_for_function("document.querySelector('#result .cu-after').style.transform === ''")
    result.wait_for_function("() => { dispatchEvent(new Event('x')); return true }")
    result.mouse.wheel(0, 300)  # out no further: the page scrolls
    result.wait_for_function("scrollY > 0")


def test_a_drag_moves_the_divider_and_zoomed_in_the_picture(result):
    box = stage(result)
    left, top, width, height = (box[name] for name in ("x", "y", "width", "height"))
    slider = result.locator("#result .cu-range")
    result.mouse.move(left + width * 0.5, top + height * 0.5)
    result.mouse.down()
    result.mouse.move(left + width * 0.3, top + height * 0.6)
    result.mouse.up()
    assert float(slider.input_value()) == pytest.approx(30, abs=1)
    result.locator("#result [data-do=in]").click()
    result.locator("#result [data-do=in]").click()
    result.mouse.move(left + width * 0.7, top + height * 0.5)
    result.mouse.down()
    result.mouse.move(left + width * 0.6, top + height * 0.45)
    result.mouse.up()
    scale, x, y = zoom(result)
    assert float(slider.input_value()) == pytest.approx(30, abs=1)
    assert (x, y) == pytest.approx((0.5 + 0.1 / scale, 0.5 + 0.05 / scale), abs=3e-3)
    result.mouse.move(left + width * 0.3, top + height * 0.5)  # by its handle the divider still moves
    result.mouse.down()
    result.mouse.move(left + width * 0.8, top + height * 0.5)
    result.mouse.up()
    assert float(slider.input_value()) == pytest.approx(80, abs=1)
    result.locator("#result [data-do=true]").click()
    assert result.locator("#result .cu-scale").inner_text() == "100%" or zoom(result)[0] == 1.0
    result.locator("#result [data-do=fit]").click()
    assert moves(result) == ""


def test_two_fingers_zoom_and_one_moves(phone, url, small):
    page = phone
    visit(page, url)
    give(page, small)
    upscale(page)
    page.locator("#result .cu-stage").scroll_into_view_if_needed()
    box = stage(page)
    x, y, width = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, box["width"]
    hand = page.context.new_cdp_session(page)

    def touch(kind, *points):
        fingers = [{"x": px, "y": py, "id": k} for k, (px, py) in enumerate(points)]
        hand.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": fingers})

    touch("touchStart", (x - 30, y))
    touch("touchStart", (x - 30, y), (x + 30, y))
    for apart in (36, 45, 60, 75, 90):
        touch("touchMove", (x - apart, y), (x + apart, y))
    touch("touchEnd")
    zoomed(page, 3, 0.5)
    touch("touchStart", (x + 60, y))
    for moved in (10, 30, 50):
        touch("touchMove", (x + 60 - moved, y))
    touch("touchEnd")
    zoomed(page, 3, 0.5 + 50 / width / 3)
    assert page.evaluate("visualViewport.scale") == 1


def test_a_run_shows_the_plain_enlargement_at_once_and_then_its_steps(page, url, small):
    """And how far it is, in the title of the tab."""
    visit(page, url)
    give(page, small)
    page.evaluate("""() => {
      window.seen = []
      const view = document.querySelector('#result .cu-view'), stage = view.querySelector('.cu-stage')
      const look = () => seen.push([view.dataset.state, Boolean(view.querySelector('.cu-before').getAttribute('src')),
        (view.querySelector('.cu-after').getAttribute('src') || '').slice(0, 5), stage.style.getPropertyValue('--cut'),
        document.title].join('|'))
      new MutationObserver(look).observe(document, {subtree: true, childList: true, attributes: true})
    }""")
    upscale(page)
    expect(page).to_have_title(re.compile("Done · "))
    seen = list(dict.fromkeys(page.evaluate("window.seen")))
    states = [re.sub(r"\|[^|]*$", "", one) for one in seen]
    states = [one for k, one in enumerate(states) if k == 0 or one != states[k - 1]]
    # All of the enlargement, all of the steps over it, half of each.
    assert states[-3:] == ["preview|true||100%", "preview|true|data:|0%", "pair|true|http:|50%"]
    assert any(re.search(r"\|\d+% · ", one) for one in seen)
    page.locator("#set-prompt textarea").click()
    expect(page).not_to_have_title(re.compile("·"))


def test_a_run_that_is_over_at_once_is_told(page, url):
    """Its bar comes and goes before the page looks at it, as on a machine that has no time to."""
    visit(page, url)
    page.evaluate("""() => {
      const status = document.querySelector('#status .cu-status'), bar = document.createElement('progress')
      status.prepend(bar)
      bar.remove()
      status.querySelector('span').textContent = 'Done.'
    }""")
    expect(page).to_have_title("Done · cupscale")


def test_a_sound_and_a_notification_are_for_those_who_ask(chromium, url, small):
    context = chromium.new_context(permissions=["notifications"])
    context.set_default_timeout(WAIT)
    page = context.new_page()
    page.add_init_script("""
      window.heard = []
      Object.defineProperty(document, 'hidden', {get: () => window.away || false})
      const start = OscillatorNode.prototype.start
      OscillatorNode.prototype.start = function (...given) { heard.push('tone'); return start.apply(this, given) }
      window.Notification = class { constructor(title, {body}) { heard.push(`${title}: ${body}`) }
        static permission = 'granted'
        static requestPermission() { return Promise.resolve('granted') } }
    """)
    visit(page, url, SECONDS)
    give(page, small)
    upscale(page)
    expect(page).to_have_title(re.compile("Done"))
    assert page.evaluate("heard") == []
    visit(page, url, LONG)
    give(page, small)
    page.locator("#run").click()
    for way in ("sound", "notify"):
        button = page.locator(f"[data-tell={way}]:visible")
        button.click()
        expect(button).to_have_attribute("aria-pressed", "true")
    page.locator("#cancel").click()
    expect(page.locator("[data-tell=sound]").first).not_to_be_visible()
    # As it was asked for; of one that was cancelled nothing is told.
    assert page.evaluate("heard") == ["tone", "tone"]
    visit(page, url, SECONDS)
    give(page, small)
    upscale(page)
    page.wait_for_function("heard.length === 2")
    expect(page).to_have_title(re.compile("Done"))
    assert page.evaluate("heard") == ["tone", "tone"]  # whoever looks at the page needs no notification
    page.evaluate("heard.length = 0; away = true")
    upscale(page)
    page.wait_for_function("heard.length === 3")
    assert sorted(page.evaluate("heard")) == ["cupscale: Done.", "tone", "tone"]
    context.close()


def test_the_result_is_copied_and_becomes_the_input(result, tmp_path):
    result.context.grant_permissions(["clipboard-read", "clipboard-write"])
    result.locator("#result [data-do=copy]").click()
    expect(result.locator("#result [data-do=copy]")).to_have_text("Copied")
    there = copied(result)
    result.locator("#result [data-do=use]").click()
    expect(result.locator("#plan")).to_contain_text("128 × 96 → 256 × 192")
    download(result, "#png").save_as(tmp_path / "shown.png")  # the slider still shows the first result
    made = pixels((tmp_path / "shown.png").read_bytes())
    assert made.shape == (96, 128, 3)
    assert (pixels(there) == made).all()
    assert (pixels(given(result)) == made).all()


def test_a_transparent_result_is_copied_and_becomes_the_input(page, url, tmp_path):
    """The plain enlargement of one is a PNG as well, as the clipboard wants it. From the history it comes from the browser."""
    image = Image.open(photo(tmp_path / "clear.png")).convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size).point(lambda a: 255 * (a > 127)))
    image.save(tmp_path / "clear.png")
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    visit(page, url)
    give(page, tmp_path / "clear.png")
    upscale(page)
    made = seen(Path(download(page, "#png").path()).read_bytes())
    plain = seen(page.request.get(page.locator("#result .cu-before").evaluate("e => e.src")).body())
    assert made.shape == (96, 128, 4) and np.abs(made - plain).mean() > 1
    page.locator("#result [data-do=copy]").click()
    expect(page.locator("#result [data-do=copy]")).to_have_text("Copied")
    assert (seen(copied(page)) == made).all()
    page.locator("#result [data-do=use]").click()
    expect(page.locator("#plan")).to_contain_text("128 × 96 → 256 × 192")
    assert (seen(given(page)) == made).all()
    page.get_by_role("tab", name="History").click()
    page.locator("#history li").get_by_role("button", name="Open").click()
    expect(page.locator("#plan")).to_contain_text("64 × 48 → 128 × 96")
    expect(page.locator("#result .cu-view")).to_have_attribute("data-state", "pair")
    page.locator("#result [data-do=use]").click()
    expect(page.locator("#plan")).to_contain_text("128 × 96 → 256 × 192")
    assert (seen(given(page)) == made).all()


def copied(page):
    """The picture in the clipboard, as a file."""
    url = page.evaluate("""async () => {
      const [item] = await navigator.clipboard.read(), reader = new FileReader()
      reader.readAsDataURL(await item.getType('image/png'))
      await new Promise((done) => { reader.onload = done })
      return reader.result
    }""")
    return base64.b64decode(url.partition(",")[2])


def given(page):
    """The input's file."""
    return page.request.get(page.locator("#image img").evaluate("e => e.src")).body()


def seen(data):
    """Of a picture with transparent places, whose alpha and whose opaque colours count: the clipboard rounds those between."""
    with Image.open(io.BytesIO(data)) as image:
        pixels = np.asarray(image.convert("RGBA")).astype(int)
    pixels[pixels[..., 3] < 255, :3] = 0
    return pixels


def pixels(data):
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def card(page):
    waiting = download(page, "#result [data-do=card]")
    with Image.open(io.BytesIO(Path(waiting.path()).read_bytes())) as image:
        return waiting.suggested_filename, np.asarray(image.convert("RGB")).astype(int)


def test_a_card_shows_what_is_in_sight(result):
    name, whole = card(result)
    assert name == "small-x2-seed3-card.jpg" and whole.shape == (630, 1200, 3)
    result.locator("#result .cu-range").focus()
    for key in "++++":
        result.keyboard.press(key)
    for _ in range(20):
        result.keyboard.press("Shift+ArrowLeft")
        result.keyboard.press("Shift+ArrowUp")
    _, part = card(result)
    assert np.abs(part[:540, :590] - whole[:540, :590]).mean() > 5
    shown = np.asarray(
        Image.open(io.BytesIO(Path(download(result, "#png").path()).read_bytes())).convert("RGB")
    )
    side = (
        1 / 1.25**4
    )  # of the picture, at its top left corner; the panel is cut to its own shape about the middle
    width, height = 128 * side, 96 * side
    wide = height * 598 / 558
    left = (width - wide) / 2
    panel = Image.fromarray(shown.astype(np.uint8)).resize(
        (598, 558), Image.Resampling.LANCZOS, box=(left, 0, left + wide, height)
    )
    inner = (slice(20, 480), slice(20, 570))
    found = part[:558, 602:][inner]
    assert np.abs(found - np.asarray(panel).astype(int)[inner]).mean() < 6


def test_an_example_takes_the_downloads_of_the_result_before_away(result):
    expect(result.locator("#png")).to_be_visible()
    result.locator("#examples button img").first.click()
    expect(result.locator("#result .cu-note")).to_contain_text("raccoon")
    expect(result.locator("#downloads")).not_to_be_visible()


def test_an_example_has_a_card_and_can_be_the_input(page, url):
    """Its pictures are not of a run of this visit."""
    page.goto(url)
    page.locator("#examples button img").first.click()
    expect(page.locator("#result .cu-note")).to_contain_text("raccoon")
    _, made = card(page)
    assert made.std() > 10
    page.locator("#result [data-do=use]").click()
    size = page.locator("#result .cu-after").evaluate("e => `${e.naturalWidth} × ${e.naturalHeight}`")
    expect(page.locator("#plan")).to_contain_text(f"{size} →")
    used = pixels(given(page))
    before, after = (
        pixels(page.request.get(page.locator(f"#result .cu-{side}").evaluate("e => e.src")).body())
        for side in ("before", "after")
    )
    assert np.abs(used - after).mean() < 1 < np.abs(used - before).mean()


def test_a_run_that_is_cancelled_in_the_queue_gives_the_result_back(chromium, result, url, tmp_path):
    """Another visitor's run is before it."""
    other = chromium.new_context().new_page()
    other.set_default_timeout(WAIT)
    visit(other, url, LONG)
    give(other, photo(tmp_path / "other.png"))
    other.locator("#run").click()
    expect(other.locator("#status")).to_contain_text("step")
    result.locator("#run").click()
    expect(result.locator("#status")).to_contain_text("waiting in the queue")
    expect(result.locator("#result .cu-view")).to_have_attribute("data-state", "preview")
    expect(result.locator("#downloads")).not_to_be_visible()
    result.locator("#cancel").click()
    expect(result.locator("#result .cu-view")).to_have_attribute("data-state", "pair")
    expect(result.locator("#png")).to_be_visible()
    download(result, "#png").save_as(tmp_path / "back.png")
    with Image.open(tmp_path / "back.png") as image:
        assert image.size == (128, 96)
    other.locator("#cancel").click()
    expect(other.locator("#status")).to_contain_text("Cancelled")
    other.context.close()
