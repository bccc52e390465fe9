"""Captioners: the stage, cleaning, the cache, merging, budgets, servers, files, the command. Models: test_captioners_models."""

import contextlib
import http.server
import json
import sys
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from checkpoints import make_sdxl
from click.testing import CliRunner
from PIL import Image

import cupscale
from cupscale.captioners import (
    Answer,
    Cache,
    Captioned,
    CaptionerError,
    Captioning,
    CaptionProgress,
    NoCaptioner,
    Request,
    background,
    caption_calls,
    caption_regions,
    group,
    open_captioner,
    stage,
)
from cupscale.captioners.base import REGION_INSTRUCTION, WHOLE_INSTRUCTION
from cupscale.captioners.cleaning import WORDS, clean
from cupscale.captioners.memory import room_for
from cupscale.captioners.server import Server
from cupscale.captioners.sharing import descriptor, distance
from cupscale.captions import (
    TokenBudget,
    captions_file,
    captions_text,
    fit,
    match,
    prepended,
    read_captions,
    read_prompt,
    within_budget,
)
from cupscale.cli import main
from cupscale.errors import CupscaleError
from cupscale.events import Finished, Planned, Progress
from cupscale.method.regions import Region
from cupscale.method.sampler import Notice
from cupscale.pipeline import CUpscalePipeline
from cupscale.planning import Geometry, make_plan
from cupscale.settings import Caption, Settings

GEOMETRY = Geometry(native=64, cell=4, align=8)
FAST = {"strength": 0.5, "steps": 2, "guidance": 1.0, "upscaler": "lanczos", "scheduler": "ddim"}


class Told:
    """A captioner that says what it is told: a function of the request's number, or a list."""

    name = identity = "told"
    device = "cpu"
    bytes = 0

    def __init__(self, answers=lambda n: f"thing number {n}"):
        self.answers = answers if callable(answers) else answers.__getitem__
        self.requests = []
        self.closed = self.released = 0

    def load(self):
        pass

    def release(self):
        self.released += 1

    def ask(self, requests):
        try:
            for n, request in enumerate(requests):
                self.requests.append(request)
                said = self.answers(n)
                if isinstance(said, Exception):
                    raise said
                yield None
                yield said if isinstance(said, Answer) else Answer(n, said)
        finally:
            self.closed += 1


def noise(width=48, height=48, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def plan_for(image, scale=4, overlap=0.25):
    return make_plan(image.size, Settings.build(scale=scale, overlap=overlap), GEOMETRY)


def options_of(captioner, options):
    """`Captioning` from the options that belong to it."""
    own = {name: options.pop(name) for name in ("share", "prepend", "fresh", "style") if name in options}
    return Captioning(captioner, **own)


def written(captioner, image, plan=None, **options):
    captioning = options_of(captioner, options)
    events = list(caption_regions(captioning, image, plan or plan_for(image), **options))
    assert isinstance(events[-1], Captioned)
    assert not any(isinstance(event, Captioned) for event in events[:-1])
    return events[-1], [event.message for event in events if isinstance(event, Notice)], events


# The stage


def test_every_region_gets_a_caption_from_the_whole_image_and_its_crop():
    image, captioner = noise(), Told()
    plan = plan_for(image)
    done, notices, events = written(captioner, image, plan, prompt="noise", share=0)
    assert [caption.box for caption in done.captions] == list(plan.boxes) and len(plan.boxes) == 16
    assert [caption.caption for caption in done.captions] == [f"thing number {n}" for n in range(16)]
    assert {caption.source for caption in done.captions} == {"told"} and notices == []
    assert (done.calls, done.cached, done.prompt, done.prompt_source) == (16, 0, "noise", "user")
    for request, box in zip(captioner.requests, plan.boxes, strict=True):
        whole, crop = request.images
        assert whole is captioner.requests[0].images[0] and whole.size == (48, 48)
        assert request.instruction == REGION_INSTRUCTION
        assert max(crop.size) == stage.CROP_LEAST_PX
        own = image.crop(tuple(round(n / 4) for n in box)).resize(crop.size, Image.Resampling.LANCZOS)
        assert np.array_equal(np.asarray(own), np.asarray(crop))
    progress = [event for event in events if isinstance(event, CaptionProgress) and event.regions]
    assert [event.done for event in progress] == list(range(1, 17))
    assert [event.regions for event in progress] == [(n,) for n in range(16)]
    assert progress[-1].left == 0 and progress[0].calls == 16


def test_an_empty_prompt_is_written_from_the_whole_image_and_shown():
    captioner = Told(lambda n: "The image shows a field of noise." if n == 0 else "noise")
    done, notices, events = written(captioner, noise(), share=0)
    assert done.prompt == "a field of noise." and done.prompt_source == "told" and done.calls == 17
    assert captioner.requests[0].instruction == WHOLE_INSTRUCTION and len(captioner.requests[0].images) == 1
    assert any("a field of noise." in notice for notice in notices)
    assert [event.caption for event in events if isinstance(event, CaptionProgress) and event.is_prompt] == [
        done.prompt
    ]


def test_a_prompt_that_cannot_be_written_stays_empty():
    done, notices, _ = written(
        Told(lambda n: "I'm sorry, I can't help with that." if n == 0 else "sky"), noise()
    )
    assert done.prompt == "" and done.prompt_source == ""
    assert any("prompt was empty and stays so" in notice for notice in notices)


def test_the_prompt_alone():
    done, _, _ = written(Told(["a wall of noise"]), noise(), regions=False)
    assert (done.captions, done.prompt, done.calls) == ((), "a wall of noise", 1)


def test_nobody_leaves_every_region_to_the_prompt():
    done, notices, _ = written(open_captioner("none"), noise(), prompt="a wall")
    assert {caption.caption for caption in done.captions} == {""} and done.calls == 0 and notices == []


def test_style_words_are_asked_for_only_when_wanted():
    captioner = Told()
    written(captioner, noise(), prompt="x", style=True)
    assert all("style of the image" in request.instruction for request in captioner.requests)


@pytest.mark.parametrize("size", [(16, 400), (16, 16), (3000, 20)])
def test_extreme_shapes_are_shown_in_sizes_that_models_take(size):
    image, captioner = noise(*size), Told()
    done, _, _ = written(captioner, image, plan_for(image, scale=1), share=0)
    assert all(
        min(part.size) >= 28 and max(part.size) <= 768 for r in captioner.requests for part in r.images
    )
    assert all(caption.caption for caption in done.captions)


# What goes wrong


def test_regions_without_a_usable_answer_take_the_prompt_and_are_named():
    answers = ["", "I cannot see any image.", "!!!!", Answer(3, None, "no answer within 60 s"), *["sky"] * 12]
    done, notices, _ = written(Told(answers), noise(), prompt="noise", share=0)
    assert [caption.caption for caption in done.captions[:5]] == ["", "", "", "", "sky"]
    assert done.captions[3].source == "prompt (no answer within 60 s)"
    text = "\n".join(notices)
    assert "region 1 uses the prompt: the answer is empty" in text
    assert "region 2 uses the prompt: the answer is no caption: 'I cannot see any image.'" in text
    assert "region 4 uses the prompt: no answer within 60 s" in text


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (CaptionerError("the server is gone"), "the server is gone"),
        (ValueError("bad\nshape"), "ValueError: bad"),
    ],
)
def test_a_captioner_that_breaks_leaves_what_it_had_and_the_rest_to_the_prompt(error, words):
    done, notices, _ = written(Told(["sky", "sea", *[error] * 14]), noise(), prompt="noise", share=0)
    assert [caption.caption for caption in done.captions[:3]] == ["sky", "sea", ""]
    (notice,) = notices
    assert "regions 3, 4, 5" in notice and "and 6 more" in notice and words in notice


