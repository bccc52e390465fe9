"""Speed and memory of the pipeline around the network, as ratios measured in one run.

    python -m benchmarks.run overhead     wall time over the time of the same network calls alone
    python -m benchmarks.run memory       peak memory above the loaded model, per output size
    python -m benchmarks.run pixels       time per output pixel, per output size
    python -m benchmarks.run all          all of them

Each prints a section in Markdown; `--save` also appends it to benchmarks/results.md with machine and date. Needs an idle machine.
"""

from __future__ import annotations

import datetime
import json
import platform
import resource
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
import psutil
import torch
from PIL import Image

import cupscale

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


class Calls:
    """Every call of the network in a run, and how long it took."""

    def __init__(self, unet: Any):
        self.inputs: list[tuple[Any, Any]] = []
        self._hook = unet.register_forward_pre_hook(self._before, with_kwargs=True)

    def _before(self, module: Any, args: Any, kwargs: Any) -> None:
        self.inputs.append((args, kwargs))

    def close(self) -> None:
        self._hook.remove()


@click.group()
def main() -> None:
    """Benchmarks."""


@main.command()
@click.option("--save", is_flag=True)
@click.option("--rounds", default=3)
def overhead(save: bool, rounds: int) -> None:
    """256 -> 1024 with all priors, against the very same network calls made again with nothing around them."""
    pipe = cupscale.load("tiny")
    fields: dict[str, Any] = {
        "scale": 4, "seed": 1, "start": 0.45, "steps": 4, "overlap": 0.25, "guidance": 1.0, "initial": "lanczos",
        "attention": 0.6,
    }  # fmt: skip
    image = noise_image(256)
    cupscale.upscale(pipe, image, **fields | {"scale": 1})
    walls, alones = [], []
    for _ in range(rounds):
        calls = Calls(pipe.unet)
        began = time.perf_counter()
        cupscale.upscale(pipe, image, **fields)
        walls.append(time.perf_counter() - began)
        calls.close()
        began = time.perf_counter()
        with torch.no_grad():
            for args, kwargs in calls.inputs:
                pipe.unet(*args, **kwargs)
        alones.append(time.perf_counter() - began)
    ratios = sorted(w / a for w, a in zip(walls, alones, strict=True))
    section(
        "Overhead",
        [
            f"{len(calls.inputs)} network calls; wall {min(walls):.2f} s, the calls alone {min(alones):.2f} s",
            f"(best of {rounds} rounds each). Ratio {min(walls) / min(alones):.3f}; per round "
            + ", ".join(f"{r:.3f}" for r in ratios)
            + ". The bar is 1.05.",
        ],
        "python -m benchmarks.run overhead",
        save,
    )


@main.command(hidden=True)
@click.argument("side", type=int)
@click.argument("steps", type=int)
@click.argument("overlap", type=float)
def one(side: int, steps: int, overlap: float) -> None:
    """One run in a process of its own: prints its peak memory above the loaded model, and its time."""
    pipe = cupscale.load("tiny")
    fields: dict[str, Any] = {
        "seed": 1, "start": 1.0, "steps": steps, "overlap": overlap, "guidance": 1.0, "initial": "lanczos",
    }  # fmt: skip
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
    result = cupscale.upscale(pipe, noise_image(side // 4), scale=4, **fields)
    stop.set()
    watcher.join()
    high = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    click.echo(
        json.dumps(
            {
                "side": side, "regions": len(result.plan.regions), "samples": result.plan.samples, "loaded": loaded,
                "peak": max(peak, high), "seconds": result.seconds, "plan": result.plan.bytes,
            }
        )
    )  # fmt: skip


def _one(side: int, steps: int, overlap: float) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.run", "one", str(side), str(steps), str(overlap)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


@main.command()
@click.option("--save", is_flag=True)
def memory(save: bool) -> None:
    """Peak memory above the loaded model at 1K, 2K, 4K; and at 2K with many times the regions."""
    rows = ["| output | regions | above the loaded model | plan's estimate |", "|---|---|---|---|"]
    for side, overlap in ((1024, 0.25), (2048, 0.25), (2048, 0.6), (4096, 0.25)):
        found = _one(side, 1, overlap)
        rows.append(
            f"| {side} x {side} | {found['regions']} | {(found['peak'] - found['loaded']) / 2**30:.2f} GB "
            f"| {(found['plan'] - 40e6) / 2**30:.2f} GB |"
        )
    section("Memory", rows, "python -m benchmarks.run memory", save)


@main.command()
@click.option("--save", is_flag=True)
def pixels(save: bool) -> None:
    """Time per output pixel and per network sample, 1K to 4K, one step each."""
    rows = [
        "| output | overlap | regions | seconds | us a pixel | ms a network sample |",
        "|---|---|---|---|---|---|",
    ]
    for overlap in (0.0, 0.25):
        for side in (1024, 2048, 4096):
            found = _one(side, 1, overlap)
            rows.append(
                f"| {side} x {side} | {overlap} | {found['regions']} | {found['seconds']:.1f} "
                f"| {found['seconds'] / side**2 * 1e6:.2f} | {found['seconds'] / found['samples'] * 1e3:.0f} |"
            )
    section("Time per pixel", rows, "python -m benchmarks.run pixels", save)


@main.command(name="all")
@click.option("--save", is_flag=True)
@click.pass_context
def everything(ctx: click.Context, save: bool) -> None:
    """All of them, one after the other."""
    for command in (overhead, memory, pixels):
        ctx.invoke(command, save=save)


if __name__ == "__main__":
    main()
