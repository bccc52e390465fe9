"""stdin and stdout as '-', plain lines of progress, a random seed: what needs no model."""

from pathlib import Path

import pytest
from click.testing import CliRunner

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
    ("arguments", "words"),
    [
        (["--format", "webp", "-o", "a.jpg"], "do not agree"),
        (["--bits", "16", "-o", "a.jpg"], "cannot hold 16 bits"),
        (["--frames", "-o", "a.png", "--dpi", "300"], "keeps no metadata"),
        (["--mask", "none.png", "-o", "a.png"], "does not exist"),
    ],
)
def test_refusals_before_a_model_is_loaded(arguments, words, tmp_path, monkeypatch):
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (20, 20)).save("x.png")
    done = CliRunner().invoke(
        main, ["upscale", "x.png", "--device", "cpu", "--upscaler", "lanczos", *arguments]
    )
    assert done.exit_code == 2 and words in done.stderr, done.output
