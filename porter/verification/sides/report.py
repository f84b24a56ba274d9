"""The description of a side in a report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any


@dataclass(frozen=True, slots=True)
class SideReport:
    """One side of a comparison: what ran, where, on which weights."""

    label: str
    """`torch` or `paddle`, with the dialect where it is not the framework's own."""
    framework: str
    dialect: str
    file: str
    format: str
    weights: tuple[str, ...] = ()
    """Element types of the floating weights."""
    behaviour: Mapping[str, bool | float] = field(default_factory=dict)
    """Settings in which it ran as its dialect's code; empty: as the canonical model."""
    direct: bool = True
    """Whether the process read the user's file itself: no mapping table had a part in it."""
    device: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    key: str = ""
    """Where in the file the state dict was, such as `model_ema`; empty at the top."""
    digest: str = ""
    """Of the bytes of the file or files; empty for weights that were given in memory."""
    recorded: bool = False
    """Whether it is a trace, recorded earlier and perhaps elsewhere."""


def recorded_side(row: Mapping[str, Any], path: str) -> SideReport:
    """Return the description of a side that a trace has; `ValueError` for one that is not text.

    Also raises `KeyError`, `TypeError` and `AttributeError` for what is no such description.
    """
    known = {field.name for field in fields(SideReport)}
    values = {name: value for name, value in row.items() if name in known}
    values |= {"weights": tuple(values["weights"]), "recorded": True, "file": path}
    report = SideReport(**values)
    texts = ("label", "framework", "dialect", "format", "device", "key", "digest")
    words = [*(getattr(report, name) for name in texts), *report.weights]
    words += [*report.versions, *report.versions.values()]
    if not all(isinstance(word, str) for word in words):
        raise ValueError("the description of its side is not text")
    return report
