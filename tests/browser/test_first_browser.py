"""The first screen: what is in sight, what it weighs, its size, its Creativity, its warning."""

from __future__ import annotations

import re
import urllib.request
from pathlib import Path

import pytest
from browser_hands import WAIT, expect, give, open_part, setting, visit
from page_server import photo

from cupscale.page import light

KILOBYTES, REQUESTS = 600, 60


def opened(chromium, url, width, height, **options):
    """A page of a first visit, its example in the slider."""
    context = chromium.new_context(viewport={"width": width, "height": height}, **options)
    context.set_default_timeout(WAIT)
    expect.set_options(timeout=WAIT)
    page = context.new_page()
    page.sent = []
    page.on("requestfinished", lambda request: page.sent.append(request))
    page.goto(url)
    expect(page.locator("#result .cu-view")).to_have_attribute("data-state", "pair")
    for which in ("before", "after"):
        page.wait_for_function(f"document.querySelector('#result .cu-{which}').naturalWidth > 0")
    return page


def box(page, selector):
    return page.locator(selector).first.bounding_box()


def test_a_first_visit_is_light(chromium, url):
    """Bytes as they go over the wire, and requests; and no work of the server."""
    page = opened(chromium, url, 1280, 800)
    seen = -1
    while seen != len(page.sent):  # gradio's heartbeat never ends, so the network is never idle
        seen = len(page.sent)
        page.wait_for_timeout(2000)
    sizes = [request.sizes() for request in page.sent if "heartbeat" not in request.url]
    total = sum(size["responseBodySize"] + size["responseHeadersSize"] for size in sizes)
    assert total < KILOBYTES * 1000
    assert len(page.sent) <= REQUESTS
    asked = [request.url for request in page.sent if request.method == "POST"]
    assert not any("queue/join" in one or "run/predict" in one for one in asked)
    assert not any(kind in request.url for request in page.sent for kind in ("hls", "Video", "Gallery"))
    scripts = {Path(one.url).name for one in page.sent if re.search(r"/assets/.*\.js$", one.url)}
    assert scripts == named_at_once(url)
    (core,) = [one for one in page.sent if "/assets/core-" in one.url]
    assert (
        "cupscaleSteps" in core.response().text()
    )  # it went through the page's own hands: mended, out of memory
    page.context.close()


def named_at_once(url):
    """The scripts that the page's HTML names, so that none waits for another to be found."""
    html = urllib.request.urlopen(url).read().decode()
    before = html[: html.index("window.gradio_config")]
    return set(re.findall(r'<link rel="modulepreload" href="assets/([^"]+)">', before))


def test_the_browser_has_few_steps_to_go_through(page, url):
    """gradio looks at every step for every component as it opens the page, at those without a component of their own longest."""
    page.goto(url)
    page.locator("#run").wait_for()
    assert page.locator("script#cupscale-gradio_config").count() == 1  # as data, which is read sooner
    targets = page.evaluate("gradio_config.dependencies.flatMap((step) => step.targets)")
    assert len(targets) < 150 and sum(target[0] is None for target in targets) < 30


# Which components take the code that the page hands them, and what is asked for as they do.
TAKEN = """
  window.taken = new Set()
  let here
  Object.defineProperty(window, '__GRADIO__CC__', { get: () => here, set: (all) => {
    here = all
    for (const [key, one] of Object.entries(all)) {
      const { component } = one
      one.component = () => { taken.add(key); return component() }
    }
  } })
"""


def test_the_first_screens_code_and_theme_are_there(page, url):
    """Each component takes what the page hands it, none waits for another's, and nothing is asked for again."""
    page.add_init_script(TAKEN)
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(url)
    page.locator("#run").wait_for()
    assert page.evaluate("taken.size > 10 && taken.size === Object.keys(__GRADIO__CC__).length")
    assert not any("theme.css" in one for one in asked) and len(asked) == len(set(asked))


