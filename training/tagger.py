"""Train the bundled tagger on the captions of the training photographs, and measure it on held-out ones.

    python -m training.tagger --data data --out assets/tagger

`data` is what `training.prepare` wrote. Printed, and written into the card's `figures.json`, are precision and recall on the
photographs of the splits "test" and "validate", which are not trained on, beside those of always saying the commonest words.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.numpy import save_file

from cupscale.captioners.tagger import HUES, MOST_WORDS, colours, features

LEAST_PHOTOGRAPHS = 6
CROPS = 16
PENALTIES = (0.03, 0.1, 0.3, 1.0, 3.0)
COLOURS = {"black", "grey", "white", "brown", *(name for name, _ in HUES)}
LEAST_PRECISION = 0.25  # of a word, cross-validated; others are left out
FOLDS = 5
SAME = {
    "leaves": "leaf", "trees": "tree", "flowers": "flower", "rocks": "rock", "rocky": "rock", "stones": "stone",
    "clouds": "cloud", "hills": "hill", "towers": "tower", "houses": "house", "wood": "wooden", "bricks": "brick",
    "walls": "wall", "mountains": "mountain", "petals": "petal", "gray": "grey", "buildings": "building",
    "roofs": "roof", "windows": "window", "branches": "branch", "waves": "wave", "grassy": "grass", "snowy": "snow",
    "sandy": "sand", "boats": "boat", "lights": "light", "columns": "column", "arches": "arch", "domes": "dome",
}  # fmt: skip
UNSEEN = {
    "a", "an", "the", "of", "in", "on", "with", "and", "or", "at", "by", "from", "to", "its", "their", "is", "are", "over",
    "under", "among", "against", "behind", "before", "after", "above", "below", "between", "through", "around", "along",
    "near", "into", "out", "up", "down", "off", "close", "seen", "view", "part", "side", "front", "round", "small", "large",
    "old", "long", "tall", "one", "two", "three", "some", "many", "few", "very", "still", "lit", "standing", "pale", "dark",
}  # fmt: skip


def words_of(text: str) -> set[str]:
    found = (SAME.get(word, word) for word in re.findall(r"[a-z]+", text.lower()))
    return {word for word in found if word not in UNSEEN and len(word) > 2}


def samples(
    rows: list[dict[str, Any]], data: Path, seed: int
) -> tuple[np.ndarray, list[set[str]], np.ndarray]:
    """Features (n, F), words, and the number of the photograph of random crops; the first of each is the whole one."""
    random = np.random.default_rng(seed)
    found, words, owner, named = [], [], [], []
    for number, row in enumerate(rows):
        file = row["levels"][-1]["file"] if row.get("levels") else row["file"]
        pixels = (
            np.load(data / file)
            if file.endswith(".npy")
            else np.asarray(Image.open(data / file).convert("RGB"))
        )
        image = Image.fromarray(pixels[..., :3])
        for k in range(CROPS):
            least = 0.3 if row["boxes"] else 0.6  # with boxes small crops have words of their own
            share = 1.0 if k == 0 else random.uniform(least, 1)
            w, h = share, min(1.0, share * random.uniform(0.8, 1.25)) if k else 1.0
            x, y = random.uniform(0, 1 - w), random.uniform(0, 1 - h)
            box = (x, y, x + w, y + h)
            crop = image.crop(
                (
                    int(x * image.width),
                    int(y * image.height),
                    int((x + w) * image.width),
                    int((y + h) * image.height),
                )
            )
            if k % 2:
                crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            found.append(features(crop))
            named.append(colours(crop))
            words.append(_told(row, box))
            owner.append(number)
    return np.stack(found), words, np.array(owner), named


def _told(row: dict[str, Any], crop: tuple[float, float, float, float]) -> set[str]:
    """The words of a crop: those of the boxes it shows, else the photograph's."""
    left, top, right, bottom = crop
    said: set[str] = set()
    for x0, y0, x1, y1, text in row["boxes"]:
        common = max(0.0, min(right, x1) - max(left, x0)) * max(0.0, min(bottom, y1) - max(top, y0))
        if common >= 0.25 * (right - left) * (bottom - top) or common >= 0.5 * (x1 - x0) * (y1 - y0):
            said |= words_of(text)
    whole = (right - left) * (bottom - top) > 0.7
    return said | words_of(row["caption"]) if whole or not said else said


def fit(x: np.ndarray, y: np.ndarray, penalty: float) -> tuple[np.ndarray, np.ndarray]:
    """Logistic regressions (W, F) and (W,) with an L2 penalty, all words at once."""
    inputs, labels = torch.tensor(x), torch.tensor(y, dtype=torch.float32)
    rate = labels.mean(0).clamp(1e-3, 1 - 1e-3)
    weight = torch.zeros(y.shape[1], x.shape[1], requires_grad=True)
    bias = torch.logit(rate).clone().requires_grad_()
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(inputs @ weight.T + bias, labels)
        loss = loss + penalty * weight.square().sum() / y.shape[1]
        loss.backward()
        return loss

    optimizer.step(closure)
    return weight.detach().numpy(), bias.detach().numpy()


def threshold(logits: np.ndarray, y: np.ndarray) -> float:
    """The logit above which saying words is right oftenest (best F1 of all words), on crops that were not trained on."""
    limits = np.quantile(logits, np.linspace(0.7, 0.999, 60))
    return float(max(limits, key=lambda limit: score(said(logits - limit), y)["f1"]))


