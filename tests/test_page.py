"""Parts of the page that a browser cannot bring about, in this process."""

from __future__ import annotations

import io
import os
import runpy
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import gradio as gr
import numpy as np
import pytest
import torch
from checkpoints import make_sdxl
from click.testing import CliRunner
from page_server import FAST_SETTINGS, photo
from PIL import Image
from test_declared_colour import png

from cupscale import images, models
from cupscale.cli import main
from cupscale.errors import CupscaleError
from cupscale.events import Progress
from cupscale.installation import ASSETS
from cupscale.page import (
    bounds,
    captions,
    engine,
    links,
    mask as masks,
    painting as painting_module,
    references,
    regions,
    run,
    scratch,
    source,
    writers,
)
from cupscale.page.controls import Controls
from cupscale.page.limits import Limits
from cupscale.page.upscale import UpscaleTab
from cupscale.pipeline import CUpscalePipeline
from cupscale.settings import Caption, Settings

ROOT = Path(__file__).parent.parent


@pytest.fixture
def pipeline(tmp_path, monkeypatch):
    make_sdxl(tmp_path / "random")
    made = CUpscalePipeline(models.load(str(tmp_path / "random")), batch=4)
    monkeypatch.setenv("CUPSCALE_MODELS", f"random={tmp_path / 'random'}")
    monkeypatch.setattr(engine, "_loaded", lambda name: made)
    monkeypatch.setattr(engine, "_kept", {})
    return made


def test_out_of_memory_goes_on_with_fewer_regions_and_says_so(pipeline, tmp_path, monkeypatch):
    forward = pipeline.backbone.pipe.unet.forward

    def small_only(sample, *args, **kwargs):
        if len(sample) > 1:
            raise torch.OutOfMemoryError("no room")
        return forward(sample, *args, **kwargs)

    monkeypatch.setattr(pipeline.backbone.pipe.unet, "forward", small_only)
    picture = images.read(photo(tmp_path / "small.png"))
    settings = Settings.build(FAST_SETTINGS, model="random", scale=2.0)
    sights = list(run.watch(picture, settings, Limits(), "small"))
    notices = [sight.notice for sight in sights if sight.notice]
    assert notices == [
        "out of memory: going on with 2 regions at once",
        "out of memory: going on with 1 region at once",
    ]
    assert sights[-1].shot is not None and sights[-1].shot.size == (128, 96)


def test_the_command_serves_the_page(monkeypatch):
    served = []
    monkeypatch.setattr("cupscale.page.build", lambda: "the page")
    monkeypatch.setattr("cupscale.page.launch", served.append)
    done = CliRunner().invoke(main, ["serve"])
    assert done.exit_code == 0 and served == ["the page"]


def test_folders_of_visits_are_swept_when_they_are_old(monkeypatch):
    clock = [1000.0]
    monkeypatch.setattr(scratch.time, "monotonic", lambda: clock[0])
    old, used, upload = scratch.new_folder(), scratch.new_folder(), scratch.root() / "uploads" / "hash"
    assert old.parent == used.parent and scratch.root() in old.parents and old != used
    upload.mkdir()
    scratch.sweep(1800)
    clock[0] += 1000
    (used / "result.png").write_bytes(b"x")
    os.utime(used, ns=(1, 1))  # whatever the clock says: it was changed
    scratch.sweep(1800)
    clock[0] += 1000
    scratch.sweep(1800)
    assert not old.exists() and not upload.exists() and used.exists()
    clock[0] += 1000
    scratch.sweep(1800)
    assert not used.exists()


def test_a_clock_that_jumps_deletes_nothing(monkeypatch):
    folder = scratch.new_folder()
    for jump in (3600 * 24, -3600 * 24):
        now = time.time() + jump
        os.utime(folder, (now, now))
        monkeypatch.setattr(scratch.time, "time", lambda now=now: now)
        scratch.sweep(1800)
    assert folder.exists()


def test_zero_gpu_loads_the_captioner_when_the_page_starts(monkeypatch):
    loads = []

    class Loading:
        def load(self):
            loads.append(self)

    monkeypatch.setattr(writers, "_opened", lambda source: Loading())
    captions.preload()
    assert loads == []
    monkeypatch.setattr(engine, "ZERO", True)
    captions.preload()
    assert len(loads) == 1