def test_closing_stops_the_captioner():
    captioner = Told()
    events = caption_regions(Captioning(captioner, share=0), noise(), plan_for(noise()), prompt="x")
    while not (isinstance(event := next(events), CaptionProgress) and event.done):
        pass
    events.close()
    assert captioner.closed == 1 and len(captioner.requests) == 1


def test_background_work_beats_raises_and_stops():
    def slow(emit, stop):
        emit(1)
        stop.wait(0.5)
        emit(2)

    assert [item for item in background.run(slow) if item] == [1, 2]
    assert None in list(background.run(slow))

    def endless(emit, stop):
        stop.wait()

    began = time.monotonic()
    with contextlib.closing(background.run(endless)) as items:
        assert next(items) is None
    assert time.monotonic() - began < 2 and not [t for t in threading.enumerate() if t.name == "captioner"]

    def broken(emit, stop):
        raise OSError("no")

    with pytest.raises(OSError, match="no"):
        list(background.run(broken))


# Cleaning

WALL = "A grey stone wall with green moss."
BAD_ANSWERS = [
    ("The image shows a grey stone wall with green moss.", "a grey stone wall with green moss."),
    (f'Sure! Here is a description of the second image:\n\n"{WALL}"', WALL),
    (f"Sure, here's a one-sentence caption: {WALL}", WALL),
    (f"**Description:** {WALL}", WALL),
    (f"Caption: {WALL}", WALL),
    (f"Region: {WALL}", WALL),
    (f"“{WALL}”", WALL),
    (f"1. {WALL}", WALL),
    (f"{WALL}<|im_end|>", WALL),
    (f"</s><s>{WALL}</s>", WALL),
    (f"<think>One sentence. Let me see.</think>\n\n{WALL}", WALL),
    (f"USER: <image>\nDescribe the image in one sentence. ASSISTANT: {WALL}", WALL),
    (f"assistant\n{WALL}", WALL),
    (f"{REGION_INSTRUCTION} {WALL}", WALL),
    (f'```json\n{{"caption": "{WALL}"}}\n```', WALL),
    (f'{{"description": "{WALL}"}}', WALL),
    (f'{{"objects": ["wall"], "caption": "{WALL}"}}', WALL),
    (f'Here is the JSON: {{"caption": "{WALL}"}}', WALL),
    ('{"caption": "A grey stone wall with', "A grey stone wall"),  # cut off by the length limit
    ('{"caption": null}', None),
    ('{"caption": ""}', None),
    (f"{WALL} Let me know if you need anything else!", WALL),
    (f"{WALL} (7 words)", "A grey stone wall with green moss."),
    (f"{WALL} It suggests an old and peaceful place.", WALL),
    (f"{WALL} I'm sorry, I cannot identify the person.", WALL),
    (f"{WALL}\n\nNote: nothing else is visible.", WALL),
    (f"{WALL} {WALL} {WALL} A grey stone", WALL),
    ("Certainly! The second image shows: a rusty iron gate.", "a rusty iron gate."),
    ("In this image, we can see a brown dog lying on the grass.", "a brown dog lying on the grass."),
    ("The cropped region depicts the roof of a castle.", "the roof of a castle."),
    ("This is a close-up photo of a butterfly.", "a butterfly."),
    ("There are several wooden boats.", "several wooden boats."),
    ('The image depicts "a gate" in a wall', "a gate in a wall"),
    ("The second image shows a close-up of a bee.", "a bee."),
    ("An aerial view of a city", "An aerial view of a city"),
    (
        "The lower section of the wall is covered with moss.",
        "The lower section of the wall is covered with moss.",
    ),
    ("A sign in the image reads: OPEN", "A sign in the image reads: OPEN"),
    ("# Region\n\n- **Sky:** pale blue\n- **Ground:** dry grass\n", "Sky: pale blue, Ground: dry grass"),
    ("green leaves, green leaves, green leaves, green lea", "green leaves"),
    ("A tree with leaves and leaves and leaves and leaves and", "A tree with leaves"),
    ("[A gate](http://example.com/x.png) in a wall", "A gate in a wall"),
    ("A gate &amp; a wall\x00\x07", "A gate & a wall"),
    (
        "The glass of the window shows a reflection of trees.",
        "The glass of the window shows a reflection of trees.",
    ),
    ("一只蜜蜂在紫色的花上", "一只蜜蜂在紫色的花上"),
    ("I'm sorry, but I can't assist with that request.", None),
    ("I cannot see any image. Please provide the image you would like me to describe.", None),
    ("As an AI language model, I am unable to view images.", None),
    ("Unfortunately, the image is too blurry to determine what it shows.", None),
    ("<think>The user wants one sentence", None),
    ("Describe the second image", None),
    ("!!!!!!!!!!!!", None),
    ("0 0 0 0 0 0", None),
    ("a a a a a a a a a", None),
    ("\ufffd\ufffd\ufffd", None),
    ("<image>", None),
    ("   ", None),
    ("", None),
    (None, None),
    ("x" * 5000, None),
    ("{" * 3000, None),
]


