"""The first screen's own parts, without a browser: Creativity, the size, the warning, what a page is opened with."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import pytest
from gradio.routes import toorjson
from PIL import Image
from starlette.testclient import TestClient

from cupscale import models
from cupscale.errors import CupscaleError
from cupscale.page import (
    bounds,
    build,
    creativity,
    engine,
    examples,
    heading,
    light,
    links,
    references,
    run,
    size,
    visit,
)
from cupscale.page.controls import LABELS
from cupscale.page.limits import Limits
from cupscale.page.size import scale_to
from cupscale.planning import Plan
from cupscale.settings import RECORDED, SHARES, Settings


@pytest.fixture(scope="module")
def page():
    return build(Limits())


def defaults(name):
    return models.defaults(name)


@pytest.fixture(autouse=True)
def every_model(monkeypatch):
    """As on a machine with a GPU, so that no list of models is in the way."""
    monkeypatch.setattr(engine, "defaults", defaults)
    creativity.path.cache_clear()
    yield
    creativity.path.cache_clear()


@pytest.mark.parametrize("model", ["tiny", "sdxl", "z-image-turbo"])
def test_creativity_has_the_models_own_defaults_and_only_grows(model):
    own = Settings.build(defaults(model))
    stops = creativity.path(model)
    assert list(stops) == [0, 25, 50, 75, 100]
    assert creativity.level_of(own) == (25 if model == "tiny" else 50, True)
    strengths = [stop.strength for stop in stops.values()]
    assert strengths == sorted(strengths) and strengths[0] < own.strength < strengths[-1]
    structures = [stop.structure for stop in stops.values()]
    assert structures == sorted(structures, reverse=True)
    for level, stop in stops.items():
        assert creativity.level_of(own.replace(**stop._asdict())) == (level, True)


def test_the_path_of_sdxl_follows_the_paper():
    """S = 0.45 T in the middle; half and half as much again at the ends."""
    assert [stop.strength for stop in creativity.path("sdxl").values()] == [0.225, 0.338, 0.45, 0.562, 0.675]
    assert (
        not creativity.measured("sdxl")
        and "Not measured" in creativity.shown(Settings.build(defaults("sdxl")))["note"]
    )
    assert "Not measured" not in creativity.shown(Settings.build(defaults("tiny")))["note"]


def test_settings_beside_the_path_are_set_by_hand():
    own = Settings.build(defaults("tiny"))
    assert creativity.level_of(own.replace(strength=0.14, structure=0.3)) == (50, False)
    assert creativity.level_of(own.replace(fidelity=0.7)) == (25, False)


@pytest.mark.parametrize(
    ("sent", "level"), [(100, 100), (80, 75), (-3, 0), (1e9, 100), ("x", 50), (None, 50)]
)
def test_whatever_a_browser_sends_is_a_stop(sent, level):
    assert creativity.chosen("tiny", sent) == creativity.path("tiny")[level]._asdict()


@pytest.fixture
def picture(monkeypatch):
    """256 x 192 px."""
    path = str(examples.FOLDER / "raccoon.png")
    monkeypatch.setattr(references, "check", lambda given, gone=False: given)
    monkeypatch.setattr(references, "opened", lambda given: io.BytesIO(Path(given).read_bytes()))
    return path


@pytest.mark.parametrize(
    ("kind", "value", "scale"),
    [("width", 640, 2.5), ("height", 288, 1.5), ("fit", "1024x9999", 4.0), ("megapixels", 0.442368, 3.0)],
)
def test_a_size_is_a_scale_of_this_image(picture, kind, value, scale):
    assert scale_to(kind, value, picture, Limits()) == pytest.approx(scale)


@pytest.mark.parametrize(
    ("kind", "value", "said"),
    [
        ("width", 40, "limits are 1 and 16"),
        ("width", 9000, "limits are 1 and 16"),
        ("width", -1, "a number from 1 to"),
        ("width", float("nan"), "a number from 1 to"),
        ("width", float("inf"), "a number from 1 to"),
        ("width", True, "a number from 1 to"),
        ("width", None, "no size"),
        ("label", 9, "no size"),
        ("to", "8k", r"scale of 32, and the limits"),
        ("fit", "40", "WIDTHxHEIGHT"),
    ],
)
def test_a_size_that_cannot_be_is_refused(picture, kind, value, said):
    with pytest.raises(CupscaleError, match=said):
        scale_to(kind, value, picture, Limits())


def test_a_size_without_an_image_is_refused():
    with pytest.raises(CupscaleError, match="no image yet"):
        scale_to("width", 900, None, Limits())


def test_the_smaller_size_is_the_largest_that_is_not_long(monkeypatch):
    """Seconds as the square of the scale times 20: 3 takes exactly 180 s, 3.5 takes 245."""
    monkeypatch.setattr(engine, "planned", lambda image, settings: settings)
    monkeypatch.setattr(engine, "expected_seconds", lambda plan, settings: 20 * settings.scale**2)
    assert bounds.shorter((80, 60), Settings(scale=4)) == (3.0, 180.0)
    assert bounds.shorter((80, 60), Settings(scale=3.2)) == (3.0, 180.0)
    assert bounds.shorter((80, 60), Settings(scale=3)) == (2.5, 125.0)  # below the run's, always
    assert bounds.shorter((80, 60), Settings(scale=1)) is None
    monkeypatch.setattr(engine, "expected_seconds", lambda plan, settings: 181.0)
    assert bounds.shorter((80, 60), Settings(scale=4)) is None


def test_a_plan_leads_with_size_and_time():
    plan = engine.planned((80, 60), Settings(scale=3, model="tiny"))
    known = Plan(**{**vars(plan), "seconds": 75.0, "guessed": False})
    assert known.lead() == "80 x 60 -> 240 x 180, about 1 min 15 s here"
    assert known.line() == f"{known.lead()}, {known.rest()}" and "model calls" in known.rest()
    assert run.plan_lead(known) == "80 × 60 → 240 × 180, about 1 min 15 s here"
    unknown = Plan(**{**vars(plan), "seconds": None})
    assert run.plan_lead(unknown) == "80 × 60 → 240 × 180, time not yet known for this model here"
    assert run.plan_html("<i>", lead="<b>") == (
        '<p class="cu-plan" role="status"><b>&lt;b&gt;</b> &lt;i&gt;</p>'
    )


def test_what_a_page_is_opened_with():
    both = json.dumps({"query": "seed=5&prompt=a%20fox&model=", "kept": "{}"})
    assert visit.read(both) == ({"seed": "5", "prompt": "a fox", "model": ""}, "{}")
    for none in ("", "[]", "{", "null"):
        assert visit.read(none) == ({}, "")


def test_a_result_of_a_drawn_picture_says_at_what_size_it_was_drawn():
    drawn = Settings(prompt="a fox", seed=4, scale=1, size="64x48", model="random")
    picture = SimpleNamespace(metadata=drawn.model_dump())
    again = Settings(prompt="a fox", seed=4, scale=3, model="random")
    assert links.as_drawn(picture, again).size == "64x48"
    assert links.as_drawn(picture, again.replace(seed=5)).size == ""
    assert links.as_drawn(SimpleNamespace(metadata={}), again).size == ""


def test_the_first_example_is_there_and_thumbnails_are_small():
    best = examples.best()
    assert best is not None and best.name == examples.BEST
    strip = examples.Strip()
    assert [one["name"] for one in strip.value] == [one.name for one in examples.every()]
    assert all(len(one["thumb"]) < 12_000 for one in strip.value)


def test_the_heading_says_which_model_runs_where(monkeypatch):
    monkeypatch.delenv("SPACE_ID", raising=False)
    text = heading.html()
    assert "Upscale images to 4K and 8K" in text and "adds detail, keeps the content" in text
    assert "Model <b>tiny</b> on a CPU" in text and f'<a href="{heading.PAPER}">Paper</a>' in text
    assert ">Code<" not in text
    monkeypatch.setenv("SPACE_ID", "someone/cupscale")
    assert "https://huggingface.co/spaces/someone/cupscale/tree/main" in heading.html()


def test_the_card_of_the_bundled_model_is_read_from_the_page_and_nothing_beside_it(page):
    """A link to it is of no use where gradio refuses the file."""
    link = re.search(r'<a href="([^"]*)">Model card</a>', heading.html())[1]
    client = TestClient(gr.routes.App.create_app(page))
    answer = client.get(f"/{link}")
    assert answer.status_code == 200 and answer.content == heading.CARD.read_bytes()
    assert answer.headers["content-disposition"].startswith("inline")
    assert heading.CARD.with_name("model_index.json").is_file()
    assert client.get(f"/{link.replace('README.md', 'model_index.json')}").status_code == 403


def test_the_large_result_is_on_the_page(page):
    """4096 px wide, closed, with what the browser needs to fetch its tiles."""
    (part,) = [one for one in page.blocks.values() if one.elem_id == "large"]
    (view,) = [one for one in page.blocks.values() if one.elem_id == "large-view"]
    assert not part.open and part.label == "Look into a result of 4096 × 2731 pixels, with its captions"
    assert view.value["levels"][-1] == [4096, 2731] and len(view.value["captions"]) > 1
    folder = Path(view.value["tiles"].removeprefix("gradio_api/file="))
    assert (folder / "0-0-0.webp").is_file() and (folder / "3-7-5.webp").is_file()


def test_what_is_closed_begins_invisible_and_is_shown_once():
    with gr.Blocks() as demo:
        with gr.Accordion("part", open=False) as part:
            with gr.Row():
                plain, gone = gr.Slider(), gr.Image(visible=False)
            state = gr.State(1)
        beside = gr.Slider()
        light.later(part, part.expand)
    assert (plain.visible, gone.visible, beside.visible, state.visible) == (False, False, True, True)
    (event,) = [fn for fn in demo.fns.values() if fn.outputs == [plain]]
    assert "visible: true" in event.js and "fill(" in event.js


@pytest.mark.parametrize("name", ["regions", "batch", "compare", "advanced", "share", "large", "method"])
def test_nothing_of_a_closed_part_is_fetched_at_first(page, name):
    """gradio fetches the code of all that begins visible, on closed tabs and in closed accordions too."""
    (part,) = [one for one in page.blocks.values() if name in (getattr(one, "id", ""), one.elem_id)]
    within = list(light._within(part))
    assert within and not any(block.visible is True for block in within)


def test_schemas_are_sent_of_what_programs_call_alone(page):
    """gradio sends three of each component to each visitor, a quarter of the page."""
    called = {
        part._id
        for fn in page.fns.values()
        if fn.api_visibility != "private"
        for part in (*fn.inputs, *fn.outputs)
    }
    sent = {part["id"]: part for part in page.get_config_file()["components"]}
    for name in ("api_info", "api_info_as_input", "api_info_as_output", "example_inputs"):
        assert {key for key, part in sent.items() if name in part} == called, name
    assert len(called) < len(sent) / 5


def test_what_the_page_consists_of_is_sent_as_data_and_is_the_same(page):
    """Through gradio's own writing of its page, with all that HTML could take for its own."""
    words = "</script><script>alert(1)</script> \u2028 'x' & \"y\" \\ é <!--"
    script = (
        "<script>window.gradio_config = {};</script><script>window.gradio_api_info = {};</script><b>after</b>"
    )
    config, info = page.get_config_file() | {"title": words}, {"named": {words: [1, None, True]}}
    html = script.format(toorjson(config), toorjson(info)).encode()
    found = light.as_data(html).decode()
    data = dict(re.findall(r'<script type="application/json" id="cupscale-(\w+)">(.*?)</script>', found))
    assert json.loads(data["gradio_config"]) == json.loads(toorjson(config)) and len(data) == 2
    assert json.loads(data["gradio_config"])["title"] == words
    assert json.loads(data["gradio_api_info"]) == info
    for name in data:
        read = f'<script>window.{name} = JSON.parse(document.getElementById("cupscale-{name}").textContent);</script>'
        assert read in found
    assert (
        found.count("<script") == 4
        and found.endswith("<b>after</b>")
        and "window.gradio_config = {" not in found
    )


