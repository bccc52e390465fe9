"""Which files a command reads and where results go: nothing is overwritten by accident; sizes instead of factors."""

import io
import json
import math
import os
import stat
from pathlib import Path

import numpy as np
import pytest
from checkpoints import make_sdxl
from click.testing import CliRunner
from PIL import ExifTags, Image
from test_saving import adobe_profile

import cupscale
from cupscale import images
from cupscale.batch import Done, Started, upscale_many
from cupscale.cli import main
from cupscale.errors import CupscaleError
from cupscale.files import Job, find_images, plan_jobs, result_name
from cupscale.images.profiles import in_profile
from cupscale.planning import Target, output_size, take_target
from cupscale.processes import own_share
from cupscale.saving import Saving
from cupscale.settings import Settings
from cupscale.showing import show

FAST = {
    "steps": 1,
    "strength": 0.1,
    "guidance": 1.0,
    "upscaler": "lanczos",
    "scheduler": "ddim",
    "attention": 0.0,
}
FLAGS = [f"--{name.replace('_', '-')}={value}" for name, value in FAST.items()] + ["--device=cpu"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(make_sdxl(tmp_path_factory.mktemp("sdxl")))


def picture(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def run(*arguments):
    return CliRunner().invoke(main, ["upscale", *(str(argument) for argument in arguments), *FLAGS])


# Names


def test_the_input_is_never_replaced(tmp_path, model):
    photo = picture(tmp_path / "photo.png")
    before = photo.read_bytes()
    link, hard = tmp_path / "link.png", tmp_path / "hard.png"
    link.symlink_to(photo)
    hard.hardlink_to(photo)
    for out in (photo, link, hard):
        for flags in ([], ["--overwrite"], ["--skip-existing"]):
            done = run(photo, "-o", out, "--model", model, *flags)
            assert done.exit_code == 2 and "would replace its input" in done.stderr
    assert photo.read_bytes() == before and link.is_symlink()


def test_what_is_there_stays_unless_someone_says_so(tmp_path, model):
    photo, out = picture(tmp_path / "photo.png"), tmp_path / "out.png"
    out.write_text("mine")
    out.chmod(0o640)
    done = run(photo, "-o", out, "--model", model)
    assert done.exit_code == 2 and "--overwrite" in done.stderr and out.read_text() == "mine"
    done = run(photo, "-o", out, "--model", model, "--skip-existing")
    assert done.exit_code == 0 and "there already" in done.stdout and out.read_text() == "mine"
    done = run(photo, "-o", out, "--model", model, "--overwrite")
    assert done.exit_code == 0 and Image.open(out).size == (48, 40)
    assert stat.S_IMODE(out.stat().st_mode) == 0o640  # a replaced file keeps its mode


def test_a_made_name_says_scale_and_seed_and_is_never_taken_twice(tmp_path, model):
    photo = picture(tmp_path / "photo.jpg")
    names = []
    for flags in ([], [], ["--seed=3"], ["--scale=2.5"]):
        before = set(tmp_path.iterdir())
        assert run(photo, "--model", model, *flags).exit_code == 0
        names += [path.name for path in set(tmp_path.iterdir()) - before if path.suffix == ".png"]
    assert names == [
        "photo-x2-seed0.png",
        "photo-x2-seed0-2.png",
        "photo-x2-seed3.png",
        "photo-x2.5-seed0.png",
    ]


def test_two_files_of_one_stem_do_not_share_a_result(tmp_path):
    sources = [
        picture(tmp_path / "photo.png"),
        picture(tmp_path / "photo.jpg"),
        picture(tmp_path / "sub" / "a.png"),
    ]
    jobs = plan_jobs(sources, tmp_path / "out", Settings(), suffix=".png")
    assert [job.target.name for job in jobs] == [
        "photo.png-x2-seed0.png",
        "photo.jpg-x2-seed0.png",
        "a-x2-seed0.png",
    ]
    kept = plan_jobs(sources[:2], tmp_path / "out", Settings())
    assert [job.target.suffix for job in kept] == [".png", ".jpg"]


def test_results_among_the_images_are_no_images_of_their_own(tmp_path):
    """As where a folder's results lie beside its images, and the same command is given again."""
    picture(tmp_path / "a.png"), picture(tmp_path / "a-x2-seed0.png"), picture(tmp_path / "b.png")
    sources = find_images([tmp_path])
    jobs = plan_jobs(sources, None, Settings(), suffix=".png", skip_existing=True)
    assert [(job.source.name, job.target.name, job.skip) for job in jobs] == [
        ("a-x2-seed0.png", "a-x2-seed0.png", True),
        ("a.png", "a-x2-seed0.png", True),
        ("b.png", "b-x2-seed0.png", False),
    ]
    with pytest.raises(CupscaleError, match=r"a\.png' would replace .*a-x2-seed0\.png', .* with --out"):
        plan_jobs(sources, None, Settings(), suffix=".png", overwrite=True)
    elsewhere = plan_jobs(sources, tmp_path / "out", Settings(), suffix=".png", overwrite=True)
    assert len({job.target for job in elsewhere}) == 3
    assert [job.target.name for job in plan_jobs(sources, None, Settings(), suffix=".png")] == [
        "a-x2-seed0-x2-seed0.png",
        "a-x2-seed0-2.png",
        "b-x2-seed0.png",
    ]


@pytest.mark.parametrize("stem", ["a" * 250, "写" * 85, "é" * 127])
def test_a_long_name_is_cut_to_what_a_file_system_takes(stem, tmp_path):
    name = result_name(stem, "-x4-seed7.png")
    assert len(name.encode()) <= 255 and name.endswith("-x4-seed7.png") and name.startswith(stem[:60])
    (tmp_path / name).write_text("x")


def test_folders_and_patterns(tmp_path):
    for name in ("b.png", "a.JPG", "notes.txt", "deep/c.webp", "deep/er/d.png"):
        picture(tmp_path / name) if "txt" not in name else (tmp_path / name).write_text("x")
    names = [path.name for path in find_images([tmp_path])]
    assert names == ["a.JPG", "b.png"]
    assert [p.name for p in find_images([tmp_path], recursive=True)] == ["a.JPG", "b.png", "c.webp", "d.png"]
    assert [p.name for p in find_images([tmp_path / "*.png", tmp_path / "b.png"])] == ["b.png"]  # once
    (tmp_path / "empty").mkdir()
    with pytest.raises(CupscaleError, match="no image in the folder"):
        find_images([tmp_path / "empty"])
    with pytest.raises(CupscaleError, match="no file matches"):
        find_images([tmp_path / "*.bmp"])
    odd = picture(tmp_path / "[1]*.png")
    assert find_images([odd]) == [odd]  # a path that exists is no pattern


# Many


def test_a_failed_file_does_not_stop_the_others(tmp_path, model):
    picture(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "b.png").write_text("no picture")
    picture(tmp_path / "in" / "c.png", 1)
    done = run(tmp_path / "in", "-o", tmp_path / "out", "--model", model, "--json")
    assert done.exit_code == 3
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["source"][-5:] for row in rows] == ["a.png", "b.png", "c.png"]
    assert "not an image" in rows[1]["error"] and rows[1]["path"].endswith(".png")
    assert all(Image.open(row["path"]).size == (48, 40) for row in rows[::2])
    assert "b.png" in done.stderr.strip().splitlines()[-1] and "not an image" in done.stderr
    assert len(list((tmp_path / "out").iterdir())) == 2
    again = run(tmp_path / "in", "-o", tmp_path / "out", "--model", model, "--json", "--skip-existing")
    assert [json.loads(line).get("skipped") for line in again.stdout.splitlines()] == [True, None, True]


def test_many_in_python_are_the_same_as_one_by_one(tmp_path, model):
    pipe = cupscale.load(model)
    sources = [picture(tmp_path / f"{k}.png", k) for k in range(2)]
    done = list(upscale_many(pipe, sources, tmp_path / "out", seed=5, **FAST))
    assert [one.error for one in done] == [None, None]
    for one, source in zip(done, sources, strict=True):
        alone = cupscale.upscale(pipe, source, seed=5, **FAST)
        assert Image.open(one.job.target).tobytes() == alone.image.tobytes()


def test_many_in_python_go_on_where_they_stopped(tmp_path, model):
    pipe, out = cupscale.load(model), tmp_path / "out"
    picture(tmp_path / "in" / "a.jpg"), picture(tmp_path / "in" / "deep" / "b.png", 1)
    fields = {"suffix": None, "saving": Saving(dpi=300), "recursive": True, "preset": "quick", **FAST}

    def many(**flags):
        return list(upscale_many(pipe, [tmp_path / "in"], out, **fields, **flags))

    assert [one.job.target.name for one in many()] == ["a-x2-seed0.jpg", "b-x2-seed0.png"]
    with Image.open(out / "a-x2-seed0.jpg") as image:
        assert image.format == "JPEG" and image.info["dpi"] == (300, 300)
    assert images.read_settings(out / "a-x2-seed0.jpg")["windows"] == "alternating"  # of the preset
    (out / "a-x2-seed0.jpg").write_text("mine")
    (out / "b-x2-seed0.png").unlink()
    first, second = many(skip_existing=True)
    assert first.job.skip and first.result is None and first.error is None
    assert second.result is not None and (out / "a-x2-seed0.jpg").read_text() == "mine"
    assert [one.job.target.name for one in many(overwrite=True)] == ["a-x2-seed0.jpg", "b-x2-seed0.png"]
    assert Image.open(out / "a-x2-seed0.jpg").size == (48, 40)
    assert [one.job.target.name for one in many()] == ["a-x2-seed0-2.jpg", "b-x2-seed0-2.png"]
    (flat,) = upscale_many(pipe, str(tmp_path / "in"), out, suffix=".webp", bits=16, **FAST)
    assert flat.job.source.name == "a.jpg" and "cannot hold 16 bits" in flat.error
    (deep,) = upscale_many(pipe, tmp_path / "in" / "a.jpg", out, suffix=".tif", bits=16, **FAST)
    assert deep.result.deep is not None


def test_what_many_in_python_cannot_take_is_said(tmp_path, model):
    pipe, photo = cupscale.load(model), picture(tmp_path / "a.png")
    for bad in (np.zeros((20, 20, 3), np.uint8), [photo.read_bytes()], [None], None, 7):
        with pytest.raises(CupscaleError, match=r"goes to cupscale\.upscale"):
            next(upscale_many(pipe, bad, **FAST))
    with pytest.raises(CupscaleError, match=r"the folder .* cannot be made: File exists"):
        next(upscale_many(pipe, photo, photo, **FAST))


def test_no_memory_for_one_image_does_not_stop_the_others(tmp_path, model, monkeypatch):
    sources = [picture(tmp_path / f"{k}.png", k) for k in range(2)]
    read = images.read

    def hungry(source, **options):
        if source == sources[0]:
            raise MemoryError
        return read(source, **options)

    monkeypatch.setattr("cupscale.images.read", hungry)
    first, second = upscale_many(cupscale.load(model), sources, tmp_path / "out", **FAST)
    assert "not enough memory" in first.error and second.error is None


def test_processes_share_the_work(monkeypatch):
    assert own_share(range(5)) == [0, 1, 2, 3, 4]
    shares = []
    for rank in range(2):
        monkeypatch.setenv("WORLD_SIZE", "2")

        class State:
            def __init__(self, rank=rank, **options):
                self.rank = rank

            def split_between_processes(self, items):
                import contextlib

                half = (len(items) + 1) // 2
                return contextlib.nullcontext(items[:half] if self.rank == 0 else items[half:])

            def wait_for_everyone(self):
                pass

        monkeypatch.setattr("accelerate.PartialState", State)
        shares.append(own_share(range(5)))
    assert shares[0] + shares[1] == [0, 1, 2, 3, 4]


def test_a_terminal_has_a_bar_for_all_and_one_for_each(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    screen = Terminal()
    monkeypatch.setattr("sys.stderr", screen)
    jobs = [Job(Path(f"{k}.png"), Path(f"{k}-out.png")) for k in range(3)]
    events = [event for k, job in enumerate(jobs, 1) for event in (Started(job, k, 3), Done(job, error="no"))]
    assert len(show(events, several=True, as_json=False)) == 3
    assert "2/3" in screen.getvalue() and "3 of 3: 2.png" in screen.getvalue()
    screen.truncate(0)
    show(events[:2], several=False, as_json=False)
    assert "image" not in screen.getvalue() and "region" in screen.getvalue()


@pytest.mark.slow
def test_two_processes_share_a_folder(tmp_path, model):
    """By `accelerate launch`: each result once, a failed file is named, and the same command goes on where it stopped."""
    from launching import launch

    for k in range(3):
        picture(tmp_path / "in" / f"{k}.png", k)
    (tmp_path / "in" / "bad.png").write_text("no picture")
    words = ["upscale", "in", "--model", model, "--json", *FLAGS]
    one, two = launch(0, *words, "-o", "one", cwd=tmp_path), launch(2, *words, "-o", "two", cwd=tmp_path)
    rows = [json.loads(line) for line in two.stdout.splitlines() if line.startswith("{")]
    assert sorted(Path(row["source"]).name for row in rows) == ["0.png", "1.png", "2.png", "bad.png"]
    assert one.returncode == 3 and two.returncode != 0 and "bad.png: " in two.stderr
    made = sorted(path.name for path in (tmp_path / "two").iterdir())
    assert len(made) == 3 and made == sorted(path.name for path in (tmp_path / "one").iterdir())
    assert all(
        (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes() for name in made
    )
    again = launch(2, *words, "-o", "two", "--skip-existing", cwd=tmp_path)
    rows = [json.loads(line) for line in again.stdout.splitlines() if line.startswith("{")]
    assert sum(row.get("skipped", False) for row in rows) == 3
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == made


def test_what_the_command_keeps_of_a_photograph(tmp_path, model):
    """Nothing unless it is asked for, the place where it is asked for twice; and the quality is that which was asked for."""
    exif = Image.Exif()
    exif[ExifTags.Base.Copyright] = "(c) Someone"
    exif.get_ifd(ExifTags.IFD.GPSInfo)[1] = "N"
    with Image.open(picture(tmp_path / "a.png")) as image:
        image.save(tmp_path / "a.jpg", exif=exif)
    sizes = []
    for asked in range(3):
        out = tmp_path / f"{asked}.jpg"
        kept = ["--keep-metadata"] * asked
        done = run(tmp_path / "a.jpg", "-o", out, "--model", model, f"--quality={90 - 40 * asked}", *kept)
        assert done.exit_code == 0, done.output
        with Image.open(out) as image:
            found = image.getexif()
            assert found.get(ExifTags.Base.Copyright) == ("(c) Someone" if asked else None)
            assert dict(found.get_ifd(ExifTags.IFD.GPSInfo)) == ({1: "N"} if asked == 2 else {})
            sizes.append(sum(image.quantization[0]))
    assert sizes[0] < sizes[1] < sizes[2]  # coarser


def test_the_command_keeps_the_profile_where_it_is_asked(tmp_path, model):
    """The plain result in the input's space, by LittleCMS."""
    photo, profile = tmp_path / "photo.png", adobe_profile()
    with Image.open(picture(tmp_path / "plain.png")) as image:
        image.save(photo, icc_profile=profile)
    made = []
    for flags in ([], ["--keep-profile"]):
        out = tmp_path / f"{len(flags)}.png"
        assert run(photo, "-o", out, "--model", model, *flags).exit_code == 0
        with Image.open(out) as image:
            assert image.info.get("icc_profile") == (profile if flags else None)
            made.append(image.convert("RGB"))
    wanted = np.asarray(in_profile(made[0], profile)).astype(int)
    assert np.abs(wanted - np.asarray(made[1])).max() <= 1
    assert np.abs(wanted - np.asarray(made[0])).max() > 20


# Sizes


@pytest.mark.parametrize(
    ("target", "size", "output"),
    [
        (Target(width=1920), (640, 427), (1920, 1281)),
        (Target(height=1000), (300, 400), (750, 1000)),
        (Target(megapixels=2), (1000, 500), (2000, 1000)),
        (Target(fit=(3840, 2160)), (1000, 1000), (2160, 2160)),
        (Target(cover=(3840, 2160)), (1000, 1000), (3840, 3840)),
        (Target(long_side=4096), (1024, 768), (4096, 3072)),
        (Target(width=1001), (333, 77), (1001, 231)),
        (Target(width=3200), (200, 100), (3200, 1600)),  # 16 times, and once: both are in reach
        (Target(height=100), (200, 100), (200, 100)),
    ],
)
def test_a_target_is_reached_exactly(target, size, output):
    assert output_size(size, target.scale(size)) == output


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (Target(width=100), "scale of 0.5.* 200 x 100 reaches 200 x 100 to 3200 x 1600"),
        (Target(width=3201), "scale of 16"),
        (Target(), "one target size"),
        (Target(width=400, height=300), "one target size"),
    ],
)
def test_a_target_out_of_reach_says_what_is_in_it(target, words):
    with pytest.raises(CupscaleError, match=words):
        target.scale((200, 100))


@pytest.mark.parametrize(
    ("given", "target"),
    [
        ({"width": 1920}, Target(width=1920)),
        ({"height": "1000"}, Target(height=1000)),
        ({"megapixels": "2.5"}, Target(megapixels=2.5)),
        ({"fit": "3840x2160"}, Target(fit=(3840, 2160))),
        ({"fit": [640, 480]}, Target(fit=(640, 480))),
        ({"to": "4k"}, Target(long_side=4096)),
        ({"to": "8K", "width": None, "fit": ""}, Target(long_side=8192)),
        ({"width": None}, None),
    ],
)
def test_a_size_as_people_name_it(given, target):
    fields = {**given, "seed": 4}
    assert take_target(fields) == target and fields == {"seed": 4}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"width": 0}, r"width is '0': give a number from 1 to"),
        ({"width": 2.5}, "whole pixels"),
        ({"height": "tall"}, "height is 'tall'"),
        ({"megapixels": math.inf}, "megapixels is 'inf': give a number from 0.001 to 1000"),
        ({"megapixels": True}, "megapixels is 'True'"),
        ({"fit": "3840"}, "WIDTHxHEIGHT, such as 3840x2160"),
        ({"fit": "9x9x9"}, "WIDTHxHEIGHT"),
        ({"fit": "1.5x9"}, "WIDTHxHEIGHT"),
        ({"fit": 7}, "WIDTHxHEIGHT"),
        ({"to": "5k"}, "choose 4k or 8k"),
        ({"width": 9, "to": "4k"}, "width and to are given: give one of"),
        ({"width": 9, "scale": 2}, "a scale and a size are given"),
    ],
)
def test_a_size_that_is_none_is_refused_in_words(given, words):
    with pytest.raises(CupscaleError, match=words):
        take_target(given)


