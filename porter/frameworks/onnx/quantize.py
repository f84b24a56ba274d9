"""Quantise ONNX files with ONNX Runtime's own quantiser; in a child process."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any

from porter.frameworks import exchange
from porter.frameworks.models import need
from porter.tensors.blocks import Array

_DYNAMIC = ("MatMul", "Gemm")
"""Operations whose inputs are quantised as they come: of a Conv, ONNX Runtime runs no such form."""
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
        return {}
    arrays, _ = exchange.load(calibration)
    quantization.quantize_static(
        path, output, _Batches(_input(path), arrays),
        quant_format=quantization.QuantFormat.QDQ, op_types_to_quantize=list(_STATIC),
        activation_type=quantization.QuantType.QUInt8,  # Signed ones do not load from opset 21 on.
        extra_options={"MatMulConstBOnly": True}, **common,
    )  # fmt: skip
    return {}


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
