"""Moving pictures: every frame, its time, and the settings of the first for all; refusals before a run."""

import io
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from cupscale import animation, images
from cupscale.animation import check_film, read_film, run_film
from cupscale.batch import Done, Started
from cupscale.cli import main
from cupscale.errors import CupscaleError
from cupscale.events import Finished, Result
from cupscale.files import Job
from cupscale.method.sampler import Notice
from cupscale.planning import Geometry, make_plan
from cupscale.settings import Settings

COLOURS = [(250, 10, 20), (10, 240, 30), (20, 30, 230)]


class Pipeline:
    """Enlarges plainly, and finds a prompt of its own for what has none."""

    bits = 8

    def __init__(self):
        self.asked = []

    def stream(self, picture, settings, captioning=None):
        self.asked.append((settings, captioning))
        yield Notice("once")
        chosen = settings if settings.prompt else settings.replace(prompt=f"found {len(self.asked)}")
        large = images.resize(picture, (picture.size[0] * 2, picture.size[1] * 2))
        plan = make_plan(picture.size, chosen, Geometry(native=64, cell=2, align=2))
        yield Finished(Result(images.finish(large.rgb, large.alpha), chosen, plan, 0.1))


def film(path: Path, alpha: bool = False, count: int = 3) -> Path:
    frames = [Image.new("RGBA" if alpha else "RGB", (24, 18), colour) for colour in COLOURS[:count]]
    for frame in frames * alpha:
        frame.paste((0, 0, 0, 0), (0, 0, 12, 18))
        frame.paste((0, 0, 0, 0), (12, 0, 24, 3))  # no rectangle is opaque
    kind = animation.KINDS[path.suffix]
    options = {"disposal": 2} if kind == "GIF" else {"lossless": True} if kind == "WEBP" else {}
    frames[0].save(
        path, kind, save_all=True, append_images=frames[1:], duration=[40, 80, 120][:count], loop=3, **options
    )
    return path


@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize("suffix", [".gif", ".png", ".webp"])
def test_all_frames_come_back_with_their_times(tmp_path, suffix, alpha):
    source = read_film(film(tmp_path / f"a{suffix}", alpha))
    assert len(source.frames) == 3 and list(source.durations) == [40, 80, 120] and source.loop == 3
    pipeline, target = Pipeline(), tmp_path / f"b{suffix}"
    job = Job(tmp_path / f"a{suffix}", target)
    events = list(run_film(pipeline, source, job, Settings(seed=9), captioning="someone"))
    assert [event.number for event in events if isinstance(event, Started)] == [1, 2, 3]
    assert sum(isinstance(event, Notice) for event in events) == 1
    assert isinstance(events[-1], Done) and events[-1].result.settings.prompt == "found 1"
    assert [settings.prompt for settings, _ in pipeline.asked] == ["", "found 1", "found 1"]
    assert {settings.seed for settings, _ in pipeline.asked} == {9}
    assert [writer for _, writer in pipeline.asked] == ["someone", None, None]
    again = read_film(target)
    assert list(again.durations) == [40, 80, 120] and again.loop == 3
    for picture, colour in zip(again.frames, COLOURS, strict=True):
        assert picture.size == (48, 36) and (picture.alpha is not None) == alpha
        assert np.abs(np.subtract(picture.rgb.getpixel((40, 20)), colour)).max() <= 12
        if alpha:
            assert picture.alpha.getpixel((5, 5)) == 0 and picture.alpha.getpixel((40, 20)) == 255
    if suffix == ".webp":
        assert bool(target.read_bytes()[20] & 0x10) == alpha  # the flag of VP8X
    if suffix == ".gif" and alpha:
        with Image.open(target) as written:
            assert written.disposal_method == 2  # or what is transparent shows the frame before
    if suffix != ".gif":
        assert images.read_settings(target)["prompt"] == "found 1"


@pytest.mark.parametrize("suffix", [".gif", ".png", ".webp"])
def test_a_film_that_is_shown_once_stays_so(tmp_path, suffix):
    """A GIF without a count of its loops is shown once."""
    frames = [Image.new("RGB", (24, 18), colour) for colour in COLOURS[:2]]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=[40, 80])
    source = read_film(tmp_path / "a.gif")
    assert source.loop is None
    target = tmp_path / f"b{suffix}"
    list(run_film(Pipeline(), source, Job(tmp_path / "a.gif", target), Settings()))
    assert read_film(target).loop == (None if suffix == ".gif" else 1)


