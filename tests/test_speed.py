"""The estimate of a run's time, on recorded runs: seconds of CPU time of one thread of an AMD EPYC, so that what else a machine
does is not in them."""

import json
from pathlib import Path

import pytest

from cupscale import machine, models
from cupscale.planning import Geometry, make_plan
from cupscale.run_plan import plan_run
from cupscale.settings import Settings
from cupscale.speed import Run, Speed, fitted, guessed

RECORDED = json.loads(Path(__file__).with_name("recorded_runs.json").read_text())
RUNS = [Run.read(one["run"]) for one in RECORDED]
GUESS = guessed(models.KNOWN["tiny"].tflop, "cpu", cores=1, exact_codec=True)


def settings(one):
    usual = models.defaults("tiny")
    return Settings.build(usual, one["settings"], seed=1)


@pytest.fixture
def one_core(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 1)


@pytest.mark.parametrize("k", range(len(RECORDED)))
def test_the_shipped_guess_is_within_a_factor_of_two(k, one_core):
    one = RECORDED[k]
    plan = plan_run(tuple(one["size"]), settings(one), models.KNOWN["tiny"].geometry, "tiny", "cpu")
    assert plan.guessed and "a guess" in plan.line()
    assert RUNS[k].seconds / 2 <= plan.seconds <= RUNS[k].seconds * 2


@pytest.mark.parametrize("k", range(3, len(RECORDED)))
def test_after_three_runs_it_is_within_a_fifth(k, one_core):
    """Each run as planned after those before it, kept and read back as a run keeps them."""
    for run in RUNS[:k]:
        machine.remember_run("tiny", "cpu", "float32 none", run)
    one = RECORDED[k]
    plan = plan_run(tuple(one["size"]), settings(one), models.KNOWN["tiny"].geometry, "tiny", "cpu")
    assert not plan.guessed and plan.lead().endswith(" here")
    assert plan.seconds == pytest.approx(RUNS[k].seconds, rel=0.2, abs=0.1)


def test_a_slow_first_run_is_forgotten():
    """The first one takes three times as long."""
    slow = Run(
        *(
            getattr(RUNS[0], name) * (3 if name in ("network", "rest") else 1)
            for name in Run.__dataclass_fields__
        )
    )
    after = fitted([slow, *RUNS[1:4]], GUESS)
    assert after.sample == pytest.approx(fitted(RUNS[:4], GUESS).sample, rel=0.2)


def test_what_made_the_runs_is_found():
    """By hand: 2 s fixed, 50 s a megapixel in, 0.25 s a sample, 4 s a megapixel out; another guess leaves them within 5%."""
    true = Speed(2.0, 50.0, 0.25, 4.0)
    sizes = [(0.1, 30, 1.5), (0.0, 60, 0.4), (0.25, 12, 4.0), (0.02, 400, 9.0), (0.4, 5, 0.1)]
    runs = [Run(i, n, o, i * true.input, n * true.sample, true.fixed + o * true.output) for i, n, o in sizes]
    found = fitted(runs, Speed(1.0, 30.0, 0.4, 6.0))
    for name in ("fixed", "input", "sample", "output"):
        assert getattr(found, name) == pytest.approx(getattr(true, name), rel=0.05), name
    assert found.seconds(0.2, 40, 2.0) == pytest.approx(2 + 10 + 10 + 8, rel=0.05)


def test_without_a_guess_one_run_tells_its_own_time():
    run = Run(0.1, 20, 2.0, 30.0, 10.0, 4.0)
    assert fitted([run], None).seconds(0.1, 20, 2.0) == pytest.approx(44.0, rel=0.1)


def test_the_guess_by_hand():
    """SDXL on a T4 at 26e12 a second: 6.76 / 26 = 0.26 s a sample; on an unknown card at 20e12."""
    assert guessed(6.76, "Tesla T4", 8).sample == pytest.approx(0.26)
    assert guessed(6.76, "NVIDIA L40S", 8).sample == pytest.approx(6.76 / 72)
    assert guessed(6.76, "NVIDIA A100-SXM4-80GB", 8).sample == pytest.approx(6.76 / 125)
    assert guessed(6.76, "NVIDIA A10G", 8).sample == pytest.approx(6.76 / 28)
    assert guessed(6.76, "some card", 8).sample == pytest.approx(0.338)
    assert guessed(0.6, "cpu", 5).sample == pytest.approx(2.0)


def test_the_plan_adds_what_is_fixed_and_what_the_base_upscaler_takes():
    """96 x 64 px doubled: 65 samples of windows of native size (test_planning has the count), 0.006144 megapixels in."""
    fields = {"scale": 2, "overlap": 0, "steps": 10, "strength": 0.5, "guidance": 3, "attention": 0.5}
    speed = {"fixed": 3.0, "input": 1000.0, "sample": 0.2, "megapixel": 100.0}
    geometry = Geometry(native=64, cell=8, align=8)
    plain = make_plan((96, 64), Settings.build(fields), geometry, speed)
    assert plain.seconds == pytest.approx(3 + 65 * 0.2 + 2.4576, abs=0.06)
    by_network = make_plan((96, 64), Settings.build(fields, upscaler="realsr"), geometry, speed)
    assert by_network.seconds == pytest.approx(plain.seconds + 6.144, abs=0.06)


def test_runs_are_kept_by_device_precision_and_offload(monkeypatch):
    monkeypatch.setattr(machine, "device_name", lambda device: f"card of {device}")
    one, other = RUNS[0], RUNS[1]
    machine.remember_run("sdxl", "cuda", "float16 none", one)
    machine.remember_run("sdxl", "cuda", "float16 model", other)
    assert machine.known_runs("sdxl", "cuda", "float16 none") == [one]
    assert machine.known_runs("sdxl", "cuda") == [other]  # the way it ran last
    assert machine.known_runs("sdxl", "cpu") == machine.known_runs("sd", "cuda") == []
    for _ in range(12):
        machine.remember_run("sdxl", "cuda", "float16 none", other)
    assert machine.known_runs("sdxl", "cuda", "float16 none") == [other] * 10


@pytest.mark.parametrize(
    "data", [None, {}, {"input": 1}, RUNS[0].to_dict() | {"rest": -1}, RUNS[0].to_dict() | {"samples": "1"}]
)
def test_a_run_of_nonsense_is_none(data):
    assert Run.read(data) is None
