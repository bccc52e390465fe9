"""Many images with one load of the model: each through the same pipeline, a failed one does not stop the others."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cupscale import images
from cupscale.captioners import Captioning
from cupscale.errors import NO_MEMORY, CupscaleError
from cupscale.events import Event, Finished, Result
from cupscale.files import STREAM, Job, find_images, make_folder, plan_jobs
from cupscale.pipeline import CUpscalePipeline
from cupscale.planning import Target, drawn_size, output_size, take_target
from cupscale.processes import own_share
from cupscale.saving import Saving
from cupscale.settings import Settings

PLAIN = Saving()


@dataclass(frozen=True)
class Started:
    """Image `number` (from 1) of `total` begins."""

    job: Job
    number: int
    total: int


@dataclass(frozen=True)
class Done:
    """The end of one image.

    Attributes:
        job: Its source and target.
        result: None where it failed or was skipped.
        error: Why it failed, in one line; None where it did not.
    """

    job: Job
    result: Result | None = None
    error: str | None = None


def run_jobs(
    pipeline: CUpscalePipeline,
    jobs: Sequence[Job],
    settings: Callable[[tuple[int, int]], Settings],
    *,
    captioning: Captioning | None = None,
    saving: Saving = PLAIN,
    opened: images.Picture | None = None,
    mask: images.Picture | None = None,
) -> Generator[Started | Event | Done, None, None]:
    """The events of all images, one after the other. Each result is written before its Done.

    Args:
        pipeline: The model, loaded.
        jobs: The images, and where their results go.
        settings: Of the run of one image of that (width, height): a target size gives each its own scale.
        captioning: Of the runs.
        saving: How results are written.
        opened: The first image, where the caller has decoded it already.
        mask: Of the first image.
    """
    for number, job in enumerate(jobs, 1):
        yield Started(job, number, len(jobs))
        if job.skip:
            yield Done(job)
            continue
        try:
            picture = opened if number == 1 and opened else images.read(job.source) if job.source else None
            result = yield from _run_job(pipeline, job, settings, captioning, saving, picture, mask)
            yield Done(job, result)
        except CupscaleError as error:
            yield Done(job, error=str(error))
        except MemoryError:
            yield Done(job, error=NO_MEMORY)


def _run_job(
    pipeline: CUpscalePipeline,
    job: Job,
    settings: Callable[[tuple[int, int]], Settings],
    captioning: Captioning | None,
    saving: Saving,
    picture: images.Picture | None,
    mask: images.Picture | None,
) -> Generator[Event, None, Result]:
    size = picture.size if picture else drawn_size(job.size, pipeline.backbone.geometry)
    chosen = settings(size)
    if job.target != STREAM:
        saving.check(job.target, size=output_size(size, chosen.scale), picture=picture, bits=pipeline.bits)
    result = None
    with contextlib.closing(pipeline.stream(picture, chosen, captioning=captioning, mask=mask)) as events:
        for event in events:
            if isinstance(event, Finished):
                result = event.result
            yield event
    assert result is not None
    if job.target == STREAM:
        sys.stdout.buffer.write(saving.encode(result, f"stdout{job.suffix}"))
        sys.stdout.buffer.flush()
    else:
        saving.write(result, job.target)
    return result


def assist(
    pipeline: CUpscalePipeline,
    jobs: Sequence[Job],
    settings: Callable[[tuple[int, int]], Settings],
    opened: images.Picture | None = None,
) -> None:
    """Do this process' part of a picture that several make together; the main one writes it.

    Args:
        pipeline: Its model, with this process' share.
        jobs: Of which one is not left out.
        settings: See `run_jobs`.
        opened: See `run_jobs`.
    """
    for job in (job for job in jobs if not job.skip):
        picture = opened or (images.read(job.source) if job.source else None)
        size = picture.size if picture else drawn_size(job.size, pipeline.backbone.geometry)
        pipeline.upscale(picture, settings(size))


def upscale_many(
    pipe: Any,
    files: str | Path | Iterable[str | Path],
    out: str | Path | None = None,
    *,
    recursive: bool = False,
    skip_existing: bool = False,
    overwrite: bool = False,
    suffix: str | None = ".png",
    target: Target | None = None,
    preset: str | None = None,
    captioning: Captioning | None = None,
    bits: int = 8,
    saving: Saving = PLAIN,
    **fields: Any,
) -> Generator[Done, None, None]:
    """Upscale files and folders; one Done an image, as it ends.

    Args:
        pipe: A diffusers pipeline.
        files: Images, folders, patterns; one alone is taken, too.
        out: A folder for the results; None for beside each image.
        recursive: Look into the folders inside folders, too.
        skip_existing: Leave results alone that are there, and their images out: the same call goes on where it stopped.
        overwrite: Replace results that are there.
        suffix: Of the results; None for that of each image.
        target: A size to reach, in place of a scale; or one of the fields names it, as in `CUpscalePipeline.stream`.
        preset: See `CUpscalePipeline.stream`.
        captioning: See `CUpscalePipeline.stream`.
        bits: See `CUpscalePipeline`.
        saving: How results are written.
        **fields: Single settings.

    Yields:
        One Done for each image as it ends, with its target or its error.

    Raises:
        CupscaleError: Bad arguments, at the first step; what is wrong with one image is in its Done.
    """
    target = target or take_target(fields)
    pipeline = CUpscalePipeline(pipe, preview_px=0, bits=bits)
    usual = pipeline.settings(preset, **fields)

    def settings(size: tuple[int, int]) -> Settings:
        return usual if target is None else usual.at_scale(target.scale(size))

    folder = None if out is None else Path(out)
    sources = find_images(_paths(files), recursive=recursive)
    if folder is not None:
        make_folder(folder)
    jobs = plan_jobs(
        sources, folder, usual, target=target, suffix=suffix, overwrite=overwrite, skip_existing=skip_existing
    )
    for event in run_jobs(pipeline, own_share(jobs), settings, captioning=captioning, saving=saving):
        if isinstance(event, Done):
            yield event


def _paths(files: Any) -> list[Path]:
    if isinstance(files, (str, os.PathLike)):
        files = [files]
    try:
        return [Path(file) for file in files]
    except TypeError:
        raise CupscaleError(
            "files are names of images, folders and patterns: a picture in memory goes to cupscale.upscale"
        ) from None
