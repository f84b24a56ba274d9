"""Pickles of torch written by hand: names, calls and storages that no torch would write."""

from __future__ import annotations

import io
import pickle
import zipfile
from typing import Any

import numpy as np


class Name:
    """A global, pickled by hand."""

    def __init__(self, module: str, name: str) -> None:
        self.line = f"c{module}\n{name}\n".encode()


class Call:
    """A call of a global."""

    def __init__(self, name: Name, *arguments: Any) -> None:
        self.name = name
        self.arguments = arguments


class Store:
    """A persistent id."""

    def __init__(self, *parts: Any) -> None:
        self.parts = parts


class Listed(Store):
    """A persistent id that is a list."""


def emit(value: Any) -> bytes:
    """Return the opcodes of a value."""
    if isinstance(value, Name):
        return value.line
    if isinstance(value, Call):
        return emit(value.name) + emit(value.arguments) + b"R"
    if isinstance(value, Listed):
        return emit(list(value.parts)) + b"Q"
    if isinstance(value, Store):
        return emit(value.parts) + b"Q"
    if isinstance(value, tuple):
        return b"(" + b"".join(map(emit, value)) + b"t"
    if isinstance(value, list):
        return b"](" + b"".join(map(emit, value)) + b"e"
    if isinstance(value, dict):
        return b"}(" + b"".join(emit(k) + emit(v) for k, v in value.items()) + b"u"
    return pickle.dumps(value, 2)[2:-1].replace(b"q\x00", b"")


def archive(value: Any, *storages: bytes) -> bytes:
    """Return a torch zip of a value and its storages."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as made:
        made.writestr("archive/data.pkl", b"\x80\x02" + emit(value) + b".")
        for index, data in enumerate(storages):
            made.writestr(f"archive/data/{index}", data)
        made.writestr("archive/version", "3\n")
    return buffer.getvalue()


NUMBERS = np.arange(4, dtype=np.float32).tobytes()


FLOATS = Name("torch", "FloatStorage")


UNTYPED = Name("torch.storage", "UntypedStorage")


STORE = Store("storage", FLOATS, "0", "cpu", 4)


HOOKS = Call(Name("collections", "OrderedDict"))


def rebuild(version: str, *arguments: Any) -> Call:
    """Return a call that makes a tensor."""
    return Call(Name("torch._utils", f"_rebuild_{version}"), *arguments)


VIEW = (0, (2, 2), (2, 1))


PLAIN = rebuild("tensor_v2", STORE, *VIEW, False, HOOKS)
