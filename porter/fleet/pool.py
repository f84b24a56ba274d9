"""Worker processes that run jobs one after the other, each with its frameworks loaded."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from porter.fleet.children import Children, Row, threads, threads_of_a_framework
from porter.fleet.crew import Crew
from porter.fleet.job import FAILED, Job, Result
from porter.frameworks.fork_server import IS_POSSIBLE, ForkServer
from porter.frameworks.process import environment, share

if TYPE_CHECKING:
    from porter.fleet.batch import Batch

ATTEMPTS = 2
"""How often a job is begun whose worker ends without a result."""
_MODULE = "porter.fleet.worker"

Begin = Callable[[Sequence[Job]], None]
Finish = Callable[[Sequence[Result]], None]


class LocalPool:
    """Runs jobs in processes of this machine.

    In a `with` statement the processes start at once, while the manifest is read. Several have
    frameworks that are forked from one process.
    """

    def __init__(self, workers: int) -> None:
        self.workers = max(1, workers)
        names = ("torch", "paddle") if IS_POSSIBLE and self.workers > 1 else ()
        self._servers = [ForkServer(name) for name in names]
        channels = {server.framework: server.channel for server in self._servers}
        kept = [server.descriptor for server in self._servers]
        self._children = Children(_MODULE, self.workers, channels, kept)

    def __enter__(self) -> Self:
        self._children.start(self.workers)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._children.close()
        for server in self._servers:
            server.close()

    def run(self, jobs: Sequence[Job], begin: Begin, finish: Finish) -> None:
        """Run jobs, as many at a time as there are workers.

        `begin` and `finish` are called by one thread at a time. A worker that ends, or is killed,
        is replaced; its job is begun once more and then counts as failed. Small jobs are sent
        several at a time, and what of them was not run goes back into the queue.
        """
        # The processes are loading the same now.
        from porter.fleet.batch import Batch, batches, frameworks_of

        def take(batch: Batch, row: Row) -> None:
            done = [*map(Result.of, row["results"])]
            del batch.jobs[: len(done)]
            finish(done)

        def done(batch: Batch, row: Row | None, why: str) -> list[Batch]:
            if row is not None:
                take(batch, row)
            elif batch.begun.get(batch.jobs[0].name, 0) >= ATTEMPTS:
                job = batch.jobs.pop(0)
                finish([Result(job.name, FAILED, why)])
            begun = batch.begun if row is None else {}
            return [Batch(batch.jobs, begun)] if batch.jobs else []

        self._start_servers({name for job in jobs for name in frameworks_of(job)})
        crew = Crew(self._children, self.workers, Batch.as_json, ATTEMPTS, part=take)
        try:
            crew.run(batches(jobs, self.workers), lambda batch: begin(batch.jobs), done)
        finally:
            for server in self._servers:
                server.close()

    def _start_servers(self, frameworks: Collection[str]) -> None:
        """Start those of some frameworks; without one, a worker's frameworks start anew."""
        # As many threads as a worker's would have.
        each = min(share(), threads_of_a_framework(threads(self.workers)))
        for server in self._servers:
            if server.framework in frameworks:
                server.start(environment(server.framework, each))
            else:
                server.close()


def usual() -> int:
    """Return how many workers there are if nobody says: both sides of a proof run at a time."""
    return max(1, (os.cpu_count() or 2) // 2)
