"""A person's own pipeline, with what diffusers can do to one: other processors, compiled and quantized networks, adapters."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers.models import attention_processor as processors
from diffusers.models.attention_dispatch import attention_backend
from small_runs import RUN, levels, photo

import cupscale
from cupscale.backbones import adapt
from cupscale.errors import CupscaleError

PLAIN = {"attention": 0, "detail": 0}


def picture(pipe, **fields):
    return levels(cupscale.upscale(pipe, photo(), **RUN | fields).image)


def names(network):
    return {
        name: type(m.processor).__name__ for name, m in network.named_modules() if hasattr(m, "processor")
    }


# Processors


def xformers(network, monkeypatch):
    """xFormers is not installed: its operator, by torch's own attention, which it equals."""

    def attention(query, key, value, attn_bias=None, op=None, scale=None):
        if query.dim() == 4:  # (B, n, heads, d), as xFormers has it
            query, key, value = (x.transpose(1, 2) for x in (query, key, value))
            return F.scaled_dot_product_attention(query, key, value, attn_bias, scale=scale).transpose(1, 2)
        return F.scaled_dot_product_attention(query, key, value, attn_bias, scale=scale)

    ops = SimpleNamespace(memory_efficient_attention=attention)
    monkeypatch.setattr(processors, "xformers", SimpleNamespace(ops=ops), raising=False)
    joint = hasattr(network, "pos_embed") and any(
        name.endswith(".attn.processor") for name in network.attn_processors
    )
    network.set_attn_processor(
        processors.XFormersJointAttnProcessor() if joint else processors.XFormersAttnProcessor()
    )


def test_attention_to_words_goes_through_the_users_backend(load, monkeypatch):
    """Diffusers' own processors of a U-Net do not ask; ours do, unless there are scores to add."""
    asked, usual = [], torch.nn.attention.sdpa_kernel

    def noted(kind):
        asked.append(kind)
        return usual(kind)

    monkeypatch.setattr(torch.nn.attention, "sdpa_kernel", noted)
    pipe = load("sdxl")
    plain = picture(pipe)
    assert asked == []
    with attention_backend("_native_math"):
        assert np.abs(picture(pipe) - plain).max() <= 1
    assert set(asked) == {torch.nn.attention.SDPBackend.MATH}


def sliced(network, monkeypatch):
    network.set_attn_processor(processors.SlicedAttnProcessor(1))


def fused(network, monkeypatch):
    network.fuse_qkv_projections()


@pytest.mark.parametrize("change", [xformers, sliced, fused])
@pytest.mark.parametrize("name", ["sd15", "sdxl", "sd3"])
def test_other_processors_give_the_same_picture_and_come_back(load, name, change, monkeypatch):
    if (name, change) == ("sd3", sliced):
        pytest.skip("diffusers has no sliced joint attention")
    pipe = load(name)
    usual, usual_names = picture(pipe), names(adapt(pipe).network)
    change(adapt(pipe).network, monkeypatch)
    before = {
        name: id(m.processor) for name, m in adapt(pipe).network.named_modules() if hasattr(m, "processor")
    }
    changed = names(adapt(pipe).network)
    assert changed != usual_names
    assert np.abs(picture(pipe) - usual).mean() < 0.5
    assert names(adapt(pipe).network) == changed
    assert before == {
        name: id(m.processor) for name, m in adapt(pipe).network.named_modules() if hasattr(m, "processor")
    }


def test_kleins_fused_projections_give_the_same_picture_and_stay(load):
    """Its processors read them or the ones they were made of."""
    pipe = load("flux2-klein-base")
    usual, plain = picture(pipe), picture(pipe, **PLAIN)
    pipe.transformer.fuse_qkv_projections()
    assert pipe.transformer.transformer_blocks[0].attn.fused_projections
    assert np.abs(picture(pipe) - usual).max() <= 1 and np.abs(picture(pipe, **PLAIN) - plain).max() <= 1
    assert pipe.transformer.transformer_blocks[0].attn.fused_projections


# torch.compile, with a backend that keeps the graph as it is


def eager(graph, inputs):
    return graph.forward


@pytest.mark.parametrize("name", ["sdxl", "z-image", "flux2-klein-base", "qwen-image"])
def test_a_wrapped_compiled_network_runs_with_its_priors(load, name):
    pipe = load(name)
    usual, without = picture(pipe), picture(pipe, **PLAIN)
    assert (usual != without).any()
    part = type(adapt(pipe)).NETWORK
    compiled = torch.compile(getattr(pipe, part), backend=eager)
    setattr(pipe, part, compiled)
    assert np.abs(picture(pipe) - usual).max() <= 1
    assert getattr(pipe, part) is compiled


