"""The command line."""

from __future__ import annotations

import json
import sys
import typing
import warnings
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from cupscale.errors import CupscaleError
from cupscale.settings import PRESETS, Settings, preset as preset_fields, read_object


class OneLine(click.Group):
    """Bad input: one clear line and exit status 2. Ctrl-C: 130."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except CupscaleError as error:
            click.echo(f"cupscale: {error}", err=True)
            ctx.exit(2)


def setting_flags(command: Any) -> Any:
    """A flag for every field of Settings except the captions, which come from a file."""
    for name, field in reversed(Settings.model_fields.items()):
        if name == "captions":
            continue
        kind: Any = field.annotation
        if typing.get_origin(kind) is typing.Literal:
            kind = click.Choice(typing.get_args(kind))
        flag = f"--{name.replace('_', '-')}"
        command = click.option(flag, name, type=kind, default=None, help=field.description)(command)
    return command


@click.group(cls=OneLine, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name=None, version=__import__("cupscale").__version__)
def main() -> None:
    """Turn a small image into a large one that stays the picture it is.

    Creative upscaling with a pre-trained text-to-image model under global and regional priors.
    """


@main.command()
@click.argument("image", type=click.Path(path_type=Path))
@click.option(
    "--out", "-o", type=click.Path(path_type=Path), help="PNG, WebP or JPEG.  [default: IMAGE-x<scale>.png]"
)
@click.option(
    "--preset", type=click.Choice(list(PRESETS)), help="A set of settings; single flags win over it."
)
@click.option(
    "--settings", "settings_file", type=click.Path(path_type=Path), help="Settings from a JSON file."
)
@click.option(
    "--captions",
    "captions_path",
    type=click.Path(path_type=Path),
    help="A caption per region, from a JSON file.",
)
@click.option("--plan", "plan_only", is_flag=True, help="Print what would be done, and stop.")
@click.option("--json", "as_json", is_flag=True, help="Print the plan or the result as JSON.")
@click.option("--device", type=click.Choice(["cuda", "mps", "cpu"]), help="[default: the best there is]")
@click.option(
    "--dtype",
    type=click.Choice(["float16", "bfloat16", "float32"]),
    help="[default: float16; float32 on a CPU]",
)
@click.option("--offload", type=click.Choice(["none", "model", "group", "sequential"]), default="none", show_default=True,
              help="What waits in main memory.")  # fmt: skip
@click.option("--batch", type=click.IntRange(1, 256), help="Regions at once.  [default: 4; 1 on a CPU]")
@click.option(
    "--tile",
    type=click.IntRange(256, 8192),
    default=1024,
    show_default=True,
    help="Side of a VAE tile in pixels.",
)
@setting_flags
def upscale(
    image: Path,
    out: Path | None,
    preset: str | None,
    settings_file: Path | None,
    captions_path: Path | None,
    plan_only: bool,
    as_json: bool,
    device: str | None,
    dtype: str | None,
    offload: Any,
    batch: int | None,
    tile: int,
    **fields: Any,
) -> None:
    """Upscale IMAGE.

    The defaults are the model's own; a preset, a settings file and single flags come over them, in this order.
    """
    from cupscale import images, models
    from cupscale.planning import plan
    from cupscale.priors.semantics import read_captions

    given = read_object(settings_file, "settings") if settings_file else {}
    model = fields["model"] or given.get("model") or "tiny"
    settings = Settings.build(models.defaults(str(model)), preset_fields(preset), given, **fields)
    picture = images.read(image)
    if captions_path:
        size = (round(picture.size[0] * settings.scale), round(picture.size[1] * settings.scale))
        settings = settings.replace(captions=read_captions(captions_path, size))
    if plan_only and (known := models.KNOWN.get(settings.model)):
        speed = models.known_speed(settings.model, device or models.best_device())
        work = plan(picture.size, settings, known.geometry, speed)
        click.echo(json.dumps(work.to_dict()) if as_json else work.line())
        return
    target = out or image.with_name(f"{image.stem}-x{settings.scale:g}.png")
    if not plan_only:
        images.check_writable(target)
    _quiet_libraries()
    from cupscale.pipeline import CUpscalePipeline, Finished, Planned, Progress
    from cupscale.backbones import Tiles
    from cupscale.sampler import Notice

    pipe = models.load(settings.model, device=device, dtype=dtype, offload=offload)
    run = CUpscalePipeline(pipe, batch=batch, tiles=Tiles(tile), preview_px=0)
    if plan_only:
        work = run.plan(picture.size, settings)
        click.echo(json.dumps(work.to_dict()) if as_json else work.line())
        return
    result = None
    with tqdm(total=1, unit="region", disable=None, file=sys.stderr, dynamic_ncols=True) as bar:
        for event in run.stream(picture, settings=settings):
            if isinstance(event, Planned):
                bar.write(event.plan.line(), file=sys.stderr)
                bar.reset(total=event.plan.steps * len(event.plan.regions))
            elif isinstance(event, Notice):
                bar.write(f"note: {event.message}", file=sys.stderr)
            elif isinstance(event, Progress) and event.stage == "denoise":
                bar.set_description_str(f"step {event.step}/{event.steps}", refresh=False)
                bar.update((event.step - 1) * event.total + event.regions - bar.n)
            elif isinstance(event, Progress):
                bar.set_description_str(event.stage)
            elif isinstance(event, Finished):
                result = event.result
    assert result is not None
    result.save(target)
    if as_json:
        click.echo(json.dumps({"path": str(target), "seconds": round(result.seconds, 2), "plan": result.plan.to_dict(),
                               "settings": result.settings.model_dump(mode="json")}))  # fmt: skip
        return
    shown = {name: value for name, value in result.settings.model_dump().items() if value not in ("", ())}
    click.echo(f"{target}  {result.image.width} x {result.image.height}  {result.seconds:.1f} s")
    click.echo("  ".join(f"{name}={value}" for name, value in shown.items()))


def _quiet_libraries() -> None:
    """Their progress bars and advice are not ours to show."""
    import diffusers
    import transformers

    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore")


if __name__ == "__main__":
    main(prog_name="python -m cupscale")
