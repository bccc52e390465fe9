"""Make assets/pareto.png from the folder of a `cupscale reproduce`: quality against network evaluations, of one group of rows.

python tools/pareto.py OUT GROUP        as in OUT/table.json, and as for --rows
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from cupscale.metrics import METRICS
from cupscale.metrics.intervals import Estimate
from cupscale.reproduce import plots
from cupscale.reproduce.rows import Row
from cupscale.reproduce.tables import Line, Table

TARGET = Path(__file__).resolve().parent.parent / "assets" / "pareto.png"
SHOWN = ("psnr", "patch1", "patch2", "grain", "seams", "repetition")


def of_group(folder: Path, group: str) -> Table:
    """The figures that are shown, of the rows of one group."""
    found = json.loads((folder / "table.json").read_text())
    rows = {name: Row(**data) for name, data in found["run"]["decides"]["rows"].items()}
    lines = [
        Line(rows[one["name"]], {name: Estimate(**figure) for name, figure in one["figures"].items()})
        for one in found["rows"]
        if rows[one["name"]].group == group
    ]
    return Table([METRICS[name] for name in SHOWN], lines, {}, {}, 0)


if __name__ == "__main__":
    drawn = plots.quality(of_group(Path(sys.argv[1]), sys.argv[2]))
    if drawn is None:
        sys.exit(f"no row of {sys.argv[2]} has figures")
    TARGET.write_bytes(drawn)
