"""The command line. Every command that runs or plans goes through `CUpscalePipeline`."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import typing
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from tqdm import tqdm

import cupscale
from cupscale.bounded import read_object
from cupscale.errors import CupscaleError
from cupscale.settings import PRESETS, Settings
from cupscale.study.command import study

if TYPE_CHECKING:
    from cupscale.batch import Done
    from cupscale.captioners import Captioned, Captioner, Captioning
    from cupscale.captions import TokenBudget
    from cupscale.files import Job
    from cupscale.images import Picture
    from cupscale.pipeline import CUpscalePipeline
    from cupscale.planning import Geometry, Plan, Target

Command = Callable[..., Any]
FILE = click.Path(path_type=Path)


_ELSEWHERE = {
    "bench": "cupscale.bench",
    "reproduce": "cupscale.reproduce.command",
}  # commands that stand in a room of their own


class OneLine(click.Group):
    """Bad input, a full disk, no memory: one clear line and exit status 2, never a traceback. Ctrl-C: 130."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()  # here, where a full disk can still be said
            return result
        except CupscaleError as error:
            self._end(ctx, str(error))
        except MemoryError:
            self._end(ctx, "not enough memory: choose a smaller scale, or a smaller --tile and --batch 1")
        except BrokenPipeError:
            _close_stdout()
            ctx.exit(0)
        except OSError as error:
            _close_stdout()
            self._end(ctx, f"{error.filename or 'the output'}: {error.strerror or error}")
        except (KeyboardInterrupt, click.Abort):
            self._end(ctx, "stopped", 130)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), *_ELSEWHERE])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in _ELSEWHERE:
            return typing.cast(click.Command, getattr(import_module(_ELSEWHERE[cmd_name]), cmd_name))
        return super().get_command(ctx, cmd_name)

    @staticmethod
    def _end(ctx: click.Context, line: str, status: int = 2) -> None:
        with contextlib.suppress(OSError):
            click.echo(f"cupscale: {line}", err=True)
        ctx.exit(status)


def _close_stdout() -> None:
    """So that the interpreter does not try once more to write what could not be written."""
    with contextlib.suppress(OSError):
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - it lives as long as the process


def _flags(*options: Command) -> Callable[[Command], Command]:
    """One decorator of several options, in the order that --help shows."""

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def _setting_flags(*names: str) -> Callable[[Command], Command]:
    """A flag per field of Settings, named as the field."""
    options = []
    for name in names:
        field = Settings.model_fields[name]
        kind: Any = field.annotation
        if typing.get_origin(kind) is typing.Literal:
            kind = click.Choice(typing.get_args(kind))
        elif not isinstance(kind, type):  # a number or a word, which `Settings` tells apart
            kind = str
        flag = f"--{name.replace('_', '-')}"
        options.append(click.option(flag, name, type=kind, default=None, help=field.description))
    return _flags(*options)


