"""What the tests of all formats share: scratch files in memory, which are removed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session", autouse=True)
def _clean() -> Iterator[None]:
    yield
    for path in Path("/dev/shm").glob(f"porter-*-{os.getpid()}*"):
        path.unlink()
