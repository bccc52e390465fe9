"""The command line, in this process and as a command of its own."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from checkpoints import make_sdxl
from click.testing import CliRunner
from PIL import Image

from cupscale import images
from cupscale.backbones import Tiles
from cupscale.cli import main
from cupscale.errors import CupscaleError
from cupscale.settings import Settings

FAST = ["--steps", "4", "--strength", "0.5", "--guidance", "1", "--upscaler", "lanczos", "--device", "cpu"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(make_sdxl(tmp_path_factory.mktemp("sdxl")))


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 30, 3), dtype=np.uint8)).save(path)
    return path


def run(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_upscale_writes_what_it_says(photo, folder, tmp_path):
    out = tmp_path / "big.png"
    done = run(
        "upscale",
        photo,
        "--scale",
        "2.5",
        "--seed",
        7,
        "-o",
        out,
        "--model",
        folder,
        "--prompt",
        "a fox",
        *FAST,
    )
    assert done.exit_code == 0, done.output
    assert Image.open(out).size == (75, 60)
    assert str(out) in done.stdout and "75 x 60" in done.stdout and "seed=7" in done.stdout
    settings = Settings.build(images.read_settings(out))
    assert (settings.scale, settings.seed, settings.prompt, settings.steps) == (2.5, 7, "a fox", 4)


def test_the_default_name_stands_beside_the_input_and_says_the_scale(photo, folder):
    assert run("upscale", photo, "--scale", "2", "--model", folder, *FAST).exit_code == 0
    assert Image.open(photo.with_name("photo-x2-seed0.png")).size == (60, 48)


def test_layers_file_under_flag_over_preset(photo, folder, tmp_path):
    file = tmp_path / "settings.json"
    file.write_text(json.dumps({"steps": 6, "seed": 3, "model": folder}))
    out = tmp_path / "a.png"
    done = run("upscale", photo, "-o", out, "--preset", "quick", "--settings", file, *FAST, "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)["settings"]
    assert (found["steps"], found["seed"], found["windows"], found["scheduler"]) == (
        4,
        3,
        "alternating",
        "dpm++2m",
    )


def test_a_result_can_be_made_again_from_its_own_settings(photo, folder, tmp_path):
    run("upscale", photo, "-o", tmp_path / "a.png", "--model", folder, "--seed", 5, "--scale", "2", *FAST)
    file = tmp_path / "settings.json"
    file.write_text(json.dumps(images.read_settings(tmp_path / "a.png")))
    done = run("upscale", photo, "-o", tmp_path / "b.png", "--settings", file, "--device", "cpu")
    assert done.exit_code == 0, done.output
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_plan_says_sizes_regions_evaluations_and_loads_nothing(photo, monkeypatch):
    monkeypatch.setattr("cupscale.models.load", lambda *a, **k: pytest.fail("the model was loaded"))
    big = photo.with_name("big.png")
    Image.new("RGB", (1024, 1024)).save(big)
    done = run("upscale", big, "--model", "sdxl", "--preset", "paper", "--scale", "4", "--plan", "--json")
    assert done.exit_code == 0, done.output
    plan = json.loads(done.stdout)
    assert plan["output"] == [4096, 4096]
    assert len(plan["regions"]) == 49 and plan["regions"][0] == [0, 0, 1024, 1024]
    assert plan["evaluations"] == 49 * 23 + 23  # as method.md counts them
    assert plan["bytes"] > 5e9 and plan["seconds"] > 0 and plan["guessed"]
    line = run("upscale", big, "--model", "sdxl", "--preset", "paper", "--scale", "4", "--plan").stdout
    assert (
        line.startswith("1024 x 1024 -> 4096 x 4096, about ") and "(a guess: it has not run here yet)" in line
    )
    assert ", enlarged by bicubic first, 49 regions, 1150 model calls" in line


def test_the_plan_knows_the_time_after_a_run(photo, folder):
    before = json.loads(run("upscale", photo, "--model", folder, *FAST, "--plan", "--json").stdout)
    assert before["seconds"] is None
    run("upscale", photo, "--model", folder, *FAST)
    after = json.loads(run("upscale", photo, "--model", folder, *FAST, "--plan", "--json").stdout)
    assert after["seconds"] > 0


def test_captions_from_a_file_are_used_and_kept(photo, folder, tmp_path):
    file = tmp_path / "captions.json"
    file.write_text(
        json.dumps({"size": [60, 48], "regions": [{"box": [0, 0, 60, 48], "caption": "a green boat"}]})
    )
    out = tmp_path / "a.png"
    done = run("upscale", photo, "-o", out, "--captions", file, "--model", folder, "--scale", "2", *FAST)
    assert done.exit_code == 0, done.output
    assert images.read_settings(out)["captions"][0]["caption"] == "a green boat"


def bad_inputs(tmp_path):
    good = tmp_path / "photo.png"
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("hello")
    (tmp_path / "cut.png").write_bytes(good.read_bytes()[:200])
    (tmp_path / "bomb.json").write_text('{"scale": 3,}')
    (tmp_path / "outside.json").write_text(
        '{"size": [48, 48], "regions": [{"box": [0, 0, 999, 999], "caption": "x"}]}'
    )
    (tmp_path / "void").mkdir()
    return [
        ([tmp_path / "none.png"], ["none.png"]),
        ([tmp_path / "void"], ["folder"]),
        ([tmp_path / "empty.png"], ["empty.png"]),
        ([tmp_path / "text.png"], ["text.png"]),
        ([tmp_path / "cut.png"], ["cut.png"]),
        ([good, "--scale", "17"], ["scale", "16"]),
        ([good, "--scale", "0.3"], ["scale", "1"]),
        ([good, "--model", "nonsense"], ["nonsense", "tiny", "sdxl"]),
        ([good, "--model", "tiny", "--offload", "model"], ["offload", "accelerator"]),
        ([good, "--settings", tmp_path / "bomb.json"], ["bomb.json", "JSON"]),
        ([good, "--settings", tmp_path / "none.json"], ["none.json"]),
        ([good, "--captions", tmp_path / "none.json"], ["none.json"]),
        ([good, "--captions", tmp_path / "outside.json"], ["region", "999"]),
        ([good, "-o", tmp_path / "x.xyz"], ["xyz", "png"]),
        ([good, "-o", tmp_path / "no" / "x.png"], ["no"]),
    ]


def test_bad_input_is_one_clear_line_and_status_2(photo, folder, tmp_path):
    before = None
    for arguments, words in bad_inputs(tmp_path):
        before = before or sorted(tmp_path.rglob("*"))
        done = run("upscale", *arguments, *FAST)
        assert done.exit_code == 2, (arguments, done.output)
        assert isinstance(done.exception, SystemExit), done.exception
        lines = done.stderr.strip().splitlines()
        assert len(lines) == 1 and lines[0].startswith("cupscale: "), lines
        assert all(str(word) in lines[0] for word in words), (words, lines[0])
        assert done.stdout == ""
    assert sorted(tmp_path.rglob("*")) == before  # nothing half-written


INDEXES = {
    "a list": "[]",
    "a number": "7",
    "deep": "[" * 100_000,
    "no names": "{}",
    "a list for a name": '{"_class_name": []}',
    "a part of nothing": '{"_class_name": "StableDiffusionXLPipeline", "unet": []}',
    "a part that is a number": '{"_class_name": "StableDiffusionXLPipeline", "unet": 7}',
}


@pytest.mark.parametrize("name", INDEXES)
def test_a_model_whose_index_is_nonsense_is_one_line(name, photo, tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    (model / "model_index.json").write_text(INDEXES[name])
    done = run("upscale", photo, "--model", model, *FAST)
    assert done.exit_code == 2 and isinstance(done.exception, SystemExit), done.exception
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith(f"cupscale: cannot load model '{model}': ") and len(line) < 500
    assert name != "a list" or "expected a JSON object, found list" in line


@pytest.mark.parametrize("stem", ["a" * 250, "写" * 83])
def test_a_long_name_has_its_result_and_its_captions_beside_it(stem, photo, folder, tmp_path):
    image = photo.rename(tmp_path / f"{stem}.png")
    for command in (["upscale", image, "--model", folder, *FAST], ["caption", image]):
        done = run(*command)
        assert done.exit_code == 0, done.output
    names = {path.name for path in tmp_path.iterdir() if path.name.startswith(stem[:60])} - {image.name}
    assert sorted(Path(name).suffix for name in names) == [".json", ".png"]
    assert all(len(name.encode()) <= 255 for name in names)


@pytest.mark.parametrize("name", ["b" * 300, "写" * 86])
def test_a_name_that_is_too_long_is_one_line_before_the_run(name, photo, monkeypatch):
    monkeypatch.setattr("cupscale.models.load", lambda *_, **__: pytest.fail("loaded"))
    for command in (["upscale", photo, "-o", f"{name}.png", *FAST], ["caption", photo, "-o", f"{name}.json"]):
        done = run(*command)
        assert done.exit_code == 2 and isinstance(done.exception, SystemExit), done.exception
        assert len(done.stderr.strip().splitlines()) == 1 and name in done.stderr
        assert "the limit is 255 bytes; choose a shorter one" in done.stderr


def test_what_flags_say_of_the_hardware_reaches_the_model(photo, monkeypatch):
    given = {}

    def made(pipe, **how):
        given.update(how)
        raise CupscaleError("enough")

    monkeypatch.setattr("cupscale.models.load", lambda model, **how: given.update(how))
    monkeypatch.setattr("cupscale.pipeline.CUpscalePipeline", made)
    flags = ["--device", "cpu", "--dtype", "bfloat16", "--offload", "none", "--tile", "512", "--batch", "3"]
    done = run("upscale", photo, *flags)
    assert done.exit_code == 2 and "enough" in done.stderr
    assert (given["device"], given["dtype"], given["offload"]) == ("cpu", "bfloat16", "none")
    assert (given["tiles"], given["batch"]) == (Tiles(512), 3)


def test_help_reads_well_and_lists_every_setting():
    text = run("upscale", "--help").stdout
    for name in Settings.model_fields:
        flag = {"loras": "lora"}.get(name, name)  # one each, given several times
        assert f"--{flag.replace('_', '-')}" in text
    assert max(map(len, text.splitlines())) <= 100


def test_as_a_command_without_traceback(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "cupscale", "upscale", str(tmp_path / "none.png")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
