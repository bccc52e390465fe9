"""What votes tell, against values worked out by hand, other libraries, and planted rankings."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy.stats import binomtest
from simulated import planted, vote

from cupscale.study import report, statistics
from cupscale.study.statistics import Tally

VOTES = [
    vote("ann", "boat", "a", "b", "first"),
    vote("ann", "fox", "b", "a", "first"),
    vote("bob", "boat", "c", "a", "equal"),
    vote("bob", "fox", "a", "b", "first"),
    vote("cyd", "fox", "b", "c", "second"),
]


@pytest.mark.parametrize(
    ("wins", "votes", "level"), [(8, 10, 0.95), (0, 7, 0.95), (7, 7, 0.9), (31, 94, 0.99)]
)
def test_wilsons_interval_is_scipys(wins, votes, level):
    known = binomtest(wins, votes).proportion_ci(level, method="wilson")
    assert statistics.wilson(wins, votes, level) == pytest.approx((known.low, known.high), abs=1e-12)


def test_wilsons_interval_of_a_half():
    """(2.5 of 5 and z = 1.96): the middle is 1/2, the half width z sqrt(1/20 + z^2/100) / (1 + z^2/5)."""
    z = 1.959964
    half = z * math.sqrt(0.25 / 5 + z * z / 100) / (1 + z * z / 5)
    assert statistics.wilson(2.5, 5) == pytest.approx((0.5 - half, 0.5 + half), abs=1e-6)


def test_wins_by_hand():
    tally = Tally.of(VOTES)
    assert tally.rows == ("a", "b", "c")
    assert tally.wins().tolist() == [[0, 2, 0.5], [1, 0, 0], [0.5, 1, 0]]
    weighted = tally.wins(np.array([4.0, 1, 2, 0, 3]))
    assert weighted.tolist() == [[0, 4, 1], [1, 0, 0], [1, 3, 0]]


def test_two_rows_by_hand():
    """3 wins to 1, and half a win each for the drawn vote: odds of 3.5 to 1.5."""
    strong, weak = statistics.strengths(np.array([[0, 3.0], [1, 0]]))
    assert strong - weak == pytest.approx(math.log(3.5 / 1.5), abs=1e-6)
    assert strong + weak == pytest.approx(0, abs=1e-9)


def test_strengths_solve_the_likelihoods_equation():
    """Where the likelihood is greatest, each row's wins are those that the strengths expect."""
    wins = np.array([[0, 7, 2.5, 9], [3, 0, 4, 0], [6.5, 1, 0, 5], [2, 0, 0, 0]])
    strong = statistics.strengths(wins)
    with_draw = wins + 0.5 * (1 - np.eye(4))
    for i in range(4):
        expected = sum(
            (with_draw[i, j] + with_draw[j, i]) / (1 + math.exp(strong[j] - strong[i]))
            for j in range(4)
            if j != i
        )
        assert expected == pytest.approx(with_draw[i].sum(), abs=1e-5)


def test_a_row_that_always_wins_has_a_finite_strength():
    strong = statistics.strengths(np.array([[0, 400.0, 400], [0, 0, 200], [0, 200, 0]]))
    assert np.isfinite(strong).all() and 5 < strong[0] - strong[1] < 8


def test_the_bootstrap_draws_voters_and_images():
    """Every draw is one of those that can be listed: so many of each voter, times so many of each image."""
    votes = [*VOTES[:4], vote("bob", "boat", "b", "c", "second")]  # two voters, two images, not symmetric
    tally = Tally.of(votes)
    draws = [np.bincount(pick, minlength=2) for pick in itertools.product(range(2), repeat=2)]
    possible = [
        statistics.strengths(tally.wins((of_voter[tally.voter] * of_image[tally.image]).astype(float)))
        for of_voter in draws
        for of_image in draws
    ]
    found = statistics.resampled(tally, 400, seed=3)
    shares = []
    for strong in np.unique(np.round(possible, 6), axis=0):
        matches = np.abs(found - strong).max(axis=1) < 1e-4
        expected = np.mean([np.abs(strong - one).max() < 1e-4 for one in possible])
        assert matches.mean() == pytest.approx(expected, abs=0.1)
        shares.append(matches.mean())
    assert sum(shares) == pytest.approx(1) and len(shares) > 4
    assert (statistics.resampled(tally, 5, seed=3) == found[:5]).all()


def test_the_interval_of_draws_by_hand():
    drawn = np.column_stack([np.arange(201) / 200, 7 - np.arange(201) / 100])
    assert statistics.interval(drawn) == pytest.approx(np.array([[0.025, 5.05], [0.975, 6.95]]))
    assert statistics.interval(drawn, 0.5)[:, 0] == pytest.approx([0.25, 0.75])


def truth(strengths: tuple[float, ...], taste: float, draws: float) -> np.ndarray:
    """What a study of endless voters and images would find: tastes average out to a flatter curve, draws pull together."""
    likes = np.random.default_rng(0).normal(strengths, taste * math.sqrt(2), (100_000, len(strengths)))
    wins = np.zeros((len(strengths),) * 2)
    for i, j in itertools.permutations(range(len(strengths)), 2):
        wins[i, j] = draws / 2 + (1 - draws) * np.mean(1 / (1 + np.exp(likes[:, j] - likes[:, i])))
    return statistics.strengths(wins * 1e6)


