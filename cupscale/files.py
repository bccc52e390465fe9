"""Which files a command reads, and where its results go. Nothing is overwritten by accident."""

from __future__ import annotations

import glob
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cupscale.errors import CupscaleError
from cupscale.images import READABLE_SUFFIXES, SUFFIXES
from cupscale.planning import Target
from cupscale.settings import Settings

STREAM = Path("-")  # stdin as an image, stdout as a result
NAME_BYTES = 255  # of one name, on common file systems


@dataclass(frozen=True)
class Job:
    """One image of a command.

    Attributes:
        source: Its file; None where the picture is drawn from words.
        target: Where the result goes.
        skip: The result is there already, and is to be left alone.
        size: Of the picture that is drawn from words, as `Settings.size`.
        suffix: Of the format, where the target is stdout.
    """

    source: Path | None
    target: Path
    skip: bool = False
    size: str = ""
    suffix: str = ".png"


def find_images(given: Iterable[Path], *, recursive: bool = False) -> list[Path]:
    """The files that arguments name: files themselves, the images in folders, and what patterns match.

    Args:
        given: Paths and patterns. A path that exists is never taken for a pattern.
        recursive: Look into the folders inside folders, too.

    Returns:
        Each file once, in the order of the arguments; within a folder by name.

    Raises:
        CupscaleError: A folder or a pattern with no image in it.
    """
    found: dict[str, Path] = {}
    for path in given:
        for file in _named_by(path, recursive):
            found.setdefault(os.path.realpath(file), file)
    return list(found.values())


def _named_by(path: Path, recursive: bool) -> Sequence[Path]:
    if path.is_dir():
        walk = path.rglob("*") if recursive else path.glob("*")
        files = sorted(file for file in walk if file.suffix.lower() in READABLE_SUFFIXES and file.is_file())
        if not files:
            deeper = "" if recursive else ", or look deeper with --recursive"
            raise CupscaleError(f"no image in the folder '{path}': give one with images in it{deeper}")
        return files
    if not os.path.lexists(path) and glob.has_magic(str(path)):
        files = [Path(name) for name in sorted(glob.glob(str(path), recursive=recursive))]
        if not files:
            raise CupscaleError(f"no file matches '{path}': check the pattern")
        return files
    return [path]


def plan_jobs(
    sources: Sequence[Path | None],
    out: Path | None,
    settings: Settings,
    *,
    target: Target | None = None,
    suffix: str | None = None,
    overwrite: bool = False,
    skip_existing: bool = False,
) -> list[Job]:
    """Where the result of every source goes.

    Args:
        sources: The images; None for one that is drawn from the prompt, whose words make its name.
        out: A file for one image, a folder for several; None for beside each, or for the folder one is in.
        settings: Of the run, whose scale and seed the names hold.
        target: A size in place of the scale, which the names hold then.
        suffix: Of the names that are made, such as ".png"; None for the source's own where it can be written.
        overwrite: Replace what is there.
        skip_existing: Leave what is there alone, and its source out.

    Raises:
        CupscaleError: A result that would replace its input, or a file that is there and neither flag says what to do.
    """
    several = len(sources) > 1
    if several and (STREAM in sources or out == STREAM):
        raise CupscaleError(
            f"'-' is one image, and {len(sources)} are given: give one, or names and a folder"
        )
    if out == STREAM or (out is None and sources == [STREAM]):
        drawn = settings.size if sources == [None] else ""
        return [Job(sources[0], STREAM, size=drawn, suffix=suffix or _stream_suffix(sources[0]))]
    size = f"x{settings.scale:.6g}" if target is None else target.label
    if several and out is not None and out.is_file():
        raise CupscaleError(f"'{out}' is a file and there are {len(sources)} images: give a folder")
    stems = Counter(source.stem for source in sources if source)
    named = []
    for source in sources:
        if out is None or several or out.is_dir():
            beside, stem, kept = _origin(source, stems, settings.prompt)
            name = result_name(stem, f"-{size}-seed{settings.seed}{suffix or kept}")
            path, made = (beside if out is None else out) / name, True
        else:
            path, made = out, False
        named.append((source, path, made))
    return _jobs(named, settings.size, overwrite, skip_existing)


