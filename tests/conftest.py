"""What all tests share."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
from pathlib import Path

import pytest

# `from tests.… import` works from any environment. At the end of the path, so that an installed
# porter is tested where there is one, and not the source tree.
sys.path.append(str(Path(__file__).parents[1]))

# A shell without job control has what runs in the background ignore SIGINT, and so its children.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Separate environments have their own tests, run by `make bare`, `make old` and `make clouds`.
collect_ignore = ["bare", "old"] if importlib.util.find_spec("torch") else []
if importlib.util.find_spec("gcsfs") is None:
    collect_ignore.append("clouds")
# These consist of shell scripts, permissions, strace and limits of the system.
if os.name != "posix":
    collect_ignore += [
        "test_action.py",
        "codecs/sharded/test_writing.py",
        "storage/test_atomic_output.py",
        "storage/test_read_only.py",
        "verification/test_interpreters.py",
    ]
SYSTEMS = {"linux": sys.platform == "linux", "posix": os.name == "posix"}
"""Markers of tests for some systems only, and whether this one is among them."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests that are marked for another system."""
    for item in items:
        for name, applies in SYSTEMS.items():
            if item.get_closest_marker(name) is not None and not applies:
                item.add_marker(pytest.mark.skip(reason=f"for {name} only"))


if importlib.util.find_spec("hypothesis"):
    from hypothesis import settings

    # The same examples on every run, and no time limit that a busy machine could break.
    settings.register_profile("porter", deadline=None, derandomize=True)
    settings.load_profile("porter")
