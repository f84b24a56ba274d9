"""Worker processes that run jobs one after the other, each with its frameworks loaded."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from porter.fleet.crew import Crew, Row
from porter.fleet.job import FAILED, Job, Result

ATTEMPTS = 2
"""How often a job is begun whose worker ends without a result."""

Begin = Callable[[Job], None]
Finish = Callable[[Job, Result], None]


class LocalPool:
    """Runs jobs in processes of this machine."""

    def __init__(self, workers: int) -> None:
        self.workers = max(1, workers)

    def run(self, jobs: Sequence[Job], begin: Begin, finish: Finish) -> None:
        """Run jobs, as many at a time as there are workers.

        `begin` and `finish` are called by one thread at a time. A worker that ends, or is killed,
        is replaced; its job is begun once more and then counts as failed.
        """

        def done(job: Job, row: Row | None, why: str) -> None:
            finish(job, Result(job.name, FAILED, why) if row is None else Result.of(row))

        Crew("porter.fleet.worker", self.workers, Job.as_json, ATTEMPTS).run(jobs, begin, done)
