"""Checkpoints as people have them: folders and hub ids, half-precision variants, single files, LoRAs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

import torch
from safetensors import SafetensorError, safe_open

from cupscale.bounded import read_object
from cupscale.errors import CupscaleError

PICKLES = (".ckpt", ".pt", ".pth", ".bin")
# diffusers' names of what a single file holds, and the pipeline that runs it.
SINGLE_FILES = {
    "v1": "StableDiffusionPipeline",
    "v2": "StableDiffusionPipeline",
    "xl_base": "StableDiffusionXLPipeline",
    "playground-v2-5": "StableDiffusionXLPipeline",
    "sd3": "StableDiffusion3Pipeline",
    "sd35_medium": "StableDiffusion3Pipeline",
    "sd35_large": "StableDiffusion3Pipeline",
}
_ADDRESS = re.compile(
    r"https://(?:huggingface\.co|hf\.co)/([^/?#]+)/([^/?#]+)/(?:blob|resolve)/([^/?#]+)/([^?#]+)(?:\?[^#]*)?"
)
REFINER = "is the SDXL refiner, which takes over the last steps of SDXL base and reads no small picture: use SDXL base"
# Widths of the text that a family's cross-attention reads, by which a LoRA tells what it was made for.
TEXT_WIDTHS = {768: "Stable Diffusion 1.5", 1024: "Stable Diffusion 2", 2048: "SDXL"}


class Lora(NamedTuple):
    """A LoRA to load. source: a file, a folder, a hub id, or a file of the hub. weight: 1 as it was trained."""

    source: str
    weight: float = 1.0

    @property
    def text(self) -> str:
        """As the command line takes it."""
        return self.source if self.weight == 1 else f"{self.source}:{self.weight:g}"


def lora_of(text: str) -> Lora:
    """'PATH_OR_ID[:weight]'.

    Raises:
        CupscaleError: The weight is not between -4 and 4, or there is no source.
    """
    source, colon, number = text.rpartition(":")
    try:
        weight = float(number) if colon else 1.0
    except ValueError:  # a colon of a drive, as in C:/loras/ink.safetensors
        source, weight = text, 1.0
    else:
        source = source if colon else text
    if not source.strip():
        raise CupscaleError(f"LoRA '{text}' names no file: give PATH_OR_ID, or PATH_OR_ID:weight")
    if not -4 <= weight <= 4:
        raise CupscaleError(
            f"LoRA '{source}' has weight {weight:g}: give one from -4 to 4; 1 is as it was trained"
        )
    return Lora(source, weight)


def is_single_file(source: str) -> bool:
    return Path(source.partition("?")[0]).suffix.lower() in (".safetensors", *PICKLES)


class HubFile(NamedTuple):
    """A file in a repository of the hub. revision: None for the newest."""

    repository: str
    file: str
    revision: str | None = None


def hub_file(source: str) -> HubFile | None:
    """What names a file of the hub: owner/name/file, or the address of its page or of its download. None for another text."""
    if found := _ADDRESS.fullmatch(source):
        owner, name, revision, file = found.groups()
        return HubFile(f"{owner}/{name}", unquote(file), unquote(revision))
    if "://" in source or source.startswith((".", "~", "/")) or "\\" in source or ":" in source:
        return None
    owner, name, file = [*source.split("/", 2), "", ""][:3]
    return HubFile(f"{owner}/{name}", file) if owner and name and file else None


def local_file(source: str, fetch: bool = True) -> str:
    """A single file on this machine: itself, or one of the hub, fetched; the source itself where it is neither.

    Args:
        source: A path, or what `hub_file` knows.
        fetch: Whether it may be downloaded; else only what came before is found.
    """
    from huggingface_hub import hf_hub_download

    if Path(source).is_file() or (there := hub_file(source)) is None:
        return source
    return hf_hub_download(there.repository, there.file, revision=there.revision, local_files_only=not fetch)


def check_source(source: str, model: str, names: Sequence[str]) -> None:
    """See that a name can be a checkpoint.

    Args:
        source: A folder, a file, or a hub id.
        model: The name that was given.
        names: Of the known models.

    Raises:
        CupscaleError: It is none of them, or a pickle.
    """
    if source and Path(source).is_dir():
        if not (Path(source) / "model_index.json").is_file():
            raise CupscaleError(
                f"model folder '{model}' holds no model_index.json: give a folder save_pretrained wrote"
            )
        return
    if is_single_file(source):
        check_no_pickle(source)
        if not Path(source).is_file() and hub_file(source) is None:
            raise CupscaleError(f"model file '{model}' is not there: check the path")
        return
    owner, slash, name = source.partition("/")
    if not (slash and owner and name) or "/" in name or source.startswith((".", "~", "/")):
        raise CupscaleError(
            f"unknown model '{model}': choose one of {', '.join(names)}, a hub id such as owner/name, a folder or a "
            ".safetensors file"
        )


def check_no_pickle(source: str) -> None:
    """Raises CupscaleError for a file of a kind that runs code as it is read."""
    if Path(source.partition("?")[0]).suffix.lower() in PICKLES:
        raise CupscaleError(
            f"'{source}' is a pickle, which can run any code as it is read: take the .safetensors file of the same model, or "
            "convert it: d = torch.load(path, weights_only=True); "
            "safetensors.torch.save_file(d.get('state_dict', d), 'model.safetensors')"
        )


def model_index(source: str) -> Mapping[str, Any]:
    """The model_index.json of a folder or of a hub id; empty where there is none or it cannot be had."""
    if Path(source).is_dir():
        try:
            return read_object(Path(source) / "model_index.json", "model")
        except CupscaleError:
            return {}
    if source.count("/") != 1 or is_single_file(source):
        return {}
    from diffusers import DiffusionPipeline

    try:
        config = DiffusionPipeline.load_config(source)
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}


def pipeline_class(source: str) -> str:
    """The name of the diffusers pipeline that runs a checkpoint; empty where it cannot be told without loading it."""
    if is_single_file(source):
        try:
            return SINGLE_FILES.get(_kind_of(local_file(source, fetch=False)), "")
        except faults():
            return ""
    name = model_index(source).get("_class_name", "")
    return name if isinstance(name, str) else ""


def left_out(source: str) -> dict[str, None]:
    """Parts that a folder was saved without: diffusers wants to be told so."""
    if not Path(source).is_dir():
        return {}
    return {name: None for name, kind in model_index(source).items() if kind == [None, None]}


def read_pipeline(source: str, dtype: torch.dtype, parts: Mapping[str, Any]) -> Any:
    """A pipeline in main memory. Half-precision files are taken first where half precision is wanted, and last where not.

    Args:
        source: A folder, a hub id, or a single file.
        dtype: Of its weights.
        parts: That are there already, or are left out.

    Raises:
        CupscaleError: The file holds something else.
        OSError, ValueError: As diffusers has it.
    """
    from diffusers import DiffusionPipeline

    if is_single_file(source):
        return _read_single_file(source, dtype, parts)
    if Path(source).is_dir():
        _check_index(source)
    plain: Exception | None = None
    order = (None, "fp16") if dtype == torch.float32 else ("fp16", None)
    for variant in order:
        try:
            return DiffusionPipeline.from_pretrained(
                source, dtype=dtype, variant=variant, use_safetensors=True, **parts
            )
        except (OSError, ValueError) as error:
            plain = error if variant is None else plain
            if not _is_missing(error, variant):
                raise
            if (
                variant == order[-1]
            ):  # what the usual files lack says more than that there are no half-precision ones
                raise (plain or error) from None
        except (AttributeError, IndexError, TypeError) as error:
            raise ValueError(f"its parts are not described as save_pretrained does it ({error})") from error
    raise AssertionError("the last of the variants is returned or raised")


def _check_index(folder: str) -> None:
    """Raises ValueError where a folder's index is no JSON object: diffusers takes any for one."""
    try:
        read_object(Path(folder) / "model_index.json", "its index")
    except CupscaleError as error:
        raise ValueError(str(error)) from None


