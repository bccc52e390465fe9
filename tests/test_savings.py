"""Fewer network samples: what each setting saves is planned, counted at the network, and leaves the rest of the run alone."""

import numpy as np
import pytest
import torch
from checkpoints import make_sdxl
from PIL import Image
from schedule import Schedule

from cupscale import models
from cupscale.method.regions import Size
from cupscale.method.sampler import denoise
from cupscale.method.windows import FlatPlaces, Placement
from cupscale.pipeline import CUpscalePipeline
from cupscale.preview import Pace
from cupscale.settings import SAVINGS, Settings

FAST = {
    "scale": 4,
    "seed": 2,
    "prompt": "a red fox",
    "strength": 0.5,
    "steps": 10,
    "guidance": 3.0,
    "overlap": 0.0,
    "upscaler": "lanczos",
    "fidelity": 0.0,
    "scheduler": "ddim",
}


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    """Of SDXL's layout, with windows of 64 px: 256 px are its 4K."""
    return CUpscalePipeline.from_pretrained(str(make_sdxl(tmp_path_factory.mktemp("sdxl"))), device="cpu")


@pytest.fixture
def seen(pipeline):
    """The rows of every call of the network."""
    rows = []
    hook = pipeline.backbone.network.register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))
    yield rows
    hook.remove()


def photo(width=64, height=64, flat=0):
    """Waves all over; the `flat` columns at the left show nothing."""
    y, x = np.mgrid[0:height, 0:width]
    planes = np.stack([np.sin(x / 2 + k) * np.cos(y / (2 + k)) * 100 + 128 for k in range(3)], -1)
    planes[:, :flat] = 90
    return Image.fromarray(planes.astype(np.uint8))


def pixels(result):
    return np.asarray(result.image).astype(int)


def test_none_of_them_is_a_default():
    assert [getattr(Settings(), name) for name in SAVINGS] == ["jittered", "none", "denoise", 1.0]


def test_quick_at_the_4k_of_sdxls_layout_takes_at_most_280_samples(pipeline, seen):
    fields = models.presets("sdxl")["quick"] | {"upscaler": "lanczos", "scale": 4, "guidance": 7.5}
    result = pipeline.upscale(photo(), pipeline.settings(**fields))
    assert sum(seen) == result.plan.samples <= 280
    assert result.plan.kept == 0 and result.plan.line().count("model calls (guidance doubles")


def test_turbo_at_4k_takes_at_most_100_samples(pipeline, seen):
    fields = models.presets("sdxl-lightning")["turbo"] | {"upscaler": "lanczos", "scale": 4}
    result = pipeline.upscale(photo(), pipeline.settings(**fields))
    assert sum(seen) == result.plan.samples == 100


@pytest.mark.parametrize("placing", ["shifted", "alternating"])
@pytest.mark.parametrize("falls", ["none", "thirds"])
def test_moving_windows_are_counted_before_the_run(pipeline, seen, placing, falls):
    settings = pipeline.settings(**FAST | {"overlap": 0.5, "windows": placing, "overlap_falls": falls})
    planned = pipeline.plan((52, 70), settings)
    result = pipeline.upscale(photo(52, 70), settings)
    assert sum(seen) == planned.samples == result.plan.samples
    assert pixels(result).shape == (280, 208, 3)


def test_windows_by_turns_have_the_sizes_of_the_plan(pipeline):
    """48 x 32 cells in windows of 16, whose sides are even: 4 x 2 of 16 x 18 (17 would do) and 3 x 3 of 18 x 16 by turns."""
    shapes = []
    network = pipeline.backbone.network
    hook = network.register_forward_pre_hook(lambda module, args: shapes.append(tuple(args[0].shape[-2:])))
    fields = FAST | {"windows": "alternating", "attention": 0, "guidance": 1.0}
    plan = pipeline.upscale(photo(32, 48), **fields).plan
    hook.remove()
    assert set(shapes) == {(16, 18), (18, 16)}
    assert [shapes[0], shapes[8], len(shapes)] == [(16, 18), (18, 16), plan.windows]
    assert plan.area == 18 / 16 and plan.work == plan.windows * plan.area


def test_the_last_steps_go_without_guidance(pipeline, seen):
    """5 steps of 16 windows; 0.5 of them rounds up to 3 that are guided."""
    result = pipeline.upscale(photo(), **FAST, guidance_until=0.5)
    assert seen == ([1] + [2] * 16) * 3 + ([1] + [1] * 16) * 2
    assert result.plan.samples == sum(seen) and result.plan.doubled == 48
    assert "85 model calls (guidance doubles 48 of them)" in result.plan.line()


def test_guidance_to_the_end_is_as_before_and_none_at_all_is_guidance_1(pipeline):
    usual = pixels(pipeline.upscale(photo(), **FAST))
    assert (pixels(pipeline.upscale(photo(), **FAST, guidance_until=1.0)) == usual).all()
    never = pixels(pipeline.upscale(photo(), **FAST, guidance_until=0.0))
    without = pixels(pipeline.upscale(photo(), **FAST | {"guidance": 1.0}))
    assert np.abs(never - without).max() <= 1 < np.abs(never - usual).max()


