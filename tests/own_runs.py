"""Our loop with all priors off, beside the pipeline's own run."""

import diffusers
import pytest
import torch
from small_runs import photo

import cupscale
from cupscale.backbones import adapt
from cupscale.method.regions import Size
from cupscale.method.sampler import StepDone, denoise, draw_noise

CELLS = Size(16, 16)


def settings(**fields):
    values = {
        "attention": 0,
        "detail": 0,
        "structure": 0,
        "strength": 0.5,
        "steps": 6,
        "seed": 3,
        "prompt": "a red fox",
    }
    return cupscale.Settings.build(values | fields)


def final(events):
    return [event for event in events if isinstance(event, StepDone)][-1].sample


def from_own_img2img(pipe, name, guidance):
    """How far the latents of one region are from those of the pipeline's own img2img."""
    chosen = settings(guidance=guidance, scheduler="euler")
    z = draw_noise((1, 4, *CELLS), 11)
    backbone = adapt(pipe)
    with backbone.denoiser(chosen, [None], CELLS, CELLS) as denoiser:
        ours = final(denoise(denoiser, backbone.schedule(chosen), z, window=CELLS, overlap=0.5, seed=3))
    kind = getattr(diffusers, type(pipe).__name__.replace("Pipeline", "Img2ImgPipeline"))
    parts = dict(pipe.components)
    more = {}
    if name == "sd15":
        parts["scheduler"] = diffusers.EulerDiscreteScheduler.from_config(pipe.scheduler.config)
        more["requires_safety_checker"] = False
    img2img = kind(**parts, **more)
    img2img.set_progress_bar_config(disable=True)
    side = 16 * backbone.geometry.cell
    size = {} if name == "sd15" else {"height": side, "width": side}
    scale = {"guidance_scale": guidance - 1 if name == "z-image" else guidance}
    if name == "qwen-image":
        scale = {"true_cfg_scale": guidance, "negative_prompt": ""}
    noise = draw_noise(z.shape, 3)
    with pytest.MonkeyPatch.context() as patch:
        if name == "z-image":  # it takes no latents as its image: hand it ours, noised by its own scheduler
            patch.setattr(
                img2img,
                "prepare_latents",
                lambda image, t, *rest, **kw: img2img.scheduler.scale_noise(z, t, noise),
            )
        theirs = img2img(
            "a red fox",
            image=photo(side, side) if name == "z-image" else z,
            strength=0.5,
            num_inference_steps=6,
            generator=torch.Generator().manual_seed(3),
            output_type="latent",
            **size,
            **scale,
        ).images
    if name == "qwen-image":
        theirs = img2img._unpack_latents(theirs, side, side, img2img.vae_scale_factor)[:, :, 0]
    return ours - theirs
