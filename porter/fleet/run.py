"""Run a manifest."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from porter.errors import UsageError
from porter.fleet import manifest as manifests
from porter.fleet.job import Job, Result
from porter.fleet.journal import Journal
from porter.fleet.pool import Begin, Finish, LocalPool, usual
from porter.fleet.summary import Summary, read_baseline
from porter.remote.address import is_url

Watch = Callable[[Result, int, int], None]
"""Called with each result, how many there are, and how many there will be."""


class Runner(Protocol):
    """Where jobs are run."""

    def run(self, jobs: Sequence[Job], begin: Begin, finish: Finish) -> None: ...


@dataclass(frozen=True, slots=True)
class Planned:
    """What a job would do, as far as it can be said without reading a checkpoint."""

    job: Job
    nbytes: int | None
    """Of its sources; None at an address."""
    seconds: float
    """About how long it takes."""


def plan(path: str | os.PathLike[str]) -> list[Planned]:
    """Return what a manifest would do; raises as `fleet`, and writes nothing."""
    return [_planned(job) for job in manifests.read(path).jobs]


def fleet(
    path: str | os.PathLike[str],
    *,
    workers: int | None = None,
    runner: Runner | None = None,
    resume: bool = False,
    baseline: str | os.PathLike[str] | None = None,
    watch: Watch | None = None,
) -> Summary:
    """Run the conversions and proofs of a manifest, each whole or not at all.

    Parameters:
        path: TOML or YAML file with `[defaults]` and `[[jobs]]` (docs/scale.md).
        workers: Processes at a time; None for one for every two cores.
        runner: Where jobs are run, in place of processes of this machine.
        resume: Leave out what an earlier run of the same manifest has finished, and whose outputs
            are still as they were written.
        baseline: Summary of an earlier run (JSON), with which errors are compared.
        watch: Called when a job is done.

    Returns a `Summary` of all jobs. A job that fails, or is refused, does not stop the others.
    Raises `InputError` and `UsageError` for a manifest that is wrong, before anything is run.
    """
    content = manifests.read(path)
    before = read_baseline(baseline) if baseline is not None else {}
    if not resume:  # Before the journal of an earlier run is begun anew.
        for job in content.jobs:
            _refuse_existing(job)
    journal = Journal(content.path)
    results: dict[str, Result] = {}
    with journal.opened(resume):
        todo: list[Job] = []
        for job in content.jobs:
            known = journal.done(job) if resume else None
            if known is None:
                todo.append(_replacing(job, journal))
            else:
                results[job.name] = known
        originals = {job.name: job for job in content.jobs}
        for job in todo if resume else ():
            _refuse_existing(job)
        os.makedirs(journal.reports, exist_ok=True)
        todo = [
            Job(job.name, job.command, job.arguments, job.preset, journal.reports) for job in todo
        ]

        def finish(done: Sequence[Result]) -> None:
            journal.finish(done)
            for result in done:
                results[result.name] = result
                if watch is not None:
                    watch(result, len(results), len(content.jobs))

        if todo:
            chosen = LocalPool(workers or usual()) if runner is None else runner
            chosen.run(
                todo, lambda jobs: journal.begin([originals[job.name] for job in jobs]), finish
            )
    ordered = tuple(results[job.name] for job in content.jobs)
    return Summary(os.path.basename(content.path), ordered, before, journal.reports)


def _replacing(job: Job, journal: Journal) -> Job:
    """Return a job that may replace its output, if an earlier run had begun it."""
    if job.command == "convert" and journal.was_begun(job):
        return replace(job, arguments={**job.arguments, "force": True})
    return job


def _refuse_existing(job: Job) -> None:
    """Raise `UsageError` for an output that is there, before anything is run."""
    output = job.output
    is_kept = output and not job.arguments.get("force") and not is_url(output)
    if is_kept and os.path.lexists(output):
        raise UsageError(
            "exists already; force = true replaces it, --resume goes on with an earlier run",
            output,
        )


_RATE, _PROOF, _START = 300e6, 6.0, 0.3
"""Bytes a second of a conversion, seconds of a forward proof, of a start: of two slow cores."""


def _planned(job: Job) -> Planned:
    sizes = [None if is_url(s) else _size(s) for s in job.sources]
    nbytes = None if None in sizes else sum(size for size in sizes if size is not None)
    proof = job.command == "verify" or job.arguments.get("verify", True)
    return Planned(job, nbytes, _START + (nbytes or 0) / _RATE + (_PROOF if proof else 0))


def _size(path: str) -> int:
    if not os.path.isdir(path):
        return os.path.getsize(path)
    return sum(entry.stat().st_size for entry in os.scandir(path) if entry.is_file())
