"""A run: its rows and inputs, what it keeps, that it goes on, that processes share it, and its tables and page."""

from __future__ import annotations

import csv
import errno
import io
import json
import mmap
import os
import re
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import make_sdxl
from click.testing import CliRunner
from launching import launched
from PIL import Image

import cupscale
from cupscale import images
from cupscale.cli import main
from cupscale.errors import CupscaleError
from cupscale.metrics import METRICS
from cupscale.metrics.intervals import Estimate
from cupscale.pipeline import CUpscalePipeline
from cupscale.reproduce import runner as runner_module
from cupscale.reproduce.cost import Clock, peak_memory
from cupscale.reproduce.folder import Folder, difference, digest
from cupscale.reproduce.inputs import Input, Item, from_images, from_prompts, items_of, reduced
from cupscale.reproduce.plots import front
from cupscale.reproduce.report import places, spread
from cupscale.reproduce.rows import choose, read_rows
from cupscale.reproduce.tables import Line, Table, as_csv, cell, gather, markdown
from cupscale.settings import CHOICES

FEW = {"steps": 4, "strength": 0.5, "guidance": 1.0, "upscaler": "lanczos"}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(make_sdxl(tmp_path_factory.mktemp("sdxl")))


def photo(path: Path, number: int = 0, size: tuple[int, int] = (44, 28)) -> Path:
    y, x = np.mgrid[0 : size[1], 0 : size[0]]
    planes = [np.sin(x / 5 + k + number) * np.cos(y / (4 + k)) * 100 + 128 for k in range(3)]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.stack(planes, -1).astype(np.uint8)).save(path)
    return path


@pytest.fixture
def pictures(tmp_path):
    for number in range(2):
        photo(tmp_path / "in" / f"p{number}.png", number)
    return tmp_path / "in"


@pytest.fixture
def arguments(model, pictures, tmp_path):
    """Of a run of seconds: two images, two rows besides the plain ones."""
    settings = tmp_path / "settings.json"
    settings.write_text(json.dumps(FEW))
    return [
        *("reproduce", "--images", str(pictures), "--model", model, "--settings", str(settings)),
        *("--scale", "2", "--rows", "regional,regional+gsp+rap", "--device", "cpu"),
    ]


def run(*words: object):
    return CliRunner().invoke(main, [str(word) for word in words])


@pytest.fixture(autouse=True)
def no_networks(monkeypatch):
    """Real-ESRGAN and RealSR take seconds a picture; they have their own tests."""
    rows = read_rows()
    kept = {name: row for name, row in rows.items() if name not in ("realesrgan", "realsr")}
    monkeypatch.setattr("cupscale.reproduce.rows.read_rows", lambda files=(): kept | _own(files))


def _own(files):
    return {name: row for name, row in read_rows(files).items() if name not in read_rows()}


def results(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("results/*/*.png"))}


def records(out: Path) -> dict[str, dict]:
    """Without what a clock or the machine decides."""
    found = {}
    for path in sorted(out.rglob("results/*/*.json")):
        record = json.loads(path.read_text())
        for name in ("seconds", "memory"):
            record.get("metrics", {}).pop(name, None)
        found[str(path.relative_to(out))] = record
    return found


# Rows


def test_the_table_has_the_papers_ablation_and_every_peer():
    from cupscale.peers import PEERS

    rows = read_rows()
    weights = [
        (row.settings.get("structure"), row.settings.get("attention"), row.settings.get("detail"))
        for row in rows.values()
        if row.group == "ablation"
    ]
    assert weights == [(0, 0, 0), (None, 0, 0), (None, None, 0), (None, None, None)]
    assert {row.peer for row in rows.values() if row.peer} == set(PEERS)
    assert {row.preset for row in rows.values() if row.preset} == {"quick", "paper"}


def test_every_open_choice_has_a_row():
    rows = [row for row in read_rows().values() if row.group == "choices"]
    assert {name for row in rows for name in row.settings} >= set(CHOICES)
    assert [row.name for row in rows if row.runs == 2] == ["two-runs"]