def test_a_size_in_python_is_that_of_the_command(tmp_path, model):
    """24 x 20 to a width of 60: a scale of 2.5, whose cutoff it takes; captions of the same size have regions of the same."""
    pipe, photo = cupscale.load(model), picture(tmp_path / "photo.png")
    result = cupscale.upscale(pipe, photo, width=60, **FAST)
    assert result.image.size == (60, 50) and result.settings.scale == 2.5
    assert result.settings.cutoff == pytest.approx(0.8 / 2.5, abs=1e-4)
    kept = cupscale.upscale(pipe, photo, cupscale.Settings.build(FAST, cutoff=0.7), fit="60x60")
    assert kept.image.size == (60, 50) and kept.settings.cutoff == 0.7
    done = cupscale.caption(pipe, photo, "appearance", width=60)
    assert max(caption.box[2] for caption in done.captions) == 60
    (one,) = upscale_many(pipe, [photo], tmp_path / "out", width=60, **FAST)
    assert one.result.image.size == (60, 50)
    with pytest.raises(
        CupscaleError, match=r"that width needs a scale of 0\.833, and the limits are 1 and 16"
    ):
        cupscale.upscale(pipe, photo, width=20)
    with pytest.raises(CupscaleError, match="a scale and a size are given"):
        cupscale.upscale(pipe, photo, width=60, scale=2)