@pytest.mark.parametrize(("answer", "caption"), BAD_ANSWERS)
def test_cleaning(answer, caption):
    assert clean(answer, REGION_INSTRUCTION) == caption


def test_a_clean_caption_stays_as_it_is():
    for _, caption in BAD_ANSWERS:
        assert clean(caption) == caption


def test_long_answers_end_after_a_sentence_a_clause_or_a_word():
    one = "A bee with thin wings sits on a violet flower"
    assert clean(f"{one}. " + "It is " + ", ".join(f"colour {n}" for n in range(60))) == f"{one}."
    by_word = clean(" ".join(f"word{chr(97 + n // 26)}{chr(97 + n % 26)}" for n in range(90)))
    assert by_word is not None and len(by_word.split()) == WORDS
    assert clean(" ".join(["a"] + [f"stone{chr(97 + n)} and" for n in range(26)])).split()[-1] != "and"


@pytest.mark.parametrize(
    "answer",
    ["<" * 20000, "**" * 9000, "(" * 9000 + "a", "the image shows " * 3000, "a, " * 5000, "[" * 9000],
)
def test_no_answer_takes_long_to_clean(answer):
    began = time.perf_counter()
    clean(answer)
    assert time.perf_counter() - began < 2


# The cache


def test_known_answers_are_not_asked_again(tmp_path):
    cache, image = Cache(tmp_path), noise()
    first, again = Told(), Told()
    done, _, _ = written(first, image, prompt="x", share=0, cache=cache)
    known, _, _ = written(again, image, prompt="x", share=0, cache=Cache(tmp_path))
    assert len(first.requests) == 16 and again.requests == []
    assert known.captions == done.captions and (known.calls, known.cached) == (16, 16)
    written(again, image, prompt="x", share=0, cache=cache, fresh=True)
    assert len(again.requests) == 16


def test_another_image_instruction_or_model_is_another_question(tmp_path):
    cache, image = Cache(tmp_path), noise()
    written(Told(), image, prompt="x", share=0, cache=cache)
    other, style, model = Told(), Told(), Told()
    model.identity = "another"
    written(other, noise(seed=1), prompt="x", share=0, cache=cache)
    written(style, image, prompt="x", share=0, cache=cache, style=True)
    written(model, image, prompt="x", share=0, cache=cache)
    assert [len(one.requests) for one in (other, style, model)] == [16, 16, 16]


def test_what_was_no_caption_is_asked_again(tmp_path):
    cache = Cache(tmp_path)
    written(Told(["I'm sorry, I can't.", *["sky"] * 15]), noise(), prompt="x", share=0, cache=cache)
    again = Told(["sea"])
    done, _, _ = written(again, noise(), prompt="x", share=0, cache=cache)
    assert len(again.requests) == 1 and done.captions[0].caption == "sea"


def test_the_answers_used_longest_ago_go_first(tmp_path):
    cache = Cache(tmp_path, max_bytes=10 * 250)
    for n in range(10):
        cache.put(f"key {n}", "x" * 100)
    assert cache.get("key 0") == "x" * 100
    cache.put("key 10", "x" * 100)
    assert cache.get("key 0") and cache.get("key 10") and cache.get("key 1") is None
    for n in range(200):
        cache.put(f"more {n}", "x" * 100)
    assert cache.file.stat().st_size < 60_000


def test_a_broken_or_forbidden_cache_does_not_stop_a_run(tmp_path):
    (tmp_path / "captions.sqlite").write_bytes(b"no database at all" * 100)
    for folder in (tmp_path, tmp_path / "captions.sqlite" / "under a file", "/proc/nowhere"):
        done, _, _ = written(Told(), noise(), prompt="x", share=0, cache=Cache(folder))
        assert len(done.captions) == 16
    again = Told()
    written(again, noise(), prompt="x", share=0, cache=Cache(tmp_path))  # the broken one was started anew
    written(again, noise(), prompt="x", share=0, cache=Cache(tmp_path))
    assert len(again.requests) <= 16


# Merging


def sky_over_noise():
    """64 x 64: flat blue above, noise below, one dark bird in the sky."""
    pixels = np.full((64, 64, 3), (120, 170, 230), np.uint8)
    pixels[40:] = np.asarray(noise(64, 24))
    pixels[4:7, 50:54] = 20
    return Image.fromarray(pixels)


