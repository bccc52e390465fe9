"""Put into README.md what has a file of its own, which the page shows too: `python tools/readme_parts.py`."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
PART = re.compile(r"(<!-- (\S+): python tools/readme_parts\.py -->\n).*?(<!-- to here -->)", re.DOTALL)


def filled(text: str) -> str:
    """A text with each part as its file has it."""
    return PART.sub(lambda found: found[1] + (ROOT / found[2]).read_text("utf-8") + found[3], text)


if __name__ == "__main__":
    readme = ROOT / "README.md"
    readme.write_text(filled(readme.read_text("utf-8")), "utf-8")