_CAPTIONER_FLAGS = _flags(
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
_CAPTIONER_NAMES = ("captioner", "share", "prepend_prompt", "captioner_seconds", "fresh")
_SETTINGS_FILE = click.option("--settings", "settings_file", type=FILE, help="Settings from a JSON file.")
_DEVICE = click.option(
    "--device", type=click.Choice(["cuda", "mps", "cpu"]), help="[default: the best there is]"
)
MODEL_FLAGS = _flags(
    _DEVICE,
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
_FILE_FLAGS = _flags(
    click.option(
        "--out",
        "-o",
        type=FILE,
        help="A file for one image, a folder for several.  [default: IMAGE-x<scale>-seed<seed>.png beside each]",
    ),
    click.option("--recursive", "-r", is_flag=True, help="Look into the folders inside folders, too."),
    click.option("--overwrite", is_flag=True, help="Replace results that are there."),
    click.option("--skip-existing", is_flag=True, help="Leave out images whose results are there."),
    click.option(
        "--format",
        type=click.Choice(list(SUFFIX_OF)),
        default="png",
        show_default=True,
        help="Of results without a name.",
    ),
    click.option(
        "--quality",
        type=click.IntRange(1, 100),
        default=95,
        show_default=True,
        help="Of JPEG, WebP and AVIF.",
    ),
)


class Frame(click.ParamType[tuple[int, int]]):
    """'3840x2160' to (3840, 2160)."""

    name = "WxH"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        parts = str(value).lower().split("x")
        if len(parts) == 2 and all(part.isdecimal() and 0 < len(part) < 7 and int(part) for part in parts):
            return int(parts[0]), int(parts[1])
        self.fail(f"{value!r} is not WIDTHxHEIGHT, such as 3840x2160", param, ctx)


_SIDE = click.IntRange(1, 2**20)
_SIZE_FLAGS = _flags(
    click.option(
        "--width", type=_SIDE, help="Of the result in pixels, in place of --scale; the aspect stays."
    ),
    click.option("--height", type=_SIDE, help="Likewise."),
    click.option("--megapixels", type=click.FloatRange(0.001, 1000), help="Likewise, in millions of pixels."),
    click.option("--fit", type=Frame(), help="The largest result that fits into this frame."),
    click.option("--to", type=click.Choice(["4k", "8k"]), help="A longer side of 4096 or 8192 pixels."),
)


@dataclass(frozen=True)
class Hardware:
    """How a model is loaded and run; it does not decide the picture. A model is loaded once."""

    device: str | None = None
    dtype: str | None = None
    offload: Any = "auto"
    batch: int | None = None
    tile: int = 1024
    controlnet: str | None = None
    loras: tuple[str, ...] = ()
    _loaded: dict[str, CUpscalePipeline] = field(default_factory=dict, compare=False)

    def geometry(self, model: str) -> Geometry:
        """A known model is not loaded for it."""
        from cupscale import models

        known = models.known_of(model)
        return known.geometry if known else self.pipeline(model).backbone.geometry

    def pipeline(self, model: str) -> CUpscalePipeline:
        """The model, loaded."""
        if model not in self._loaded:
            self._loaded[model] = self._load(model)
        return self._loaded[model]

    def _load(self, model: str) -> CUpscalePipeline:
        _quiet_libraries()
        from cupscale import models
        from cupscale.backbones import Tiles
        from cupscale.pipeline import CUpscalePipeline

        pipe = models.load(
            model,
            device=self.device,
            dtype=self.dtype,
            offload=self.offload,
            controlnet=self.controlnet,
            loras=self.loras,
        )
        return CUpscalePipeline(pipe, batch=self.batch, tiles=Tiles(self.tile), preview_px=0)


@click.group(cls=OneLine, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name=None, version=cupscale.__version__)
def main() -> None:
    """Turn a small image into a large one that stays the picture it is.

    Creative upscaling with a pre-trained text-to-image model under global and regional priors.
    """


@main.command()
@click.argument("images", type=FILE, nargs=-1, metavar="[IMAGE...]")
@_FILE_FLAGS
@click.option(
    "--preset", type=click.Choice(list(PRESETS)), help="A set of settings; single flags win over it."
)
@_SETTINGS_FILE
@click.option(
    "--captions",
    "captions_path",
    type=FILE,
    help="A caption per region, from a JSON file that `caption` or a person wrote.",
)
@_CAPTIONER_FLAGS
@click.option("--plan", "plan_only", is_flag=True, help="Print what would be done, and stop.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print the plan or the result as JSON, a line an image."
)
@MODEL_FLAGS
@_SIZE_FLAGS
@_setting_flags(*(name for name in Settings.model_fields if name not in ("captions", "loras")))
@click.pass_context
def upscale(
    ctx: click.Context,
    /,
    images: tuple[Path, ...],
    preset: str | None,
    settings_file: Path | None,
    captions_path: Path | None,
    plan_only: bool,
    as_json: bool,
    **flags: Any,
) -> None:
    """Upscale images: files, folders, patterns. Without one, a picture is drawn from --prompt first.

    The defaults are the model's own; a preset, a settings file and single flags come over them, in this order. With several
    images a failed one is listed at the end and does not stop the others; the exit status is then 3.
    """
    from cupscale.batch import assist, run_jobs
    from cupscale.files import plan_jobs
    from cupscale.processes import is_main, own_share, together, wait_for_all

    files = _take(flags, "out", "recursive", "overwrite", "skip_existing", "format", "quality")
    hardware = Hardware(**_take(flags, "device", "dtype", "offload", "batch", "tile", "controlnet"))
    target = _target(flags)
    writer = _take(flags, *_CAPTIONER_NAMES)
    usual = _settings(settings_file, preset, flags)
    hardware = replace(hardware, loras=usual.loras)
    if usual.control == 0:
        hardware = replace(hardware, controlnet=None)
    captioning = _captioning(hardware.device, writer, usual.model, preset)
    sources = _sources(images, files["recursive"], usual, captions_path)
    settings = _settings_of(target, usual, captions_path)
    if plan_only:
        _print_plans(sources, usual, settings, captioning, hardware, as_json)
        return
    jobs = plan_jobs(
        sources,
        files["out"],
        usual,
        target=target,
        suffix=SUFFIX_OF[files["format"]],
        overwrite=files["overwrite"],
        skip_existing=files["skip_existing"],
    )
    all_of_us = together(sum(not job.skip for job in jobs))
    share = jobs if all_of_us else own_share(jobs)
    opened = _check(jobs, settings, usual)
    pipeline = hardware.pipeline(usual.model)
    pipeline.share = all_of_us
    if all_of_us and not is_main():
        assist(pipeline, share, settings, opened)
        wait_for_all()
        return
    events = run_jobs(
        pipeline, share, settings, captioning=captioning, quality=files["quality"], opened=opened
    )
    failed = _show(events, several=len(jobs) > 1, as_json=as_json)
    wait_for_all()
    if failed and len(jobs) == 1:
        raise CupscaleError(failed[0].error or "")
    for done in failed:
        click.echo(f"cupscale: {done.job.source}: {done.error}", err=True)
    if failed:
        ctx.exit(3)


@main.command()
@click.argument("image", type=FILE)
@click.option("--out", "-o", type=FILE, help="JSON file.  [default: IMAGE-captions.json]")
@_SETTINGS_FILE
@_setting_flags("scale", "overlap", "prompt", "model")
@_DEVICE
@click.option("--style", is_flag=True, help="Ask for words of style too.")
@_CAPTIONER_FLAGS
def caption(
    image: Path,
    out: Path | None,
    settings_file: Path | None,
    device: str | None,
    style: bool,
    **flags: Any,
) -> None:
    """Write a caption for every region of IMAGE, to be read and edited.

    The file has a line per region: its box in pixels of the output, the caption, its source, its tokens. `upscale
    --captions` and the page take it back. Without a captioner's name the words say how each region appears.
    """
    from cupscale import images
    from cupscale.backbones.tokens import token_budget
    from cupscale.captioners import automatic
    from cupscale.captioners.file import check_target, write_text
    from cupscale.captions import captions_file, captions_text

    writer = _take(flags, *_CAPTIONER_NAMES)
    settings = _settings(settings_file, None, flags)
    if writer["captioner"] == "auto":
        chosen = automatic(settings.model, device=device)
        writer["captioner"] = "appearance" if chosen == "none" else chosen
    captioning = replace(_captioning(device, writer, settings.model), style=style)
    picture = images.read(image)
    target = check_target(out or image.with_name(f"{image.stem}-captions.json"))
    plan = _plan(picture, settings, None, Hardware("cpu", "bfloat16"))
    budget = token_budget(settings.model)
    count = budget.count if budget else None
    done = _written(picture, plan, settings, captioning, budget)
    if writer["captioner"] != "none" and not any(one.caption for one in done.captions):
        raise CupscaleError(f"{_captioner(captioning).name} wrote no caption: {done.captions[0].source}")
    write_text(target, captions_text(captions_file(done.captions, plan.output, done.prompt, count)))
    calls = f"{done.calls} calls, {done.cached} of them known from before"
    click.echo(f"{target}  {len(done.captions)} regions  {calls}")


@main.command("models")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def list_models(as_json: bool) -> None:
    """List the models with a name: window, memory, steps, licence, source."""
    from cupscale import models

    rows = {name: models.described(name) for name in models.KNOWN}
    if as_json:
        click.echo(json.dumps(rows, ensure_ascii=False))
        return
    width = max(map(len, rows))
    for name, row in rows.items():
        note = f"  ({row['note']})" if row["note"] else ""
        click.echo(
            f"{name:{width}}  {row['native']:>4} px  {row['memory_gb']:>2g} GB  "
            f"strength {row['strength']:g} of {row['steps']:>2} steps, guidance {row['guidance']:g}  "
            f"{row['licence']}  {row['source']}{note}"
        )
    click.echo(
        "\nGB: on an accelerator, for a 4096 px result with nothing offloaded. A hub id or a folder works too."
    )


@main.command()
def serve() -> None:
    """Serve the page, at http://127.0.0.1:7860. GRADIO_SERVER_NAME and GRADIO_SERVER_PORT say where else."""
    from cupscale.installation import require

    require("page", "the page")
    from cupscale import page

    page.launch(page.build())


main.add_command(study)


# Steps of the commands


def _take(flags: dict[str, Any], *names: str) -> dict[str, Any]:
    """Some of the flags, which are taken out of `flags`."""
    return {name: flags.pop(name) for name in names if name in flags}


def _sources(
    images: tuple[Path, ...], recursive: bool, usual: Settings, captions_path: Path | None
) -> list[Path | None]:
    """The files to enlarge, or None for a picture that is drawn from the prompt first."""
    from cupscale import models
    from cupscale.files import find_images

    sources = find_images(images, recursive=recursive)
    if captions_path and len(sources) > 1:
        raise CupscaleError("--captions belongs to one image, and several are given: give one at a time")
    if sources:
        return [*sources]
    models.check_words(usual.model, usual.prompt, "name an image, or give --prompt with words to draw from")
    return [None]


def _captioning(
    device: str | None, flags: dict[str, Any], model: str, preset: str | None = None
) -> Captioning:
    """From the captioner's flags."""
    from cupscale.captioners import open_captioning

    captioning = open_captioning(
        flags["captioner"], model=model, device=device, preset=preset, seconds=flags["captioner_seconds"]
    )
    return replace(captioning, share=flags["share"], prepend=flags["prepend_prompt"], fresh=flags["fresh"])


def _captioner(captioning: Captioning) -> Captioner:
    assert captioning.captioner is not None
    return captioning.captioner


def _settings(file: Path | None, preset: str | None, flags: dict[str, Any]) -> Settings:
    """The model's defaults, a preset, a file and single flags, the later over the earlier."""
    from cupscale import models

    given = _given(file) if file else {}
    model = str(flags.get("model") or given.get("model") or "tiny")
    family = models.family(model)
    if not flags.get("loras"):
        flags.pop("loras", None)  # none on the command line: those of the file
    usual, over = models.defaults(model, family), models.preset(model, preset, family)
    return Settings.build(usual, over, given, **flags)


def _given(file: Path) -> dict[str, Any]:
    """Settings from a JSON file, or from inside of a picture that was made here."""
    from cupscale import images

    if file.suffix.lower() not in images.SUFFIXES:
        return read_object(file, "settings")
    found = images.read_settings(file)
    if found is None:
        raise CupscaleError(
            f"settings: the picture '{file}' holds none: give one as it was written, or a JSON file"
        )
    return found


def _with_captions(settings: Settings, path: Path, size: tuple[int, int]) -> Settings:
    from cupscale.captions import read_captions, read_prompt

    return settings.replace(captions=read_captions(path, size), prompt=settings.prompt or read_prompt(path))


def _plan(
    picture: Picture | None, settings: Settings, captioning: Captioning | None, hardware: Hardware
) -> Plan:
    """What a run would do. A known model is not loaded for it."""
    from cupscale import machine, models
    from cupscale.pipeline import plan_run

    known = models.known_of(settings.model)
    if known is None:  # its windows are known to the model only
        return hardware.pipeline(settings.model).plan(picture, settings, captioning=captioning)
    device = hardware.device or machine.best_device()
    return plan_run(picture, settings, known.geometry, settings.model, device, captioning)


def _target(flags: dict[str, Any]) -> Target | None:
    """From the flags of a size, which are taken out of `flags`; None where there are none."""
    from cupscale.planning import Target

    given = _take(flags, "width", "height", "megapixels", "fit", "to")
    given["long_side"] = {"4k": 4096, "8k": 8192, None: None}[given.pop("to")]
    if all(value is None for value in given.values()):
        return None
    if flags["scale"] is not None:
        raise CupscaleError("--scale and a size are given: leave one of them out")
    return Target(**given)


def _settings_of(
    target: Target | None, usual: Settings, captions_path: Path | None
) -> Callable[[tuple[int, int]], Settings]:
    """The settings of one image of that (width, height): a target size gives each its own scale, and its cutoff."""
    from cupscale.planning import output_size
    from cupscale.settings import default_cutoff

    def settings(size: tuple[int, int]) -> Settings:
        chosen = usual
        if target is not None:
            scale = target.scale(size)
            follows = usual.cutoff == default_cutoff(usual.scale)
            chosen = usual.replace(scale=scale, cutoff=default_cutoff(scale) if follows else usual.cutoff)
        if captions_path:
            chosen = _with_captions(chosen, captions_path, output_size(size, chosen.scale))
        return chosen

    return settings


def _print_plans(
    sources: Sequence[Path | None],
    usual: Settings,
    settings: Callable[[tuple[int, int]], Settings],
    captioning: Captioning,
    hardware: Hardware,
    as_json: bool,
) -> None:
    from cupscale import images
    from cupscale.planning import drawn_size

    for source in sources:
        picture = images.read(source) if source else None
        size = picture.size if picture else drawn_size(usual.size, hardware.geometry(usual.model))
        plan = _plan(picture, settings(size), captioning, hardware)
        name = f"{source}: " if len(sources) > 1 else ""
        click.echo(json.dumps(plan.to_dict()) if as_json else f"{name}{plan.line()}")


def _check(
    jobs: Sequence[Job], settings: Callable[[tuple[int, int]], Settings], usual: Settings
) -> Picture | None:
    """Refuse before the model is loaded what a run would refuse. Of several images each is looked at in its turn.

    Returns:
        The image, decoded, where there is one.
    """
    from cupscale import images, upscalers
    from cupscale.planning import output_size

    upscalers.check(usual.upscaler)
    for folder in {job.target.parent for job in jobs if len(jobs) > 1}:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CupscaleError(f"the folder '{folder}' cannot be made: {error.strerror}") from None
    if len(jobs) == 1 and not jobs[0].skip and jobs[0].source:
        picture = images.read(jobs[0].source)
        size = output_size(picture.size, settings(picture.size).scale)
        images.check_writable(jobs[0].target, size=size, alpha=picture.alpha is not None)
        return picture
    return None


def _show(events: Iterable[Any], *, several: bool, as_json: bool) -> list[Done]:
    """Bars while images run, a line for each; returns those that failed."""
    from cupscale.batch import Done, Started
    from cupscale.events import Planned, Progress
    from cupscale.method.sampler import Notice

    failed = []
    with tqdm(total=1, unit="region", disable=None, file=sys.stderr, dynamic_ncols=True) as bar:
        for event in events:
            if isinstance(event, Started) and several:
                bar.write(f"{event.number} of {event.total}: {event.job.source}", file=sys.stderr)
            elif isinstance(event, Planned):
                bar.write(event.plan.line(), file=sys.stderr)
                bar.reset(total=event.plan.windows)
            elif isinstance(event, Notice):
                bar.write(f"note: {event.message}", file=sys.stderr)
            elif isinstance(event, Progress):
                _advance(bar, event)
            elif isinstance(event, Done) and event.error is not None:
                failed.append(event)
            elif isinstance(event, Done):
                bar.clear()
                _report(event, as_json)
    return failed


def _advance(bar: Any, event: Any) -> None:
    if event.stage == "draw":
        bar.set_description_str(f"draw {event.step}/{event.steps}")
    elif event.stage == "denoise":
        bar.set_description_str(f"step {event.step}/{event.steps}", refresh=False)
        bar.update(round(event.fraction * bar.total) - bar.n)
    elif event.stage == "caption":
        bar.set_description_str(f"caption {event.regions}/{event.total}")
    else:
        bar.set_description_str(event.stage + (f" {event.fraction:.0%}" if event.fraction else ""))


def _report(done: Done, as_json: bool) -> None:
    path, result = str(done.job.target), done.result
    if result is None:
        click.echo(json.dumps({"path": path, "skipped": True}) if as_json else f"{path}  is there already")
        return
    if as_json:
        report = {
            "path": path,
            "source": str(done.job.source) if done.job.source else None,
            "seconds": round(result.seconds, 2),
            "plan": result.plan.to_dict(),
            "settings": result.settings.model_dump(mode="json"),
        }
        click.echo(json.dumps(report))
        return
    shown = {name: value for name, value in result.settings.model_dump().items() if value not in ("", ())}
    click.echo(f"{path}  {result.image.width} x {result.image.height}  {result.seconds:.1f} s")
    click.echo("  ".join(f"{name}={value}" for name, value in shown.items()))


def _written(
    picture: Picture, plan: Plan, settings: Settings, captioning: Captioning, budget: TokenBudget | None
) -> Captioned:
    """The captions, with a bar."""
    from cupscale.captioners import Cache, Captioned, CaptionProgress, caption_calls, caption_regions
    from cupscale.method.sampler import Notice

    captioner = _captioner(captioning)
    calls = caption_calls(picture.rgb, plan, prompt=settings.prompt, share=captioning.share)
    click.echo(f"{len(plan.regions)} regions, {calls} calls of {captioner.name}", err=True)
    events = caption_regions(
        captioning, picture.rgb, plan, prompt=settings.prompt, budget=budget, cache=Cache()
    )
    with tqdm(total=calls, unit="call", disable=None, file=sys.stderr, dynamic_ncols=True) as bar:
        if budget is None:
            note = f"note: tokens are not counted: the tokenizer of {settings.model} is not here"
            bar.write(note, file=sys.stderr)
        for event in events:
            if isinstance(event, CaptionProgress):
                bar.update(event.done - bar.n)
            elif isinstance(event, Notice):
                bar.write(f"note: {event.message}", file=sys.stderr)
            elif isinstance(event, Captioned):
                return event
    raise RuntimeError("the captioner ended without a result")


def _quiet_libraries() -> None:
    """Their progress bars and advice are not ours to show."""
    import diffusers
    import transformers

    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore")