def test_a_region_is_cut_where_it_lies_in_an_image_that_is_not_square():
    """800 x 400 at 2x: (720, 40) to (1456, 744) of the result is (360, 20) to (728, 372) of the input."""
    image, captioner = noise(800, 400), Told()
    plan = plan_for(image, scale=2)
    assert plan.output == (1600, 800) and plan.cell_px == 4
    region = Region(y=10, x=180, h=176, w=184)
    written(captioner, image, replace(plan, regions=(region,)), prompt="x")
    (request,) = captioner.requests
    assert request.images[1].size == (368, 352)
    assert request.images[1].tobytes() == image.crop((360, 20, 728, 372)).tobytes()


def test_a_flat_sky_takes_one_call_and_a_bird_in_it_its_own():
    image, captioner = sky_over_noise(), Told()
    plan = plan_for(image)
    done, _, _ = written(captioner, image, plan, prompt="x")
    assert (
        caption_calls(image, plan, prompt="x")
        == done.calls
        == len(captioner.requests)
        < len(plan.boxes) / 1.5
    )
    assert caption_calls(image, plan) == done.calls + 1
    assert caption_calls(image, plan, prompt="x", share=0) == len(plan.boxes)
    flat = [k for k, box in enumerate(plan.boxes) if box[3] <= 160 and box[2] <= 190]
    assert len(flat) > 2 and len({done.captions[k].caption for k in flat}) == 1
    assert {done.captions[k].source for k in flat} == {"told", "told, as region 1"}
    bird = [
        k for k, box in enumerate(plan.boxes) if box[0] < 200 < 216 < box[2] and box[1] < 16 and box[3] > 28
    ]
    assert bird and all(done.captions[k].caption != done.captions[0].caption for k in bird)


def shared_slowly(regions, boxes, threshold):
    """`group` by its words: every group, every member, every pair."""
    looks = [descriptor(region) for region in regions]
    groups = {}
    leaders = []
    for k, (left, top, right, bottom) in enumerate(boxes):
        near = []
        for leader, members in groups.items():
            for m in members:
                other = boxes[m]
                if left <= other[2] and other[0] <= right and top <= other[3] and other[1] <= bottom:
                    near.append((distance(looks[k], looks[leader]), leader))
        best = min(near, default=None)
        leaders.append(best[1] if best and best[0] <= threshold else k)
        groups.setdefault(leaders[k], []).append(k)
    return leaders


@pytest.mark.parametrize("threshold", [0.05, 0.2, 0.5])
def test_regions_are_shared_as_the_slow_rule_says(threshold):
    """Boxes of any size in any order; some touch at a corner alone."""
    random = np.random.default_rng(3)
    boxes = [(0, 0, 20, 30), (20, 30, 50, 44), (51, 0, 60, 9)]
    for _ in range(120):
        left, top = random.integers(0, 300, 2)
        width, height = random.integers(1, 60, 2)
        boxes.append((int(left), int(top), int(left + width), int(top + height)))
    regions = [Image.new("RGB", (9, 7), tuple(random.integers(90, 160, 3).tolist())) for _ in boxes]
    found = group(iter(regions), boxes, threshold)
    assert found == shared_slowly(regions, boxes, threshold)
    assert 1 < len(set(found)) < len(boxes)


