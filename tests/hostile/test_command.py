"""The command under faults of the machine: one line, a status to act on, no traceback, no half-written file."""

import ctypes
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from PIL import Image

from cupscale.cli import OneLine
from cupscale.errors import NO_MEMORY

ROOT = Path(__file__).resolve().parents[2]
QUICK = [
    "--steps=1",
    "--strength=0.1",
    "--guidance=1",
    "--upscaler=lanczos",
    "--attention=0",
    "--structure=0",
    "--device=cpu",
]
GIGA = 2**30


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    Image.linear_gradient("L").resize((32, 24)).convert("RGB").save(path)
    return path


def command(*arguments, **options):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"} | options.pop("env", {})
    return subprocess.Popen(
        [sys.executable, "-m", "cupscale", *map(str, arguments)],
        text=True,
        env=environment,
        stdin=subprocess.DEVNULL,
        **({"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options),
    )


def ended(process):
    out, err = process.communicate(timeout=300)
    assert "Traceback" not in (out or "") + (err or ""), err
    return process.returncode, out or "", err or ""


def limited(kind, value):
    return lambda: resource.setrlimit(kind, (value, value))


def test_a_full_stdout_is_said(photo, tmp_path):
    with open("/dev/full", "w") as full:
        process = command("models", stdout=full)
        status, _, err = ended(process)
    assert status == 2 and len(err.strip().splitlines()) == 1 and "No space left" in err


def test_a_reader_that_goes_is_no_fault():
    process = command("models")
    process.stdout.close()
    process.stdout = None
    status, _, err = ended(process)
    assert status in (0, 2) and "Traceback" not in err


def test_no_home_and_no_entry_for_the_user(photo, tmp_path):
    """As in a container with --user: a run works, and nothing is kept."""
    out = tmp_path / "out.png"
    environment = {name: "" for name in ("HOME", "XDG_CACHE_HOME", "USER", "LOGNAME")}
    code = (
        "import pwd\n"
        "def none(*_): raise KeyError('no entry')\n"
        "pwd.getpwuid = none\n"
        "import os; [os.environ.pop(n, None) for n in ('HOME', 'XDG_CACHE_HOME', 'USER', 'LOGNAME')]\n"
        "import cupscale.machine; assert cupscale.machine.cache_folder() is None\n"
        f"from cupscale.cli import main; main({['upscale', str(photo), '-o', str(out), *QUICK]!r})"
    )
    environment |= {"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"], "HF_HOME": str(tmp_path / "hf")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert Image.open(out).size == (64, 48)


def test_thirty_open_files_are_enough(photo, tmp_path):
    out = tmp_path / "out.png"
    process = command("upscale", photo, "-o", out, *QUICK, preexec_fn=limited(resource.RLIMIT_NOFILE, 30))
    status, _, err = ended(process)
    assert status == 0 or (status == 2 and len(err.strip().splitlines()) == 1), err
    assert not list(tmp_path.glob(".cupscale-*"))


def test_too_little_address_space_is_one_line(photo, tmp_path):
    arguments = ["upscale", photo, "-o", tmp_path / "out.png", "--scale=16", *QUICK]
    process = command(*arguments, preexec_fn=limited(resource.RLIMIT_AS, 3 * GIGA))
    status, _, err = ended(process)
    assert status in (0, 2)
    assert status == 0 or "memory" in err


@pytest.mark.slow
def test_a_disk_that_is_full_in_the_end_is_one_line_and_nothing_half(photo, tmp_path):
    """No file grows beyond 3,000 bytes: as where there is room for the notes of a run, and not for its picture."""
    Image.effect_noise((64, 48), 90).convert("RGB").save(photo)
    out, cache = tmp_path / "out.png", tmp_path / "cache"
    full = limited(resource.RLIMIT_FSIZE, 3000)
    status, _, err = ended(
        command("upscale", photo, "-o", out, *QUICK, preexec_fn=full, env={"XDG_CACHE_HOME": str(cache)})
    )
    assert status == 2
    assert err.strip().splitlines()[-1] == (
        f"cupscale: {str(out)!r} does not fit, the disk is full; free some space or choose another folder"
    )
    assert [path.name for path in tmp_path.iterdir() if path != cache] == [photo.name]


@pytest.mark.parametrize("kind", ["a folder that is none", "a device"])
def test_an_output_that_cannot_be_is_said_before_the_run(kind, photo, tmp_path):
    out = {"a folder that is none": tmp_path / "no" / "out.png", "a device": Path("/dev/full/out.png")}[kind]
    status, _, err = ended(command("upscale", photo, "-o", out, *QUICK))
    assert status == 2 and len(err.strip().splitlines()) == 1


def test_the_name_of_a_settings_file_may_be_a_device(photo):
    status, _, err = ended(command("upscale", photo, "--settings", "/dev/zero", *QUICK))
    assert status == 2 and "not a regular file" in err


def started(photo, out, *more):
    """A run that has begun to paint."""
    process = command(
        "upscale", photo, "-o", out, "--scale=8", "--steps=200", "--strength=1", *QUICK[2:], *more
    )
    for line in process.stderr:
        if "regions" in line or "region" in line:
            return process
    raise AssertionError("the run did not begin")


def test_ctrl_c_ends_with_130_and_leaves_nothing(photo, tmp_path):
    out = tmp_path / "out.png"
    process = started(photo, out)
    process.send_signal(signal.SIGINT)
    status, _, _ = ended(process)
    assert status == 130
    assert not out.exists() and not list(tmp_path.glob(".cupscale-*"))


def test_a_kill_leaves_no_half_result(photo, tmp_path):
    out = tmp_path / "out.png"
    process = started(photo, out)
    process.kill()
    process.wait(timeout=60)
    assert not out.exists()


def obeying():
    """For a process that begins: permissions hold for it, for root's too."""
    PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 24, 1, 2
    libc = ctypes.CDLL(None)
    for capability in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH):
        libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)


