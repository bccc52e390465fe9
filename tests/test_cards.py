"""The table of what a card holds."""

from pathlib import Path

import pytest

from benchmarks import cards
from cupscale import models, offload
from cupscale.method.memory import module_bytes

ROWS = {
    cells[0]: cells[1:]
    for cells in (
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8").splitlines()
    )
    if len(cells) == 6
}


@pytest.mark.parametrize("name", list(cards.PARTS))
def test_the_known_weights_and_the_readmes_row_are_those_of_the_networks(name):
    pipe, known = cards.pipeline(name), models.KNOWN[name]
    size = offload.weights_there(pipe, "none")
    checker = (
        608_000_000 if name == "sd15" else 0
    )  # bytes of its safety checker, which is no part of a card's table
    assert size + checker == pytest.approx(known.geometry.weights, rel=0.02)
    cells = [
        cards.cell(pipe, known.geometry, 4096, card * 10**9 - cards.SYSTEM_BYTES) for card in cards.CARDS_GB
    ]
    assert ROWS[name.removesuffix("-base")] == [f"{size / 1e9:.1f} GB", *cells]


def test_a_table_that_lies_on_the_device_counts():
    """SD3.5 medium's positions, 384 x 384 of 1,536 numbers, are no parameters: with them it has its makers' 2.5 billion."""
    network = cards.pipeline("sd35-medium").components["4"]
    table = 384 * 384 * 1536
    assert sum(p.numel() for p in network.parameters()) == 2_243_171_520
    assert module_bytes(network) == 2 * (2_243_171_520 + table) == 2 * 2_469_663_936
    assert module_bytes(network.pos_embed, recurse=False) == 2 * table


@pytest.mark.parametrize("name", list(cards.PARTS))
def test_a_networks_size_is_its_makers_figure(name):
    """As far as its digits go: SD3 medium's has one."""
    billions = cards.PUBLIC[name][0]
    _, whole = cards.sizes(name)
    assert (
        round(whole / 1e9) == billions if name == "sd3" else whole == pytest.approx(billions * 1e9, rel=0.03)
    )


def test_a_cell_is_the_fastest_way_that_fits():
    pipe, geometry = cards.pipeline("sd15"), models.KNOWN["sd15"].geometry
    work = models.work_bytes(geometry, 4096)
    for way in ("none", "model", "group"):  # sequential needs no less than group
        needed = offload.weights_there(pipe, way) + work
        assert cards.cell(pipe, geometry, 4096, needed) == f"{way}, {needed / 1e9:.1f} GB"
    assert cards.cell(pipe, geometry, 4096, needed - 1) == "-"
