"""The table of what a card holds."""

import pytest

from benchmarks import cards
from cupscale import models, offload


@pytest.mark.parametrize(
    "name", ["sdxl", "pixart-sigma", "z-image", "sd35-medium", "sd35-large", "flux2-klein-base", "qwen-image"]
)
def test_the_known_weights_are_those_of_the_networks(name):
    size = offload.weights_there(cards.pipeline(name), "none")
    assert size == pytest.approx(models.KNOWN[name].geometry.weights, rel=0.02)


def test_a_cell_is_the_fastest_way_that_fits():
    pipe, geometry = cards.pipeline("sd15"), models.KNOWN["sd15"].geometry
    work = models.work_bytes(geometry, 4096)
    for way in ("none", "model", "group"):  # sequential needs no less than group
        needed = offload.weights_there(pipe, way) + work
        assert cards.cell(pipe, geometry, 4096, needed) == f"{way}, {needed / 1e9:.1f} GB"
    assert cards.cell(pipe, geometry, 4096, needed - 1) == "-"
