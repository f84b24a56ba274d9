"""Inference models that have the wiring of a variant, written without Paddle.

Between the operations that read parameters there is nothing: activations and sums are left out, and
what an operation reads is given as its operands. Such a model cannot be run.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from porter.codecs.paddle.wiring import Step
from porter.tensors.blocks import Array
from porter.zoo.architectures import Architecture
from porter.zoo.wiring import CONSTANT, wiring_of


def write(folder: Path, architecture: Architecture, arrays: Mapping[str, Array]) -> Path:
    """Write `inference.json` and `.pdiparams` of arrays in Paddle's naming; returns the folder."""
    steps = wiring_of(architecture)
    names = dict.fromkeys(name for step in steps for name in step.parameters)
    values = {name: arrays[name.split("=")[0]] for name in names if CONSTANT not in name}
    called = {name: f"parameter_{at}.w_0" for at, name in enumerate(values)}
    numbers = {name: at + 1 for at, name in enumerate(values)}
    operations = [_parameter(numbers[n], called[n], a.shape) for n, a in values.items()]
    operations.reverse()
    for at, step in enumerate(steps):
        read = [len(values) + 1 + place for place in step.before]
        read += [numbers[name] for name in step.parameters if name in numbers]
        operations.append(_operation(len(values) + 1 + at, step, read))
    body = {"base_code": {"magic": "pir"}, "program": {"regions": [{"blocks": [
        {"#": "b", "args": [], "ops": operations}]}]}}  # fmt: skip
    folder.mkdir()
    (folder / "inference.json").write_text(json.dumps(body), encoding="utf-8")
    stream = (_tensor(values[n]) for n in sorted(values, key=lambda n: called[n].encode()))
    (folder / "inference.pdiparams").write_bytes(b"".join(stream))
    return folder


def _type(shape: tuple[int, ...]) -> dict[str, Any]:
    return {"#": "0.t_dtensor", "D": [{"#": "0.t_f32"}, list(shape), "NCHW", [], 0]}


def _parameter(number: int, name: str, shape: tuple[int, ...]) -> dict[str, Any]:
    return {"#": "p", "A": [0, 0, 0, name], "O": {"%": number, "TT": _type(shape)}}


def _operation(number: int, step: Step, read: list[int]) -> dict[str, Any]:
    kind, _, detail = step.label.partition(":")
    said: list[dict[str, Any]] = []
    if kind.startswith("conv"):
        strides = [{"#": "0.a_i32", "D": int(n)} for n in detail.split("/")[1].split("x")]
        said = [{"N": "strides", "AT": {"#": "0.a_array", "D": strides}}]
    elif detail:
        said = [{"N": "epsilon", "AT": {"#": "0.a_f32", "D": float(detail)}}]
    return {
        "#": f"1.{kind}", "A": said, "I": [{"%": value} for value in read],
        "O": [{"%": number, "TT": _type(())}],
    }  # fmt: skip


def _tensor(array: Array) -> bytes:
    """Return a tensor of the stream: float32, with its TensorDesc."""
    dims = b"".join(b"\x10" + _varint(size) for size in array.shape)
    description = b"\x08\x05" + dims
    head = bytes(16) + struct.pack("<i", len(description))
    return head + description + array.astype("<f4").tobytes()


def _varint(number: int) -> bytes:
    found = bytearray()
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    return bytes([*found, number])
