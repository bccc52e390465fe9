"""What every peer is, and what those that run a diffusion model share: sizes, codec, settings, and the network's windows."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeVar

import torch
from PIL import Image
from torch import Tensor

from cupscale import images
from cupscale.backbones import Backbone, GuidedDenoiser, Tiles
from cupscale.backbones.texts import readable
from cupscale.errors import CupscaleError
from cupscale.images.tensors import carried_on
from cupscale.method.memory import fitting
from cupscale.method.regions import Region, Size
from cupscale.method.sampler import generator
from cupscale.planning import LEAST_TILE_PX, Geometry, Plan, aligned, make_plan
from cupscale.settings import Settings

TRAIN_STEPS = 1000  # T of every family here

Progress = tuple[int, int]
Run = Generator[Progress, None, Image.Image]
Found = TypeVar("Found")


@dataclass(frozen=True)
class Task:
    """What a peer is asked to enlarge.

    Attributes:
        backbone: The model. Peers that need none do not look at it.
        image: RGB.
        settings: prompt, negative_prompt, scale, seed and scheduler of them are read; steps, guidance and strength are the
            peer's own.
        tiles: Of the VAE.
    """

    backbone: Backbone
    image: Image.Image
    settings: Settings
    tiles: Tiles = Tiles()


@dataclass(frozen=True)
class Peer(ABC):
    """An upscaling method of other people; a subclass' fields are its options, with its authors' defaults.

    name: for commands. title: for people. paper: where it was published.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    paper: ClassVar[str]

    @abstractmethod
    def samples(self, size: tuple[int, int], scale: float, geometry: Geometry) -> int:
        """The network samples of a run, guidance counted twice; 0 where no diffusion model is run.

        Args:
            size: (width, height) of the input in pixels.
            scale: Of the settings.
            geometry: Of the model.

        Raises:
            CupscaleError: The output is outside the limits.
        """

    @abstractmethod
    def run(self, task: Task) -> Run:
        """Enlarge.

        Args:
            task: The work.

        Yields:
            (done, total), network samples where the peer runs a model. Closing the generator there ends the work.

        Returns:
            RGB, exactly round(scale x input) pixels a side.

        Raises:
            CupscaleError: Bad input, at the call.
        """

    def upscale(self, task: Task) -> Image.Image:
        """`run` to its end."""
        return _returned(self.run(task))


def _returned(steps: Generator[Any, None, Found]) -> Found:
    """What a generator returns at its end."""
    with contextlib.closing(steps):
        while True:
            try:
                next(steps)
            except StopIteration as stop:
                found: Found = stop.value
                return found


def layout(size: tuple[int, int], scale: float, geometry: Geometry) -> Plan:
    """The sizes of a run, by their usual rules: output in pixels, canvas and window of native size in cells."""
    return make_plan(size, Settings.build(scale=scale), geometry)


