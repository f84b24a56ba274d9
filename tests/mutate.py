"""Mutation testing of the readers: `make mutate`, or `python -m tests.mutate [MODULE…]`.

One small fault at a time is put into a function of the readers: a check that never refuses,
a comparison that is off by one, an operand or a call left out. The tests that reach its line are
run, the quickest first, and one must fail. What survives is a check that nobody would miss: it
needs a test or goes, or it is in `tests/equivalent_mutants.txt` with the reason why no test can
tell. All in one process: tests are collected once, each mutant is a fork with another code object.
"""

from __future__ import annotations

import ast
import copy
import importlib
import os
import resource
import signal
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

import coverage
import pytest
from _pytest.runner import runtestprotocol

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "porter"
WRITERS = ("__init__", "writing", "record")
"""Modules of `porter.codecs` that do not look at input."""
READERS = (
    *sorted(
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        for path in PACKAGE.glob("codecs/**/*.py")
        if path.stem not in WRITERS
    ),
    "storage.input_file", "storage.sidecar", "tensors.shared_tensors", "tensors.streams",
)  # fmt: skip
"""Modules of `porter` that look at input, by the names that `EQUIVALENT` uses."""
assert len(READERS) > 25, READERS
TESTS = (
    "tests/codecs",
    "tests/storage",
    "tests/tensors/test_streams.py",
    "tests/commands/test_repack.py",
)
LEFT_OUT = ("test_atomic_output.py", "test_flips.py", "gigabyte", "four_gigabytes", "in_seconds",
            "take_zip64", "every_pair_is_exact")  # fmt: skip
"""Tests that are slow, or about writing: they notice nothing that others would not."""
SURVEY = ROOT / ".mutate-survey"
"""Which test reaches which line, and how long it takes; made again when a source changes."""
EQUIVALENT = ROOT / "tests" / "equivalent_mutants.txt"
NOTICED = "/dev/shm/porter-mutate-{}"
"""Where a process says which test has noticed its fault."""
SECONDS = 5
"""After which a mutant that runs for ever counts as noticed, beside what the test takes."""

_COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip
_OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.FloorDiv, ast.FloorDiv: ast.Mult,
    ast.LShift: ast.RShift, ast.RShift: ast.LShift, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}  # fmt: skip
_CALLS = {"min": "max", "max": "min", "any": "all", "all": "any"}
_SILENT = (ast.Raise, ast.JoinedStr, ast.Assert, ast.AnnAssign)
"""What is left as it is: messages, our own mistakes, types."""


@dataclass(frozen=True)
class Mutant:
    """One fault: where it is and what the source becomes."""

    module: str
    function: str
    lines: range
    change: str
    code: CodeType

    @property
    def key(self) -> str:
        """How `EQUIVALENT` names it; line numbers would not last."""
        return f"{self.module}.{self.function}: {self.change}"


Change = tuple[str, ast.AST, Callable[[Any], None]]
"""What is said of it, the node as it was, and what is done to its copy."""


def _path(module: str) -> Path:
    return PACKAGE.joinpath(*module.split(".")).with_suffix(".py")


def mutants(module: str) -> Iterator[Mutant]:
    """Yield the mutants of a module's functions."""
    path = _path(module)
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = list(ast.walk(tree))
    for function, owner in _functions(tree):
        for statement, node in _sites(owner):
            for said, apply in _changes(node):
                copied = copy.deepcopy(tree)
                apply(list(ast.walk(copied))[nodes.index(node)])
                code = _find(
                    compile(ast.fix_missing_locations(copied), str(path), "exec"), function
                )
                end = max(getattr(node, "end_lineno", 0), statement.lineno)
                yield Mutant(module, function, range(statement.lineno, end + 1), said, code)


def _functions(tree: ast.Module) -> Iterator[tuple[str, ast.AST]]:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            yield node.name, node
        elif isinstance(node, ast.ClassDef):
            for inner in node.body:
                if isinstance(inner, ast.FunctionDef) and inner.name != "__repr__":
                    yield f"{node.name}.{inner.name}", inner


def _sites(owner: ast.AST, statement: Any = None) -> Iterator[tuple[Any, ast.AST]]:
    """Yield (statement, node) of what may be mutated in a function."""
    for name, value in ast.iter_fields(owner):
        if name in ("decorator_list", "args", "returns", "annotation"):
            continue
        for node in value if isinstance(value, list) else [value]:
            if isinstance(node, ast.AST) and not isinstance(node, _SILENT):
                inside = node if isinstance(node, ast.stmt) else statement
                if inside is not None:
                    yield inside, node
                yield from _sites(node, inside)


