"""Settings: the one model of everything that decides what a result looks like.

The same names are keywords in Python, flags on the command line, keys in JSON and in a link's query, and
the metadata inside a result. How a run is carried out (device, precision, offload, regions at once) is not
here: it does not decide the picture. See `cupscale.models.load` and `cupscale.pipeline.CUpscalePipeline`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from cupscale.bounded import parse_object
from cupscale.errors import CupscaleError

Upscaler = Literal["auto", "realsr", "realesrgan", "anime", "waifu2x", "lanczos", "bicubic"]
Share = float | Literal["auto"]  # a share, or what suits the input
Scheduler = Literal["model", "ddim", "euler", "dpm++2m"]
PRESETS = ("quick", "turbo", "paper")  # see `cupscale.models.preset`
# What the paper leaves open, beside our own choice: for ablations. The defaults are the choices made here.
CHOICES = (
    "structure_space",
    "structure_reference",
    "structure_filter",
    "structure_decay",
    "attention_form",
    "composer",
    "guidance_low",
    "sigma_shift",
)
# What takes fewer network samples than the method as it is; the defaults save nothing.
SAVINGS = ("windows", "overlap_falls", "flat_windows", "guidance_until")

# Fields that may be "auto", and are a share of 1 in a run.
SHARES = ("restore", "fidelity", "flat_strength")
_SHARE_OR_AUTO: dict[str, Any] = {
    "anyOf": [{"type": "number", "minimum": 0, "maximum": 1}, {"const": "auto"}]
}

RECORDED = ("captions", "loras", "mask")  # fields with a way of their own into a run

MAX_SCALE = 16.0
MAX_CAPTIONS = 4096
MIN_SIDE_PX = 16  # of an input image
MAX_SIDE_PX = 2**20  # of a caption's box; no output is as large


def default_cutoff(scale: float) -> float:
    """The low-resolution image holds nothing above 1 / scale of Nyquist; 0.8 leaves its soft edge out (ours)."""
    return round(min(1.0, 0.8 / scale), 4)


class Caption(BaseModel):
    """What one region shows. `box` is (left, top, right, bottom) in pixels of the output."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    box: tuple[int, int, int, int]
    caption: Annotated[str, Field(max_length=2000)]
    source: Annotated[str, Field(max_length=200)] = "user"

    @model_validator(mode="after")
    def _box_has_area(self) -> Caption:
        left, top, right, bottom = self.box
        if min(left, top) < 0 or right <= left or bottom <= top or max(self.box) > MAX_SIDE_PX:
            raise ValueError(
                f"box {str(list(self.box))[:60]} is not (left, top, right, bottom) in pixels of the output"
            )
        return self


