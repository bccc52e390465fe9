"""Plants one-line errors in the method and the adapters, and says which of them the tests let through.

    python tools/mutate.py                      all of cupscale/method, backbones, peers and metrics
    python tools/mutate.py method/regions.py    only the files whose paths end so
    python tools/mutate.py --sample 30 --seed 1     thirty of each file, drawn at random

A mutant is one changed operator, comparison, constant, index or bound of a slice, a dropped `-` or `not`, or two swapped
neighbours of a call's arguments or of a list. It is killed when a test fails, or when the tests take five times as long as
they should. What was killed is remembered in --results, so a run may be stopped and taken up again, and after new tests only
the survivors are tried. Mutants that change nothing one could test stand in tools/mutate-equivalent.txt, each with a reason.
"""

from __future__ import annotations

import argparse
import ast
import gc
import hashlib
import importlib.abc
import importlib.machinery
import importlib.util
import json
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
EQUIVALENT = ROOT / "tools" / "mutate-equivalent.txt"
FOLDERS = ("method", "backbones", "peers", "metrics")
FAMILIES = "tests/method/test_families.py"
ADAPTERS = (FAMILIES, "tests/method/test_adapters.py", "tests/method/test_same_prompt.py")
PEERS = ("tests/peers/test_peers.py",)
SCALEDIFF = ("tests/peers/test_scalediff.py",)
METRICS = ("tests/metrics/test_metrics.py",)
# Those of a folder that are not the ones of the whole folder, since they state what that one module does.
OWN_TESTS = {
    "backbones/__init__": (FAMILIES,),
    "backbones/control": ("tests/test_control.py",),
    "backbones/denoiser": ("tests/method/test_denoiser.py",),
    "backbones/flux2": (FAMILIES, "tests/method/test_newer_adapters.py"),
    "backbones/maps": PEERS,
    "backbones/nearby": SCALEDIFF,
    "backbones/own": (FAMILIES, "tests/test_own_settings.py"),
    "backbones/qwen": (FAMILIES, "tests/method/test_newer_adapters.py"),
    "backbones/statistics": ("tests/test_tiling.py",),
    "backbones/texts": (FAMILIES,),
    "backbones/tiling": ("tests/test_tiling.py", FAMILIES, "tests/method/test_newer_adapters.py"),
    "backbones/tokens": (FAMILIES, "tests/test_tokens.py"),
    "backbones/unet": (*ADAPTERS, "tests/test_control.py"),
    "backbones/zimage": (*ADAPTERS, "tests/test_control.py"),
    "metrics/learned": ("tests/metrics/test_learned.py",),
    "peers/scalediff": (*SCALEDIFF, *PEERS),
}
# Of those tests, the ones that reach a module, as pytest's -k takes it.
ONLY = {
    "backbones/flux2": "klein or flux2 or geometry or refused",
    "backbones/maps": "maps or frecas or accdiffusion",
    "backbones/pixart": "pixart or float32",
    "backbones/qwen": "qwen or geometry or position or refused",
    "backbones/sd3": "sd3 or positions",
    "backbones/tiling": "tiling or codec or qwen_image",
    "backbones/unet": "piece or sd15 or sdxl or refiner or zeros or float32 or unet",
    "backbones/zimage": "z-image or z_image or zimage or positions",
    "peers/scalediff": "scalediff or authors",
}
# Beside tests/method/test_NAME.py of method/NAME.py: who else states what that module does.
MORE_TESTS = {
    "attention": ("tests/method/test_composer.py",),
    "composer": ("tests/method/test_joint.py", "tests/method/test_word_screen.py"),
    "regions": ("tests/method/test_sampler.py",),
    "sampler": ("tests/method/test_seam.py",),
    "semantics": ("tests/method/test_composer.py",),
    "structure": ("tests/method/test_sampler.py",),
}
OPERATORS: dict[type, tuple[type, ...]] = {
    ast.Add: (ast.Sub,),
    ast.Sub: (ast.Add,),
    ast.Mult: (ast.Div,),
    ast.Div: (ast.Mult,),
    ast.FloorDiv: (ast.Mult,),
    ast.Mod: (ast.FloorDiv,),
    ast.Pow: (ast.Mult,),
    ast.MatMult: (ast.Mult,),
    ast.And: (ast.Or,),
    ast.Or: (ast.And,),
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
COMMUTATIVE = ("transpose", "max", "min", "hypot")
# Words for people and for the type checker are no formula.
SKIPPED = (ast.JoinedStr, ast.Raise, ast.Assert, ast.Import, ast.ImportFrom)


@dataclass(frozen=True, order=True)
class Mutant:
    """One change. before, after: the changed line, as `ast.unparse` writes it."""

    file: str
    function: str
    before: str
    after: str

    def __str__(self) -> str:
        return f"{self.file}: {self.function}\n- {self.before}\n+ {self.after}"


def mutations(tree: ast.Module, file: str) -> Iterator[Mutant]:
    """The mutants of a parsed file. While one is handed out, `tree` is its code."""
    seen = set()
    for node, statement, function in _nodes(tree, tree, "module"):
        for change in _changes(node):
            before = _line(statement)
            undo = change()
            mutant = Mutant(file, function, before, _line(statement))
            if mutant.before != mutant.after and mutant not in seen:
                seen.add(mutant)
                yield mutant
            undo()


def _nodes(node: ast.AST, statement: ast.AST, function: str) -> Iterator[tuple[ast.AST, ast.AST, str]]:
    """Every node that may be changed, with the statement and the function it stands in."""
    if isinstance(node, ast.ClassDef) and any(getattr(base, "id", "") == "Protocol" for base in node.bases):
        return
    if isinstance(node, ast.stmt):
        statement = node
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        function = node.name if function == "module" else f"{function}.{node.name}"
    yield node, statement, function
    for name, field in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list"):
            continue
        for child in field if isinstance(field, list) else [field]:
            if isinstance(child, ast.AST) and not isinstance(child, SKIPPED) and not _is_literal(child):
                yield from _nodes(child, statement, function)


def _is_literal(node: ast.AST) -> bool:
    """Literal[...], a type."""
    return isinstance(node, ast.Subscript) and getattr(node.value, "id", "") == "Literal"


def _line(statement: ast.AST) -> str:
    """A statement on one line; of a compound one, its head."""
    text = ast.unparse(statement)
    if hasattr(statement, "body"):
        if isinstance(statement, ast.FunctionDef | ast.ClassDef):
            text = "\n".join(line for line in text.split("\n") if not line.startswith("@"))
        text = text.split("\n")[0]
    return " ".join(text.split())


Change = Callable[[], Callable[[], None]]


def _changes(node: ast.AST) -> Iterator[Change]:
    """What can be changed at a node. Each is made by a call, which returns how to take it back."""
    if isinstance(node, ast.BinOp | ast.AugAssign | ast.BoolOp):
        for other in OPERATORS.get(type(node.op), ()):
            yield _set(node, "op", other())
    elif isinstance(node, ast.Compare):
        for k, operator in enumerate(node.ops):
            for other in OPERATORS[type(operator)]:
                yield _set(node.ops, k, other())
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        yield _set(node, "value", not node.value if isinstance(node.value, bool) else node.value + 1)
    elif isinstance(node, ast.Slice):
        yield from _unbound(node)
    elif isinstance(node, ast.Call) and _name(node.func) not in COMMUTATIVE:
        yield from _swaps(node.args)
    elif isinstance(node, ast.List | ast.Tuple) and isinstance(node.ctx, ast.Load):
        yield from _swaps(node.elts)
    elif isinstance(node, ast.IfExp):
        yield _swap(node, "body", node, "orelse")
    yield from _positive(node)


def _unbound(node: ast.Slice) -> Iterator[Change]:
    """A bound is left out."""
    for name in ("lower", "upper", "step"):
        bound = getattr(node, name)
        if bound is not None and getattr(bound, "value", bound) != 0:  # 0: is the same as no bound
            yield _set(node, name, None)


def _positive(node: ast.AST) -> Iterator[Change]:
    """-x and not x become x, wherever they stand."""
    for name, child in ast.iter_fields(node):
        for owner, key, inner in _children(node, name, child):
            if isinstance(inner, ast.UnaryOp) and isinstance(inner.op, ast.USub | ast.Not):
                yield _set(owner, key, inner.operand)


def _name(function: ast.expr) -> str:
    return getattr(function, "attr", getattr(function, "id", ""))


def _children(node: ast.AST, name: str, field: Any) -> Iterator[tuple[Any, Any, Any]]:
    if isinstance(field, list):
        yield from ((field, k, child) for k, child in enumerate(field))
    else:
        yield node, name, field


def _swaps(nodes: list[ast.expr]) -> Iterator[Change]:
    """Neighbours of one kind change places."""
    for k in range(len(nodes) - 1):
        kinds = {type(nodes[k]), type(nodes[k + 1])}
        if len(kinds) == 1 or kinds == {ast.Name, ast.Attribute}:
            yield _swap(nodes, k, nodes, k + 1)


def _read(owner: Any, key: Any) -> Any:
    return owner[key] if isinstance(owner, list) else getattr(owner, key)


def _write(owner: Any, key: Any, value: Any) -> None:
    if isinstance(owner, list):
        owner[key] = value
    else:
        setattr(owner, key, value)


def _set(owner: Any, key: Any, value: Any) -> Change:
    def change() -> Callable[[], None]:
        before = _read(owner, key)
        _write(owner, key, value)
        return lambda: _write(owner, key, before)

    return change


def _swap(owner: Any, key: Any, other: Any, other_key: Any) -> Change:
    def change() -> Callable[[], None]:
        a, b = _read(owner, key), _read(other, other_key)

        def put(x: Any, y: Any) -> None:
            _write(owner, key, x)
            _write(other, other_key, y)

        put(b, a)
        return lambda: put(a, b)

    return change


# Trying one


def tests_of(file: str) -> list[str]:
    """The tests that are run for a file, those that know it best first."""
    name = Path(file).stem
    if own := OWN_TESTS.get(f"{Path(file).parent.name}/{name}"):
        names = own
    elif "peers" in file:
        names = PEERS
    elif "metrics" in file:
        names = METRICS
    elif "backbones" in file:
        names = ADAPTERS
    else:
        names = (f"tests/method/test_{name}.py", *MORE_TESTS.get(name, ()))
    return [test for test in names if (ROOT / test).exists()]


def arguments(file: str) -> list[str]:
    """The same as pytest takes them, those left out that do not reach the file."""
    only = ONLY.get(f"{Path(file).parent.name}/{Path(file).stem}")
    return tests_of(file) + (["-k", only] if only else [])


class _Loader(importlib.machinery.SourceFileLoader):
    """Loads one module from other code than its file's."""

    def __init__(self, name: str, path: str, code: Any):
        super().__init__(name, path)
        self._code = code

    def get_code(self, fullname: str) -> Any:
        return self._code


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, file: str, code: Any):
        self._name = file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        self._path, self._code = str(ROOT / file), code

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> Any:
        if fullname != self._name:
            return None
        loader = _Loader(fullname, self._path, self._code)
        return importlib.util.spec_from_file_location(fullname, self._path, loader=loader)


