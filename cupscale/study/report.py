"""The results of a study as numbers and as text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cupscale.study import statistics
from cupscale.study.statistics import Tally
from cupscale.study.store import Vote

FEW_VOTERS = 5  # fewer say little about people in general
FEW_IMAGES = 5


@dataclass(frozen=True)
class Standing:
    """One row's place.

    Attributes:
        row: Its name.
        votes: Comparisons it was in.
        share: Of them that it won, a draw counted half.
        share_interval: Wilson's, of the share.
        strength: Bradley-Terry's, in logits; the mean over the rows is 0.
        strength_interval: Bootstrapped over voters and images.
        rank: 1 for the strongest.
        rank_interval: Bootstrapped likewise.
    """

    row: str
    votes: int
    share: float
    share_interval: tuple[float, float]
    strength: float
    strength_interval: tuple[float, float]
    rank: int
    rank_interval: tuple[int, int]


@dataclass(frozen=True)
class Duel:
    """Two rows against each other: votes, the first one's share of wins, and Wilson's interval of it."""

    first: str
    second: str
    votes: int
    share: float
    share_interval: tuple[float, float]


@dataclass(frozen=True)
class Results:
    """What the votes of a study say.

    Attributes:
        origin: "person", or "simulated": then no vote is a person's.
        votes: On comparisons, that were counted.
        voters: Who gave them.
        images: They are about.
        standings: A row each, the strongest first.
        duels: Every two rows that met.
        notes: What a reader has to know beside the numbers.
    """

    origin: str
    votes: int
    voters: int
    images: int
    standings: tuple[Standing, ...]
    duels: tuple[Duel, ...]
    notes: tuple[str, ...]


def results(
    votes: Sequence[Vote],
    *,
    origin: str = "person",
    least: float = statistics.LEAST_ATTENTION,
    resamples: int = statistics.RESAMPLES,
    seed: int = 0,
) -> Results:
    """Count the votes of one origin. Votes of persons and simulated ones are never put together.

    Args:
        votes: All of a study.
        origin: "person" or "simulated".
        least: Share of attention checks a voter must have answered right to be counted.
        resamples: Draws of the bootstrap.
        seed: Of the draws.

    Returns:
        The rows' standings, the strongest first, and the duels of every two that met.
    """
    own = [vote for vote in votes if vote.origin == origin]
    left_out = statistics.inattentive(own, least)
    kept = [vote for vote in own if vote.voter not in left_out and not vote.expected]
    notes = _left_out(len(votes) - len(own), origin, len(left_out), least)
    if not kept:
        return Results(origin, 0, 0, 0, (), (), (*notes, "no votes to count"))
    tally = Tally.of(kept)
    checks = statistics.attention(own)
    unchecked = sum(not checks[voter][1] for voter in {vote.voter for vote in kept})
    voters, pictures = int(tally.voter.max()) + 1, int(tally.image.max()) + 1
    notes += _cautions(tally, voters, pictures, unchecked)
    standings = _standings(tally, statistics.resampled(tally, resamples, seed))
    return Results(origin, len(kept), voters, pictures, standings, _duels(tally), tuple(notes))


def _left_out(other: int, origin: str, inattentive: int, least: float) -> list[str]:
    notes = []
    if other:
        notes.append(
            f"{other} {'simulated votes' if origin == 'person' else 'votes of persons'} are not counted"
        )
    if inattentive:
        voters = _number(inattentive, "voter")
        notes.append(f"{voters} left out: fewer than {least:.0%} of the attention checks answered right")
    return notes


def _cautions(tally: Tally, voters: int, pictures: int, unchecked: int) -> list[str]:
    notes = []
    if unchecked:
        notes.append(f"{_number(unchecked, 'voter')} counted who met no attention check")
    if voters < FEW_VOTERS:
        notes.append(f"{_number(voters, 'voter')}: the intervals say little about other people")
    if pictures < FEW_IMAGES:
        notes.append(f"{_number(pictures, 'image')}: the intervals say little about other images")
    if statistics.apart(tally.wins()):
        notes.append("some rows never met, directly or through others: their strengths do not compare")
    return notes


def _standings(tally: Tally, drawn: statistics.Floats) -> tuple[Standing, ...]:
    wins = tally.wins()
    strengths = statistics.strengths(wins)
    ranks = statistics.ranks(strengths)
    low, high = statistics.interval(drawn)
    low_rank, high_rank = statistics.interval(statistics.ranks(drawn))
    standings = []
    for index in map(int, ranks.argsort()):
        won, votes = float(wins[index].sum()), round(float(wins[index].sum() + wins[:, index].sum()))
        standings.append(
            Standing(
                tally.rows[index],
                votes,
                won / votes,
                statistics.wilson(won, votes),
                float(strengths[index]),
                (float(low[index]), float(high[index])),
                int(ranks[index]),
                (int(low_rank[index]), int(-(-high_rank[index] // 1))),
            )
        )
    return tuple(standings)


def _duels(tally: Tally) -> tuple[Duel, ...]:
    wins = tally.wins()
    duels = []
    for one, first in enumerate(tally.rows):
        for other, second in enumerate(tally.rows[one + 1 :], one + 1):
            won, votes = float(wins[one, other]), round(float(wins[one, other] + wins[other, one]))
            if votes:
                duels.append(Duel(first, second, votes, won / votes, statistics.wilson(won, votes)))
    return tuple(duels)


def to_text(found: Results) -> str:
    """Two tables and the notes, for a terminal."""
    kind = "votes" if found.origin == "person" else "SIMULATED votes, none of a person,"
    voters, pictures = _number(found.voters, "voter"), _number(found.images, "image")
    lines = [f"{found.votes} {kind} of {voters} on {pictures}"]
    if found.standings:
        wide = max(len(standing.row) for standing in found.standings)
        lines += ["", f"{'row':{wide}}  rank       wins                votes  strength"]
        lines += [_standing_line(standing, wide) for standing in found.standings]
        lines += ["", "first against second: share of wins of the first"]
        lines += [
            f"{duel.first} : {duel.second}  {_share(duel.share, duel.share_interval)}  {duel.votes} votes"
            for duel in found.duels
        ]
        lines += [
            "",
            "Intervals of 95%. Wins: a draw is half a win; Wilson's interval, which takes votes as independent. Rank and",
            "strength: Bradley-Terry (logits, mean 0), bootstrapped over voters and images.",
        ]
    return "\n".join(lines + [f"note: {note}" for note in found.notes])


def _standing_line(standing: Standing, wide: int) -> str:
    low, high = standing.rank_interval
    rank = f"{standing.rank} ({low}-{high})"
    strength = f"{standing.strength:+.2f} ({standing.strength_interval[0]:+.2f} to {standing.strength_interval[1]:+.2f})"
    share = _share(standing.share, standing.share_interval)
    return f"{standing.row:{wide}}  {rank:9}  {share:18}  {standing.votes:5}  {strength}"


def _share(share: float, interval: tuple[float, float]) -> str:
    return f"{share:4.0%} ({interval[0]:.0%} to {interval[1]:.0%})"


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def to_data(found: Results) -> dict[str, Any]:
    """The same for JSON."""
    from dataclasses import asdict

    return asdict(found)
