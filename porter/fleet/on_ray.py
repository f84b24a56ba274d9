"""The jobs of a manifest as calls of Ray actors, each with its frameworks loaded."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from typing import Any

from porter.errors import MissingPackage, SystemFault, printable
from porter.fleet.job import FAILED, Job, Result
from porter.fleet.pool import ATTEMPTS, Begin, Finish

_CORES = 2
"""Cores of an actor: both frameworks of a proof run at the same time."""
_PATIENCE = 10.0
"""Seconds to wait for a cluster's first answer."""
_MEMORY = 2 << 30
"""Bytes that an actor asks for: two frameworks, a small model in each, a few blocks of files."""


class RayPool:
    """Runs jobs on a cluster, or on a local one if there is no address.

    The files of the jobs must be at paths or addresses that every machine reads. A job whose
    machine or actor is lost is begun once more.
    """

    def __init__(self, address: str | None, workers: int | None) -> None:
        try:
            import ray
        except ModuleNotFoundError:
            raise MissingPackage(
                "--ray needs Ray; run `pip install 'porter-weights[ray]'`"
            ) from None
        self._ray = ray
        self._address = address
        self._workers = workers

    def run(self, jobs: Sequence[Job], begin: Begin, finish: Finish) -> None:
        """Run jobs; `begin` and `finish` are called by this thread."""
        ray = self._ray
        _check_reachable(self._address)
        try:
            ray.init(
                address=self._address, include_dashboard=False, log_to_driver=False,
                ignore_reinit_error=True, configure_logging=False,
            )  # fmt: skip
        except (ConnectionError, RuntimeError, ValueError, OSError) as fault:
            what = printable(" ".join(str(fault).split()), 200)
            raise SystemFault(f"no Ray cluster there: {what}", self._address or "ray") from fault
        try:
            self._run([*jobs], begin, finish)
        finally:
            ray.shutdown()

    def _run(self, waiting: list[Job], begin: Begin, finish: Finish) -> None:
        ray = self._ray
        total = int(ray.cluster_resources().get("CPU", 1))
        cores = min(_CORES, total)
        count = min(self._workers or max(1, total // cores), len(waiting))
        actor = ray.remote(
            num_cpus=min(cores, max(1, total // count)), memory=self._memory(count),
            max_restarts=-1, max_task_retries=ATTEMPTS - 1,
        )(Actor)  # fmt: skip
        idle = [actor.remote() for _ in range(count)]
        running: dict[Any, tuple[Job, Any]] = {}
        waiting.reverse()
        while waiting or running:
            while waiting and idle:
                job, place = waiting.pop(), idle.pop()
                begin(job)
                running[place.run.remote(job.as_json())] = job, place
            (ready, *_), _ = ray.wait(list(running))
            job, place = running.pop(ready)
            try:
                result = Result.of(ray.get(ready))
            except ray.exceptions.RayError as fault:
                why = printable(str(fault).strip().splitlines()[0], 200)
                result = Result(job.name, FAILED, f"its process was lost {ATTEMPTS} times: {why}")
            finish(job, result)
            idle.append(place)

    def _memory(self, count: int) -> int:
        """Return the bytes that an actor asks for: no more than there are."""
        there = int(self._ray.cluster_resources().get("memory", _MEMORY))
        return min(_MEMORY, there // count)


def _check_reachable(address: str | None) -> None:
    """Raise `SystemFault` where nobody listens: Ray itself would try for minutes."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        return  # Ray finds the cluster by other means.
    try:
        socket.create_connection((host, int(port)), _PATIENCE).close()
    except (OSError, OverflowError) as fault:
        why = getattr(fault, "strerror", None) or str(fault)
        raise SystemFault(f"no Ray cluster there: {printable(why)}", address) from fault


class Actor:
    """A process that runs jobs and keeps the frameworks that it has started."""

    def __init__(self) -> None:
        from porter.frameworks.process import Pool

        os.environ.pop("OMP_NUM_THREADS", None)  # Ray sets it to 1 or to the actor's cores.
        self._pool = Pool()

    def run(self, row: dict[str, Any]) -> dict[str, Any]:
        """Run a job."""
        from porter.fleet.worker import run
        from porter.frameworks.process import kept

        with kept(self._pool):
            return run(Job(**row)).as_json()
