"""Image-text-to-text models of transformers: Qwen3-VL, SmolVLM2, LLaVA, Florence-2 and their like."""

from __future__ import annotations

import copy
import gc
import threading
import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from cupscale.captioners import background
from cupscale.captioners.base import Answer, CaptionerError, Request
from cupscale.machine import best_device
from cupscale.method.memory import empty_cache, is_out_of_memory, module_bytes

DEFAULT = "Qwen/Qwen3-VL-2B-Instruct"
NEW_TOKENS = 96  # 40 words and some room
SECONDS = 600.0  # for one region; a batch has the sum
FLORENCE_TASK = "<DETAILED_CAPTION>"
# Trained to caption with no instruction at all.
PLAIN = ("blip", "blip-2", "git", "vision-encoder-decoder")


class VLM:
    """A local model. Loaded at the first use, on the CPU; moved to `device` before it answers.

    model: hub id or folder. device: "cuda", "mps", "cpu"; the best there is by default. dtype: the checkpoint's own on
    an accelerator, float32 on a CPU. batch: requests at once to begin with; halved where the memory does not hold them.
    Models with a chat template get all images of a request and its instruction in one message. Florence-2 and plain
    captioning models take one image and no instruction: they see the region alone.
    """

    def __init__(
        self,
        model: str = DEFAULT,
        *,
        device: str | None = None,
        dtype: str | torch.dtype | None = None,
        batch: int | None = None,
        seconds: float = SECONDS,
    ):
        self.model = model
        self.name = Path(model).name if Path(model).is_dir() else model
        self.device = device or best_device()
        self.batch = batch or (2 if self.device == "cpu" else 64)
        self.seconds = seconds
        self._dtype = dtype
        self._loaded: _Loaded | None = None

    @property
    def identity(self) -> str:
        """A folder's weights may change under its name."""
        folder = Path(self.model)
        if not folder.is_dir():
            return self.model
        files = sorted(folder.glob("*.safetensors"))
        return f"{folder.resolve()} {[(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]}"

    @property
    def bytes(self) -> int:
        return 0 if self._loaded is None else module_bytes(self._loaded.model)

    def load(self) -> None:
        """Into main memory. Raises CaptionerError where the model cannot be found or used."""
        if self._loaded is None:
            dtype = self._dtype or ("float32" if self.device == "cpu" else "auto")
            self._loaded = _load(self.model, dtype)

    def place(self) -> None:
        """Loaded, and on its device. Raises CaptionerError as `load`."""
        self.load()
        assert self._loaded is not None
        self._loaded.model.to(self.device)

    def release(self) -> None:
        if self._loaded is None:
            return
        self._loaded = None
        _forget()

    def ask(self, requests: Sequence[Request]) -> Generator[Answer | None, None, None]:
        def work(emit: Callable[[Answer], None], stop: threading.Event) -> None:
            self.place()
            loaded = self._loaded
            assert loaded is not None
            at = 0
            while at < len(requests) and not stop.is_set():
                some = requests[at : at + self.batch]
                try:
                    texts = loaded.generate(some, self.device, self.seconds * len(some), stop)
                except RuntimeError as error:
                    if not is_out_of_memory(error):
                        raise
                    texts = None
                if texts is None:  # here, where the failed batch's frames and their tensors are gone
                    _forget()
                    if len(some) > 1:
                        self.batch = max(1, len(some) // 2)
                        continue
                    emit(Answer(at, None, f"not enough memory on {self.device} for one region at a time"))
                    at += 1
                    continue
                for k, text in enumerate(texts):
                    late = text is None
                    error_text = f"no answer within {self.seconds:g} s" if late else None
                    emit(Answer(at + k, text, error_text))
                at += len(some)

        yield from background.run(work)


def _forget() -> None:
    gc.collect()
    empty_cache()


class _Loaded:
    """A model with its processor, and the way it wants to be asked."""

    def __init__(self, model: Any, processor: Any):
        self.model = model
        self.processor = processor
        kind = model.config.model_type
        tokenizer = getattr(processor, "tokenizer", processor)
        self.tokenizer = tokenizer
        if getattr(processor, "chat_template", None) or getattr(tokenizer, "chat_template", None):
            self.inputs = self._chat
        elif kind == "florence2":
            self.inputs = self._florence
        elif kind in PLAIN:
            self.inputs = self._plain
        else:
            raise CaptionerError(
                f"captioner of type {kind} has no chat template: use its instruct version, "
                "or one of qwen, smolvlm, llava, florence"
            )
        tokenizer.padding_side = "right" if model.config.is_encoder_decoder else "left"
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        # One view of an image is enough for a caption; tiles would cost SmolVLM and Idefics 17 times as many tokens.
        if hasattr(processor.image_processor, "do_image_splitting"):
            processor.image_processor.do_image_splitting = False
        config = copy.deepcopy(model.generation_config)
        config.update(
            do_sample=False,
            temperature=None,
            top_p=None,
            top_k=None,
            num_beams=1,
            early_stopping=False,
            max_length=None,
            max_new_tokens=NEW_TOKENS,
            pad_token_id=tokenizer.pad_token_id,
        )
        self.config = config

    def _chat(self, requests: Sequence[Request]) -> Any:
        conversations = []
        for request in requests:
            content: list[dict[str, Any]] = [{"type": "image", "image": image} for image in request.images]
            content.append({"type": "text", "text": request.instruction})
            conversations.append([{"role": "user", "content": content}])
        return self.processor.apply_chat_template(
            conversations,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True},
        )

    def _florence(self, requests: Sequence[Request]) -> Any:
        regions = [request.images[-1] for request in requests]
        return self.processor(
            text=[FLORENCE_TASK] * len(regions), images=regions, return_tensors="pt", padding=True
        )

    def _plain(self, requests: Sequence[Request]) -> Any:
        return self.processor(images=[request.images[-1] for request in requests], return_tensors="pt")

    def generate(
        self, requests: Sequence[Request], device: str, seconds: float, stop: threading.Event
    ) -> list[str | None]:
        """The raw texts; None where the time was over first, and [] where `stop` was set."""
        inputs = self.inputs(requests).to(device)
        for name, value in inputs.items():
            if torch.is_tensor(value) and value.is_floating_point():
                inputs[name] = value.to(self.model.dtype)
        until = time.monotonic() + seconds

        def over(ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
            done = stop.is_set() or time.monotonic() > until
            return torch.full((ids.shape[0],), done, device=ids.device, dtype=torch.bool)

        with torch.inference_mode():
            ids = self.model.generate(**inputs, generation_config=self.config, stopping_criteria=[over])
        if stop.is_set():
            return []
        if time.monotonic() > until:
            return [None] * len(requests)
        if not self.model.config.is_encoder_decoder and "input_ids" in inputs:
            ids = ids[:, inputs["input_ids"].shape[1] :]
        return list(self.tokenizer.batch_decode(ids, skip_special_tokens=True))


def _load(name: str, dtype: str | torch.dtype) -> _Loaded:
    from transformers import AutoConfig, AutoModelForImageTextToText

    try:
        config = AutoConfig.from_pretrained(name)
        if type(config) not in AutoModelForImageTextToText._model_mapping:
            raise CaptionerError(
                f"captioner '{name}' is a {config.model_type} model, which does not turn images into text; "
                "use one of qwen, smolvlm, llava, florence"
            )
        processor = _processor(name, config)
        model = AutoModelForImageTextToText.from_pretrained(name, dtype=dtype, use_safetensors=True)
    except CaptionerError:
        raise
    except Exception as error:  # a broken checkpoint fails in many ways
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        raise CaptionerError(
            f"cannot load captioner '{name}': check the name and the network, or use captioner appearance, which needs "
            f"none ({reason})"
        ) from error
    return _Loaded(model.eval(), processor)


def _processor(name: str, config: Any) -> Any:
    """The processor, without its part for videos where torchvision is missing: transformers would refuse to load it."""
    from transformers import AutoProcessor
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
    from transformers.utils import is_torchvision_available

    known: Any = PROCESSOR_MAPPING.get(type(config), None)
    if is_torchvision_available() or known is None or "video_processor" not in known.get_attributes():
        return AutoProcessor.from_pretrained(name)
    return _images_only(known).from_pretrained(name)


def _images_only(known: Any) -> Any:
    """A processor class that has a stand-in for its video processor."""

    class ImagesOnly(known):
        @classmethod
        def get_attributes(cls) -> list[str]:
            return [name for name in known.get_attributes() if name != "video_processor"]

        @classmethod
        def from_args_and_dict(cls, args: list[Any], processor_dict: dict[str, Any], **kwargs: Any) -> Any:
            stand_in = SimpleNamespace(num_frames=None, fps=None)
            args.insert(known.get_attributes().index("video_processor"), stand_in)
            made = super().from_args_and_dict(args, processor_dict, **kwargs)
            (made[0] if isinstance(made, tuple) else made).video_processor = stand_in
            return made

    ImagesOnly.__name__ = known.__name__
    return ImagesOnly
