"""The plan of a run: sizes, regions, network evaluations, memory, time. Pure: nothing is loaded or run for it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cupscale.errors import CupscaleError
from cupscale.method.regions import Region, Size, plan_regions
from cupscale.method.sampler import JITTER, generator
from cupscale.method.seam import Seam
from cupscale.method.windows import FlatPlaces, Placement
from cupscale.settings import MAX_SCALE, MAX_SIDE_PX, MIN_SIDE_PX, Settings

MAX_OUTPUT_PX = 16384  # a side; the paper goes to 8192
PLAIN_UPSCALERS = ("lanczos", "bicubic")
TILE_PX = 1024  # side of a VAE's tile
LEAST_TILE_PX = 256
LEAST_LAP = 0.25  # of a window, behind a picture that repeats
# Bytes of a pixel of the canvas: on the device, in and out of the autoencoder, and in main memory, where the result is made.
DEVICE_PX_BYTES = 18
HOST_PX_BYTES = 13
CONTROL_SHARE = 0.5  # of a sample: a ControlNet is the half of its network that reads (ours, by its parts and not measured)


@dataclass(frozen=True)
class Geometry:
    """What a plan must know of a network. Lengths in pixels.

    native: side of the window it was trained for. cell: of one latent cell. align: windows are multiples of this.
    channels: of a latent cell. weights: bytes of all parts as loaded; 0 where not known. tile: bytes that the autoencoder takes
    for each pixel of a tile; 0 where it is an exact codec. width: channels of the network's first level, which the memory of a
    window follows. longest: side of a window that the network has positions for; 0 where there is no end.
    """

    native: int
    cell: int
    align: int
    channels: int = 4
    weights: int = 0
    tile: int = 0
    width: int = 320
    longest: int = 0


@dataclass(frozen=True)
class Plan:
    """input, output: (width, height) in pixels. canvas, window, overview, regions: in latent cells.

    evaluations: of the network: the windows of all steps plus one a step for the attention prior.
    windows: those of all steps, without the `kept` ones, in which the input shows nothing. area: of one in the mean, over that
    of `window`. unit, longest: their sides are multiples of the one and, if it is not 0, at most the other, in cells.
    doubled: those of the windows that are guided, and take two samples.
    drawing: the evaluations that draw the input from words, which guidance doubles too; 0 where an image is given.
    seconds: estimate for this machine, None where it was never measured. bytes: estimate of the peak memory.
    guessed: the seconds are, since this model never ran here.
    caption_calls: of the captioner, at most; it keeps answers, and does not give them twice. captioner: its name.
    steps: that are run, the last of the schedule's `schedule_steps`.
    lap: cells that are repeated behind a picture without an edge; 0 for an axis that has one.
    upscaler: the base upscaler. why: it was chosen; empty where a person chose it, or where there was no image to look at.
    controlled: a ControlNet runs beside the network.
    """

    input: tuple[int, int]
    output: tuple[int, int]
    cell_px: int
    canvas: Size
    window: Size
    overview: Size
    regions: tuple[Region, ...]
    steps: int
    evaluations: int
    guided: bool
    bytes: int
    seconds: float | None
    caption_calls: int = 0
    captioner: str = ""
    schedule_steps: int = 0
    drawing: int = 0
    upscaler: str = ""
    why: str = ""
    windows: int = 0
    kept: int = 0
    doubled: int = 0
    controlled: bool = False
    guessed: bool = False
    lap: Size = Size(0, 0)
    area: float = 1.0
    unit: int = 1
    longest: int = 0

    @property
    def seam(self) -> Seam | None:
        """Of a picture that repeats, in cells; None where it has all its edges."""
        width, height = (side // self.cell_px for side in self.output)
        return Seam(Size(height, width), self.lap) if any(self.lap) else None

    @property
    def extended(self) -> tuple[int, int]:
        """(width, height) in pixels of the output with what is repeated behind it."""
        return self.output[0] + self.lap.w * self.cell_px, self.output[1] + self.lap.h * self.cell_px

    @property
    def boxes(self) -> tuple[tuple[int, int, int, int], ...]:
        """The regions as (left, top, right, bottom) in pixels of the output."""
        width, height = self.output
        return tuple(
            (px.x, px.y, min(px.x + px.w, width), min(px.y + px.h, height))
            for px in (region.scaled(self.cell_px) for region in self.regions)
        )

    @property
    def samples(self) -> int:
        """Network samples: evaluations with guidance counted twice."""
        return self.evaluations + self.doubled + self.guided * self.drawing

    @property
    def control_samples(self) -> int:
        """Samples of the ControlNet: one for each of the network's, but for those that draw from words."""
        return self.samples - (1 + self.guided) * self.drawing if self.controlled else 0

    @property
    def work(self) -> float:
        """Samples counted by their size in windows, and those of a ControlNet as a share."""
        drawing, windows = (1 + self.guided) * self.drawing, self.windows + self.doubled
        size = self.input[0] * self.input[1] / self.cell_px**2 / (self.window.h * self.window.w)
        samples = self.samples - drawing - windows + drawing * size + windows * self.area
        return samples + CONTROL_SHARE * self.control_samples

    def lead(self) -> str:
        """The sizes, and the time where it is known."""
        sizes = f"{self.input[0]} x {self.input[1]} -> {self.output[0]} x {self.output[1]}"
        if self.seconds is None:
            return sizes
        where = " (a guess: it has not run here yet)" if self.guessed else " here"
        return f"{sizes}, about {duration(self.seconds)}{where}"

    def rest(self) -> str:
        """What else there is to know of the run."""
        parts = [
            f"{len(self.regions)} region{'s' * (len(self.regions) > 1)}",
            f"{self.evaluations} model calls{self._beside()}",
            *[f"{self.kept} windows show nothing and cost nothing"] * bool(self.kept),
            *[f"the last {self.steps} of {self.schedule_steps} steps"] * bool(self.steps),
            f"about {self.bytes / 2**30:.1f} GB",
        ]
        if self.caption_calls:
            who = f" of {self.captioner}" * bool(self.captioner)
            parts.insert(0, f"{self.caption_calls} captioner call{'s' * (self.caption_calls > 1)}{who}")
        if self.steps:
            parts.insert(0, f"enlarged by {self.upscaler}{f' ({self.why})' * bool(self.why)} first")
        if self.drawing:
            parts.insert(0, f"drawn from the prompt in {self.drawing} steps")
        return ", ".join(parts)

    def _beside(self) -> str:
        """What else a model call takes, in brackets."""
        which = "each" if self.doubled == self.windows else f"{self.doubled + self.drawing} of them"
        parts = [f"guidance doubles {which}"] * self.guided
        parts += ["a ControlNet runs beside each"] * self.controlled
        return f" ({', '.join(parts)})" if parts else ""

    def line(self) -> str:
        """One line for a person; size and time lead."""
        return f"{self.lead()}, {self.rest()}"

    def to_dict(self) -> dict[str, Any]:
        data = asdict(self)
        data["regions"] = [list(box) for box in self.boxes]
        data |= {"samples": self.samples, "control_samples": self.control_samples}
        for name in ("canvas", "window", "overview", "lap"):
            data[name] = [side * self.cell_px for side in reversed(data[name])]
        for name in ("unit", "longest"):
            del data[name]
        return data


