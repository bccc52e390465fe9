"""Who may write captions on this page: the operator's choice, by name."""

from __future__ import annotations

import os
from functools import lru_cache

from cupscale import machine
from cupscale.captioners import Captioner, Captioning, automatic, next_best, open_captioner
from cupscale.errors import CupscaleError
from cupscale.installation import installed
from cupscale.page.limits import lent_gpu, on_space

AUTO, NOBODY = "auto", "none"


def _sources() -> dict[str, str]:
    """name -> what `open_captioner` takes. CUPSCALE_CAPTIONERS adds to them: "name=hub/id, name=http://server/v1"."""
    large = {"qwen": "qwen", "smolvlm": "smolvlm"}
    offline = {"appearance": "appearance"} | ({"tagger": "tagger"} if installed("tagger") else {})
    if lent_gpu() or machine.best_device() != "cpu":
        named = large | offline
    else:
        named = offline if on_space() else offline | {"smolvlm": "smolvlm"}
    for entry in filter(
        None, (part.strip() for part in os.environ.get("CUPSCALE_CAPTIONERS", "").split(","))
    ):
        name, _, source = entry.partition("=")
        named[name.strip()] = (source or name).strip()
    return named or {NOBODY: NOBODY}


def kinds() -> list[str]:
    """The captioners a visitor may choose, the first by default."""
    return list(_sources())


def choices() -> list[str]:
    """For the page: the usual one, nobody, and each by name."""
    return [AUTO, NOBODY, *(kind for kind in kinds() if kind != NOBODY)]


def check(name: str) -> str:
    """Raises CupscaleError for a captioner that is not on the list."""
    if name not in kinds():
        raise CupscaleError(
            f"captioner '{str(name)[:80]}' is not on this page's list: choose one of {', '.join(kinds())}"
        )
    return name


@lru_cache(maxsize=4)
def _opened(source: str) -> Captioner:
    return open_captioner(source)


def opened(name: str) -> Captioner:
    """A captioner of the list; nothing of it is loaded yet. Raises CupscaleError."""
    return _opened(_sources()[check(name)])


def named(name: str, model: str) -> str:
    """A captioner that writes, for one of `choices`: "auto" is the first of the list where it stands for nobody.

    Raises:
        CupscaleError: Nobody is to write.
    """
    if name == AUTO:
        usual = automatic(model, device="cuda" if lent_gpu() else None)
        return next((kind for kind, source in _sources().items() if source == usual), kinds()[0])
    if name == NOBODY:
        raise CupscaleError(f"no captioner is chosen: choose one of {', '.join(kinds())}")
    return check(name)


def captioning(name: str, model: str) -> Captioning:
    """How a run gets its captions.

    Args:
        name: One of `choices`.
        model: The diffusion model's name, which "auto" depends on.

    Raises:
        CupscaleError: A captioner that is not on the list.
    """
    if name == AUTO:
        chosen = automatic(model, device="cuda" if lent_gpu() else None)
        return Captioning(_opened(chosen), instead=next_best(chosen))
    return Captioning(None if name == NOBODY else opened(name))