def said(margin: np.ndarray) -> np.ndarray:
    """(n, W) true where the tagger says a word: above the threshold, three at most."""
    rank = np.argsort(np.argsort(-margin, 1), 1)
    return (margin > 0) & (rank < MOST_WORDS)


def score(chosen: np.ndarray, y: np.ndarray) -> dict[str, float]:
    hits = float((chosen & (y > 0)).sum())
    precision, recall = hits / max(1.0, float(chosen.sum())), hits / max(1.0, float(y.sum()))
    f1 = 2 * precision * recall / max(1e-9, precision + recall)
    return {"precision": round(precision, 3), "recall": round(recall, 3), "f1": round(f1, 3),
            "words": round(float(chosen.sum(1).mean()), 2)}  # fmt: skip


def commonest(y: np.ndarray, count: int, rows: int) -> np.ndarray:
    """The baseline: the same `count` commonest words for everything."""
    chosen = np.zeros((rows, y.shape[1]), bool)
    chosen[:, np.argsort(-y.mean(0))[:count]] = True
    return chosen


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description="Train and measure the bundled tagger.")
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--out", type=Path, default=Path("assets/tagger"))
    arguments = parser.parse_args()
    rows = json.loads((arguments.data / "index.json").read_text())
    train = [row for row in rows if row["split"] == "train"]
    held = [row for row in rows if row["split"] in ("test", "validate")]
    count = Counter(
        word for row in train for word in words_of(" ".join([row["caption"], *(b[4] for b in row["boxes"])]))
    )
    words = sorted(
        word for word, n in count.items() if n >= LEAST_PHOTOGRAPHS and word not in COLOURS | {"pale", "dark"}
    )
    x, told, owner, _named = samples(train, arguments.data, 0)
    hx, htold, howner, hnamed = samples(held, arguments.data, 2)
    mean, spread = x.mean(0), x.std(0) + 1e-3
    z = (x - mean) / spread
    fold = np.random.default_rng(1).permutation(len(train))[owner] % FOLDS
    crossed: dict[str, float] = {}
    for last in (False, True):  # once to drop the words it does not learn, once without them
        y = np.array([[word in one for word in words] for one in told], np.float32)
        best = None
        for penalty in PENALTIES:
            logits = np.zeros_like(y)
            for k in range(FOLDS):
                weight, bias = fit(z[fold != k], y[fold != k], penalty)
                logits[fold == k] = z[fold == k] @ weight.T + bias
            limit = threshold(logits, y)
            result = score(said(logits - limit), y)
            print(f"{len(words)} words, penalty {penalty}: cross-validated {result}", flush=True)
            if best is None or result["f1"] > best[0]:
                best = (result["f1"], penalty, limit, result, said(logits - limit))
        assert best is not None
        _, penalty, limit, crossed, chosen = best
        if not last:
            right = [
                (chosen[:, k] & (y[:, k] > 0)).sum() / max(1, chosen[:, k].sum()) for k in range(len(words))
            ]
            words = [
                word for word, precision in zip(words, right, strict=True) if precision >= LEAST_PRECISION
            ]
    weight, bias = fit(z, y, penalty)
    whole = np.flatnonzero(np.r_[True, np.diff(howner) > 0])
    hy = np.array([[word in one for word in words] for one in htold], np.float32)
    margin = ((hx - mean) / spread) @ weight.T + bias - limit
    palette = sorted(COLOURS)
    seen, shown = (np.array([[c in one for c in palette] for one in many], bool) for many in (hnamed, htold))
    every = np.array([[c in one for c in palette] for one in told], np.float32)
    figures: dict[str, Any] = {
        "photographs": {"train": len(train), "held out": len(held)}, "words": words, "penalty": penalty,
        "things, cross-validated": crossed,
        "things, cross-validated, always the commonest": {n: score(commonest(y, n, len(y)), y) for n in (1, 2, 3)},
        "things, held out": score(said(margin)[whole], hy[whole]),
        "things, held out, always the commonest": {n: score(commonest(y, n, len(whole)), hy[whole]) for n in (1, 2, 3)},
        "colours, held out": score(seen[whole], shown[whole].astype(np.float32)),
        "colours, held out, always the commonest": {
            n: score(commonest(every, n, len(whole)), shown[whole].astype(np.float32)) for n in (1, 2)
        },
    }  # fmt: skip
    print(json.dumps(figures, indent=1))
    for row, margins, tones in zip(held, margin[whole], [hnamed[k] for k in whole], strict=True):
        picks = [words[k] for k in np.argsort(-margins)[:MOST_WORDS] if margins[k] > 0]
        print(row["caption"], "->", ", ".join([*tones, *picks]))
    arguments.out.mkdir(parents=True, exist_ok=True)
    limits = np.full(len(words), limit)
    tensors = {"matrix": weight, "bias": bias, "threshold": limits, "mean": mean, "spread": spread}
    save_file(
        {name: np.ascontiguousarray(value, np.float32) for name, value in tensors.items()},
        arguments.out / "tagger.safetensors",
        metadata={"words": json.dumps(words)},
    )
    (arguments.out / "tagger.safetensors").chmod(0o644)
    (arguments.out / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
