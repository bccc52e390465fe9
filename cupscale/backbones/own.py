"""What a person has set on a pipeline of their own: followed, or said in words where a run does not follow it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusers import PNDMScheduler

from cupscale.errors import CupscaleError
from cupscale.settings import Settings

_CONFIG = Path("scheduler") / "scheduler_config.json"


def check_caches(network: Any) -> None:
    """See that a network keeps nothing from one call to the next: its calls here are of different regions.

    Raises:
        CupscaleError: A cache of diffusers is enabled.
    """
    if getattr(network, "is_cache_enabled", False):
        kind = type(network).__name__
        raise CupscaleError(
            f"{kind} has a cache enabled, which would carry one region into the next: call disable_cache() on it first"
        )


def has_own_scheduler(pipe: Any, came_with: str) -> bool:
    """Whether the scheduler is another, or set otherwise, than the checkpoint's.

    Args:
        pipe: Of diffusers.
        came_with: The class of the checkpoint's scheduler, where its files are not at hand.
    """
    kind, before = type(pipe.scheduler).__name__, _checkpoints_config(pipe)
    if before is None:
        return bool(came_with) and kind != came_with
    now = dict(pipe.scheduler.config)
    compared = [name for name in before if name in now and not name.startswith("_")]
    same = (_plain(now[name]) == _plain(before[name]) for name in compared)
    return kind != before.get("_class_name", kind) or not all(same)


def unheard(pipe: Any, settings: Settings, own_scheduler: bool) -> list[str]:
    """What is set on a pipeline and does not take part in a run, a line each.

    Args:
        pipe: Of diffusers.
        settings: Of the run.
        own_scheduler: See `has_own_scheduler`.
    """
    kind = type(pipe.scheduler).__name__
    said = []
    if own_scheduler and settings.scheduler != "model":
        said.append(
            f"the setting scheduler {settings.scheduler} takes the place of the pipeline's {kind}: say 'model' for that one"
        )
    if settings.scheduler == "model" and isinstance(pipe.scheduler, PNDMScheduler):
        said.append(
            "PNDMScheduler takes its first step twice, which a run from the middle leaves out: DDIM, its first order, is used"
        )
    if getattr(pipe, "controlnet", None) is not None and settings.control == 0:
        said.append("the pipeline's ControlNet takes no part at control 0: set control to use it")
    if getattr(pipe, "safety_checker", None) is not None:
        said.append(
            "the pipeline's safety checker does not look at the result: call it on the result yourself"
        )
    if getattr(pipe, "watermark", None) is not None:
        said.append("the pipeline's watermark is not put into the result: apply it yourself")
    return said


def _checkpoints_config(pipe: Any) -> Mapping[str, Any] | None:
    """The scheduler's configuration as it was loaded; None where that is not known."""
    kept = getattr(pipe, "cupscale_scheduler", None)
    if kept is not None:
        return dict(kept)
    try:
        found = json.loads((Path(str(pipe.name_or_path)) / _CONFIG).read_text())
    except (OSError, ValueError, AttributeError):
        return None
    return found if isinstance(found, dict) else None


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