def output_size(size: tuple[int, int], scale: float) -> tuple[int, int]:
    """(width, height) of the result of an image of `size`, in px: exactly round(scale x input), at least 1."""
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


SIZES = ("width", "height", "megapixels", "fit", "to")  # what a person names in place of a scale
LONG_SIDES = {"4k": 4096, "8k": 8192}  # of `to`


@dataclass(frozen=True)
class Target:
    """A size to reach, in pixels of the result; the aspect is kept. One of these is given.

    Attributes:
        width: Of the result.
        height: Of the result.
        megapixels: Of the result, in millions of pixels.
        fit: (width, height) of a frame that the result just fits into.
        cover: (width, height) of a frame that the result just covers.
        long_side: The longer of width and height.
    """

    width: int | None = None
    height: int | None = None
    megapixels: float | None = None
    fit: tuple[int, int] | None = None
    cover: tuple[int, int] | None = None
    long_side: int | None = None

    @classmethod
    def named(
        cls,
        *,
        width: Any = None,
        height: Any = None,
        megapixels: Any = None,
        fit: Any = None,
        to: Any = None,
    ) -> Target | None:
        """A size as people name it, in the command, in Python, in the API and in links; None where none is given.

        Args:
            width: Of the result in pixels, 1 to 1,048,576; text is read, too.
            height: Likewise.
            megapixels: Of the result, 0.001 to 1,000 millions of pixels.
            fit: (width, height) of a frame that the result just fits into, or "3840x2160".
            to: "4k" or "8k": a longer side of 4096 or 8192 pixels.

        Raises:
            CupscaleError: Several are given, or one that is none of these.
        """
        given = {"width": width, "height": height, "megapixels": megapixels, "fit": fit, "to": to}
        given = {name: value for name, value in given.items() if value is not None and value != ""}
        if not given:
            return None
        if len(given) > 1:
            raise CupscaleError(f"{' and '.join(given)} are given: give one of {', '.join(SIZES)}")
        ((name, value),) = given.items()
        if name == "to":
            if str(value).lower() not in LONG_SIDES:
                raise CupscaleError(f"to is {str(value)[:20]!r}: choose 4k or 8k")
            return cls(long_side=LONG_SIDES[str(value).lower()])
        if name == "fit":
            return cls(fit=_frame(value))
        if name == "megapixels":
            return cls(megapixels=_number(name, value, 0.001, 1000))
        pixels = _number(name, value, 1, MAX_SIDE_PX)
        if pixels != round(pixels):
            raise CupscaleError(f"{name} is {pixels:g}: give whole pixels")
        return cls(width=round(pixels)) if name == "width" else cls(height=round(pixels))

    @property
    def label(self) -> str:
        """For a file's name: 'width1920', 'fit3840x2160'."""
        for name, value in vars(self).items():
            if value is not None:
                text = "x".join(map(str, value)) if isinstance(value, tuple) else f"{value:g}"
                return f"{name.replace('_', '')}{text}"
        return ""

    def scale(self, size: tuple[int, int]) -> float:
        """The scale that takes an image of `size` (width, height) there.

        Raises:
            CupscaleError: None or several are given, or the scale is below 1 or above 16.
        """
        width, height = size
        ways = {
            "width": self.width and self.width / width,
            "height": self.height and self.height / height,
            "megapixels": self.megapixels and math.sqrt(self.megapixels * 1e6 / (width * height)),
            "fit": self.fit and min(self.fit[0] / width, self.fit[1] / height),
            "cover": self.cover and max(self.cover[0] / width, self.cover[1] / height),
            "long side": self.long_side and self.long_side / max(size),
        }
        given = {name: scale for name, scale in ways.items() if scale is not None}
        if len(given) != 1:
            names = ", ".join(given) or "none"
            raise CupscaleError(f"one target size is needed, not {names}: give one of {', '.join(ways)}")
        ((name, scale),) = given.items()
        if not 1 <= scale <= MAX_SCALE:
            reach = (
                f"{width} x {height} to {math.floor(width * MAX_SCALE)} x {math.floor(height * MAX_SCALE)}"
            )
            raise CupscaleError(
                f"that {name} needs a scale of {scale:.3g}, and the limits are 1 and {MAX_SCALE:g}: an image of "
                f"{width} x {height} reaches {reach}"
            )
        return scale


