"""Speed and memory of the pipeline around the network, as ratios measured in one run.

    python -m benchmarks.run overhead     time of the denoising over that of the same network calls alone
    python -m benchmarks.run memory       peak memory above the loaded model, per output size
    python -m benchmarks.run pixels       time per output pixel, per output size
    python -m benchmarks.run eight        8192 x 8192 of the bundled model: time, and the peak of the process (at most 8 GB)
    python -m benchmarks.run processes    one image by one process and by two, one thread each: the ratio of times
    python -m benchmarks.run parts        where the time of a 256 -> 1024 run goes, at the bundled model's defaults
    python -m benchmarks.run all          all of them

Each prints a section in Markdown; `--save` also appends it to benchmarks/results.md with machine and date. Needs an idle machine.
"""

from __future__ import annotations

import copy
import datetime
import hashlib
import json
import platform
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import click
import numpy as np
import psutil
import torch
from PIL import Image, ImageOps

import cupscale
from cupscale.events import Event
from cupscale.pipeline import CUpscalePipeline
from cupscale.stages import Stages

RESULTS = Path(__file__).with_name("results.md")


def noise_image(side: int) -> Image.Image:
    """A stand-in photograph: what it shows does not change the time."""
    values = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return Image.fromarray(values)


def machine() -> str:
    cpu = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []:
        if line.startswith("model name"):
            cpu = line.split(":", 1)[1].strip()
            break
    accelerator = torch.cuda.get_device_name() if torch.cuda.is_available() else "no accelerator"
    ram = psutil.virtual_memory().total / 2**30
    return f"{cpu}, {psutil.cpu_count()} cores, {ram:.0f} GB, {accelerator}, torch {torch.__version__}"


def section(title: str, lines: list[str], command: str, save: bool) -> None:
    text = "\n".join(
        [f"## {title}", "", f"`{command}`, {datetime.date.today()}, {machine()}", "", *lines, "", ""]
    )
    click.echo(text)
    if save:
        with RESULTS.open("a") as file:
            file.write(text)


class Twin:
    """A copy of the network that no hook touches.

    It makes every call of the network again at once, before or after it by turns: what the machine does in the
    meantime then weighs on both. A `Stopwatch` made before it does not count its time.
    """

    def __init__(self, network: Any):
        self._network = copy.deepcopy(network)
        self.calls = 0
        self.seconds = 0.0
        self._handles = [
            network.register_forward_pre_hook(self._before, with_kwargs=True, prepend=True),
            network.register_forward_hook(self._after, with_kwargs=True),
        ]

    def _before(self, module: Any, args: Any, kwargs: Any) -> None:
        if self.calls % 2 == 0:
            self._again(args, kwargs)

    def _after(self, module: Any, args: Any, kwargs: Any, output: Any) -> None:
        if self.calls % 2 == 1:
            self._again(args, kwargs)
        self.calls += 1

    @torch.no_grad()
    def _again(self, args: Any, kwargs: Any) -> None:
        began = time.perf_counter()
        self._network(*args, **kwargs)
        self.seconds += time.perf_counter() - began

    def close(self) -> None:
        for handle in self._handles:
            handle.remove()


class Stopwatch:
    """The time that a network's calls take, until it is closed."""

    def __init__(self, network: Any):
        self.seconds = 0.0
        self._began = 0.0
        self._hooks = (
            network.register_forward_pre_hook(self._before),
            network.register_forward_hook(self._after),
        )

    def _before(self, *_: Any) -> None:
        self._began = time.perf_counter()

    def _after(self, *_: Any) -> None:
        self.seconds += time.perf_counter() - self._began

    def close(self) -> None:
        for hook in self._hooks:
            hook.remove()


@click.group()
def main() -> None:
    """Benchmarks."""


