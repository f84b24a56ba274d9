"""The weights of an ONNX file as the graph sees them, those in Constant nodes included."""

from __future__ import annotations

from porter.codecs.onnx import weights as onnx_weights
from porter.storage.input_file import InputFile
from porter.tensors.state_dict import StateDict


def weights(path: str) -> StateDict:
    """Return a model's initialisers and the floating arrays of its Constant nodes, where
    paddle2onnx stores all weights, by the names of the values that they make."""
    return onnx_weights.weights(InputFile(path))
