"""What votes tell: shares of wins with Wilson's interval, and a Bradley-Terry ranking with a two-way bootstrap.

A vote for "equal" is half a win for each side. Votes of one person, and votes on one image, resemble each other. Wilson's
interval takes them as independent, so it is too narrow where they are not; the bootstrap draws voters and images anew, each
with replacement, and counts a vote as often as its voter times its image was drawn (the pigeonhole bootstrap: Owen, The
pigeonhole bootstrap, Annals of Applied Statistics 1, 2007). That covers both and errs on the wide side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from cupscale.study.store import Vote

LEVEL = 0.95
RESAMPLES = 1000
LEAST_ATTENTION = 0.75
DRAWN_VOTES = (
    1.0  # in a pair of rows, added to its votes: strengths stay finite where one row wins always (ours)
)
_SCORES = {"first": 1.0, "equal": 0.5, "second": 0.0}

Floats = NDArray[np.float64]


def wilson(wins: float, votes: int, level: float = LEVEL) -> tuple[float, float]:
    """Wilson's score interval of a share (Wilson, Probable inference, JASA 22, 1927).

    Args:
        wins: 0 to `votes`; halves where votes were drawn.
        votes: At least 1.
        level: Of confidence, above 0 and below 1.

    Returns:
        (low, high) of the share of wins, 0 to 1.
    """
    z = NormalDist().inv_cdf((1 + level) / 2)
    share, spread = wins / votes, z * z / votes
    middle = share + spread / 2
    half = z * sqrt(share * (1 - share) / votes + spread / (4 * votes))
    return max(0.0, (middle - half) / (1 + spread)), min(1.0, (middle + half) / (1 + spread))


@dataclass(frozen=True)
class Tally:
    """Votes as arrays, one entry a vote.

    Attributes:
        rows: Names of the rows that have votes, sorted.
        first: Index of the row on the first side, (votes,).
        second: Of the row on the second side, (votes,).
        score: Of the first row: 1, 0.5 or 0, (votes,).
        voter: Index of the voter, (votes,).
        image: Index of the image, (votes,).
    """

    rows: tuple[str, ...]
    first: NDArray[np.intp]
    second: NDArray[np.intp]
    score: Floats
    voter: NDArray[np.intp]
    image: NDArray[np.intp]

    @classmethod
    def of(cls, votes: Sequence[Vote]) -> Tally:
        """From votes on comparisons; attention checks have to be left out before."""
        rows, sides = np.unique([(vote.first, vote.second) for vote in votes], return_inverse=True)
        first, second = sides.reshape(-1, 2).T
        voter = np.unique([vote.voter for vote in votes], return_inverse=True)[1]
        image = np.unique([vote.image for vote in votes], return_inverse=True)[1]
        score = np.array([_SCORES[vote.answer] for vote in votes])
        return cls(tuple(map(str, rows)), first, second, score, voter, image)

    def wins(self, weights: Floats | None = None) -> Floats:
        """How often row i won against row j at [i, j], a draw counted half; (rows, rows).

        Args:
            weights: How often each vote counts, (votes,); once where it is None.
        """
        size = len(self.rows)
        weights = np.ones(len(self.score)) if weights is None else weights
        forth = np.bincount(self.first * size + self.second, weights * self.score, size * size)
        back = np.bincount(self.second * size + self.first, weights * (1 - self.score), size * size)
        return np.asarray(forth + back, dtype=np.float64).reshape(size, size)


def strengths(wins: Floats) -> Floats:
    """Bradley-Terry strengths: P(i beats j) = 1 / (1 + exp(s_j - s_i)), by maximum likelihood.

    Args:
        wins: (rows, rows), as of `Tally.wins`.

    Returns:
        (rows,), with a mean of 0.
    """
    import choix

    drawn = DRAWN_VOTES / 2 * (1 - np.eye(len(wins)))
    return choix.ilsr_pairwise_dense(wins + drawn, max_iter=10_000)


def resampled(tally: Tally, number: int = RESAMPLES, seed: int = 0) -> Floats:
    """Strengths of studies drawn anew from this one's voters and images.

    Args:
        tally: The votes.
        number: Of draws.
        seed: Of the draws.

    Returns:
        (number, rows).
    """
    random = np.random.default_rng(seed)
    voters, pictures = tally.voter.max() + 1, tally.image.max() + 1
    drawn = np.empty((number, len(tally.rows)))
    for one in drawn:
        of_voter = np.bincount(random.integers(0, voters, voters), minlength=voters)
        of_image = np.bincount(random.integers(0, pictures, pictures), minlength=pictures)
        one[:] = strengths(tally.wins((of_voter[tally.voter] * of_image[tally.image]).astype(float)))
    return drawn


def interval(drawn: Floats | NDArray[np.intp], level: float = LEVEL) -> Floats:
    """The percentile interval along the first axis: (2, ...), low and high."""
    return np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2], axis=0)


def ranks(values: Floats) -> NDArray[np.intp]:
    """1 for the strongest, along the last axis."""
    return np.argsort(np.argsort(-values, axis=-1), axis=-1) + 1


def attention(votes: Sequence[Vote]) -> dict[str, tuple[int, int]]:
    """Attention checks by voter: (answered right, answered). Who answered none is in it with (0, 0)."""
    seen = {vote.voter: (0, 0) for vote in votes}
    for vote in votes:
        if vote.expected:
            right, answered = seen[vote.voter]
            seen[vote.voter] = (right + (vote.answer == vote.expected), answered + 1)
    return seen


def inattentive(votes: Sequence[Vote], least: float = LEAST_ATTENTION) -> set[str]:
    """Voters who answered a smaller share of their attention checks right than `least`."""
    return {
        voter
        for voter, (right, answered) in attention(votes).items()
        if answered and right < least * answered
    }


def apart(wins: Floats) -> bool:
    """Whether the rows fall into groups that no vote connects, so that strengths across them mean nothing."""
    met = (wins + wins.T > 0) | np.eye(len(wins), dtype=bool)
    for _ in range(len(wins).bit_length()):
        met = met @ met
    return not met.all()
