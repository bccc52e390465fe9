"""`cupscale reproduce`."""

from __future__ import annotations

import hashlib
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource
from tqdm import tqdm

from cupscale.cli import FILE, MODEL_FLAGS, Hardware
from cupscale.errors import CupscaleError
from cupscale.settings import MAX_SCALE, PRESETS

if TYPE_CHECKING:
    from cupscale.metrics import Metric
    from cupscale.metrics.learned import SetMetric
    from cupscale.reproduce.inputs import Input, Item
    from cupscale.reproduce.rows import Row
    from cupscale.reproduce.run import Step
    from cupscale.reproduce.runner import Options, Runner

MAX_SEEDS = 1000


class Seeds(click.ParamType[tuple[int, ...]]):
    """'0,3,7' or '0-4' to the seeds."""

    name = "SEEDS"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, tuple):
            return value
        found: list[int] = []
        for part in str(value).split(","):
            first, dash, last = part.strip().partition("-")
            ends = (first, last) if dash else (first, first)
            if not all(end.isdecimal() and int(end) < 2**32 for end in ends):
                self.fail(f"{value!r} is not a list of seeds, such as 0,3,7 or 0-4", param, ctx)
            if int(ends[1]) - int(ends[0]) >= MAX_SEEDS:
                self.fail(f"{value!r} has more than {MAX_SEEDS} seeds", param, ctx)
            found += range(int(ends[0]), int(ends[1]) + 1)
        if not found or len(set(found)) != len(found):
            self.fail(f"{value!r} has no seed, or one twice", param, ctx)
        return tuple(found)


@dataclass(frozen=True)
class _Wanted:
    """What a command asks for, checked before a model is loaded."""

    inputs: list[Input]
    items: list[Item]
    rows: list[Row]
    metrics: list[Metric]
    set_metrics: list[SetMetric]
    real: list[Path]


@click.command()
@click.option(
    "--images",
    type=FILE,
    help="A folder of images, a pattern, or one image. FILE.txt beside one: its prompt.",
)
@click.option("--prompts", type=FILE, help="A text file, a prompt a line: each is drawn first, by the model.")
@click.option(
    "--out", "-o", type=FILE, required=True, help="The folder of the run. The same command goes on in it."
)
@click.option(
    "--rows",
    default="ablation",
    show_default=True,
    help="Rows and groups of rows, with commas: ablation, presets, peers, or single ones. Plain enlargements are always there.",
)
@click.option("--table", "tables", type=FILE, multiple=True, help="A TOML file with more rows.")
@click.option("--scale", type=click.FloatRange(1, MAX_SCALE), default=4.0, show_default=True)
@click.option("--model", default="tiny", show_default=True, help="Model name, hub id or folder.")
@click.option("--seeds", type=Seeds(), default="0", show_default=True, help="Such as 0,3,7 or 0-4.")
@click.option(
    "--reduce",
    type=click.IntRange(1, 16),
    default=1,
    show_default=True,
    help="The images are originals: reduce them by this first, and compare textures with them.",
)
@click.option("--preset", type=click.Choice(list(PRESETS)), help="Of the rows that name none.")
@click.option("--settings", "settings_file", type=FILE, help="Settings of all rows, from a JSON file.")
@click.option(
    "--metrics",
    default="",
    help="Metrics that take weights, with commas: fid, kid, patch_fid, patch_kid, is, lpips, dists, clip, clip_regions, musiq, "
    "clipiqa, brisque, or all. Their packages may download them.",
)
@click.option(
    "--real", type=FILE, help="Real pictures for fid and kid.  [default: the originals of --reduce]"
)
@click.option("--captioner", metavar="NAME", default="none", show_default=True, help="As of `upscale`.")
@click.option(
    "--threads",
    type=click.IntRange(1, 1024),
    default=1,
    show_default=True,
    help="Of a process on a CPU, whose results they change in their last digits. Processes use more cores than one.",
)
@MODEL_FLAGS
@click.pass_context
def reproduce(ctx: click.Context, /, **flags: Any) -> None:
    """Run rows of methods on the same inputs, measure them, and write tables, plots and a page.

    Killed and started again it goes on, and loses at most one picture a process. Under `accelerate launch -m cupscale
    reproduce ...` processes share the inputs and seeds. What could not be used is listed at the end; the exit status is then 3.
    """
    from cupscale.installation import require
    from cupscale.processes import is_main, own_share, wait_for_all

    require("study", "reproduce")
    wanted = _wanted(flags)
    options = _options(flags, wanted)
    share = own_share(wanted.items)
    runner = _runner(flags, options)
    _check(runner, wanted)
    if is_main():
        runner.folder.make()
        runner.folder.settle(_decides(flags, wanted, runner), _typed(ctx))
    wait_for_all()
    _show(runner, wanted.rows, share, main=is_main())
    wait_for_all()
    failed = _report(runner, wanted) if is_main() else []
    wait_for_all()
    for line in failed:
        click.echo(f"cupscale: {line}", err=True)
    if failed:
        ctx.exit(3)


