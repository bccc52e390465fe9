"""Make the examples' before / after pairs with the bundled model: `python tools/make_examples.py`.

The inputs are in cupscale/assets/examples, listed with their licences in sources.json; this writes the pairs, index.json
and README.md beside them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import cupscale
from cupscale import images
from cupscale.page.examples import FOLDER

SCALE, SEED = 4, 7
QUALITY = 92


def main() -> None:
    sources = json.loads((FOLDER / "sources.json").read_text("utf-8"))
    pipe = cupscale.load("tiny", device="cpu")
    rows, lines = [], []
    for source in sources:
        name, picture = source["name"], images.read(FOLDER / source["input"])
        result = cupscale.upscale(pipe, picture, prompt=source["prompt"], scale=SCALE, seed=SEED)
        before, after = f"{name}-before.webp", f"{name}-after.webp"
        images.write(
            images.resize(picture.rgb, result.image.size, "lanczos"), FOLDER / before, quality=QUALITY
        )
        images.write(result.image, FOLDER / after, result.settings.to_json(), quality=QUALITY)
        settings = result.settings.model_dump(mode="json", exclude={"captions"})
        rows.append(
            {
                "name": name,
                "title": source["title"],
                "kind": source["kind"],
                "input": source["input"],
                "before": before,
                "after": after,
                "size": list(result.image.size),
                "seconds": round(result.seconds, 1),
                "settings": settings,
            }
        )
        lines.append(
            f"| {name} | {source['kind']} | {source['title']} | {source['author']} | {source['licence']} | {source['from']} |"
        )
        _write(rows, lines)  # after each one, so that a stopped run leaves whole examples
        print(f"{name}: {result.plan.line()}, took {result.seconds:.1f} s")


def _write(rows: list[dict[str, Any]], lines: list[str]) -> None:
    (FOLDER / "index.json").write_text(
        json.dumps({"examples": rows}, indent=1, ensure_ascii=False) + "\n", "utf-8"
    )
    head = (
        "# Example pictures\n\n"
        "Small inputs, and what the bundled model made of them at 4x, seed 7. None of them was in its training set.\n"
        "The pairs are adapted works under the licences of their inputs: `<name>-before.webp` is the plain (Lanczos)\n"
        "enlargement, `<name>-after.webp` the result, with its settings inside. `python tools/make_examples.py` makes\n"
        "them again.\n\n"
        "| name | kind | what | author | licence | from |\n|---|---|---|---|---|---|\n"
    )
    (FOLDER / "README.md").write_text(head + "\n".join(lines) + "\n", "utf-8")


if __name__ == "__main__":
    main()