def warm() -> None:
    """All that the package and its tests import is there before the mutants are, but for the package itself.

    Libraries import much when a model of a kind is loaded for the first time, so one of each family is.
    """
    os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
    os.chdir(ROOT)
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    for name in ("checkpoints", "diffusers", "hypothesis", "pytest", "torch", "cupscale"):
        importlib.import_module(name)
    importlib.import_module("torch").set_num_threads(1)
    for file in (ROOT / "cupscale" / "backbones").glob("*.py"):
        importlib.import_module(f"cupscale.backbones.{file.stem}".removesuffix(".__init__"))
    pipeline = importlib.import_module("cupscale.pipeline")
    with tempfile.TemporaryDirectory() as folder:
        for name, make in importlib.import_module("checkpoints").FAMILIES.items():
            made = str(make(Path(folder) / name))
            pipeline.CUpscalePipeline(importlib.import_module("cupscale").load(made, device="cpu"))
    for name in [name for name in sys.modules if name.split(".")[0] == "cupscale"]:
        del sys.modules[name]
    gc.freeze()


def attempt(job: tuple[str, Mutant | None, int]) -> tuple[str, Mutant | None, str, float]:
    """Run a file's tests on one mutant (None: on the file as it is), in a process of its own.

    job: the file, the mutant, the seconds it may take.
    """
    file, wanted, limit = job
    tree = ast.parse((ROOT / file).read_text())
    code = compile(tree, file, "exec")
    if wanted is not None:
        for mutant in mutations(tree, file):
            if mutant == wanted:
                code = compile(ast.fix_missing_locations(tree), str(ROOT / file), "exec")
                break
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        child = os.fork()
        if child == 0:
            _child(file, code, folder, limit)
        _, status = os.waitpid(child, 0)
    outcome = "killed"
    if os.WIFSIGNALED(status):
        outcome = "timeout" if os.WTERMSIG(status) == signal.SIGALRM else "killed"
    elif os.WEXITSTATUS(status) == 0:
        outcome = "survived"
    return file, wanted, outcome, time.monotonic() - began