def test_a_guidance_of_low_frequencies_ends_with_the_guidance(pipeline):
    fields = FAST | {"guidance_low": 6.0}
    assert (
        pixels(pipeline.upscale(photo(), **fields, guidance_until=0.0))
        == pixels(pipeline.upscale(photo(), **FAST, guidance_until=0.0))
    ).all()
    assert pipeline.upscale(photo(), **fields, guidance_until=0.5)


def test_windows_that_show_nothing_cost_nothing_and_keep_the_input(pipeline, seen):
    """36 of 64 columns are flat: of 4 columns of windows the first two are (16 px each, and what the contrast reaches)."""
    image = photo(flat=36)
    settings = pipeline.settings(**FAST | {"flat_windows": "keep"})
    planned = pipeline.plan(image, settings)
    assert planned.kept == 8 * 5 and planned.windows == 8 * 5
    assert "40 windows show nothing" in planned.line()
    result = pipeline.upscale(image, settings)
    assert sum(seen) == planned.samples == result.plan.samples == 8 * 5 * 2 + 5
    whole = pixels(pipeline.upscale(image, **FAST))
    assert np.abs(pixels(result)[:, 160:] - whole[:, 160:]).max() > 0  # a VAE's statistics see the whole
    assert result.plan.to_dict()["samples"] == planned.samples


def test_a_picture_that_shows_nothing_needs_no_network(pipeline, seen):
    result = pipeline.upscale(
        Image.new("RGB", (64, 48), (90, 120, 30)), **FAST | {"flat_windows": "keep", "attention": 0}
    )
    assert seen == [] and result.plan.samples == 0 and result.image.size == (256, 192)


class Network:
    def __init__(self):
        self.asked, self.guided = [], []

    def predict(self, latents, t, regions, ids, guided=True):
        self.asked += zip(regions, ids, strict=True)
        self.guided.append(guided)
        return 0.3 * latents


def test_x0_is_z_l_in_a_window_that_shows_nothing():
    """4 windows side by side, of which the second and the fourth are flat; each of the others has its own place in the plan."""
    z = torch.randn(1, 2, 6, 32, generator=torch.Generator().manual_seed(1))
    rich = torch.zeros(1, 1, 6, 32)
    rich[..., 5, 7] = rich[..., 0, 16] = 0.5
    network = Network()
    flat = FlatPlaces(rich, z)
    options = {"window": Size(6, 8), "overlap": 0.0, "seed": 3, "guided_steps": 1, "flat": flat}
    events = [event for event in denoise(network, Schedule(2), z, **options) if hasattr(event, "x0")]
    assert [place for _, place in network.asked] == [0, 2, 0, 2]
    assert network.guided == [True, True, False, False]
    for event in events:
        for start in (8, 24):
            assert torch.allclose(event.x0[..., start : start + 8], z[..., start : start + 8], atol=1e-5)
        assert (event.x0[..., :8] - z[..., :8]).abs().max() > 0.01


def test_captions_follow_the_nearest_window_of_the_plan():
    """Columns of windows at 0, 8, 16, 24 in the plan; moved by 5 they lie at 0, 3, 11, 19, 24."""
    z = torch.zeros(1, 1, 6, 32)
    network = Network()
    list(
        denoise(
            network, Schedule(2), z, window=Size(6, 8), overlap=0.0, seed=3, placement=Placement("shifted")
        )
    )
    for region, place in network.asked:
        assert abs(region.x - 8 * place) <= 4
    assert len({region.x for region, _ in network.asked}) > 4


def test_the_prompts_keys_are_made_once_a_run(pipeline):
    """To each layer: once for the pass over the whole picture, once for the two halves of guidance, whatever the steps are."""
    counts = []
    hooks = [
        module.to_k.register_forward_pre_hook(lambda module, args: counts.append(len(args[0])))
        for name, module in pipeline.backbone.network.named_modules()
        if name.endswith("attn2")
    ]
    try:
        result = pipeline.upscale(photo(), **FAST)
        first, layers = list(counts), len(hooks)
        counts.clear()
        many = pipeline.upscale(photo(), **FAST | {"steps": 4})
    finally:
        for hook in hooks:
            hook.remove()
    assert sorted(first) == sorted(counts) == [1] * layers + [2] * layers
    assert result.plan.steps != many.plan.steps


def test_previews_come_at_a_bounded_rate():
    now = iter([10.0, 10.4, 10.6, 10.6, 11.05])
    pace = Pace(0.5, lambda: next(now))
    assert pace.due()
    pace.shown()  # 10.0
    assert not pace.due()  # 10.4
    assert pace.due()  # 10.6
    pace.shown()
    assert not pace.due()  # 11.05


def test_a_fast_run_shows_its_first_and_its_last_preview(pipeline, monkeypatch):
    monkeypatch.setattr("cupscale.stages.PREVIEW_SECONDS", 3600)
    steps = [
        event.step
        for event in pipeline.stream(photo(), **FAST | {"scale": 2})
        if type(event).__name__ == "Preview"
    ]
    assert steps == [0, 1, 5]
