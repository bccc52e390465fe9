"""The blind comparison of a comparison's variants, by `cupscale.study`.

Two are shown at a time, in random order and on random sides, with no names until the end.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import gradio as gr

from cupscale.errors import CupscaleError
from cupscale.page import run, scratch, viewer
from cupscale.page.jobs import Updates
from cupscale.page.session import TOASTING, complain
from cupscale.study.pairs import Asked, Study, Unit, choose
from cupscale.study.pictures import Pictures
from cupscale.study.statistics import Tally
from cupscale.study.store import Vote

_IMAGE = "image"  # the one that all variants are of
_ANSWERS = {"first": "Left is better", "equal": "No difference", "second": "Right is better"}


@dataclass
class Trial:
    """One person's way through all pairs of the variants.

    Attributes:
        study: The variants as rows of one image.
        voter: Decides the draws.
        folder: Of the pictures that are shown, which have no names.
        asked: The pair in sight; None at the end.
        votes: So far.
    """

    study: Study
    voter: str
    folder: Path
    asked: Asked | None = None
    votes: list[Vote] = field(default_factory=list)

    @classmethod
    def of(cls, shots: Mapping[str, run.Shot]) -> Trial:
        """Of results by their titles, with its first pair.

        Raises:
            CupscaleError: There are fewer than two, or they are gone.
        """
        if len(shots) < 2:
            raise CupscaleError("a blind comparison takes two variants: compare some first")
        files = {title: Path(shots[title].png) for title in sorted(shots)}  # the order of a study's rows
        if not all(file.is_file() for file in files.values()):
            raise CupscaleError("these results are no longer on the server: compare anew")
        size = next(iter(shots.values())).size
        study = Study(Path(), tuple(files), {_IMAGE: files}, {_IMAGE: size}, {})
        trial = cls(study, secrets.token_hex(8), scratch.new_folder())
        trial.asked = trial._next()
        return trial

    @property
    def pairs(self) -> int:
        """How many there are."""
        return len(self.study.units())

    def answer(self, answer: str) -> None:
        """Count an answer, "first", "second" or "equal", and draw the next pair."""
        if self.asked is not None:
            vote = Vote(
                secrets.token_hex(8), self.voter, *self.asked, answer=answer, origin="person", voted=""
            )
            self.votes.append(vote)
            self.asked = self._next()

    def shown(self) -> list[tuple[str, str | Path, str]]:
        """The two pictures in sight, for the grid: pixels alone, under names that tell nothing."""
        if self.asked is None:
            return []
        cells: list[tuple[str, str | Path, str]] = []
        pictures = Pictures(self.study, self.folder)
        for side, title in (("first", "Left"), ("second", "Right")):
            path = self.folder / f"{secrets.token_hex(8)}.png"
            path.write_bytes(pictures.side(self.asked, side))
            cells.append((title, path, ""))
        return cells

    def result(self) -> str:
        """Who won how often, the best first; a draw is half a win for both."""
        if not self.votes:
            return "No pair was answered."
        tally = Tally.of(self.votes)
        wins = tally.wins()
        rows = [
            (float(wins[k].sum()), round(float(wins[k].sum() + wins[:, k].sum())), row)
            for k, row in enumerate(tally.rows)
        ]
        rows.sort(key=lambda row: (-row[0] / row[1], row[2]))
        said = "; ".join(f"{row} won {won:g} of {pairs}" for won, pairs, row in rows)
        noun = "pair" if len(self.votes) == 1 else "pairs"
        return f"{len(self.votes)} of {self.pairs} {noun} answered. {said}."

    def _next(self) -> Asked | None:
        """Attention checks are for strangers, and left out."""
        seen = {vote.asked.unit for vote in self.votes}
        numbers = count(len(self.votes))
        while True:
            asked = choose(self.study, seen, dict[Unit, int](), next(numbers), self.voter)
            if asked is None or not asked.expected:
                return asked


class Blind:
    """Its components, made inside the Compare tab, and what they do.

    Attributes:
        start: The button that begins; the tab shows it.
        panel: What is in sight meanwhile.
    """

    def __init__(self, kept_seconds: int) -> None:
        self.start = gr.Button("Compare blindly", size="sm", elem_id="blind-start", render=False)
        with gr.Column(visible=False, elem_id="blind") as self.panel:
            self._line = gr.HTML(run.status_html(""), elem_id="blind-line")
            self._grid = viewer.Grid(elem_id="blind-grid")
            with gr.Row():
                self._answers = {
                    answer: gr.Button(text, elem_id=f"blind-{answer}") for answer, text in _ANSWERS.items()
                }
            self._end = gr.Button("End, and show the names", size="sm", elem_id="blind-end")
        self.result = gr.HTML("", elem_id="blind-result")
        self._trial = gr.State(None, time_to_live=kept_seconds, delete_callback=_forget)

    def wire(self, shots: gr.State, grid: gr.HTML) -> None:
        """Connect the buttons.

        Args:
            shots: The comparison's results by their titles.
            grid: Which shows them with their names, and is out of sight meanwhile.
        """
        outputs = [self.panel, self._line, self._grid, self._trial, self.result, grid, self.start]

        def begin(shots: Mapping[str, run.Shot] | None, before: Any) -> Updates:
            _forget(before)
            try:
                trial = Trial.of(shots or {})
                return {**self._shown(trial), grid: gr.update(visible=False)}
            except CupscaleError as error:
                complain(error)
                return {self._trial: None}

        def answered(answer: str) -> Any:
            def handler(trial: Trial | None) -> Updates:
                if trial is not None:
                    trial.answer(answer)
                return self._shown(trial) if trial and trial.asked else self._ended(trial, grid)

            return handler

        self.start.click(begin, [shots, self._trial], outputs, **TOASTING)
        for answer, button in self._answers.items():
            button.click(answered(answer), self._trial, outputs, trigger_mode="once", **TOASTING)
        self._end.click(lambda trial: self._ended(trial, grid), self._trial, outputs, **TOASTING)

    def hidden(self) -> Updates:
        """For a new comparison: nothing of the old one is in sight."""
        return {self.panel: gr.update(visible=False), self.result: ""}

    def _shown(self, trial: Trial) -> Updates:
        line = f"Pair {len(trial.votes) + 1} of {trial.pairs}: which is better?"
        return {
            self.panel: gr.update(visible=True),
            self._line: run.status_html(line),
            self._grid: viewer.grid(trial.shown(), ""),
            self._trial: trial,
            self.result: "",
            self.start: gr.update(interactive=False),
        }

    def _ended(self, trial: Trial | None, grid: gr.HTML) -> Updates:
        _forget(trial)
        line = trial.result() if trial else "The blind comparison was lost: begin it anew."
        return {
            self.panel: gr.update(visible=False),
            self._trial: None,
            self.result: run.status_html(line),
            grid: gr.update(visible=True),
            self.start: gr.update(interactive=True),
        }


def _forget(trial: Any) -> None:
    if isinstance(trial, Trial):
        run.forget_folder(str(trial.folder))
