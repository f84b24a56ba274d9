"""Move model weights between frameworks, and prove that the move is right."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from porter.commands.convert import convert
    from porter.commands.diff import diff
    from porter.commands.doctor import doctor
    from porter.commands.init import init
    from porter.commands.inspect import inspect
    from porter.commands.load import load_model
    from porter.commands.pictures.evaluate import evaluate
    from porter.commands.pictures.predict import predict
    from porter.commands.repack import repack
    from porter.commands.repair import repair
    from porter.commands.verify import verify
    from porter.remote.fetch import read as open

_LAZY = {
    "open": ("porter.remote.fetch", "read"),
    "convert": ("porter.commands.convert", "convert"),
    "init": ("porter.commands.init", "init"),
    "inspect": ("porter.commands.inspect", "inspect"),
    "diff": ("porter.commands.diff", "diff"),
    "doctor": ("porter.commands.doctor", "doctor"),
    "predict": ("porter.commands.pictures.predict", "predict"),
    "repack": ("porter.commands.repack", "repack"),
    "evaluate": ("porter.commands.pictures.evaluate", "evaluate"),
    "repair": ("porter.commands.repair", "repair"),
    "verify": ("porter.commands.verify", "verify"),
    "load_model": ("porter.commands.load", "load_model"),
}

__all__ = [
    "__version__",
    "convert",
    "diff",
    "doctor",
    "evaluate",
    "init",
    "inspect",
    "load_model",
    "open",
    "predict",
    "repack",
    "repair",
    "verify",
]


def __getattr__(name: str) -> Any:
    """Import a public function when it is first asked for (`import porter` stays cheap)."""
    if name not in _LAZY:
        raise AttributeError(f"module 'porter' has no attribute {name!r}")
    module, attribute = _LAZY[name]
    value = getattr(importlib.import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Return the public names, those not yet imported included."""
    return sorted({*globals(), *__all__})
