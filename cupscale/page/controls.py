"""The controls: one for every setting, built from `Settings`, and the way from their values to `Settings` and back."""

from __future__ import annotations

import random
import typing
from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr

from cupscale.errors import CupscaleError
from cupscale.page import engine
from cupscale.page.limits import Limits
from cupscale.page.size import Size
from cupscale.settings import CHOICES, SAVINGS, SHARES, Caption, Settings

LABELS = {
    "scale": "Scale",
    "seed": "Seed",
    "prompt": "Prompt",
    "negative_prompt": "Negative prompt",
    "cutoff": "Frequency cutoff (D)",
    "structure": "Structure strength (GSP)",
    "attention": "Whole-picture attention (RAP, μ)",
    "detail": "Regional detail (RSP, λ)",
    "strength": "Denoising strength (S / T)",
    "steps": "Steps",
    "guidance": "Guidance scale (CFG)",
    "flat_guidance": "Guidance in flat places",
    "flat_strength": "Changes in flat places",
    "overlap": "Overlap of regions",
    "seamless": "Repeats along",
    "upscaler": "Base upscaler",
    "restore": "Restoration",
    "fidelity": "Fidelity",
    "scheduler": "Scheduler",
    "model": "Model",
    "structure_space": "Structure prior moves",
    "structure_reference": "Structure prior follows",
    "structure_filter": "Structure filter",
    "structure_decay": "Structure decay",
    "attention_form": "Attention prior as",
    "composer": "Attention composer",
    "guidance_low": "Guidance of low frequencies",
    "sigma_shift": "Noise level shift",
    "control": "Hold to the image (ControlNet)",
    "windows": "Windows",
    "overlap_falls": "Overlap falls",
    "flat_windows": "Windows that show nothing",
    "guidance_until": "Guided share of the steps",
}
# What each knob does to the picture, in one line.
EFFECTS = {
    "cutoff": "How fine the shapes are that stay put. Higher holds more of your image, lower leaves more to invent.",
    "structure": "How firmly those shapes are held. 0 lets the layout drift.",
    "attention": "How much each region looks at the whole picture. Higher stops things from appearing twice.",
    "detail": "How much each region follows its own caption. 0 ignores the captions.",
    "strength": "How much noise the run starts from. Higher invents more and keeps less.",
    "steps": "The schedule's steps; denoising strength x steps of them run. More are slower and a little finer.",
    "guidance": "How literally the prompt is taken. 1 turns it off and halves the time.",
    "flat_guidance": "How much of the guidance skies and walls get. Lower keeps them free of grain.",
    "flat_strength": "How much of what the run adds goes into skies and walls, from 0 to 1. 'auto' keeps most of their grain.",
    "overlap": "How much neighbouring regions share. Higher hides seams better and takes longer.",
    "upscaler": "Enlarges your image before the run. 'auto' looks at it, and tells clean images from damaged ones.",
    "restore": "How much damage is taken out first, from 0 to 1: JPEG blocks, noise, grain. 'auto' finds noise and grain.",
    "fidelity": "How closely the result, scaled back down, must match your image, from 0 to 1. 'auto' trusts a clean image more.",
    "scheduler": "The sampler. 'model' is the one the model came with.",
    "model": "The diffusion model that adds the detail.",
    "control": "How firmly a second network holds every region to your image. 0 leaves it out.",
} | {name: str(Settings.model_fields[name].description) for name in (*CHOICES, *SAVINGS)}
_STEP = {
    "cutoff": 0.01,
    "strength": 0.01,
    "structure": 0.05,
    "attention": 0.05,
    "detail": 0.05,
    "overlap": 0.05,
    "guidance": 0.1,
    "flat_guidance": 0.05,
    "guidance_low": 0.1,
    "sigma_shift": 0.01,
    "control": 0.05,
    "guidance_until": 0.05,
}
_LOWEST = {"cutoff": 0.01, "strength": 0.01}  # the settings want more than 0


def _range(name: str) -> tuple[float, float]:
    """From the constraints of `Settings`."""
    low, high = 0.0, 1.0
    for rule in Settings.model_fields[name].metadata:
        low = getattr(rule, "ge", low)
        high = getattr(rule, "le", high)
    return _LOWEST.get(name, low), high


