"""One thread a process: the checkpoints are tiny, and the test processes share the cores."""

import os
import signal

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"  # nothing in the tests may look for a network
os.environ["CUPSCALE_CAPTIONER"] = (
    "none"  # what "auto" takes; who writes by itself is for tests/test_automatic.py
)

import torch

torch.set_num_threads(1)

# A shell that starts the tests in the background lets them ignore Ctrl+C, and so would all that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def own_environment():
    """What a test, or a page that it builds, sets in the environment goes with the test."""
    before = dict(os.environ)
    yield
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    os.environ.update({name: value for name, value in before.items() if os.environ.get(name) != value})


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """What runs remember (their speed, answers of captioners) stays in the test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """A family's name to the folder of its small random checkpoint, made once a session."""
    from checkpoints import FAMILIES

    made = {}

    def folder(name):
        if name not in made:
            made[name] = FAMILIES[name](tmp_path_factory.mktemp(name))
        return str(made[name])

    return folder


@pytest.fixture
def load(folders):
    """The same to the checkpoint, loaded anew for each test."""
    import cupscale

    return lambda name: cupscale.load(folders(name), device="cpu")
