"""stdin and stdout as '-', plain lines of progress, a random seed: what needs no model."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from test_saving import cmyk_profile

from cupscale.cli import main
from cupscale.errors import CupscaleError
from cupscale.events import Progress
from cupscale.files import STREAM, plan_jobs
from cupscale.flags import Seed
from cupscale.settings import Settings
from cupscale.showing import Lines


def test_a_line_for_each_stage_and_each_tenth_of_it():
    lines, said = Lines(), []
    said.append(lines.next(Progress("encode", 0, 4, 0, 9, 1.0)))
    for k in range(1, 37):
        step, done = (k - 1) // 9 + 1, (k - 1) % 9 + 1
        said.append(lines.next(Progress("denoise", step, 4, done, 9, 1.0 + k, 36.0 - k, k / 36)))
    said = [line for line in said if line]
    assert said[0] == "encode" and said[1].startswith("denoise, 3%, step 1 of 4, about 35 s left")
    assert len(said) == 12 and said[-1].startswith("denoise, 100%, step 4 of 4")


def test_a_random_seed_is_a_seed_and_not_always_the_same():
    found = {Seed().convert("random", None, None) for _ in range(8)}
    assert len(found) > 1 and all(0 <= seed < 2**32 for seed in found)
    assert Seed().convert("7", None, None) == 7
    done = CliRunner().invoke(main, ["upscale", "x.png", "--seed", "soon"])
    assert done.exit_code == 2 and "random" in done.output


def test_where_streams_go():
    (job,) = plan_jobs([STREAM], None, Settings(), suffix=".webp")
    assert (job.source, job.target, job.suffix) == (STREAM, STREAM, ".webp")
    (job,) = plan_jobs([STREAM], Path("a.png"), Settings())
    assert job.target == Path("a.png")
    (job,) = plan_jobs([Path("b.jpg")], STREAM, Settings())
    assert (job.target, job.suffix) == (STREAM, ".jpg")  # same
    for sources, out in (([STREAM, Path("a.png")], None), ([Path("a.png"), Path("b.png")], STREAM)):
        with pytest.raises(CupscaleError, match=r"'-' is one image"):
            plan_jobs(sources, out, Settings())


def test_an_empty_or_foreign_stdin_is_one_line():
    for given, words in ((b"", "0 bytes"), (b"text", "is not an image")):
        done = CliRunner().invoke(main, ["upscale", "-", "--plan", "--device", "cpu"], input=given)
        assert done.exit_code == 2 and words in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("image", "arguments", "words"),
    [
        ("x.png", "--format webp -o a.jpg", "do not agree"),
        ("x.png", "--bits 16 -o a.jpg", "cannot hold 16 bits; save as PNG or TIFF"),
        ("x.png", "--bits 16 -o a.webp", "cannot hold 16 bits; save as PNG or TIFF"),
        ("x.png", "--bits 16 -o - --format webp", "cannot hold 16 bits; save as PNG or TIFF"),
        ("x.png", "y.png --bits 16 --format avif", "cannot hold 16 bits; save as PNG or TIFF"),
        ("x.png", "--frames -o a.png --dpi 300", "keeps no metadata"),
        ("x.png", "--mask none.png -o a.png", "does not exist"),
        ("x.png", "--mask mask.png -o a.png", "the mask is 30 x 20 and the image is 20 x 20"),
        ("x.png", "--dpi 300 --fit 10x10 -o a.png", "20 x 20 reaches 20 x 20 to 320 x 320"),
        ("x.png", "--to 4k", "20 x 20 reaches 20 x 20 to 320 x 320"),
        ("glass.png", "-o a.jpg", "JPEG has no alpha and this image has; save as PNG or WebP"),
        ("glass.png", "-o - --format jpeg", "JPEG has no alpha and this image has; save as PNG or WebP"),
        ("print.tif", "--keep-profile -o a.png", "CMYK in PNG is not written; save as JPEG or TIFF"),
        ("print.tif", "--keep-profile -o -", "CMYK in PNG is not written; save as JPEG or TIFF"),
    ],
)
def test_refusals_before_a_model_is_loaded(image, arguments, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("cupscale.models.load", lambda *_, **__: pytest.fail("a model was loaded"))
    for name in ("x.png", "y.png"):
        Image.new("RGB", (20, 20)).save(name)
    Image.new("L", (30, 20)).save("mask.png")
    Image.new("RGBA", (20, 20), (9, 9, 9, 128)).save("glass.png")
    Image.new("CMYK", (20, 20)).save("print.tif", icc_profile=cmyk_profile())
    there = sorted(tmp_path.iterdir())
    flags = ["--device=cpu", "--upscaler=lanczos", "--captioner=none"]
    done = CliRunner().invoke(main, ["upscale", image, *flags, *arguments.split()])
    assert done.exit_code == 2 and words in done.stderr, done.output
    assert done.stdout == "" and sorted(tmp_path.iterdir()) == there


def test_a_picture_goes_through_stdin_and_stdout(folders, tmp_path):
    """The bytes of the command between files, in the format that is asked for; what is said goes to stderr, a report too."""
    pixels = np.random.default_rng(3).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    flags = ["--steps=1", "--strength=0.1", "--guidance=1", "--upscaler=lanczos", "--captioner=none"]
    flags += ["--device=cpu", "--model", folders("sdxl")]

    def run(*arguments, given=None):
        done = CliRunner().invoke(main, ["upscale", *map(str, arguments), *flags], input=given)
        assert done.exit_code == 0, done.output
        return done

    given = (tmp_path / "a.png").read_bytes()
    done = run("-", "--json", "--format", "webp", "--seed", "random", given=given)
    (report,) = (json.loads(line) for line in done.stderr.splitlines() if line.startswith("{"))
    assert report["path"] == report["source"] == "-"
    seed = report["settings"]["seed"]
    assert f"seed {seed}" in done.stderr.splitlines() and "denoise, 100%" in done.stderr
    run(tmp_path / "a.png", "-o", tmp_path / "b.webp", "--seed", seed)
    assert done.stdout_bytes == (tmp_path / "b.webp").read_bytes()
    plain = run(tmp_path / "a.png", "-o", "-", "--format", "webp", "--seed", seed)
    assert plain.stdout_bytes == done.stdout_bytes and "48 x 40" in plain.stderr
    with Image.open(io.BytesIO(run("-", given=given).stdout_bytes)) as image:
        assert image.format == "PNG" and image.size == (48, 40)