def test_zero_gpu_is_asked_for_the_time_of_the_plan(monkeypatch):
    small, large = (Settings.build(models.defaults("sdxl"), model="sdxl", scale=s) for s in (2.0, 8.0))
    monkeypatch.setattr(engine, "ZERO", True)
    assert engine.gpu_seconds((512, 512), small) < engine.gpu_seconds((512, 512), large) <= 300
    assert f"{engine.gpu_seconds((512, 512), small)} s of GPU quota" in engine.quota_line((512, 512), small)


def test_the_gallery_has_six_kinds_with_their_licences():
    from cupscale.page import examples

    every = examples.every()
    assert len(every) >= 6
    readme = (Path(examples.FOLDER) / "README.md").read_text()
    for example in every:
        assert example.name in readme
        for file in (example.input, example.before, example.after):
            assert Path(example.path(file)).is_file()


def test_captions_say_who_wrote_them_until_someone_edits_them():
    box = (0, 0, 8, 8)
    table = (Caption(box=box, caption="a fox"), Caption(box=box, caption="a red fox"))
    known = [{"box": box, "caption": " a fox ", "source": "qwen"}]
    assert [one.source for one in regions.signed(table, known)] == ["qwen", "user"]


def test_a_picture_from_words_is_drawn_again_by_the_same_settings_only():
    inside = Settings.build(prompt="a fox", scale=1, size="64x48", seed=3, model="sdxl").model_dump(
        mode="json"
    )
    run = Settings.build(prompt="a fox", scale=4, seed=3, model="sdxl", strength=0.3)
    assert links.redrawn_size(inside, run) == "64x48"
    command = links.to_command(run.replace(size="64x48"), None)
    assert command.startswith("python -m cupscale upscale --") and "--size 64x48" in command
    compile(links.to_python(run.replace(size="64x48"), None), "copied", "exec")
    for other in ({"seed": 4}, {"prompt": "a cat"}, {"steps": 9}, {"guidance": 2}, {"scheduler": "ddim"}):
        assert links.redrawn_size(inside, run.replace(**other)) == ""
    assert links.redrawn_size(inside | {"scale": 2}, run) == ""
    assert links.redrawn_size({}, run) == ""


def test_a_files_own_name_comes_back_from_what_stands_for_it():
    assert source.file_name("/tmp/x/me.jpg") == "me.jpg"
    assert source.file_name(f"/tmp/x/{source.shown_name('/tmp/y/me.heic')}") == "me.heic"
    assert source.name(f"/tmp/x/{source.shown_name('/tmp/y/me.heic')}") == "me"


def test_typed_captions_stay_where_a_captioner_wrote_others_or_none():
    def of(x, text, source):
        return Caption(box=(x, 0, x + 8, 8), caption=text, source=source)

    before = [of(0, "mine", "user"), of(8, "mine too", "user"), of(16, "old", "qwen")]
    written = [of(0, "other", "qwen"), of(16, "new", "qwen"), of(24, "more", "qwen")]
    kept = regions.kept_typed(before, written)
    assert {one.box[0]: one.caption for one in kept} == {0: "mine", 8: "mine too", 16: "new", 24: "more"}


def test_typed_and_arriving_captions_write_into_one_book_and_neither_takes_the_others_away():
    def of(x, text, source):
        return Caption(box=(x, 0, x + 8, 16), caption=text, source=source)

    def texts():
        return {one["box"][0]: (one["caption"], one["source"]) for one in book["captions"]}

    laid = {"boxes": [(0, 0, 8, 16), (8, 0, 16, 16), (16, 0, 24, 16)], "output": (24, 16), "stamp": 5}
    first, second = of(8, "one", "qwen"), of(16, "two", "qwen")
    book = {"size": None, "captions": [], "stamp": 5}
    regions.write_typed(book, laid, 0, " mine ")
    regions.write_arrived(book, [], [of(0, "other", "qwen"), first, second], (24, 16))
    assert texts() == {0: ("mine", "user"), 8: ("one", "qwen"), 16: ("two", "qwen")}
    regions.write_arrived(book, [of(0, "mi", "user")], [first], (24, 16))  # overtaken by the longer one
    assert texts() == {0: ("mine", "user"), 8: ("one", "qwen"), 16: ("two", "qwen")} and book["stamp"] > 5
    regions.write_typed(book, laid, 1, "")
    assert texts() == {0: ("mine", "user"), 16: ("two", "qwen")}
    plan = SimpleNamespace(boxes=tuple(laid["boxes"]), output=(24, 16))
    regions.write_edited(book, laid, [of(8, "edited", "user")], plan)  # the table is older than the book
    assert texts() == {8: ("edited", "user"), 0: ("mine", "user"), 16: ("two", "qwen")}
    regions.write_edited(book, {**laid, "stamp": book["stamp"]}, [of(8, "edited", "user")], plan)
    assert texts() == {8: ("edited", "user")}
    assert regions.read_book(book, (48, 32))[1][0].box == (16, 0, 32, 32)
    assert regions.read_book(book, (24, 16))[0] < regions.read_book(book, (24, 16))[0]


