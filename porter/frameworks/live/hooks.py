"""What is called around a module, and the tensors of what goes in and comes out."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

Before = Callable[[str, tuple[Any, ...], Mapping[str, Any]], None]
"""Called with the path of a module, its arguments and its keyword arguments."""
After = Callable[[str, Any], None]
"""Called with the path of a module and its output."""


def is_tensor(value: object) -> bool:
    """Whether a value is a tensor of torch or of Paddle."""
    return hasattr(value, "detach") and hasattr(value, "shape")


def takes_one(parameters: Iterable[inspect.Parameter]) -> bool:
    """Whether a call takes a single value, and so several inputs in one dict."""
    return [one.kind for one in parameters] == [inspect.Parameter.POSITIONAL_OR_KEYWORD]


def tensors_of(output: Any, at: str = "") -> dict[str, Any]:
    """Return the tensors of an output by their keys, joined by dots.

    Tuples, dicts, dataclasses and their mixtures are taken apart; what is not a tensor is left out.
    """
    if is_tensor(output):
        return {at or "0": output}
    items: Any = ()
    if isinstance(output, Mapping) or callable(getattr(output, "items", None)):
        items = output.items()
    elif isinstance(output, list | tuple):
        items = zip(getattr(output, "_fields", range(len(output))), output, strict=True)
    elif hasattr(output, "__dataclass_fields__"):
        items = vars(output).items()
    return {
        key: tensor
        for name, item in items
        for key, tensor in tensors_of(item, f"{at}.{name}" if at else str(name)).items()
    }
