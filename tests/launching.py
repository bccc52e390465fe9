"""The command in several processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

LIMIT_S = 900  # only there so that a test that hangs ends


def launch(count: int, *words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """`accelerate launch -m cupscale ...` in `count` processes on the CPU; 0: without it.

    --multi_gpu is its word for several processes, also where there are only CPUs.
    """
    launcher = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", str(count)]
    launcher += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    launcher += ["--main_process_port", "0"]
    command = [sys.executable, *(launcher if count else []), "-m", "cupscale", *words]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=LIMIT_S)


def launched(count: int, *words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The same, where it must succeed."""
    done = launch(count, *words, cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr
    return done
