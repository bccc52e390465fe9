"""One rule for how much text is read: from a folder's tokenizer alone, from the loaded model, and by its own encoder."""

import pytest
import torch
from checkpoints import make_flux2, make_pixart, make_qwen_image, make_sd3, make_sd15, make_sdxl, make_zimage

import cupscale
from cupscale.backbones import adapt
from cupscale.backbones.tokens import token_budget

FAMILIES = {
    "sd15": (make_sd15, 75),
    "sdxl": (make_sdxl, 75),
    "pixart-alpha": (make_pixart, 119),
    "pixart-sigma": (lambda folder: make_pixart(folder, sigma=True), 299),
    "sd3": (make_sd3, 255),
    "sd3 without t5": (lambda folder: make_sd3(folder, t5=False), 75),
    "z-image": (make_zimage, 504),
    "flux2-klein": (make_flux2, 84),
    "qwen-image": (make_qwen_image, 333),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_the_tokenizer_alone_counts_as_the_loaded_model_does(name, tmp_path):
    make, limit = FAMILIES[name]
    make(tmp_path / "model")
    alone = token_budget(str(tmp_path / "model"))
    backbone = adapt(cupscale.load(str(tmp_path / "model"), device="cpu"))
    assert alone is not None and alone.limit == backbone.budget.limit
    assert alone.limit == limit
    for text in ("", "a red fox", "boat " * 300, "a, b; c!"):
        assert alone.count(text) == backbone.budget.count(text)
    assert alone.count("") == 0 and alone.count("boat " * 300) >= 1200  # a letter is a token here


@pytest.mark.parametrize(
    "name", ["sd15", "sdxl", "pixart-alpha", "sd3", "z-image", "flux2-klein", "qwen-image"]
)
def test_the_limit_is_where_the_pipeline_itself_stops_reading(name, tmp_path):
    """A letter more within the limit changes what the encoder gives; one beyond it does not."""
    FAMILIES[name][0](tmp_path / "model")
    backbone = adapt(cupscale.load(str(tmp_path / "model"), device="cpu"))
    budget = backbone.budget
    length = max(n for n in range(1, 600) if budget.count("x" * n) <= budget.limit)
    fits, over = "x" * length, "x" * (length + 60)  # past the marks that a chat ends with
    embeds = {}
    for text in (fits, fits[:-1] + "y", over[:-1] + "y", over[:-1] + "z"):
        embeds[text] = backbone.encode_texts([text])[0].embeds
    assert not torch.equal(embeds[fits], embeds[fits[:-1] + "y"])
    if name != "sd3":  # whose CLIP encoders read less than its T5, and differ no more
        assert torch.equal(embeds[over[:-1] + "y"], embeds[over[:-1] + "z"])


def test_a_model_that_cannot_be_read_has_none(tmp_path):
    (tmp_path / "model_index.json").write_text("[]")
    assert token_budget(str(tmp_path)) is None
    assert token_budget("nobody/nothing") is None
