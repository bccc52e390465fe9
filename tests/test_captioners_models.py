"""Captioners that are models: small random checkpoints of the real classes, through loading, chat template and generation."""

import contextlib
import shutil
import threading
import time
from types import SimpleNamespace

import captioner_checkpoints as checkpoints
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from cupscale.captioners import CaptionerError, Request, open_captioner
from cupscale.captioners.appearance import colours, words_of
from cupscale.captioners.tagger import Tagger
from cupscale.captioners.vlm import VLM
from cupscale.errors import CupscaleError

KINDS = ("qwen", "smolvlm", "llava", "florence")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {kind: getattr(checkpoints, kind)(tmp_path_factory.mktemp(kind)) for kind in KINDS}


def requests(count=3):
    whole = Image.new("RGB", (60, 40), "red")
    return [
        Request(
            lambda k=k: (whole, Image.new("RGB", (48, 40), (60 * k, 200 - 60 * k, 0))), "Describe the second."
        )
        for k in range(count)
    ]


def texts(captioner, asked):
    found = [answer for answer in captioner.ask(asked) if answer]
    assert sorted(answer.index for answer in found) == list(range(len(asked)))
    assert all(answer.error is None for answer in found)
    return [answer.text for answer in sorted(found, key=lambda answer: answer.index)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_of_each_family_loads_and_answers_the_same_every_time(folders, kind):
    captioner = open_captioner(str(folders[kind]), device="cpu")
    captioner.batch = 2
    assert captioner.bytes == 0
    first = texts(captioner, requests())
    assert captioner.bytes > 50_000 and texts(captioner, requests()) == first  # no sampling
    captioner.release()
    assert captioner.bytes == 0 and texts(captioner, requests()) == first
    assert all("Describe" not in text and "<image>" not in text for text in first)


class Packed(torch.Tensor):
    """24 weights of 32 bits, as they say, in 8 bits with a scale a row: 24 + 4 * 4 bytes."""

    def __new__(cls):
        made = torch.Tensor._make_wrapper_subclass(cls, (4, 6), dtype=torch.float32)
        made.values, made.scales = torch.zeros(4, 6, dtype=torch.int8), torch.zeros(4, 1)
        return made

    def __tensor_flatten__(self):
        return ["values", "scales"], None

    @classmethod
    def __torch_dispatch__(cls, *call):
        raise NotImplementedError


@pytest.mark.parametrize("captioner", [VLM("owner/name", device="cpu"), Tagger()])
def test_bytes_are_of_weights_tables_and_what_is_quantized(captioner):
    """By hand: 3 x 5 weights and 5 biases of 2 bytes; a table of 7 of 4 bytes; 40 bytes packed."""
    model = torch.nn.Linear(3, 5, dtype=torch.float16)
    model.register_buffer("table", torch.zeros(7))
    model.register_buffer("packed", Packed())
    captioner._loaded, captioner._network = SimpleNamespace(model=model), model
    assert captioner.bytes == 2 * (15 + 5) + 4 * 7 + 40 == 108


def test_one_message_holds_whole_image_crop_and_instruction(folders):
    captioner = VLM(str(folders["qwen"]), device="cpu")
    captioner.load()
    loaded = captioner._loaded
    inputs = loaded.inputs(requests(2))
    assert inputs["image_grid_thw"].shape == (4, 3)  # two images of two requests
    prompt = loaded.tokenizer.decode(inputs["input_ids"][0])
    first, second = prompt.index("<|vision_start|>"), prompt.rindex("<|vision_start|>")
    assert first < second < prompt.index("Describe the second.") < prompt.index("assistant")
    assert prompt.count("<|im_start|>user") == 1 and prompt.endswith("<|im_start|>assistant\n")
    config = loaded.config
    assert not config.do_sample and config.num_beams == 1 and config.max_new_tokens < 128


def test_what_a_random_model_sees_decides_what_it_says(folders):
    captioner = VLM(str(folders["llava"]), device="cpu")
    one, other = (
        requests(1)[0],
        Request(
            lambda: (Image.new("RGB", (60, 40), "blue"), Image.new("RGB", (48, 40))), "Describe the second."
        ),
    )
    assert texts(captioner, [one]) != texts(captioner, [other])


def test_small_machines_get_one_tile_per_image(folders):
    captioner = VLM(str(folders["smolvlm"]), device="cpu")
    captioner.load()
    assert captioner._loaded.inputs(requests(1))["pixel_values"].shape[1] == 2


def test_florence_sees_the_region_and_its_task(folders):
    captioner = VLM(str(folders["florence"]), device="cpu")
    captioner.load()
    inputs = captioner._loaded.inputs(requests(2))
    assert inputs["pixel_values"].shape[0] == 2
    assert "Describe in detail what is shown in the image." in captioner._loaded.tokenizer.decode(
        inputs["input_ids"][0]
    )


def test_the_batch_is_halved_until_the_memory_holds_it(folders):
    captioner = VLM(str(folders["llava"]), device="cpu", batch=8)
    captioner.load()
    loaded, sizes = captioner._loaded, []
    generate = loaded.generate

    def small(some, *rest):
        sizes.append(len(some))
        if len(some) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return generate(some, *rest)

    loaded.generate = small
    assert len(texts(captioner, requests(5))) == 5
    assert sizes == [5, 2, 2, 1] and captioner.batch == 2


def test_a_region_too_large_for_the_memory_is_reported_and_the_rest_goes_on(folders):
    captioner = VLM(str(folders["llava"]), device="cpu", batch=2)
    captioner.load()

    def none(some, *rest):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    captioner._loaded.generate = none
    answers = [answer for answer in captioner.ask(requests(3)) if answer]
    assert [answer.text for answer in answers] == [None] * 3 and "not enough memory" in answers[0].error


def test_closing_stops_within_a_token(folders):
    captioner = VLM(str(folders["llava"]), device="cpu")
    captioner.load()
    captioner._loaded.config.max_new_tokens = 100_000
    captioner._loaded.config.eos_token_id = None
    events = captioner.ask(requests(1))
    assert next(events) is None  # a sign of life while it works
    began = time.monotonic()
    events.close()
    assert time.monotonic() - began < 5 and not [t for t in threading.enumerate() if t.name == "captioner"]


def test_a_model_that_takes_too_long_is_reported(folders):
    captioner = VLM(str(folders["llava"]), device="cpu", seconds=0.3, batch=1)
    captioner.load()
    captioner._loaded.config.max_new_tokens = 100_000
    captioner._loaded.config.eos_token_id = None
    (answer,) = [answer for answer in captioner.ask(requests(1)) if answer]
    assert answer.text is None and "0.3 s" in answer.error


def test_new_weights_under_an_old_name_are_another_captioner(folders, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(folders["llava"], folder)
    before = VLM(str(folder)).identity
    weights = load_file(folder / "model.safetensors")
    save_file({**weights, "more": torch.zeros(3)}, folder / "model.safetensors", metadata={"format": "pt"})
    assert VLM(str(folder)).identity != before and VLM(str(folder)).name == "model"


def test_models_that_cannot_caption_are_refused_in_one_line(folders, tmp_path):
    with pytest.raises(CupscaleError, match=r"config\.json"):
        open_captioner(str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    broken = tmp_path / "broken"
    shutil.copytree(folders["llava"], broken)
    (broken / "model.safetensors").write_bytes(b"\0" * 50)
    silent = tmp_path / "silent"
    shutil.copytree(folders["llava"], silent)
    (silent / "chat_template.json").unlink()
    for folder, words in ((tmp_path, "bert model"), (broken, "cannot load"), (silent, "chat template")):
        with (
            pytest.raises(CaptionerError, match=words) as error,
            contextlib.closing(VLM(str(folder), device="cpu").ask(requests(1))) as events,
        ):
            list(events)
        assert "\n" not in str(error.value)


# Appearance


def test_colours_are_named():
    for name in (
        "red",
        "orange",
        "yellow",
        "green",
        "blue",
        "violet",
        "pink",
        "brown",
        "white",
        "grey",
        "black",
    ):
        shown = {
            "violet": (120, 50, 200),
            "pink": (255, 105, 180),
            "brown": (120, 72, 40),
            "green": (30, 140, 40),
        }.get(name, name)
        assert colours(Image.new("RGB", (50, 30), shown)) == [name]
    half = Image.new("RGB", (40, 40), "blue")
    half.paste((30, 140, 40), (0, 0, 40, 15))
    assert colours(half) == ["blue", "green"]


def test_words_of_appearance_for_any_image():
    for size in ((16, 16), (1, 300), (300, 1)):
        for colour in ("black", "white", (255, 0, 255)):
            assert isinstance(words_of(np.asarray(Image.new("RGB", size, colour))), list)


def test_the_captioner_of_appearance_names_what_it_measures():
    captioner = open_captioner("appearance")
    (text,) = texts(captioner, [Request(lambda: (Image.new("RGB", (400, 300), (40, 120, 30)),), "ignored")])
    assert text == "smooth, green"
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::4] = 255
    (text,) = texts(captioner, [Request(lambda: (Image.fromarray(stripes),), "ignored")])
    assert "rough texture" in text and "vertical lines" in text
