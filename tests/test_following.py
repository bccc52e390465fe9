"""What follows the settings: the captions of regions that change, and the line that says so."""

import json
from types import SimpleNamespace

from cupscale.captions import Caption
from cupscale.page.following import Following
from cupscale.page.regions import rows_of
from cupscale.planning import Geometry, make_plan
from cupscale.settings import Settings

GEOMETRY = Geometry(native=64, cell=8, align=16)
NAMES = ("image", "book", "laid", "table", "rows")


def plan(scale):
    return make_plan((48, 48), Settings.build(scale=scale), GEOMETRY)


def laid(values, scale):
    """The note of one more plan. What the page keeps of it is in `values` from then on."""
    session = SimpleNamespace(**{name: name for name in NAMES})
    updates, rows, note = Following._lay(SimpleNamespace(_session=session), values, plan(scale))
    values |= {"laid": updates.get("laid", values["laid"]), "table": rows}
    assert ("rows" in updates) == ("laid" in updates)
    if "rows" in updates:
        assert [list(row) for row in json.loads(updates["rows"])["rows"]] == [list(row) for row in rows]
    return note


def test_the_line_on_captions_that_were_carried_over_stays_as_long_as_their_regions():
    """A change of scale may ask for its plan twice, and the second answer is what a person reads."""
    book = {"size": None, "captions": [], "stamp": 0}
    values = {"image": "a.png", "book": book, "laid": None, "table": None}
    assert laid(values, 2) == ""
    values["table"] = rows_of(plan(2), [Caption(box=plan(2).boxes[0], caption="a red boat")])
    assert laid(values, 2) == "" and values["table"][0][2] == "a red boat"
    assert "each took the caption" in laid(values, 4)
    carried = [row[2] for row in values["table"]]
    assert "a red boat" in carried
    assert "each took the caption" in laid(values, 4)
    assert [row[2] for row in values["table"]] == carried
    values["image"] = "b.png"
    assert laid(values, 4) == "" and laid(values, 4) == ""
