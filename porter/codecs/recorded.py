"""The name of the model that a training script saved beside the weights."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from porter.codecs.pickle.values import Opaque

_NAMES = ("arch", "architecture", "model_name", "model_type", "model")
_ARGUMENTS = ("args", "hyper_parameters", "hparams", "config", "cfg", "opt")
_PICTURES = ("mean", "std", "crop_pct", "eval_crop_ratio", "interpolation")
_LONGEST = 200


def model_name(tree: object) -> str:
    """Return `arch` of a checkpoint (timm, torchvision), or `model` of its arguments; else ""."""
    for attributes in _attributes(tree):
        for name in _NAMES:
            value = attributes.get(name)
            if isinstance(value, str) and 0 < len(value) <= _LONGEST:
                return value
    return ""


def preprocessing(tree: object) -> dict[str, Any]:
    """Return what the arguments of a checkpoint state about pictures (timm's and DeiT's names)."""
    found: dict[str, Any] = {}
    for attributes in _attributes(tree):
        for name in _PICTURES:
            value = attributes.get(name)
            if attributes is not tree and _is_plain(value):
                found.setdefault(name, value)
    return found


def _is_plain(value: object) -> bool:
    """Whether a value is a text, a number or a few numbers."""
    if isinstance(value, str):
        return 0 < len(value) <= _LONGEST
    numbers = value if isinstance(value, list | tuple) else [value]
    return len(numbers) <= 3 and all(type(number) in (int, float) for number in numbers)


def _attributes(tree: object) -> Iterator[dict[Any, Any]]:
    """Yield the checkpoint and the dictionaries and namespaces of arguments in it."""
    if not isinstance(tree, dict):
        return
    yield tree
    for name in _ARGUMENTS:
        value = tree.get(name)
        parts = value.parts if isinstance(value, Opaque) else [value]
        yield from (part for part in parts if isinstance(part, dict))