@main.command()
@click.option("--save", is_flag=True)
@click.option("--rounds", default=3)
@click.option("--sides", default="1024,2048,4096", help="Of the results, in pixels, at 4x.")
def overhead(save: bool, rounds: int, sides: str) -> None:
    """The denoising of a run under all priors, against the same network calls with nothing around them, made in the same moments.

    Base upscale and codec are left out. "As they are" are the run's own calls, with the priors' hooks in them.
    """
    pipe = cupscale.load("tiny")
    fields: dict[str, Any] = {
        "scale": 4,
        "seed": 1,
        "overlap": 0.25,
        "guidance": 1.0,
        "upscaler": "lanczos",
        "restore": 0,
        "attention": 0.6,
    }
    cupscale.upscale(pipe, noise_image(256), **fields | {"scale": 1, "strength": 1.0, "steps": 1})
    lines = [
        "| output | network calls | seconds | the calls alone | ratio, by run | the calls as they are | ratio |",
        "|---|---|---|---|---|---|---|",
    ]
    for side in map(int, sides.split(",")):
        # Two steps where they are short, so that every row has enough calls.
        fields |= {"strength": 1.0, "steps": 2 if side <= 1024 else 1}
        walls, alone, theirs, ratios = 0.0, 0.0, 0.0, []
        for _ in range(rounds):
            wall, twin, own = _beside_its_calls(pipe, noise_image(side // 4), fields)
            ratios.append(f"{wall / twin.seconds:.3f}")
            walls, alone, theirs = walls + wall, alone + twin.seconds, theirs + own
        lines.append(
            f"| {side} x {side} | {twin.calls} | {walls:.1f} | {alone:.1f} | {walls / alone:.3f} ({', '.join(ratios)}) "
            f"| {theirs:.1f} | {walls / theirs:.3f} |"
        )
    section("Overhead", lines, "python -m benchmarks.run overhead", save)


def _beside_its_calls(pipe: Any, image: Image.Image, fields: dict[str, Any]) -> tuple[float, Twin, float]:
    """One run: the seconds of its denoising without the twin's, the twin, and the seconds of its own calls."""
    own = Stopwatch(pipe.unet)
    twin = Twin(pipe.unet)
    denoise, seconds = Stages._denoise, 0.0

    def timed(self: Stages, *args: Any) -> Generator[Event, None, torch.Tensor]:
        nonlocal seconds
        began = time.perf_counter()
        z = yield from denoise(self, *args)
        seconds = time.perf_counter() - began
        return z

    with patch.object(Stages, "_denoise", timed):
        cupscale.upscale(pipe, image, **fields)
    twin.close()
    own.close()
    return seconds - twin.seconds, twin, own.seconds


@main.command(hidden=True)
@click.argument("side", type=int)
@click.argument("overlap", type=float)
def one(side: int, overlap: float) -> None:
    """One run of one step in a process of its own: prints its peak memory above the loaded model, and its time."""
    pipe = cupscale.load("tiny")
    fields: dict[str, Any] = {
        "seed": 1,
        "strength": 1.0,
        "steps": 1,
        "overlap": overlap,
        "guidance": 1.0,
        "upscaler": "lanczos",
        "restore": 0,
    }
    cupscale.upscale(pipe, noise_image(256), scale=1, **fields)  # what the libraries allocate once
    process = psutil.Process()
    loaded = process.memory_info().rss
    peak = loaded
    stop = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not stop.wait(0.02):
            peak = max(peak, process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    network = Stopwatch(pipe.unet)
    result = cupscale.upscale(pipe, noise_image(side // 4), scale=4, **fields)
    stop.set()
    watcher.join()
    high = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    click.echo(
        json.dumps(
            {
                "side": side,
                "regions": len(result.plan.regions),
                "samples": result.plan.samples,
                "loaded": loaded,
                "peak": max(peak, high),
                "seconds": result.seconds,
                "network": network.seconds,
                "plan": result.plan.bytes,
            }
        )
    )


def _one(side: int, overlap: float) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.run", "one", str(side), str(overlap)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


@main.command()
@click.option("--save", is_flag=True)
def memory(save: bool) -> None:
    """Peak memory above the loaded model at 1K, 2K, 4K; and at 2K with many times the regions."""
    rows = ["| output | regions | above the loaded model | plan's estimate |", "|---|---|---|---|"]
    for side, overlap in ((1024, 0.25), (2048, 0.25), (2048, 0.6), (4096, 0.25)):
        found = _one(side, overlap)
        rows.append(
            f"| {side} x {side} | {found['regions']} | {(found['peak'] - found['loaded']) / 2**30:.2f} GB "
            f"| {(found['plan'] - 40e6) / 2**30:.2f} GB |"
        )
    section("Memory", rows, "python -m benchmarks.run memory", save)


@main.command()
@click.option("--save", is_flag=True)
@click.option("--rounds", default=3)
def pixels(save: bool, rounds: int) -> None:
    """Time per output pixel, 1K to 4K and without overlap 8K, one step each: the sizes take turns, the fastest of each counts."""
    rows = [
        "| output | overlap | regions | seconds | us a pixel | ms a region, network | us a pixel, the rest |",
        "|---|---|---|---|---|---|---|",
    ]
    for overlap in (0.0, 0.25):
        best: dict[int, dict[str, Any]] = {}
        large = () if overlap else (8192,)
        for _ in range(rounds):
            for side in (1024, 2048, 4096, *large):
                found = _one(side, overlap)
                if side not in best or found["seconds"] < best[side]["seconds"]:
                    best[side] = found
        for side, found in best.items():
            rest = found["seconds"] - found["network"]
            rows.append(
                f"| {side} x {side} | {overlap} | {found['regions']} | {found['seconds']:.1f} "
                f"| {found['seconds'] / side**2 * 1e6:.2f} | {found['network'] / found['samples'] * 1e3:.0f} "
                f"| {rest / side**2 * 1e6:.3f} |"
            )
    section("Time per pixel", rows, "python -m benchmarks.run pixels", save)


@main.command()
@click.option("--save", is_flag=True)
@click.option("--rounds", default=3)
@click.argument("photograph", type=click.Path(exists=True), default="cupscale/assets/examples/bee.png")
def parts(save: bool, rounds: int, photograph: str) -> None:
    """256 -> 1024 at the bundled model's defaults: seconds of each part, its share, and seconds per megapixel of output.

    The photograph's middle is taken as a square of 256 px. The fastest of the rounds counts.
    """
    pipe = cupscale.load("tiny")
    square = ImageOps.fit(Image.open(photograph).convert("RGB"), (256, 256), Image.Resampling.LANCZOS)
    cupscale.upscale(pipe, square.resize((64, 64)), scale=4)
    best: dict[str, float] = {}
    for _ in range(rounds):
        network = Stopwatch(pipe.unet)
        spent: dict[str, float] = {}
        stage, since, called = "", time.perf_counter(), 0.0
        for event in CUpscalePipeline(pipe).stream(square, scale=4, seed=1):
            # A stage's first news comes after its first network calls, so those are taken out of the stage before.
            now, calls = time.perf_counter(), network.seconds
            spent[stage] = spent.get(stage, 0.0) + now - since - (calls - called)
            stage, since, called = getattr(event, "stage", stage), now, calls
        network.close()
        spent["network"] = network.seconds
        spent["all"] = sum(spent.values())
        if not best or spent["all"] < best["all"]:
            best = spent
    codec = best.get("encode", 0.0) + best.get("decode", 0.0)
    rows = {
        "base upscale (Real-ESRGAN)": best.get("enlarge", 0.0),
        "network": best["network"],
        "codec": codec,
        "the rest": best["all"] - best.get("enlarge", 0.0) - best["network"] - codec,
        "all": best["all"],
    }
    lines = ["| part | seconds | share | seconds a megapixel |", "|---|---|---|---|"]
    lines += [
        f"| {name} | {seconds:.2f} | {seconds / best['all']:.1%} | {seconds / 1.048576:.2f} |"
        for name, seconds in rows.items()
    ]
    section("Parts of a run, 256 -> 1024", lines, "python -m benchmarks.run parts", save)


@main.command()
@click.option("--save", is_flag=True)
@click.option("--rounds", default=3)
def processes(save: bool, rounds: int) -> None:
    """256 -> 1024 by one process and by two of `accelerate launch`, in turns, one thread each. The fastest of each counts."""
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
    from launching import launched

    fields = {"model": "tiny", "scale": "4", "seed": "1", "upscaler": "lanczos", "restore": "0"}
    words = [word for name, value in fields.items() for word in (f"--{name}", value)]
    best: dict[int, float] = {}
    made: set[str] = set()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        noise_image(256).save(folder / "in.png")
        for _ in range(rounds):
            for count in (1, 2):
                out = ["upscale", "in.png", *words, "--overwrite", "--json", "-o", f"{count}.png"]
                told = launched(count if count > 1 else 0, *out, cwd=folder).stdout
                seconds = float(json.loads(told.splitlines()[-1])["seconds"])
                best[count] = min(best.get(count, seconds), seconds)
                made.add(hashlib.sha256((folder / f"{count}.png").read_bytes()).hexdigest())
    lines = ["| processes | seconds | ratio |", "|---|---|---|"]
    lines += [f"| {count} | {seconds:.1f} | {seconds / best[1]:.2f} |" for count, seconds in best.items()]
    same = "the same bytes each time" if len(made) == 1 else f"{len(made)} different pictures"
    section(
        "One image, several processes", [*lines, "", f"{same}."], "python -m benchmarks.run processes", save
    )


EIGHT_GB = 8


@main.command()
@click.option("--save", is_flag=True)
@click.option("--flat", default=0.0, help="Share of the picture that shows nothing and is kept as it is.")
def eight(save: bool, flat: float) -> None:
    """2048 -> 8192 by the preset quick without guidance, and its PNG: time, and the peak of the process with all it loaded."""
    image = np.asarray(noise_image(2048)).copy()
    image[: round(flat * 2048)] = 128
    pipe = cupscale.load("tiny")
    fields: dict[str, Any] = {
        "scale": 4,
        "seed": 1,
        "guidance": 1.0,
        "overlap": 0.0,
        "upscaler": "lanczos",
        "restore": 0,
    }
    began = time.perf_counter()
    result = cupscale.upscale(
        pipe, Image.fromarray(image), preset="quick", windows="shifted", flat_windows="keep", **fields
    )
    with tempfile.TemporaryDirectory() as folder:
        result.save(Path(folder) / "8k.png")
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    section(
        "8192 x 8192 of the bundled model",
        [
            f"{result.plan.samples} samples, {result.plan.kept} windows that show nothing kept: {seconds:.0f} s with the file, "
            f"peak of the process {peak:.2f} GB (limit {EIGHT_GB}), the plan's estimate {result.plan.bytes / 2**30:.2f} GB.",
        ],
        f"python -m benchmarks.run eight{f' --flat {flat:g}' if flat else ''}",
        save,
    )
    if peak > EIGHT_GB:
        sys.exit(1)


@main.command(name="all")
@click.option("--save", is_flag=True)
@click.pass_context
def everything(ctx: click.Context, save: bool) -> None:
    """All of them, one after the other."""
    for command in (overhead, memory, pixels, processes, parts):
        ctx.invoke(command, save=save)


if __name__ == "__main__":
    main()
