"""Networks that bitsandbytes, torchao and GGUF quantized, where these packages are installed: on a person's own pipeline."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from own_runs import from_own_img2img
from small_runs import RUN, levels, photo

import cupscale
from cupscale import offload
from cupscale.backbones import adapt
from cupscale.errors import CupscaleError

CASES = [
    ("torchao", "sd15"),
    ("torchao", "sdxl"),
    ("torchao", "sd3"),
    ("torchao", "z-image"),
    ("gguf", "sd3"),
    ("gguf", "z-image"),
    ("gguf", "qwen-image"),
    ("gguf", "flux2-klein-base"),
    ("int8", "sd15"),
    ("int8", "sd3"),
    ("nf4", "sdxl"),
    ("nf4", "sd3"),
]
HAVE_IMG2IMG = ("sd15", "sd3", "z-image", "qwen-image")
FLOAT = {"dtype": torch.float32}


def needed(package):
    return pytest.importorskip(package, reason=f"{package} is not in the dev extra")


def by_torchao(network, folder, tmp_path):
    """Weights in 8 bits, as diffusers loads them."""
    quantization = needed("torchao.quantization")
    from diffusers import TorchAoConfig

    chosen = TorchAoConfig(quantization.Int8WeightOnlyConfig())
    return type(network).from_pretrained(folder, quantization_config=chosen, **FLOAT)


def by_gguf(network, folder, tmp_path):
    """A file of blocks of 32 weights in 8 bits, as diffusers loads it."""
    gguf = needed("gguf")
    from diffusers import GGUFQuantizationConfig

    kind = gguf.GGMLQuantizationType.Q8_0
    writer = gguf.GGUFWriter(tmp_path / "network.gguf", "diffusion")
    for name, tensor in network.state_dict().items():
        values = tensor.numpy()
        if values.ndim == 2 and values.shape[1] % 32 == 0 and name.endswith("weight"):
            writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    chosen = GGUFQuantizationConfig(compute_dtype=torch.float32)
    place = {"config": str(folder.parent), "subfolder": folder.name}
    return type(network).from_single_file(
        str(tmp_path / "network.gguf"), quantization_config=chosen, **place, **FLOAT
    )


def by_bitsandbytes(make):
    """Its layers in the places of torch's; diffusers' own loader wants a GPU for them."""

    def quantized(network, folder, tmp_path):
        layers = needed("bitsandbytes.nn")
        for module in list(network.modules()):
            for name, layer in list(module.named_children()):
                if type(layer) is torch.nn.Linear and name in ("to_q", "to_k", "to_v", "add_k_proj", "0"):
                    made = make(layers, layer.in_features, layer.out_features, layer.bias is not None)
                    made.load_state_dict(layer.state_dict())
                    setattr(module, name, made.to("cpu"))
        return network

    return quantized


WAYS = {
    "torchao": by_torchao,
    "gguf": by_gguf,
    "int8": by_bitsandbytes(
        lambda layers, *of: layers.Linear8bitLt(*of, has_fp16_weights=False, threshold=6.0)
    ),
    "nf4": by_bitsandbytes(
        lambda layers, *of: layers.Linear4bit(*of, compute_dtype=torch.float32, quant_type="nf4")
    ),
}


@pytest.fixture
def quantized(load, folders, tmp_path):
    """A pipeline with a quantized network."""

    def made(way, name):
        pipe = load(name)
        part = type(adapt(pipe)).NETWORK
        setattr(pipe, part, WAYS[way](getattr(pipe, part), Path(folders(name)) / part, tmp_path))
        return pipe

    return made


def picture(pipe, **fields):
    return levels(cupscale.upscale(pipe, photo(), **RUN | fields).image)


@pytest.mark.parametrize(("way", "name"), CASES)
def test_it_runs_under_all_priors_and_is_left_as_it_is(quantized, load, way, name):
    pipe = quantized(way, name)
    network, usual = adapt(pipe).network, picture(load(name))
    before = {key: (type(p), p.dtype) for key, p in network.named_parameters()}
    assert len({kind for kind, _ in before.values()}) > 1  # some are quantized
    processors = {key: id(m.processor) for key, m in network.named_modules() if hasattr(m, "processor")}
    found = picture(pipe)
    assert 0 < np.abs(found - usual).mean() < 1.5
    for prior in ("structure", "attention", "detail"):
        assert (picture(pipe, **{prior: 0}) != found).any(), prior
    assert before == {key: (type(p), p.dtype) for key, p in network.named_parameters()}
    assert processors == {
        key: id(m.processor) for key, m in network.named_modules() if hasattr(m, "processor")
    }


@pytest.mark.parametrize(("way", "name"), [case for case in CASES if case[1] in HAVE_IMG2IMG])
def test_with_all_priors_off_it_is_its_pipelines_img2img(quantized, way, name):
    assert from_own_img2img(quantized(way, name), name, 4.0).abs().max() < 1e-4


def test_quantized_weights_count_as_they_are_stored(quantized, load):
    """torchao's say the size and the precision of the weights they stand for: eight bits are counted, and
    their scales and zero points."""
    pipe, plain = quantized("torchao", "sd3"), load("sd3")
    expected = 0
    for parameter in pipe.transformer.parameters():
        if hasattr(parameter, "qdata"):
            assert parameter.dtype == torch.float32
            expected += parameter.numel() + 4 * parameter.scale.numel() + parameter.zero_point.numel()
        else:
            expected += 4 * parameter.numel()
    usual = sum(4 * parameter.numel() for parameter in plain.transformer.parameters())
    assert offload.part_bytes(pipe)["transformer"] == expected < usual / 2
    assert adapt(plain).geometry.weights - adapt(pipe).geometry.weights == usual - expected


def test_a_folder_that_bitsandbytes_quantized_says_that_it_needs_a_gpu(folders, tmp_path):
    needed("bitsandbytes")
    folder = tmp_path / "quantized"
    shutil.copytree(folders("sd3"), folder)
    path = folder / "transformer" / "config.json"
    config = json.loads(path.read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    path.write_text(json.dumps(config))
    with pytest.raises(CupscaleError, match=r"No GPU found.*bitsandbytes quantized.*as it was before"):
        cupscale.load(str(folder), device="cpu")