def test_two_runs_are_two_calls_with_new_captions_between(arguments, tmp_path, model, pictures):
    """33 px by 3 is 99 px: by the root of 3 to 57, and by it again to 99; the first's captions shrink with it."""
    photo(pictures / "p0.png", size=(33, 21))
    (pictures / "p1.png").unlink()
    arguments[arguments.index("--scale") + 1] = "3"
    arguments[arguments.index("--rows") + 1] = "two-runs"
    done = run(*arguments, "--captioner", "appearance", "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    (record,) = [found for name, found in records(tmp_path / "out").items() if "two-runs" in name]
    first, second = record["used"]["runs"]
    assert record["size"] == [99, 63]
    assert first["scale"] == second["scale"] == pytest.approx(3**0.5)
    assert first["cutoff"] == second["cutoff"] == pytest.approx(0.8 / 3 * 3**0.5, abs=1e-3)
    assert max(one["box"][2] for one in first["captions"]) == 57
    assert max(one["box"][2] for one in second["captions"]) == 99
    pipeline = CUpscalePipeline.from_pretrained(model, device="cpu")
    small = pipeline.upscale(pictures / "p0.png", cupscale.Settings.build(first))
    large = pipeline.upscale(small.image, cupscale.Settings.build(second))
    (path,) = (tmp_path / "out").rglob("two-runs/*.png")
    assert large.image.size == (99, 62)  # of 36 px: a row of pixels short of what was asked for
    expected = images.resize(large.image, (99, 63), "lanczos")
    assert (np.asarray(Image.open(path)) == np.asarray(expected)).all()
    evaluations = small.plan.samples + large.plan.samples
    assert record["metrics"]["evaluations"] == evaluations


def test_plain_super_resolution_is_always_there_and_originals_where_there_are_some():
    rows = read_rows()
    names = [row.name for row in choose(rows, ["quick", "lanczos"], reduced=False)]
    assert names == ["lanczos", "realesrgan", "realsr", "quick"]
    assert choose(rows, ["presets"], reduced=True)[0].name == "original"
    with pytest.raises(CupscaleError, match="needs --reduce"):
        choose(rows, ["original"], reduced=False)


def test_an_unknown_row_says_which_there_are(arguments, tmp_path):
    done = run(*arguments, "--rows", "regional,demofusoin", "--out", tmp_path / "out")
    assert done.exit_code == 2 and done.output.count("\n") == 1
    assert "no row 'demofusoin'" in done.output and "demofusion" in done.output and "ablation" in done.output
    assert not (tmp_path / "out").exists()


def test_a_row_is_added_by_naming_its_settings(tmp_path):
    table = tmp_path / "mine.toml"
    table.write_text(
        '[half]\ntitle = "Half"\nsettings = { attention = 0.3 }\n'
        '[far]\ntitle = "Far"\npeer = "demofusion"\noptions = { steps = 10 }\n'
    )
    rows = read_rows([table])
    assert rows["half"].settings == {"attention": 0.3} and rows["half"].group == "own"
    assert rows["far"].method().steps == 10
    assert len(rows) == len(read_rows()) + 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[lanczos]\ntitle = 'x'\npeer = 'lanczos'", "row 'lanczos' already"),
        ("[a]\ntitle = 'A'\npeer = 'b'", "unknown peer 'b'"),
        ("[a]\ntitle = 'A'\npeer = 'demofusion'\noptions = {stepz = 3}", "no option stepz; it has steps"),
        ("[a]\ntitle = 'A'\nsettings = {stepz = 3}", "stepz: no such setting"),
        ("[a]\ntitle = 'A'\nsettings = {steps = 0}", "steps: .*not 0"),
        ("[a]\ntitle = 'A'\npreset = 'best'", "no preset 'best'"),
        ("[a]\ntitle = 'A'", "needs either"),
        ("[a]\ntitle = 'A'\npeer = 'lanczos'\nsettings = {}", "needs either"),
        ("[a]\npeer = 'lanczos'", "needs a title"),
        ("[a]\ntitle = 'A'\npear = 'lanczos'", "no field 'pear'"),
        ("['../a']\ntitle = 'A'\nsettings = {}", "no name of a row"),
        ("[a\n", "not TOML"),
    ],
)
def test_a_row_that_makes_no_sense_is_one_line(tmp_path, text, said):
    table = tmp_path / "mine.toml"
    table.write_text(text)
    with pytest.raises(CupscaleError, match=said) as raised:
        read_rows([table])
    assert "\n" not in str(raised.value)


# Inputs


