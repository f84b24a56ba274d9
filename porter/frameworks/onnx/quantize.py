"""Quantise ONNX files with ONNX Runtime's own quantiser; in a child process."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from porter.frameworks import exchange
from porter.frameworks.models import need
from porter.tensors.blocks import Array

_DYNAMIC = ("MatMul", "Gemm")
"""Operations whose inputs are quantised as they come: of a Conv, ONNX Runtime runs no such form
of int8 weights."""
_BY_CHANNEL, _LEAST = 13, 256
"""The first operator set with scales by channel; elements of the smallest kernel in int8."""
_STATIC = ("MatMul", "Gemm", "Conv")


def quantize(path: str, output: str, calibration: str = "") -> dict[str, Any]:
    """Write the model at `path` with int8 weights, one scale for each output channel.

    Without `calibration` the inputs of each layer are quantised when the model runs. With it, a
    file of batches that the model takes, their ranges are measured on those and stored with the
    weights as QuantizeLinear and DequantizeLinear. Products of two activations stay float32.
    `MissingPackage` without onnx and onnxruntime.
    """
    for package in ("onnx", "onnxruntime"):
        need(package)
    from onnxruntime import quantization

    logging.disable(logging.WARNING)  # It advises steps of its own, on the root logger.
    common: dict[str, Any] = {"per_channel": True, "weight_type": quantization.QuantType.QInt8}
    if not calibration:
        quantization.quantize_dynamic(path, output, op_types_to_quantize=list(_DYNAMIC), **common)
        _store_kernels(output)
        return {}
    arrays, _ = exchange.load(calibration)
    quantization.quantize_static(
        path, output, _Batches(_input(path), arrays),
        quant_format=quantization.QuantFormat.QDQ, op_types_to_quantize=list(_STATIC),
        activation_type=quantization.QuantType.QUInt8,  # Signed ones do not load from opset 21 on.
        extra_options={"MatMulConstBOnly": True}, **common,
    )  # fmt: skip
    return {}


def _store_kernels(path: str) -> None:
    """Store the kernels of convolutions in int8, one scale for each output channel.

    They are float32 again when they are used: ONNX Runtime has no convolution of int8 weights
    whose input is quantised as it comes.
    """
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load(path)
    graph = model.graph
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    if opset < _BY_CHANNEL:
        return
    read = Counter(name for node in graph.node for name in node.input)
    kernels = {node.input[1]: node for node in graph.node if node.op_type == "Conv"}
    for tensor in list(graph.initializer):
        if tensor.name not in kernels or read[tensor.name] > 1:
            continue
        node, kernel = kernels[tensor.name], numpy_helper.to_array(tensor)
        if kernel.dtype != np.float32 or kernel.size < _LEAST:
            continue
        largest = np.abs(kernel).reshape(len(kernel), -1).max(1)
        scale = np.where(largest > 0, largest / 127, 1).astype(np.float32)
        whole = np.rint(kernel / scale.reshape(-1, *[1] * (kernel.ndim - 1))).astype(np.int8)
        names = [f"{tensor.name}_{part}" for part in ("quantized", "scale", "dequantized")]
        graph.initializer.remove(tensor)
        graph.initializer.append(numpy_helper.from_array(whole, names[0]))
        graph.initializer.append(numpy_helper.from_array(scale, names[1]))
        made = helper.make_node("DequantizeLinear", names[:2], names[2:], f"/{names[2]}", axis=0)
        node.input[1] = names[2]
        graph.node.insert(0, made)
    onnx.save(model, path)


def _input(path: str | os.PathLike[str]) -> str:
    import onnx

    return str(onnx.load(path, load_external_data=False).graph.input[0].name)


class _Batches:
    """What the quantiser reads batches from, one at a time."""

    def __init__(self, name: str, arrays: Mapping[str, Array]) -> None:
        self._name = name
        self._arrays = arrays
        self.rewind()

    def get_next(self) -> dict[str, Array] | None:
        """Return the next batch under the input's name, None after the last."""
        array = next(self._rest, None)
        return None if array is None else {self._name: array}

    def rewind(self) -> None:
        """Begin again."""
        self._rest = iter(self._arrays.values())
