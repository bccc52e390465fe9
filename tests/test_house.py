"""The house keeps its rules: who may import what, and what the repository may hold."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from huggingface_hub import SpaceHardware

from cupscale import models
from cupscale.captioners import vlm

ROOT = Path(__file__).resolve().parent.parent
METHOD = sorted(file.name for file in (ROOT / "cupscale" / "method").glob("*.py"))


def imported(file: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    return names


@pytest.mark.parametrize("name", METHOD)
def test_the_method_imports_torch_only(name):
    for module in imported(ROOT / "cupscale" / "method" / name):
        top = module.split(".")[0]
        assert top in {"torch", *sys.stdlib_module_names} or module.startswith("cupscale.method."), module


def test_only_the_page_knows_gradio():
    for file in (ROOT / "cupscale").rglob("*.py"):
        if "page" not in file.relative_to(ROOT).parts:
            assert not any(m.split(".")[0] in ("gradio", "spaces") for m in imported(file)), file


def tracked():
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    return [ROOT / name for name in listed.split("\0") if name]


def test_no_file_is_larger_than_a_space_takes():
    for file in tracked():
        assert not file.exists() or file.stat().st_size < 10_000_000, file


def test_the_bundled_model_is_small_safe_and_half_precision():
    from safetensors import safe_open

    files = [file for file in (ROOT / "cupscale" / "assets" / "tiny").rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 40_000_000
    assert not [file for file in files if file.suffix in (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".py")]
    for file in files:
        if file.suffix == ".safetensors":
            with safe_open(file, "pt") as weights:
                assert {weights.get_slice(key).get_dtype() for key in weights.keys()} == {"F16"}, file  # noqa: SIM118


def test_a_space_finds_what_it_needs():
    front = (ROOT / "README.md").read_text().split("---")[1]
    for key in (
        "title",
        "sdk: gradio",
        "sdk_version",
        "python_version",
        "app_file: app.py",
        "license",
        "thumbnail",
    ):
        assert key in front
    about = yaml.safe_load(front)
    assert about["suggested_hardware"] in {hardware.value for hardware in SpaceHardware}
    wanted = {models.KNOWN["sdxl"].source, models.KNOWN["sdxl"].half_vae, vlm.DEFAULT}
    assert {entry.split()[0] for entry in about["preload_from_hub"]} == wanted
    requirements = (ROOT / "requirements.txt").read_text()
    assert "torch>=" in requirements and "torch==" not in requirements