def test_a_script_that_was_not_to_be_had_is_asked_for_again(page, url):
    """The page runs its scripts all together; where one fails the others come, and it too, if it can."""
    tried = []

    def third(route):
        tried.append(route.request.url)
        route.abort() if len(tried) <= 2 else route.continue_()

    name = light._parts()["dropdown"][0]
    page.route(f"**/{name}", third)
    page.goto(url)
    expect(page.locator("#run")).to_be_visible()
    expect(page.locator("#shape input")).to_be_visible()
    assert len(tried) == 3  # named at the head, run with the others, by itself


@pytest.mark.parametrize("size", [(1024, 768), (1440, 900)])
def test_all_that_a_run_needs_is_in_sight(chromium, url, size):
    page = opened(chromium, url, *size)
    for what in ("#image", "#set-prompt", "#set-scale", "#creativity", "#run", "#result .cu-stage"):
        there = box(page, what)
        assert there["y"] >= 0 and there["y"] + there["height"] <= size[1], what
    names = page.locator("#examples button span")
    assert names.count() == 6
    for k in range(6):
        there = names.nth(k).bounding_box()
        assert there["y"] + there["height"] <= size[1] and there["x"] + there["width"] <= size[0]
        assert names.nth(k).evaluate(
            "e => e.scrollWidth <= e.clientWidth + 1 && getComputedStyle(e).overflow"
        )
    page.context.close()


def test_a_phone_shows_the_picture_first(chromium, url):
    page = opened(chromium, f"{url}?example=raccoon&seed=7", 390, 844, has_touch=True)
    expect(page.locator("#result .cu-note")).to_contain_text("raccoon")
    shown, given = box(page, "#result .cu-stage"), box(page, "#image")
    assert shown["y"] + shown["height"] < min(844, given["y"])
    assert given["y"] < box(page, "#share")["y"]  # what one came for before what one may want later
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.context.close()


def test_the_example_is_wiped_until_someone_takes_the_slider(chromium, url):
    page = opened(chromium, url, 1280, 800)
    stage = page.locator("#result .cu-stage")
    expect(page.locator("#result")).to_have_class(re.compile("cu-wiping"))
    assert stage.evaluate("e => getComputedStyle(e).animationName") == "cu-wipe"
    there = stage.bounding_box()
    page.mouse.click(there["x"] + there["width"] * 0.3, there["y"] + there["height"] * 0.5)
    expect(page.locator("#result")).not_to_have_class(re.compile("cu-wiping"))
    assert stage.evaluate("e => getComputedStyle(e).animationName") == "none"
    page.context.close()


def test_the_wipe_is_slow_and_shows_both_sides(chromium, url):
    """Where the divider stands, in percent, and how long it takes there and back."""
    page = opened(chromium, url, 1280, 800)
    expect(page.locator("#result")).to_have_class(re.compile("cu-wiping"))
    seconds, times, places = page.locator("#result .cu-stage").evaluate(
        """e => {
          const [wipe] = e.getAnimations().filter((one) => one.animationName === 'cu-wipe')
          const { duration, iterations, delay } = wipe.effect.getTiming(), places = []
          wipe.pause()
          for (let k = 0; k < 100; k += 1) {
            wipe.currentTime = delay + duration * k / 100
            places.push(parseFloat(getComputedStyle(e).getPropertyValue('--cut')))
          }
          return [duration / 1000, iterations, places]
        }"""
    )
    assert 6 <= seconds <= 15 and times == 2
    assert places[0] == 50 and min(places) < 20 and max(places) > 80
    page.context.close()


def test_no_one_who_wants_rest_sees_it_move(chromium, url):
    page = opened(chromium, url, 1280, 800, reduced_motion="reduce")
    assert page.locator("#result .cu-stage").evaluate("e => getComputedStyle(e).animationName") == "none"
    page.context.close()