def cells_of(size_px: tuple[int, int], geometry: Geometry) -> Size:
    """The canvas of a picture of (width, height) pixels: up to whole multiples of what the network takes."""
    return Size(*(aligned(side, geometry.align) // geometry.cell for side in reversed(size_px)))


def run_steps(strength: float, steps: int) -> int:
    """How many of `steps` image to image runs at a strength."""
    return Settings.build(strength=strength, steps=steps).run_steps


def doubled(samples: int, guidance: float) -> int:
    """The samples with guidance, which is off at 1, counted twice."""
    return samples * (2 if guidance > 1 else 1)


@dataclass(frozen=True)
class Diffusion(Peer):
    """A peer that runs the diffusion model."""

    def run(self, task: Task) -> Run:
        plan = layout(task.image.size, task.settings.scale, task.backbone.geometry)
        self.check(task, plan)
        total = self.samples(task.image.size, task.settings.scale, task.backbone.geometry)
        return _released(self.enlarge(Work(task, plan, total)), task.backbone)

    def check(self, task: Task, plan: Plan) -> None:
        """See that the peer can do this task.

        Raises:
            CupscaleError: It cannot; the line says what can.
        """

    @abstractmethod
    def enlarge(self, work: Work) -> Run:
        """`run`, after the checks."""


def _released(steps: Run, backbone: Backbone) -> Run:
    try:
        return (yield from steps)
    finally:
        backbone.release()


class Work:
    """One run of a diffusion peer: its sizes, and the model's parts as a peer uses them.

    Args:
        task: What is enlarged.
        plan: Its sizes.
        total: Network samples of the whole run.
    """

    def __init__(self, task: Task, plan: Plan, total: int):
        self.task = task
        self.backbone = task.backbone
        self.geometry = task.backbone.geometry
        self.output = plan.output
        self.canvas = plan.canvas
        self.window = plan.window
        self.total = total
        self.done = 0
        self._tiles = task.tiles
        self._batch = 1 if task.backbone.device.type == "cpu" else 4

    def settings(self, **fields: Any) -> Settings:
        """The task's, every prior off, under a peer's own `fields`; the prompts cut to what the text encoder reads."""
        off: dict[str, Any] = {
            "structure": 0.0,
            "attention": 0.0,
            "detail": 0.0,
            "captions": (),
            "flat_guidance": 1.0,
            "flat_strength": 1.0,
        }
        settings, _ = readable(self.task.settings.replace(**off | fields), self.backbone)
        return settings

    def random(self, stream: int) -> torch.Generator:
        """The seed's generator on the CPU; see `cupscale.method.sampler.draw_noise` for the streams."""
        return generator(self.task.settings.seed, stream)

    def cells(self, size_px: tuple[int, int]) -> Size:
        """The canvas of a picture of (width, height) pixels."""
        return cells_of(size_px, self.geometry)

    def encode(self, image: Image.Image) -> Tensor:
        """(1, C, H, W) on the picture's canvas."""
        return self.encode_pixels(images.to_tensor(image), self.cells(image.size))

    def encode_pixels(self, pixels: Tensor, cells: Size) -> Tensor:
        """(1, 3, h, w) to (1, C, *cells), the picture in the top left, its last row and column carried on."""
        cell = self.geometry.cell
        whole = carried_on(pixels, cells.h * cell, cells.w * cell)
        return self._tiled(lambda tiles: self.backbone.encode(whole, tiles))

    def decode(self, latents: Tensor, size_px: tuple[int, int]) -> Image.Image:
        """The picture of (width, height) pixels in the top left of a canvas."""
        return images.to_image(self.decode_pixels(latents, size_px))

    def decode_pixels(self, latents: Tensor, size_px: tuple[int, int]) -> Tensor:
        """(1, 3, height, width) on the CPU."""
        width, height = size_px
        return self._tiled(lambda tiles: self.backbone.decode(latents, tiles))[..., :height, :width]

    def _tiled(self, work: Callable[[Tiles], Tensor]) -> Tensor:
        """A pass through the VAE; tiles that the memory did not hold are smaller for the rest of the run."""
        sides = fitting(
            lambda side: work(replace(self._tiles, side=side)),
            self._tiles.side,
            lambda side: side,
            LEAST_TILE_PX,
        )
        found, side = _returned(sides)
        self._tiles = replace(self._tiles, side=side)
        return found

    def predict(
        self, denoiser: GuidedDenoiser, t: Tensor, latents: Sequence[Tensor], regions: Sequence[Region]
    ) -> Generator[Progress, None, list[Tensor]]:
        """The guided outputs of many windows, a few of them to a call.

        Args:
            denoiser: The network with its prompts.
            t: The timestep.
            latents: Each (1, C, h, w), all of one size, as the network takes them.
            regions: Where each lies on the canvas, which the micro-conditioning of SDXL is told.

        Yields:
            (done, total) after every call.

        Returns:
            Each (1, C, h, w).
        """
        outputs: list[Tensor] = []

        def call(count: int) -> Tensor:
            some = slice(len(outputs), len(outputs) + count)
            ids = range(len(latents))[some]
            return denoiser.predict(torch.cat(list(latents[some])), t, regions[some], ids)

        while len(outputs) < len(latents):
            count = min(self._batch, len(latents) - len(outputs))
            found, held = yield from fitting(call, count, lambda _: (self.done, self.total))
            if held < count:
                self._batch = held
            outputs += found.float().split(1)
            yield self.advanced(held * (2 if denoiser.guided else 1))
        return outputs

    def advanced(self, samples: int) -> Progress:
        """The progress after some more samples."""
        self.done += samples
        return self.done, self.total


class Mean:
    """The uniform average of windows on a canvas, as MultiDiffusion takes it; 0 where there is no window."""

    def __init__(self, canvas: Size):
        self._canvas = canvas
        self._sum: Tensor | None = None
        self._count = torch.zeros(canvas)

    def add(self, region: Region, output: Tensor) -> None:
        """Add one window's output (1, C, h, w)."""
        if self._sum is None:
            self._sum = output.new_zeros(1, output.shape[1], *self._canvas, dtype=torch.float32)
        region.crop(self._sum).add_(output)
        region.crop(self._count).add_(1)

    def result(self) -> Tensor:
        """(1, C, H, W) float32."""
        assert self._sum is not None, "no window was added"
        return self._sum / self._count.clamp(min=1).to(self._sum.device)


def check_whole_canvas(title: str, task: Task, canvas: Size) -> None:
    """See that the network takes the canvas as one window.

    Raises:
        CupscaleError: It has no positions for so large a window.
    """
    most = task.backbone.most_cells()
    if most is not None and max(canvas) > most:
        cell = task.backbone.geometry.cell
        raise CupscaleError(
            f"{title} gives the network the whole canvas, {canvas.w * cell} x {canvas.h * cell} px, and this one has positions "
            f"for {most * cell} px a side: choose a smaller scale, or a peer that works in windows"
        )
