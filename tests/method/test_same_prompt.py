"""A region without a caption is a region whose caption is the prompt, in every family."""

import pytest
import torch
from checkpoints import make_flux2, make_pixart, make_qwen_image, make_sd3, make_sd15, make_sdxl, make_zimage

import cupscale
from cupscale.backbones import adapt
from cupscale.method.regions import Region, Size
from cupscale.method.sampler import draw_noise


@pytest.mark.parametrize(
    "make", [make_sd15, make_sdxl, make_pixart, make_sd3, make_zimage, make_flux2, make_qwen_image]
)
def test_no_caption_is_the_prompt_as_caption(make, tmp_path):
    """Between the ends of both weights, where RAP acts and the region's own prompt counts too."""
    make(tmp_path / "model")
    backbone = adapt(cupscale.load(str(tmp_path / "model"), device="cpu"))
    channels = backbone.geometry.channels
    settings = cupscale.Settings.build(prompt="a red fox", attention=0.6, detail=0.3, guidance=3.0, steps=4)
    window, canvas = Size(16, 16), Size(16, 24)
    regions = [Region(0, 0, 16, 16), Region(0, 8, 16, 16)]
    overview, latents = (draw_noise((n, channels, *window), seed) for n, seed in ((1, 1), (2, 2)))
    outputs = {}
    for caption in (None, "a red fox", "snow"):
        with backbone.denoiser(settings, [caption] * 2, canvas, window) as denoiser:
            t = backbone.schedule(settings).timesteps[0]
            denoiser.capture(overview, t)
            outputs[caption] = denoiser.predict(latents, t, regions, range(2))
    assert torch.allclose(outputs[None], outputs["a red fox"], atol=2e-5)
    assert not torch.allclose(outputs[None], outputs["snow"], atol=1e-4)