def test_images_have_names_and_prompts_of_their_own(tmp_path):
    photo(tmp_path / "b.png")
    photo(tmp_path / "a.png")
    photo(tmp_path / "a.webp")
    (tmp_path / "b.txt").write_text("a red\nfox \n")
    found = from_images(tmp_path)
    assert [(one.name, one.prompt) for one in found] == [("a.png", ""), ("a.webp", ""), ("b", "a red fox")]
    names = [(item.name, item.source_name) for item in items_of(found[2:], [3, 5])]
    assert names == [("b-seed3", "b"), ("b-seed5", "b")]
    drawn = Item(Input("prompt001", None, "x"), 4)
    assert drawn.source_name == drawn.name == "prompt001-seed4"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a fox\n\na boat\n", "line 2 of .* is empty"),
        ("a fox\n" + "x" * 2001 + "\n", "line 2 of .* has 2001 characters, and 2000 is the limit"),
        ("", "is empty: give a prompt"),
    ],
)
def test_a_prompts_file_names_the_line(tmp_path, text, said):
    (tmp_path / "p.txt").write_text(text)
    with pytest.raises(CupscaleError, match=said):
        from_prompts(tmp_path / "p.txt")


def test_a_prompts_file_may_end_with_or_without_a_line_break(tmp_path):
    for text in ("a fox\r\n a boat", "\ufeffa fox\na boat\n"):
        (tmp_path / "p.txt").write_text(text, "utf-8")
        found = from_prompts(tmp_path / "p.txt")
        assert [one.prompt for one in found] == ["a fox", "a boat"]
        assert [one.name for one in found] == ["prompt001", "prompt002"]


def test_an_original_is_cut_to_a_multiple_and_reduced(tmp_path):
    original = Image.open(photo(tmp_path / "p.png", size=(71, 50)))
    small, whole = reduced(original, 3)
    assert small.size == (23, 16) and whole.size == (69, 48)
    assert whole.tobytes() == original.crop((0, 0, 69, 48)).tobytes()
    assert small.tobytes() == whole.resize((23, 16), Image.Resampling.LANCZOS).tobytes()
    with pytest.raises(CupscaleError, match="14 x 10 px: at least 16"):
        reduced(original, 5)


# A run


def test_a_run_writes_results_tables_plots_and_a_page(arguments, tmp_path, model, pictures):
    out = tmp_path / "out"
    done = run(*arguments, "--seeds", "0,4", "--out", out)
    assert done.exit_code == 0, done.output
    assert set(Counter(name.split("/")[1] for name in results(out)).items()) == {
        ("lanczos", 4),
        ("regional", 4),
        ("regional+gsp+rap", 4),
    }
    # the picture is that of `upscale` with the row's settings
    fields = FEW | {"scale": 2.0, "seed": 4, "structure": 0.0, "attention": 0.0, "detail": 0.0}
    pipeline = CUpscalePipeline.from_pretrained(model, device="cpu")
    alone = pipeline.upscale(pictures / "p1.png", pipeline.settings(None, **fields))
    with Image.open(out / "results" / "regional" / "p1-seed4.png") as made:
        assert made.size == (88, 56) and made.tobytes() == alone.image.tobytes()
    record = json.loads((out / "results" / "regional" / "p1-seed4.json").read_text())
    assert record["metrics"]["evaluations"] == alone.plan.samples
    assert record["used"]["structure"] == 0 and record["used"]["seed"] == 4
    data = json.loads((out / "table.json").read_text())
    assert len(data["results"]) == 12
    by_image = [r["metrics"]["psnr"] for r in data["results"] if r["row"] == "regional"]
    found = next(row for row in data["rows"] if row["name"] == "regional")["figures"]["psnr"]
    assert found["mean"] == pytest.approx(np.mean(by_image)) and found["pictures"] == 2
    assert found["low"] <= found["mean"] <= found["high"]
    assert data["run"]["decides"]["versions"]["torch"] and data["run"]["decides"]["seeds"] == [0, 4]
    text = (out / "table.md").read_text()
    assert f"--images {pictures}" in text and "--seeds 0,4" in text and "| Lanczos | 4 |" in text
    assert "no region has a caption of its own" in text
    for name in ("quality.png", "bars.png"):
        assert Image.open(out / name).size[0] > 500
    check_offline(out / "report.html")


