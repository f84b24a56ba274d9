"""One conversion or proof of a manifest, and what came of it."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

PASSED, FAILED, NOT_MADE, REFUSED = "passed", "failed", "not made", "refused"
CONVERTED = "converted"
"""Written without a forward proof, because none was asked for or there are no models."""
GOOD = (PASSED, CONVERTED)


_encoded = json.JSONEncoder(sort_keys=True).encode


@dataclass(frozen=True, slots=True)
class Job:
    """A call of `porter.convert` or `porter.verify`."""

    name: str
    """Unique in its manifest; a safe file name."""
    command: str
    """`convert` or `verify`."""
    arguments: Mapping[str, Any]
    """Of the library function, by name; paths as they are opened."""
    preset: str | None = None
    """Of a conversion: the inputs and limits of a proof that follows it."""
    reports: str = ""
    """Folder for the verdict, as `NAME.html` and `NAME.json`."""

    @property
    def sources(self) -> tuple[str, ...]:
        """The checkpoints that it reads."""
        if self.command == "convert":
            return (str(self.arguments["source"]),)
        return str(self.arguments["left"]), str(self.arguments["right"])

    @property
    def output(self) -> str:
        """What it writes; empty for a proof."""
        return str(self.arguments.get("output", ""))

    @property
    def fingerprint(self) -> str:
        """Digest of everything that it is asked to do."""
        asked = [self.command, dict(self.arguments), self.preset]
        return hashlib.sha256(_encoded(asked).encode()).hexdigest()[:32]

    def as_json(self) -> dict[str, Any]:
        """Return it for a worker."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a job."""

    name: str
    status: str
    """`passed`, `converted`, `not made`, `failed` or `refused`."""
    message: str = ""
    """Why it failed, was not made or was refused."""
    architecture: str = ""
    sides: str = ""
    """`torch → paddle`, say."""
    output: str = ""
    nbytes: int = 0
    digest: str = ""
    """Of the output's last file."""
    tensors: int = 0
    """Tensors whose bytes were proven."""
    error: float | None = None
    """The largest error of the outputs, in the precision of the verdict, by the reference's rms."""
    share: float | None = None
    """The largest error as a share of its limit."""
    seconds: float = 0.0
    has_report: bool = False
    """Whether there is a verdict in the folder of reports."""

    @property
    def good(self) -> bool:
        """Whether all that was asked for was done, and no proof failed."""
        return self.status in GOOD

    def as_json(self) -> dict[str, Any]:
        """Return it for the journal."""
        return {name: getattr(self, name) for name in self.__slots__}

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Result:
        """Return a result that was written by `as_json`."""
        return cls(**row)


def since(begun: float) -> float:
    """Return the seconds of a job that was begun then, by `time.monotonic`."""
    return round(time.monotonic() - begun, 3)
