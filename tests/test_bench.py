"""`cupscale bench`: a table that any user can make."""

import json

import pytest
from click.testing import CliRunner

from cupscale.bench import Measured
from cupscale.cli import main


def run(*words):
    return CliRunner().invoke(main, ["bench", *map(str, words)])


def test_a_table_with_a_row_for_each_side(folders):
    done = run("--model", folders("sdxl"), "--device", "cpu", "--sides", "64,160", "--scale", 2, "--steps", 2)
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    rows = [line for line in lines if line.startswith("| ")][1:]
    assert [row.split("|")[1].strip() for row in rows] == ["64 x 64", "160 x 160"]
    assert "float32 none" in lines[0] and "torch" in lines[0] and "of 2 steps" in lines[1]


def test_as_json_it_counts_what_the_plan_counts(folders):
    """64 px are one window: one step of 0.45 x 2, guided, and the pass over the whole picture."""
    done = run(
        "--model", folders("sdxl"), "--device", "cpu", "--sides", "64", "--scale", 2, "--steps", 2, "--json"
    )
    found = json.loads(done.stdout)
    assert found["side"] == 64 and found["samples"] == 3
    assert 0 < found["network"] <= found["steps"] <= found["seconds"]
    assert found["planned"] > 0


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("--sides", "1024,many"), "not a list of sides"),
        (("--sides", "64", "--scale", "16"), "input of 4 px: give a smaller scale"),
        (("--preset", "paper"), "cannot do preset paper"),
    ],
)
def test_what_cannot_be_done_is_said_before_the_run(words, line):
    done = run("--device", "cpu", *words)
    assert done.exit_code == 2 and line in done.output.replace("\n", " ")


def test_figures_by_hand():
    """2000 px: 4 megapixels. 30 s in all, 6 of them of the base upscaler; 21 s of steps, 20 of them in 40 samples."""
    one = Measured(2000, 40, 30.0, 6.0, 21.0, 20.0, 2**31, 2**30, 28.0)
    assert (one.a_sample, one.a_megapixel, one.around) == (0.5, 6.0, 1.05)
    assert one.row() == "| 2000 x 2000 | 40 | 30.0 | 28.0 | 500 | 6.00 | 1.050 | 6.0 | 2.00 | 1.00 |"
