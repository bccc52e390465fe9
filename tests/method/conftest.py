"""Random checkpoints of the real classes, made once a session and loaded anew for each test."""

import pytest
from checkpoints import make_pixart, make_sd3, make_sd15, make_sdxl, make_zimage

import cupscale

MAKE = {
    "sd15": make_sd15,
    "sdxl": make_sdxl,
    "pixart": make_pixart,
    "sd3": make_sd3,
    "z-image": make_zimage,
}


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    made = {}

    def folder(name):
        if name not in made:
            made[name] = MAKE[name](tmp_path_factory.mktemp(name))
        return str(made[name])

    return folder


@pytest.fixture
def load(folders):
    return lambda name: cupscale.load(folders(name), device="cpu")