# Steps


def _wanted(flags: dict[str, Any]) -> _Wanted:
    from cupscale.files import find_images
    from cupscale.metrics import METRICS
    from cupscale.metrics.learned import LEARNED, SET_METRICS
    from cupscale.reproduce.inputs import from_images, from_prompts, items_of
    from cupscale.reproduce.rows import choose, read_rows

    if (flags["images"] is None) == (flags["prompts"] is None):
        raise CupscaleError("give either --images or --prompts")
    if flags["prompts"] and flags["reduce"] > 1:
        raise CupscaleError(
            "--reduce makes inputs out of originals, and --prompts has none: leave one of them out"
        )
    if 1 < flags["reduce"] < flags["scale"]:
        raise CupscaleError(
            f"--scale {flags['scale']:g} goes beyond --reduce {flags['reduce']}: the originals would be smaller than the results"
        )
    names = _names(flags["metrics"])
    known = [*LEARNED, *SET_METRICS]
    if unknown := [name for name in names if name not in (*known, *METRICS, "all")]:
        raise CupscaleError(
            f"no metric '{unknown[0]}': those without weights are always there, and {', '.join(known)}"
        )
    asked = known if "all" in names else names
    rows = choose(read_rows(flags["tables"]), _names(flags["rows"]), reduced=flags["reduce"] > 1)
    inputs = from_images(flags["images"]) if flags["images"] else from_prompts(flags["prompts"])
    return _Wanted(
        inputs,
        items_of(inputs, flags["seeds"]),
        rows,
        [*METRICS.values(), *(metric for name, metric in LEARNED.items() if name in asked)],
        [metric for name, metric in SET_METRICS.items() if name in asked],
        find_images([flags["real"]]) if flags["real"] else [],
    )


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _options(flags: dict[str, Any], wanted: _Wanted) -> Options:
    from cupscale import models
    from cupscale.bounded import read_object
    from cupscale.captioners import automatic, open_captioner
    from cupscale.reproduce.runner import Options
    from cupscale.settings import Settings

    given = read_object(flags["settings_file"], "settings") if flags["settings_file"] else {}
    Settings.build(given)
    for own in ("scale", "seed", "model", "captions", "size"):
        if own in given:
            raise CupscaleError(
                f"settings: '{own}' belongs to the command or to the input: take it out of the file"
            )
    if flags["prompts"]:
        models.check_words(flags["model"], wanted.inputs[0].prompt)
    models.preset(flags["model"], flags["preset"])
    name = flags["captioner"]
    if name == "auto":
        name = automatic(flags["model"], device=flags["device"], preset=flags["preset"])
    return Options(
        flags["scale"],
        flags["preset"] or "",
        given,
        flags["reduce"],
        wanted.metrics,
        open_captioner(name, device=flags["device"], seconds=None),
    )


