"""Worker processes that run jobs one after the other, each with its frameworks loaded."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from porter.fleet.job import FAILED, Job, Result

ATTEMPTS = 2
"""How often a job is begun whose worker ends without a result."""
_WAIT = 5.0
"""Seconds that a worker gets to end before it is killed."""

Begin = Callable[[Job], None]
Finish = Callable[[Job, Result], None]


class LocalPool:
    """Runs jobs in processes of this machine."""

    def __init__(self, workers: int) -> None:
        self.workers = max(1, workers)
        self._turn = threading.Lock()
        self._live: set[_Worker] = set()
        self._faults: list[BaseException] = []

    def run(self, jobs: Sequence[Job], begin: Begin, finish: Finish) -> None:
        """Run jobs, as many at a time as there are workers.

        `begin` and `finish` are called by one thread at a time. A worker that ends, or is killed,
        is replaced; its job is begun once more and then counts as failed.
        """
        waiting: queue.SimpleQueue[Job] = queue.SimpleQueue()
        for job in jobs:
            waiting.put(job)
        threads = [
            threading.Thread(target=self._serve, args=(waiting, begin, finish), name="porter_fleet")
            for _ in range(min(self.workers, len(jobs)))
        ]
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        except BaseException as fault:
            self._faults.append(fault)
            for worker in [*self._live]:
                worker.close(at_once=True)
            for thread in threads:
                thread.join()
            raise
        if self._faults:
            raise self._faults[0]

    def _serve(self, waiting: queue.SimpleQueue[Job], begin: Begin, finish: Finish) -> None:
        worker: _Worker | None = None
        try:
            while not self._faults:
                job = waiting.get_nowait()
                for _ in range(ATTEMPTS):
                    with self._turn:
                        begin(job)
                    worker = worker or self._started()
                    result = worker.run(job)
                    if result is not None or self._faults:
                        break
                    why = self._ended(worker)
                    worker = None
                if not self._faults:
                    with self._turn:
                        finish(job, result or Result(job.name, FAILED, why))
        except queue.Empty:
            return
        except BaseException as fault:  # noqa: BLE001 - it is raised by the thread that waits
            self._faults.append(fault)
        finally:
            if worker is not None:
                self._ended(worker)

    def _started(self) -> _Worker:
        worker = _Worker(self.workers)
        self._live.add(worker)
        return worker

    def _ended(self, worker: _Worker) -> str:
        """Close a worker; return why it ended."""
        self._live.discard(worker)
        return worker.close()


class _Worker:
    """One child process."""

    def __init__(self, workers: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "porter.fleet.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": str(_threads(workers))},
            text=True,
            encoding="utf-8",
            start_new_session=True,  # Ctrl-C is for the driver, which ends it.
        )

    def run(self, job: Job) -> Result | None:
        """Return the result of a job; None when the process ends before there is one."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(job.as_json()) + "\n")
            self._process.stdin.flush()
        except OSError:
            return None
        line = self._process.stdout.readline()
        if not line.endswith("\n"):
            return None
        row: dict[str, Any] = json.loads(line)
        return Result.of(row)

    def close(self, *, at_once: bool = False) -> str:
        """End the process: when its job is done, or now; return what ended it."""
        with suppress(OSError):
            if self._process.stdin is not None:
                self._process.stdin.close()
        if at_once:
            self._process.terminate()
        try:
            code = self._process.wait(_WAIT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        if code < 0:
            name = signal.Signals(-code).name
            return f"its process was ended by {name}" + (" (out of memory?)" * (code == -9))
        return f"its process ended with code {code}"


def _threads(workers: int) -> int:
    """Return the threads of each framework, so that all of them together have the cores."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if asked.isdecimal() and int(asked):
        return int(asked)
    known = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if known else os.cpu_count() or 2
    return max(1, cores // (2 * workers))
