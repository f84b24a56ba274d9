"""For the tests of a port: record any model's behaviour, assert that two sides are equivalent.

    from porter.testing import assert_equivalent, record

    def test_port():
        assert_equivalent(torch_model, paddle_model, "table.toml", {"image": batch})

    def test_port_of_a_known_architecture(tmp_path):
        record(my_paddle_model, tmp_path / "mine.safetensors", architecture="vit-tiny-p16-224")
        assert_equivalent("vit-tiny-p16-224", "official.pth", tmp_path / "mine.safetensors")

`pytest --porter-report=report.html` gathers the verdicts of a test run (see `plugin`).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from porter.testing.equivalence import assert_equivalent
    from porter.testing.recording import record
    from porter.verification.verdict import Verdict

__all__ = ["NotEquivalent", "assert_equivalent", "listeners", "record"]

_LAZY = {"assert_equivalent": "equivalence", "record": "recording"}

listeners: list[Callable[[Verdict], None]] = []
"""Called with every verdict of `assert_equivalent`, one that could not be made included."""


class NotEquivalent(AssertionError):
    """Two sides do not compute the same; `verdict` has the details."""

    def __init__(self, message: str, verdict: Verdict) -> None:
        super().__init__(message)
        self.verdict = verdict


def __getattr__(name: str) -> Any:
    """Import a function when it is first asked for: pytest loads this package in every run."""
    if name not in _LAZY:
        raise AttributeError(f"module 'porter.testing' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"porter.testing.{_LAZY[name]}"), name)
    globals()[name] = value
    return value
