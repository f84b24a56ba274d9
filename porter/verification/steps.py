"""Report what a proof is doing: one step at a time, or one of each side."""

from __future__ import annotations

import threading
from collections.abc import Callable

from porter.storage.progress import Progress

Step = Callable[[str], None]
"""Called with the name of the step that begins."""


class Steps:
    """The steps of a proof, passed on to a `Progress`; nothing happens without one."""

    def __init__(self, progress: Progress | None = None) -> None:
        self._progress = progress
        self._lock = threading.Lock()
        self._parts: dict[str, str] = {}

    def begin(self, step: str) -> None:
        """Report the step that begins; those of the sides are over."""
        with self._lock:
            self._parts.clear()
            self._report(step)

    def part(self, name: str, step: str) -> None:
        """Report what one of several parts that work in parallel does now; "" when it is done."""
        with self._lock:
            self._parts[name] = step
            running = [f"{part}: {text}" for part, text in self._parts.items() if text]
            if running:
                self._report("; ".join(running))

    def _report(self, step: str) -> None:
        if self._progress is not None:
            self._progress(step, 0, 0)
