"""The plan of the house: small folders, imports one way, public names that are functions."""

from __future__ import annotations

import ast
import itertools
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import porter

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "porter"
MOST_MODULES = 18
"""Modules in a folder; about 15 are intended."""


def modules() -> dict[str, Path]:
    """Return {module: file} of the package."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        found[name.removesuffix(".__init__")] = path
    assert len(found) > 150, "the package was not found"
    return found


def imported(path: Path, known: dict[str, Path]) -> Iterator[str]:
    """Yield the modules of porter that a file imports, inside functions too, for types aside."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in running(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names if name.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module in known:
            for name in node.names:
                below = f"{node.module}.{name.name}"
                yield below if below in known else node.module


def running(node: ast.AST) -> Iterator[ast.AST]:
    """Yield every node but those under `if TYPE_CHECKING:`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            for other in child.orelse:
                yield from running(other)
            continue
        yield child
        yield from running(child)


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Return modules that import each other in a circle, empty if there are none."""
    done: set[str] = set()

    def visit(name: str, path: list[str]) -> list[str]:
        if name in path:
            return path[path.index(name) :]
        if name in done:
            return []
        for other in sorted(graph[name]):
            if found := visit(other, [*path, name]):
                return found
        done.add(name)
        return []

    return next((found for name in graph if (found := visit(name, []))), [])


def test_a_circle_is_noticed() -> None:
    """The search finds one."""
    assert set(circle({"a": {"b"}, "b": {"c"}, "c": {"b"}})) == {"b", "c"}
    assert circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Imports inside functions count: they only hide a circle."""
    known = modules()
    graph = {name: set(imported(path, known)) - {name} for name, path in known.items()}
    assert sum(map(len, graph.values())) > 500
    assert circle(graph) == []


def test_no_folder_is_crowded() -> None:
    """A stranger sees what a folder holds at one look."""
    sizes = {
        folder: len(list(folder.glob("*.py")))
        for folder in (PACKAGE, *PACKAGE.rglob("*"))
        if folder.is_dir()
    }
    assert {str(f): n for f, n in sizes.items() if n > MOST_MODULES} == {}


def test_every_folder_is_packaged() -> None:
    """The list of packages in pyproject.toml is that of the folders with modules."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    listed = set(settings["setuptools"]["packages"])
    folders = {path.parent for path in PACKAGE.rglob("*.py")}
    found = {".".join(folder.relative_to(ROOT).parts) for folder in folders}
    elsewhere = {
        name for name in listed if name.startswith(("porter.mappings", "porter.reference_"))
    }
    assert listed - elsewhere == found
    for folder in folders:
        assert (folder / "__init__.py").is_file(), folder


def test_public_names_are_functions_after_any_order_of_imports(tmp_path: Path) -> None:
    """No submodule has a public name, so no import can put itself in a function's place."""
    names = [name for name in porter.__all__ if name != "__version__"]
    assert not {path.stem for path in PACKAGE.iterdir()} & set(names)
    orders = [*itertools.permutations(["porter.commands.convert", "porter.commands.verify"])]
    orders += [["porter.cli.convert", "porter.cli.verify"], ["porter.commands.diff"], []]
    for order in orders:
        code = "".join(f"import {name}\n" for name in order)
        code += f"import porter\nprint([type(getattr(porter, n)).__name__ for n in {names}])"
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        assert set(ast.literal_eval(done.stdout)) == {"function"}, order
    assert set(names) <= set(dir(porter))