def _is_missing(error: Exception, variant: str | None) -> bool:
    """Whether a checkpoint has no files of a variant, as diffusers says it. Nothing was downloaded then."""
    said = str(error)
    return f"variant={variant}" in said or (variant is None and "no file named" in said)


def _read_single_file(source: str, dtype: torch.dtype, parts: Mapping[str, Any]) -> Any:
    import diffusers

    kind = _kind_of(source)
    if kind == "xl_refiner":
        raise CupscaleError(f"'{source}' {REFINER}")
    if kind not in SINGLE_FILES:
        raise CupscaleError(
            f"'{source}' holds {kind}, which is not a whole model that runs here: use a file of Stable Diffusion 1.5, 2, SDXL or "
            "SD3, or a folder"
        )
    return getattr(diffusers, SINGLE_FILES[kind]).from_single_file(source, dtype=dtype, **parts)


def _kind_of(source: str) -> str:
    """What a single file holds, by the names and shapes in its header: diffusers' name of it, or words."""
    from diffusers.loaders.single_file_utils import infer_diffusers_model_type

    with safe_open(source, framework="pt") as file:
        shapes = {name: torch.empty(file.get_slice(name).get_shape(), device="meta") for name in file.keys()}  # noqa: SIM118
    if any("lora" in name for name in shapes):
        return "a LoRA (give it with --lora)"
    if not any(name.startswith("model.diffusion_model.") for name in shapes):
        return "no network under the names of a whole model"
    return str(infer_diffusers_model_type(shapes))


