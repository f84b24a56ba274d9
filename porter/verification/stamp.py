"""What ties a verdict to bytes and to a moment: digests of the files, the date, the time taken."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime

from porter.storage.digests import Digest
from porter.storage.pieces import WRITE_BLOCK
from porter.verification.verdict import Verdict


class Clock:
    """Runs from its creation; the date is that of the beginning."""

    def __init__(self) -> None:
        self.date = datetime.now(UTC).isoformat(timespec="seconds")
        self._begun = time.monotonic()

    @property
    def seconds(self) -> float:
        """The seconds until now."""
        return time.monotonic() - self._begun

    def stamped(self, verdict: Verdict) -> Verdict:
        """Add the date and the seconds until now."""
        return replace(verdict, date=self.date, seconds=self.seconds)


def digest(files: Iterable[str]) -> str:
    """Return the digest of a checkpoint's bytes, of several files one after the other.

    Empty where a file is not on this machine.
    """
    running = Digest()
    names = sorted(files)
    if not all(os.path.isfile(name) for name in names):
        return ""
    for name in names:
        with open(name, "rb") as file:
            while block := file.read(WRITE_BLOCK):
                running.update(block)
    return running.text() if names else ""
