"""How work that takes its time reports how far it is."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with what is done, the bytes done and the bytes in all (0: unknown)."""

Advance = Callable[[int, int], None]
"""Called with the bytes done and the bytes in all, from the calling thread."""