def test_a_page_that_is_built_in_another_way_is_left_as_it_is():
    html = b"<script>window.gradio_config = load();</script><script>window.other = {};</script>"
    assert light.as_data(html) == html


def test_the_theme_is_in_the_page_and_marked_as_there():
    """gradio's browser side waits for it, and asks once its scripts run."""
    with gr.Blocks() as demo:
        gr.Slider()
    demo.theme_css, demo.theme_hash = ":root { --own: 1 }", "abc"
    last = light.head(demo)[1]
    assert ":root { --own: 1 }</style>" in last and '"theme.css?v=abc"]' in last
    demo.theme_css = "</style>"
    assert "theme.css" not in light.head(demo)[1] and "</style></style>" not in light.head(demo)[1]


def test_the_first_screens_components_have_their_code_at_once(page):
    """Each by its class, from a script that the page names and that has such a part; of what is not in sight none."""
    early, last = light.head(page)
    script = re.search(r'<script type="module" onerror="cupscaleFirst\(\{\}\)">(.*?)</script>', last)[1]
    imported = dict(re.findall(r'import \* as _(\w+) from "\./(assets/[\w-]+\.js)";', script))
    handed = {
        kind: (imported[kind], part) for kind, part in re.findall(r"\b([a-z]+):_\1(?:\.(\w+))?[,}]", script)
    }
    again, given = (json.loads(one) for one in re.findall(r"(?:kinds = |entries\()(\{.*?\})", last))
    assert {kind: tuple(one) for kind, one in again.items()} == handed
    seen = {one.component_class_id: one.get_block_name() for one in page.blocks.values() if light._seen(one)}
    assert given == seen | {"column": "column"} and set(given.values()) == set(handed)
    for kind, (name, part) in handed.items():
        code = (light._ASSETS.parent / name).read_text("utf-8")
        assert f'modulepreload" href="{name}"' in early
        assert re.search(rf"export\{{[^}}]* as {part or 'default'}[,}}]", code), kind
    assert "slider" not in imported and "dataframe" not in imported  # in closed parts


