"""Find the framework of a model: `python -m porter.frameworks.probe REQUEST` prints it.

The code is imported until it imports torch or paddle, which ends the process: no framework is
loaded, and two never meet in one process.
"""

from __future__ import annotations

import importlib.abc
import json
import os
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

from porter.frameworks.build_reference import member

_FRAMEWORKS = ("torch", "paddle")


class _Watch(importlib.abc.MetaPathFinder):
    """Prints the first framework that is imported, and ends the process."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname in _FRAMEWORKS:
            os.write(self._descriptor, f"{fullname}\n".encode())
            os._exit(0)
        return None


def main(request: str) -> None:
    """Import what a `Reference.request` names, and print its framework."""
    asked = json.loads(request)
    answer = os.dup(1)
    os.dup2(2, 1)  # What the code prints is not the answer.
    sys.meta_path.insert(0, _Watch(answer))
    member(asked["place"], asked["name"])


if __name__ == "__main__":
    main(sys.argv[1])
