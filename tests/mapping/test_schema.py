"""The schema that editors use is the one that the reader checks by."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from importlib import resources
from typing import Any

import jsonschema
import pytest

from porter.errors import TableError
from porter.mapping.reader import builtin, parse
from porter.mapping.schema import check, schema
from porter.mapping.signature import _names

TABLE = """
family = "mine"
title = "Mine"
constants = "swin"
[tensors]
"pos" = "parameter"
"mask" = "constant"
[layers]
"embed" = "embedding"
"blocks.{i}.{name:qkv,q,kv}" = "linear"
"head" = "linear"
[dialects.paddle]
framework = "paddle"
[dialects.same]
alias = "port"
[dialects.port]
framework = "paddle"
about = "a port"
container = "npz"
[dialects.port.names]
"blocks.{i}.qkv" = ["layers.{i}.wq", "layers.{i}.wk", "layers.{i}.wv"]
"head" = { path = "out", leaves = { bias = "offset" }, ops = { weight = ["flip 0"] } }
"pos" = { path = "position", ops = ["squeeze 0", "transpose"] }
[[dialects.port.rows]]
canonical = ["blocks.{i}.q", "blocks.{i}.kv"]
path = "layers.{i}.qkv2"
join = "concat 0 sizes 8,16"
[dialects.port.extra]
"layers.{i}.mask" = "a buffer"
[dialects.port.absent]
"embed.weight" = { reason = "it has none", fill = 0 }
[dialects.new]
like = "port"
prefix = { "layers." = "blocks." }
[[dialects.new.cases]]
when = "mask"
[dialects.new.cases.names]
"head" = "out"
"""
VALIDATOR = jsonschema.Draft202012Validator(schema())


VALUES: list[object] = [
    3, 1.5, True, "", "x", "{", "a.{i}", "a.{i}.{i}", [], [1], ["a"], {}, {"a": 1},
    {"path": 3}, {"path": ["a"]}, {"reason": 3}, {"reason": "x", "fill": "y"}, {"alias": 3},
    {"alias": "port", "names": {}}, {"when": "pos"}, [{"when": "pos"}], [{}], [[]],
    {"like": "port"}, {"reason": "", "fill": 1}, {"reason": "x", "fill": True},
    {"path": "x", "more": 1},
    "linear",
]  # fmt: skip


def written(value: object) -> str:
    """Return a value as TOML writes it, inline."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {written(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(written, value)) + "]"
    return json.dumps(value)


def changed(tree: Any, place: tuple[Any, ...], value: object) -> Any:
    if not place:
        return value
    if isinstance(tree, dict):
        return {k: changed(v, place[1:], value) if k == place[0] else v for k, v in tree.items()}
    return [changed(v, place[1:], value) if k == place[0] else v for k, v in enumerate(tree)]


def places(tree: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, value in items:
        yield (*above, key)
        if isinstance(value, dict | list):
            yield from places(value, (*above, key))


def test_any_value_in_any_place_is_a_table_or_an_error() -> None:
    """Whatever a person writes, loading gives a table or one line that says what is wrong."""
    tree = tomllib.loads(TABLE)
    loaded, refused = 0, set[str]()
    for place in places(tree):
        for value in VALUES:
            body = changed(tree, place, value)
            text = "\n".join(f"{json.dumps(k)} = {written(v)}" for k, v in body.items())
            try:
                parse(text, "t.toml")
                loaded += 1
            except TableError as error:
                refused.add(str(error))
    assert loaded
    assert len(refused) > 50
    assert not any("\n" in message for message in refused)


def test_the_reader_and_a_validator_agree_on_every_change() -> None:
    """Any value in any place, any key too many or too few: the same verdict of both."""
    tree = tomllib.loads(TABLE)
    verdicts = {True: 0, False: 0}
    for body in variations(tree):
        try:
            check(body)
            accepted = True
        except TableError:
            accepted = False
        assert accepted is VALIDATOR.is_valid(body), body
        verdicts[accepted] += 1
    assert min(verdicts.values()) > 100, verdicts


def variations(tree: dict[str, Any]) -> Iterator[Any]:
    """Yield the table with one value changed, taken out or put in beside another."""
    for place in places(tree):
        for value in VALUES:
            yield changed(tree, place, value)
        yield changed(tree, place[:-1], without(tree, place))
        if isinstance(place[-1], str):
            yield changed(tree, (*place[:-1], "more"), 1)
            yield changed(tree, place[:-1], {**at(tree, place[:-1]), "more": "linear"})


def at(tree: Any, place: tuple[Any, ...]) -> Any:
    for key in place:
        tree = tree[key]
    return tree


def without(tree: Any, place: tuple[Any, ...]) -> Any:
    parent, last = at(tree, place[:-1]), place[-1]
    if isinstance(parent, dict):
        return {key: value for key, value in parent.items() if key != last}
    return [value for index, value in enumerate(parent) if index != last]


def test_the_schema_is_one() -> None:
    """A JSON Schema of draft 2020-12, in JSON."""
    jsonschema.Draft202012Validator.check_schema(schema())
    assert json.loads(json.dumps(schema())) == schema()


@pytest.mark.parametrize("family", sorted(_names()))
def test_every_built_in_table_is_valid(family: str) -> None:
    """The shipped file of the schema accepts the shipped tables."""
    folder = resources.files("porter.mappings")
    shipped = json.loads((folder / "table.schema.json").read_text(encoding="utf-8"))
    assert shipped == schema()
    text = (folder / f"{family}.toml").read_text(encoding="utf-8")
    jsonschema.validate(tomllib.loads(text), shipped)
    assert text.startswith("#:schema ./table.schema.json\n")
    # `builtin` leaves out the checks of rows, which are made here.
    assert parse(text, f"mappings/{family}.toml") == builtin(family)


def test_every_key_is_described() -> None:
    """Editors show what a key is for."""

    def nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
        yield node
        inside = [*node.get("properties", {}).values(), *node.get("anyOf", ())]
        inside += [node[key] for key in ("items", "additionalProperties") if node.get(key)]
        for one in inside:
            yield from nodes(one)

    found = list(nodes(schema()))
    assert len(found) > 50
    assert all(node.get("description") for node in found)
