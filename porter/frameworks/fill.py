"""Fill a live model with a state dict, in the calling process."""

from __future__ import annotations

from typing import Any

from porter.tensors.blocks import Array
from porter.tensors.lazy import LazyTensor


def fill(model: Any, state: dict[str, LazyTensor] | Any, framework: str) -> None:
    """Load a state dict in the framework's own dialect into a model, strictly.

    In memory are the model and one tensor at a time.
    """
    own = model.state_dict()
    missing, unexpected = sorted(set(own) - set(state)), sorted(set(state) - set(own))
    assert not missing, missing
    assert not unexpected, unexpected
    assign = _assign_torch if framework == "torch" else _assign_paddle
    for name, target in own.items():
        assign(target, state[name])


def _assign_paddle(target: Any, tensor: LazyTensor) -> None:
    import paddle

    dtype = str(target.dtype).rpartition(".")[2].lower()
    target.set_value(paddle.to_tensor(_wide(tensor).astype(dtype, order="C")))


def _assign_torch(target: Any, tensor: LazyTensor) -> None:
    """Fill a tensor on any device, its own memory where that is on the CPU."""
    import torch

    with torch.no_grad():
        alike = tuple(target.shape) == tensor.shape and target.is_contiguous()
        if not alike or str(target.dtype) != f"torch.{tensor.dtype.torch}":
            target.copy_(torch.from_numpy(_wide(tensor).copy(order="C")))
            return
        held = target if target.device.type == "cpu" else torch.empty_like(target, device="cpu")
        tensor.read_into(held.reshape(-1).view(torch.uint8).numpy().data)
        if held is not target:
            target.copy_(held)


def _wide(tensor: LazyTensor) -> Array:
    """Return a tensor's values, halves as float32."""
    array = tensor.read()
    return array.astype("float32") if tensor.dtype.name in ("bfloat16", "float16") else array