class Count(gr.Number):
    """A number whose range is ours to refuse: gradio's own refusal is shown nowhere."""

    def get_block_name(self) -> str:
        return "number"

    @staticmethod
    def raise_if_out_of_bounds(num: float, minimum: float | None, maximum: float | None) -> None:
        pass


class Controls:
    """The components, by the setting's name. Build them inside `gr.Blocks`, in the order of the calls."""

    def __init__(self, limits: Limits) -> None:
        self.model = engine.default_model()
        self.first = Settings.build(engine.defaults(self.model))
        self.limits = limits
        self.by_name: dict[str, gr.components.Component] = {}
        self._ranges: dict[str, tuple[int, int]] = {}

    def __getitem__(self, name: str) -> Any:
        return self.by_name[name]

    def text(self, name: str, placeholder: str, lines: int = 2) -> None:
        self.by_name[name] = gr.Textbox(
            getattr(self.first, name),
            label=LABELS[name],
            placeholder=placeholder,
            lines=lines,
            max_length=2000,
            elem_id=f"set-{name}",
        )

    def size(self) -> None:
        self.by_name["scale"] = Size(self.first.scale, elem_id="set-scale")

    def slider(self, name: str) -> None:
        low, high = _range(name)
        self.by_name[name] = gr.Slider(
            low,
            high,
            value=getattr(self.first, name),
            step=_STEP[name],
            label=LABELS[name],
            info=EFFECTS.get(name),
            elem_id=f"set-{name}",
            visible=name != "control" or self.model in engine.controlnets(),
        )

    def number(self, name: str, low: int, high: int) -> None:
        self._ranges[name] = (low, high)
        self.by_name[name] = Count(
            getattr(self.first, name),
            label=LABELS[name],
            info=EFFECTS.get(name),
            precision=0,
            minimum=low,
            maximum=high,
            elem_id=f"set-{name}",
        )

    def choice(self, name: str) -> None:
        field: Any = Settings.model_fields[name].annotation
        options = engine.names() if name == "model" else list(typing.get_args(field))
        self.by_name[name] = gr.Dropdown(
            options,
            value=getattr(self.first, name),
            label=LABELS[name],
            info=EFFECTS.get(name) or Settings.model_fields[name].description,
            elem_id=f"set-{name}",
        )

    def share(self, name: str) -> None:
        """A share or "auto"."""
        self.by_name[name] = gr.Dropdown(
            ["auto", *(str(share / 4) for share in range(5))],
            value=str(getattr(self.first, name)),
            allow_custom_value=True,
            label=LABELS[name],
            info=EFFECTS[name],
            elem_id=f"set-{name}",
        )

    def several(self, names: Sequence[str]) -> None:
        """Sliders for numbers, lists for the rest."""
        for name in names:
            if name in _STEP:
                self.slider(name)
            else:
                self.choice(name)

    @property
    def all(self) -> list[Any]:
        """In the order of `LABELS`, for inputs and outputs."""
        return [self.by_name[name] for name in LABELS]

    def settings(
        self, values: Mapping[Any, Any], captions: Sequence[Caption] = (), *, randomize: bool = False
    ) -> Settings:
        """The settings from a handler's values. Raises CupscaleError naming the field, its range and the value."""
        fields = {name: values[component] for name, component in self.by_name.items()}
        fields = {name: value for name, value in fields.items() if value is not None}
        for name, (low, high) in self._ranges.items():
            if name in fields and not low <= fields[name] <= high:
                raise CupscaleError(
                    f"{LABELS[name]} goes from {low} to {high}, and {fields[name]} is outside"
                )
        if randomize:
            fields["seed"] = random.randrange(2**32)
        model = engine.check_model(str(fields.get("model", "")))
        if model not in engine.controlnets():  # of another model, or of a link
            fields["control"] = 0.0
        return Settings.build(fields, captions=tuple(captions))

    def show(self, fields: Mapping[str, Any]) -> dict[Any, Any]:
        """Updates that put some settings into the controls."""
        shown = {
            name: str(value) if name in SHARES and value is not None else value
            for name, value in fields.items()
        }
        return {self.by_name[name]: value for name, value in shown.items() if name in self.by_name}
