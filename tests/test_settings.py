"""Settings: ranges, layers, JSON there and back."""

from urllib.parse import parse_qsl

import pytest
from hypothesis import given, strategies as st

from cupscale import models
from cupscale.bounded import read_object
from cupscale.errors import CupscaleError
from cupscale.page import links
from cupscale.settings import Caption, Settings, default_cutoff

settings_strategy = st.builds(
    Settings.build,
    scale=st.floats(1, 16),
    seed=st.integers(0, 2**32 - 1),
    prompt=st.text(max_size=60),
    cutoff=st.none() | st.floats(0.01, 2),
    structure=st.floats(0, 1),
    attention=st.floats(0, 1),
    detail=st.floats(0, 1),
    strength=st.floats(0.01, 1),
    steps=st.integers(1, 1000),
    guidance=st.floats(1, 30),
    flat_guidance=st.floats(0, 1),
    flat_strength=st.floats(0, 1),
    upscaler=st.sampled_from(["auto", "realsr", "realesrgan", "anime", "waifu2x", "lanczos", "bicubic"]),
    captions=st.lists(
        st.builds(Caption, box=st.just((0, 0, 8, 8)), caption=st.text(max_size=20)), max_size=3
    ).map(tuple),
)


@given(settings_strategy)
def test_json_there_and_back(settings):
    assert Settings.from_json(settings.to_json()) == settings
    assert 1 <= settings.run_steps <= settings.steps


def test_the_cutoff_follows_the_scale_unless_given():
    assert Settings.build(scale=4).cutoff == default_cutoff(4) == 0.2
    assert Settings.build(scale=4, cutoff=0.7).cutoff == 0.7
    assert Settings.build(scale=1).cutoff == 0.8


def test_later_layers_win_and_none_is_not_given():
    settings = Settings.build({"strength": 0.1, "steps": 30}, {"strength": 0.45}, steps=40, strength=None)
    assert (settings.strength, settings.steps) == (0.45, 40)


def test_the_papers_start_runs_23_of_50_steps():
    """S = 0.45 T of 50 steps."""
    assert Settings.build(strength=0.45, steps=50).run_steps == 23
    assert Settings.build(strength=0.45, steps=20).run_steps == 9


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"scale": 17}, ["scale", "16"]),
        ({"scale": 0.5}, ["scale", "1"]),
        ({"scale": "big"}, ["scale", "number"]),
        ({"seed": -1}, ["seed", "0"]),
        ({"attention": 1.5}, ["attention", "1"]),
        ({"detail": float("nan")}, ["detail"]),
        ({"upscaler": "nearest"}, ["upscaler", "lanczos"]),
        ({"sharpness": 3}, ["sharpness", "no such setting", "cutoff"]),
        ({"captions": [{"box": [5, 5, 5, 9], "caption": "x"}]}, ["captions", "box"]),
    ],
)
def test_bad_values_name_the_field_and_the_limit_in_one_line(fields, words):
    with pytest.raises(CupscaleError) as caught:
        Settings.build(**fields)
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


def test_a_settings_file_is_read_or_refused(tmp_path):
    file = tmp_path / "settings.json"
    with pytest.raises(CupscaleError, match="no file"):
        read_object(file, "settings")
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CupscaleError, match="UTF-8"):
        read_object(file, "settings")
    with pytest.raises(CupscaleError, match="not a regular file"):
        read_object(tmp_path, "settings")
    file.write_text('{"scale": 3,}')
    with pytest.raises(CupscaleError, match="line 1"):
        read_object(file, "settings")


def test_an_emptied_negative_prompt_survives_link_command_and_metadata():
    """The bundled model has one of its own, which must not come back."""
    own = Settings.build(models.defaults("tiny"))
    assert own.negative_prompt and own.flat_guidance < 1
    emptied = own.replace(negative_prompt="", flat_guidance=0.35)
    query = dict(parse_qsl(links.to_query(emptied), keep_blank_values=True))
    good, _, wrong = links.from_query(query)
    assert not wrong and Settings.build(models.defaults("tiny"), good) == emptied
    assert "--negative-prompt ''" in links.to_command(emptied)
    assert Settings.from_json(emptied.to_json()) == emptied
