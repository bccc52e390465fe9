"""The rows of a table, read from `rows.toml` and from files like it."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from cupscale.bounded import read_bytes
from cupscale.errors import CupscaleError
from cupscale.peers import Peer, get
from cupscale.settings import PRESETS, Settings

TABLE = Path(__file__).with_name("rows.toml")
ALWAYS = "plain"
_MAX_BYTES = 2**20
_NAME = re.compile(r"[a-z0-9][a-z0-9+._-]{0,60}")


@dataclass(frozen=True)
class Row:
    """One way to enlarge; see `rows.toml` for the fields."""

    name: str
    title: str
    group: str = "own"
    settings: Mapping[str, Any] = field(default_factory=dict)
    preset: str = ""
    runs: int = 1
    peer: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    original: bool = False

    def method(self) -> Peer:
        """The peer, with the row's options.

        Raises:
            CupscaleError: There is no such peer, or it has no such option.
        """
        peer = get(self.peer)
        try:
            return replace(peer, **self.options)
        except TypeError:
            unknown = sorted(set(self.options) - set(vars(peer)))
            raise CupscaleError(
                f"row {self.name}: {self.peer} has no option {', '.join(unknown)}; it has {', '.join(vars(peer)) or 'none'}"
            ) from None

    def to_dict(self) -> dict[str, Any]:
        """As data, which decides the results."""
        return asdict(self)


def read_rows(files: Iterable[Path] = ()) -> dict[str, Row]:
    """The rows of the project's table, then those of other files.

    Args:
        files: Tables in the same form.

    Raises:
        CupscaleError: A file that cannot be read, or a row that makes no sense.
    """
    rows: dict[str, Row] = {}
    for file in (TABLE, *files):
        for name, data in _parsed(file).items():
            if name in rows:
                raise CupscaleError(f"{file}: there is a row '{name}' already: give yours another name")
            rows[name] = _row(file, name, data)
    return rows


def choose(rows: Mapping[str, Row], names: Sequence[str], *, reduced: bool) -> list[Row]:
    """The rows of a run, in the order of the tables: those that are always there, and those named.

    Args:
        rows: All there are.
        names: Of rows and groups.
        reduced: Whether there are originals.

    Raises:
        CupscaleError: There is no such row; the message has those there are.
    """
    groups = {row.group for row in rows.values()}
    unknown = [name for name in names if name not in rows and name not in groups]
    if unknown:
        raise CupscaleError(
            f"no row '{unknown[0]}': choose among the groups {', '.join(sorted(groups))} and the rows {', '.join(rows)}"
        )
    wanted = {*names, ALWAYS}
    chosen = [row for row in rows.values() if row.name in wanted or row.group in wanted]
    if "original" in names and not reduced:
        raise CupscaleError("row 'original' needs --reduce, which makes the inputs out of originals")
    return [row for row in chosen if reduced or not row.original]


def _parsed(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(read_bytes(file, "rows", _MAX_BYTES).decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CupscaleError(f"{file}: not TOML ({error})") from None


def _row(file: Path, name: str, data: Any) -> Row:
    known = set(Row.__dataclass_fields__) - {"name"}
    if not _NAME.fullmatch(name):
        raise CupscaleError(f"{file}: '{name}' is no name of a row: use small letters, digits, + - . _")
    if not isinstance(data, dict) or not isinstance(data.get("title"), str):
        raise CupscaleError(f"{file}: row '{name}' needs a title")
    if unknown := sorted(set(data) - known):
        raise CupscaleError(
            f"{file}: row '{name}' has no field '{unknown[0]}'; the fields are {', '.join(sorted(known))}"
        )
    kinds = [kind for kind in ("peer", "original") if data.get(kind)]
    kinds += ["settings"] * ("settings" in data or "preset" in data)
    if len(kinds) != 1:
        raise CupscaleError(
            f"{file}: row '{name}' needs either settings or a preset, or a peer, or original = true"
        )
    row = Row(name=name, **data)
    if row.runs not in (1, 2) or (row.runs == 2 and (row.peer or row.original)):
        raise CupscaleError(f"{file}: row '{name}': runs is 1 or 2, and 2 for C-Upscale only")
    if row.preset and row.preset not in PRESETS:
        raise CupscaleError(f"{file}: row '{name}': no preset '{row.preset}'; choose {', '.join(PRESETS)}")
    if row.peer:
        row.method()
    Settings.build(row.settings)
    return row
