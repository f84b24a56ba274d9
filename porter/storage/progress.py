"""How work that takes its time reports how far it is."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with what is done, the bytes done and the bytes in all (0: unknown).

Both are 0 where the work is not measured in bytes: then the text names the step that begins,
and the step before it is done. May be called from any thread, one call at a time.
"""

Advance = Callable[[int, int], None]
"""Called with the bytes done and the bytes in all, from the calling thread."""
