"""From a word a person types, or from nothing, to a captioner."""

from __future__ import annotations

import os
from pathlib import Path

from cupscale import machine, models
from cupscale.captioners.base import Captioner, Captioning, NoCaptioner
from cupscale.errors import CupscaleError
from cupscale.installation import installed, require

# The known ones, in the order a page shows them.
KNOWN: dict[str, str] = {
    "auto": "a multimodal model where there is an accelerator, or what CUPSCALE_CAPTIONER names; elsewhere the tagger, if it is "
    "installed",
    "none": "no captioner: every region uses the prompt",
    "appearance": "words for how each region appears (smooth, sharp, blue), on any machine",
    "tagger": "names of the things it knows, and how each region appears, on any machine",
    "qwen": "Qwen/Qwen3-VL-2B-Instruct",
    "smolvlm": "HuggingFaceTB/SmolVLM2-256M-Video-Instruct",
    "llava": "llava-hf/llava-1.5-7b-hf",
    "florence": "florence-community/Florence-2-base",
}

NAMED_BY = "CUPSCALE_CAPTIONER"  # in the environment: what "auto" takes, such as a server's address


def automatic(model: str, *, device: str | None = None, preset: str | None = None) -> str:
    """The captioner that "auto" stands for.

    In the paper a multimodal model always writes the regions' prompts. Here it does where that takes seconds: on an
    accelerator; elsewhere the tagger names what it knows, if it is installed. A model that knows no things by name, as the
    bundled one, has nobody write for it.

    Args:
        model: The diffusion model's name.
        device: torch's name of its kind; the best there is by default.
        preset: Of the run. "paper" takes LLaVA, as the paper does.

    Returns:
        What `open_captioner` takes.
    """
    if models.no_words(model):
        return "none"
    if named := os.environ.get(NAMED_BY, "").strip():
        return named
    if (device or machine.best_device()) == "cpu" or not installed("captions"):
        return "tagger" if installed("tagger") else "none"
    return "llava" if preset == "paper" else "qwen"


def open_captioner(
    name: str | Captioner | None,
    *,
    device: str | None = None,
    dtype: str | None = None,
    batch: int | None = None,
    seconds: float | None = None,
) -> Captioner:
    """A captioner by name: a known one, a hub id ("owner/name"), a folder, or the address of a server.

    A server speaks OpenAI's protocol: "http://localhost:8000/v1", or "http://localhost:8000/v1#model" where it has more
    than one. Its key is read from OPENAI_API_KEY. seconds: that one region may take. Nothing is loaded yet.
    A captioner itself is given back. Raises CupscaleError for a name that is none of these.
    """
    if name is not None and not isinstance(name, str):
        return name
    name = (name or "none").strip()
    if name == "auto":
        raise CupscaleError(f"captioner auto depends on the model: choose one of {', '.join(KNOWN)}")
    if name == "none":
        return NoCaptioner()
    if name == "appearance":
        from cupscale.captioners.appearance import Appearance

        return Appearance()
    if name == "tagger":
        from cupscale.captioners.tagger import Tagger

        require("tagger", "captioner tagger", instead="appearance")
        return Tagger()
    if name.startswith(("http://", "https://")):
        from cupscale.captioners.server import Server

        base_url, _, model = name.partition("#")
        server = Server(base_url, model or None)
        server.seconds = seconds or server.seconds
        return server
    owner, slash, rest = name.partition("/")
    model = KNOWN.get(name, name)
    if (
        name in KNOWN
        or Path(name).is_dir()
        or (slash and owner and rest and "/" not in rest and owner not in ".~")
    ):
        from cupscale.captioners.vlm import VLM

        if Path(name).is_dir() and not (Path(name) / "config.json").is_file():
            raise CupscaleError(f"captioner folder '{name}' holds no config.json: give a model's folder")
        require("captions", f"captioner {name}")
        vlm = VLM(model, device=device, dtype=dtype, batch=batch)
        vlm.seconds = seconds or vlm.seconds
        return vlm
    raise CupscaleError(
        f"unknown captioner '{name}': choose one of {', '.join(KNOWN)}, a hub id such as owner/name, a folder, "
        "or the address of a server such as http://localhost:8000/v1"
    )


def open_captioning(
    captioner: str | Captioner | Captioning | None,
    *,
    model: str = "",
    device: str | None = None,
    preset: str | None = None,
    seconds: float | None = None,
) -> Captioning:
    """How a run gets its captions, from whatever a caller gives for a captioner: see `open_captioner`.

    Args:
        captioner: Who writes; "auto" for what suits the other arguments: see `automatic`.
        model: The diffusion model's name.
        device: torch's name of its kind.
        preset: Of the run.
        seconds: That one region may take.

    Raises:
        CupscaleError: A name that is no captioner's.
    """
    if isinstance(captioner, Captioning):
        return captioner
    if captioner != "auto":
        return Captioning(open_captioner(captioner, device=device, seconds=seconds))
    name = automatic(model, device=device, preset=preset)
    chosen = open_captioner(name, device=device, seconds=seconds)
    return Captioning(chosen, instead=next_best(name))


def next_best(name: str) -> Captioner | None:
    """Who writes where the captioner that "auto" took cannot: the tagger, where it is installed; None for nobody."""
    return open_captioner("tagger") if name not in ("none", "tagger") and installed("tagger") else None
