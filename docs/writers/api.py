"""`docs/api.md`: the public functions and the values that they return, from their docstrings."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import textwrap
from collections.abc import Iterator
from typing import Any

import porter
from porter import errors, testing
from porter.commands import options
from writers.markdown import sections

HEAD = """\
# Python API

Generated from the docstrings by `make docs`; do not edit. Examples that run:
[Python library](library.md).

Paths may be `pathlib.Path`s, and [addresses](library.md#addresses) wherever a checkpoint is read.
Options after `*` are given by name; a misspelled one is a `UsageError` that names the nearest."""
RESULTS = {
    "porter.tensors.state_dict": ("StateDict", "Origin"),
    "porter.tensors.lazy": ("LazyTensor",),
    "porter.commands.convert": ("Conversion",),
    "porter.planning.plan": ("Plan",),
    "porter.storage.atomic_output": ("Written",),
    "porter.verification.weights": ("WeightProof",),
    "porter.verification.verdict": ("Verdict",),
    "porter.verification.checks": ("Check",),
    "porter.verification.sides.report": ("SideReport",),
    "porter.commands.inspect": ("Inspection",),
    "porter.commands.diff": ("Diff",),
}
KEYWORDS = ("WriteKeywords", "InitKeywords", "OnnxKeywords")
ERRORS = ("PorterError", "InputError", "UsageError", "TableError", "MappingError", "SystemFault",
          "MissingPackage")  # fmt: skip


def reference() -> str:
    """Return the page."""
    public = sorted(name for name in porter.__all__ if name != "__version__")
    values = [
        _class(getattr(importlib.import_module(module), name))
        for module, names in RESULTS.items()
        for name in names
    ]
    return sections(
        HEAD,
        "## Functions",
        *(_function(f"porter.{name}", getattr(porter, name)) for name in public),
        "## For tests",
        *(
            _function(f"porter.testing.{n}", getattr(testing, n))
            for n in ("assert_equivalent", "record")
        ),
        "## Tables",
        _function(
            "porter.infer.propose.infer", importlib.import_module("porter.infer.propose").infer
        ),
        "## Keywords",
        "Typed dictionaries of the options that several functions share.",
        *(_class(getattr(options, name)) for name in KEYWORDS),
        "## Values",
        "What the functions return, and what it has.",
        *values,
        "## Errors",
        "Everything that porter raises on purpose. `exit_code` is that of the command.",
        "\n".join(
            f"- `{name}` ({getattr(errors, name).exit_code}): {_summary(getattr(errors, name))}"
            for name in ERRORS
        ),
    )


def _function(path: str, function: Any) -> str:
    return sections(f"### {path}", _signature(path, function), _documentation(function))


def _signature(path: str, function: Any) -> str:
    """Return the call with one parameter a line, where it does not fit into one."""
    name = path.rpartition(".")[2]
    made = re.sub(r"'([^']*)'(?=[,)=\s]|$)", r"\1", str(inspect.signature(function)))
    made = made.replace('"', "").replace("\\", "")
    line = f"{name}{made}"
    if len(line) > 88:
        inner, _, result = made[1:].rpartition(") -> ")
        parts = _split(inner)
        line = f"{name}(\n" + "".join(f"    {part},\n" for part in parts) + f") -> {result}"
    return f"```text\n{line}\n```"


def _split(text: str) -> list[str]:
    """Return the parts between commas that are not in brackets."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in "[(") - (character in "])")
        if character == "," and not depth:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts]


def _documentation(value: Any) -> str:
    """Return a docstring as Markdown: parameters are a list, examples code."""
    text = inspect.getdoc(value) or ""
    parts = [_paragraph(part) for part in text.split("\n\n")]
    return sections(*parts)


def _paragraph(text: str) -> str:
    first, _, rest = text.partition("\n")
    if first == "Parameters:":
        entries = re.split(r"\n(?=\S)", textwrap.dedent(rest))
        rows = (entry.partition(":") for entry in entries)
        return "\n".join(f"- `{name}`: {' '.join(about.split())}" for name, _, about in rows)
    if text.startswith("    "):
        return f"```python\n{textwrap.dedent(text)}\n```"
    return text


def _summary(value: Any) -> str:
    return " ".join((inspect.getdoc(value) or "").partition("\n\n")[0].split())


def _class(value: type) -> str:
    """Return a class: its docstring, fields, properties and methods, a line each."""
    members = [*_fields(value), *_members(value)]
    return sections(
        f"### {value.__name__}",
        f"`from {value.__module__} import {value.__name__}`",
        _documentation(value),
        "\n".join(f"- {line}" for line in members),
    )


def _fields(value: type) -> Iterator[str]:
    """Yield the annotated fields with the docstring that follows each, of bases first."""
    for base in reversed(value.__mro__):
        if not base.__module__.startswith("porter"):
            continue
        (node,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        assert isinstance(node, ast.ClassDef)
        for line, after in zip(node.body, [*node.body[1:], None], strict=True):
            if not isinstance(line, ast.AnnAssign) or not isinstance(line.target, ast.Name):
                continue
            if line.target.id.startswith("_"):
                continue
            about = ""
            if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                about = ": " + " ".join(str(after.value.value).split())
            yield f"`{line.target.id}`, `{ast.unparse(line.annotation)}`{about}"


def _members(value: type) -> Iterator[str]:
    """Yield properties and methods that have a docstring."""
    for name, member in vars(value).items():
        inner = member.fget if isinstance(member, property) else member
        inner = getattr(inner, "__func__", inner)
        if name.startswith("_") or not inspect.isfunction(inner) or not inner.__doc__:
            continue
        shown = name if isinstance(member, property) else f"{name}()"
        yield f"`{shown}`: {_summary(inner)}"