def check_offline(page: Path) -> None:
    text = page.read_text()
    assert (
        "{{" not in text and "http://" not in text.replace("http://www.w3.org", "") and "https://" not in text
    )
    shown = json.loads(text.split('id="data">')[1].split("</script>")[0])
    assert [one["name"] for one in shown][:1] == ["p0-seed0"]
    titles = [tile["title"] for tile in shown[0]["places"][0]]
    assert titles == ["Input", "Lanczos", "Regional denoising", "+ RAP"]
    for tile in shown[0]["places"][0]:
        assert (page.parent / tile["file"]).is_file()


def test_it_goes_on_where_it_stopped_and_loses_one_picture(arguments, tmp_path, monkeypatch):
    """Killed while the third result is made; a record without its picture counts for nothing."""
    out, made = tmp_path / "out", []
    inner = runner_module.Runner._made

    def dying(self, row, item, prepared):
        made.append((row.name, item.name))
        if len(made) == 3:
            raise KeyboardInterrupt
        return (yield from inner(self, row, item, prepared))

    monkeypatch.setattr(runner_module.Runner, "_made", dying)
    assert run(*arguments, "--out", out).exit_code == 130
    before = results(out)
    assert len(before) == 2 and not (out / "report.html").exists()
    (out / "results" / "lanczos" / "p0-seed0.png").write_bytes(b"spoilt")
    assert run(*arguments, "--out", out).exit_code == 0
    again = made[3:]
    assert len(again) == 5 and ("lanczos", "p0-seed0") in again and ("regional", "p0-seed0") not in again
    assert results(out).items() >= before.items() and len(results(out)) == 6
    assert run(*arguments, "--out", out).exit_code == 0
    assert len(made) == 8  # nothing is made twice


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (["--scale", "3"], "scale: 2.0 there, 3.0 now"),
        (["--seeds", "1"], r"seeds: \[0\] there, \[1\] now"),
        (["--threads", "2"], "threads: 1 there, 2 now"),
    ],
)
def test_two_runs_of_other_settings_do_not_share_a_folder(arguments, tmp_path, change, said, monkeypatch):
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    out = tmp_path / "out"
    rows = ["--rows", "lanczos"]
    assert run(*arguments, *rows, "--out", out).exit_code == 0
    before = (out / "run.json").read_bytes()
    done = run(*arguments, *rows, "--out", out, *change)
    assert done.exit_code == 2 and re.search(said, done.output) and "give another --out" in done.output
    assert (out / "run.json").read_bytes() == before


def test_what_may_share_a_folder():
    one = {"scale": 2, "versions": {"torch": "1"}, "rows": {"a": {"x": 1}}}
    assert difference(one, one) == ""
    assert difference(one, one | {"rows": {"b": {"x": 2}}}) == ""
    assert difference(one, one | {"rows": {"a": {"x": 2}}}) == "its row a has other settings"
    assert difference(one, one | {"versions": {"torch": "2"}}) == "versions, torch: 1 there, 2 now"
    assert difference(one, one | {"new": 3}) == "new: none there, 3 now"


def test_a_row_that_is_added_later_joins_the_table(arguments, tmp_path):
    """One of the user's own first, which later commands need not name again."""
    out, table = tmp_path / "out", tmp_path / "mine.toml"
    table.write_text(
        '[half]\ntitle = "Half"\nsettings = { structure = 0.5, attention = 0.0, detail = 0.0 }\n'
    )
    mine = ["--table", table, "--rows", "half,regional+gsp"]
    assert run(*arguments, *mine, "--out", out).exit_code == 0
    before = results(out)
    assert run(*arguments, "--rows", "regional", "--out", out).exit_code == 0
    assert results(out).items() > before.items()
    text = (out / "table.md").read_text()
    places = [text.index(f"| {title} | 2 |") for title in ("Lanczos", "Regional denoising", "+ GSP", "Half")]
    assert places == sorted(places)


def test_captions_are_written_once_and_reach_every_row(arguments, tmp_path):
    out = tmp_path / "out"
    rows = ["--rows", "regional+gsp+rap,regional+gsp+rap+rsp", "--captioner", "appearance"]
    assert run(*arguments, *rows, "--out", out).exit_code == 0
    words = json.loads((out / "inputs" / "p0.json").read_text())
    assert words["captions"] and words["prompt"]
    for row in ("regional+gsp+rap", "regional+gsp+rap+rsp"):
        used = json.loads((out / "results" / row / "p0-seed0.json").read_text())["used"]
        assert used["captions"] == words["captions"] and used["prompt"] == words["prompt"]
    made = results(out)
    pictures = [
        images.read(made[f"results/regional+gsp+rap{more}/p0-seed0.png"]).rgb.tobytes()
        for more in ("", "+rsp")
    ]
    assert pictures[0] != pictures[1]
    assert "no region has a caption" not in (out / "table.md").read_text()


