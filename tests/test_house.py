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
    assert about["suggested_hardware"] == SpaceHardware.ZERO_A10G.value
    wanted = {models.KNOWN["sdxl"].source, models.KNOWN["sdxl"].half_vae, vlm.DEFAULT}
    assert {entry.split()[0] for entry in about["preload_from_hub"]} == wanted
    requirements = (ROOT / "requirements.txt").read_text()
    assert "torch>=" in requirements and "torch==" not in requirements


# The form of the code

NAMES_A_RESULT = {"The", "A", "An", "One", "What", "Whether", "Which", "How", "Where", "All", "(width,"}


def functions(tree, public=True):
    """The public functions and methods of a module, by name; or all there are."""
    if not public:
        yield from (
            (n.name, n) for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)
        )
        return
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
            inside = node.body if isinstance(node, ast.ClassDef) else [node]
            yield from ((n.name, n) for n in inside if isinstance(n, ast.FunctionDef) and n.name[0] != "_")


def decorated(function, name):
    return any(name in ast.unparse(decorator) for decorator in function.decorator_list)


INSIDE = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda


def raises(node):
    """Whether a function lets out a CupscaleError of its own: not one that it catches, nor that of a function inside of it."""
    if isinstance(node, ast.Try) and any(
        "CupscaleError" in ast.unparse(h.type) for h in node.handlers if h.type
    ):
        return any(map(raises, (*node.handlers, *node.orelse, *node.finalbody)))
    if isinstance(node, ast.Raise):
        return "CupscaleError" in ast.unparse(node)
    return any(map(raises, (n for n in ast.iter_child_nodes(node) if not isinstance(n, INSIDE))))


@pytest.mark.parametrize(
    ("text", "lets_out"),
    [
        ("raise CupscaleError('x')", True),
        ("for x in y:\n  if x: raise CupscaleError('x') from None", True),
        ("try: raise CupscaleError('x')\nexcept CupscaleError: pass", False),
        ("try: raise CupscaleError('x')\nexcept OSError: pass", True),
        ("try: pass\nexcept CupscaleError: raise CupscaleError('y')", True),
        ("def inside(): raise CupscaleError('x')", False),
        ("raise ValueError", False),
    ],
)
def test_what_a_function_lets_out(text, lets_out):
    assert raises(ast.parse(text)) == lets_out


def faults(function):
    """What a docstring leaves out. Those of commands and of the page's tools are a help for whoever calls them by name."""
    text = ast.get_docstring(function) or ""
    if not text or decorated(function, "command") or decorated(function, "described"):
        return
    given = ast.unparse(function.returns) if function.returns else "None"
    named = text.split()[0] in NAMES_A_RESULT or text[0] in "(`"
    sections = {line for line in text.split("\n") if line.endswith(":")}
    wanted = "Args:" in sections and given not in ("None", "Iterator[None]") and not named
    if wanted and not sections & {"Returns:", "Yields:"}:
        yield "what it returns"
    if raises(function) and "Raises" not in text:
        yield "that it raises CupscaleError"


PACKAGE = sorted((ROOT / "cupscale").rglob("*.py"))


def test_no_function_is_longer_than_a_screen():
    """60 lines from `def` on, signature and docstring among them."""
    long = [
        f"{file.relative_to(ROOT)}: {name}"
        for file in PACKAGE
        for name, node in functions(ast.parse(file.read_text()), public=False)
        if node.end_lineno - node.lineno + 1 > 60
    ]
    assert not long


def test_docstrings_say_what_is_returned_and_raised():
    """One that lists arguments has `Returns`, or names the result in its summary: "The plan of a run"."""
    wrong = [
        f"{file.relative_to(ROOT)}: {name} does not say {fault}"
        for file in PACKAGE
        for name, node in functions(ast.parse(file.read_text()))
        for fault in faults(node)
    ]
    assert not wrong, "\n".join(wrong)
