"""Run ONNX files in ONNX Runtime; in a child process (`porter.frameworks.onnx.tools`)."""

from __future__ import annotations

import os
import tempfile
from typing import Any

import numpy as np

from porter.errors import InputError, UsageError
from porter.frameworks import exchange
from porter.frameworks.models import need
from porter.tensors.blocks import Array

_OUTSIDE = "session.model_external_initializers_file_folder_path"
_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64,
          "tensor(uint8)": np.uint8}  # fmt: skip


def session(
    path: str | os.PathLike[str],
    device: str = "cpu",
    save: str = "",
    *,
    plain: bool = False,
    outside: str = "",
) -> Any:
    """Return an inference session on `cpu` or `cuda[:n]`; `InputError` when it cannot be made.

    `save` names a file for the graph as ONNX Runtime optimises it, whatever the machine; a `plain`
    session runs the graph as it is written. `outside` is the folder of external data, where it is
    not that of the file.
    """
    need("onnxruntime")
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = int(os.environ.get("OMP_NUM_THREADS", "0") or 0)
    options.log_severity_level = 3
    if save:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = save
    if plain:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    given: str | bytes = os.fspath(path)
    if outside:
        options.add_session_config_entry(_OUTSIDE, outside)
        with open(path, "rb") as file:
            given = file.read()
    providers: list[Any] = ["CPUExecutionProvider"]
    if device.startswith("cuda"):
        if "CUDAExecutionProvider" not in ort.get_available_providers():
            raise UsageError("--device cuda: this onnxruntime has no CUDA provider")
        number = int(device.partition(":")[2] or 0)
        own = {"device_id": number, "use_tf32": 0}
        providers.insert(0, ("CUDAExecutionProvider", own))
    try:
        return ort.InferenceSession(given, options, providers=providers)
    except _errors() as error:
        raise InputError(f"ONNX Runtime does not load it: {_line(error)}", path) from error


def _errors() -> tuple[type[Exception], ...]:
    """Return ONNX Runtime's exceptions: one for each status, without a common root."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    kinds = [kind for kind in vars(state).values() if isinstance(kind, type)]
    return tuple(kind for kind in kinds if issubclass(kind, Exception))


def outputs(made: Any, image: Array, path: str | None = None) -> dict[str, Array]:
    """Return the outputs of a session for a batch of pictures, by name; errors name `path`."""
    given = made.get_inputs()[0]
    feed = {given.name: image.astype(_TYPES.get(given.type, np.float32))}
    names = [value.name for value in made.get_outputs()]
    try:
        found = made.run(names, feed)
    except _errors() as error:
        raise InputError(f"ONNX Runtime does not run it: {_line(error)}", path) from error
    return {name: np.asarray(value) for name, value in zip(names, found, strict=True)}


def run(
    path: str, inputs: str, output: str, value: str = "", outside: str = "", plain: bool = False
) -> dict[str, Any]:
    """Run each array of the file `inputs`; write the output `value`, or the first, of each by the
    same name. `outside` and `plain` are as for `session`."""
    made = session(path, outside=outside, plain=plain)
    arrays, _ = exchange.load(inputs)
    found = {}
    for name, image in arrays.items():
        given = outputs(made, image, path)
        found[name] = given[value] if value else next(iter(given.values()))
    exchange.save(output, found, {})
    return {}


def run_all(path: str, inputs: str, output: str, steps: int | None = None) -> dict[str, Any]:
    """Run each array of the file `inputs`; write all outputs of each, as `CASE/OUTPUT`.

    A Loop ends after `steps`, where they are given; `MissingPackage` without onnx then.
    """
    made = session(path) if steps is None else _short(path, steps)
    arrays, _ = exchange.load(inputs)
    found: dict[str, Array] = {}
    names: list[str] = []
    for case, image in arrays.items():
        given = outputs(made, image)
        names = list(given)
        found |= {f"{case}/{name}": array for name, array in given.items()}
    exchange.save(output, found, {})
    import onnxruntime

    return {"outputs": names, "versions": {"onnxruntime": onnxruntime.__version__}}


def _short(path: str, steps: int) -> Any:
    """Return a session of the model with Loops of at most some steps."""
    need("onnx")
    import onnx
    from onnx import numpy_helper

    model = onnx.load(path, load_external_data=False)
    counts = {node.input[0] for node in model.graph.node if node.op_type == "Loop"}
    for node in model.graph.node:
        if node.op_type == "Constant" and counts.intersection(node.output):
            node.attribute[0].t.CopyFrom(numpy_helper.from_array(np.array(steps, np.int64)))
    for tensor in model.graph.initializer:  # an optimiser has made it one
        if tensor.name in counts:
            tensor.CopyFrom(numpy_helper.from_array(np.array(steps, np.int64), tensor.name))
    with tempfile.TemporaryDirectory(prefix="porter-") as folder:
        short = os.path.join(folder, "short.onnx")
        onnx.save(model, short)
        return session(short, outside=os.path.dirname(os.path.abspath(path)))


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