class Settings(BaseModel):
    """Everything that decides the picture, next to the input image and the model's weights.

    The paper's symbols: `cutoff` is D of the global structure prior, `structure` its strength w_0,
    `attention` is mu, `detail` is lambda, `strength` is S / T.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    scale: float = Field(2.0, ge=1, le=MAX_SCALE, description="Output size over input size, each side.")
    seed: int = Field(0, ge=0, le=2**32 - 1, description="Seed of the noise and of the window jitter.")
    prompt: str = Field("", max_length=2000, description="What the whole picture shows.")
    negative_prompt: str = Field("", max_length=2000, description="What the picture should not show.")
    cutoff: float = Field(
        0.4,
        ge=0.01,
        le=2,
        description="GSP cutoff D, a fraction of Nyquist. Higher keeps more of the input (0.8 / scale).",
    )
    structure: float = Field(
        1.0, ge=0, le=1, description="GSP strength w_0. 0 lets the layout drift; 1 holds it."
    )
    attention: float = Field(
        0.6,
        ge=0,
        le=1,
        description="Attention prior mu. Higher stops objects from repeating in every region.",
    )
    detail: float = Field(
        0.5, ge=0, le=1, description="Regional detail lambda. Higher follows each region's own caption more."
    )
    strength: float = Field(
        0.45, gt=0, le=1, description="Denoising strength S / T. Higher invents more and keeps less."
    )
    steps: int = Field(
        50, ge=1, le=1000, description="Steps of the full schedule; strength x steps of them are run."
    )
    guidance: float = Field(
        7.5, ge=1, le=30, description="Classifier-free guidance. 1 turns it off and halves the time."
    )
    flat_guidance: float = Field(
        1.0, ge=0, le=1, description="Share of the guidance that flat places get. 1: as everywhere."
    )
    flat_strength: Share = Field(
        1.0,
        description="Share of what the diffusion changes that flat places get: 0 to 1 (0: they stay as the base upscaler made "
        "them), or 'auto', which leaves them nine tenths of its grain (ours).",
        json_schema_extra=_SHARE_OR_AUTO,
    )
    overlap: float = Field(
        0.5, ge=0, le=0.75, description="Overlap of neighbouring windows, a fraction of a window."
    )
    windows: Literal["jittered", "shifted", "alternating"] = Field(
        "jittered",
        description="Windows spread evenly and jittered (ours); or on a grid that moves at random at every step (SpotDiffusion, "
        "arXiv 2407.15507), which needs no overlap; or likewise with rows and columns by turns (ours).",
    )
    overlap_falls: Literal["none", "thirds"] = Field(
        "none",
        description="The overlap stays, or is whole, half and none in the three thirds of the steps, as the noise falls (ours).",
    )
    flat_windows: Literal["denoise", "keep"] = Field(
        "denoise",
        description="Windows in which the input shows nothing are denoised, or keep the enlarged input at no cost (ours).",
    )
    guidance_until: float = Field(
        1.0,
        ge=0,
        le=1,
        description="Share of the steps, from the first on, that are guided (arXiv 2404.07724); the rest take half the time.",
    )
    upscaler: Upscaler = Field(
        "lanczos",
        description="Base upscaler: how the input is enlarged before noise. 'auto' looks at the input.",
    )
    restore: Share = Field(
        "auto",
        description="How much of the input's damage (JPEG, noise, grain) is taken away before it is enlarged: 0 to 1, or 'auto', "
        "which looks for noise and grain.",
        json_schema_extra=_SHARE_OR_AUTO,
    )
    fidelity: Share = Field(
        "auto",
        description="How far the result, made small again, is the input (restored, where `restore` is above 0): 0 to 1, or "
        "'auto', which trusts clean input more.",
        json_schema_extra=_SHARE_OR_AUTO,
    )
    structure_space: Literal["x0", "z_t"] = Field(
        "x0",
        description="GSP moves the estimate x0 (HiFlow, arXiv 2504.06232) or the noised latent z_t, which a review of the "
        "paper names.",
    )
    structure_reference: Literal["input", "overview"] = Field(
        "input",
        description="GSP moves towards the resized input, or towards the x0 of the native-size pass at the same step "
        "(HiFlow).",
    )
    structure_filter: Literal["butterworth", "gaussian", "ideal", "wavelet"] = Field(
        "butterworth",
        description="Low-pass of GSP: butterworth (HiFlow), gaussian, ideal, or wavelet, the LL band (MASF, arXiv 2403.17870).",
    )
    structure_decay: Literal["cosine", "linear"] = Field(
        "cosine", description="How w_t of GSP falls over the run: along a cosine (ours) or linear (HiFlow)."
    )
    attention_form: Literal["mix", "screen"] = Field(
        "mix",
        description="RAP mixes the overview's attention in (ours), or screens out the prompt's words that the overview does not "
        "show in a region (AccDiffusion, arXiv 2407.10738).",
    )
    composer: Literal["mix", "frequency"] = Field(
        "mix",
        description="The composer mixes global and regional prompts (ours), or gives the global one the low and the regional one "
        "the high frequencies (HiPrompt, arXiv 2409.02919).",
    )
    guidance_low: float = Field(
        0.0,
        ge=0,
        le=30,
        description="Guidance of the frequencies below the cutoff; 0: as all others (FDG, arXiv 2506.19713: 5 beside 10).",
    )
    sigma_shift: float = Field(
        0.0,
        ge=0,
        le=0.5,
        description="The network is told up to this share less noise than there is, and leaves it as detail (Detail Daemon).",
    )
    control: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Weight of a ControlNet for tiles, which holds the result to the input; 0: none. Needs a model loaded with "
        "one.",
    )
    seamless: Literal["none", "x", "y", "xy"] = Field(
        "none",
        description="The picture repeats along this axis: its edges are enlarged as if they met, for textures and panoramas.",
    )
    scheduler: Scheduler = Field("model", description="Sampler. 'model' is the one the model came with.")
    size: str = Field(
        "",
        pattern=r"^([1-9]\d{1,4}x[1-9]\d{1,4})?$",
        description="From words: WIDTHxHEIGHT of the picture that the prompt is drawn as first, in pixels; empty for the "
        "model's own size. Not used where an image is given.",
    )
    model: str = Field("tiny", max_length=500, description="Model name, hub id or folder.")
    loras: tuple[str, ...] = Field(
        (),
        max_length=16,
        description="LoRAs, each PATH_OR_ID or PATH_OR_ID:weight. A result says what its model was loaded with.",
    )
    mask: str = Field(
        "",
        pattern=r"^([0-9a-f]{16})?$",
        description="A result says here, in 16 digits, under which mask it was made; empty for none. A run sets it itself.",
    )
    captions: tuple[Caption, ...] = Field(
        (), max_length=MAX_CAPTIONS, description="A caption per region (the semantic prior)."
    )

    @field_validator(*SHARES, mode="plain")
    @classmethod
    def _auto_or_a_share(cls, value: Any) -> Share:
        if value == "auto":
            return "auto"
        try:
            share = float(value)
        except (TypeError, ValueError):
            share = math.nan
        if isinstance(value, bool) or not 0 <= share <= 1:
            raise ValueError("give a number from 0 to 1, or auto")
        return share

    @model_validator(mode="before")
    @classmethod
    def _cutoff_follows_scale(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and data.get("cutoff") is None:
            scale = data.get("scale", 2.0)
            data = {k: v for k, v in data.items() if k != "cutoff"}
            try:
                data["cutoff"] = default_cutoff(float(scale)) if float(scale) >= 1 else 1.0
            except (TypeError, ValueError):
                data["cutoff"] = 1.0  # the bad scale is reported on its own
        return data

    @classmethod
    def build(cls, *layers: Mapping[str, Any] | None, **fields: Any) -> Settings:
        """Later layers win: model's defaults, preset, a file, then `fields`. `None` means "not given".

        Raises CupscaleError naming the field, its range and the value.
        """
        merged: dict[str, Any] = {}
        for layer in (*layers, fields):
            merged |= {key: value for key, value in (layer or {}).items() if value is not None}
        try:
            return cls(**merged)
        except ValidationError as error:
            raise CupscaleError(_one_line(error)) from None

    def replace(self, **fields: Any) -> Settings:
        """A copy with some fields changed, checked again."""
        return self.build(self.model_dump(), **fields)

    def at_scale(self, scale: float) -> Settings:
        """With another scale, and the cutoff of it where the cutoff was that of the scale before."""
        follows = self.cutoff == default_cutoff(self.scale)
        return self.replace(scale=scale, cutoff=default_cutoff(scale) if follows else self.cutoff)

    def to_json(self, indent: int | None = None) -> str:
        return json.dumps(self.model_dump(mode="json"), indent=indent, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Settings:
        return cls.build(parse_object(text, "settings"))

    @property
    def passes_overview(self) -> bool:
        """Whether each step runs the network over the whole picture at its native size besides."""
        follows = self.structure > 0 and self.structure_reference == "overview"
        return self.attention > 0 or follows

    @property
    def run_steps(self) -> int:
        """Steps that are run: ceil(strength x steps)."""
        return max(1, -int(-(self.strength * self.steps - 1e-6) // 1))

    @property
    def guided_steps(self) -> int:
        """Those of the steps that are run, from the first on, that guidance doubles."""
        return math.ceil(self.guidance_until * self.run_steps - 1e-6) if self.guidance > 1 else 0


def _one_line(error: ValidationError) -> str:
    parts = []
    for item in error.errors(include_url=False)[:3]:
        where = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            parts.append(f"{where}: no such setting; the settings are {', '.join(Settings.model_fields)}")
        else:
            given = repr(item["input"])
            message = item["msg"].removeprefix("Value error, ")
            parts.append(f"{where}: {message[0].lower()}{message[1:]}, not {given[:80]}")
    return "; ".join(parts)
