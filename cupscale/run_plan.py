"""The plan of a run on this machine: `make_plan` with what earlier runs took, and with the captioner's calls."""

from __future__ import annotations

from dataclasses import replace

from PIL import Image
from torch import Tensor

from cupscale import images, machine
from cupscale.captioners import Captioner, Captioning, NoCaptioner, caption_calls
from cupscale.method.guidance import richness
from cupscale.planning import Geometry, Plan, drawn_size, make_plan
from cupscale.settings import Settings
from cupscale.upscalers.choose import settle


def plan_run(
    image: tuple[int, int] | Image.Image | images.Picture | None,
    settings: Settings,
    geometry: Geometry,
    model: str,
    device: str,
    captioning: Captioning | None = None,
    how: str = "",
) -> Plan:
    """`make_plan` with the captioner's calls, and the speed of earlier runs of `model` on `device`.

    Args:
        image: Its (width, height), or itself, which a captioner's calls and the base upscaler depend on. None: it is drawn
            from the prompt.
        settings: Of the run.
        geometry: Of the model.
        model: The name under which its speed is remembered.
        device: torch's name of its kind.
        captioning: Of the run.
        how: Precision and offload of the model; empty where it is not loaded, for those that it ran with last.

    Raises:
        CupscaleError: The image or the output is outside the limits.
    """
    speed = machine.known_speed(model, device, how)
    guess = machine.guessed_speed(model, device) if speed is None else None
    speed = machine.planned(guess) if guess else speed
    picture, why = None, ""
    if image is None:
        size = drawn_size(settings.size, geometry)
        why = "chosen when it is drawn" if settings.upscaler == "auto" else ""
    elif isinstance(image, tuple):
        size = image
    else:
        picture = image if isinstance(image, images.Picture) else images.Picture(image)
        size = picture.size
        settings, why = settle(settings, picture)
    rich = None if picture is None else looked_at(settings, picture)
    plan = replace(
        make_plan(size, settings, geometry, speed, drawn=image is None, rich=rich),
        why=why,
        guessed=guess is not None,
    )
    if isinstance(image, tuple) or captioning is None or not asks(captioning, settings) or not plan.steps:
        return plan
    regions = captions_wanted(settings)
    if picture is None:  # which regions share a caption shows when it is drawn
        calls = len(plan.regions)
    else:
        calls = caption_calls(
            picture.rgb, plan, prompt=settings.prompt, share=captioning.share, regions=regions
        )
    captioner = captioning.captioner
    assert captioner is not None  # or it would not be asked
    if speed and (call := machine.known_speed(speed_name(captioner), captioner.device)):
        speed = dict(speed) | call
    plan = make_plan(size, settings, geometry, speed, caption_calls=calls, drawn=image is None, rich=rich)
    return replace(plan, why=why, captioner=captioner.name, guessed=guess is not None)


def looked_at(settings: Settings, picture: images.Picture) -> Tensor | None:
    """`richness` of the input, (1, 1, h, w), where windows that show nothing cost nothing; else None."""
    return richness(images.to_tensor(picture.rgb)) if settings.flat_windows == "keep" else None


def captions_wanted(settings: Settings) -> bool:
    """Whether a captioner should write the regions' captions: none are given, and they would be read."""
    return not settings.captions and settings.detail > 0


def asks(captioning: Captioning | None, settings: Settings) -> bool:
    """Whether a run asks its captioner for anything."""
    if captioning is None or captioning.captioner is None or isinstance(captioning.captioner, NoCaptioner):
        return False
    return captions_wanted(settings) or not settings.prompt.strip()


def speed_name(captioner: Captioner) -> str:
    return f"captioner {captioner.name}"
