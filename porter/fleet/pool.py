"""Worker processes that run jobs one after the other, each with its frameworks loaded."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from porter.fleet.alike import LARGEST, key_of
from porter.fleet.crew import Crew, Row
from porter.fleet.job import FAILED, Job, Result
from porter.planning.custom_table import is_table

ATTEMPTS = 2
"""How often a job is begun whose worker ends without a result."""
_MOST = 64
"""Small jobs that a worker is sent at a time."""

Begin = Callable[[Sequence[Job]], None]
Finish = Callable[[Job, Result], None]


@dataclass(eq=False, slots=True)
class Batch:
    """Jobs that a worker is sent at a time: one, or several small ones."""

    jobs: list[Job]
    """Those without a result."""
    begun: dict[str, int] = field(default_factory=dict)
    """How often a job was the next one to be run."""

    def as_json(self) -> dict[str, Any]:
        """Return what a worker is sent."""
        first = self.jobs[0].name
        self.begun[first] = self.begun.get(first, 0) + 1
        return {"jobs": [job.as_json() for job in self.jobs]}


class LocalPool:
    """Runs jobs in processes of this machine."""

    def __init__(self, workers: int) -> None:
        self.workers = max(1, workers)

    def run(self, jobs: Sequence[Job], begin: Begin, finish: Finish) -> None:
        """Run jobs, as many at a time as there are workers.

        `begin` and `finish` are called by one thread at a time. A worker that ends, or is killed,
        is replaced; its job is begun once more and then counts as failed. Small jobs are sent
        several at a time, and what of them was not run goes back into the queue.
        """

        def take(batch: Batch, row: Row) -> None:
            for each in row["results"]:
                job = batch.jobs.pop(0)
                finish(job, Result.of(each))

        def done(batch: Batch, row: Row | None, why: str) -> list[Batch]:
            if row is not None:
                take(batch, row)
            elif batch.begun.get(batch.jobs[0].name, 0) >= ATTEMPTS:
                job = batch.jobs.pop(0)
                finish(job, Result(job.name, FAILED, why))
            return [Batch(batch.jobs, batch.begun)] if batch.jobs else []

        crew: Crew[Batch] = Crew(
            "porter.fleet.worker", self.workers, Batch.as_json, ATTEMPTS, part=take
        )
        crew.run(batches(jobs, self.workers), lambda batch: begin(batch.jobs), done)


def batches(jobs: Sequence[Job], workers: int) -> Iterator[Batch]:
    """Yield the jobs in their order, small ones with the same options together."""
    most = max(1, min(_MOST, len(jobs) // (4 * workers)))
    for kind, group in itertools.groupby(jobs, _kind if most > 1 else lambda job: ""):
        run, size = [*group], most if kind else 1
        yield from (Batch(run[at : at + size]) for at in range(0, len(run), size))


def _kind(job: Job) -> str:
    """Return the options of a job that takes a moment, without a forward proof; or nothing."""
    arguments = job.arguments
    proven = arguments.get("verify", True) and not is_table(str(arguments.get("architecture")))
    if proven or (kind := key_of(job)) is None:
        return ""
    try:
        return kind if os.path.getsize(job.sources[0]) <= LARGEST else ""
    except OSError:
        return ""
