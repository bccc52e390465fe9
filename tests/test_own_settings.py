"""What a person has set on their own pipeline is followed, or a run says that it is not."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler, PNDMScheduler
from diffusers.models.attention_processor import AttnProcessor2_0
from PIL import Image

import cupscale
from cupscale.backbones.own import has_own_scheduler, unheard
from cupscale.errors import CupscaleError
from cupscale.settings import Settings

FAST = {
    "steps": 4,
    "strength": 0.5,
    "upscaler": "lanczos",
    "guidance": 1.0,
    "captioner": "none",
    "fidelity": 0,
}


@pytest.fixture(scope="module")
def bundled():
    return cupscale.load("tiny", device="cpu")


def picture():
    return Image.fromarray(np.random.default_rng(2).integers(0, 256, (20, 28, 3), dtype=np.uint8))


def run(pipe, **fields):
    events = list(cupscale.stream(pipe, picture(), preview_px=0, **FAST | fields))
    said = [event.message for event in events if isinstance(event, cupscale.Notice)]
    return events[-1].result, said


def test_a_scheduler_set_on_the_bundled_pipeline_is_used(bundled):
    pipe = copy.copy(bundled)
    usual, said = run(pipe)
    assert usual.settings.scheduler == "euler" and not said
    pipe.scheduler = DPMSolverMultistepScheduler.from_config(
        pipe.scheduler.config, algorithm_type="sde-dpmsolver++"
    )
    own, said = run(pipe)
    assert own.settings.scheduler == "model" and not said
    assert (np.asarray(own.image) != np.asarray(usual.image)).any()
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, timestep_spacing="trailing")
    assert run(pipe)[0].settings.scheduler == "model"  # of the checkpoint's own class, set otherwise
    asked, said = run(pipe, scheduler="euler")
    assert asked.settings.scheduler == "euler"
    assert any("euler takes the place of the pipeline's DDIMScheduler" in line for line in said)


def test_a_pipeline_that_diffusers_loaded_is_compared_with_its_files(bundled):
    pipe = copy.copy(bundled)
    del pipe.cupscale_scheduler
    assert not has_own_scheduler(pipe, "DDIMScheduler")
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, timestep_spacing="trailing")
    assert has_own_scheduler(pipe, "DDIMScheduler")
    hub = SimpleNamespace(scheduler=pipe.scheduler, name_or_path="nowhere/at-all")
    assert not has_own_scheduler(hub, "DDIMScheduler")  # the class is all that is known
    hub.scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config)
    assert has_own_scheduler(hub, "DDIMScheduler") and not has_own_scheduler(hub, "")


def test_what_takes_no_part_is_said(load):
    pipe = load("sd15")
    pipe.scheduler = PNDMScheduler.from_config(pipe.scheduler.config)
    pipe.safety_checker = lambda images: images
    said = run(pipe, scheduler="model")[1]
    assert any("DDIM, its first order" in line for line in said)
    assert any("safety checker" in line for line in said)


def test_each_part_that_takes_no_part_has_its_line():
    pipe = SimpleNamespace(scheduler=DDIMScheduler(), controlnet=object(), watermark=object())
    said = unheard(pipe, Settings(control=0), False)
    assert len(said) == 2 and "ControlNet takes no part at control 0" in said[0] and "watermark" in said[1]
    assert len(unheard(pipe, Settings(control=0.5), False)) == 1
    pipe.controlnet = pipe.watermark = None
    assert unheard(pipe, Settings(), False) == []


def test_a_cache_between_calls_is_refused(load, monkeypatch):
    pipe = load("sd3")
    monkeypatch.setattr(type(pipe.transformer), "is_cache_enabled", True, raising=False)
    with pytest.raises(CupscaleError, match=r"disable_cache"):
        run(pipe)


def test_a_processor_derived_from_a_usual_one_is_not_left_out_silently(load):
    class Sharper(AttnProcessor2_0):
        pass

    pipe = load("sdxl")
    pipe.unet.set_attn_processor(Sharper())
    with pytest.raises(CupscaleError, match=r"Sharper"):
        run(pipe, attention=0.5)
    assert run(pipe, attention=0.0, detail=0.0)[0].image.size == (56, 40)
