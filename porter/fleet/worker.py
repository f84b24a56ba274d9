"""The process that runs jobs: `python -m porter.fleet.worker`, started by `pool`.

Jobs come as a line of JSON, their results as another or several. The frameworks that a proof has
started are kept for the next one. It ends when its standard input closes.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

from porter.commands.convert import Conversion, convert
from porter.errors import PorterError
from porter.fleet.alike.learnt import Alike, Kind
from porter.fleet.batch import frameworks_of, jobs_of
from porter.fleet.job import CONVERTED, FAILED, NOT_MADE, PASSED, REFUSED, Job, Result, since
from porter.frameworks.process import Pool, kept
from porter.remote.address import is_url
from porter.storage.pieces import use_threads

if TYPE_CHECKING:
    from porter.verification.verdict import Verdict

_PAUSE = 0.01
"""Seconds of finished jobs that a crash may undo."""
_PAUSE_OF_DISK = 0.2
"""Seconds of jobs whose outputs wait for the disk together."""
_PATIENCE = 0.5
"""Seconds after which the rest of several small jobs goes back."""


def main(threads: int, channels: Mapping[str, int]) -> None:
    """Run jobs until the input closes; each may use so many threads, and fork servers."""
    results = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # What a library prints is not a result.
    use_threads(threads)
    jobs: queue.SimpleQueue[str] = queue.SimpleQueue()
    with Pool(channels) as pool, kept(pool):
        threading.Thread(target=_listen, args=(jobs,), daemon=True).start()
        while True:
            asked = jobs_of(json.loads(jobs.get()))
            _start_frameworks(pool, asked[0])
            for row in answers(asked):
                results.write(json.dumps(row) + "\n")
                results.flush()


def _start_frameworks(pool: Pool, job: Job) -> None:
    """Let the frameworks of a proof load while its conversion is written."""
    for framework in frameworks_of(job) if job.command == "convert" else ():
        with suppress(PorterError):
            pool.start(framework, (job.arguments.get("python") or {}).get(framework))


def answers(jobs: Iterable[Job]) -> Iterator[dict[str, Any]]:
    """Yield results as rows, every few milliseconds one that is marked as not the last.

    The last one comes after a while even if jobs are left: they were not as short as was thought.
    """
    begun = sent = time.monotonic()
    done: list[Result] = []
    kind: Kind | None = None
    for job in jobs:
        now = time.monotonic()
        if now > begun + _PATIENCE:
            break
        if now > sent + (_PAUSE_OF_DISK if _learnt.waits_for_disk else _PAUSE):
            yield {"results": _rows(done), "more": True}
            sent, done = now, []
        kind = kind or _learnt.kind(job)  # Jobs that are sent together are of one kind.
        done.append(_run(job, kind))
    yield {"results": _rows(done)}


def _rows(results: list[Result]) -> list[dict[str, Any]]:
    return [result.as_json() for result in _published(results)]


def _published(results: list[Result]) -> list[Result]:
    """Return results when their outputs have their names."""
    errors = _learnt.rest()
    return [
        Result(result.name, REFUSED, str(errors[result.name])) if result.name in errors else result
        for result in results
    ]


def _listen(jobs: queue.SimpleQueue[str]) -> None:
    with open(0, encoding="utf-8", closefd=False) as lines:
        for line in lines:
            jobs.put(line)
    # The driver is gone, or done. The frameworks end when their standard inputs close.
    os._exit(0)


def run(job: Job) -> Result:
    """Run a job; an error of porter's is a result."""
    return _published([_run(job, _learnt.kind(job))])[0]


def _run(job: Job, kind: Kind | None) -> Result:
    """Run a job whose output may wait for the disk with others."""
    begun = time.monotonic()
    try:
        _make_folder("" if is_url(job.output) else os.path.dirname(job.output))
        if kind is not None and (known := _learnt.convert(job, kind)) is not None:
            return known
        result = _converted(job, kind) if job.command == "convert" else _compared(job)
    except PorterError as error:
        result = Result(job.name, REFUSED, str(error))
    return replace(result, seconds=since(begun))


_learnt = Alike()


def _converted(job: Job, kind: Kind | None) -> Result:
    done = convert(**job.arguments)
    verdict = done.verdict
    if job.preset is not None and done.ok:
        from porter.commands.verify import verify  # Half of what there is to load.

        plan = done.plan
        verdict = verify(
            plan.architecture.name, job.sources[0], job.output,
            left_dialect=plan.source.dialect.name, right_dialect=plan.target.dialect.name,
            left_key=job.arguments.get("key"), preset=job.preset, weights=done.weights,
            python=job.arguments.get("python"),
            behaviour=job.arguments.get("onnx", {}).get("behaviour", "canonical"),
        )  # fmt: skip
    result = Result(job.name, **_of_conversion(done), **_of_verdict(job, verdict, done))
    if kind is not None and done.verdict is verdict:
        _learnt.learn(job, kind, done, result)
    return result


@cache
def _make_folder(name: str) -> None:
    if name:
        os.makedirs(name, exist_ok=True)


def _of_conversion(done: Conversion) -> dict[str, Any]:
    assert done.written is not None
    plan = done.plan
    return {
        "architecture": plan.architecture.name,
        "sides": f"{done.from_} → {done.to}",
        "output": done.output,
        "nbytes": done.written.nbytes,
        "digest": done.written.digest,
        "tensors": done.weights.compared if done.weights is not None else 0,
    }


def _of_verdict(
    job: Job, verdict: Verdict | None, done: Conversion | None = None
) -> dict[str, Any]:
    if done is not None and not done.ok:
        failed = verdict is not None and verdict.failed
        why = verdict.reason if verdict is not None and failed else "the weights are not proven"
        status = {"status": FAILED, "message": done.graph or why}
    elif verdict is None:
        return {"status": CONVERTED}
    else:
        status = {"status": _STATUS[verdict.status], "message": verdict.reason}
    return status if verdict is None else {**status, **_figures(job, verdict)}


_STATUS = {"passed": PASSED, "failed": FAILED, "not made": NOT_MADE}


def _figures(job: Job, verdict: Verdict) -> dict[str, Any]:
    worst = verdict.worst(verdict.precision)
    if job.reports:
        from porter.report import write_reports

        stem = os.path.join(job.reports, job.name)
        write_reports(verdict, [f"{stem}.html", f"{stem}.json"], force=True)
    return {
        "error": None if worst is None else worst.right.error,
        "share": None if worst is None or not worst.limit else worst.right.error / worst.limit,
        "has_report": bool(job.reports),
    }


def _compared(job: Job) -> Result:
    from porter.commands.verify import verify

    verdict = verify(**job.arguments)
    sides = f"{verdict.left.label} and {verdict.right.label}"
    return Result(
        job.name, architecture=verdict.architecture, sides=sides, **_of_verdict(job, verdict)
    )


if __name__ == "__main__":
    count, *named = sys.argv[1:]
    pairs = [each.split("=") for each in named]
    main(int(count), {name: int(fd) for name, fd in pairs})
