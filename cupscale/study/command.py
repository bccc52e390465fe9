"""`cupscale study`: a blind comparison on a page, its results, and votes as CSV."""

from __future__ import annotations

import json
import socket
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cupscale.errors import CupscaleError

if TYPE_CHECKING:
    from cupscale.study.store import Vote

_FOLDER = click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
_CSV = click.option("--csv", "file", type=click.Path(path_type=Path), required=True, help="The file.")


@click.group()
def study() -> None:
    """Let people compare results blindly, and rank the methods by their votes.

    DIR is the folder of a `cupscale reproduce`, or any folder with a subfolder for each row (method), with images of the same
    names, and perhaps one named "input" with what they were made from. The votes are kept in DIR/votes.sqlite.
    """


@study.command()
@_FOLDER
@click.option("--row", "rows", multiple=True, help="Compare this row; give it once for each.  [default: all]")
@click.option(
    "--ask", default="Which picture is better?", show_default=True, help="The question above each pair."
)
@click.option(
    "--round",
    "round_",
    type=click.IntRange(1, 1000),
    default=30,
    show_default=True,
    help="Questions after which a voter is thanked, and may go on.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="0.0.0.0 lets other machines in.")
@click.option("--port", type=click.IntRange(1, 65535), default=7861, show_default=True)
def serve(folder: Path, rows: tuple[str, ...], ask: str, round_: int, host: str, port: int) -> None:
    """Serve the page where people vote.

    They see two results of one image at a time, without names, in random order and on random sides. One question in ten shows a
    picture beside a blurred copy of itself, to see whether the voter looks. Stop it with Ctrl-C; every vote is saved at once.
    """
    from cupscale.installation import require

    require("study", "the study's page")
    import uvicorn

    from cupscale.study.page import Page
    from cupscale.study.pairs import open_study
    from cupscale.study.pictures import Pictures
    from cupscale.study.store import Store

    opened = open_study(folder, only=rows)
    for line in opened.left_out:
        click.echo(f"left out: {line}", err=True)
    store = Store(folder)
    store.forget_unanswered()
    store.take_back(lambda asked: not opened.shows(asked))
    with tempfile.TemporaryDirectory(prefix="cupscale-study-") as scratch:
        page = Page(opened, store, Pictures(opened, Path(scratch)), ask, round_)
        with _listening(host, port) as listening:
            address = f"[{host}]" if ":" in host else host
            counts = f"{len(opened.rows)} rows, {len(opened.files)} images, {len(opened.units())} pairs"
            click.echo(f"{counts}: vote at http://{address}:{port}", err=True)
            config = uvicorn.Config(page.app(), log_level="warning", server_header=False)
            uvicorn.Server(config).run(sockets=[listening])


@study.command()
@_FOLDER
@click.option(
    "--attention",
    type=click.FloatRange(0, 1),
    default=0.75,
    show_default=True,
    help="Leave out voters who answered a smaller share of their attention checks right.",
)
@click.option("--simulated", is_flag=True, help="Count simulated votes, in place of those of persons.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the bootstrap.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def results(folder: Path, attention: float, simulated: bool, seed: int, as_json: bool) -> None:
    """Print shares of wins and a ranking, each with its interval."""
    from cupscale.installation import require

    require("study", "the ranking")
    from cupscale.study import report

    origin = "simulated" if simulated else "person"
    found = report.results(_votes(folder), origin=origin, least=attention, seed=seed)
    data = json.dumps(report.to_data(found), ensure_ascii=False)
    click.echo(data if as_json else report.to_text(found))


@study.command("export")
@_FOLDER
@_CSV
@click.option("--overwrite", is_flag=True, help="Replace a file that is there.")
def export_csv(folder: Path, file: Path, overwrite: bool) -> None:
    """Write all votes to a CSV file, a line a vote. "-" is the standard output."""
    from cupscale.captioners.file import write_text
    from cupscale.study.exchange import to_csv

    votes = _votes(folder)
    if str(file) == "-":
        sys.stdout.write(to_csv(votes))
        return
    if file.exists() and not overwrite:
        raise CupscaleError(f"'{file}' is there already: add --overwrite, or give another name")
    write_text(file, to_csv(votes))
    click.echo(f"{file}  {len(votes)} votes")


@study.command("import")
@_FOLDER
@_CSV
def import_csv(folder: Path, file: Path) -> None:
    """Take in votes that `export` wrote, from a study of the same images elsewhere. The same file twice adds nothing."""
    from cupscale.study.exchange import read_csv
    from cupscale.study.pairs import open_study
    from cupscale.study.store import Store

    votes = read_csv(file, open_study(folder))
    new = Store(folder).add(votes)
    click.echo(f"{new} new votes, {len(votes) - new} were here already")


def _votes(folder: Path) -> list[Vote]:
    from cupscale.study.store import FILE, Store

    if not (folder / FILE).is_file():
        raise CupscaleError(f"no votes in '{folder}': collect some with `cupscale study serve {folder}`")
    return Store(folder).votes()


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise CupscaleError(
            f"cannot listen at {host} port {port}: {error.strerror or error}; choose another with --port"
        ) from None
