"""The files of this folder with their weights put back."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import onnx

from porter.planning.fit import fit
from porter.zoo.architectures import find
from porter.zoo.seeded import seeded

NOTE = "weights"
"""Metadata key: {value that a Constant node makes: name in the Paddle model}."""


def paddle_state(name: str) -> dict[str, np.ndarray]:
    """Return a variant's seeded weights as the Paddle model has them."""
    architecture = find(name)
    state = seeded(architecture)
    made = fit(architecture, state, "torch", "paddle").plan.apply(state)
    return {key: np.array(tensor.read(), order="C") for key, tensor in made.items()}


def paddle2onnx_file(name: str, folder: Path) -> Path:
    """Write what paddle2onnx 2.1 made of a variant with seeded weights."""
    packed = Path(__file__).with_name(f"{name}.paddle2onnx.gz")
    model = onnx.ModelProto.FromString(gzip.decompress(packed.read_bytes()))
    noted = json.loads(model.metadata_props[0].value)
    del model.metadata_props[:]
    state = paddle_state(name)
    for node in model.graph.node:
        if node.op_type == "Constant" and node.output[0] in noted:
            node.attribute[0].t.raw_data = state[noted[node.output[0]]].tobytes()
    path = folder / f"{name}.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def rewritten_file(name: str, tool: str, folder: Path) -> Path:
    """Write what a tool of `rewrite.py` made of porter's file of a variant with seeded weights."""
    packed = Path(__file__).with_name(f"{name}.{tool}.gz")
    model = onnx.ModelProto.FromString(gzip.decompress(packed.read_bytes()))
    (note,) = (entry for entry in model.metadata_props if entry.key == NOTE)
    noted = json.loads(note.value)
    model.metadata_props.remove(note)
    state = seeded(find(name))
    for tensor in model.graph.initializer:
        if tensor.name in noted:
            key, is_transposed = noted[tensor.name]
            array = np.array(state[key].read())
            tensor.raw_data = (array.T if is_transposed else array).tobytes()
    path = folder / f"{name}.{tool}.onnx"
    path.write_bytes(model.SerializeToString())
    return path
