"""The command line. Every command that runs or plans goes through `CUpscalePipeline`."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sys
import typing
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from tqdm import tqdm

import cupscale
from cupscale.bounded import read_object
from cupscale.errors import NO_MEMORY, CupscaleError
from cupscale.flags import (
    CAPTIONER_FLAGS,
    CAPTIONER_NAMES,
    DEVICE,
    FILE,
    FILE_FLAGS,
    MODEL_FLAGS,
    SETTINGS_FILE,
    SIZE_FLAGS,
    SUFFIX_OF,
    setting_flags,
)
from cupscale.settings import PRESETS, RECORDED, Settings
from cupscale.showing import show
from cupscale.study.command import study

if TYPE_CHECKING:
    from cupscale.batch import Done
    from cupscale.captioners import Captioned, Captioner, Captioning
    from cupscale.captions import TokenBudget
    from cupscale.files import Job
    from cupscale.images import Picture
    from cupscale.pipeline import CUpscalePipeline
    from cupscale.planning import Geometry, Plan, Target
    from cupscale.saving import Saving

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
            self._end(ctx, NO_MEMORY)
        except BrokenPipeError:
            _close_stdout()
            ctx.exit(0)
        except OSError as error:
            _close_stdout()
            self._end(ctx, _said(error))
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


def _said(error: OSError) -> str:
    from cupscale.files import NAME_BYTES

    name = error.filename or "the output"
    if error.errno == errno.ENAMETOOLONG:
        return f"'{name}': the name is too long, the limit is {NAME_BYTES} bytes; choose a shorter one"
    return f"{name}: {error.strerror or error}"


def _close_stdout() -> None:
    """So that the interpreter does not try once more to write what could not be written."""
    with contextlib.suppress(OSError):
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - it lives as long as the process


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
    bits: int = 8
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
        return CUpscalePipeline(pipe, batch=self.batch, tiles=Tiles(self.tile), preview_px=0, bits=self.bits)


@click.group(cls=OneLine, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name=None, version=cupscale.__version__)
def main() -> None:
    """Turn a small image into a large one that stays the picture it is.

    Creative upscaling with a pre-trained text-to-image model under global and regional priors.
    """


@main.command()
@click.argument("images", type=FILE, nargs=-1, metavar="[IMAGE...]")
@FILE_FLAGS
@click.option(
    "--preset", type=click.Choice(list(PRESETS)), help="A set of settings; single flags win over it."
)
@SETTINGS_FILE
@click.option(
    "--captions",
    "captions_path",
    type=FILE,
    help="A caption per region, from a JSON file that `caption` or a person wrote.",
)
@CAPTIONER_FLAGS
@click.option("--plan", "plan_only", is_flag=True, help="Print what would be done, and stop.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print the plan or the result as JSON, a line an image."
)
@MODEL_FLAGS
@SIZE_FLAGS
@setting_flags(*(name for name in Settings.model_fields if name not in RECORDED))
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
    """Upscale images: files, folders, patterns, - for stdin. Without one, a picture is drawn from --prompt first.

    The defaults are the model's own; a preset, a settings file and single flags come over them, in this order. With several
    images a failed one is listed at the end and does not stop the others; the exit status is then 3.
    """
    from cupscale.batch import assist, run_jobs
    from cupscale.files import STREAM
    from cupscale.planning import take_target
    from cupscale.processes import is_main, own_share, together, wait_for_all
    from cupscale.saving import Saving

    files = _take(flags, "out", "recursive", "overwrite", "skip_existing", "format", "mask", "frames")
    saving = Saving(**_take(flags, "quality", "dpi", "keep_metadata", "keep_profile"))
    given = _take(flags, "device", "dtype", "offload", "batch", "tile", "controlnet", "bits")
    target = take_target(flags)
    writer = _take(flags, *CAPTIONER_NAMES)
    usual = _settings(settings_file, preset, flags)
    hardware = _hardware(given, usual)
    captioning = _captioning(hardware.device, writer, usual.model, preset)
    sources = _sources(images, files, usual, captions_path)
    settings = _settings_of(target, usual, captions_path)
    if plan_only:
        _print_plans(sources, usual, settings, captioning, hardware, as_json)
        return
    jobs = _jobs(sources, files, usual, target)
    if files["frames"]:
        _run_frames(jobs, settings, usual, captioning, saving, hardware, as_json)
        return
    all_of_us = together(sum(not job.skip for job in jobs))
    share = jobs if all_of_us else own_share(jobs)
    opened, mask = _check(jobs, settings, usual, saving, hardware.bits, files["mask"])
    pipeline = hardware.pipeline(usual.model)
    pipeline.share = all_of_us
    if all_of_us and not is_main():
        assist(pipeline, share, settings, opened)
        wait_for_all()
        return
    events = run_jobs(
        pipeline, share, settings, captioning=captioning, saving=saving, opened=opened, mask=mask
    )
    to_stdout = any(job.target == STREAM for job in jobs)
    failed = show(events, several=len(jobs) > 1, as_json=as_json, to_stdout=to_stdout)
    wait_for_all()
    _leave(ctx, failed, several=len(jobs) > 1)


def _jobs(
    sources: Sequence[Path | None], files: Mapping[str, Any], usual: Settings, target: Target | None
) -> list[Job]:
    """The sources with their targets, as the flags about files say. Raises CupscaleError."""
    from cupscale.files import plan_jobs

    return plan_jobs(
        sources,
        files["out"],
        usual,
        target=target,
        suffix=_suffix(files["format"], files["out"], len(sources) > 1),
        overwrite=files["overwrite"],
        skip_existing=files["skip_existing"],
    )


def _hardware(given: Mapping[str, Any], usual: Settings) -> Hardware:
    """Where the model runs, from the flags, with what the settings load beside it."""
    bits = int(given["bits"])
    hardware = Hardware(**{**given, "bits": bits, "loras": usual.loras})
    return hardware if usual.control else replace(hardware, controlnet=None)


def _leave(ctx: click.Context, failed: Sequence[Done], several: bool) -> None:
    """Say what failed, and leave with the status for it."""
    if failed and not several:
        raise CupscaleError(failed[0].error or "")
    for done in failed:
        click.echo(f"cupscale: {done.job.source}: {done.error}", err=True)
    if failed:
        ctx.exit(3)


@main.command()
@click.argument("image", type=FILE)
@click.option("--out", "-o", type=FILE, help="JSON file.  [default: IMAGE-captions.json]")
@SETTINGS_FILE
@setting_flags("scale", "overlap", "prompt", "model")
@SIZE_FLAGS
@DEVICE
@click.option("--style", is_flag=True, help="Ask for words of style too.")
@CAPTIONER_FLAGS
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
    from cupscale.files import result_name
    from cupscale.planning import take_target

    writer = _take(flags, *CAPTIONER_NAMES)
    target = take_target(flags)
    settings = _settings(settings_file, None, flags)
    if writer["captioner"] == "auto":
        chosen = automatic(settings.model, device=device)
        writer["captioner"] = "appearance" if chosen == "none" else chosen
    captioning = replace(_captioning(device, writer, settings.model), style=style)
    picture = images.read(image)
    if target is not None:
        settings = settings.at_scale(target.scale(picture.size))
    file = check_target(out or image.with_name(result_name(image.stem, "-captions.json")))
    plan = _plan(picture, settings, None, Hardware("cpu", "bfloat16"))
    budget = token_budget(settings.model)
    count = budget.count if budget else None
    done = _written(picture, plan, settings, captioning, budget)
    if writer["captioner"] != "none" and not any(one.caption for one in done.captions):
        raise CupscaleError(f"{_captioner(captioning).name} wrote no caption: {done.captions[0].source}")
    write_text(file, captions_text(captions_file(done.captions, plan.output, done.prompt, count)))
    calls = f"{done.calls} calls, {done.cached} of them known from before"
    click.echo(f"{file}  {len(done.captions)} regions  {calls}")


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
    images: tuple[Path, ...], files: Mapping[str, Any], usual: Settings, captions_path: Path | None
) -> list[Path | None]:
    """The files to enlarge, or None for a picture that is drawn from the prompt first."""
    from cupscale import models
    from cupscale.files import find_images

    sources = find_images(images, recursive=files["recursive"])
    if captions_path and len(sources) > 1:
        raise CupscaleError("--captions belongs to one image, and several are given: give one at a time")
    if files["mask"] and len(sources) > 1:
        raise CupscaleError("--mask belongs to one image, and several are given: give one at a time")
    if files["mask"] and files["frames"]:
        raise CupscaleError("--mask belongs to one picture, not to --frames: leave one of them out")
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
            f"settings: the picture '{file}' holds none that can be read: give one as it was written, or a JSON file"
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
    from cupscale.run_plan import plan_run

    known = models.known_of(settings.model)
    if known is None:  # its windows are known to the model only
        return hardware.pipeline(settings.model).plan(picture, settings, captioning=captioning)
    device = hardware.device or machine.best_device()
    return plan_run(picture, settings, known.geometry, settings.model, device, captioning)


def _settings_of(
    target: Target | None, usual: Settings, captions_path: Path | None
) -> Callable[[tuple[int, int]], Settings]:
    """The settings of one image of that (width, height): a target size gives each its own scale, and its cutoff."""
    from cupscale.planning import output_size

    def settings(size: tuple[int, int]) -> Settings:
        chosen = usual if target is None else usual.at_scale(target.scale(size))
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
    from cupscale.planning import drawn_size

    for source in sources:
        picture = _opened(source) if source else None
        size = picture.size if picture else drawn_size(usual.size, hardware.geometry(usual.model))
        plan = _plan(picture, settings(size), captioning, hardware)
        name = f"{source}: " if len(sources) > 1 else ""
        click.echo(json.dumps(plan.to_dict()) if as_json else f"{name}{plan.line()}")


def _check(
    jobs: Sequence[Job],
    settings: Callable[[tuple[int, int]], Settings],
    usual: Settings,
    saving: Saving,
    bits: int,
    mask_path: Path | None,
) -> tuple[Picture | None, Picture | None]:
    """Refuse before the model is loaded what a run would refuse. Of several images each is looked at in its turn.

    Returns:
        The image and its mask, decoded, where there are any.
    """
    from cupscale import images, upscalers
    from cupscale.files import STREAM, make_folder
    from cupscale.planning import output_size

    upscalers.check(usual.upscaler)
    for folder in {job.target.parent for job in jobs if len(jobs) > 1}:
        make_folder(folder)
    mask = images.read(mask_path) if mask_path else None
    for job in jobs:  # what a format cannot hold is the same for all
        name = job.target if job.target != STREAM else Path(f"stdout{job.suffix}")
        images.check_format(name, bits=bits)
    if len(jobs) > 1 or jobs[0].skip or not jobs[0].source:
        return None, mask
    from cupscale.protect import read_mask

    (job,) = jobs
    picture = _opened(jobs[0].source)
    if mask is not None:
        read_mask(mask, picture.size)
    size = output_size(picture.size, settings(picture.size).scale)
    if job.target != STREAM:
        saving.check(job.target, size=size, picture=picture, bits=bits)
    else:
        profile = picture.kept.profile if saving.keep_profile else None
        name = Path(f"stdout{job.suffix}")
        images.check_format(name, size, picture.alpha is not None, bits, profile)
    return picture, mask


def _run_frames(
    jobs: Sequence[Job],
    settings: Callable[[tuple[int, int]], Settings],
    usual: Settings,
    captioning: Captioning,
    saving: Saving,
    hardware: Hardware,
    as_json: bool,
) -> None:
    """A moving picture: all its frames."""
    from cupscale import upscalers
    from cupscale.animation import check_film, read_film, run_film
    from cupscale.batch import Done
    from cupscale.files import STREAM
    from cupscale.images import check_place

    job = jobs[0]
    if len(jobs) != 1 or job.source is None:
        raise CupscaleError("--frames takes one moving picture: give a GIF, APNG or WebP")
    if saving.keep_metadata or saving.keep_profile or saving.dpi:
        raise CupscaleError("--frames keeps no metadata, profile or dpi: leave these flags out")
    if job.skip:
        show([Done(job)], several=False, as_json=as_json)
        return
    upscalers.check(usual.upscaler)
    film = read_film(sys.stdin.buffer if job.source == STREAM else job.source)
    chosen = settings(film.frames[0].size)
    check_film(film, job.target, chosen.scale, hardware.bits)
    check_place(job.target)
    events = run_film(
        hardware.pipeline(usual.model), film, job, chosen, captioning=captioning, quality=saving.quality
    )
    show(events, several=True, as_json=as_json)


def _opened(source: Path) -> Picture:
    from cupscale import images
    from cupscale.files import STREAM

    return images.read(sys.stdin.buffer if source == STREAM else source)


def _suffix(chosen: str | None, out: Path | None, several: bool) -> str | None:
    """Of the names that are made; a format beside a name with another suffix is refused."""
    from cupscale.images import SUFFIXES

    suffix = SUFFIX_OF[chosen or "png"]
    named = out is not None and not several and not out.is_dir() and out.suffix.lower() in SUFFIXES
    if chosen and suffix and out is not None and named:
        kinds = {".jpeg": ".jpg", ".tiff": ".tif"}
        if kinds.get(out.suffix.lower(), out.suffix.lower()) != suffix:
            raise CupscaleError(f"--format {chosen} and the name '{out}' do not agree: leave one of them out")
    return suffix


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