def test_intervals_cover_a_planted_ranking_as_often_as_stated():
    """Of 95% intervals over 200 strengths, planted with tastes of voters and images. A bootstrap of votes covers 78% here."""
    strengths, taste, draws = (-1.2, -0.6, 0.0, 0.6, 1.2), 0.5, 0.2
    known = truth(strengths, taste, draws)
    covered = []
    for study in range(40):
        votes = planted(strengths, voters=12, pictures=10, votes=40, taste=taste, draws=draws, seed=study)
        low, high = statistics.interval(statistics.resampled(Tally.of(votes), 120, study))
        covered.append((low <= known) & (known <= high))
    assert np.mean(covered) >= 0.95


def test_a_planted_ranking_is_found():
    votes = planted((0.3, -0.9, 0.9, -0.3), voters=25, pictures=24, votes=60, taste=0.3, draws=0.2, seed=5)
    found = report.results(votes, origin="simulated", resamples=200)
    assert [standing.row for standing in found.standings] == ["row2", "row0", "row3", "row1"]
    assert [standing.rank for standing in found.standings] == [1, 2, 3, 4]
    assert (found.votes, found.voters, found.images) == (1500, 25, 24)
    assert found.notes == ("25 voters counted who met no attention check",)
    for standing in found.standings:
        low, high = standing.rank_interval
        assert low <= standing.rank <= high
        assert standing.strength_interval[0] < standing.strength < standing.strength_interval[1]
        assert standing.share_interval[0] < standing.share < standing.share_interval[1]


def test_without_a_difference_none_is_claimed():
    votes = planted((0.0, 0.0, 0.0), voters=20, pictures=20, votes=30, taste=0.2, draws=0.1, seed=2)
    found = report.results(votes, origin="simulated", resamples=200)
    assert all(one.strength_interval[0] < 0 < one.strength_interval[1] for one in found.standings)
    assert all(one.rank_interval[0] < one.rank_interval[1] for one in found.standings)


def check(voter: str, right: bool, number: int):
    answer = "second" if right else "equal"
    return vote(voter, "boat", "a", "a", answer, expected="second", id=f"{voter}check{number}")


def test_who_does_not_look_is_left_out():
    good = [check("ann", number > 0, number) for number in range(4)]  # 3 of 4: just enough
    bad = [check("bob", number > 1, number) for number in range(6)]  # 4 of 6
    assert statistics.attention([*VOTES, *good, *bad]) == {"ann": (3, 4), "bob": (4, 6), "cyd": (0, 0)}
    assert statistics.inattentive([*VOTES, *good, *bad]) == {"bob"}
    found = report.results([*VOTES, *good, *bad], origin="simulated", resamples=20)
    assert (found.votes, found.voters) == (3, 2)  # and no check counts as a comparison
    assert found.notes[0] == "1 voter left out: fewer than 75% of the attention checks answered right"
    assert "1 voter counted who met no attention check" in found.notes
    assert report.results([*VOTES, *good, *bad], origin="simulated", least=0, resamples=20).votes == 5


def test_duels_by_hand():
    found = report.results(VOTES, origin="simulated", resamples=20)
    duels = {(duel.first, duel.second): (duel.share, duel.votes) for duel in found.duels}
    assert duels == {("a", "b"): (2 / 3, 3), ("a", "c"): (0.5, 1), ("b", "c"): (0.0, 1)}
    shares = {standing.row: (standing.share, standing.votes) for standing in found.standings}
    assert shares == {"a": (2.5 / 4, 4), "b": (1 / 4, 4), "c": (1.5 / 2, 2)}


def test_rows_that_never_met_are_named():
    apart = [vote("ann", "boat", "a", "b", "first"), vote("ann", "boat", "c", "d", "first")]
    assert any("never met" in note for note in report.results(apart, origin="simulated", resamples=5).notes)
    chain = [*apart, vote("ann", "fox", "d", "b", "equal")]
    assert not any(
        "never met" in note for note in report.results(chain, origin="simulated", resamples=5).notes
    )


def test_no_simulated_vote_is_counted_as_a_persons():
    people = [one._replace(origin="person", id=f"p{one.id}") for one in VOTES[:2]]
    both = [*VOTES, *people]
    of_people, simulated = (
        report.results(both, origin=origin, resamples=5) for origin in ("person", "simulated")
    )
    assert (of_people.votes, simulated.votes) == (2, 5)
    assert "5 simulated votes are not counted" in of_people.notes
    assert "2 votes of persons are not counted" in simulated.notes
    assert "SIMULATED" in report.to_text(simulated).splitlines()[0]
    assert "simulated" not in report.to_text(of_people).splitlines()[0].lower()
    assert report.results(VOTES, resamples=5).votes == 0  # a person's is what is asked for
    assert report.to_data(simulated)["origin"] == "simulated"
