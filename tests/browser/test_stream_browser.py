"""No answer of the server is lost or comes late over a newer one, in whatever order a busy browser comes to things."""

from __future__ import annotations

import re

from browser_hands import download, expect, give, setting, visit

from cupscale.page import mended

# The end of a stream is read only after the next thing was asked for, as on a machine that has much else to do.
SLOW_TO_END = """() => {
  const send = window.fetch.bind(window);
  window.held = 0;
  let told = () => {};
  window.fetch = async (...given) => {
    const url = String(given[0]?.url ?? given[0]), answer = await send(...given);
    if (url.includes("/queue/join") && window.held) setTimeout(() => told(), 500);
    if (!url.includes("/queue/data")) return answer;
    const reader = answer.body.getReader();
    return new Response(new ReadableStream({ async pull(sink) {
      const { done, value } = await reader.read();
      if (done) { sink.close(); return; }
      const text = new TextDecoder().decode(value), end = window.held ? -1 : text.indexOf('data: {"msg":"close_stream"');
      if (end > 0) sink.enqueue(new TextEncoder().encode(text.slice(0, end)));
      if (end >= 0) {
        window.held += 1;
        await new Promise((resolve) => { told = resolve; });
      }
      sink.enqueue(end > 0 ? new TextEncoder().encode(text.slice(end)) : value);
    } }), { headers: answer.headers });
  };
}"""


def test_an_answer_is_not_lost_where_the_end_of_a_stream_is_read_late(page, url):
    page.add_init_script(f"({SLOW_TO_END})()")
    page.goto(url)
    page.locator("#examples button img").first.click()
    expect(page.locator("#result .cu-note")).to_contain_text("raccoon")
    page.wait_for_function(
        "window.held > 0"
    )  # the server has closed the stream, and the page does not know it
    assert download(page, "#result [data-do=card]").suggested_filename.endswith(".jpg")
    page.locator("#result [data-do=use]").click()
    expect(page.locator("#plan b")).to_contain_text("1024 ×")


def test_the_events_of_each_component_are_those_that_gradio_finds(page):
    """By the installed script and by the mended one: several steps, two events of one component, steps that are added."""
    (file,) = mended._ASSETS.glob("core-*.js")
    code = file.read_text("utf-8")
    found = [
        re.search(r"find_attached_events\(\w+,\w+\)\{.*?\}(?=traverse\()", text)[0]
        for text in (code, mended.mended(code))
    ]
    assert found[0] != found[1]
    theirs, ours = page.evaluate(
        """(found) => found.map((body) => {
          const tree = new (eval(`(class { ${body} })`))(), seen = []
          const steps = [{targets: [[1, 'change'], [2, 'click']]}, {targets: [[1, 'input'], [1, 'submit']]},
                         {targets: [[null, 'load']]}, {targets: []}]
          const look = (steps) => [1, 2, 3].forEach((id) => {
            const one = {id, props: {shared_props: {}}}
            seen.push(tree.find_attached_events(one, steps) === one && one.props.shared_props.attached_events)
          })
          look(steps)
          steps.push({targets: [[3, 'select']]})
          look(steps)
          look([...steps.slice(1), {targets: [[2, 'blur']]}])
          return seen
        })""",
        found,
    )
    assert ours == theirs and theirs[:3] == [["change", "input"], ["click"], []] and theirs[5] == ["select"]


def test_what_waited_for_a_component_does_not_come_over_what_came_after(page, url):
    """gradio's browser side lets it wait until the page has settled; here that takes seconds.

    A link's settings wait until Advanced is opened, for their controls.
    """

    def slowly(route):
        answer = route.fetch()
        body, count = re.subn(
            r"=this\.#\w+\.get\(\w+\);\w+&&\(?(?:this\.#\w+\.delete\(\w+\),)?\w+\(\)(?=\.then)",
            r"\g<0>.then(() => new Promise((done) => { waits += 1; setTimeout(() => { settled += 1; done() }, 4000) }))",
            answer.text(),
        )
        assert count == 1
        route.fulfill(response=answer, body=body)

    page.route(re.compile(r"/assets/core-[^/]*\.js"), slowly)
    page.add_init_script("window.waits = window.settled = 0")
    visit(page, url)
    strength = setting(page, "strength")
    page.wait_for_function("waits > 0")
    page.locator("#creativity input").focus()
    page.keyboard.press("End")
    expect(strength).to_have_value("0.675")
    assert page.evaluate("settled") == 0
    page.wait_for_function("settled === waits")
    expect(strength).to_have_value("0.675")
    expect(page.locator("#creativity output")).to_have_text("100")


def test_a_refusal_stands_over_a_plan_that_answers_late(page, url, small):
    """What the page follows by itself is no answer to a click; what the person does next is."""
    late, hold = [], True

    def held_back(route):
        if hold:
            late.append(route)
        else:
            route.continue_()

    visit(page, url)
    page.route(re.compile("/gradio_api/run/predict"), held_back)
    setting(page, "seed").fill("9")  # asks for the plan, which does not come yet
    page.locator("#draw").click()
    refused = page.locator("#refused [data-wrong]")
    expect(refused).to_contain_text("neither an image nor a prompt")
    hold = False
    assert late
    for route in late:
        route.continue_()
    expect(page.locator("#visit textarea")).to_have_value(re.compile(r'"seed": 9\b'))  # it came
    expect(refused).to_be_visible()
    expect(page.locator("#plan")).to_be_hidden()
    give(page, small)
    expect(refused).to_be_hidden()
    expect(page.locator("#plan b")).to_contain_text("64 × 48")
    page.locator("#draw").click()  # the same words again
    expect(refused).to_be_visible()
