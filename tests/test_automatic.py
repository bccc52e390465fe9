"""Captions by themselves: who writes where nobody is named."""

import json

import pytest
from click.testing import CliRunner
from PIL import Image

import cupscale
from cupscale import captioners, machine
from cupscale.captioners import Captioning, automatic, open_captioner
from cupscale.captioners.base import CaptionerError
from cupscale.captioners.server import Server
from cupscale.cli import main
from cupscale.errors import CupscaleError
from cupscale.method.sampler import Notice


@pytest.fixture(autouse=True)
def nobody_named(monkeypatch):
    monkeypatch.delenv("CUPSCALE_CAPTIONER")


@pytest.fixture
def accelerator(monkeypatch):
    monkeypatch.setattr(machine, "best_device", lambda: "cuda")


def test_a_multimodal_model_writes_on_an_accelerator(accelerator):
    assert automatic("sdxl") == "qwen"
    assert automatic("sdxl", preset="quick") == "qwen"
    assert automatic("sdxl", preset="paper") == "llava"  # as in the paper
    assert automatic("tiny") == "none"


def test_on_a_cpu_the_tagger_writes_or_whom_the_environment_names(monkeypatch):
    assert automatic("sdxl", device="cpu") == automatic("sdxl", device="cpu", preset="paper") == "tagger"
    assert automatic("tiny", device="cpu") == "none"
    monkeypatch.setenv("CUPSCALE_CAPTIONER", "http://localhost:9/v1#vision")
    assert automatic("sdxl", device="cpu") == "http://localhost:9/v1#vision"
    assert isinstance(captioners.open_captioning("auto", model="sdxl", device="cpu").captioner, Server)
    assert automatic("tiny", device="cpu") == "none"


def test_without_its_extra_the_next_best_writes(accelerator, monkeypatch):
    monkeypatch.setattr("cupscale.captioners.choose.installed", lambda extra: extra != "captions")
    assert automatic("sdxl") == "tagger"
    monkeypatch.setattr("cupscale.captioners.choose.installed", lambda extra: False)
    assert automatic("sdxl") == automatic("sdxl", device="cpu") == "none"


def plan(tmp_path, *arguments):
    Image.radial_gradient("L").convert("RGB").resize((512, 384)).save(tmp_path / "photo.png")
    done = CliRunner().invoke(
        main,
        ["upscale", str(tmp_path / "photo.png"), "--model", "sdxl", "--scale", "4", "--plan", *arguments],
    )
    assert done.exit_code == 0, done.output
    return done.stdout


def test_the_plan_says_who_will_write_and_how_often(accelerator, tmp_path):
    line = plan(tmp_path, "--share", "0")
    assert "captioner calls of Qwen/Qwen3-VL-2B-Instruct" in line
    assert "captioner calls of llava-hf/llava-1.5-7b-hf" in plan(
        tmp_path, "--preset", "paper", "--share", "0"
    )
    data = json.loads(plan(tmp_path, "--json", "--share", "0"))
    assert data["caption_calls"] == len(data["regions"]) + 1  # and the prompt's
    for silent in (["--captioner", "none"], ["--detail", "0", "--prompt", "a fox"]):
        assert "captioner" not in plan(tmp_path, *silent)
        assert json.loads(plan(tmp_path, "--json", *silent))["captioner"] == ""


def test_a_python_call_asks_it_too_and_one_word_leaves_it_out(load, monkeypatch):
    """The one that the environment names stands for an accelerator's. What a person wrote stays."""
    monkeypatch.setenv("CUPSCALE_CAPTIONER", "appearance")
    image = Image.radial_gradient("L").convert("RGB").resize((40, 24))
    fields = {
        "prompt": "a fox",
        "scale": 2,
        "steps": 2,
        "strength": 0.5,
        "guidance": 1,
        "upscaler": "lanczos",
    }
    asked = cupscale.upscale(load("sdxl"), image, **fields)
    assert asked.captions and {one.source for one in asked.captions} == {"appearance"}
    for nobody in ("none", None):
        assert cupscale.upscale(load("sdxl"), image, captioner=nobody, **fields).captions == ()
    written = [{"box": [0, 0, 80, 48], "caption": "my own words", "source": "user"}]
    kept = cupscale.upscale(load("sdxl"), image, captions=written, **fields)
    assert [one.caption for one in kept.captions] == ["my own words"]


class Unreachable:
    """A captioner that cannot be loaded."""

    name = identity = "far/away"
    device, bytes = "cpu", 0

    def load(self):
        raise CaptionerError("cannot load captioner 'far/away': no network")

    def ask(self, requests):
        self.load()
        yield

    def release(self):
        pass


def test_the_next_best_writes_where_the_captioner_cannot_be_loaded(load):
    """It says so once, and the result records who wrote."""
    image = Image.radial_gradient("L").convert("RGB").resize((40, 24))
    fields = {"scale": 2, "steps": 2, "strength": 0.5, "guidance": 1, "upscaler": "lanczos"}
    captioning = Captioning(Unreachable(), instead=open_captioner("appearance"))
    events = list(cupscale.stream(load("sdxl"), image, captioner=captioning, **fields))
    said = [event.message for event in events if isinstance(event, Notice)]
    assert said[0] == "cannot load captioner 'far/away': no network; appearance writes instead"
    assert sum("far/away" in message for message in said) == 1
    result = events[-1].result
    assert result.captions and {one.source.split(",")[0] for one in result.captions} == {"appearance"}
    assert result.settings.prompt  # which was empty, and is written too
    alone = list(cupscale.stream(load("sdxl"), image, captioner=Captioning(Unreachable()), **fields))
    assert alone[-1].result.captions == ()


def test_auto_knows_who_writes_instead(accelerator):
    held = captioners.open_captioning("auto", model="sdxl")
    assert held.captioner.name == "Qwen/Qwen3-VL-2B-Instruct" and held.instead.name == "tagger"
    assert (
        captioners.open_captioning("auto", model="sdxl", device="cpu").instead is None
    )  # it is the tagger already
    assert captioners.open_captioning("auto", model="tiny").instead is None
    assert captioners.open_captioning("qwen", model="sdxl").instead is None  # nobody else was asked for


def test_auto_is_no_captioner_by_itself():
    with pytest.raises(CupscaleError, match="depends on the model"):
        open_captioner("auto")
