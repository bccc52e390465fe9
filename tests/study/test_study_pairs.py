"""What a study takes from a folder, and what it asks."""

from __future__ import annotations

import shutil
from collections import Counter

import pytest
from PIL import Image
from simulated import make_folder

from cupscale.errors import CupscaleError
from cupscale.study.pairs import Unit, choose, is_check, open_study


def test_a_folder_of_rows(tmp_path):
    make_folder(tmp_path / "out", size=(48, 32))
    (tmp_path / "out" / "votes.sqlite").write_text("no row")
    (tmp_path / "out" / "notes").mkdir()  # without images: no row either
    study = open_study(tmp_path / "out")
    assert study.rows == ("+ gsp", "demofusion", "lanczos")
    assert list(study.files) == ["boat", "fox", "lake"] and study.sizes["fox"] == (48, 32)
    assert study.files["fox"]["lanczos"] == tmp_path / "out" / "lanczos" / "fox.png"
    assert study.inputs["lake"] == tmp_path / "out" / "input" / "lake.png"
    assert study.left_out == [] and len(study.units()) == 3 * 3
    assert open_study(tmp_path / "out", only=["lanczos", "+ gsp"]).rows == ("+ gsp", "lanczos")


def test_the_folder_of_a_reproduce(tmp_path):
    """Rows are in results/, a result is named by its input and seed, and records lie beside."""
    rows = make_folder(tmp_path / "made", ("boat-seed0", "boat-seed1", "fox-seed0"))
    folder = tmp_path / "run"
    shutil.copytree(rows, folder / "results", ignore=shutil.ignore_patterns("input"))
    (folder / "inputs").mkdir()
    Image.new("RGB", (24, 16)).save(folder / "inputs" / "boat.png")
    Image.new("RGB", (24, 16)).save(folder / "inputs" / "fox-seed0.png")  # drawn: one for each seed
    for name in ("run.json", "results/lanczos/boat-seed0.json"):
        (folder / name).write_text("{}")
    study = open_study(folder)
    assert study.rows == ("+ gsp", "demofusion", "lanczos") and study.left_out == []
    assert list(study.files) == ["boat-seed0", "boat-seed1", "fox-seed0"]
    boat, fox = folder / "inputs" / "boat.png", folder / "inputs" / "fox-seed0.png"
    assert study.inputs == {"boat-seed0": boat, "boat-seed1": boat, "fox-seed0": fox}


def test_what_does_not_fit_is_left_out_and_named(tmp_path):
    folder = make_folder(tmp_path / "out", ("boat", "fox", "lake", "pier", "well"))
    Image.new("RGB", (48, 33)).save(folder / "lanczos" / "fox.png")
    (folder / "lanczos" / "lake.png").write_bytes(b"not an image")
    for row in ("lanczos", "demofusion"):
        (folder / row / "pier.png").unlink()
    (folder / "lanczos" / "boat.jpg").write_bytes(b"a second boat")
    (folder / "lanczos" / "a\nb.png").write_bytes(b"")
    outside = shutil.copy(folder / "lanczos" / "boat.png", tmp_path / "secret.png")
    (folder / "lanczos" / "well.png").unlink()
    (folder / "lanczos" / "well.png").symlink_to(outside)
    (folder / "elsewhere").symlink_to(tmp_path)
    study = open_study(folder)
    assert {image: sorted(rows) for image, rows in study.files.items()} == {
        "boat": ["+ gsp", "demofusion"],
        "lake": ["+ gsp", "demofusion"],
        "well": ["+ gsp", "demofusion"],
    }
    said = "\n".join(study.left_out)
    for part in (
        "fox: unlike sizes",
        "lanczos 48 x 33",
        "lake.png' is not an image",
        "pier: in fewer than two",
    ):
        assert part in said
    for part in ("well: a link that leads out", "elsewhere: a link", "lanczos: 2 files are named 'boat'"):
        assert part in said
    assert "a\\nb" in said and len(study.left_out) == 7


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda folder: shutil.rmtree(folder), "no folder"),
        (lambda folder: [shutil.rmtree(folder / row) for row in ("lanczos", "+ gsp")], "has 1 rows"),
        (
            lambda folder: [shutil.copytree(folder / "lanczos", folder / f"r{i}") for i in range(30)],
            "33 rows",
        ),
        (
            lambda folder: [
                file.rename(file.with_stem(f"{file.stem}-{file.parent.name}"))
                for file in folder.glob("*/*.png")
            ],
            "in two rows under one name",
        ),
    ],
)
def test_what_cannot_be_compared_is_refused(tmp_path, change, said):
    folder = make_folder(tmp_path / "out", ("boat",))
    change(folder)
    with pytest.raises(CupscaleError, match=said):
        open_study(folder)