def test_what_has_the_focus_is_seen(page, url):
    """All that the first screen can be gone through with the Tab key, of which there is a ring around each."""
    page.goto(url)
    page.locator("#run").wait_for()
    page.locator("#tabs [role=tab]").first.focus()
    order = ["image", "set-prompt", "set-scale", "creativity", "run", "result", "examples", "advanced"]
    seen = []
    while "advanced" not in seen[-1:]:
        page.keyboard.press("Tab")
        name, ring = page.evaluate(
            """order => {
              const there = document.activeElement
              const handle = document.querySelector('#result .cu-line i')  // on which the ring of the slider is
              const style = getComputedStyle(there.matches('.cu-range') ? handle : there)
              const ring = style.outlineStyle === 'solid' && parseFloat(style.outlineWidth) >= 2
              const part = there.closest(order.map(id => '#' + id).join())
              return [part ? part.id : there.outerHTML, ring]
            }""",
            order,
        )
        assert ring, name
        seen.append(name)
    assert [name for name in dict.fromkeys(seen) if name in order] == order


def test_buttons_and_numbers_choose_the_size(page, url, tmp_path):
    visit(page, url)
    give(page, photo(tmp_path / "x.png", (80, 60)), "80 × 60")
    plan, number = page.locator("#plan b"), page.locator("#set-scale input")
    page.get_by_role("button", name="4×", exact=True).click()
    expect(plan).to_contain_text("→ 320 × 240")
    expect(page.get_by_role("button", name="4×", exact=True)).to_have_attribute("aria-pressed", "true")
    page.get_by_label("What the number is").select_option("width")
    number.fill("200")
    number.press("Enter")
    expect(plan).to_contain_text("→ 200 × 150")
    page.get_by_label("What the number is").select_option("megapixels")
    number.fill("0.0432")
    number.press("Enter")
    expect(plan).to_contain_text("→ 240 × 180")
    number.fill("40")  # megapixels that 16 times does not reach
    number.press("Enter")
    expect(page.locator(".toast-wrap")).to_contain_text("limits are 1 and 16")
    page.get_by_role("button", name="to 4K").click()
    expect(page.locator(".toast-wrap")).to_contain_text("51.2")
    expect(plan).to_contain_text("→ 240 × 180")


def test_creativity_moves_three_settings_and_says_when_they_were_set_by_hand(page, url):
    visit(page, url)
    open_part(page, "advanced")
    creativity, said = page.locator("#creativity input"), page.locator("#creativity output")
    strength = page.locator("#set-strength input[type=number]")
    expect(said).to_have_text("set by hand")  # the link's strength is none of the path's
    creativity.focus()
    page.keyboard.press("End")
    expect(strength).to_have_value("0.675")
    expect(page.locator("#set-structure input[type=number]")).to_have_value("0.5")
    expect(page.locator("#set-fidelity input")).to_have_value("0.0")
    expect(said).to_have_text("100")
    strength.fill("0.3")
    strength.press("Enter")
    expect(said).to_have_text("set by hand")
    page.get_by_role("button", name="Reset", exact=True).click()
    expect(said).to_have_text("50")
    expect(strength).to_have_value("0.45")


def test_a_long_run_offers_a_smaller_size(page, url, tmp_path):
    visit(page, url, "seed=3&steps=1000&strength=1&guidance=4&overlap=0.75&scale=6&upscaler=lanczos")
    page.locator("#image input[type=file]").set_input_files(str(photo(tmp_path / "x.png", (80, 60))))
    smaller = page.locator("#smaller")
    expect(smaller).to_contain_text(re.compile(r"Above 3 min: make it \d+ × \d+ instead, about "))
    size = re.search(r"\d+ × \d+", smaller.inner_text())[0]
    smaller.click()
    expect(page.locator("#plan b")).to_contain_text(f"→ {size}")
    expect(smaller).to_be_hidden()
    expect(setting(page, "steps")).to_have_value("1000")  # the rest stays
