"""Make the files `VARIANT.TOOL.gz` anew: `python -m tests.onnx.foreign.rewrite VARIANT...`.

They are what tools of deployers make of a file of porter's. The tools are not installed for the
tests (`pip install --no-deps onnxslim onnxsim onnxconverter-common`); the graph is kept as they
wrote it, the bytes of each weight are left out and named, for `files.py` to put them back.
"""

from __future__ import annotations

import gzip
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx

import porter
from porter import codecs
from porter.zoo.architectures import find
from porter.zoo.seeded import seeded
from tests.onnx.foreign.files import NOTE


def onnxslim(path: str) -> onnx.ModelProto:
    """Return the model as onnxslim makes it."""
    from onnxslim import slim

    return slim(path)


def onnxsim(path: str) -> onnx.ModelProto:
    """Return the model as onnxsim makes it."""
    from onnxsim import simplify

    return simplify(onnx.load(path))[0]


def onnxconverter(path: str) -> onnx.ModelProto:
    """Return the model as onnxconverter-common's optimiser makes it."""
    from onnxconverter_common.optimizer import optimize_onnx_model

    return optimize_onnx_model(onnx.load(path))


TOOLS: dict[str, Callable[[str], onnx.ModelProto]] = {
    "onnxslim": onnxslim,
    "onnxsim": onnxsim,
    "onnxconverter": onnxconverter,
}


def make(name: str, tool: str) -> None:
    """Write the file of one variant and tool."""
    variant = find(name)
    state = seeded(variant)
    with tempfile.TemporaryDirectory() as folder:
        source, path = f"{folder}/made.safetensors", f"{folder}/made.onnx"
        codecs.write(state, source, "safetensors")
        porter.convert(name, source, path, from_="torch", to="onnx", verify=False)
        found = TOOLS[tool](path)
    arrays = {key: np.array(tensor.read()) for key, tensor in state.items()}
    known = {_key(array): key for key, array in arrays.items()}
    transposed = {_key(array.T): key for key, array in arrays.items() if array.ndim == 2}
    noted = {}
    for tensor in found.graph.initializer:
        key = _key(onnx.numpy_helper.to_array(tensor))
        if key in known or key in transposed:
            # a square matrix may be both
            noted[tensor.name] = [known.get(key) or transposed[key], key not in known]
            for field in ("raw_data", "float_data"):
                tensor.ClearField(field)
    entry = found.metadata_props.add()
    entry.key, entry.value = NOTE, json.dumps(noted)
    path = Path(__file__).with_name(f"{name}.{tool}.gz")
    path.write_bytes(gzip.compress(found.SerializeToString(deterministic=True), 9, mtime=0))
    print(path.name, len(noted), "weights", path.stat().st_size, "bytes")


def _key(array: np.ndarray) -> tuple[tuple[int, ...], bytes]:
    return array.shape, np.ascontiguousarray(array).tobytes()


if __name__ == "__main__":
    for variant in sys.argv[1:]:
        for tool in TOOLS:
            make(variant, tool)
