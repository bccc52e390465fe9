"""cupscale: creatively upscaling images with global-regional priors.

pipe = cupscale.load("tiny")
result = cupscale.upscale(pipe, "photo.jpg", prompt="a fox in the snow", scale=4, seed=7)
result.save("big.png")

The names below are imported when they are first asked for: `import cupscale` alone loads neither torch nor diffusers.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cupscale.backbones import Tiles
    from cupscale.batch import upscale_many
    from cupscale.captioners import Captioned, Captioner, Captioning, open_captioner
    from cupscale.errors import CupscaleError
    from cupscale.events import Event, Finished, Planned, Preview, Progress, Result
    from cupscale.method.sampler import Notice
    from cupscale.models import load
    from cupscale.pipeline import CUpscalePipeline
    from cupscale.planning import Plan
    from cupscale.settings import Caption, Settings
    from cupscale.shortcuts import caption, stream, upscale

__version__ = "0.1.0"

__all__ = [
    "CUpscalePipeline",
    "Caption",
    "Captioned",
    "Captioner",
    "Captioning",
    "CupscaleError",
    "Event",
    "Finished",
    "Notice",
    "Plan",
    "Planned",
    "Preview",
    "Progress",
    "Result",
    "Settings",
    "Tiles",
    "caption",
    "load",
    "open_captioner",
    "stream",
    "upscale",
    "upscale_many",
]

_HOMES = {
    "batch": ("upscale_many",),
    "backbones": ("Tiles",),
    "captioners": ("Captioned", "Captioner", "Captioning", "open_captioner"),
    "errors": ("CupscaleError",),
    "events": ("Event", "Finished", "Planned", "Preview", "Progress", "Result"),
    "method.sampler": ("Notice",),
    "models": ("load",),
    "pipeline": ("CUpscalePipeline",),
    "planning": ("Plan",),
    "settings": ("Caption", "Settings"),
    "shortcuts": ("caption", "stream", "upscale"),
}
_HOME_OF = {name: f"cupscale.{module}" for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """A public name, imported from its module and kept."""
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value = getattr(import_module(_HOME_OF[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME_OF})
