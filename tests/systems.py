"""What differs between the systems that the tests run on."""

from __future__ import annotations

import tempfile
from pathlib import Path

_SHM = Path("/dev/shm")
MEMORY = _SHM if _SHM.is_dir() else Path(tempfile.gettempdir())
"""A folder for thousands of small files: in memory on Linux."""
