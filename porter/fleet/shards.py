"""One large output whose shards are written by several processes.

`Local` asks, in the process that publishes. Each worker, `python -m porter.fleet.shards`, makes
the same call of porter's with a `Worker` as its pool, and so arrives at the same plan; then it
does the tasks that it is asked for.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
from collections.abc import Callable
from typing import Any

from porter import errors
from porter.commands.convert import convert
from porter.commands.repack import repack
from porter.errors import PorterError, SystemFault, UsageError
from porter.fleet.children import Children
from porter.fleet.crew import Crew
from porter.storage.pieces import use_threads
from porter.storage.tasks import Row, Task, Work

ATTEMPTS = 3
"""How often a task is begun whose worker ends without an answer."""
COMMANDS: dict[str, Callable[..., object]] = {"convert": convert, "repack": repack}
_NOT_SENT = ("pool", "progress", "reports", "dry_run", "force")
"""Arguments that are of the process that asks only."""


class Asker:
    """What the process that publishes has in common, wherever its workers are."""

    is_worker = False

    def __init__(self) -> None:
        self.request: Row = {}
        """The call that every worker makes."""

    def begin(self, command: str, arguments: dict[str, Any]) -> None:
        """Take note of the call of porter's that a worker makes to arrive at the same work."""
        if not arguments.get("max_shard_size"):
            raise UsageError(
                "--workers and --ray are for an output in shards: add --max-shard-size"
            )
        sent = {name: value for name, value in arguments.items() if name not in _NOT_SENT}
        self.request = {"command": command, "arguments": sent}


class Local(Asker):
    """Processes of this machine."""

    def __init__(self, workers: int) -> None:
        super().__init__()
        self.workers = workers

    def run(self, work: Work) -> None:
        """Do all tasks; a worker that ends, or is killed, is replaced, and its task begun again."""

        def done(task: Task, row: Row | None, why: str) -> None:
            work.done(task, answered(task, row, why))

        crew: Crew[Task] = Crew(
            Children("porter.fleet.shards", self.workers), self.workers, Task._asdict, ATTEMPTS,
            self.request,
        )  # fmt: skip
        crew.run(work.tasks, lambda task: None, done)


def answered(task: Task, row: Row | None, why: str) -> Row:
    """Return what came of a task; raise the error that did."""
    if row is None:
        raise SystemFault(f"{task.kind} {task.number + 1} was begun {ATTEMPTS} times: {why}")
    if "error" in row:
        kind = getattr(errors, row["error"])
        assert issubclass(kind, PorterError)
        raise kind(row["message"], row["path"])
    return row


class Worker:
    """Does tasks for another process: each is taken from one queue, its row put into another."""

    is_worker = True

    def __init__(self) -> None:
        self.tasks: queue.SimpleQueue[Task] = queue.SimpleQueue()
        self.rows: queue.SimpleQueue[Row] = queue.SimpleQueue()

    def begin(self, command: str, arguments: dict[str, Any]) -> None:
        """Do nothing: the call is made already."""

    def run(self, work: Work) -> None:
        """Do tasks until the process ends."""
        while True:
            task = self.tasks.get()
            try:
                self.rows.put(work.do(task))
            except PorterError as error:
                self.rows.put(as_row(error))

    def call(self, request: Row) -> None:
        """Make the call that leads to the work; an error of it is the answer to every task."""
        try:
            COMMANDS[request["command"]](**request["arguments"], pool=self)
            raise SystemFault("a worker finds nothing to do: its porter is another one")
        except PorterError as error:
            row = as_row(error)
        while True:
            self.tasks.get()
            self.rows.put(row)


def as_row(error: PorterError) -> Row:
    """Return an error as the answer to a task."""
    # One of `porter.errors`, which others derive from.
    kind = next(kind for kind in type(error).__mro__ if kind.__module__ == errors.__name__)
    return {"error": kind.__name__, "message": error.message, "path": error.path}


def main() -> None:
    """Make the call of the first line, then do the tasks of the others until the input closes."""
    rows = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # What a library prints is not an answer.
    use_threads(int(sys.argv[1]))
    worker = Worker()
    request = json.loads(sys.stdin.readline())

    def listen() -> None:
        for line in sys.stdin:
            worker.tasks.put(Task(**json.loads(line)))
        os._exit(0)  # The process that asks is gone, or done.

    def answer() -> None:
        while True:
            rows.write(json.dumps(worker.rows.get()) + "\n")
            rows.flush()

    for target in (listen, answer):
        threading.Thread(target=target, daemon=True).start()
    worker.call(request)


if __name__ == "__main__":
    main()
