"""Have a written model rewritten, optimised or quantised: it no longer maps back."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

from porter import codecs
from porter.codecs.onnx.transposed import TRANSPOSED
from porter.codecs.writing import Output
from porter.errors import UsageError, listed
from porter.frameworks import exchange
from porter.frameworks.process import Worker
from porter.onnx.export import metadata, model
from porter.storage import atomic_output
from porter.storage.atomic_output import Written
from porter.storage.input_file import InputFile
from porter.storage.options import WriteOptions
from porter.storage.pieces import Body
from porter.tensors.blocks import Array
from porter.tensors.dtypes import DTYPES
from porter.tensors.lazy import Extent, LazyTensor
from porter.tensors.state_dict import StateDict

OPTIMIZERS = ("onnxruntime", "onnxscript")
_BY_CHANNEL = 13
"""The first operator set in which QuantizeLinear has an axis."""
_OF_WEIGHTS = (metadata.UNUSED, TRANSPOSED)
"""What is only said of a model whose weights come back."""


def optimized(
    state: StateDict,
    path: str,
    said: Mapping[str, str],
    sheet: model.Sheet,
    optimizer: str,
    options: WriteOptions,
    inputs: Sequence[str],
) -> Written:
    """Write the model as `optimizer`, one of `OPTIMIZERS`, makes it, and say so in it.

    ONNX Runtime's fuses operations into its own, which only it runs; onnxscript's keeps to ONNX.
    """
    if optimizer not in OPTIMIZERS:
        raise UsageError(f"--optimize {optimizer} is none of {listed(OPTIMIZERS)}")
    said = {**said, metadata.OPTIMIZED: optimizer}
    request = {"command": "optimize", "optimizer": optimizer}
    return _rewritten(state, path, said, sheet, request, options, inputs)


def quantized(
    state: StateDict,
    path: str,
    said: Mapping[str, str],
    sheet: model.Sheet,
    calibration: Mapping[str, Array],
    options: WriteOptions,
    inputs: Sequence[str],
) -> Written:
    """Write the model with int8 weights, and say so in it.

    `calibration` are batches on which the ranges of activations are measured; without any, they
    are measured whenever the model runs. `UsageError` for a model of more than protobuf reads,
    or an operator set in which such a model cannot be written.
    """
    if model.size_of(sheet, state) > model.LARGEST * 0.98:
        raise UsageError("--dtype int8 takes models below 2 GiB, which protobuf reads")
    if calibration and sheet.opsets[""] < _BY_CHANNEL:
        raise UsageError(f"--calibrate needs opset {_BY_CHANNEL} or later, for scales by channel")
    how = "static" if calibration else "dynamic"
    said = {key: text for key, text in said.items() if key not in _OF_WEIGHTS}
    said[metadata.QUANTIZED] = how
    with tempfile.TemporaryDirectory(prefix="porter-") as folder:
        request = {"command": "quantize", "calibration": ""}
        if calibration:
            request["calibration"] = os.path.join(folder, "batches.safetensors")
            exchange.save(request["calibration"], calibration, {})
        return _rewritten(state, path, said, sheet, request, options, inputs)


def _rewritten(
    state: StateDict,
    path: str,
    said: Mapping[str, str],
    sheet: model.Sheet,
    request: Mapping[str, Any],
    options: WriteOptions,
    inputs: Sequence[str],
) -> Written:
    """Write the model as a tool makes it of the plain one; `request` is that of the worker."""
    with tempfile.TemporaryDirectory(prefix="porter-") as folder:
        plain, rewritten = (os.path.join(folder, name) for name in ("plain.onnx", "made.onnx"))
        fast = WriteOptions(sync=False, read_back=False, digests=False)
        atomic_output.publish(plain, model.pieces(sheet, state, said), fast)
        with Worker("onnx-tools") as worker:
            worker.request(path=plain, output=rewritten, **request)
        file = InputFile(rewritten)
        extent = Extent(file, 0, file.size)
        whole = LazyTensor.stored(DTYPES["uint8"], (file.size,), extent)
        # None of the tensors is in the file as it was: only the file as a whole is on record.
        read = codecs.CODECS["onnx"].read
        output = Output(StateDict({}), path, read, options, metadata=said, inputs=inputs)
        with output.locked():
            pieces = [Body("model", whole)]
            return output.finished(output.file(path, pieces, {"model": whole}, opaque=True))