def test_a_row_that_does_not_fit_into_memory_does_not_stop_the_others(arguments, tmp_path, monkeypatch):
    inner = runner_module.Runner._made

    def large(self, row, item, prepared):
        if row.name == "regional":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return (yield from inner(self, row, item, prepared))

    monkeypatch.setattr(runner_module.Runner, "_made", large)
    out = tmp_path / "out"
    assert run(*arguments, "--out", out).exit_code == 0
    text = (out / "table.md").read_text()
    assert "Regional denoising: 2 of 2 without a result" in text and "not enough memory" in text
    assert "| + RAP | 2 |" in text


def test_an_image_that_cannot_be_read_is_skipped_and_listed(arguments, pictures, tmp_path):
    (pictures / "broken.png").write_bytes(b"no picture")
    out = tmp_path / "out"
    done = run(*arguments, "--rows", "regional", "--out", out)
    assert done.exit_code == 3
    assert done.output.strip().splitlines()[-1].startswith("cupscale: skipped broken: ")
    assert len(results(out)) == 4
    assert "skipped input broken" in (out / "table.md").read_text()
    assert json.loads((out / "table.json").read_text())["skipped"].keys() == {"broken"}


def test_a_row_that_a_model_cannot_do_stays_empty_and_says_why(arguments, tmp_path):
    out = tmp_path / "out"
    assert run(*arguments, "--rows", "hiflow", "--out", out).exit_code == 0
    text = (out / "table.md").read_text()
    assert f"| HiFlow | 0 |{'  |' * len(METRICS)}\n" in text
    assert "HiFlow: 2 of 2 without a result" in text and "aligns flows" in text


def test_a_full_disk_keeps_what_is_done(arguments, tmp_path, monkeypatch):
    out = tmp_path / "out"
    replace, written = os.replace, []

    def full(source, target):
        written.append(str(target))
        if len([name for name in written if "results" in name]) > 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        return replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    done = run(*arguments, "--out", out)
    assert done.exit_code == 2
    assert "o space left on device" in done.output and "the same command goes on" in done.output
    kept = results(out)
    monkeypatch.setattr(os, "replace", replace)
    assert run(*arguments, "--out", out).exit_code == 0
    assert results(out).items() > kept.items() and len(results(out)) == 6


def test_originals_are_reduced_measured_and_a_row(arguments, tmp_path):
    source = photo(tmp_path / "large" / "p.png", size=(93, 70))
    out = tmp_path / "out"
    done = run(*arguments, "--images", source.parent, "--reduce", "3", "--out", out)
    assert done.exit_code == 0, done.output
    assert Image.open(out / "inputs" / "p.png").size == (31, 23)
    with Image.open(out / "results" / "original" / "p-seed0.png") as original:
        assert original.size == (62, 46)
    record = json.loads((out / "results" / "original" / "p-seed0.json").read_text())
    assert record["metrics"]["evaluations"] == 0 and record["metrics"]["memory"] is None
    refused = run(
        *arguments, "--images", source.parent, "--reduce", "3", "--scale", "4", "--out", tmp_path / "b"
    )
    assert refused.exit_code == 2 and "goes beyond --reduce 3" in refused.output


