"""Make the files of this folder anew: `python -m tests.onnx.foreign.make VARIANT...`.

paddle2onnx asks for an old onnx and so cannot be installed beside the tests; where it is
(`pip install --no-deps paddle2onnx`) this exports the Paddle reference model on seeded weights.
What is kept is the graph as paddle2onnx wrote it; the bytes of each weight are left out and its
name in the Paddle model noted, so that `files.py` can put the same bytes back.
"""

from __future__ import annotations

import gzip
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
import paddle

from porter.frameworks.models import build
from porter.zoo.architectures import find
from tests.onnx.foreign.files import NOTE, paddle_state

BATCH = {"cait-xxs24-224": 1, "ceit-tiny-224": 1}
"""Of class tokens and a free batch paddle2onnx 2.1 makes a graph that no runtime loads."""


def make(name: str) -> None:
    """Write the file of one variant."""
    architecture = find(name)
    model = build(architecture, "paddle")
    model.eval()
    state = paddle_state(name)
    model.set_state_dict({key: paddle.to_tensor(value) for key, value in state.items()})
    size = architecture.image_size
    spec = paddle.static.InputSpec([BATCH.get(name), 3, size, size], "float32", "image")
    with tempfile.TemporaryDirectory() as folder:
        paddle.onnx.export(model, f"{folder}/made", input_spec=[spec], opset_version=17)
        found = onnx.load(f"{folder}/made.onnx")
    known = {(value.shape, value.tobytes()): key for key, value in state.items()}
    noted = {}
    for node in found.graph.node:
        for attribute in node.attribute if node.op_type == "Constant" else ():
            value = onnx.numpy_helper.to_array(attribute.t)
            key = known.get((value.shape, np.ascontiguousarray(value).tobytes()))
            if key is not None and value.size > 1:
                noted[node.output[0]] = key
                attribute.t.ClearField("raw_data")
                attribute.t.ClearField("float_data")
    entry = found.metadata_props.add()
    entry.key, entry.value = NOTE, json.dumps(noted)
    path = Path(__file__).with_name(f"{name}.paddle2onnx.gz")
    path.write_bytes(gzip.compress(found.SerializeToString(deterministic=True), 9, mtime=0))
    print(path.name, len(noted), "weights", path.stat().st_size, "bytes")


if __name__ == "__main__":
    for variant in sys.argv[1:]:
        make(variant)
