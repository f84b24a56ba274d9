"""The process that runs jobs: `python -m porter.fleet.worker`, started by `pool`.

A job is a line of JSON, its result another. The frameworks that a proof has started are kept for
the next one. It ends when its standard input closes.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import time
from typing import Any

from porter.commands.convert import Conversion, convert
from porter.commands.verify import verify
from porter.errors import PorterError
from porter.fleet.job import CONVERTED, FAILED, NOT_MADE, PASSED, REFUSED, Job, Result
from porter.frameworks.process import Pool, kept
from porter.report import write_reports
from porter.storage.pieces import use_threads
from porter.verification.verdict import Verdict


def main() -> None:
    """Run jobs until the input closes."""
    results = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # What a library prints is not a result.
    use_threads(int(sys.argv[1]))
    jobs: queue.SimpleQueue[str] = queue.SimpleQueue()
    with Pool() as pool, kept(pool):
        threading.Thread(target=_listen, args=(jobs,), daemon=True).start()
        while True:
            result = run(Job(**json.loads(jobs.get())))
            results.write(json.dumps(result.as_json()) + "\n")
            results.flush()


def _listen(jobs: queue.SimpleQueue[str]) -> None:
    for line in sys.stdin:
        jobs.put(line)
    # The driver is gone, or done. The frameworks end when their standard inputs close.
    os._exit(0)


def run(job: Job) -> Result:
    """Run a job; an error of porter's is a result."""
    begun = time.monotonic()
    try:
        result = _converted(job) if job.command == "convert" else _compared(job)
    except PorterError as error:
        result = {"status": REFUSED, "message": str(error)}
    return Result(name=job.name, seconds=round(time.monotonic() - begun, 3), **result)


def _converted(job: Job) -> dict[str, Any]:
    if folder := os.path.dirname(job.output):
        os.makedirs(folder, exist_ok=True)
    done = convert(**job.arguments)
    verdict = done.verdict
    if job.preset is not None and done.ok:
        plan = done.plan
        verdict = verify(
            plan.architecture.name, job.sources[0], job.output,
            left_dialect=plan.source.dialect.name, right_dialect=plan.target.dialect.name,
            left_key=job.arguments.get("key"), preset=job.preset, weights=done.weights,
            python=job.arguments.get("python"),
        )  # fmt: skip
    return {**_of_conversion(done), **_of_verdict(job, verdict, done)}


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
        stem = os.path.join(job.reports, job.name)
        write_reports(verdict, [f"{stem}.html", f"{stem}.json"], force=True)
    return {
        "error": None if worst is None else worst.right.error,
        "share": None if worst is None or not worst.limit else worst.right.error / worst.limit,
        "has_report": bool(job.reports),
    }


def _compared(job: Job) -> dict[str, Any]:
    verdict = verify(**job.arguments)
    sides = f"{verdict.left.label} and {verdict.right.label}"
    return {"architecture": verdict.architecture, "sides": sides, **_of_verdict(job, verdict)}


if __name__ == "__main__":
    main()
