"""Child processes that do tasks one after the other; one that is lost is replaced."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from importlib import import_module
from typing import IO, Any, Generic, NoReturn, Protocol, TypeVar

Row = dict[str, Any]
Channels = Mapping[str, int]
Item = TypeVar("Item")

_WAIT = 5.0
"""Seconds that a process gets to end before it is killed."""


class Crew(Generic[Item]):
    """Processes of a module that reads a task as a line of JSON, and answers by another."""

    def __init__(
        self, children: Children, workers: int, as_row: Callable[[Item], Row], attempts: int,
        first: Row | None = None, part: Callable[[Item, Row], None] | None = None,
    ) -> None:  # fmt: skip
        self._children = children
        self._workers = workers
        self._as_row = as_row
        self._attempts = attempts
        self._first = first
        self._part = part
        """Called with an answer that is marked as a part of one: others follow it."""
        self._items: Iterator[Item] = iter(())
        self._more: deque[Item] = deque()
        """Tasks that go before those."""
        self._turn = threading.Lock()
        self._live: set[_Child] = set()
        self._faults: list[BaseException] = []

    def run(
        self,
        items: Iterable[Item],
        begin: Callable[[Item], None],
        finish: Callable[[Item, Row | None, str], Iterable[Item] | None],
    ) -> None:
        """Do tasks, as many at a time as there are processes.

        `begin` and `finish` are called by one thread at a time; `finish` with the answer, or with
        None and why the last process ended that had the task. It may return more tasks. An error
        that one of them raises ends all processes, and is raised here.
        """
        self._items = iter(items)
        threads = [
            threading.Thread(target=self._serve, args=(begin, finish), name="porter_crew")
            for _ in range(self._workers)
        ]
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        except BaseException as fault:
            self._fail(fault)
            for thread in threads:
                thread.join()
            raise
        if self._faults:
            raise self._faults[0]

    def _fail(self, fault: BaseException) -> None:
        self._faults.append(fault)
        for child in [*self._live]:
            child.close(at_once=True)

    def _serve(
        self,
        begin: Callable[[Item], None],
        finish: Callable[[Item, Row | None, str], Iterable[Item] | None],
    ) -> None:
        child: _Child | None = None
        try:
            while not self._faults and (item := self._next()) is not None:
                answer, why = None, ""
                for _ in range(self._attempts):
                    with self._turn:
                        begin(item)
                    child = child or self._started()
                    answer = self._ask(child, item)
                    if answer is not None or self._faults:
                        break
                    why = self._ended(child)
                    child = None
                with self._turn:
                    if not self._faults:
                        self._more.extend(finish(item, answer, why) or ())
        except BaseException as fault:  # noqa: BLE001 - it is raised by the thread that waits
            self._fail(fault)
        finally:
            if child is not None:
                self._ended(child)

    def _next(self) -> Item | None:
        """Return the next task; they are made while others are done."""
        with self._turn:
            return self._more.popleft() if self._more else next(self._items, None)

    def _ask(self, child: _Child, item: Item) -> Row | None:
        """Return the answer to a task, after those that are parts of it."""
        answer = child.ask(self._as_row(item))
        while answer is not None and answer.get("more"):
            with self._turn:
                if self._part is not None and not self._faults:
                    self._part(item, answer)
            answer = child.answer()
        return answer

    def _started(self) -> _Child:
        child = self._children.take()
        self._live.add(child)
        if self._first is not None:
            child.tell(self._first)
        return child

    def _ended(self, child: _Child) -> str:
        """Close a process; return why it ended."""
        self._live.discard(child)
        return child.close()


class Children:
    """Processes of a module, as many as there will be workers; some may be started early.

    They have `channels`, {name: descriptor}, of this process; of the descriptors that are `kept`
    its copies have none.
    """

    def __init__(
        self, module: str, workers: int, channels: Channels | None = None, kept: Iterable[int] = ()
    ) -> None:
        self._module = module
        self._threads = threads(workers)
        self._channels = channels or {}
        self._kept = [*kept]
        self._ready: list[_Child] = []

    def start(self, count: int) -> None:
        """Start processes that will be taken.

        They are copies of this one, with what it has imported, if it has one thread only: another
        one might have a lock that nobody would release in the copy.
        """
        is_copied = _has_one_thread()
        for _ in range(count):
            self._ready.append(_Child(self._copied() if is_copied else self._started()))

    def _copied(self) -> _Process:
        # The end of a pipe that another copy had too would not close.
        pipes = [fd for child in self._ready for fd in child.pipes()]
        main = partial(import_module(self._module).main, channels=self._channels)
        return _Copy(main, self._threads, [*self._kept, *pipes])

    def _started(self) -> _Process:
        return _started(self._module, self._threads, self._channels)

    def take(self) -> _Child:
        """Return a process."""
        try:
            return self._ready.pop()
        except IndexError:
            return _Child(self._started())

    def close(self) -> None:
        """End those that nobody took."""
        while self._ready:
            self._ready.pop().close(at_once=True)


class _Process(Protocol):
    """What `subprocess.Popen` has."""

    stdin: IO[str] | None
    stdout: IO[str] | None

    def wait(self, timeout: float | None = None) -> int: ...
    def kill(self) -> None: ...


def _started(module: str, count: int, channels: Channels) -> _Process:
    """Start an interpreter for a module."""
    named = (f"{name}={fd}" for name, fd in channels.items())
    return subprocess.Popen(
        [sys.executable, "-P", "-m", module, str(count), *named],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": str(threads_of_a_framework(count))},
        pass_fds=[*channels.values()],
        text=True,
        encoding="utf-8",
        start_new_session=True,  # Ctrl-C is for the driver, which ends it.
    )


def threads_of_a_framework(count: int) -> int:
    """Return the threads of each of two frameworks that run at the same time, unless it is set."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return int(asked) if asked.isdecimal() and int(asked) else max(1, count // 2)


