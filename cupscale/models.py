"""Known models, and loading: device, precision, offload. No path in here is special to the bundled model."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from cupscale.errors import CupscaleError
from cupscale.planning import Geometry

Offload = Literal["none", "model", "group", "sequential"]
ASSETS = Path(__file__).resolve().parent.parent / "assets"
SDXL_DEFAULTS: Mapping[str, Any] = {"start": 0.45, "steps": 50, "guidance": 7.5, "overlap": 0.5}


@dataclass(frozen=True)
class Known:
    """A model with a name. source: hub id or folder. defaults: the settings it works best with."""

    source: str
    licence: str
    geometry: Geometry
    defaults: Mapping[str, Any] = field(default_factory=dict)
    half_vae: str | None = None  # a VAE that does not overflow in half precision
    note: str = ""


KNOWN: dict[str, Known] = {
    "tiny": Known(
        source=str(ASSETS / "tiny"),
        licence="Apache-2.0",
        geometry=Geometry(native=256, cell=2, align=16, channels=12, weights=40_000_000),
        defaults={
            "start": 0.1, "steps": 50, "guidance": 1.0, "overlap": 0.25, "initial": "realesrgan", "structure": 1.0,
            "cutoff": 0.2, "scheduler": "ddim",
        },
        note="bundled; runs on a CPU",
    ),
    "sdxl": Known(
        source="stabilityai/stable-diffusion-xl-base-1.0",
        licence="CreativeML Open RAIL++-M",
        geometry=Geometry(native=1024, cell=8, align=32, channels=4, weights=7_000_000_000),
        defaults=SDXL_DEFAULTS,
        half_vae="madebyollin/sdxl-vae-fp16-fix",
    ),
}  # fmt: skip


def load(
    model: str = "tiny",
    *,
    device: str | None = None,
    dtype: str | torch.dtype | None = None,
    offload: Offload = "none",
) -> Any:
    """A diffusers pipeline, ready to run.

    model: a known name, a hub id ("owner/name") or a folder that `save_pretrained` wrote. Safetensors only.
    device: "cuda", "mps", "cpu"; the best one there is by default. dtype: float16 on an accelerator, float32 on a CPU.
    offload: what waits in main memory while it is not used; needs an accelerator.
    Raises CupscaleError for an unknown model, or where it cannot be read.
    """
    from diffusers import AutoencoderKL, DiffusionPipeline

    device = device or best_device()
    if offload != "none" and device == "cpu":
        raise CupscaleError(
            f"offload '{offload}' needs an accelerator and this run is on a CPU: use offload none"
        )
    precision = _dtype(dtype, device)
    known = KNOWN.get(model)
    source = known.source if known else model
    _check_source(source, model)
    parts: dict[str, Any] = {}
    try:
        if known and known.half_vae and precision == torch.float16:
            parts["vae"] = AutoencoderKL.from_pretrained(
                known.half_vae, dtype=precision, use_safetensors=True
            )
        pipe = DiffusionPipeline.from_pretrained(source, dtype=precision, use_safetensors=True, **parts)
    except (OSError, ValueError, ImportError) as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise CupscaleError(
            f"cannot load model '{model}': {reason}; check the name and the network, or use model tiny, which needs none"
        ) from error
    if offload == "none":
        return pipe.to(device)
    if offload == "model":
        pipe.enable_model_cpu_offload(device=device)
    elif offload == "sequential":
        pipe.enable_sequential_cpu_offload(device=device)
    else:
        pipe.enable_group_offload(
            onload_device=torch.device(device), offload_device=torch.device("cpu"), offload_type="leaf_level"
        )
    return pipe


def best_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _dtype(dtype: str | torch.dtype | None, device: str) -> torch.dtype:
    if dtype is None:
        return torch.float32 if device == "cpu" else torch.float16
    if isinstance(dtype, torch.dtype):
        return dtype
    names = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
    if dtype not in names:
        raise CupscaleError(f"unknown dtype '{dtype}': choose one of {', '.join(names)}")
    return names[dtype]


def _check_source(source: str, model: str) -> None:
    if Path(source).is_dir():
        if not (Path(source) / "model_index.json").is_file():
            raise CupscaleError(
                f"model folder '{model}' holds no model_index.json: give a folder save_pretrained wrote"
            )
        return
    owner, slash, name = source.partition("/")
    if not (slash and owner and name) or "/" in name or source.startswith((".", "~", "/")):
        raise CupscaleError(
            f"unknown model '{model}': choose one of {', '.join(KNOWN)}, a hub id such as owner/name, or a folder"
        )


def name_of(pipe: Any) -> str:
    """The known name of a pipeline, or where it was loaded from."""
    source = str(getattr(pipe, "name_or_path", "") or type(pipe).__name__)
    for name, known in KNOWN.items():
        if source == known.source or (
            os.path.isdir(source) and os.path.realpath(source) == os.path.realpath(known.source)
        ):
            return name
    return source


def defaults(model: str) -> dict[str, Any]:
    """The settings a model works best with. Real-ESRGAN gives way to Lanczos where its extra is not installed."""
    from cupscale.initial import available

    known = KNOWN.get(model)
    chosen = dict(known.defaults if known else SDXL_DEFAULTS)
    if not available(chosen.get("initial", "lanczos")):
        chosen["initial"] = "lanczos"
    return chosen | {"model": model}


# How fast this machine is, as its own runs measured it.


def _speed_file() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cupscale" / "speed.json"


def known_speed(model: str, device: str) -> dict[str, float] | None:
    """What `plan` takes as speed: measured by the last run of this model on this device, or None."""
    try:
        return json.loads(_speed_file().read_text()).get(f"{model} {device}")
    except (OSError, ValueError):
        return None


def remember_speed(model: str, device: str, speed: Mapping[str, float]) -> None:
    """Keep a run's speed for the next plan. A home that cannot be written is no reason to fail."""
    file = _speed_file()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            data = json.loads(file.read_text())
        except (OSError, ValueError):
            data = {}
        data[f"{model} {device}"] = dict(speed)
        part = file.with_suffix(f".{os.getpid()}")
        part.write_text(json.dumps(data, indent=1))
        part.replace(file)
    except OSError:
        pass
