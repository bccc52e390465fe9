"""Metrics that take weights which are not part of this project.

None is downloaded unless a command names its metric. Where a package or its weights are not there, `Unavailable` says what is
missing, and the metric's column stays empty.

- FID, KID and their patches, and the inception score: torchmetrics, whose Inception network comes with torch-fidelity.
- LPIPS and DISTS: torchmetrics, whose networks come with torchvision.
- CLIP score: transformers.
- MUSIQ, CLIP-IQA and BRISQUE: pyiqa, which is licensed for non-commercial use only and is never required here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from typing import Any

import numpy as np
import torch
from PIL import Image

from cupscale.errors import CupscaleError
from cupscale.metrics.base import Case, Metric

CLIP_MODEL = "openai/clip-vit-large-patch14"
INCEPTION = 2048  # of its features
PATCHES = 50  # a picture, in patch FID and patch KID
PATCH_PX = 299  # the Inception network's own size; smaller pictures are taken whole
SEED = 0
INF = math.inf


class Unavailable(CupscaleError):
    """A metric cannot be computed here; the line says what is missing."""


def _available(build: Callable[[], Any], needs: str) -> Any:
    """What `build` gives; where it cannot, `needs` in words.

    Raises:
        Unavailable: A package or weights are missing.
    """
    try:
        return build()
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise Unavailable(f"it needs {needs} ({said[:160]})") from None


def bytes_of(image: Image.Image) -> torch.Tensor:
    """(1, 3, H, W) of 8 bits."""
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)[None]


# Of sets of pictures

Pictures = Sequence[Callable[[], Image.Image]]
"""Opened one at a time: a set of large pictures does not fit into memory."""


@dataclass(frozen=True)
class SetMetric:
    """A figure of all results of a row together; it has no interval, since it is none of a single picture.

    Attributes:
        name: For commands and files.
        title: For people.
        source: Where it was published.
        better: "higher" or "lower".
        measure: Of results, and of real pictures to compare with; it raises `Unavailable`.
        needs_real: Whether the real pictures are looked at.
    """

    name: str
    title: str
    source: str
    better: str
    measure: Callable[[Pictures, Pictures], float]
    needs_real: bool = True


def crops(
    image: Image.Image, count: int = PATCHES, side: int = PATCH_PX, seed: int = SEED
) -> list[Image.Image]:
    """Random squares of a picture."""
    random = np.random.default_rng(seed)
    side = min(side, *image.size)
    lefts = random.integers(0, image.width - side + 1, count)
    tops = random.integers(0, image.height - side + 1, count)
    return [
        image.crop((x, y, x + side, y + side)) for x, y in zip(lefts.tolist(), tops.tolist(), strict=True)
    ]


def _each(pictures: Pictures, patches: bool) -> Iterable[torch.Tensor]:
    for number, opened in enumerate(pictures):
        image = opened()
        for one in crops(image, seed=SEED + number) if patches else [image]:
            yield bytes_of(one)


def _fid(**options: Any) -> Any:
    from torchmetrics.image.fid import FrechetInceptionDistance

    return FrechetInceptionDistance(**options)


def _kid(**options: Any) -> Any:
    from torchmetrics.image.kid import KernelInceptionDistance

    return KernelInceptionDistance(**options)


def compared(
    distance: Callable[..., Any],
    results: Pictures,
    real: Pictures,
    *,
    patches: bool = False,
    feature: Any = INCEPTION,
    **options: Any,
) -> float:
    """The Fréchet or the kernel distance of torchmetrics.

    Args:
        distance: `_fid` or `_kid`.
        results: Pictures.
        real: Likewise.
        patches: Of random squares of them, `PATCHES` a picture.
        feature: A network (B, 3, H, W) of 8 bits -> (B, D); torch-fidelity's by default.
        **options: Of torchmetrics.

    Raises:
        Unavailable: Package, weights, or pictures are missing.
    """
    count = len(results) * (PATCHES if patches else 1), len(real) * (PATCHES if patches else 1)
    if min(count) < 2:
        raise Unavailable("it needs two pictures at least, of the row and of --real")
    if distance is _kid:
        options = {"subset_size": min(1000, *count)} | options
    metric = _available(
        lambda: distance(feature=feature, **options),
        "torch-fidelity and its Inception weights",
    )
    for real_ones, pictures in ((True, real), (False, results)):
        for one in _each(pictures, patches):
            metric.update(one, real=real_ones)
    found = metric.compute()
    return float(found[0] if isinstance(found, tuple) else found)


def inception_score(results: Pictures, real: Pictures, feature: Any = "logits_unbiased") -> float:
    """Salimans et al. 2016, in ten parts, or in as many as there are pictures."""
    parts = min(10, len(results))
    if parts < 2:
        raise Unavailable("it needs two pictures at least")

    def build() -> Any:
        from torchmetrics.image.inception import InceptionScore

        return InceptionScore(feature=feature, splits=parts)

    metric = _available(build, "torch-fidelity and its Inception weights")
    for one in _each(results, False):
        metric.update(one)
    return float(metric.compute()[0])


def _distance(distance: Callable[..., Any], patches: bool) -> Callable[[Pictures, Pictures], float]:
    return lambda results, real: compared(distance, results, real, patches=patches)


_HEUSEL = "Heusel et al. 2017, arXiv 1706.08500"
_BINKOWSKI = "Bińkowski et al. 2018, arXiv 1801.01401"
_OF_PATCHES = f"{PATCHES} random squares of {PATCH_PX} px a picture"
_SETS = (
    SetMetric("fid", "FID", _HEUSEL, "lower", _distance(_fid, False)),
    SetMetric("kid", "KID", _BINKOWSKI, "lower", _distance(_kid, False)),
    SetMetric(
        "patch_fid",
        "Patch FID",
        f"{_HEUSEL}, {_OF_PATCHES}",
        "lower",
        _distance(_fid, True),
    ),
    SetMetric(
        "patch_kid",
        "Patch KID",
        f"{_BINKOWSKI}, {_OF_PATCHES}",
        "lower",
        _distance(_kid, True),
    ),
    SetMetric(
        "is",
        "Inception score",
        "Salimans et al. 2016, arXiv 1606.03498",
        "higher",
        inception_score,
        needs_real=False,
    ),
)
SET_METRICS: dict[str, SetMetric] = {metric.name: metric for metric in _SETS}


# Of single pictures


@lru_cache(maxsize=1)
def _clip(model: str) -> tuple[Any, Any]:
    from transformers import CLIPModel, CLIPProcessor

    def build() -> tuple[Any, Any]:
        return CLIPModel.from_pretrained(model).eval(), CLIPProcessor.from_pretrained(model)

    return _available(build, f"the weights of {model}")


@torch.no_grad()
def clip_score(pairs: Sequence[tuple[Image.Image, str]], model: str = "") -> float:
    """The mean over pairs of 100 times the cosine of a picture's and a text's embeddings, at least 0 (Hessel et al. 2021).

    Args:
        pairs: Pictures and texts; those without a text are left out.
        model: Of the hub, or a folder; `CLIP_MODEL` by default.

    Returns:
        NaN where there is no text.

    Raises:
        Unavailable: The model is not here.
    """
    told = [(image, text) for image, text in pairs if text.strip()]
    if not told:
        return math.nan
    network, processor = _clip(model or CLIP_MODEL)
    scores = []
    for image, text in told:
        inputs = processor(
            images=image.convert("RGB"), text=[text], return_tensors="pt", padding=True, truncation=True
        )
        found = network(**inputs)
        scores.append(float(torch.cosine_similarity(found.image_embeds, found.text_embeds)[0].clamp(min=0)))
    return 100 * sum(scores) / len(scores)


def _clip_of_regions(case: Case) -> float:
    return clip_score([(case.large.crop(box), text) for box, text in case.regions])


@lru_cache(maxsize=1)
def _lpips() -> Any:
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

    return LearnedPerceptualImagePatchSimilarity(net_type="alex", normalize=True)


@lru_cache(maxsize=1)
def _dists() -> Any:
    from torchmetrics.image.dists import DeepImageStructureAndTextureSimilarity

    return DeepImageStructureAndTextureSimilarity()


@lru_cache(maxsize=3)
def _pyiqa(name: str) -> Any:
    return import_module("pyiqa").create_metric(name)


def lpips(case: Case) -> float:
    """Of the result made small again and the input."""
    metric = _available(_lpips, "torchvision and its weights")
    return float(metric(bytes_of(case.again) / 255, bytes_of(case.small) / 255))


def dists(case: Case) -> float:
    """Likewise."""
    metric = _available(_dists, "torchvision and its weights")
    return float(metric(bytes_of(case.again) / 255, bytes_of(case.small) / 255))


def _rated(name: str) -> Callable[[Case], float]:
    def measure(case: Case) -> float:
        metric = _available(lambda: _pyiqa(name), "pyiqa and its weights")
        return float(metric(bytes_of(case.large) / 255))

    return measure


_CLIP = "Hessel et al. 2021, arXiv 2104.08718"
_SINGLE = (
    Metric(
        "lpips",
        "LPIPS, made small again",
        "Zhang et al. 2018, arXiv 1801.03924",
        0,
        INF,
        "lower",
        lpips,
        digits=4,
    ),
    Metric(
        "dists",
        "DISTS, made small again",
        "Ding et al. 2020, arXiv 2004.07728",
        0,
        1,
        "lower",
        dists,
        digits=4,
    ),
    Metric(
        "clip", "CLIP score", _CLIP, 0, 100, "higher", lambda case: clip_score([(case.large, case.prompt)])
    ),
    Metric("clip_regions", "CLIP score of regions", _CLIP, 0, 100, "higher", _clip_of_regions),
    Metric("musiq", "MUSIQ", "Ke et al. 2021, arXiv 2108.05997", 0, 100, "higher", _rated("musiq")),
    Metric("clipiqa", "CLIP-IQA", "Wang et al. 2022, arXiv 2207.12396", 0, 1, "higher", _rated("clipiqa")),
    Metric("brisque", "BRISQUE", "Mittal et al. 2012", 0, INF, "lower", _rated("brisque")),
)
LEARNED: dict[str, Metric] = {metric.name: metric for metric in _SINGLE}