def test_prompts_are_drawn_and_enlarged_by_the_same_model(arguments, model, tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a lighthouse\n")
    words = [*arguments[:1], "--prompts", str(prompts), *arguments[3:]]
    out = tmp_path / "out"
    done = run(*words, "--rows", "regional+gsp", "--seeds", "1,2", "--out", out)
    assert done.exit_code == 0, done.output
    drawn = [Image.open(out / "inputs" / f"prompt001-seed{seed}.png") for seed in (1, 2)]
    assert drawn[0].tobytes() != drawn[1].tobytes()
    pipeline = CUpscalePipeline.from_pretrained(model, device="cpu")
    fields = FEW | {"scale": 2.0, "seed": 2, "attention": 0.0, "detail": 0.0, "prompt": "a lighthouse"}
    alone = pipeline.upscale(None, pipeline.settings(None, **fields))
    with Image.open(out / "results" / "regional+gsp" / "prompt001-seed2.png") as made:
        assert made.tobytes() == alone.image.tobytes()


def test_a_model_that_draws_nothing_is_refused_before_it_is_loaded(tmp_path):
    (tmp_path / "p.txt").write_text("a fox\n")
    done = run("reproduce", "--prompts", tmp_path / "p.txt", "--model", "tiny", "--out", tmp_path / "out")
    assert done.exit_code == 2 and "cannot draw from words" in done.output


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "either --images or --prompts"),
        (["--images", "x", "--prompts", "y"], "either --images or --prompts"),
        (["--images", "x", "--metrics", "fod"], "no metric 'fod'"),
        (["--images", "x", "--seeds", "1,1"], "one twice"),
        (["--images", "x", "--seeds", "a"], "not a list of seeds"),
        (["--images", "x", "--seeds", "0-99999"], "more than 1000"),
    ],
)
def test_bad_words_are_refused(tmp_path, words, said):
    done = run("reproduce", *words, "--out", tmp_path / "out")
    assert done.exit_code == 2 and said in done.output


def test_seeds_may_be_a_range(arguments, tmp_path):
    assert run(*arguments, "--rows", "lanczos", "--seeds", "2-3,7", "--out", tmp_path / "out").exit_code == 0
    assert json.loads((tmp_path / "out" / "run.json").read_text())["decides"]["seeds"] == [2, 3, 7]


# Several processes


@pytest.mark.slow
def test_two_processes_make_what_one_makes(arguments, tmp_path):
    outs = [tmp_path / "one", tmp_path / "two"]
    few = [*arguments, "--rows", "regional"]
    alone = launched(0, *few, "--out", str(outs[0]), cwd=tmp_path)
    shared = launched(2, *few, "--out", str(outs[1]), cwd=tmp_path)
    # Four rows, with Real-ESRGAN and RealSR, which are not hidden from other processes; an image a process.
    assert "8 of 8: " in alone.stderr and "4 of 4: " in shared.stderr and "5 of" not in shared.stderr
    assert shared.stdout.count("report.html") == 1
    assert len(results(outs[0])) == 2 * 4
    assert results(outs[0]) == results(outs[1])
    assert records(outs[0]) == records(outs[1])


@pytest.mark.slow
def test_two_processes_upscale_a_folder_as_one_does(model, pictures, tmp_path):
    fast = ["--steps", "4", "--strength", "0.5", "--guidance", "1", "--upscaler", "lanczos"]
    photo(pictures / "p2.png", 2)
    said = [
        launched(
            count,
            "upscale",
            str(pictures),
            "--model",
            model,
            *fast,
            "--device",
            "cpu",
            "-o",
            name,
            cwd=tmp_path,
        )
        for count, name in ((0, "one"), (2, "two"))
    ]
    assert "3 of 3: " in said[0].stderr and "2 of 2: " in said[1].stderr
    one, two = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("one", "two")
    )
    assert len(one) == 3 and one == two


# What it is made of


def test_the_time_left_counts_by_row_and_by_samples():
    clock = Clock({"a": 3, "b": 2, "plain": 4})
    clock.work = {"a": 10, "b": 30, "plain": 0}
    assert clock.seconds_left() is None
    clock.done("a", 5.0)
    assert clock.seconds_left() == pytest.approx(
        2 * 5 + 2 * 15
    )  # half a second a sample; nothing is known of plain
    clock.done("plain", 2.0)
    assert clock.seconds_left() == pytest.approx(2 * 5 + 2 * 15 + 3 * 2)
    clock.done("b", 0)  # failed
    assert clock.seconds_left() == pytest.approx(2 * 5 + 15 + 3 * 2)
    clock.done("b", 11.0)
    assert clock.seconds_left() == pytest.approx(2 * 5 + 3 * 2)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux tells the peak")
def test_the_peak_of_memory_is_that_of_the_work():
    with peak_memory(torch.device("cpu")) as little:
        pass
    if little.bytes is None:
        pytest.skip("this system does not set the peak back")
    with peak_memory(torch.device("cpu")) as much, mmap.mmap(-1, 80_000_000) as fresh:
        for _ in range(80):  # an array may lie where an earlier test's was, which adds nothing
            fresh.write(bytes(1_000_000))
    assert much.bytes - little.bytes == pytest.approx(80e6, rel=0.3)