@pytest.mark.parametrize(("given", "weight"), [(" tiny=/a/net ,sdxl", 0.5), ("", 0.0)])
def test_control_is_offered_where_the_model_has_a_controlnet(monkeypatch, given, weight):
    """And counts there alone: a link or the model before may have left it set."""
    monkeypatch.setenv("CUPSCALE_CONTROLNETS", given)
    assert engine.controlnets() == ({"tiny": "/a/net", "sdxl": "auto"} if given else {})
    loaded = []
    monkeypatch.setattr(
        models, "load", lambda name, **how: loaded.append(how["controlnet"]) or SimpleNamespace()
    )
    monkeypatch.setattr(engine, "CUpscalePipeline", lambda pipe, **how: pipe)
    engine._loaded("tiny")
    assert loaded == ["/a/net" if given else None]
    with gr.Blocks():
        controls = Controls(Limits())
        controls.slider("control")
        controls.choice("model")
    assert controls["control"].visible is bool(given)
    values = {controls["control"]: 0.5, controls["model"]: "tiny"}
    assert controls.settings(values).control == weight


def test_readme_and_page_have_the_papers_table_from_one_file():
    """`python tools/readme_parts.py` fills README.md anew."""
    readme = (ROOT / "README.md").read_text("utf-8")
    filled = runpy.run_path(str(ROOT / "tools" / "readme_parts.py"))["filled"]
    assert filled(readme) == readme and (ASSETS / "method.md").read_text("utf-8") in readme
    assert filled(readme.replace("| Composer |", "| Compositor |")) == readme


def test_a_drawing_has_its_share_of_the_progress():
    """50 evaluations to draw and 150 to enlarge: the drawing is the first quarter, denoising is 0.12 to 0.96 of the rest."""

    def at(stage, fraction, drawing):
        event = Progress(stage, 1, 1, 1, 1, 0.0, fraction=fraction)
        return run._whole(event, SimpleNamespace(drawing=drawing, evaluations=200))

    assert at("draw", 0.5, 50) == 0.125 and at("draw", 1.0, 200) == 1
    assert at("denoise", 0.5, 50) == pytest.approx(0.25 + 0.75 * 0.54)
    assert at("denoise", 0.5, 0) == pytest.approx(0.54)


@pytest.mark.parametrize("image", [None, (64, 48), "seen"])
def test_what_is_above_the_limits_is_refused_however_the_input_comes(image):
    picture = images.Picture(Image.new("RGB", (64, 48))) if image == "seen" else image
    settings = Settings.build(models.defaults("tiny"), scale=4, prompt="a fox", upscaler="lanczos")
    with pytest.raises(CupscaleError, match="cannot draw" if image is None else "allows 3"):
        bounds.allowed_plan(picture, settings, replace(Limits(), max_samples=3))
    if image is not None:
        assert bounds.allowed_plan(picture, settings, replace(Limits(), max_samples=0)).output == (256, 192)


def shot(tmp_path, size, settings=None):
    """A result on the server."""
    png = images.write(Image.new("RGB", size, "teal"), tmp_path / "made.png")
    return run.Shot(str(tmp_path), str(png), str(png), "made", settings or Settings.build(), size, "")


@pytest.mark.parametrize("suffix", ["jpg", "webp"])
def test_a_result_beyond_pillows_limit_goes_into_other_formats(tmp_path, monkeypatch, suffix):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    made = run.encode(shot(tmp_path, (80, 60), Settings.build(seed=5)), suffix)
    with images.open_own(made) as image:
        assert image.size == (80, 60)
    assert images.read_settings(made)["seed"] == 5


def test_a_side_that_webp_cannot_hold_is_said_without_a_path(tmp_path):
    with pytest.raises(CupscaleError) as caught:
        run.encode(shot(tmp_path, (16384, 16)), "webp")
    assert "16384 x 16" in str(caught.value) and "16383 px; save as PNG" in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


