"""Hardsigmoid and Hardswish in float64 on a GPU.

PyTorch's CUDA kernels multiply by 1/6 rounded to float32 in float64, too, which moves every value
by 3e-8 of it (aten/src/ATen/native/cuda/Activation{Hardsigmoid,Hardswish}Kernel.cu; its CPU kernels
divide by 6). A right port would fail by that.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any


def exact(device: str, dtype: Any) -> AbstractContextManager[Any]:
    """Return a context in which both functions divide by 6 where PyTorch's own do not."""
    import torch

    if device == "cpu" or dtype is not torch.float64:
        return nullcontext()
    return _mode()


@cache
def _functions() -> dict[Any, Any]:
    from torch.nn import functional

    def hardsigmoid(x: Any, inplace: bool = False) -> Any:
        made = (x + 3).clamp(0, 6) / 6
        return x.copy_(made) if inplace else made

    def hardswish(x: Any, inplace: bool = False) -> Any:
        given = x.clone() if inplace else x
        made = given * (given + 3).clamp(0, 6) / 6
        return x.copy_(made) if inplace else made

    return {functional.hardsigmoid: hardsigmoid, functional.hardswish: hardswish}


def _mode() -> AbstractContextManager[Any]:
    from torch.overrides import TorchFunctionMode

    class Exact(TorchFunctionMode):  # type: ignore[misc]
        def __torch_function__(
            self, function: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            return _functions().get(function, function)(*args, **(kwargs or {}))

    return Exact()
