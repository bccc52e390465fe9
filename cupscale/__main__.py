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


def captioner_flags(command: Any) -> Any:
    """What `upscale` and `caption` take for a captioner."""
    for option in (
        click.option("--fresh", is_flag=True, help="Ask again for captions that are known from before."),
        click.option(
            "--captioner-seconds",
            type=click.FloatRange(1, 3600),
            help="Time one region may take.  [default: 60 for a server, 600 for a model]",
        ),
        click.option("--prepend-prompt", is_flag=True, help="Put the prompt before every caption."),
        click.option(
            "--share",
            type=click.FloatRange(0, 1),
            default=0.08,
            show_default=True,
            help="Neighbouring regions that differ by less share one caption; 0: never.",
        ),
        click.option(
            "--captioner",
            metavar="NAME",
            help="Who writes captions, and the prompt if it is empty: none, tagger (bundled, a few words), qwen, smolvlm, "
            "llava, florence, a hub id, a folder, or a server's address such as http://localhost:8000/v1#model (its key: "
            "OPENAI_API_KEY).",
        ),
    ):
        command = option(command)
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
    help="A caption per region, from a JSON file that `caption` or a person wrote.",
)
@captioner_flags
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
    captioner: str | None,
    share: float,
    prepend_prompt: bool,
    captioner_seconds: float | None,
    fresh: bool,
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
    from cupscale.captioners import caption_calls, open_captioner
    from cupscale.captions import read_captions, read_prompt
    from cupscale.pipeline import asks, captions_wanted
    from cupscale.planning import make_plan, output_size

    writer = open_captioner(captioner, device=device, seconds=captioner_seconds)
    given = read_object(settings_file, "settings") if settings_file else {}
    model = fields["model"] or given.get("model") or "tiny"
    settings = Settings.build(models.defaults(str(model)), preset_fields(preset), given, **fields)
    picture = images.read(image)
    if captions_path:
        size = output_size(picture.size, settings.scale)
        settings = settings.replace(
            captions=read_captions(captions_path, size), prompt=settings.prompt or read_prompt(captions_path)
        )
    if plan_only and (known := models.KNOWN.get(settings.model)):
        speed = models.known_speed(settings.model, device or models.best_device())
        plan = make_plan(picture.size, settings, known.geometry, speed)
        if asks(writer, settings):
            calls = caption_calls(
                picture.rgb, plan, prompt=settings.prompt, share=share, regions=captions_wanted(settings)
            )
            plan = make_plan(picture.size, settings, known.geometry, speed, caption_calls=calls)
        click.echo(json.dumps(plan.to_dict()) if as_json else plan.line())
        return
    target = out or image.with_name(f"{image.stem}-x{settings.scale:g}.png")
    if not plan_only:
        size = output_size(picture.size, settings.scale)
        images.check_writable(target, size=size, alpha=picture.alpha is not None)
    _quiet_libraries()
    from cupscale.backbones import Tiles
    from cupscale.method.sampler import Notice
    from cupscale.pipeline import CUpscalePipeline, Finished, Planned, Progress

    pipe = models.load(settings.model, device=device, dtype=dtype, offload=offload)
    run = CUpscalePipeline(pipe, batch=batch, tiles=Tiles(tile), preview_px=0)
    if plan_only:
        plan = run.plan(picture.rgb, settings, captioner=writer, share=share)
        click.echo(json.dumps(plan.to_dict()) if as_json else plan.line())
        return
    result = None
    with tqdm(total=1, unit="region", disable=None, file=sys.stderr, dynamic_ncols=True) as bar:
        for event in run.stream(
            picture, settings=settings, captioner=writer, share=share, prepend=prepend_prompt, fresh=fresh
        ):
            if isinstance(event, Planned):
                bar.write(event.plan.line(), file=sys.stderr)
                bar.reset(total=event.plan.steps * len(event.plan.regions))
            elif isinstance(event, Notice):
                bar.write(f"note: {event.message}", file=sys.stderr)
            elif isinstance(event, Progress) and event.stage == "denoise":
                bar.set_description_str(f"step {event.step}/{event.steps}", refresh=False)
                bar.update((event.step - 1) * event.total + event.regions - bar.n)
            elif isinstance(event, Progress) and event.stage == "caption":
                bar.set_description_str(f"caption {event.regions}/{event.total}")
            elif isinstance(event, Progress):
                bar.set_description_str(event.stage + (f" {event.fraction:.0%}" if event.fraction else ""))
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