def test_what_only_carries_values_is_not_drawn(page):
    """The browser builds each component that it may show; of these it needs the value alone, but for the one that tests read."""
    (tab,) = [part for part in page.blocks.values() if getattr(part, "id", "") == "upscale"]
    closed = {id(part) for other in tab.parent.children if other is not tab for part in light._within(other)}
    drawn = [
        p for p in page.blocks.values() if getattr(p, "visible", True) == "hidden" and id(p) not in closed
    ]
    assert [part.elem_id for part in drawn] == ["visit"]


def test_a_size_control_says_what_it_is():
    assert size.Size(2.0).value == 2.0 and size.Size(2.0).api_info()["type"] == "number"


def test_thumbnails_are_the_middle_of_a_picture(tmp_path):
    wide = Image.new("RGB", (600, 100), "red")
    wide.paste("blue", (230, 0, 370, 100))
    wide.save(tmp_path / "wide.png")
    data = base64.b64decode(examples.thumbnail(str(tmp_path / "wide.png")).partition(",")[2])
    with Image.open(io.BytesIO(data)) as thumb:
        red, _, blue = thumb.convert("RGB").getpixel((thumb.width // 2, thumb.height // 2))
        assert thumb.format == "WEBP" and thumb.size == (208, 140) and blue > 200 > 60 > red


@pytest.mark.parametrize(
    ("model", "words", "none"),
    [
        ("tiny", ["Quick"], ["Turbo", "Paper"]),
        ("sdxl", ["Quick", "Paper"], ["Turbo"]),
        ("z-image-turbo", ["Quick", "Turbo"], ["Paper"]),
    ],
)
def test_the_presets_that_a_model_has_are_offered_and_explained(page, model, words, none):
    (event,) = [fn for fn in page.fns.values() if fn.fn and "presets" in [p.elem_id for p in fn.outputs]]
    updates = {part.elem_id or part.value: value for part, value in event.fn(model).items()}
    assert [name for name in ("Quick", "Turbo", "Paper") if updates[name]["visible"]] == words
    line = updates["presets"]
    assert all(f"<b>{word}</b>" in line for word in [*words, "Reset"]) and not any(w in line for w in none)


def test_every_setting_has_its_place_on_the_page(page):
    """One that had none would be lost from links, pictures and presets, without a word."""
    there = {str(part.elem_id).removeprefix("set-") for part in page.blocks.values()}
    fields = set(Settings.model_fields) - set(RECORDED) - {"size"}
    assert fields <= there and fields == set(LABELS)


@pytest.mark.parametrize(
    ("model", "name"), [("sdxl", "quick"), ("sdxl", "paper"), ("z-image-turbo", "turbo")]
)
def test_a_preset_of_the_page_is_the_preset(page, model, name):
    (button,) = [part for part in page.blocks.values() if getattr(part, "value", "") == name.title()]
    (event,) = [fn for fn in page.fns.values() if (button._id, "click") in fn.targets]
    shown = {part.elem_id: value for part, value in event.fn(model, 2.0).items()}
    wanted = Settings.build(models.defaults(model), models.preset(model, name), scale=2.0).model_dump()
    names = set(LABELS) - {"scale", "seed", "prompt", "negative_prompt", "model", "seamless"}
    wanted |= {key: str(wanted[key]) for key in SHARES}  # a box that takes "auto" holds text
    assert {key: shown[f"set-{key}"] for key in names} == {key: wanted[key] for key in names}


@pytest.mark.parametrize("name", ["webp", "jpeg"])
def test_a_download_that_is_refused_is_none_of_the_picture_before(page, name):
    """The hidden button still has the file of the last one: it is clicked after a success alone."""
    (button,) = [part for part in page.blocks.values() if part.elem_id == name]
    (made,) = [fn for fn in page.fns.values() if (button._id, "click") in fn.targets]
    with pytest.raises(gr.Error, match="no longer on the server"):
        made.fn(None)
    (clicked,) = [fn for fn in page.fns.values() if fn.trigger_after == made._id]
    assert clicked.trigger_only_on_success and clicked.js


def test_the_fields_own_words_stand_on_the_page(page):
    """As other programs of this kind name them, so that a person finds what they know."""
    words = {
        str(getattr(part, "label", "") or getattr(part, "value", "")).partition(" (")[0]
        for part in page.blocks.values()
    }
    known = {"Denoising strength", "Guidance scale", "Base upscaler", "Randomize seed", "Negative prompt"}
    known |= {"Steps", "Seed", "Scheduler", "Download PNG", "Upscale"}
    assert known <= words and any("caption" in word.lower() for word in words)
    assert LABELS["guidance"].endswith("(CFG)")
    assert run._STAGES["denoise"] == "denoising"
    plan = engine.planned((64, 48), Settings.build(defaults("tiny")))
    assert "model calls (guidance doubles" in plan.line()
