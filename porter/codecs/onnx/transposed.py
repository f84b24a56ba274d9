"""Weights that a file has transposed, as a runtime's MatMul takes them, under their names again.

PyTorch keeps the weight of a linear layer as (out, in), a MatMul reads (in, out). Porter's ONNX
files have such a matrix transposed, under its name and `.T`, and list the names in the metadata.
"""

from __future__ import annotations

import json

from porter.errors import InputError
from porter.tensors.lazy import LazyTensor
from porter.tensors.state_dict import StateDict

TRANSPOSED = "porter.transposed"
"""Metadata key: a JSON list of the names of the weights."""


def stored_name(name: str) -> str:
    """Return what a weight is called where it is transposed."""
    return f"{name}.T"


def transposed(tensor: LazyTensor) -> LazyTensor:
    """Return a matrix transposed; twice is the tensor itself."""
    from porter.tensors.operations import Permute  # Takes longer to load than a look at a file.

    return Permute((1, 0)).apply(tensor)


def straightened(state: StateDict) -> StateDict:
    """Return the state dict with its listed weights as they were; others are left alone.

    `InputError` when the list is malformed.
    """
    text = state.origin.metadata.get(TRANSPOSED) if state.origin is not None else None
    if text is None:
        return state
    names = {stored_name(name): name for name in _names(text, state)}
    found: dict[str, LazyTensor] = {}
    for name, tensor in state.items():
        listed = name in names and names[name] not in state and len(tensor.shape) == 2
        found[names[name] if listed else name] = transposed(tensor) if listed else tensor
    return StateDict(found, state.origin)


def _names(text: str, state: StateDict) -> list[str]:
    assert state.origin is not None
    try:
        names = json.loads(text)
    except (ValueError, RecursionError):
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(f"the note {TRANSPOSED} is malformed", state.origin.path)
    return names