@main.command()
@click.argument("image", type=click.Path(path_type=Path))
@click.option(
    "--out", "-o", type=click.Path(path_type=Path), help="JSON file.  [default: IMAGE-captions.json]"
)
@click.option(
    "--settings", "settings_file", type=click.Path(path_type=Path), help="Settings from a JSON file."
)
@click.option("--scale", type=float, help="Output size over input size, each side.")
@click.option("--overlap", type=float, help="Overlap of neighbouring windows, a fraction of a window.")
@click.option("--prompt", help="What the whole picture shows.  [default: the captioner writes it]")
@click.option("--model", help="The model that will upscale: it decides the regions and counts the tokens.")
@click.option("--device", type=click.Choice(["cuda", "mps", "cpu"]), help="[default: the best there is]")
@click.option("--style", is_flag=True, help="Ask for words of style too.")
@captioner_flags
def caption(
    image: Path,
    out: Path | None,
    settings_file: Path | None,
    captioner: str | None,
    share: float,
    prepend_prompt: bool,
    captioner_seconds: float | None,
    fresh: bool,
    style: bool,
    device: str | None,
    **fields: Any,
) -> None:
    """Write a caption for every region of IMAGE, to be read and edited.

    The file has a line per region: its box in pixels of the output, the caption, its source, its tokens. `upscale
    --captions` and the page take it back. The captioner is the bundled tagger unless another is named.
    """
    from cupscale import images, models
    from cupscale.captioners import (
        Cache,
        Captioned,
        CaptionProgress,
        caption_calls,
        caption_regions,
        open_captioner,
    )
    from cupscale.captioners.file import check_target, write_text
    from cupscale.captioners.tokens import token_counter
    from cupscale.captions import captions_file, captions_text
    from cupscale.method.sampler import Notice
    from cupscale.planning import make_plan

    writer = open_captioner(captioner or "tagger", device=device, seconds=captioner_seconds)
    given = read_object(settings_file, "settings") if settings_file else {}
    model = fields["model"] or given.get("model") or "tiny"
    settings = Settings.build(models.defaults(str(model)), given, **fields)
    picture = images.read(image)
    target = check_target(out or image.with_name(f"{image.stem}-captions.json"))
    _quiet_libraries()
    known = models.KNOWN.get(settings.model)
    geometry = known.geometry if known else None
    counter = token_counter(settings.model)
    count = counter.count if counter else None
    if geometry is None:  # its regions are known to the model only
        from cupscale.backbones import adapt

        backbone = adapt(models.load(settings.model, device="cpu", dtype="bfloat16"))
        geometry = backbone.geometry
    plan = make_plan(picture.size, settings, geometry)
    calls = caption_calls(picture.rgb, plan, prompt=settings.prompt, share=share)
    click.echo(f"{len(plan.regions)} regions, {calls} calls of {writer.name}", err=True)
    done = None
    events = caption_regions(
        writer, picture.rgb, plan, prompt=settings.prompt, share=share, prepend=prepend_prompt, style=style,
        count_tokens=count, text_limit=counter.limit if counter else None, cache=Cache(), fresh=fresh,
    )  # fmt: skip
    with tqdm(total=calls, unit="call", disable=None, file=sys.stderr, dynamic_ncols=True) as bar:
        if counter is None:
            bar.write(
                f"note: tokens are not counted: the tokenizer of {settings.model} is not here",
                file=sys.stderr,
            )
        for event in events:
            if isinstance(event, CaptionProgress):
                bar.update(event.done - bar.n)
            elif isinstance(event, Notice):
                bar.write(f"note: {event.message}", file=sys.stderr)
            elif isinstance(event, Captioned):
                done = event
    assert done is not None
    if captioner != "none" and not any(one.caption for one in done.captions):
        raise CupscaleError(f"{writer.name} wrote no caption: {done.captions[0].source}")
    data = captions_file(done.captions, plan.output, done.prompt, count)
    write_text(target, captions_text(data))
    click.echo(
        f"{target}  {len(done.captions)} regions  {done.calls} calls, {done.cached} of them known from before"
    )


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
