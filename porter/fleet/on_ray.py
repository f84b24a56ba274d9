"""The jobs of a manifest, and the shards of an output, as calls of Ray actors."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from porter.errors import MissingPackage, SystemFault, printable
from porter.fleet.job import FAILED, Job, Result
from porter.fleet.pool import ATTEMPTS, Begin, Finish
from porter.fleet.shards import ATTEMPTS as SHARD_ATTEMPTS
from porter.fleet.shards import Asker, answered
from porter.storage.pieces import use_threads
from porter.storage.tasks import Row, Task, Work

Item = TypeVar("Item")

_CORES = 2
"""Cores of an actor: both frameworks of a proof run at the same time."""
_PATIENCE = 10.0
"""Seconds to wait for a cluster's first answer."""
_MEMORY = 2 << 30
"""Bytes that an actor asks for: two frameworks, a small model in each, a few blocks of files."""


class _Cluster:
    """A cluster, or a local one without an address."""

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

    @contextmanager
    def _connected(self) -> Iterator[None]:
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
            yield
        finally:
            ray.shutdown()

    def _each(
        self,
        items: Iterable[Item],
        attempts: int,
        actor: type,
        arguments: tuple[Any, ...],
        ask: Callable[[Any, Item], Any],
        finish: Callable[[Item, dict[str, Any] | None, str], None],
    ) -> None:
        """Do all items on actors; `finish` gets the answer, or None and why there is none."""
        ray = self._ray
        waiting = [*items]
        total = int(ray.cluster_resources().get("CPU", 1))
        cores = min(_CORES, total)
        count = min(self._workers or max(1, total // cores), len(waiting))
        made = ray.remote(
            num_cpus=min(cores, max(1, total // count)), memory=self._memory(count),
            max_restarts=-1, max_task_retries=attempts - 1, max_concurrency=1,
        )(actor)  # fmt: skip
        idle = [made.remote(*arguments) for _ in range(count)]
        running: dict[Any, tuple[Item, Any]] = {}
        waiting.reverse()
        while waiting or running:
            while waiting and idle:
                item, place = waiting.pop(), idle.pop()
                running[ask(place, item)] = item, place
            (ready, *_), _ = ray.wait(list(running))
            item, place = running.pop(ready)
            answer, why = None, ""
            try:
                answer = ray.get(ready)
            except ray.exceptions.RayError as fault:
                why = printable(str(fault).strip().splitlines()[0], 200)
            finish(item, answer, why)
            idle.append(place)

    def _memory(self, count: int) -> int:
        """Return the bytes that an actor asks for: no more than there are."""
        there = int(self._ray.cluster_resources().get("memory", _MEMORY))
        return min(_MEMORY, there // count)


class RayPool(_Cluster):
    """Runs jobs on a cluster, or on a local one without an address.

    The files of the jobs must be at paths or addresses that every machine reads. A job whose
    machine or actor is lost is begun once more.
    """

    def run(self, jobs: Sequence[Job], begin: Begin, finish: Finish) -> None:
        """Run jobs; `begin` and `finish` are called by this thread."""

        def ask(place: Any, job: Job) -> Any:
            begin([job])
            return place.run.remote(job.as_json())

        def done(job: Job, row: dict[str, Any] | None, why: str) -> None:
            lost = f"its process was lost {ATTEMPTS} times: {why}"
            finish([Result(job.name, FAILED, lost) if row is None else Result.of(row)])

        with self._connected():
            self._each(jobs, ATTEMPTS, Actor, (), ask, done)


class RayShards(_Cluster, Asker):
    """Writes the shards of one output on a cluster, or on a local one without an address.

    Source and output must be at paths that every machine has, or the source at an address.
    """

    def __init__(self, address: str | None, workers: int | None) -> None:
        _Cluster.__init__(self, address, workers)
        Asker.__init__(self)

    def run(self, work: Work) -> None:
        """Do all tasks; a worker that is lost is replaced, and its task begun again."""

        def ask(place: Any, task: Task) -> Any:
            return place.do.remote(task._asdict())

        def done(task: Task, row: Row | None, why: str) -> None:
            work.done(task, answered(task, row, why))

        arguments = (self.request, os.getcwd())
        with self._connected():
            self._each(work.tasks, SHARD_ATTEMPTS, ShardActor, arguments, ask, done)


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


class ShardActor:
    """A process that makes the call of the process that asks, and does tasks of it."""

    def __init__(self, request: Row, folder: str) -> None:
        from porter.fleet.shards import Worker

        if os.path.isdir(folder):  # Paths are relative to where the command was given.
            os.chdir(folder)
        self._worker = Worker()
        use_threads(_CORES)
        threading.Thread(target=self._call, args=(request,), daemon=True).start()

    def _call(self, request: Row) -> None:
        try:
            self._worker.call(request)
        finally:
            os._exit(1)  # By an error of porter's own; the task would wait for ever.

    def do(self, task: dict[str, Any]) -> Row:
        """Do a task."""
        self._worker.tasks.put(Task(**task))
        return self._worker.rows.get()