def test_a_size_on_the_command_line(tmp_path, model):
    photo = picture(tmp_path / "photo.png")
    assert run(photo, "--model", model, "--width", 60).exit_code == 0
    out = tmp_path / "photo-width60-seed0.png"
    assert Image.open(out).size == (60, 50)
    assert images.read_settings(out)["cutoff"] == pytest.approx(0.8 / 2.5, abs=1e-4)  # it follows the scale
    done = run(photo, "--model", model, "--fit", "60x60", "--plan")
    assert "60 x 50" in done.stdout
    for bad in (
        ["--width", 60, "--scale", 2],
        ["--fit", "60"],
        ["--fit", "0x9"],
        ["--width", 60, "--to", "4k"],
    ):
        done = run(photo, "--model", model, *bad)
        assert done.exit_code == 2 and "Traceback" not in done.output


def test_settings_from_a_result(tmp_path, model):
    photo = picture(tmp_path / "photo.png")
    first = tmp_path / "first.png"
    assert run(photo, "-o", first, "--model", model, "--seed=9", "--scale=2.5").exit_code == 0
    bare = [
        "upscale",
        str(photo),
        "-o",
        str(tmp_path / "again.png"),
        "--settings",
        str(first),
        "--device=cpu",
    ]
    assert CliRunner().invoke(main, bare).exit_code == 0
    assert Image.open(first).tobytes() == Image.open(tmp_path / "again.png").tobytes()
    done = CliRunner().invoke(main, ["upscale", str(photo), "--settings", str(photo)])
    assert done.exit_code == 2 and "holds none" in done.stderr


def test_a_folder_that_cannot_be_made(tmp_path, model):
    sources = [picture(tmp_path / f"{k}.png", k) for k in range(2)]
    (tmp_path / "file").write_text("x")
    done = run(*sources, "-o", tmp_path / "file" / "out", "--model", model)
    assert done.exit_code == 2 and len(done.stderr.strip().splitlines()) == 1
    assert not os.path.exists(tmp_path / "file" / "out")