def test_what_a_page_makes_may_come_back(monkeypatch):
    """A PNG of noise is about as large as its pixels."""
    for limits in (Limits(), Limits(upload_bytes=20 * 2**20, input_px=2**24, output_px=2**25)):
        assert limits.file_bytes >= limits.output_px * 4
    assert Limits(output_px=2**10).file_bytes == Limits().upload_bytes


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (CupscaleError("no GPU for this run: try again"), "no GPU for this run"),
        (MemoryError(), "out of memory"),
        (KeyError("a fault"), "a fault of this program"),
    ],
)
def test_a_run_that_ends_however_gives_its_line(error, said, caplog):
    """And with it the buttons: the updates of a failure are the last ones, not an error of the server."""

    def steps():
        yield {"status": "begun"}
        raise error

    tab = SimpleNamespace(shot="shot", downloads="downloads")
    painting = SimpleNamespace(_tab=tab, _failed=lambda message: {"failed": message})
    updates = list(painting_module.Painting._guarded(painting, steps(), {"shot": None}))
    assert updates[1] == {"status": "begun"} and said in updates[-1]["failed"]
    assert ("a run failed" in caplog.text) == isinstance(error, KeyError)


def test_the_buttons_come_back_after_every_kind_of_end(pipeline, tmp_path):
    """Once a run has begun there is nothing but Cancel to click; afterwards everything else."""
    picture = images.read(photo(tmp_path / "small.png"))
    settings = Settings.build(FAST_SETTINGS, model="random", scale=1.0)
    shot = list(run.watch(picture, settings, Limits(), "small"))[-1].shot
    painting = painting_module.Painting.__new__(painting_module.Painting)
    names = ("run", "draw", "cancel", "refused", "status", "viewer", "shot", "png", "jpeg", "downloads")
    painting._tab = SimpleNamespace(**{name: name for name in names})

    def clickable(updates):
        return {name: updates[name]["interactive"] for name in ("run", "draw", "cancel")}

    assert clickable(painting._opening()) == {"run": False, "draw": False, "cancel": True}
    ends = [
        painting._failed("out of memory"),
        painting._stopped(True),
        painting._stopped(False, before=shot),
        painting._finished(shot, str(tmp_path / "small.png")),
    ]
    for updates in ends:
        assert clickable(updates) == {"run": True, "draw": True, "cancel": False}


def test_a_mask_of_another_size_is_refused_before_its_pixels_are_decoded(tmp_path, monkeypatch):
    """Half of a file: its header tells the size, and decoding would say that it is truncated."""
    Image.effect_noise((60, 40), 90).save(tmp_path / "whole.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "whole.png").read_bytes()[:900])
    monkeypatch.setattr(references, "opened", lambda path: io.BytesIO(Path(path).read_bytes()))
    for size, said in (((61, 40), "the mask is 60 x 40 and the image is 61 x 40"), ((60, 40), "truncated")):
        with pytest.raises(CupscaleError, match=said):
            masks.of(str(tmp_path / "half.png"), size, Limits())


@pytest.mark.parametrize(
    ("chunk", "colour", "wanted"),
    [
        ((b"cICP", bytes([12, 13, 0, 1])), (200, 60, 70), (217, 42, 65)),
        (
            (b"gAMA", (100000).to_bytes(4, "big")),
            (51, 102, 153),
            (124, 170, 203),
        ),  # 0.2, 0.4 and 0.6 of the light
        ((b"cICP", bytes([1, 16, 0, 1])), (148, 148, 148), (255, 255, 255)),  # 203 cd/m2 in PQ
    ],
)
def test_the_page_shows_the_input_in_the_colours_of_its_result(
    chunk, colour, wanted, pipeline, tmp_path, monkeypatch
):
    monkeypatch.setattr(scratch, "new_folder", lambda kind="visits": tmp_path)
    monkeypatch.setattr(source.references, "check", lambda path, gone=False: path)
    file = tmp_path / "in.png"
    file.write_bytes(png([chunk], np.full((24, 32, 3), colour, np.uint8)))
    names = ("image", "example", "book", "laid", "target")
    session = SimpleNamespace(limits=Limits(), **{name: name for name in names})
    tab = cast("UpscaleTab", SimpleNamespace(_session=session, inside="inside"))
    shown = UpscaleTab.arrived(tab, str(file), None)["image"]
    settings = Settings.build(**FAST_SETTINGS, scale=2, seed=3, fidelity=1.0, model="random")
    *_, sight = run.watch(images.read(file), settings, Limits(), "in")
    for path in (shown, sight.shot.before, sight.shot.png):  # as a browser shows them: nothing is declared
        with Image.open(path) as opened:
            assert not {"icc_profile", "gamma", "chromaticity"} & set(opened.info)
            means = np.asarray(opened.convert("RGB"), float).mean((0, 1))
        assert np.abs(means - wanted).max() <= 1.5, path