def _changes(node: ast.AST) -> Iterator[tuple[str, Callable[[Any], None]]]:
    """Yield what can be done to a node."""
    was = ast.unparse(node).split("\n")[0].rstrip(":")
    if isinstance(node, ast.If | ast.IfExp):
        test = ast.unparse(node.test)
        for value in (True, False):
            yield f"if {test} → {value}", _setter("test", ast.Constant(value))
    elif isinstance(node, ast.While):
        yield f"{was} → False", _setter("test", ast.Constant(False))
    elif isinstance(node, ast.comprehension):
        for index, test in enumerate(node.ifs):
            yield f"if {ast.unparse(test)} → left out", _dropper("ifs", index)
    elif isinstance(node, ast.BoolOp):
        neutral = ast.Constant(isinstance(node.op, ast.And))
        for index, part in enumerate(node.values):
            yield f"{was} → without {ast.unparse(part)}", _item_setter("values", index, neutral)
    elif isinstance(node, ast.Compare):
        for index, operator in enumerate(node.ops):
            other = _COMPARISONS[type(operator)]
            yield f"{was} → {other.__name__} ({index})", _item_setter("ops", index, other())
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield f"{was} → without not", _setter("op", ast.UAdd())
    elif isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        other_op = _OPERATORS[type(node.op)]
        yield f"{was} → {other_op.__name__}", _setter("op", other_op())
    elif isinstance(node, ast.Constant) and type(node.value) is int:
        yield f"{was} → {node.value + 1}", _setter("value", node.value + 1)
    elif isinstance(node, ast.Name) and node.id in _CALLS:
        yield f"{was} → {_CALLS[node.id]}", _setter("id", _CALLS[node.id])
    elif isinstance(node, ast.AugAssign) or (
        isinstance(node, ast.Expr) and not isinstance(node.value, ast.Constant | ast.Yield)
    ):
        yield f"{was} → left out", _emptied


def _setter(name: str, value: Any) -> Callable[[Any], None]:
    return lambda node: setattr(node, name, value)


def _item_setter(name: str, index: int, value: Any) -> Callable[[Any], None]:
    return lambda node: getattr(node, name).__setitem__(index, value)


def _dropper(name: str, index: int) -> Callable[[Any], None]:
    return lambda node: getattr(node, name).pop(index)


def _emptied(node: Any) -> None:
    node.__class__ = ast.Expr
    node.value = ast.Constant(None)


def _find(code: CodeType, function: str) -> CodeType:
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            if inner.co_qualname == function:
                return inner
            if function.startswith(inner.co_qualname + "."):
                return _find(inner, function)
    raise LookupError(function)


def _function(module: ModuleType, name: str) -> FunctionType:
    """Return the function object that a qualified name stands for, out of its wrappings."""
    found: Any = module
    for part in name.split("."):
        found = vars(found)[part]
    found = getattr(found, "fget", None) or getattr(found, "__func__", found)
    found = getattr(found, "__wrapped__", found)
    assert isinstance(found, FunctionType), name
    return found