def test_more_regions_than_captions_may_be_use_the_prompt():
    image, captioner = noise(64, 64), Told()
    plan = plan_for(image)
    many = replace(plan, regions=plan.regions * (4096 // len(plan.regions) + 1))
    assert caption_calls(image, many, prompt="x") == 0 and caption_calls(image, many) == 1
    done, notices, _ = written(captioner, image, many, prompt="x")
    assert not captioner.requests and not done.captions
    assert f"{len(many.regions)} regions, and captions are written for at most 4096" in notices[0]


def test_merging_is_a_threshold_on_looks_of_windows_that_touch():
    grey, light = Image.new("RGB", (20, 20), (100,) * 3), Image.new("RGB", (20, 20), (145,) * 3)
    assert distance(descriptor(grey), descriptor(light)) == pytest.approx(15 / 255, abs=1e-4)
    assert distance(
        descriptor(grey), descriptor(Image.new("RGB", (20, 20), (100, 100, 145)))
    ) == pytest.approx(20 / 255, abs=1e-4)
    touching, apart = [(0, 0, 20, 20), (15, 0, 35, 20)], [(0, 0, 20, 20), (50, 0, 70, 20)]
    assert group([grey, light], touching, 0.08) == [0, 0]
    assert group([grey, light], touching, 0.05) == [0, 1]
    assert group([grey, grey], apart, 0.08) == [0, 1]
    assert group([grey, grey], touching, 0) == [0, 1]
    assert group([grey, noise(20, 20)], touching, 1) == [0, 0]


# The text encoder's budget


def count_words(text):
    return len(text.split())


def test_fit_cuts_at_a_word():
    assert fit("one two three", TokenBudget(count_words, 3)) == ("one two three", "")
    assert fit("one two, three four", TokenBudget(count_words, 2)) == ("one two", "three four")
    assert fit("x" * 100, TokenBudget(len, 10)) == ("x" * 10, "x" * 90)
    assert fit("", TokenBudget(count_words, 3)) == ("", "")


@pytest.mark.parametrize("limit", range(1, 30))
def test_fit_never_exceeds_the_limit_and_loses_nothing(limit):
    text = "a wide green meadow, below grey and rocky mountains"
    kept, cut = fit(text, TokenBudget(len, limit))
    assert len(kept) <= limit and text.startswith(kept) and text.endswith(cut)
    assert len(kept) + len(cut) >= len(text) - 2


def test_captions_over_the_limit_are_cut_and_the_user_reads_what():
    long = "a very long caption about many small things in a row"
    answers = [long if n in (0, 5) else "sky" for n in range(16)]
    done, notices, _ = written(
        Told(answers), noise(), prompt="x", share=0, budget=TokenBudget(count_words, 6)
    )
    assert done.captions[0].caption == "a very long caption about many"
    assert done.tokens == tuple(6 if n in (0, 5) else 1 for n in range(16))
    assert (
        "6 tokens" in notices[0] and "regions 1, 6" in notices[0] and "'small things in a row'" in notices[0]
    )


def test_the_prompt_can_be_put_before_every_caption():
    assert prepended("red bricks", "A castle.") == "A castle, red bricks"
    assert prepended("A castle, red bricks", "A castle") == "A castle, red bricks"
    assert prepended("", "A castle") == "" and prepended("red bricks", "") == "red bricks"
    done, _, _ = written(Told(), noise(), prompt="a castle", prepend=True, share=0)
    assert done.captions[3].caption == "a castle, thing number 3"
    again = within_budget(done.captions, "a castle")
    assert again.captions == done.captions and again.message is None


def test_prompt_and_caption_share_the_budget():
    done, notices, _ = written(
        Told(),
        noise(),
        prompt="a castle on a hill",
        prepend=True,
        share=0,
        budget=TokenBudget(count_words, 6),
    )
    assert done.captions[0].caption == "a castle on a hill, thing" and "were cut" in notices[0]


# Files

BOXES = [(0, 0, 100, 100), (50, 0, 150, 100), (100, 0, 200, 100)]


def caption(box, text="sea"):
    return Caption(box=box, caption=text)


def test_a_written_file_is_read_back(tmp_path):
    image = noise()
    plan = plan_for(image)
    done, _, _ = written(
        Told(), image, plan, prompt='the "noise" of\nthe sea', share=0, budget=TokenBudget(count_words, 99)
    )
    data = captions_file(done.captions, plan.output, done.prompt, count_words)
    assert data["regions"][0] == {
        "box": list(plan.boxes[0]),
        "caption": "thing number 0",
        "source": "told",
        "tokens": 3,
    }
    file = tmp_path / "captions.json"
    file.write_text(captions_text(data))
    assert json.loads(file.read_text()) == data
    assert len(file.read_text().splitlines()) == 16 + 6  # one line a region
    assert read_captions(file, plan.output) == done.captions and read_prompt(file) == done.prompt
    assert match(read_captions(file, plan.output), plan.boxes, plan.output).report() is None


def test_missing_extra_overlapping_and_shared_captions_are_told_apart():
    assert match([caption(box) for box in BOXES], BOXES, (200, 100)).report() is None
    report = match([caption(BOXES[0])], BOXES, (200, 100)).report()
    assert report == "2 of 3 regions have no caption and use the prompt (regions 2, 3)"
    lost = match([caption(BOXES[0]), caption((0, 0, 20, 20))], BOXES[:1], (200, 100))
    assert lost.extra == (caption((0, 0, 20, 20)),) and "1 captions fit no region" in lost.report()
    twice = match(
        [caption((2, 0, 100, 100), "near"), caption(BOXES[0], "exact"), caption(BOXES[0], "again")],
        BOXES[:1],
        (200, 100),
    )
    assert twice.texts == ("exact",) and {one.caption for one in twice.overlapping} == {"near", "again"}
    assert "2 captions overlap" in twice.report()
    wide = match([caption((25, 0, 125, 100))], BOXES[:2], (200, 100))
    assert wide.texts == ("sea", "sea") and "1 captions serve more than one region" in wide.report()


def test_an_empty_caption_leaves_its_region_to_the_prompt():
    matched = match([caption(BOXES[0], "  ")], BOXES[:1], (200, 100))
    assert matched.texts == (None,) and matched.missing == (0,) and matched.extra == ()


def test_many_captions_are_matched_in_good_time():
    boxes = [(x * 10, y * 10, x * 10 + 20, y * 10 + 20) for y in range(50) for x in range(50)]
    began = time.perf_counter()
    assert match([caption(box, str(box)) for box in boxes], boxes, (600, 600)).texts == tuple(map(str, boxes))
    assert time.perf_counter() - began < 8


# A server


class Speaks(http.server.BaseHTTPRequestHandler):
    """Just enough of OpenAI's protocol. What it does is in `server.behave(n, body) -> (status, headers, bytes)`."""

    def log_message(self, *arguments):
        pass

    def do_GET(self):
        self.reply(200, {}, json.dumps(self.server.models).encode())

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            n = len(self.server.seen)
            self.server.seen.append((self.path, dict(self.headers), body))
        self.reply(*self.server.behave(n, body))

    def reply(self, status, headers, parts):
        with contextlib.suppress(ConnectionError):
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            for part in parts if hasattr(parts, "__next__") else [parts]:
                self.wfile.write(part)
                self.wfile.flush()


def says(text, status=200):
    return status, {}, json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]}).encode()


@pytest.fixture
def server():
    made = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Speaks)
    made.daemon_threads = True
    made.lock, made.seen, made.models = threading.Lock(), [], {"data": [{"id": "small-vlm"}]}
    made.behave = lambda n, body: says("The image shows a red barn.")
    threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    made.url = f"http://127.0.0.1:{made.server_port}/v1"
    yield made
    made.shutdown()
    made.server_close()


def ask(server, count=3, **options):
    captioner = Server(server.url, **{"seconds": 5, "retries": 0} | options)
    requests = [
        Request(lambda n=n: (noise(32, 32), noise(32, 32, n)), f"Describe {n}.") for n in range(count)
    ]
    return sorted((answer for answer in captioner.ask(requests) if answer), key=lambda answer: answer.index)