def test_an_unknown_row_is_refused_with_those_there_are(tmp_path):
    make_folder(tmp_path / "out", ("boat",))
    with pytest.raises(CupscaleError, match=r"no row 'frecas' .* there are \+ gsp, demofusion, lanczos"):
        open_study(tmp_path / "out", only=["lanczos", "frecas"])


def questions(study, voter, number=60):
    """A voter's whole round, with nobody else in the study."""
    seen, asked = set(), []
    votes = Counter()
    while (one := choose(study, seen, votes, len(asked), voter)) and len(asked) < number:
        asked.append(one)
        if not one.expected:
            seen.add(one.unit)
    return asked


def test_a_voter_meets_every_pair_once_and_then_none(tmp_path):
    study = open_study(make_folder(tmp_path / "out"))
    met = [one.unit for one in questions(study, "ann") if not one.expected]
    assert sorted(met) == sorted(study.units()) and met != study.units()
    assert Unit("fox", "+ gsp", "lanczos") in met
    assert met != [one.unit for one in questions(study, "bob") if not one.expected]


def test_sides_and_order_are_random(tmp_path):
    study = open_study(make_folder(tmp_path / "out"))
    every = [one for voter in range(60) for one in questions(study, f"voter{voter}") if not one.expected]
    on_first = Counter(one.first for one in every)
    on_either = Counter(row for one in every for row in (one.first, one.second))
    for row in study.rows:  # 360 each: six standard deviations from the half are 57
        assert abs(on_first[row] - on_either[row] / 2) < 57
    begins = Counter(questions(study, f"voter{voter}", 1)[0].unit for voter in range(60))
    assert len(begins) == 9 and max(begins.values()) < 25


def test_pairs_with_the_fewest_votes_come_first(tmp_path):
    study = open_study(make_folder(tmp_path / "out"))
    votes = Counter({unit: 3 for unit in study.units()})
    rare = study.units()[4]
    votes[rare] = 2
    assert {choose(study, (), votes, 0, f"voter{n}").unit for n in range(20)} == {rare}
    assert choose(study, {rare}, votes, 0, "ann").unit != rare


def test_one_question_in_ten_is_a_check_and_one_of_the_first_five():
    for voter in map(str, range(50)):
        checks = [number for number in range(100) if is_check(number, voter)]
        assert [number // 10 for number in checks] == list(range(10))
        assert 1 <= checks[0] < 5
    assert len({tuple(n for n in range(30) if is_check(n, str(voter))) for voter in range(50)}) > 30


def test_a_check_shows_one_row_twice(tmp_path):
    study = open_study(make_folder(tmp_path / "out"))
    checks = [one for voter in range(80) for one in questions(study, f"v{voter}") if one.expected]
    assert all(one.first == one.second for one in checks)
    sides = Counter(one.expected for one in checks)
    assert set(sides) == {"first", "second"} and min(sides.values()) > 20
    assert {one.first for one in checks} == set(study.rows)


def test_an_image_that_turns_out_damaged_is_asked_about_no_more(tmp_path):
    study = open_study(make_folder(tmp_path / "out"))
    asked = choose(study, (), Counter(), 0, "ann")
    assert study.shows(asked)
    study.leave_out(asked.image, "damaged")
    assert not study.shows(asked) and f"{asked.image}: damaged" in study.left_out
    assert asked.image not in {one.image for one in questions(study, "ann")}
