"""Write requirements.txt, which a Space reads, from pyproject.toml: `python tools/space_requirements.py`.

A Space mounts requirements.txt alone when it installs, before the rest of the repository is there, so that file can
name neither the package nor another file. A test holds the two equal.
"""

from __future__ import annotations

import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EXTRAS = ("page", "mcp", "captions", "upscalers")
HEAD = """\
# What a Space reads. Written by tools/space_requirements.py from pyproject.toml: edit that one.
# Elsewhere: pip install ".[page]", or requirements-cpu.txt on a machine with no GPU.
"""


def text() -> str:
    """What requirements.txt must hold: the dependencies of the package and of the extras that the page uses."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    lines = list(project["dependencies"])
    for extra in EXTRAS:
        lines += project["optional-dependencies"][extra]
    return HEAD + "\n".join(dict.fromkeys(lines)) + "\n"


if __name__ == "__main__":
    (ROOT / "requirements.txt").write_text(text(), "utf-8")
