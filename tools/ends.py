"""The lower end of what is declared: every dependency of the package at the least version that pyproject.toml allows.

    python tools/ends.py            prints the requirements
    python tools/ends.py FOLDER     makes an empty environment there, installs them, and runs the tests of the lower end in it

The upper end is the environment that `make test` makes. A bound that cannot be installed, or at which a test fails, is wrong.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
# The method and the bundled model, from the checkout.
TESTS = ("tests/method", "tests/test_references.py", "tests/test_tiling.py", "tests/accelerator/test_card.py")
# Of these the tests need some version: no bound of the package.
WITH = ("pytest", "pytest-xdist", "pytest-timeout", "hypothesis", "scipy")


def lowest(requirement: str) -> str:
    """The requirement at its lower bound: "torch>=2.8" is "torch==2.8".

    Raises:
        ValueError: It has no lower bound.
    """
    found = re.fullmatch(r"\s*([A-Za-z0-9._-]+)\s*(?:>=|~=)\s*([0-9][0-9A-Za-z.]*)\s*(?:,.*)?", requirement)
    if found is None:
        raise ValueError(f"'{requirement}' has no lower bound: write >= or ~=")
    return "==".join(found.groups())


def requirements() -> list[str]:
    """Of the package without extras, each at its lower bound."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [lowest(requirement) for requirement in project["dependencies"]]


def main() -> int:
    if len(sys.argv) < 2:
        print("\n".join(requirements()))
        return 0
    folder = Path(sys.argv[1]).resolve()
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, *requirements(), *WITH], check=True)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    tests = [str(python), "-m", "pytest", "-n", "2", "-p", "no:cacheprovider", *TESTS]
    return subprocess.run(tests, cwd=ROOT, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
