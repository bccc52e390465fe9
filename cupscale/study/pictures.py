"""The pictures as a voter's browser gets them: PNGs of the pixels alone.

The files of rows may differ in format, and results hold their settings inside. Decoded and encoded anew, nothing but pixels is
left to tell one row from another; what was lossless stays so.
"""

from __future__ import annotations

import os
import secrets
import threading
from collections import OrderedDict
from pathlib import Path

from PIL import Image

from cupscale import images
from cupscale.study.pairs import MAX_BYTES, MAX_PIXELS, Asked, Study

KEPT_BYTES = 2**32  # of encoded pictures on disk; the least recently shown go first
SPOILT_PX = 72  # longer side that a spoilt picture of an attention check keeps
_PNG_LEVEL = 1  # 4096 x 4096 in 0.9 s, against 4 s at level 6 for a file smaller by a sixth
_AT_ONCE = 2  # pictures decoded at a time: a large one takes some hundred megabytes


class Pictures:
    """The pictures of one study, encoded when they are first asked for."""

    def __init__(self, study: Study, folder: Path, kept_bytes: int = KEPT_BYTES) -> None:
        """Nothing is encoded yet.

        Args:
            study: Whose files are shown.
            folder: For what is encoded; empty, and removed by the caller.
            kept_bytes: That it may hold.
        """
        self._study = study
        self._folder = folder
        self._kept_bytes = kept_bytes
        self._kept: OrderedDict[tuple[Path, bool], Path] = OrderedDict()
        self._lock = threading.Lock()
        self._room = threading.Semaphore(_AT_ONCE)

    def side(self, asked: Asked, side: str) -> bytes:
        """The picture on one side of a question.

        Args:
            asked: The question.
            side: "first" or "second"; in an attention check the one not expected is spoilt.

        Raises:
            CupscaleError: Its file cannot be read.
        """
        row = asked.first if side == "first" else asked.second
        return self._encoded(self._study.files[asked.image][row], asked.expected not in ("", side))

    def original(self, asked: Asked) -> bytes | None:
        """The input of the image that is asked about; None where the study has none.

        Raises:
            CupscaleError: Its file cannot be read.
        """
        file = self._study.inputs.get(asked.image)
        return None if file is None else self._encoded(file, False)

    def _encoded(self, file: Path, spoilt: bool) -> bytes:
        key = (file, spoilt)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key].read_bytes()
        with self._room:
            target = self._folder / f"{secrets.token_hex(16)}.png"
            picture = images.read(file, max_pixels=MAX_PIXELS, max_bytes=MAX_BYTES)
            picture = spoil(picture) if spoilt else picture
            image = images.finish(picture.rgb, picture.alpha)
            image.save(target, "PNG", compress_level=_PNG_LEVEL)
        with self._lock:
            data = target.read_bytes()
            if key in self._kept:  # encoded twice at once
                os.unlink(target)
            else:
                self._kept[key] = target
            self._make_room()
        return data

    def _make_room(self) -> None:
        while (
            len(self._kept) > 1
            and sum(path.stat().st_size for path in self._kept.values()) > self._kept_bytes
        ):
            self._kept.popitem(last=False)[1].unlink()


def spoil(picture: images.Picture) -> images.Picture:
    """What an attention check shows beside a picture: the same, so blurred that everyone who looks tells them apart."""
    share = SPOILT_PX / max(picture.size)
    width, height = picture.size
    small = picture.rgb.resize(
        (max(1, round(width * share)), max(1, round(height * share))), Image.Resampling.BOX
    )
    return images.Picture(small.resize(picture.size, Image.Resampling.BILINEAR), picture.alpha)
