"""Run models that ask for float32 in their code in the precision of their input.

The softmax of transformers' recognisers is in float32, and so are the heads of SLANet and SLANeXt,
in PaddleX too, whatever the rest computes in: a run in float64 fails, or is not one. While such a
model runs, its modules see a framework whose float32 is the input's precision.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from types import ModuleType
from typing import Any

_METHODS = {"torch": "float", "paddle": "astype"}
"""The method by which a tensor is made float32."""


class _Wide:
    """A framework with another precision in the place of float32."""

    def __init__(self, package: ModuleType, dtype: Any) -> None:
        self._package, self._dtype = package, dtype

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._package, name)
        if name == "float32":
            return self._dtype
        if callable(found) and not isinstance(found, type):
            return partial(_called, found, self._dtype)
        return found


def _called(function: Any, wide: Any, *args: Any, **options: Any) -> Any:
    """Call a function whose `dtype="float32"` is the wide one."""
    if options.get("dtype") == "float32":
        options["dtype"] = wide
    return function(*args, **options)


def widened(framework: str, model: Any, forward: Any, x: Any, *others: Any) -> Any:
    """Return what a model computes, where float32 is the precision of `x`, its first input."""
    package = sys.modules[framework]
    if x.dtype == package.float32:
        return forward(x, *others)
    layers = model.modules() if framework == "torch" else model.sublayers(include_self=True)
    homes = {type(layer).__module__: sys.modules[type(layer).__module__] for layer in layers}
    with ExitStack() as stack:
        for home in homes.values():
            if getattr(home, framework, None) is package:
                stack.enter_context(_replaced(home, framework, _Wide(package, x.dtype)))
        method = _METHODS[framework]
        usual = getattr(package.Tensor, method)
        stack.enter_context(_replaced(package.Tensor, method, _method(usual, x.dtype)))
        return forward(x, *others)


def _method(usual: Any, wide: Any) -> Any:
    """Return the method of a tensor that makes it wide where float32 is meant."""

    def cast(tensor: Any, dtype: Any = "float32") -> Any:
        return tensor.to(wide) if dtype == "float32" else usual(tensor, dtype)

    return cast


@contextmanager
def _replaced(holder: Any, name: str, value: Any) -> Iterator[None]:
    usual = getattr(holder, name)
    setattr(holder, name, value)
    try:
        yield
    finally:
        setattr(holder, name, usual)
