"""Child processes that are asked by lines of JSON: copies of this one, or new interpreters."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from importlib import import_module
from typing import IO, Any, NoReturn, Protocol

Row = dict[str, Any]
Channels = Mapping[str, int]

_WAIT = 5.0
"""Seconds that a process gets to end before it is killed."""


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
        self._ready: list[Child] = []

    def start(self, count: int) -> None:
        """Start processes that will be taken.

        They are copies of this one, with what it has imported, if it has one thread only: another
        one might have a lock that nobody would release in the copy.
        """
        is_copied = _has_one_thread()
        for _ in range(count):
            self._ready.append(Child(self._copied() if is_copied else self._started()))

    def _copied(self) -> _Process:
        # The end of a pipe that another copy had too would not close.
        pipes = [fd for child in self._ready for fd in child.pipes()]
        main = partial(import_module(self._module).main, channels=self._channels)
        return _Copy(main, self._threads, [*self._kept, *pipes])

    def _started(self) -> _Process:
        return _started(self._module, self._threads, self._channels)

    def take(self) -> Child:
        """Return a process."""
        try:
            return self._ready.pop()
        except IndexError:
            return Child(self._started())

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


class Child:
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