def _has_one_thread() -> bool:
    try:
        return len(os.listdir("/proc/self/task")) == 1
    except OSError:  # Not Linux.
        return False


class _Copy:
    """A copy of this process that calls a function; `pipes` are not for it."""

    def __init__(self, main: Callable[[int], None], count: int, pipes: Iterable[int]) -> None:
        (read, answers), (asked, write) = os.pipe(), os.pipe()
        self._pid = os.fork()
        if not self._pid:
            for fd in (read, write, *pipes):
                os.close(fd)
            _run_copy(main, count, asked, answers)
        os.close(asked)
        os.close(answers)
        self.stdin: IO[str] | None = os.fdopen(write, "w", encoding="utf-8")
        self.stdout: IO[str] | None = os.fdopen(read, encoding="utf-8")
        self._status: int | None = None
        self._turn = threading.Lock()

    def wait(self, timeout: float | None = None) -> int:
        """Return how the process ended, as `subprocess.Popen` does."""
        end = None if timeout is None else time.monotonic() + timeout
        pause = 0.0005
        while (status := self._ended()) is None:
            if end is not None and time.monotonic() > end:
                raise subprocess.TimeoutExpired("porter", timeout or 0)
            time.sleep(pause)
            pause = min(2 * pause, 0.05)
        return status

    def _ended(self) -> int | None:
        with self._turn:  # Two threads may ask.
            if self._status is None:
                pid, status = os.waitpid(self._pid, os.WNOHANG)
                self._status = os.waitstatus_to_exitcode(status) if pid else None
            return self._status

    def kill(self) -> None:
        """End it, unless it has ended."""
        with self._turn:
            if self._status is None:
                os.kill(self._pid, signal.SIGKILL)


def _run_copy(main: Callable[[int], None], count: int, stdin: int, stdout: int) -> NoReturn:
    """Be a copy: what was set up for the command line is not for it."""
    try:
        os.setsid()  # Ctrl-C is for the driver, which ends it.
        for number in (signal.SIGTERM, signal.SIGHUP):
            if callable(signal.getsignal(number)):  # `nohup` lets it go on.
                signal.signal(number, signal.SIG_DFL)
        os.dup2(stdin, 0)
        os.dup2(stdout, 1)
        os.close(stdin)
        os.close(stdout)
        os.environ["OMP_NUM_THREADS"] = str(threads_of_a_framework(count))
        main(count)
    except BaseException:  # noqa: BLE001 - an interpreter would print it and end
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(1)


class _Child:
    """One child process."""

    def __init__(self, process: _Process) -> None:
        self._process = process

    def pipes(self) -> list[int]:
        """Return the open ends of its pipes."""
        ends = (self._process.stdin, self._process.stdout)
        return [end.fileno() for end in ends if end is not None]

    def tell(self, row: Row) -> bool:
        """Send a line; return whether the process is there to read it."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(row, default=os.fspath) + "\n")
            self._process.stdin.flush()
        except (OSError, ValueError):  # It has ended, or was closed by another thread.
            return False
        return True

    def ask(self, row: Row) -> Row | None:
        """Return the answer to a task; None when the process ends before there is one."""
        return self.answer() if self.tell(row) else None

    def answer(self) -> Row | None:
        """Return the next answer; None when the process ends before there is one."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.endswith("\n"):
            return None
        answer: Row = json.loads(line)
        return answer

    def close(self, *, at_once: bool = False) -> str:
        """End the process: when its task is done, or now; return what ended it."""
        if at_once:
            self._process.kill()
        with suppress(OSError):
            if self._process.stdin is not None:
                self._process.stdin.close()
        try:
            code = self._process.wait(_WAIT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        if self._process.stdout is not None and not at_once:  # Its thread may be reading it.
            self._process.stdout.close()
        if code < 0:
            name = signal.Signals(-code).name
            return f"its process was ended by {name}" + (" (out of memory?)" * (code == -9))
        return f"its process ended with code {code}"


def threads(workers: int) -> int:
    """Return the threads of one of several processes, so that all have the cores together."""
    known = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if known else os.cpu_count() or 2
    return max(1, cores // workers)