@pytest.mark.parametrize("how", ["whole", "blocks"])
def test_a_network_compiled_in_place_runs_with_its_priors_and_stays_compiled(load, how):
    pipe = load("sdxl")
    usual = picture(pipe)
    calls = []

    def counted(graph, inputs):
        calls.append(1)
        return graph.forward

    modules = [pipe.unet] if how == "whole" else [m for m in pipe.unet.modules() if hasattr(m, "attn2")]
    for module in modules:
        module.compile(backend=counted)
    before = [module._compiled_call_impl for module in modules]
    assert all(before)
    assert np.abs(picture(pipe) - usual).max() <= 1
    assert [module._compiled_call_impl for module in modules] == before and not calls
    picture(pipe, **PLAIN, captions=())
    assert calls  # where no hook is in it, it is the compiled one that runs


def test_a_plain_run_calls_the_network_as_the_caller_has_it(load):
    pipe = load("sdxl")
    backbone = adapt(pipe)
    pipe.unet = wrapped = torch.compile(pipe.unet, backend=eager)
    chosen = cupscale.Settings.build(attention=0, detail=0)
    cells = cupscale.method.regions.Size(16, 16)
    with backbone.denoiser(chosen, [None], cells, cells):
        assert backbone.runner is wrapped
    with backbone.denoiser(chosen.replace(attention=0.5), [None], cells, cells):
        assert backbone.runner is backbone.network is wrapped._orig_mod


def test_priors_that_would_meet_no_layer_are_an_error(load, monkeypatch):
    pipe = load("sdxl")
    monkeypatch.setattr("cupscale.backbones.attention.layers_of", lambda network, text_layer: {})
    with pytest.raises(CupscaleError, match=r"no layer that reads the text.*UNet2DConditionModel"):
        picture(pipe)
    assert picture(pipe, **PLAIN).shape == (72, 120, 3)


# Quantized


class Int8(torch.nn.Module):
    """A linear layer in 8 bits, with no parameter that is a float: as those of bitsandbytes, torchao and GGUF."""

    def __init__(self, layer):
        super().__init__()
        scale = layer.weight.detach().abs().amax(1, keepdim=True) / 127
        self.register_buffer("scale", scale)
        self.weight = torch.nn.Parameter((layer.weight.detach() / scale).round().to(torch.int8), False)
        self.bias = layer.bias

    def forward(self, x):
        return F.linear(x, self.weight * self.scale, self.bias)


QUANTIZED = ("to_q", "to_k", "to_v", "0", "add_k_proj", "to_qkv_mlp_proj")


@pytest.mark.parametrize("name", ["sdxl", "sd3", "z-image", "flux2-klein-base", "qwen-image"])
def test_a_network_of_quantized_layers_runs_under_all_priors(load, name):
    pipe = load(name)
    usual = picture(pipe)
    network, count = adapt(pipe).network, 0
    for module in list(network.modules()):
        for child, layer in list(module.named_children()):
            if type(layer) is torch.nn.Linear and child in QUANTIZED:
                setattr(module, child, Int8(layer))
                count += 1
    assert count > 5
    gap = np.abs(picture(pipe) - usual).mean()
    assert 0 < gap < 6
    assert adapt(pipe).geometry.weights > 0


# FreeU, IP-Adapter


@pytest.mark.parametrize("name", ["sd15", "sdxl"])
def test_freeu_runs_and_stays(load, name):
    pipe = load(name)
    usual = picture(pipe)
    pipe.enable_freeu(s1=0.6, s2=0.4, b1=1.3, b2=1.4)
    plain = pipe.unet(*_inputs(pipe))[0]
    assert (picture(pipe) != usual).any()
    assert pipe.unet.up_blocks[0].b1 == 1.3 and torch.equal(pipe.unet(*_inputs(pipe))[0], plain)
    pipe.disable_freeu()
    assert (picture(pipe) == usual).all()


def _inputs(pipe):
    width = pipe.unet.config.cross_attention_dim
    like = torch.Generator().manual_seed(0)
    more = {"text_embeds": torch.ones(1, 16), "time_ids": torch.ones(1, 6)}
    latents, words = torch.randn(1, 4, 16, 16, generator=like), torch.randn(1, 5, width, generator=like)
    return latents, 500, words, None, None, None, None, more


def test_an_ip_adapter_is_refused_before_any_work_whatever_the_priors(load):
    pipe = load("sdxl")
    width = pipe.unet.config.cross_attention_dim
    tensors = {
        "image_proj": {
            "proj.weight": torch.zeros(4 * width, 16),
            "proj.bias": torch.zeros(4 * width),
            "norm.weight": torch.ones(width),
            "norm.bias": torch.zeros(width),
        },
        "ip_adapter": {},
    }
    layers = [name for name in pipe.unet.attn_processors if "attn2" in name]
    for k, name in enumerate(layers):
        module = pipe.unet.get_submodule(name.removesuffix(".processor"))
        for part in ("to_k_ip", "to_v_ip"):
            tensors["ip_adapter"][f"{2 * k + 1}.{part}.weight"] = torch.zeros(module.to_q.out_features, width)
    pipe.unet._load_ip_adapter_weights([tensors])
    for fields in ({}, PLAIN):
        with pytest.raises(CupscaleError, match="unload_ip_adapter"):
            cupscale.stream(pipe, photo(), **RUN | fields)
