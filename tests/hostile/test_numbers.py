"""Numbers that are none: each names where they come from and what helps, and no run goes on with them."""

import pytest
import torch
from checkpoints import make_sdxl
from PIL import Image

from cupscale.errors import CupscaleError
from cupscale.images.tensors import to_image
from cupscale.pipeline import CUpscalePipeline
from cupscale.settings import Settings

MANY = {"steps": 20, "strength": 1.0, "guidance": 1, "attention": 0, "upscaler": "lanczos", "scale": 2.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_sdxl(tmp_path_factory.mktemp("sdxl"))


@pytest.fixture
def pipe(folder):
    return CUpscalePipeline.from_pretrained(str(folder), device="cpu")


def spoilt(monkeypatch, module, name, part):
    """Let a method's tensor hold one NaN. part: what gives the tensor of its answer. Returns the list of its calls."""
    true, calls = getattr(module, name), []

    def given(*arguments, **named):
        answer = true(*arguments, **named)
        calls.append(1)
        part(answer)[..., 0, 0] = torch.nan
        return answer

    monkeypatch.setattr(module, name, given)
    return calls


def refused(pipe):
    with pytest.raises(CupscaleError) as caught:
        pipe.upscale(Image.linear_gradient("L").resize((48, 32)).convert("RGB"), Settings.build(MANY))
    line = str(caught.value)
    assert "\n" not in line
    return line


def test_a_network_of_nan_is_named_and_ends_at_the_first_step(pipe, monkeypatch):
    unet = pipe.pipe.unet
    calls = spoilt(monkeypatch, unet, "forward", lambda answer: answer[0])
    line = refused(pipe)
    assert "the network of" in line and "at the first step" in line and "bfloat16 or float32" in line
    one_step = len(calls)
    monkeypatch.undo()
    whole = []
    true = unet.forward
    monkeypatch.setattr(unet, "forward", lambda *a, **n: (whole.append(1), true(*a, **n))[1])
    pipe.upscale(Image.linear_gradient("L").resize((48, 32)).convert("RGB"), Settings.build(MANY))
    assert one_step * 20 <= len(whole)


def test_a_vae_that_encodes_nan_is_named_before_the_network_runs(pipe, monkeypatch):
    vae, unet = pipe.pipe.vae, pipe.pipe.unet
    spoilt(monkeypatch, vae.encoder, "forward", lambda answer: answer)
    calls = spoilt(monkeypatch, unet, "forward", lambda answer: answer[0])
    line = refused(pipe)
    assert "the VAE of" in line and "dtype float32" in line and not calls


def test_a_vae_that_decodes_nan_is_named(pipe, monkeypatch):
    spoilt(monkeypatch, pipe.pipe.vae.decoder, "forward", lambda answer: answer)
    line = refused(pipe)
    assert "the decoded image holds NaN or infinity: the VAE" in line


@pytest.mark.parametrize("cutoff", [1e-300, 0.0, 1e300])
def test_a_cutoff_whose_square_is_none_is_refused_with_its_range(cutoff):
    with pytest.raises(CupscaleError, match="cutoff"):
        Settings.build(MANY | {"cutoff": cutoff})
    assert Settings.build(MANY | {"cutoff": 0.01}).cutoff == 0.01


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_one_value_that_is_no_number_is_enough(value):
    """Of a decoded image, in its last row: it would be a pixel of any colour."""
    decoded = torch.zeros(3, 24, 32)
    decoded[1, 23, 7] = value
    with pytest.raises(CupscaleError, match="the decoded image holds NaN or infinity: the VAE"):
        to_image(decoded)