def take_target(given: dict[str, Any]) -> Target | None:
    """The size that some fields name, which are taken out of them; None where they name none.

    Args:
        given: Settings by name, and perhaps one of `SIZES`.

    Raises:
        CupscaleError: As `Target.named`; or a scale is given besides.
    """
    target = Target.named(**{name: given.pop(name) for name in SIZES if name in given})
    if target is not None and given.get("scale") is not None:
        raise CupscaleError("a scale and a size are given: leave one of them out")
    return target


def _frame(value: Any) -> tuple[int, int]:
    sides = str(value).lower().split("x") if isinstance(value, str) else value
    try:
        width, height = (_number("fit", side, 1, MAX_SIDE_PX) for side in sides)
        if width == round(width) and height == round(height):
            return round(width), round(height)
    except (CupscaleError, TypeError, ValueError):
        pass
    raise CupscaleError(f"fit is {str(value)[:40]!r}: give WIDTHxHEIGHT, such as 3840x2160")


def _number(name: str, value: Any, low: float, high: float) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not low <= number <= high:
        raise CupscaleError(f"{name} is {str(value)[:40]!r}: give a number from {low:g} to {high:g}")
    return number


def make_plan(
    image_size: tuple[int, int],
    settings: Settings,
    geometry: Geometry,
    speed: Mapping[str, float] | None = None,
    *,
    caption_calls: int = 0,
    drawn: bool = False,
    rich: Tensor | None = None,
) -> Plan:
    """The plan of a run: sizes, regions, evaluations, bytes and, where a speed is known, seconds.

    Args:
        image_size: (width, height) of the input in pixels.
        settings: Of the run.
        geometry: Of the model.
        speed: Seconds for one network `sample` of a window of `cells`, of native size where that is not said, and for one
            `megapixel` of everything else, as measured by earlier runs; where they are there, those that are `fixed`, for one
            megapixel of `input` that a base upscaler's network enlarges, and for one `call` of the captioner.
        caption_calls: See `cupscale.captioners.caption_calls`.
        drawn: The input is drawn from the prompt first. At scale 1 it is the result.
        rich: (1, 1, h, w) over the input, as `guidance.richness` measures it, for the windows that show nothing; None where it is
            not looked at.

    Raises:
        CupscaleError: The image or the output is outside the limits.
    """
    output = checked_output(image_size, settings.scale)
    plan = Plan(
        input=image_size,
        output=output,
        **_laid_out(output, settings, geometry),
        steps=0 if drawn and settings.scale == 1 else settings.run_steps,
        evaluations=0,
        guided=settings.guidance > 1,
        bytes=0,
        seconds=None,
        caption_calls=caption_calls,
        schedule_steps=settings.steps,
        drawing=settings.steps if drawn else 0,
        upscaler=settings.upscaler,
        controlled=settings.control > 0,
    )
    plan = counted(plan, settings, rich)
    plan = replace(plan, bytes=_bytes(plan, geometry))
    native = (geometry.native // geometry.cell) ** 2
    return replace(plan, seconds=_seconds(plan, speed, native)) if speed else plan


def _laid_out(output: tuple[int, int], settings: Settings, geometry: Geometry) -> dict[str, Any]:
    """Those fields of a plan that are lengths in cells, and the regions."""
    cell, align, lap = geometry.cell, geometry.align, _lap(output, settings, geometry)
    sides = zip(reversed(output), lap, strict=True)
    canvas_px = Size(*(aligned(side + n * cell, align) for side, n in sides))
    window_px = Size(*(min(aligned(geometry.native, align), side) for side in canvas_px))
    canvas, window, overview = (
        Size(size.h // cell, size.w // cell)
        for size in (canvas_px, window_px, _overview_px(canvas_px, geometry))
    )
    return {
        "cell_px": cell,
        "canvas": canvas,
        "window": window,
        "overview": overview,
        "regions": tuple(plan_regions(canvas, window, settings.overlap)),
        "lap": lap,
        "unit": align // cell,
        "longest": geometry.longest // cell,
    }


def _overview_px(canvas_px: Size, geometry: Geometry) -> Size:
    """The canvas shrunk to native size, where it is larger, in whole alignments."""
    shrink = min(1.0, geometry.native / max(canvas_px))
    return Size(
        *(max(geometry.align, round(side * shrink / geometry.align) * geometry.align) for side in canvas_px)
    )


def counted(plan: Plan, settings: Settings, rich: Tensor | None) -> Plan:
    """The plan with the network's evaluations, step by step, as the run will make them. rich: See `make_plan`."""
    jitter = generator(settings.seed, JITTER)
    grids = placement(plan, settings).grids(plan.canvas, plan.window, settings.overlap, plan.steps, jitter)
    counts = [grid.total for grid in grids]
    if rich is not None and settings.flat_windows == "keep":
        flat = FlatPlaces(per_cell(rich, plan))
        counts = [grid.total - sum(flat.empty(grid)) for grid in grids]
    cells = sum(count * grid.window.h * grid.window.w for count, grid in zip(counts, grids, strict=True))
    return replace(
        plan,
        evaluations=plan.drawing + sum(counts) + plan.steps * settings.passes_overview,
        area=cells / (sum(counts) * plan.window.h * plan.window.w) if cells else 1.0,
        windows=sum(counts),
        kept=sum(grid.total for grid in grids) - sum(counts),
        doubled=sum(counts[: settings.guided_steps]),
    )


def placement(plan: Plan, settings: Settings) -> Placement:
    """How the windows of the run move."""
    return Placement(settings.windows, settings.overlap_falls, plan.unit, plan.longest)


def per_cell(of_input: Tensor, plan: Plan) -> Tensor:
    """A map over the input's pixels (1, 1, h, w), on the plan's canvas (1, 1, H, W).

    Its padding carries the edge on, or, where the picture repeats, begins it again.
    """
    width, height = (max(1, round(side / plan.cell_px)) for side in plan.output)
    found = F.interpolate(of_input, (height, width), mode="bilinear")
    found = torch.cat((found, found[..., : plan.lap.w]), dim=-1)
    found = torch.cat((found, found[..., : plan.lap.h, :]), dim=-2)
    height, width = found.shape[-2:]
    return F.pad(found, (0, plan.canvas.w - width, 0, plan.canvas.h - height), mode="replicate")


def _lap(output: tuple[int, int], settings: Settings, geometry: Geometry) -> Size:
    """What is repeated, in cells: the overlap of two windows, a quarter of one at least, and the whole picture at most."""
    found = {"x": 0, "y": 0}
    for axis, side in zip("xy", output, strict=True):
        if settings.seamless == "none" or axis not in settings.seamless:
            continue
        if side % geometry.cell:
            raise CupscaleError(
                f"seamless {settings.seamless} needs a result whose {'width' if axis == 'x' else 'height'} is a multiple of "
                f"{geometry.cell} px, not {side}: choose another scale, or crop the image"
            )
        cells = side // geometry.cell
        window = min(geometry.native // geometry.cell, cells)
        found[axis] = min(cells, max(1, round(window * max(settings.overlap, LEAST_LAP))))
    return Size(found["y"], found["x"])


def device_bytes(plan: Plan, geometry: Geometry) -> int:
    """What a run takes on an accelerator besides the model's weights.

    Args:
        plan: Of the run.
        geometry: Of the model.
    """
    pixels = plan.canvas.h * plan.canvas.w * geometry.cell**2
    work = max(_window_bytes(plan, geometry), _tile_bytes(geometry, pixels))
    return 12 * _latent_bytes(geometry, pixels) + DEVICE_PX_BYTES * pixels + work


def fitting_scale(size: tuple[int, int], settings: Settings, geometry: Geometry, room: int) -> float | None:
    """The largest scale below the run's, in halves, whose work fits on the device; None where there is none.

    Args:
        size: (width, height) of the input in pixels.
        settings: Of the run.
        geometry: Of the model.
        room: Bytes, of which the weights take their part.
    """
    for half in range(math.ceil(settings.scale * 2) - 1, 1, -1):
        plan = make_plan(size, settings.replace(scale=half / 2), geometry)
        if geometry.weights + device_bytes(plan, geometry) <= room:
            return half / 2
    return None


def drawn_size(size: str, geometry: Geometry) -> tuple[int, int]:
    """(width, height) in pixels of a picture that a model draws from words.

    Args:
        size: "1344x768"; empty for the network's native square.
        geometry: Of the model.

    Raises:
        CupscaleError: The model was not made for that size; the message names the nearest that it was made for. Ours: sides are
            multiples of `align`, the area is within a fifth of the native square's, and no side is above 4 times the other.
    """
    native, align = geometry.native, geometry.align
    if not size:
        return native, native
    width, height = (int(side) for side in size.split("x"))
    area = width * height / native**2
    if (
        width % align == height % align == 0
        and 0.8 <= area <= 1.25
        and max(width, height) <= 4 * min(width, height)
    ):
        return width, height
    near = nearest_size(width / height, geometry)
    raise CupscaleError(
        f"size {size} is not one that this model draws: sides are multiples of {align} px, about {native} x {native} px in all; "
        f"the nearest is {near[0]}x{near[1]}"
    )


def nearest_size(aspect: float, geometry: Geometry) -> tuple[int, int]:
    """(width, height) in pixels that a model draws, nearest to an aspect (width over height, held within 1/4 and 4)."""
    root = math.sqrt(min(4.0, max(0.25, aspect)))
    width, height = (
        round(geometry.native * side / geometry.align) * geometry.align for side in (root, 1 / root)
    )
    return width, height


def checked_output(size: tuple[int, int], scale: float) -> tuple[int, int]:
    """`output_size`, within the limits.

    Raises:
        CupscaleError: The image is too small, or a side of the output is above `MAX_OUTPUT_PX`.
    """
    if min(size) < MIN_SIDE_PX:
        raise CupscaleError(
            f"the image is {size[0]} x {size[1]} px: at least {MIN_SIDE_PX} px a side are needed"
        )
    output = output_size(size, scale)
    if max(output) > MAX_OUTPUT_PX:
        fits = int(MAX_OUTPUT_PX / max(size) * 100) / 100
        remedy = f"choose a scale of at most {fits:g}" if fits >= 1 else "make the image smaller first"
        raise CupscaleError(
            f"the output would be {output[0]} x {output[1]} px: the limit is {MAX_OUTPUT_PX} px a side; {remedy}"
        )
    return output


def _seconds(plan: Plan, speed: Mapping[str, float], native: int) -> float:
    """As earlier runs took, in tenths of a second, at least one. native: cells of a window."""
    cells, pixels = plan.window.h * plan.window.w, plan.canvas.h * plan.canvas.w * plan.cell_px**2
    seconds = plan.work * speed["sample"] * cells / speed.get("cells", native)
    seconds += pixels / 1e6 * speed["megapixel"] + speed.get("fixed", 0.0)
    if plan.upscaler not in PLAIN_UPSCALERS and plan.steps:
        seconds += plan.input[0] * plan.input[1] / 1e6 * speed.get("input", 0.0)
    return max(0.1, round(seconds + plan.caption_calls * speed.get("call", 0.0), 1))


def _bytes(plan: Plan, geometry: Geometry) -> int:
    """The peak of a run's memory where one memory holds everything: the weights, and the largest of what its stages need.

    Copies of the latents (the canvas, the reference, their spectrum, sums and weights of the windows) and a window's
    activations; a tile of the autoencoder beside the picture, in 16 and in 8 bits (`python -m benchmarks.run memory`).
    """
    pixels = plan.canvas.h * plan.canvas.w * geometry.cell**2
    latents = _latent_bytes(geometry, pixels)
    denoising = 11 * latents // 2 + _window_bytes(plan, geometry)
    codec = 2 * latents + HOST_PX_BYTES * pixels + _tile_bytes(geometry, pixels)
    return geometry.weights + max(denoising, codec)


def _latent_bytes(geometry: Geometry, pixels: int) -> int:
    return pixels // geometry.cell**2 * geometry.channels * 4


def _window_bytes(plan: Plan, geometry: Geometry) -> int:
    return round(plan.window.h * plan.window.w * plan.area) * geometry.width * 4 * 40


def _tile_bytes(geometry: Geometry, pixels: int) -> int:
    return min(pixels, TILE_PX**2) * geometry.tile


def aligned(side: int, align: int) -> int:
    """The next multiple of `align`."""
    return -(-side // align) * align


def duration(seconds: float) -> str:
    """75 -> '1 min 15 s'."""
    total = max(1, round(seconds))
    if total < 60:
        return f"{total} s"
    minutes, rest = divmod(total, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"
