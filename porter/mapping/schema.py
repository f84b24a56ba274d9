"""The shape of a table as a JSON Schema: the reader checks tables by it, editors by its file.

Only the keywords that `check` below knows are used; `tests/mapping/test_schema.py` compares its
verdicts with a validator's. Where a value may be of several types, their schemas differ in `type`
or in `required`, so that an error is reported for the one that was meant.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, cast

from porter.errors import TableError, listed, printable
from porter.mapping.conventions import conventions
from porter.mapping.table import BARE, CANONICAL

Node = dict[str, Any]
_Path = tuple[str | int, ...]

IDENTIFIER = (
    "https://raw.githubusercontent.com/porter-weights/porter/main/mappings/table.schema.json"
)
_TYPES: dict[str, Any] = {
    "string": str, "number": (int, float), "boolean": bool, "array": list, "object": dict,
}  # fmt: skip
_SHOWN = 60
_SECTIONS = ("names", "rows", "absent", "extra", "behaviour")
"""Parts of a dialect whose keys are names, or numbers of rows."""


def _text(description: str) -> Node:
    return {"type": "string", "description": description}


def _object(description: str, properties: Mapping[str, Node], required: tuple[str, ...]) -> Node:
    return {
        "type": "object", "description": description, "properties": dict(properties),
        "required": list(required), "additionalProperties": False,
    }  # fmt: skip


def _each(description: str, value: Node) -> Node:
    return {"type": "object", "description": description, "additionalProperties": value}


def _several(description: str, item: Node) -> Node:
    return {"type": "array", "description": description, "items": item, "minItems": 1}


def _either(description: str, *choices: Node) -> Node:
    return {"description": description, "anyOf": list(choices)}


_NAME = _text("a name with placeholders such as {i}, {n:fc1,fc2}")
_NAMES = _either("a name or a list of names", _NAME, _several("names", _NAME))
_CHAIN = {
    "type": "array",
    "description": "a list of operations such as 'transpose'",
    "items": _text("an operation such as 'transpose' or 'permute 2 3 1 0'"),
}
_ROW_PROPERTIES = {
    "path": _NAMES,
    "join": _text("a join such as 'concat 0' or 'stack 0'"),
    "ops": _either(
        "a list of operations, or such a list for each parameter",
        _CHAIN,
        _each("operations by PyTorch's name of the parameter", _CHAIN),
    ),
    "first": {**_CHAIN, "description": "operations before the one canonical tensor is split"},
    "leaves": _each("the dialect's names of parameters, by PyTorch's", _text("a name")),
    "stack": _text("the placeholder of the layers that are stacked along a new first axis"),
    "fold": _text("a fold such as 'rep_dw' or 'dilated 7', which has no way back"),
}
_NAMED_ROW = _object("a row", _ROW_PROPERTIES, ("path",))
_FULL_ROW = _object("a row", {"canonical": _NAMES, **_ROW_PROPERTIES}, ("canonical", "path"))
_REASON = {"type": "string", "minLength": 1, "description": "the reason"}
_FILL = {"type": "number", "description": "the number written for it on the way back"}
_SAME = _text("the canonical tensor with the same values, which is written on the way back")
_OPTIONAL = {"type": "boolean", "description": "true where a file may have it"}
_ABSENT = _either(
    "the reason, or a table with `reason`",
    _REASON,
    _object(
        "a reason and a value",
        {"reason": _REASON, "fill": _FILL, "same": _SAME, "optional": _OPTIONAL},
        ("reason",),
    ),
)
_SETTING = _either(
    "true, false or a number",
    {"type": "boolean", "description": "true or false"},
    {"type": "number", "description": "a number"},
)
_BEHAVIOUR = _object(
    "a value with `canonical`, `about`, `seen` and `size`",
    {
        "value": _SETTING,
        "canonical": _SETTING,
        "about": _text("what the dialect's code does, as a clause"),
        "seen": _text("where: source and version"),
        "size": {"type": "number", "description": "the largest difference by the logits' rms"},
        "config": _text("the key of config.json that states the value"),
    },
    ("value", "canonical", "about", "seen", "size"),
)
_EXTRA = _either(
    "the reason, or a table with `reason` and `fill` or `copy`",
    _REASON,
    _object(
        "a reason and what it is a copy of",
        {"reason": _REASON, "fill": _FILL, "copy": _text("the tensor that it is a copy of")},
        ("reason",),
    ),
)
_ALIAS = _object(
    "another name of a dialect",
    {"alias": _text("the name of a dialect of this table"), "about": _text("a remark")},
    ("alias",),
)


@cache
def schema() -> Node:
    """Return the JSON Schema of a table."""
    frameworks = [*conventions()]
    kinds = [*conventions()[CANONICAL].kinds]
    kind = {"enum": kinds, "description": f"a kind: {', '.join(kinds)}"}
    bare = {"enum": [*BARE], "description": " or ".join(BARE)}
    form = _form({"enum": frameworks, "description": f"one of {', '.join(frameworks)}"})
    when = _text("a canonical tensor: the case is that of variants that have it")
    case = _object("a case", {"when": when, **form}, ("when",))
    cases = _several("[[…cases]] tables, the first that applies counting", case)
    only = _text("a canonical tensor: variants without it do not have this dialect")
    body = _object("a dialect", {**form, "only": only, "cases": cases}, ())
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": IDENTIFIER,
        "title": "porter mapping table",
        **_object(
            "a mapping table",
            {
                "family": _text("the name of the family; default: the file's"),
                "title": _text("the family's title"),
                "constants": _text("the function that computes the constants"),
                "tensors": _each("bare tensors: canonical name = kind", bare),
                "layers": _each("layers: canonical module path = kind", kind),
                "models": _each("dialect = model of a provider", _text("such as timm:resnet50")),
                "unproven": _each("a name in a row = why nothing proves the row", _REASON),
                "dialects": _each("dialects", _either("a table", _ALIAS, body)),
            },
            (),
        ),
    }


def _form(framework: Node) -> dict[str, Node]:
    """Return the keys of a dialect and of each of its cases."""
    return {
        "framework": framework,
        "like": _text("DIALECT or FAMILY:DIALECT, whose rows apply where this one has none"),
        "prefix": _each("beginnings of that dialect's names = this one's", _text("a text")),
        "about": _text("what the dialect is for, in a few words"),
        "also": _text("another dialect of this table, whose names are read as this one's too"),
        "container": _text("the format that its files usually have"),
        "names": _each(
            "canonical module path = the dialect's, where they differ",
            _either("a name, a list of names or a table with `path`", *_NAMES["anyOf"], _NAMED_ROW),
        ),
        "rows": {
            "type": "array",
            "description": "[[…rows]] tables",
            "items": _FULL_ROW,
        },
        "behaviour": _each("settings of the dialect's code = value and source", _BEHAVIOUR),
        "absent": _each("canonical tensors that the dialect does not have = reason", _ABSENT),
        "extra": _each("tensors that only the dialect has, or BEGINNING* = reason", _EXTRA),
    }  # fmt: skip


def check(body: Mapping[str, Any]) -> None:
    """Raise `TableError` where a value does not fit its place: which row, and what is expected."""
    for path, problem in _problems(schema(), body, ()):
        raise TableError(f"{_where(path)}{problem}")


def _problems(node: Node, value: object, path: _Path) -> Iterator[tuple[_Path, str]]:
    """Yield what does not fit, each with its place."""
    node = _chosen(node, value)
    if not _fits(node, value):
        yield path, f" must be {node['description']}, not {printable(repr(value), _SHOWN)}"
    elif isinstance(value, dict):
        yield from _members(node, value, path)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _problems(node["items"], item, (*path, index))


def _chosen(node: Node, value: object) -> Node:
    """Return the choice that a value is meant to be, the node itself where it is none."""
    keys = value if isinstance(value, dict) else ()
    for choice in node.get("anyOf", ()):
        if _is_a(choice, value) and all(key in keys for key in choice.get("required", ())):
            return cast(Node, choice)
    return node


def _is_a(node: Node, value: object) -> bool:
    kind = node.get("type")
    if kind is None:
        return True
    return isinstance(value, _TYPES[kind]) and isinstance(value, bool) == (kind == "boolean")


def _fits(node: Node, value: object) -> bool:
    """Whether a value, its members apart, is what the node describes."""
    if "anyOf" in node or not _is_a(node, value):
        return False
    if "enum" in node:
        return isinstance(value, str) and value in node["enum"]
    least: int = node.get("minItems") or node.get("minLength") or 0
    return not isinstance(value, str | list) or len(value) >= least


def _members(node: Node, value: dict[str, Any], path: _Path) -> Iterator[tuple[_Path, str]]:
    known, rest = node.get("properties", {}), node["additionalProperties"]
    unknown = sorted(set(value) - set(known)) if rest is False else []
    if unknown:
        yield path, f" has unknown keys {listed(unknown)}; known: {listed(sorted(known), 20)}"
    missing = [key for key in node.get("required", ()) if key not in value]
    if missing:
        yield path, f" lacks `{missing[0]}`, {known[missing[0]]['description']}"
    for key, member in value.items():
        if key in known or rest:
            yield from _problems(known.get(key, rest), member, (*path, key))


def _where(path: _Path) -> str:
    """Return a place as TOML writes it: `[dialects.hf.names] 'head' ops`."""
    if path[:1] not in (("dialects",), ("layers",), ("tensors",)) or len(path) < 2:
        return " ".join(["the table", *map(str, path)])
    section, rest = [str(path[0])], list(path[1:])
    if section == ["dialects"]:
        section.append(str(rest.pop(0)))
        if rest[:1] == ["cases"] and len(rest) > 1:
            section.append(f"cases #{int(rest[1]) + 1}")
            rest = rest[2:]
        if rest and rest[0] in _SECTIONS:
            section.append(str(rest.pop(0)))
        elif rest:
            return f"[{'.'.join(section)}] {' '.join(map(str, rest))}"
    row = [f"#{one + 1}" if isinstance(one, int) else printable(repr(one)) for one in rest[:1]]
    return " ".join([f"[{'.'.join(section)}]", *row, *map(str, rest[1:])])