def _runner(flags: dict[str, Any], options: Options) -> Runner:
    import torch

    from cupscale.machine import best_device
    from cupscale.reproduce.folder import Folder
    from cupscale.reproduce.runner import Runner

    if (flags["device"] or best_device()) == "cpu":
        torch.set_num_threads(flags["threads"])
        os.environ["OMP_NUM_THREADS"] = str(flags["threads"])
    hardware = Hardware(**{name: flags[name] for name in ("device", "dtype", "offload", "batch", "tile")})
    return Runner(hardware.pipeline(flags["model"]), options, Folder(flags["out"]))


def _check(runner: Runner, wanted: _Wanted) -> None:
    """What every item of a row would be refused for is refused now."""
    for row in wanted.rows:
        if not row.peer and not row.original and not row.preset:
            runner.settings(row)


def _decides(flags: dict[str, Any], wanted: _Wanted, runner: Runner) -> dict[str, Any]:
    """What decides the results, as JSON data."""
    from cupscale.reproduce.run import versions

    backbone, options = runner.pipeline.backbone, runner.options
    listed = hashlib.sha256()
    for one in wanted.inputs:
        listed.update(f"{one.name} {one.digest()} {one.prompt}\n".encode())
    return {
        "inputs": {"count": len(wanted.inputs), "sha256": listed.hexdigest()},
        "drawn": flags["prompts"] is not None,
        "seeds": list(flags["seeds"]),
        "scale": options.scale,
        "model": flags["model"],
        "reduce": options.reduce,
        "preset": options.preset,
        "settings": dict(options.settings),
        "captioner": options.captioner.name,
        "metrics": [metric.name for metric in options.metrics],
        "dtype": str(backbone.network.dtype).removeprefix("torch."),
        "tile": flags["tile"],
        "threads": flags["threads"] if backbone.device.type == "cpu" else 0,
        "versions": versions(backbone.device),
        "rows": {row.name: row.to_dict() for row in wanted.rows},
    }


def _typed(ctx: click.Context) -> str:
    """The command, without what is as by default."""
    words = ["cupscale", "reproduce"]
    for parameter in ctx.command.params:
        if ctx.get_parameter_source(parameter.name or "") != ParameterSource.COMMANDLINE:
            continue
        value, flag = ctx.params[parameter.name or ""], parameter.opts[0]
        if parameter.name == "seeds":
            value = ",".join(map(str, value))
        for one in value if isinstance(value, tuple) else (value,):
            words += [flag, f"{one:g}" if isinstance(one, float) else str(one)]
    return shlex.join(words)


def _show(runner: Runner, rows: Sequence[Row], share: Sequence[Item], *, main: bool) -> None:
    """Run, with a bar on a terminal and a line a result; other processes only say what failed."""
    from cupscale.planning import duration
    from cupscale.reproduce.run import run_items

    with tqdm(
        total=len(rows) * len(share), unit="result", disable=None if main else True, file=sys.stderr
    ) as bar:
        for step in run_items(runner, rows, share):
            left = f", about {duration(step.left)} left" if step.left else ""
            bar.set_description_str(f"{step.name} {step.fraction:.0%}{left}", refresh=False)
            bar.n = step.done
            bar.refresh()
            if line := _line(step, left, main=main):
                bar.write(line, file=sys.stderr)


def _line(step: Step, left: str, *, main: bool) -> str:
    """Of a result that is made or failed; empty in between."""
    if step.error:
        return f"{step.name}: {step.error}"
    if step.seconds is None or not main:
        return ""
    return f"{step.done} of {step.total}: {step.name}, {step.seconds:.1f} s{left}"


def _report(runner: Runner, wanted: _Wanted) -> list[str]:
    """Write it; returns what is to be listed at the end."""
    from cupscale.reproduce.run import write_report

    table = write_report(runner, wanted.items, wanted.set_metrics, wanted.real)
    click.echo(runner.folder.path / "report.html")
    return [f"skipped {name}: {reason}" for name, reason in table.skipped.items()]