@pytest.fixture
def read_only(tmp_path):
    """A copy of the package and a home that nothing may be written into."""
    site, home = tmp_path / "site", tmp_path / "home"
    shutil.copytree(ROOT / "cupscale", site / "cupscale", ignore=shutil.ignore_patterns("__pycache__"))
    home.mkdir()
    folders = [home, site, *(path for path in site.rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    yield site, home
    for folder in folders:
        folder.chmod(0o755)


@pytest.mark.skipif(sys.platform != "linux", reason="root's rights are dropped with prctl")
def test_a_read_only_installation_and_home_are_enough(read_only, photo, tmp_path):
    site, home = read_only
    probe = [sys.executable, "-c", f"open({str(site / 'cupscale' / 'x')!r}, 'w')"]
    tried = subprocess.run(probe, preexec_fn=obeying, capture_output=True, text=True, check=False)
    assert "PermissionError" in tried.stderr
    results = tmp_path / "results"
    results.mkdir()
    environment = {"PYTHONPATH": str(site), "HOME": str(home), "XDG_CACHE_HOME": "", "HF_HOME": ""}
    where = {"env": environment, "cwd": results, "preexec_fn": obeying}
    status, _, err = ended(command("upscale", photo, "-o", "out.png", *QUICK, **where))
    assert status == 0, err
    assert Image.open(results / "out.png").size == (64, 48)
    assert not list(home.iterdir()) and not list(site.rglob("__pycache__"))
    results.chmod(0o555)
    status, _, err = ended(command("upscale", photo, "-o", "more.png", *QUICK, **where))
    results.chmod(0o755)
    assert status == 2 and len(err.strip().splitlines()) == 1 and "more.png" in err


@pytest.mark.slow
def test_six_runs_at_once_share_a_cache(photo, tmp_path):
    environment = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    outs = [tmp_path / f"{k}.png" for k in range(6)]
    processes = [command("upscale", photo, "-o", out, *QUICK, env=environment) for out in outs]
    for process in processes:
        status, _, err = ended(process)
        assert status == 0, err
    assert len({Image.open(out).tobytes() for out in outs}) == 1
    from cupscale.bounded import read_object

    assert read_object(tmp_path / "cache" / "cupscale" / "speed.json", "speed")


def test_no_memory_is_one_line_wherever_it_ends():
    @click.command()
    def broken():
        raise MemoryError

    told = CliRunner().invoke(OneLine(commands={"broken": broken}), ["broken"])
    assert told.exit_code == 2 and NO_MEMORY in told.output and "Traceback" not in told.output


PRINTS = """
import click
from cupscale.cli import OneLine

@click.command()
def told():
    print("what the buffer holds to the end")

OneLine(commands={"told": told})(["told"])
"""


def test_what_a_full_stdout_holds_back_is_said_too():
    with open("/dev/full", "w") as full:
        ended = subprocess.run(
            [sys.executable, "-c", PRINTS],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": ""},
            check=False,
        )
    assert ended.returncode == 2 and "no space" in ended.stderr.lower() and "Traceback" not in ended.stderr
    assert len(ended.stderr.strip().splitlines()) <= 4
