"""Enough of torchvision to import timm's model definitions: names, and nothing that computes."""

from __future__ import annotations

import sys
from types import ModuleType


class _Name(type):
    """A class whose attributes are such classes too."""

    def __getattr__(cls, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        made = _Name(name, (), {})
        setattr(cls, name, made)
        return made


class _Names(ModuleType):
    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        made = _Name(name, (), {})
        setattr(self, name, made)
        return made


for _name in ("ops", "ops.misc", "transforms", "transforms.functional", "datasets"):
    _above, _, _last = f"{__name__}.{_name}".rpartition(".")
    sys.modules[f"{__name__}.{_name}"] = _Names(f"{__name__}.{_name}")
    setattr(sys.modules[_above], _last, sys.modules[f"{__name__}.{_name}"])
