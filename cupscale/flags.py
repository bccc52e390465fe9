"""The flags that commands share."""

from __future__ import annotations

import secrets
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from cupscale.settings import MAX_SIDE_PX, Settings

Command = Callable[..., Any]
FILE = click.Path(path_type=Path)


def together(*options: Command) -> Callable[[Command], Command]:
    """One decorator of several options, in the order that --help shows."""

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def setting_flags(*names: str) -> Callable[[Command], Command]:
    """A flag per field of Settings, named as the field."""
    options = []
    for name in names:
        field = Settings.model_fields[name]
        kind: Any = field.annotation
        if name == "seed":
            kind = Seed()
        elif typing.get_origin(kind) is typing.Literal:
            kind = click.Choice(typing.get_args(kind))
        elif not isinstance(kind, type):  # a number or a word, which `Settings` tells apart
            kind = str
        flag = f"--{name.replace('_', '-')}"
        options.append(click.option(flag, name, type=kind, default=None, help=field.description))
    return together(*options)


CAPTIONER_FLAGS = together(
    click.option(
        "--captioner",
        metavar="NAME",
        default="auto",
        show_default=True,
        help="Who writes captions, and the prompt if it is empty: auto (a multimodal model on an accelerator), none, "
        "appearance (smooth, sharp, blue ...), qwen, smolvlm, llava, florence, a hub id, a folder, or a server's address such "
        "as http://localhost:8000/v1#model (its key: OPENAI_API_KEY).",
    ),
    click.option(
        "--share",
        type=click.FloatRange(0, 1),
        default=0.08,
        show_default=True,
        help="Neighbouring regions that differ by less share one caption; 0: never.",
    ),
    click.option("--prepend-prompt", is_flag=True, help="Put the prompt before every caption."),
    click.option(
        "--captioner-seconds",
        type=click.FloatRange(1, 3600),
        help="Time one region may take.  [default: 60 for a server, 600 for a model]",
    ),
    click.option("--fresh", is_flag=True, help="Ask again for captions that are known from before."),
)
CAPTIONER_NAMES = ("captioner", "share", "prepend_prompt", "captioner_seconds", "fresh")
SETTINGS_FILE = click.option("--settings", "settings_file", type=FILE, help="Settings from a JSON file.")
DEVICE = click.option(
    "--device", type=click.Choice(["cuda", "mps", "xpu", "cpu"]), help="[default: the best there is]"
)
MODEL_FLAGS = together(
    DEVICE,
    click.option(
        "--dtype",
        type=click.Choice(["float16", "bfloat16", "float32"]),
        help="[default: float16; float32 on a CPU]",
    ),
    click.option(
        "--offload",
        type=click.Choice(["auto", "none", "model", "group", "sequential"]),
        default="auto",
        show_default=True,
        help="What waits in main memory. auto: the fastest that the free memory holds.",
    ),
    click.option(
        "--controlnet",
        metavar="ID",
        default="auto",
        show_default=True,
        help="A ControlNet for tiles, hub id or folder, which --control above 0 loads with the model.",
    ),
    click.option("--batch", type=click.IntRange(1, 256), help="Regions at once.  [default: 4; 1 on a CPU]"),
    click.option(
        "--tile",
        type=click.IntRange(256, 8192),
        default=1024,
        show_default=True,
        help="Side of a VAE tile in pixels.",
    ),
    click.option(
        "--lora",
        "loras",
        multiple=True,
        metavar="PATH_OR_ID[:weight]",
        help="Several may be given. Their weight is 1 unless said.",
    ),
)


SUFFIX_OF = {
    "same": None,
    "png": ".png",
    "webp": ".webp",
    "jpeg": ".jpg",
    "avif": ".avif",
    "tiff": ".tif",
}
FILE_FLAGS = together(
    click.option(
        "--out",
        "-o",
        type=FILE,
        help="A file for one image, a folder for several, - for stdout.  [default: IMAGE-x<scale>-seed<seed>.png beside each]",
    ),
    click.option("--recursive", "-r", is_flag=True, help="Look into the folders inside folders, too."),
    click.option("--overwrite", is_flag=True, help="Replace results that are there."),
    click.option("--skip-existing", is_flag=True, help="Leave out images whose results are there."),
    click.option(
        "--format",
        type=click.Choice(list(SUFFIX_OF)),
        help="Of results without a name; same: that of each image.  [default: png]",
    ),
    click.option(
        "--quality",
        type=click.IntRange(1, 100),
        default=95,
        show_default=True,
        help="Of JPEG, WebP and AVIF.",
    ),
    click.option(
        "--dpi", type=click.FloatRange(1, 100_000), help="Pixels to an inch, written into the file."
    ),
    click.option(
        "--bits",
        type=click.Choice(["8", "16"]),
        default="8",
        show_default=True,
        help="Of a sample; 16 in PNG and TIFF.",
    ),
    click.option(
        "--keep-metadata",
        count=True,
        help="Keep the input's date, camera and copyright; given twice, its place too.",
    ),
    click.option("--keep-profile", is_flag=True, help="Give the result in the input's ICC profile."),
    click.option("--frames", is_flag=True, help="All frames of one GIF, APNG or WebP, with one noise."),
    click.option(
        "--mask",
        type=FILE,
        help="A picture of the image's size, white where nothing is invented: the base upscale stays there.",
    ),
)


class Seed(click.ParamType[int]):
    """A number, or 'random'."""

    name = "integer or random"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if value == "random":
            return secrets.randbelow(2**32)
        try:
            return int(value)
        except ValueError:
            self.fail(f"{value!r} is no number: give one, or random", param, ctx)


SIZE_FLAGS = together(
    click.option(
        "--width",
        type=click.IntRange(1, MAX_SIDE_PX),
        help="Of the result in pixels, in place of --scale; the aspect stays.",
    ),
    click.option("--height", type=click.IntRange(1, MAX_SIDE_PX), help="Likewise."),
    click.option("--megapixels", type=click.FloatRange(0.001, 1000), help="Likewise, in millions of pixels."),
    click.option("--fit", metavar="WxH", help="The largest result that fits into this frame."),
    click.option("--to", type=click.Choice(["4k", "8k"]), help="A longer side of 4096 or 8192 pixels."),
)
