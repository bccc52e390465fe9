"""Moving pictures: GIF, APNG and WebP, frame by frame with one noise and the settings of the first frame (ours).

Nothing else holds the frames together. The prompt, the captions, the base upscaler and the fidelity that were chosen for the
first frame hold for all of them, so that what is still in the film does not change its look for those reasons.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from PIL import Image, PngImagePlugin

from cupscale import images
from cupscale.batch import Done, Started
from cupscale.errors import CupscaleError
from cupscale.events import Event, Finished, Planned, Result
from cupscale.files import Job
from cupscale.images.settings_text import KEY
from cupscale.images.sources import content
from cupscale.method.sampler import Notice
from cupscale.planning import output_size

if TYPE_CHECKING:
    from cupscale.captioners import Captioning
    from cupscale.pipeline import CUpscalePipeline
    from cupscale.settings import Settings

KINDS = {".gif": "GIF", ".png": "PNG", ".webp": "WEBP"}
MAX_FRAMES = 500
MAX_FILM_PX = 2**27  # of all frames together: they lie in memory until the file is written
_USUAL_MS = 100
_WEBP_FLAGS, _WEBP_ALPHA = 20, 0x10  # in the chunk VP8X, which stands first in every moving WebP


@dataclass(frozen=True)
class Film:
    """A moving picture.

    Attributes:
        frames: Decoded.
        durations: Of each, in milliseconds.
        loop: How often it is shown; 0 for ever. None: its file has no count, and it is shown once.
    """

    frames: Sequence[images.Picture]
    durations: Sequence[int]
    loop: int | None = 0


def read_film(source: Path | BinaryIO) -> Film:
    """All frames of a GIF, APNG or WebP, a file or an open one.

    Raises:
        CupscaleError: It is none of these, has one frame, or more frames or pixels than are taken.
    """
    name, data = content(source, images.MAX_BYTES)
    images.read(data)  # the first frame, with the limits and the words of every input
    try:
        opened = Image.open(io.BytesIO(data), formats=list(KINDS.values()))
    except Exception:  # hostile headers raise nearly anything
        raise CupscaleError(f"{name} is no moving picture: give a GIF, APNG or WebP") from None
    with opened as image:
        frames: list[images.Picture] = []
        durations: list[int] = []
        while True:
            if len(frames) == MAX_FRAMES or (len(frames) + 1) * image.width * image.height > MAX_FILM_PX:
                raise CupscaleError(
                    f"{name} has more than {len(frames)} frames of {image.width} x {image.height}, the limit: cut it, or make it "
                    "single pictures with ffmpeg"
                )
            frames.append(_frame(name, image, len(frames) + 1))
            durations.append(int(image.info.get("duration") or _USUAL_MS))
            try:
                image.seek(len(frames))
            except EOFError:
                break
            except Exception:  # a damaged frame raises nearly anything
                raise _damaged(name, len(frames) + 1) from None
        return Film(frames, durations, image.info.get("loop"))


def _frame(name: str, image: Image.Image, number: int) -> images.Picture:
    try:
        return images.read(image.convert("RGBA"))
    except CupscaleError:
        raise
    except Exception:  # as above
        raise _damaged(name, number) from None


def _damaged(name: str, number: int) -> CupscaleError:
    return CupscaleError(f"{name} is damaged at frame {number}; save it again")


def check_film(film: Film, target: Path, scale: float, bits: int) -> str:
    """Refuse before a run what could not be written after it; Pillow's name of the format.

    Raises:
        CupscaleError: One frame, a format that does not move, too many pixels in all, 16 bits.
    """
    if len(film.frames) < 2:
        raise CupscaleError("the file has one frame: leave --frames out")
    kind = KINDS.get(target.suffix.lower())
    if kind is None:
        raise CupscaleError(f"'{target}': moving pictures are written as .gif, .png (APNG) or .webp")
    if bits != 8:
        raise CupscaleError("moving pictures have 8 bits: leave --bits out")
    size = output_size(film.frames[0].size, scale)
    pixels = size[0] * size[1] * len(film.frames)
    if pixels > MAX_FILM_PX:
        raise CupscaleError(
            f"{len(film.frames)} frames of {size[0]} x {size[1]} are {pixels / 1e6:.0f} megapixels, the limit is "
            f"{MAX_FILM_PX / 1e6:.0f}: choose a smaller scale, or make it single pictures with ffmpeg"
        )
    return kind


def run_film(
    pipeline: CUpscalePipeline,
    film: Film,
    job: Job,
    settings: Settings,
    *,
    captioning: Captioning | None = None,
    quality: int = 95,
) -> Generator[Started | Event | Done, None, None]:
    """The events of all frames; what is planned and noted, of the first alone. The file is written before Done.

    Raises:
        CupscaleError: As `check_film` and as a run.
    """
    kind = check_film(film, job.target, settings.scale, pipeline.bits)
    done: list[Image.Image] = []
    first: Result | None = None
    for number, frame in enumerate(film.frames, 1):
        yield Started(job, number, len(film.frames))
        chosen = settings if first is None else first.settings
        writer = captioning if first is None else None
        with contextlib.closing(pipeline.stream(frame, chosen, captioning=writer)) as events:
            for event in events:
                if isinstance(event, Finished):
                    first = first or event.result
                    done.append(event.result.image)
                elif first is None or not isinstance(event, (Planned, Notice)):
                    yield event
    assert first is not None
    images.write_bytes(encode_film(done, film, kind, first.settings.to_json(), quality), job.target)
    yield Done(job, first)


def encode_film(
    frames: Sequence[Image.Image], film: Film, kind: str, settings_json: str, quality: int
) -> memoryview:
    """The file of a moving picture, with the settings inside where the format has room for them: APNG and WebP."""
    modes = {frame.mode for frame in frames}
    mode = modes.pop() if len(modes) == 1 else "RGBA" if "RGBA" in modes else "RGB"
    whole = [frame.convert(mode) for frame in frames]
    if kind == "GIF" and mode == "RGBA":  # whose transparency is one colour
        for frame in whole:
            frame.putalpha(frame.getchannel("A").point([0] * 128 + [255] * 128))
    options: dict[str, Any] = {"save_all": True, "append_images": whole[1:]}
    options["duration"] = list(film.durations)
    if film.loop is not None or kind != "GIF":
        options["loop"] = 1 if film.loop is None else film.loop
    if kind == "PNG":
        options["pnginfo"] = PngImagePlugin.PngInfo()
        options["pnginfo"].add_itxt(KEY, settings_json)
    elif kind == "WEBP":
        exif = Image.Exif()
        images.put_settings(exif, settings_json, kind)
        options |= {"quality": quality, "exif": exif}
    else:
        options["disposal"] = 2 if mode == "RGBA" else 0
    buffer = io.BytesIO()
    whole[0].save(buffer, kind, **options)
    data = buffer.getbuffer()
    if kind == "WEBP" and mode == "RGBA":
        data[_WEBP_FLAGS] |= (
            _WEBP_ALPHA  # the encoder leaves it out where each frame's own rectangle is opaque
        )
    return data
