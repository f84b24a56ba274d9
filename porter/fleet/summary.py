"""What came of all jobs together, and how it compares with an earlier run."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from porter.errors import InputError
from porter.fleet.job import CONVERTED, FAILED, NOT_MADE, PASSED, REFUSED, Result
from porter.storage.input_file import read_small

SCHEMA = "porter.fleet/1"
_LARGEST = 1 << 28


@dataclass(frozen=True, slots=True)
class Summary:
    """The results of a manifest, in its order."""

    manifest: str
    results: tuple[Result, ...]
    before: Mapping[str, float] = field(default_factory=dict)
    """Name of a job to its largest error in the run that is compared with."""

    reports: str = ""
    """Folder of the verdicts."""

    @property
    def exit_code(self) -> int:
        """1 if a job failed or was refused, 3 if a proof was not made, 0 otherwise."""
        statuses = {result.status for result in self.results}
        if statuses & {FAILED, REFUSED}:
            return 1
        return 3 if NOT_MADE in statuses else 0

    @property
    def counts(self) -> dict[str, int]:
        """Number of jobs by status, those that there are."""
        order = (PASSED, CONVERTED, NOT_MADE, FAILED, REFUSED)
        counted = {s: sum(r.status == s for r in self.results) for s in order}
        return {status: count for status, count in counted.items() if count}

    @property
    def headline(self) -> str:
        """One line: how many jobs came out how."""
        parts = [f"{count} {status}" for status, count in self.counts.items()]
        return f"{len(self.results)} jobs: {', '.join(parts)}"

    def change(self, result: Result) -> str:
        """Return how an error compares with that of the earlier run, empty where it had none."""
        was = self.before.get(result.name)
        return "" if was is None or result.error is None else f"was {was:.2g}"

    @property
    def seconds(self) -> float:
        """Time of all jobs together."""
        return sum(result.seconds for result in self.results)


def read_baseline(path: str | os.PathLike[str]) -> dict[str, float]:
    """Return the errors of an earlier run by job; `InputError` for a file that is no summary."""
    name = os.fspath(path)
    try:
        content: Any = json.loads(read_small(name, _LARGEST))
        if content["schema"] != SCHEMA:
            raise KeyError
        rows = content["jobs"]
        return {r["name"]: float(r["error"]) for r in rows if r.get("error") is not None}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as fault:
        raise InputError(f"is not a summary of porter fleet ({SCHEMA})", name) from fault