def test_a_failed_column_is_empty_and_says_why(tmp_path):
    """A metric that says what it misses, one that gives nothing, and one of two seeds of two images."""
    folder, rows = Folder(tmp_path), [read_rows()["lanczos"]]
    items = items_of([Input("a", Path("a")), Input("b", Path("b"))], [0, 1])
    values = {"a-seed0": 1.0, "a-seed1": 3.0, "b-seed0": 10.0, "b-seed1": 20.0}
    for item in items:
        path = folder.result_path("lanczos", item.name)
        folder.keep_picture(path, Image.new("RGB", (8, 8)))
        record = {
            "image": item.input.name,
            "seed": item.seed,
            "sha256": digest(path),
            "metrics": {"psnr": values[item.name], "ssim": None, "colour": None},
            "missing": {"colour": "it needs a package"},
        }
        folder.keep_record("lanczos", item.name, record)
    metrics = [METRICS[name] for name in ("psnr", "ssim", "colour")]
    table, found = gather(folder, rows, items, metrics)
    assert len(found) == 4
    assert table.lines[0].figures["psnr"].mean == pytest.approx((2 + 15) / 2)
    assert table.lines[0].figures["psnr"].pictures == 2
    assert set(table.lines[0].figures) == {"psnr"}
    assert table.notes == {"colour": "it needs a package"}
    lines = list(csv.DictReader(io.StringIO(as_csv(table))))
    assert [(line["metric"], line["mean"], line["images"]) for line in lines] == [
        ("psnr", "8.5", "2"),
        ("ssim", "", "0"),
        ("colour", "", "0"),
    ]
    assert "| Lanczos | 4 | 8.50 [" in markdown(
        table, "cupscale"
    ) and "- colour: it needs a package" in markdown(table, "x")


def test_a_cell_holds_its_interval():
    line = Line(
        read_rows()["lanczos"], {"ssim": Estimate(0.5, 0.25, 0.75, 3), "psnr": Estimate(9.0, None, None, 1)}
    )
    assert cell(METRICS["ssim"], line) == "0.5000 [0.2500, 0.7500]"
    assert cell(METRICS["psnr"], line) == "9.00"
    assert cell(METRICS["slope"], line) == ""
    assert Table([], [line], {}, {}, 1).lines[0].items == 0


def test_the_front_holds_what_nothing_cheaper_beats():
    """By hand; of two at one cost the better, and one that costs more and is no better is not on it."""
    points = [(52, 3.0), (24, 1.0), (24, 1.5), (100, 3.0), (0, -4.0)]
    assert front(points, METRICS["psnr"]) == [(0, -4.0), (24, 1.5), (52, 3.0)]
    assert front(points, METRICS["patch1"]) == [(0, -4.0)]
    assert front(points, METRICS["seams"]) == [(0, -4.0), (24, 1.0)]  # the target is 1
    assert front(points, METRICS["slope"]) == []


def test_crops_are_of_the_busiest_place_and_of_a_middling_one():
    pixels = np.full((48, 96, 3), 128, np.uint8)
    pixels[16:32, 64:80] = np.random.default_rng(0).integers(0, 255, (16, 16, 3))
    pixels[:, :16, 0] = np.arange(48)[:, None]
    found = places(Image.fromarray(pixels), 16)
    assert found[0] == (64, 16)
    assert len(found) == 2 and max(abs(found[1][0] - 64), abs(found[1][1] - 16)) >= 16
    assert places(Image.fromarray(pixels[:16, :16]), 16) == [(0, 0)]


def test_items_are_spread_over_all():
    items = items_of([Input(f"i{k}", Path("x")) for k in range(20)], [0])
    assert [one.input.name for one in spread(items, 8)][:3] == ["i0", "i2", "i5"]
    assert len(spread(items, 8)) == 8 and spread(items[:3], 8) == items[:3]


def test_a_folder_of_results_can_be_moved(arguments, tmp_path):
    """The page's links are relative, and the pictures have their settings inside."""
    out = tmp_path / "out"
    assert run(*arguments, "--out", out).exit_code == 0
    shutil.move(out, tmp_path / "moved")
    check_offline(tmp_path / "moved" / "report.html")
    inside = images.read_settings(tmp_path / "moved" / "results" / "regional" / "p0-seed0.png")
    assert inside["structure"] == 0 and inside["scale"] == 2