class Session:
    """A pytest plugin that takes the place of running the tests once."""

    def __init__(self, modules: list[str], jobs: int) -> None:
        self.modules = modules
        self.jobs = jobs
        self.known = dict(_equivalent())
        self.seconds: dict[str, float] = {}
        self.reached: dict[str, dict[int, list[str]]] = {}
        self.killed: dict[str, int] = defaultdict(int)
        self.survivors: list[Mutant] = []
        self.noticed: Counter[str] = Counter()
        """How often a test was the one that noticed: such tests are run first."""
        self.excused: dict[str, int] = defaultdict(int)
        self.met: set[str] = set()
        """The mutants declared equivalent that there are."""
        self.stale = 0

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Find out which tests reach which line, then try every mutant."""
        chosen = [i for i in session.items if not any(part in i.nodeid for part in LEFT_OUT)]
        self.items = {item.nodeid: item for item in chosen}
        self._survey(chosen)
        print(f"{len(chosen)} tests, {sum(self.seconds.values()):.0f} s", flush=True)
        running: dict[int, Mutant] = {}
        for mutant in (mutant for module in self.modules for mutant in mutants(module)):
            if mutant.key in self.known:
                self.met.add(mutant.key)
                self.excused[mutant.module] += 1
                continue
            if len(running) >= self.jobs:
                self._wait(running)
            running[self._start(mutant)] = mutant
        while running:
            self._wait(running)
        self._report()
        session.testsfailed = len(self.survivors) + self.stale
        return True

    def _survey(self, items: list[Any]) -> None:
        """Run every test once, in a fork: threads that a framework starts survive no other."""
        if not SURVEY.exists() or SURVEY.stat().st_mtime < max(map(_changed, _sources())):
            pid = os.fork()
            if not pid:
                SURVEY.write_text(repr(self._surveyed(items)), encoding="utf-8")
                os._exit(0)
            os.waitpid(pid, 0)
        self.seconds, self.reached = ast.literal_eval(SURVEY.read_text(encoding="utf-8"))

    def _surveyed(self, items: list[Any]) -> tuple[dict[str, float], dict[str, Any]]:
        paths = [str(_path(module)) for module in READERS]
        cov = coverage.Coverage(data_file=None, include=paths, branch=False, config_file=False)
        cov.start()
        for index, item in enumerate(items):
            following = items[index + 1] if index + 1 < len(items) else None
            cov.switch_context(item.nodeid)
            begin = time.monotonic()
            reports = runtestprotocol(item, nextitem=following, log=False)
            self.seconds[item.nodeid] = time.monotonic() - begin
            if any(report.failed for report in reports):
                told = next(str(r.longrepr) for r in reports if r.failed).splitlines()[-1]
                print(f"{item.nodeid} fails without any mutant: {told}", flush=True)
                del self.seconds[item.nodeid]
        cov.stop()
        data = cov.get_data()
        for module, path in zip(READERS, paths, strict=True):
            found = data.contexts_by_lineno(path)
            self.reached[module] = {
                line: [name for name in names if name in self.seconds]
                for line, names in found.items()
            }
        return self.seconds, self.reached

    def _start(self, mutant: Mutant) -> int:
        lines = self.reached[mutant.module]
        names = set().union(*(lines.get(line, ()) for line in mutant.lines))
        order = sorted(names, key=lambda name: (-self.noticed[name], self.seconds[name]))
        pid = os.fork()
        if not pid:
            self._child(mutant, [self.items[name] for name in order])
        return pid

    def _child(self, mutant: Mutant, items: list[Any]) -> None:
        """Put the fault in, run the tests until one fails, and end with 1 or, if none, 0."""
        null = os.open(os.devnull, os.O_RDWR)
        for fd in (1, 2):
            os.dup2(null, fd)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        most = pages * resource.getpagesize() + (4 << 30)
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        for name, made in list(sys.modules.items()):
            if name.startswith("tests.codecs.") and hasattr(made, "SCRATCH"):
                made.SCRATCH = made.SCRATCH.with_stem(f"{made.SCRATCH.stem}-{os.getpid()}")
        failed = False
        try:
            module = importlib.import_module(f"porter.{mutant.module}")
            _function(module, mutant.function).__code__ = mutant.code
            for item in items:
                signal.alarm(int(SECONDS + 5 * self.seconds[item.nodeid]))
                item._initrequest()
                failed = any(r.failed for r in runtestprotocol(item, nextitem=None, log=False))
                if failed:
                    Path(NOTICED.format(os.getpid())).write_text(item.nodeid, encoding="utf-8")
                    break
        except BaseException:  # noqa: BLE001 - whatever a fault leads to, it was noticed
            failed = True
        finally:
            os._exit(failed)

    def _wait(self, running: dict[int, Mutant]) -> None:
        pid, status = os.wait()
        mutant = running.pop(pid)
        told = Path(NOTICED.format(pid))
        if told.exists():
            self.noticed[told.read_text(encoding="utf-8")] += 1
        for path in Path("/dev/shm").glob(f"porter-*-{pid}*"):
            path.unlink()
        if status:
            self.killed[mutant.module] += 1
        else:
            self.survivors.append(mutant)
            print(f"survived  {mutant.key}   (line {mutant.lines.start})", flush=True)

    def _report(self) -> None:
        for key in self.known:
            if key not in self.met and key.split(".")[0] in self.modules:
                print(f"declared equivalent, and no mutant: {key}", flush=True)
                self.stale += 1
        for module in self.modules:
            left = sum(mutant.module == module for mutant in self.survivors)
            row = (
                f"{self.killed[module]} noticed, {self.excused[module]} equivalent, {left} survived"
            )
            print(f"{module}: {row}", flush=True)


def _sources() -> list[Path]:
    return [*ROOT.glob("porter/**/*.py"), *ROOT.glob("tests/**/*.py")]


def _changed(path: Path) -> float:
    return path.stat().st_mtime


def _equivalent() -> Iterator[tuple[str, str]]:
    """Yield (key, reason) of the mutants that no test can tell from the original."""
    reason = ""
    for line in EQUIVALENT.read_text(encoding="utf-8").splitlines():
        if line.startswith("# "):
            reason = line[1:].strip()
        elif line.strip():
            yield line.strip(), reason


def main(modules: list[str]) -> int:
    """Try the mutants of the modules named, or of all readers; 0 when none survives."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # Threads of a library do not outlive a fork.
    session = Session(modules or list(READERS), int(os.environ.get("JOBS", "2")))
    options = ["-q", "-x", "-m", "not slow", "-p", "no:timeout", "-p", "no:cacheprovider",
               "-p", "no:xdist"]  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="porter-mutate-") as folder:
        options += ["--basetemp", f"{folder}/tests"]
        code = int(pytest.main([*options, *TESTS], plugins=[session]))
    return code or bool(session.survivors or session.stale)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