def test_refusals_before_a_run(tmp_path, monkeypatch):
    three = read_film(film(tmp_path / "a.gif"))
    with pytest.raises(CupscaleError, match=r"one frame"):
        check_film(read_film(film(tmp_path / "one.gif", count=1)), tmp_path / "b.gif", 2, 8)
    with pytest.raises(CupscaleError, match=r"\.gif, \.png \(APNG\) or \.webp"):
        check_film(three, tmp_path / "b.jpg", 2, 8)
    with pytest.raises(CupscaleError, match=r"8 bits"):
        check_film(three, tmp_path / "b.png", 2, 16)
    monkeypatch.setattr(animation, "MAX_FILM_PX", 24 * 18 * 4 * 3 - 1)
    with pytest.raises(CupscaleError, match=r"3 frames of 48 x 36 .* smaller scale"):
        check_film(three, tmp_path / "b.png", 2, 8)
    monkeypatch.setattr(animation, "MAX_FILM_PX", 24 * 18 * 2)
    with pytest.raises(CupscaleError, match=r"more than 2 frames of 24 x 18, the limit"):
        read_film(tmp_path / "a.gif")
    monkeypatch.undo()
    monkeypatch.setattr(animation, "MAX_FRAMES", 2)
    with pytest.raises(CupscaleError, match=r"more than 2 frames"):
        read_film(tmp_path / "a.gif")


def test_a_film_for_a_folder_that_is_not_there_is_refused_before_the_model_loads(tmp_path, monkeypatch):
    source, target = film(tmp_path / "a.gif"), tmp_path / "none" / "b.gif"
    monkeypatch.setattr("cupscale.models.load", lambda *_, **__: pytest.fail("a model was loaded"))
    done = CliRunner().invoke(
        main, ["upscale", str(source), "-o", str(target), "--frames", "--captioner=none"]
    )
    assert done.exit_code == 2 and "does not exist; make it first" in done.stderr


def test_a_film_is_not_replaced_by_accident_and_no_flag_is_left_out_silently(tmp_path, monkeypatch):
    source, target = film(tmp_path / "a.gif"), tmp_path / "b.gif"
    target.write_text("mine")
    monkeypatch.setattr("cupscale.models.load", lambda *_, **__: pytest.fail("a model was loaded"))

    def run(*arguments, given=None):
        words = ["upscale", *map(str, arguments), "--frames", "--captioner=none"]
        return CliRunner().invoke(main, words, input=given)

    done = run(source, "-o", target, "--skip-existing")
    assert done.exit_code == 0 and "there already" in done.stdout and target.read_text() == "mine"
    done = run(source, "-o", target)
    assert done.exit_code == 2 and "--overwrite" in done.stderr and target.read_text() == "mine"
    done = run(source, "-o", tmp_path / "c.gif", "--mask", source)
    assert done.exit_code == 2 and "not to --frames" in done.stderr
    nowhere = tmp_path / "none" / "c.gif"  # which is seen after the film is read
    done = run("-", "-o", nowhere, given=source.read_bytes())
    assert done.exit_code == 2 and "make it first" in done.stderr


def test_a_film_that_ends_early_is_refused_in_words(tmp_path):
    whole = film(tmp_path / "a.gif").read_bytes()
    for share in (0.3, 0.6, 0.9):
        (tmp_path / "b.gif").write_bytes(whole[: int(len(whole) * share)])
        try:
            read_film(tmp_path / "b.gif")
        except CupscaleError as error:
            assert "\n" not in str(error)
    with pytest.raises(CupscaleError):
        read_film(tmp_path / "none.gif")
    buffer = io.BytesIO()
    Image.new("RGB", (20, 20)).save(buffer, "JPEG")
    (tmp_path / "c.gif").write_bytes(buffer.getvalue())
    with pytest.raises(CupscaleError, match=r"GIF, APNG or WebP"):
        read_film(tmp_path / "c.gif")


def test_the_command_enlarges_a_film_with_the_bundled_model(tmp_path):
    """A square that appears in the second of two frames: it is there in the second alone, and the rest stays as it was."""
    y, x = np.mgrid[0:24, 0:32]
    first = np.stack([(x // 8) * 60, (y // 8) * 90, np.full_like(x, 90)], -1).astype(np.uint8)
    second = first.copy()
    second[8:16, 20:28] = (230, 40, 30)
    frames = [Image.fromarray(frame) for frame in (first, second)]
    source, target = tmp_path / "film.gif", tmp_path / "large.png"
    frames[0].save(source, save_all=True, append_images=frames[1:], duration=[80, 120], loop=0)
    flags = "--frames --device=cpu --scale=2 --seed=5 --captioner=none --upscaler=lanczos --fidelity=0.5"
    done = CliRunner().invoke(main, ["upscale", str(source), "-o", str(target), *flags.split()])
    assert done.exit_code == 0, done.output
    large = read_film(target)
    assert list(large.durations) == [80, 120] and large.frames[0].size == (64, 48)
    inside = images.read_settings(target)
    assert (inside["model"], inside["seed"], inside["upscaler"]) == ("tiny", 5, "lanczos")
    made = [np.asarray(frame.rgb).astype(int) for frame in large.frames]
    for frame, given in zip(made, (first, second), strict=True):
        small = frame.reshape(24, 2, 32, 2, 3).mean(axis=(1, 3))
        assert np.abs(small - given).mean() < 6
    still = np.abs(made[0] - made[1])[:, :24]  # 16 px away from the square
    assert still.mean() < 2 and np.abs(made[0] - made[1])[20:28, 44:52].mean() > 50