def test_a_server_gets_both_images_the_instruction_and_the_key(server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    assert [answer.text for answer in ask(server)] == ["The image shows a red barn."] * 3
    path, headers, body = server.seen[0]
    assert path == "/v1/chat/completions" and headers["Authorization"] == "Bearer secret"
    assert body["model"] == "small-vlm" and body["temperature"] == 0 and body["max_tokens"] <= 128
    content = body["messages"][0]["content"]
    assert [part["type"] for part in content] == ["image_url", "image_url", "text"]
    assert content[0]["image_url"]["url"].startswith("data:image/jpeg;base64,") and content[2][
        "text"
    ].startswith("Describe")


def test_captions_are_asked_for_as_json(server):
    server.behave = lambda n, body: says('{"caption": "a red barn"}')
    (answer,) = ask(server, 1)
    (_, _, body) = server.seen[0]
    assert body["response_format"]["type"] == "json_schema"
    assert body["response_format"]["json_schema"]["schema"]["required"] == ["caption"]
    assert body["messages"][0]["content"][-1]["text"].endswith('JSON: {"caption": "..."}')
    assert clean(answer.text) == "a red barn"


@pytest.mark.parametrize("status", [400, 422, 501])
def test_a_server_that_knows_no_schemas_is_asked_for_plain_text_from_then_on(server, status):
    def plain_only(n, body):
        return (status, {}, b"what is response_format?") if "response_format" in body else says("a red barn")

    server.behave = plain_only
    assert [answer.text for answer in ask(server, 5, at_once=1)] == ["a red barn"] * 5
    bodies = [body for _, _, body in server.seen]
    assert ["response_format" in body for body in bodies] == [True] + [False] * 5
    assert all("JSON" not in body["messages"][0]["content"][-1]["text"] for body in bodies[1:])


def test_only_its_own_key_is_sent_and_only_to_its_own_address(server, monkeypatch):
    """Not the user's Hugging Face token, and nothing to where a redirect leads."""
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    elsewhere = http.server.HTTPServer(("127.0.0.1", 0), Speaks)
    elsewhere.seen, elsewhere.lock, elsewhere.behave = [], threading.Lock(), server.behave
    target = f"http://127.0.0.1:{elsewhere.server_port}/v1/chat/completions"
    server.behave = lambda n, body: (307, {"Location": target}, b"")
    elsewhere.timeout = 0.2
    (answer,) = ask(server, 1, model="m")
    elsewhere.handle_request()  # gives up after its timeout where nobody knocks
    elsewhere.server_close()
    assert answer.text is None and "307" in answer.error and elsewhere.seen == []
    assert "authorization" not in {name.lower() for name in server.seen[0][1]}


def test_a_proxy_is_not_asked_for_a_server_on_this_machine(server, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "")
    assert ask(server, 1, model="m")[0].text


def test_requests_go_out_together(server):
    def slow(n, body):
        time.sleep(0.4)
        return says("a barn")

    server.behave = slow
    began = time.monotonic()
    assert len(ask(server, 8, model="m")) == 8
    assert time.monotonic() - began < 8 * 0.4 * 0.8


BAD_RESPONSES = {
    "too slow": (lambda n, body: time.sleep(4) or says("late"), "no answer within 1.5 s"),
    "drips": (
        lambda n, body: (200, {}, (time.sleep(0.2) or b" " for _ in range(50))),
        "no answer within 1.5 s",
    ),
    "huge": (lambda n, body: (200, {}, (b"x" * 2**16 for _ in range(100))), "over 1 MiB"),
    "not JSON": (lambda n, body: (200, {}, b"<html>"), "not JSON"),
    "deep": (lambda n, body: (200, {}, b"[" * 100_000), "not JSON"),
    "a list": (lambda n, body: (200, {}, b"[]"), "no text"),
    "no choice": (lambda n, body: (200, {}, b'{"choices": []}'), "no text"),
    "null": (lambda n, body: says(None), "no text"),
    "server error": (lambda n, body: (500, {}, b"oops"), "says 500"),
    "bad request": (lambda n, body: (400, {}, b'{"error": "no images here"}'), "says 400: .*no images here"),
    "redirect": (lambda n, body: (307, {"Location": "http://127.0.0.1:9/"}, b""), "says 307"),
    "cut off": (lambda n, body: (200, {"Content-Length": "999"}, b"{"), "Protocol|peer closed"),
}


@pytest.mark.parametrize("kind", BAD_RESPONSES)
def test_one_bad_response_costs_one_region(server, kind):
    bad, words = BAD_RESPONSES[kind]
    server.behave = lambda n, body: (
        bad(n, body) if "Describe 1." in body["messages"][0]["content"][2]["text"] else says("ok")
    )
    answers = ask(server, seconds=1.5)
    assert [answer.text for answer in answers] == ["ok", None, "ok"]
    import re

    assert re.search(words, answers[1].error), answers[1].error


def test_a_notebook_with_its_own_event_loop_can_ask(server):
    import asyncio

    async def cell():
        captioner = Server(server.url, retries=0)
        assert captioner.identity.endswith("small-vlm")
        return [answer.text for answer in captioner.ask([Request(lambda: (noise(32, 32),), "x")]) if answer]

    assert asyncio.run(cell()) == ["The image shows a red barn."]


def test_parts_are_an_answer_too(server):
    server.behave = lambda n, body: says([{"type": "text", "text": "a barn"}])
    assert ask(server, 1)[0].text == "a barn"


def test_a_busy_server_is_asked_again_when_it_says(server):
    server.behave = lambda n, body: (429, {"Retry-After": "0"}, b"") if n < 2 else says("a barn")
    assert [answer.text for answer in ask(server, 1, retries=2)] == ["a barn"]


@pytest.mark.parametrize(("status", "words"), [(401, "OPENAI_API_KEY"), (404, "/v1")])
def test_a_server_that_refuses_ends_the_asking_at_once(server, status, words):
    server.behave = lambda n, body: (status, {}, b"no")
    with pytest.raises(CaptionerError, match=words):
        ask(server, 50, at_once=2)
    assert len(server.seen) < 10


def test_a_server_that_is_gone_leaves_every_region_to_the_prompt(server):
    address = server.url
    server.shutdown()
    server.server_close()
    done, notices, _ = written(Server(address, "m", retries=0), noise(), prompt="x", share=0)
    assert {one.caption for one in done.captions} == {""} and any(
        "cannot be reached" in notice for notice in notices
    )


def test_a_server_without_models_asks_for_a_name(server):
    server.models = {}
    with pytest.raises(CaptionerError, match="#name"):
        ask(server)
    assert ask(server, 1, model="m")[0].text


def test_cancel_ends_a_request_that_is_under_way(server):
    hold = threading.Event()
    server.behave = lambda n, body: (hold.wait(10), says("late"))[1]
    captioning = Captioning(Server(server.url, "m", seconds=30), share=0)
    events = caption_regions(captioning, noise(), plan_for(noise()), prompt="x")
    assert isinstance(next(events), CaptionProgress)  # a sign of life: nothing is done yet
    began = time.monotonic()
    events.close()
    hold.set()
    assert time.monotonic() - began < 5


def test_names_and_reports_hold_no_password():
    captioner = open_captioner("http://me:secret@127.0.0.1:9/v1#m")
    assert "secret" not in captioner.name + captioner.identity
    with pytest.raises(CaptionerError) as error:
        list(captioner.ask([Request(lambda: (noise(),), "x")] * 4))
    assert "secret" not in str(error.value)


# Choosing


@pytest.mark.parametrize("name", ["nonsense", "a/b/c", "./none", "ftp://x/y", "http://", "/"])
def test_an_unknown_captioner_is_one_line_that_names_the_known(name):
    with pytest.raises(CupscaleError) as error:
        open_captioner(name)
    assert "\n" not in str(error.value)


def test_the_known_names():
    assert open_captioner(None).name == "none"
    assert open_captioner("qwen").name == "Qwen/Qwen3-VL-2B-Instruct"
    assert open_captioner("owner/name", device="cpu").name == "owner/name"
    served = open_captioner("http://localhost:11434/v1#llava:7b", seconds=9)
    assert (served.name, served.seconds) == ("llava:7b at localhost:11434", 9)


def test_a_model_that_cannot_be_found_leaves_every_region_to_the_prompt():
    done, notices, _ = written(open_captioner("nobody/nothing", device="cpu"), noise(), prompt="x", share=0)
    assert {one.caption for one in done.captions} == {""}
    assert "cannot load captioner 'nobody/nothing'" in notices[0] and "appearance" in notices[0]


def test_nothing_here_imports_gradio():
    import subprocess

    modules = ", ".join(f"cupscale.captioners.{name}" for name in ("vlm", "server", "appearance"))
    code = f"import sys, {modules}; sys.exit('gradio' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# Room on the device


class Pipe:
    def __init__(self, device):
        self.device, self.moves = __import__("torch").device(device), []

    def to(self, device):
        self.moves.append(str(device))


@pytest.mark.parametrize(
    ("free", "held", "moves", "released"),
    [
        (100, "cuda", [], 0),  # holds both: both stay
        (100, "cpu", [], 0),  # offloaded: the card is free
        (8, "cuda", ["cpu", "cuda"], 1),  # the captioner needs the pipeline's room
        (20, "cuda", [], 1),  # both sit there, but the run needs more
    ],
)
def test_captioner_and_model_share_the_card_only_where_both_fit(monkeypatch, free, held, moves, released):
    import torch

    monkeypatch.setattr("cupscale.captioners.memory.free_bytes", lambda device: free)
    captioner, pipe = Told(), Pipe(held)
    captioner.bytes, captioner.device = 10, "cuda"
    with pytest.raises(KeyError), room_for(captioner, pipe, torch.device("cuda"), needed=30):
        raise KeyError  # also after a failure
    assert (pipe.moves, captioner.released) == (moves, released)


def test_a_captioner_elsewhere_is_left_alone(monkeypatch):
    import torch

    monkeypatch.setattr("cupscale.captioners.memory.free_bytes", lambda device: 0)
    captioner, pipe = Told(), Pipe("cuda")
    with room_for(captioner, pipe, torch.device("cuda"), needed=30):
        pass
    assert (pipe.moves, captioner.released) == ([], 0)


# The whole way


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(make_sdxl(tmp_path_factory.mktemp("sdxl")))


def test_a_run_captions_first_and_its_result_holds_them(folder):
    pipe = cupscale.load(folder, device="cpu")
    captioner = Told()
    events = list(
        cupscale.stream(
            pipe, noise(24, 30), captioner=Captioning(captioner, share=0), scale=4, seed=5, **FAST
        )
    )
    assert isinstance(events[0], Planned)
    assert events[0].plan.caption_calls == len(captioner.requests) == len(events[0].plan.regions) + 1
    stages = [event.stage for event in events if isinstance(event, Progress)]
    assert stages[0] == "caption" and "caption" not in stages[stages.index("enlarge") :]
    result = events[-1].result
    assert isinstance(events[-1], Finished) and len(result.captions) == len(result.plan.regions)
    assert result.settings.prompt == "thing number 0"
    again = cupscale.upscale(pipe, noise(24, 30), settings=result.settings)
    assert again.image.tobytes() == result.image.tobytes()  # the settings alone make it again


def test_captions_alone_then_the_run(folder):
    pipe = cupscale.load(folder, device="cpu")
    done = cupscale.caption(
        pipe, noise(24, 30), Captioning(Told(), share=0, prepend=True), scale=4, prompt="mist"
    )
    assert done.captions[0].caption.startswith("mist, ") and done.tokens[0] > 4
    result = cupscale.upscale(
        pipe, noise(24, 30), scale=4, captions=done.captions, prompt=done.prompt, **FAST
    )
    assert result.captions == done.captions


def test_given_captions_and_no_regional_detail_ask_nobody(folder):
    run = CUpscalePipeline(cupscale.load(folder, device="cpu"))
    captioner = Told()
    given = run.settings(prompt="x", scale=2, captions=[caption((0, 0, 60, 64))])
    run.upscale(noise(30, 32), settings=given.replace(**FAST), captioning=Captioning(captioner))
    run.upscale(
        noise(30, 32), settings=given.replace(captions=[], detail=0, **FAST), captioning=Captioning(captioner)
    )
    assert captioner.requests == []


def test_a_run_goes_on_when_its_captioner_fails(folder):
    pipe = cupscale.load(folder, device="cpu")
    events = list(
        cupscale.stream(
            pipe, noise(24, 30), captioner=Told([CaptionerError("it is gone")]), scale=2, prompt="x", **FAST
        )
    )
    assert any(isinstance(event, Notice) and "it is gone" in event.message for event in events)
    assert isinstance(events[-1], Finished) and events[-1].result.captions == ()


def test_the_plan_knows_the_captioners_time_after_a_run(folder):
    run = CUpscalePipeline(cupscale.load(folder, device="cpu"))
    settings = run.settings(prompt="x", scale=4, **FAST)

    class Slow(Told):
        def ask(self, requests):
            time.sleep(0.2 * len(requests))
            yield from super().ask(requests)

    run.upscale(noise(), settings=settings, captioning=Captioning(Slow(), share=0))
    plain = run.plan(noise(seed=1), settings)
    plan = run.plan(noise(seed=1), settings, captioning=Captioning(Slow(), share=0))
    assert plan.caption_calls == len(plan.regions) and f"{plan.caption_calls} captioner calls" in plan.line()
    assert plan.seconds - plain.seconds > 0.15 * plan.caption_calls


# The command


def run(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def photo(tmp_path):
    noise(40, 30).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_caption_writes_a_file_that_upscale_takes(photo, folder, server, tmp_path):
    file = tmp_path / "captions.json"
    done = run(
        "caption", photo, "--scale", 4, "-o", file, "--model", folder, "--captioner", server.url, "--share", 0
    )
    assert done.exit_code == 0, done.output
    data = json.loads(file.read_text())
    assert data["size"] == [160, 120] and data["prompt"] == "a red barn."
    assert all(region["caption"] == "a red barn." and region["tokens"] > 3 for region in data["regions"])
    assert {region["source"] for region in data["regions"]} == {
        f"small-vlm at 127.0.0.1:{server.server_port}"
    }
    asked = len(server.seen)
    again = run(
        "caption",
        photo,
        "--scale",
        4,
        "-o",
        file,
        "--model",
        folder,
        "--captioner",
        f"{server.url}#small-vlm",
        "--share",
        0,
    )
    assert again.exit_code == 0 and len(server.seen) == asked and f"{asked} of them known" in again.stdout
    fast = [f"--{name}={value}" for name, value in FAST.items()]
    out = tmp_path / "big.png"
    made = run(
        "upscale",
        photo,
        "--scale",
        4,
        "--captions",
        file,
        "-o",
        out,
        "--model",
        folder,
        "--device",
        "cpu",
        *fast,
        "--json",
    )
    assert made.exit_code == 0, made.output
    settings = json.loads(made.stdout)["settings"]
    assert settings["prompt"] == "a red barn." and len(settings["captions"]) == len(data["regions"])


def test_upscale_with_a_captioner(photo, folder, server, tmp_path):
    fast = [f"--{name}={value}" for name, value in FAST.items()]
    common = [
        "upscale",
        photo,
        "--scale",
        4,
        "--model",
        folder,
        "--captioner",
        server.url,
        "--device",
        "cpu",
        *fast,
    ]
    plan_only = run(*common, "--plan", "--json")
    assert plan_only.exit_code == 0, plan_only.output
    assert json.loads(plan_only.stdout)["caption_calls"] > 1 and server.seen == []
    made = run(*common, "-o", tmp_path / "a.png", "--prompt", "mist", "--prepend-prompt", "--json")
    assert made.exit_code == 0, made.output
    assert {one["caption"] for one in json.loads(made.stdout)["settings"]["captions"]} == {
        "mist, a red barn."
    }


def test_caption_that_gets_nothing_says_so_and_writes_nothing(photo, folder, server, tmp_path):
    server.behave = lambda n, body: says("I'm sorry, but I can't help with that.")
    file = tmp_path / "captions.json"
    done = run("caption", photo, "-o", file, "--model", folder, "--captioner", server.url)
    assert done.exit_code == 2 and "no caption" in done.stderr and not file.exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--captioner", "nonsense"], "nonsense"),
        (["-o", "/nowhere/x.json"], "nowhere"),
        (["--scale", "99"], "16"),
    ],
)
def test_bad_input_of_caption_is_one_line(photo, arguments, words):
    done = run("caption", photo, *arguments)
    assert done.exit_code == 2 and isinstance(done.exception, SystemExit)
    assert words in done.stderr and len(done.stderr.strip().splitlines()) == 1


def test_fresh_reaches_the_captioner_from_every_door(monkeypatch, tmp_path):
    asked = []

    def spy(captioning, *args, **kwargs):
        asked.append(captioning.fresh)
        raise CupscaleError("seen")

    monkeypatch.setattr("cupscale.stages.caption_regions", spy)
    make_sdxl(tmp_path / "random")
    pipe = cupscale.load(str(tmp_path / "random"))
    image = Image.new("RGB", (32, 32))
    for door in (cupscale.upscale, cupscale.caption):
        with pytest.raises(CupscaleError, match="seen"):
            door(
                pipe,
                image,
                captioner=Captioning(open_captioner("appearance"), fresh=True),
                upscaler="lanczos",
            )
    with pytest.raises(CupscaleError, match="seen"):
        list(
            cupscale.stream(
                pipe,
                image,
                captioner=Captioning(open_captioner("appearance"), fresh=True),
                upscaler="lanczos",
            )
        )
    assert asked == [True] * 3
    given = NoCaptioner()
    assert cupscale.open_captioner(given) is given
