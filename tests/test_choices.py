"""What the paper leaves open, as settings: each has its effect on a whole run, and none of them is a default."""

import numpy as np
import pytest
from checkpoints import make_sd3, make_sdxl
from PIL import Image

import cupscale
from cupscale.errors import CupscaleError
from cupscale.pipeline import CUpscalePipeline
from cupscale.settings import CHOICES, Settings

FAST = {
    "scale": 2,
    "prompt": "a red castle on a hill",
    "negative_prompt": "mud",
    "strength": 0.8,  # 4 steps: on 3 the two decays are one
    "steps": 5,
    "guidance": 5.0,
    "cutoff": 0.4,
    "upscaler": "lanczos",
    "fidelity": 0.0,
    "scheduler": "ddim",
    "captions": [
        {"box": [0, 0, 32, 64], "caption": "a blue boat"},
        {"box": [32, 0, 80, 64], "caption": "two green trees"},
    ],
}
OTHERS = [
    {"structure_space": "z_t"},
    {"structure_reference": "overview"},
    {"structure_filter": "gaussian"},
    {"structure_filter": "ideal"},
    {"structure_filter": "wavelet"},
    {"structure_decay": "linear"},
    {"attention_form": "screen"},
    {"composer": "frequency"},
    {"guidance_low": 2.0},
    {"sigma_shift": 0.3},
]


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    return CUpscalePipeline.from_pretrained(str(make_sdxl(tmp_path_factory.mktemp("sdxl"))), device="cpu")


def photo():
    y, x = np.mgrid[0:32, 0:40]
    planes = [np.sin(x / 3 + k) * np.cos(y / (4 + k)) * 100 + 128 for k in range(3)]
    return Image.fromarray(np.stack(planes, -1).astype(np.uint8))


def pixels(pipeline, **fields):
    return np.asarray(pipeline.upscale(photo(), **FAST | fields).image).astype(int)


@pytest.fixture(scope="module")
def usual(pipeline):
    return pixels(pipeline)


def test_every_choice_has_another_here():
    assert {name for other in OTHERS for name in other} == set(CHOICES)
    first = Settings()
    for other in OTHERS:
        for name, value in other.items():
            assert getattr(first, name) != value


def test_each_is_explained_with_its_source():
    for name in CHOICES:
        text = Settings.model_fields[name].description
        assert any(word in text for word in ("arXiv", "ours", "HiFlow", "Detail Daemon")), name


@pytest.mark.parametrize("other", OTHERS, ids=lambda other: "-".join(map(str, *other.items())))
def test_another_choice_is_another_picture(pipeline, usual, other):
    changed = pixels(pipeline, **other)
    assert changed.shape == usual.shape
    assert (changed != usual).any()
    assert (pixels(pipeline, **other) == changed).all()


def test_a_guidance_of_low_frequencies_equal_to_the_others_changes_nothing(pipeline, usual):
    assert np.abs(pixels(pipeline, guidance_low=5.0) - usual).max() <= 1


def test_captions_without_high_frequencies_are_not_read(pipeline):
    """At a cutoff of 2, all that a layer's tokens show is low, and the global prompt's."""
    fields = {"structure": 0, "attention": 0, "cutoff": 2}
    without = pixels(pipeline, **fields, detail=0)
    assert np.abs(pixels(pipeline, **fields, detail=1, composer="frequency") - without).max() <= 1
    assert np.abs(pixels(pipeline, **fields, detail=1) - without).max() > 1


def test_following_the_overview_is_counted_and_planned(pipeline, monkeypatch):
    """Without the attention prior its pass is run for the structure prior alone."""
    seen = []
    network = pipeline.backbone.network
    handle = network.register_forward_hook(
        lambda module, args, kwargs, output: seen.append(1), with_kwargs=True
    )
    try:
        fields = FAST | {"attention": 0, "structure_reference": "overview"}
        result = pipeline.upscale(photo(), **fields)
        assert len(seen) == result.plan.evaluations == 4 * (len(result.plan.regions) + 1)
        seen.clear()
        result = pipeline.upscale(photo(), **fields | {"structure": 0})
        assert len(seen) == result.plan.evaluations == 4 * len(result.plan.regions)
    finally:
        handle.remove()


def test_a_screen_of_words_needs_cross_attention(tmp_path):
    pipeline = CUpscalePipeline.from_pretrained(str(make_sd3(tmp_path)), device="cpu")
    with pytest.raises(CupscaleError, match="attention_form screen reads the maps of cross-attention"):
        pipeline.stream(photo(), prompt="a castle", attention_form="screen")
    assert pipeline.stream(photo(), prompt="a castle", attention_form="screen", attention=0)


def test_a_picture_from_words_is_drawn_without_any_of_them(pipeline):
    fields = {"prompt": "a castle", "scale": 1, "steps": 2, "guidance": 3.0, "scheduler": "ddim"}
    plain = np.asarray(pipeline.upscale(None, **fields).image)
    every = {name: value for other in OTHERS for name, value in other.items()}
    assert (np.asarray(pipeline.upscale(None, **fields, **every).image) == plain).all()


def test_out_of_range_is_refused_with_the_range():
    for name, value, limit in (
        ("sigma_shift", 0.6, "0.5"),
        ("guidance_low", 31, "30"),
    ):
        with pytest.raises(CupscaleError, match=f"{name}: .*{limit}"):
            cupscale.Settings.build(**{name: value})
