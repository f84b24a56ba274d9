"""Have onnx's own checker look at a file, with full shape inference."""

from __future__ import annotations

import os

from porter.errors import MissingPackage
from porter.frameworks.process import Worker


def check(path: str | os.PathLike[str]) -> str | None:
    """Return what the checker finds wrong, empty if nothing, None where onnx is not installed."""
    try:
        with Worker("onnx-tools") as worker:
            return str(worker.request("check", path=os.path.abspath(path))["problem"])
    except MissingPackage:
        return None