def _child(file: str, code: Any, folder: str, limit: int) -> None:
    """Runs the tests and ends the process with their exit status."""
    import pytest

    signal.alarm(limit)
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    sys.meta_path.insert(0, _Finder(file, code))
    options = ["-x", "-q", "-o", "addopts=", "-p", "no:cacheprovider", f"--basetemp={folder}/t"]
    try:
        status = int(pytest.main([*options, *arguments(file)]))
    except BaseException:
        status = 1
    os._exit(status)


# All of them


def digest(*files: str) -> str:
    """Of what files do: another comment or docstring is no change."""
    text = "".join(ast.unparse(_without_docstrings(ast.parse((ROOT / file).read_text()))) for file in files)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        if documented and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return tree


def equivalent() -> set[str]:
    """Blocks of three lines (file and function, before, after) and of a reason, with an empty line between blocks."""
    blocks = EQUIVALENT.read_text().split("\n\n") if EQUIVALENT.exists() else []
    return {"\n".join(block.strip().split("\n")[:3]) for block in blocks if not block.startswith("#")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("files", nargs="*")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--results", type=Path, default=Path(tempfile.gettempdir()) / "cupscale-mutants.json")
    parser.add_argument("--sample", type=int, help="of each file, this many mutants drawn at random")
    parser.add_argument(
        "--seed", type=int, default=0, help="of the draw; a larger sample holds the smaller ones"
    )
    parser.add_argument("--list", action="store_true", help="only say how many there are")
    options = parser.parse_args()
    found = [
        str(path.relative_to(ROOT))
        for folder in FOLDERS
        for path in sorted((ROOT / "cupscale" / folder).glob("*.py"))
    ]
    files = [file for file in found if not options.files or file.endswith(tuple(options.files))]
    same = equivalent()
    mutants = {
        file: sorted(
            mutant
            for mutant in mutations(ast.parse((ROOT / file).read_text()), file)
            if str(mutant) not in same
        )
        for file in files
    }
    if options.sample is not None:
        mutants = {file: _drawn(ours, options.sample, options.seed) for file, ours in mutants.items()}
    if options.list:
        for file, ours in mutants.items():
            print(f"{len(ours):5} {file}")
        return
    known = json.loads(options.results.read_text()) if options.results.exists() else {}
    with multiprocessing.get_context("spawn").Pool(options.workers, warm) as pool:
        _run(pool, mutants, known, options.results)
    _report(mutants, known)


def _drawn(mutants: list[Mutant], count: int, seed: int) -> list[Mutant]:
    return random.Random(seed).sample(mutants, len(mutants))[:count]


def _states(file: str) -> dict[str, str]:
    """What an outcome depends on: more tests kill no fewer."""
    return {"killed": digest(file), "timeout": digest(file), "survived": digest(file, *tests_of(file))}


def _run(pool: Any, mutants: dict[str, list[Mutant]], known: dict[str, list[str]], results: Path) -> None:
    states = {file: _states(file) for file in mutants}
    todo = {
        file: [
            mutant
            for mutant in ours
            if str(mutant) not in known or known[str(mutant)][1] != states[file][known[str(mutant)][0]]
        ]
        for file, ours in mutants.items()
    }
    files = {tuple(arguments(file)): file for file, ours in todo.items() if ours}
    limits = {}
    for file, _, outcome, seconds in pool.imap_unordered(attempt, [(f, None, 600) for f in files.values()]):
        tests = tuple(arguments(file))
        if outcome != "survived":
            raise SystemExit(f"without a mutant too, a test fails of {' '.join(tests)}")
        print(f"{seconds:.1f} s for {' '.join(tests)}", flush=True)
        limits[tests] = int(5 * seconds) + 20
    jobs = [(file, mutant, limits[tuple(arguments(file))]) for file, ours in todo.items() for mutant in ours]
    print(f"{len(jobs)} mutants to try of {sum(map(len, mutants.values()))}", flush=True)
    jobs.sort(key=lambda job: len(mutants[job[0]]))
    for done, (file, mutant, outcome, _) in enumerate(pool.imap_unordered(attempt, jobs), 1):
        known[str(mutant)] = [outcome, states[file][outcome]]
        if outcome == "survived":
            print(f"\n{done} of {len(jobs)}, survived: {mutant}", flush=True)
        if done % 20 == 0 or done == len(jobs):
            results.write_text(json.dumps(known))


def _report(mutants: dict[str, list[Mutant]], known: dict[str, list[str]]) -> None:
    print("\nkilled of all")
    for folder in FOLDERS:
        total = dead = 0
        for file, ours in mutants.items():
            if f"/{folder}/" in file and ours:
                killed = sum(known[str(mutant)][0] != "survived" for mutant in ours)
                print(f"{killed:5} {len(ours):5}  {file}")
                total, dead = total + len(ours), dead + killed
        if total:
            print(f"{dead:5} {total:5}  {folder}: {100 * dead / total:.1f}%\n")


if __name__ == "__main__":
    main()
