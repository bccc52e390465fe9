"""Votes as CSV."""

from __future__ import annotations

import csv
import io

import pytest
from click.testing import CliRunner
from hypothesis import given, settings, strategies as st
from simulated import make_folder, vote

from cupscale.cli import main
from cupscale.errors import CupscaleError
from cupscale.study.exchange import _guarded, read_csv, to_csv
from cupscale.study.pairs import open_study
from cupscale.study.store import FILE, Store

HEAD = "id,voter,image,first,second,expected,answer,origin,voted\n"
LINE = "a1,ann,boat,lanczos,demofusion,,first,person,2026-01-31T09:30:00Z\n"
VOTES = [
    vote("ann", "boat", "lanczos", "+ gsp", "first", origin="person"),
    vote("bob", "fox", "+ gsp", "lanczos", "equal"),
    vote("bob", "lake", "demofusion", "demofusion", "second", expected="first"),
]


@pytest.fixture
def folder(tmp_path):
    return make_folder(tmp_path / "out")


def test_out_and_in_again(folder, tmp_path):
    file = tmp_path / "votes.csv"
    file.write_text(to_csv(VOTES))
    assert read_csv(file, open_study(folder)) == VOTES
    file.write_bytes(
        b"\xef\xbb\xbf" + to_csv(VOTES).replace("\n", "\r\n").encode()
    )  # as a spreadsheet saves it
    assert read_csv(file, open_study(folder)) == VOTES


def test_no_cell_is_a_formula():
    text = to_csv([VOTES[0]._replace(image='=HYPERLINK("x")', second="@SUM(1)", voter="-1+2", id="'quoted")])
    (_, cells) = csv.reader(io.StringIO(text))
    assert cells[:5] == ["''quoted", "'-1+2", '\'=HYPERLINK("x")', "lanczos", "'@SUM(1)"]
    assert "'+ gsp" in to_csv(VOTES) and ",+ gsp" not in to_csv(VOTES)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=12))
def test_every_cell_comes_back(text):
    assert _guarded(text).removeprefix("'") == text
    assert not _guarded(text).startswith(tuple("=+-@\t\r"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "line 1: the columns must be id,voter"),
        ("id,voter\n", "line 1: the columns must be"),
        (HEAD + LINE + LINE.replace("boat", "plane").replace("a1", "a2"), "line 3: no image 'plane'"),
        (HEAD + LINE.replace("lanczos", "../../etc"), r"line 2: no row '../../etc' with the image 'boat'"),
        (HEAD + LINE.replace("boat", "../boat"), "line 2: no image '../boat'"),
        (
            HEAD + LINE.replace(",first,", ",left,"),
            "line 2: answer 'left': it is one of 'first', 'second', 'equal'",
        ),
        (HEAD + LINE.replace("person", "robot"), "line 2: origin 'robot'"),
        (HEAD + LINE.replace(",,", ",first,"), "line 2: a check shows one row twice"),
        (HEAD + LINE.replace("demofusion", "lanczos"), "line 2: a check shows one row twice"),
        (HEAD + LINE.replace(",,", ",both,"), "line 2: expected 'both'"),
        (HEAD + LINE.replace("2026-01-31", "2026-02-31"), "line 2: voted '2026-02-31T09:30:00Z'"),
        (HEAD + LINE.replace("T09:30:00Z", "T9:30:00Z"), "line 2: voted"),
        (HEAD + LINE.replace("ann", "ann smith"), "line 2: voter must be 1 to 64 letters and digits"),
        (HEAD + LINE.replace("ann", ""), "line 2: voter must be"),
        (HEAD + LINE.replace("a1", "a" * 65), "line 2: id must be"),
        (HEAD + LINE.replace("a1", "a\u0661"), "line 2: id must be"),
        (HEAD + LINE.replace(",ann", ""), "line 2: 8 cells, not 9"),
        (HEAD + "\n" + LINE + LINE.replace("first", "equal"), "line 4: the vote a1 stands above"),
        (HEAD + LINE.replace("ann", "a" * 1001), "line 2: 1064 characters, the limit is 1000"),
        (HEAD + LINE + '"a2,ann\n', "line 3: unexpected end of data"),
        (HEAD + LINE.replace("boat", 'bo"at"').replace("a1", '"a1"x'), "line 2: "),
    ],
)
def test_a_wrong_line_is_named_and_nothing_is_imported(folder, tmp_path, text, said):
    file = tmp_path / "votes.csv"
    file.write_text(text)
    with pytest.raises(CupscaleError, match=said) as raised:
        read_csv(file, open_study(folder))
    assert str(raised.value).endswith("nothing was imported") and "\n" not in str(raised.value)
    done = CliRunner().invoke(main, ["study", "import", str(folder), "--csv", str(file)])
    assert done.exit_code == 2 and not (folder / FILE).exists()


def test_bytes_that_are_no_text_are_named_by_their_line(folder, tmp_path):
    file = tmp_path / "votes.csv"
    file.write_bytes((HEAD + LINE).encode() + b"a2,\xff\xfe\n")
    with pytest.raises(CupscaleError, match="line 3: not UTF-8"):
        read_csv(file, open_study(folder))


def test_a_nul_or_a_lone_quote_never_ends_in_a_traceback(folder, tmp_path):
    file = tmp_path / "votes.csv"
    for text in ("\0", HEAD + "\0,\0", HEAD + '"', HEAD + '""""""', HEAD + "," * 400, "\r\r\r" + HEAD):
        file.write_text(text)
        with pytest.raises(CupscaleError, match="line "):
            read_csv(file, open_study(folder))


def test_commands_export_and_import(folder, tmp_path):
    run = CliRunner().invoke
    Store(folder).add(VOTES)
    file = tmp_path / "votes.csv"
    done = run(main, ["study", "export", str(folder), "--csv", str(file)])
    assert (
        done.exit_code == 0 and "3 votes" in done.output and file.read_text() == to_csv(Store(folder).votes())
    )
    kept = file.read_text()
    file.write_text("mine")
    done = run(main, ["study", "export", str(folder), "--csv", str(file)])
    assert done.exit_code == 2 and "--overwrite" in done.output and file.read_text() == "mine"
    run(main, ["study", "export", str(folder), "--csv", str(file), "--overwrite"])
    assert run(main, ["study", "export", str(folder), "--csv", "-"]).output == file.read_text() == kept
    other = make_folder(tmp_path / "other")
    for said in ("3 new votes, 0 were here already", "0 new votes, 3 were here already"):
        done = run(main, ["study", "import", str(other), "--csv", str(file)])
        assert done.output.strip() == said
    assert Store(other).votes() == Store(folder).votes()


def test_results_on_the_command_line(folder):
    run = CliRunner().invoke
    empty = run(main, ["study", "results", str(folder)])
    assert empty.exit_code == 2 and "cupscale study serve" in empty.output and not (folder / FILE).exists()
    Store(folder).add(VOTES)
    people, simulated = (
        run(main, ["study", "results", str(folder), *more]).output for more in ([], ["--simulated"])
    )
    assert (
        people.startswith("1 votes of 1 voter on 1 image") and "2 simulated votes are not counted" in people
    )
    assert simulated.startswith("0 SIMULATED votes, none of a person") and "bob" not in simulated
    assert '"votes": 1' in run(main, ["study", "results", str(folder), "--json"]).output