def _jobs(
    named: Sequence[tuple[Path | None, Path, bool]], size: str, overwrite: bool, skip_existing: bool
) -> list[Job]:
    """Of sources, their targets, and whether the command made the target's name.

    A result that lies among the images, from an earlier run of the same command, is no image of its own.
    """
    inputs = {os.path.realpath(source) for source, _, _ in named if source}
    results = {os.path.realpath(path) for _, path, made in named if made}
    taken: set[str] = set()
    jobs = []
    for source, path, made in named:
        if skip_existing and source and os.path.realpath(source) in results:
            jobs.append(Job(source, source, skip=True))
            continue
        if overwrite and not skip_existing and len(named) > 1 and os.path.realpath(path) in inputs:
            raise CupscaleError(
                f"the result of '{source}' would replace '{path}', which is to be enlarged too: give a folder with --out"
            )
        job = _job(source, path, made, taken, overwrite, skip_existing)
        jobs.append(job if source else replace(job, size=size))
        taken.add(os.path.realpath(jobs[-1].target))
    return jobs


def _stream_suffix(source: Path | None) -> str:
    return ".png" if source is None or source == STREAM else _kept(source.suffix)


def _origin(source: Path | None, stems: Mapping[str, int], prompt: str) -> tuple[Path, str, str]:
    """The folder, the stem and the suffix that a made name takes from its source, or from the words of a prompt."""
    if source is None:
        return Path(), "-".join(re.findall(r"\w+", prompt.lower())[:8]) or "picture", ".png"
    return source.parent, source.stem if stems[source.stem] == 1 else source.name, _kept(source.suffix)


def _job(
    source: Path | None, target: Path, made: bool, taken: set[str], overwrite: bool, skip_existing: bool
) -> Job:
    if source is not None and _is_same(source, target):
        raise CupscaleError(f"the result would replace its input '{source}': choose another name for it")
    there = os.path.lexists(target)
    if os.path.realpath(target) in taken or (there and made and not overwrite and not skip_existing):
        return Job(source, _free(target, taken))
    if there and not overwrite and not skip_existing and not os.path.isdir(target):
        raise CupscaleError(f"'{target}' is there already: add --overwrite, --skip-existing, or another name")
    return Job(source, target, skip=there and skip_existing)


def _is_same(one: Path, other: Path) -> bool:
    """Whether two names are of one file: by symbolic and hard links, and where the case of letters does not count."""
    if os.path.realpath(one) == os.path.realpath(other):
        return True
    try:
        return os.path.samefile(one, other)
    except OSError:  # one of them is not there
        return False


def make_folder(folder: Path) -> None:
    """Make a folder for results, and those that it lies in.

    Raises:
        CupscaleError: It cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CupscaleError(f"the folder '{folder}' cannot be made: {error.strerror}") from None


def result_name(stem: str, rest: str) -> str:
    """'photo' and '-x4-seed7.png' as one name, the stem cut to what a file system takes."""
    room = NAME_BYTES - len(rest.encode()) - len("-9999")
    return stem.encode()[:room].decode(errors="ignore") + rest


def _free(target: Path, taken: set[str]) -> Path:
    """The first of 'name-2.png', 'name-3.png' ... that is not there."""
    for number in range(2, 10000):
        candidate = target.with_name(f"{target.stem}-{number}{target.suffix}")
        if not os.path.lexists(candidate) and os.path.realpath(candidate) not in taken:
            return candidate
    raise CupscaleError(f"there are 9999 results named like '{target}': give a name, or another folder")


def _kept(suffix: str) -> str:
    return suffix.lower() if suffix.lower() in SUFFIXES else ".png"
