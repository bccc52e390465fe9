"""Presets belong to a model: Quick is cheaper than its defaults, Paper is the paper's, and what it cannot do is said."""

from __future__ import annotations

import pytest

from cupscale import models
from cupscale.errors import CupscaleError
from cupscale.planning import make_plan
from cupscale.settings import Settings

FEW = {"guidance": 1.0, "steps": 8}


def evaluations(name: str, size: tuple[int, int], scale: float, **fields: object) -> int:
    """Samples of the network: what guidance doubles counts twice."""
    settings = Settings.build(models.defaults(name), fields, scale=scale)
    return make_plan(size, settings, models.KNOWN[name].geometry).samples


@pytest.mark.parametrize("name", models.KNOWN)
@pytest.mark.parametrize(
    ("size", "scale"), [((64, 64), 1), ((256, 192), 4), ((1024, 768), 4), ((512, 512), 8)]
)
def test_quick_takes_fewer_evaluations_than_the_models_defaults(name, size, scale):
    """Also where one window covers everything, so that fewer windows cannot be what saves."""
    quick = models.presets(name)["quick"]
    assert evaluations(name, size, scale, **quick) < evaluations(name, size, scale)


@pytest.mark.parametrize("name", models.KNOWN)
def test_paper_is_the_papers_or_is_not_offered(name):
    offered = models.presets(name)
    if "paper" not in offered:
        with pytest.raises(
            CupscaleError, match=f"model {name} cannot do preset paper: .*; choose quick"
        ) as caught:
            models.preset(name, "paper")
        reason = models.KNOWN[name].no_paper or models.DISTILLED
        assert reason in str(caught.value) and "\n" not in str(caught.value)
        return
    assert list(offered) == ["quick", "paper"]
    paper = Settings.build(models.defaults(name), offered["paper"])
    assert (paper.strength, paper.steps, paper.run_steps) == (0.45, 50, 23)  # S = 0.45 T
    assert (paper.overlap, paper.structure) == (0.5, 1.0)
    assert (paper.flat_guidance, paper.flat_strength) == (1.0, 1.0)
    assert (paper.upscaler, paper.fidelity) == ("bicubic", 0.0)
    assert paper.guidance == Settings.build(models.defaults(name)).guidance > 1


def test_the_bundled_model_and_the_distilled_ones_have_no_paper():
    without = {name for name in models.KNOWN if "paper" not in models.presets(name)}
    assert without == {"tiny", "sd15-lcm", "sdxl-lightning", "sdxl-lcm", "z-image-turbo", "flux2-klein"}


@pytest.mark.parametrize("name", models.KNOWN)
def test_quick_stays_near_the_strength_that_suits_the_model(name):
    usual = Settings.build(models.defaults(name))
    quick = Settings.build(models.defaults(name), models.presets(name)["quick"])
    assert quick.strength <= usual.strength


def test_a_model_without_a_name_has_the_presets_of_its_family():
    assert list(models.presets("owner/name")) == ["quick", "paper"]
    assert list(models.presets("owner/turbo", FEW)) == ["quick", "turbo"]
    usual = Settings.build(models.defaults("owner/turbo", FEW))
    quick = Settings.build(models.defaults("owner/turbo", FEW), models.preset("owner/turbo", "quick", FEW))
    assert quick.run_steps < usual.run_steps
    with pytest.raises(CupscaleError, match="distilled"):
        models.preset("owner/turbo", "paper", FEW)


def test_an_unknown_preset_lists_the_presets():
    with pytest.raises(CupscaleError, match="unknown preset 'fast': choose one of quick, turbo, paper"):
        models.preset("sdxl", "fast")
    assert models.preset("sdxl", None) == {}


SIDE_4K = ((1024, 1024), 4)


def test_quick_at_4k_takes_a_fortieth_of_demofusions_samples():
    """20 windows a step, 8 steps of which 5 are guided, a pass a step over the whole picture: 20 x 13 + 8, where DemoFusion
    takes 11,300."""
    assert evaluations("sdxl", *SIDE_4K, **models.presets("sdxl")["quick"]) == 268
    assert evaluations("sdxl", *SIDE_4K) == 49 * 23 * 2 + 23


@pytest.mark.parametrize("name", ["sdxl-lightning", "sdxl-lcm", "z-image-turbo", "flux2-klein"])
def test_turbo_at_4k_takes_at_most_100_samples(name):
    """49 windows and the pass over the whole picture, in two steps."""
    turbo = Settings.build(models.defaults(name), models.presets(name)["turbo"])
    assert (turbo.run_steps, turbo.guidance, turbo.strength) == (2, 1.0, 0.25)
    assert evaluations(name, *SIDE_4K, **models.presets(name)["turbo"]) == 100


def test_turbo_belongs_to_distilled_models():
    able = {name for name in models.KNOWN if "turbo" in models.presets(name)}
    assert able == {"sd15-lcm", "sdxl-lightning", "sdxl-lcm", "z-image-turbo", "flux2-klein"}
    with pytest.raises(
        CupscaleError, match=r"model sdxl cannot do preset turbo: .*guidance.*; choose quick, paper"
    ):
        models.preset("sdxl", "turbo")


@pytest.mark.parametrize(
    ("name", "defaults"),
    [
        ("sdxl", {"strength": 0.45, "steps": 50, "guidance": 7.5, "overlap": 0.5}),
        ("sdxl-lightning", {"strength": 0.45, "steps": 8, "guidance": 1.0, "overlap": 0.5}),
        ("pixart-sigma", {"strength": 0.45, "steps": 20, "guidance": 4.5, "overlap": 0.5}),
        ("sd35-large", {"strength": 0.45, "steps": 28, "guidance": 3.5, "overlap": 0.5}),
        ("z-image", {"strength": 0.45, "steps": 50, "guidance": 4.0, "overlap": 0.5}),
        ("flux2-klein", {"strength": 0.45, "steps": 8, "guidance": 1.0, "overlap": 0.5}),
    ],
)
def test_a_known_model_takes_its_familys_settings_and_its_own_over_them(name, defaults):
    assert models.KNOWN[name].defaults == defaults
