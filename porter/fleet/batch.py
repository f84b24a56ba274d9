"""Jobs that a worker is sent at a time: one, or several small ones with the same options.

And the frameworks that they need.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from porter.fleet.alike.form import LARGEST
from porter.fleet.alike.learnt import Key, key_of
from porter.fleet.job import Job
from porter.planning.custom_table import is_table

_MOST = 64
"""Small jobs that a worker is sent at a time."""


@dataclass(eq=False, slots=True)
class Batch:
    """What a worker is sent."""

    jobs: list[Job]
    """Those without a result."""
    begun: dict[str, int] = field(default_factory=dict)
    """How often a job was the next one to be run."""

    def as_json(self) -> dict[str, Any]:
        """Return it for the worker; the first job is about to be run.

        What a worker that was killed may have written is replaced.
        """
        first = _replacing(self.jobs[0]) if self.was_sent else self.jobs[0]
        self.begun[first.name] = self.begun.get(first.name, 0) + 1
        files = [(job.name, job.sources[0], job.output) for job in self.jobs[1:]]
        return {"first": first.as_json(), "files": files}

    @property
    def was_sent(self) -> bool:
        """Whether a worker has had all of the jobs."""
        return bool(self.begun)


def jobs_of(row: Mapping[str, Any]) -> list[Job]:
    """Return the jobs of a batch that `as_json` wrote."""
    first = Job(**row["first"])
    same = dict(first.arguments)
    return [first] + [
        Job(name, first.command, {**same, "source": source, "output": output}, None, first.reports)
        for name, source, output in row["files"]
    ]


def _replacing(job: Job) -> Job:
    if job.command != "convert":
        return job
    return replace(job, arguments={**job.arguments, "force": True})


def batches(jobs: Sequence[Job], workers: int) -> Iterator[Batch]:
    """Yield the jobs in their order, small ones with the same options together."""
    most = max(1, min(_MOST, len(jobs) // (4 * workers)))
    for kind, group in itertools.groupby(jobs, _kind if most > 1 else lambda job: None):
        while run := [*itertools.islice(group, most if kind else 1)]:
            yield Batch(run)


def _kind(job: Job) -> Key | None:
    """Return the options of a job that takes a moment, without a forward proof."""
    arguments = job.arguments
    proven = arguments.get("verify", True) and not is_table(str(arguments.get("architecture")))
    if proven or (kind := key_of(job)) is None:
        return None
    try:
        return kind if os.path.getsize(job.sources[0]) <= LARGEST else None
    except OSError:
        return None


_FRAMEWORKS = ("torch", "paddle")


def frameworks_of(job: Job) -> tuple[str, ...]:
    """Return the frameworks that a proof may start: of a conversion those it names, else both."""
    name = job.arguments.get("architecture")
    if job.command != "convert":
        return _FRAMEWORKS
    if name is None or is_table(name) or not job.arguments.get("verify", True):
        return ()
    sides = [str(job.arguments.get(key)).partition(":")[0] for key in ("from_", "to")]
    return tuple(framework for framework in _FRAMEWORKS if framework in sides)
