"""What the tests of all formats share: scratch files in memory, which are removed."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.systems import MEMORY


@pytest.fixture(scope="session", autouse=True)
def _clean() -> Iterator[None]:
    yield
    for path in MEMORY.glob(f"porter-*-{os.getpid()}*"):
        path.unlink()
