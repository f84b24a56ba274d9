"""The keys of a job of a manifest, with their types as a manifest states them."""

from __future__ import annotations

from ast import literal_eval
from functools import cache
from inspect import signature
from typing import Any, get_args

from porter.commands import options
from porter.commands.convert import convert
from porter.commands.options import OnnxKeywords, WriteKeywords, keys_of
from porter.errors import listed

SPELLED = {"architecture": "arch", "source": "input", "from_": "from"}
NEVER = {"dry_run", "reports", "progress", "pool", "weights", "onnx", "options"}
"""Parameters that a manifest does not set."""


@cache
def conversions() -> dict[str, str]:
    """Return {key: type} of a job that converts."""
    return {**_keys(convert, WriteKeywords, OnnxKeywords), "name": "str", "preset": "str"}


@cache
def for_onnx() -> frozenset[str]:
    """Return the parameters that only an ONNX output has."""
    return frozenset(keys_of(OnnxKeywords))


@cache
def proofs() -> dict[str, str]:
    """Return {key: type} of a job that has `left` and `right`."""
    from porter.commands.verify import verify  # As much again to load as all else.
    from porter.verification.options import RunOptions

    return {**_keys(verify, RunOptions), "name": "str"}


def _keys(function: Any, *typed: type) -> dict[str, str]:
    found = {p.name: p.annotation for p in signature(function).parameters.values()}
    for keywords in typed:
        found |= keywords.__annotations__
    return {
        SPELLED.get(name, name).replace("_", "-"): _shown(kind)
        for name, kind in found.items()
        if name not in NEVER
    }


def _shown(annotation: Any) -> str:
    """Return a type as a manifest states it: paths are texts, and None is the key left out."""
    text = str(getattr(annotation, "__forward_arg__", annotation)).replace(" | None", "")
    text = {"str | os.PathLike[str]": "path", "str | Architecture": "str"}.get(text, text)
    return text.replace("Checkpoint", "path")


def choices(kind: str) -> list[Any]:
    """Return the values that a type of that name allows."""
    return list(get_args(getattr(options, kind)))


def stated(kind: str) -> list[Any]:
    """Return the values of `Literal[…]`."""
    return list(literal_eval(f"[{kind.removeprefix('Literal[')}"))


_TYPES: dict[str, tuple[type | tuple[type, ...], str]] = {
    "str": (str, "a text"),
    "path": (str, "a path or an address"),
    "int": (int, "a whole number"),
    "bool": (bool, "true or false"),
    "float": ((int, float), "a number"),
    "Size": ((int, str), "a number of pixels, or a text such as 224x192"),
}


def wrong(kind: str, value: Any) -> str:
    """Return what a value of a type must be, "" where it is that."""
    problems = [_wrong(part, value) for part in kind.split(" | ")]
    return "" if "" in problems else " or ".join(problems)


def _wrong(kind: str, value: Any) -> str:
    if kind in _TYPES:
        types, words = _TYPES[kind]
        is_one = isinstance(value, types) and (kind == "bool" or not isinstance(value, bool))
        return "" if is_one else words
    if kind.startswith("Literal["):
        known = stated(kind)
        return "" if value in known else listed(known)
    if kind.startswith("Sequence["):
        inner = kind[9:-1]
        fits = isinstance(value, list) and not any(wrong(inner, one) for one in value)
        return "" if fits else "a list"
    if kind.startswith("Mapping[str, "):
        fits = isinstance(value, dict) and not any(wrong(kind[13:-1], v) for v in value.values())
        return "" if fits else "a table"
    known = choices(kind)
    return "" if value in known else listed(known)