def load_loras(pipe: Any, loras: Sequence[Lora], names: Sequence[str] = ()) -> None:
    """Add LoRAs to a pipeline, each with its weight.

    Args:
        pipe: In main memory.
        loras: In any number.
        names: Of adapters that it has already, which stay at 1.

    Raises:
        CupscaleError: One cannot be read, or was made for another family.
    """
    added = []
    for number, lora in enumerate(loras, 1):
        name = f"lora{number}"
        _load_lora(pipe, lora, name)
        added.append(name)
    if added:
        weights = [*(1.0 for _ in names), *(lora.weight for lora in loras)]
        pipe.set_adapters([*names, *added], weights)


def _load_lora(pipe: Any, lora: Lora, name: str) -> None:
    check_no_pickle(lora.source)
    folder, file, revision = lora.source, None, None
    path = Path(lora.source)
    if path.is_file():
        folder, file = str(path.parent), path.name
    elif is_single_file(lora.source):
        if (there := hub_file(lora.source)) is None:
            raise CupscaleError(f"LoRA '{lora.source}' is not there: check the path")
        folder, file, revision = there
    before = _adapters(pipe)
    try:
        pipe.load_lora_weights(
            folder, weight_name=file, revision=revision, adapter_name=name, use_safetensors=True
        )
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        raise _other_family(pipe, lora) from error
    except faults() as error:
        said = reason(error, "check the name and the file")
        raise CupscaleError(f"cannot load LoRA '{lora.source}': {said}") from error
    if _adapters(pipe) == before:
        raise _other_family(pipe, lora)


def _adapters(pipe: Any) -> int:
    return sum(map(len, pipe.get_list_adapters().values()))


def _other_family(pipe: Any, lora: Lora) -> CupscaleError:
    family = type(pipe).__name__
    made_for = lora_family(lora.source)
    words = f"it was made for {made_for}" if made_for else "it was made for another family of models"
    return CupscaleError(
        f"LoRA '{lora.source}' does not fit a {family}: {words}; take one that was made for this model"
    )


def lora_family(source: str) -> str:
    """What a LoRA's file says it was made for, or what the text it reads says; empty where neither does."""
    if not Path(source).is_file():
        return ""
    try:
        with safe_open(source, framework="pt") as file:
            said = file.metadata() or {}
            widths = [file.get_slice(name).get_shape()[-1] for name in file.keys() if _reads_text(name)]  # noqa: SIM118
    except (SafetensorError, OSError):
        return ""
    for key in ("modelspec.architecture", "ss_base_model_version"):
        if said.get(key):
            return str(said[key])[:60]
    return next((TEXT_WIDTHS[width] for width in widths if width in TEXT_WIDTHS), "")


def _reads_text(name: str) -> bool:
    return (
        "attn2" in name
        and "to_k" in name
        and ("lora_A" in name or "lora_down" in name or "lora.down" in name)
    )


def connection_errors() -> tuple[type[Exception], ...]:
    """What a connection to the hub fails with, of whichever library its client stands on (httpx, later httpx2)."""
    from huggingface_hub.errors import HfHubHTTPError

    return tuple(kind for kind in HfHubHTTPError.__mro__ if kind.__name__ == "HTTPError")


def faults() -> tuple[type[Exception], ...]:
    """What a loader fails with."""
    return (OSError, ValueError, ImportError, RuntimeError, KeyError, SafetensorError, *connection_errors())


def reason(error: Exception, whole: str) -> str:
    """What a loader said, in one line, with the remedy.

    Args:
        error: Of diffusers, transformers or safetensors.
        whole: The remedy where nothing better is known.
    """
    said = _first_line(error)
    if isinstance(error, SafetensorError) or "Unable to load weights" in said:
        return f"its weights are damaged ({said}); delete them and load it again, or use model tiny"
    if "gated" in str(error).lower() or "401" in said or "403" in said:
        return (
            f"{said}; if its licence must be accepted: do so on its page on the hub, then run `hf auth login` with a token "
            "that may read it"
        )
    if isinstance(error, connection_errors()) and not isinstance(
        error, OSError
    ):  # the hub's own errors are OSErrors
        return (
            f"the download broke off ({said}); what has come is kept, and the same command goes on from there"
        )
    if "No GPU found" in said:
        return f"{said} bitsandbytes quantized its weights: run it on one, or take the model as it was before"
    if "no file named" in said or "Could not find the necessary" in said:
        return f"{said}; only .safetensors weights are read here, since pickles can run any code"
    return f"{said}; {whole}"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
