"""Captions as data: files, and the regions they belong to."""

import json

import pytest

from cupscale.captions import captions_file, carried, match, read_captions
from cupscale.errors import CupscaleError
from cupscale.settings import Caption

BOXES = [(0, 0, 100, 100), (50, 0, 150, 100), (100, 0, 200, 100)]


def test_captions_find_their_regions_and_the_rest_is_reported():
    captions = [Caption(box=BOXES[2], caption="c"), Caption(box=(48, 2, 150, 98), caption="b")]
    matched = match(captions, BOXES, (200, 100))
    assert matched.texts == (None, "b", "c")
    assert matched.missing == (0,) and matched.extra == ()
    assert "1 of 3 regions" in (matched.report() or "")


def test_captions_that_no_region_takes_are_named():
    matched = match([Caption(box=(0, 0, 20, 20), caption="x")], BOXES, (200, 100))
    assert len(matched.extra) == 1 and matched.texts == (None,) * 3


def test_a_caption_outside_the_output_is_refused():
    with pytest.raises(CupscaleError, match="does not exist"):
        match([Caption(box=(150, 0, 250, 100), caption="x")], BOXES, (200, 100))


def test_a_captions_file_of_another_scale_is_scaled(tmp_path):
    file = tmp_path / "captions.json"
    file.write_text(json.dumps(captions_file([Caption(box=(0, 0, 100, 50), caption="sea")], (200, 100), "")))
    (caption,) = read_captions(file, (400, 200))
    assert caption.box == (0, 0, 200, 100)
    assert caption.caption == "sea"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "expected a JSON object"),
        ("{", "not JSON"),
        ("{}", "regions"),
        ('{"regions": [{"box": [1]}]}', "region"),
    ],
)
def test_a_broken_captions_file_says_what_is_wrong(tmp_path, text, message):
    file = tmp_path / "captions.json"
    file.write_text(text)
    with pytest.raises(CupscaleError, match=message):
        read_captions(file, (400, 200))


def test_captions_are_carried_over_to_other_regions_by_area():
    """Old: two of 40 x 20 px side by side, of an output of 80 x 20. New: three of 50 x 30 px, of one of 120 x 30, so the old
    ones are 60 x 30 there. The middle one, 35 to 85, has 25 px of each and takes the first; a little further right, the second.
    """
    old = [(0, 0, 40, 20), (40, 0, 80, 20)]
    new = [(0, 0, 50, 30), (35, 0, 85, 30), (36, 0, 86, 30), (70, 0, 120, 30)]
    assert carried(old, ["left", "right"], new, (1.5, 1.5)) == ["left", "left", "right", "right"]
    assert carried(old, ["", "right"], new, (1.5, 1.5)) == ["", "", "right", "right"]
    tall = [(0, 0, 20, 40), (0, 40, 20, 80)]
    assert carried(tall, ["top", "bottom"], [(0, 15, 40, 35), (0, 30, 40, 60)], (2, 0.5)) == [
        "bottom",
        "bottom",
    ]
