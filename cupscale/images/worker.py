"""Decoding in a process of its own, with bounds on its time and memory: `python -m cupscale.images.worker`.

The parent sends a line of JSON and the file; the worker answers with a line of JSON and the samples.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import BinaryIO

from PIL import Image

from cupscale.errors import CupscaleError
from cupscale.images.metadata import Kept
from cupscale.images.picture import Picture

CPU_SECONDS = 10
WALL_SECONDS = 120.0  # a busy machine gives little of its time
MEMORY_BYTES = 3 * 2**30  # of address space, of which little is memory


def decode(name: str, data: bytes, max_pixels: int) -> Picture:
    """`cupscale.images.reading` of a file's bytes, elsewhere.

    Raises:
        CupscaleError: As `read`; and for a file that takes more time or memory than one picture may.
    """
    command = [sys.executable, "-m", "cupscale.images.worker"]
    folder = str(Path(__file__).resolve().parents[2])
    paths = os.pathsep.join(filter(None, (folder, os.environ.get("PYTHONPATH"))))
    environment = os.environ | {"PYTHONPATH": paths, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    request = json.dumps({"name": name, "max_pixels": max_pixels}).encode() + b"\n" + data
    slow = CupscaleError(
        f"{name} takes more than {CPU_SECONDS} s or {MEMORY_BYTES >> 30} GB to decode, the limits of one image; "
        "save it again as a plain JPEG or PNG"
    )
    try:
        done = subprocess.run(
            command, input=request, capture_output=True, timeout=WALL_SECONDS, env=environment, check=False
        )
    except subprocess.TimeoutExpired:
        raise slow from None
    except OSError as error:
        raise CupscaleError(f"{name} cannot be decoded: no process for it ({error.strerror})") from None
    head = done.stdout[: done.stdout.find(b"\n") + 1]
    if done.returncode != 0 or not head:
        raise slow
    answer = json.loads(head)
    if "error" in answer:
        raise CupscaleError(answer["error"])
    size = (answer["size"][0], answer["size"][1])
    pixels = size[0] * size[1]
    samples = memoryview(done.stdout)[len(head) :]  # no copy: they may be 200 MB
    rgb = Image.frombytes("RGB", size, samples[: 3 * pixels])
    alpha = Image.frombytes("L", size, samples[3 * pixels :]) if answer["alpha"] else None
    return Picture(
        rgb,
        alpha,
        answer["settings"],
        answer["quality"],
        tuple(answer["notices"]),
        answer["converted"],
        Kept.from_dict(answer["kept"]),
    )


def serve(source: BinaryIO, sink: BinaryIO) -> None:
    """One request, answered."""
    from cupscale.images.reading import decode_here

    request = json.loads(source.readline())
    try:
        picture = decode_here(request["name"], source.read(), request["max_pixels"])
    except CupscaleError as error:
        sink.write(json.dumps({"error": str(error)}).encode() + b"\n")
        return
    head = {
        "size": picture.size,
        "alpha": picture.alpha is not None,
        "settings": picture.settings_text,
        "quality": picture.quality,
        "notices": picture.notices,
        "converted": picture.converted,
        "kept": picture.kept.to_dict(),
    }
    sink.write(json.dumps(head).encode() + b"\n")
    sink.write(picture.rgb.tobytes())
    if picture.alpha is not None:
        sink.write(picture.alpha.tobytes())


def _bound() -> None:
    """Hold this process to the limits, where the system can."""
    try:
        import resource
    except ImportError:
        return
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    _bound()
    serve(sys.stdin.buffer, sys.stdout.buffer)
