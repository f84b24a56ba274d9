"""Start a framework in a child process and talk to it.

torch and paddle crash each other's CUDA libraries when one process loads both, so each side of
a comparison has its own process. A request is a line of JSON, large data go through files. The
child ends when its standard input closes: it never outlives its parent, however that ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, NamedTuple

from porter import errors
from porter.errors import InputError, PorterError, SystemFault, UsageError, printable
from porter.frameworks.fork_server import Forked, command

_WAIT = 5.0
"""Seconds that a child gets to end before it is killed."""


TIMEOUT = 600.0
"""Seconds that one request about a given ONNX file may take by default."""
ENVIRONMENT = "PORTER_TIMEOUT"
MEMORY = "PORTER_MEMORY"
"""GiB that computing a given ONNX file may take."""
_GIB, _SHARE = 16.0, 0.75
"""By default, and of what the machine has left."""


_DEFAULTS = {
    "OMP_WAIT_POLICY": "PASSIVE",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(4 << 30),
}
"""Threads that wait do not spin, which on a busy machine took half of the time. With glibc, memory
of large tensors is used again, up to 4 GiB of it: taken from the system anew for each of a vision
transformer's maps, it took a third of the time."""


class Limit(NamedTuple):
    """How long a worker may compute for one request, and the file that it computes."""

    path: str
    seconds: float

    @classmethod
    def of(cls, path: str, seconds: float | None = None) -> Limit:
        """Return the limit for a file, by default that of the environment."""
        if seconds is None:
            text = os.environ.get(ENVIRONMENT) or str(TIMEOUT)
            try:
                seconds = float(text)
            except ValueError:
                seconds = -1.0
        if not 0 < seconds <= threading.TIMEOUT_MAX:
            raise UsageError(f"--timeout and {ENVIRONMENT} are a number of seconds above 0")
        return cls(path, seconds)


def _memory() -> int:
    """Return how many bytes computing a given file may take."""
    text = os.environ.get(MEMORY)
    try:
        asked = float(text) if text else 0.0
    except ValueError:
        asked = -1.0
    if asked < 0 or asked > 1 << 20 or (text and not asked):
        raise UsageError(f"{MEMORY} is a number of GiB above 0")
    return int(asked * (1 << 30)) if asked else min(int(_GIB * (1 << 30)), _left())


def _left() -> int:
    """Return the largest part of the memory that is not in use now that a child gets, in bytes."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            rows = dict(line.split(":", 1) for line in file)
        return int(_SHARE * 1024 * int(rows["MemAvailable"].split()[0]))
    except (OSError, KeyError, ValueError):
        return int(_GIB * (1 << 30))


class Worker:
    """A child process that runs one framework; a context manager that ends it.

    With the `channel` of a fork server it is forked, if that can be, with the server's threads.
    """

    def __init__(
        self, framework: str, *, python: str | None = None, threads: int | None = None,
        channel: int | None = None,
    ) -> None:  # fmt: skip
        self.framework = framework
        self.python = python or sys.executable
        self.limit: Limit | None = None
        """Set where it computes what a given file says, which may have no end."""
        self._is_bound = False
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (closed by `close`)
        try:
            self._process = self._started(threads, channel)
        except OSError as error:
            self._log.close()
            raise SystemFault(f"cannot be started: {error.strerror}", self.python) from error

    def _started(self, threads: int | None, channel: int | None) -> subprocess.Popen[str] | Forked:
        if channel is not None:
            with contextlib.suppress(OSError):  # The server has ended, or was never started.
                return Forked(channel, self._log)
        return subprocess.Popen(
            command(self.framework, self.python),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=environment(self.framework, threads),
            text=True,
            encoding="utf-8",
        )

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._process.pid

    def send(self, command: str, **arguments: Any) -> None:
        """Send a request and return at once; `receive` waits for its reply."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"command": command, **arguments}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._ended() from None

    def receive(self) -> dict[str, Any]:
        """Return the reply to the oldest request; an error of the child is raised here."""
        assert self._process.stdout is not None
        with self._limited():
            line = self._process.stdout.readline()
        if not line.endswith("\n"):
            raise self._ended()
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise _raised(reply["error"])
        return reply

    @contextlib.contextmanager
    def _limited(self) -> Iterator[None]:
        """Kill the child when the limit is passed, which ends the wait, and raise `InputError`."""
        limit = self.limit
        if limit is None:
            yield
            return
        self._bound()
        passed = threading.Event()

        def end() -> None:
            passed.set()
            self._process.kill()

        timer = threading.Timer(limit.seconds, end)
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
        if passed.is_set():
            raise InputError(
                f"was not computed within {limit.seconds:g} seconds; --timeout, or {ENVIRONMENT},"
                " allows more",
                limit.path,
            )

    def _bound(self) -> None:
        """Limit the child's memory, where the system can: one that asks for more gets an error.

        Once: a later limit could be a larger one, which only root may set.
        """
        if sys.platform == "linux" and not self._is_bound:
            import resource

            self._is_bound = True

            with contextlib.suppress(ProcessLookupError):
                _, highest = resource.prlimit(self._process.pid, resource.RLIMIT_DATA)
                most = _memory() if highest == resource.RLIM_INFINITY else min(_memory(), highest)
                resource.prlimit(self._process.pid, resource.RLIMIT_DATA, (most, highest))

    def request(self, command: str, **arguments: Any) -> dict[str, Any]:
        """Send a request and wait for the reply."""
        self.send(command, **arguments)
        return self.receive()

    def close(self, *, at_once: bool = False) -> None:
        """End the child: let it finish, or kill it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        if at_once:
            self._process.kill()
        try:
            self._process.wait(_WAIT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._log.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close(at_once=kind is not None)

    def _ended(self) -> PorterError:
        """Return the error that says why the child ended."""
        code = self._process.wait()
        self._log.seek(0)
        lines = self._log.read().decode("utf-8", "replace").strip().splitlines()
        last = next((line for line in reversed(lines) if line.strip()), "")
        if "No module named porter" in last or "No module named 'porter" in last:
            return errors.MissingPackage(
                f"porter is not installed there; run `{self.python} -m pip install porter-weights`",
                self.python,
            )
        if code < 0:
            name = signal.Signals(-code).name
            hint = " (out of memory?)" if name == "SIGKILL" else ""
            last = f"killed by {name}{hint}" + (f"; its last line: {last}" if last else "")
        message = (
            f"the {self.framework} process ended with {printable(last, 300) or f'code {code}'}"
        )
        if self.limit is not None:
            return InputError(f"{message} while it computed it", self.limit.path)
        return SystemFault(message)


class Pool:
    """Workers that are used again: a second comparison does not import its frameworks again.

    With `channels` of fork servers, {framework: descriptor}, they are forked.
    """

    def __init__(self, channels: Mapping[str, int] | None = None) -> None:
        self._channels = channels or {}
        self._idle: dict[tuple[str, str | None], list[Worker]] = {}

    def start(self, framework: str, python: str | None = None) -> None:
        """Start a worker that will be asked for soon, unless there is one."""
        idle = self._idle.setdefault((framework, python), [])
        if not idle:
            idle.append(self._new(framework, python))

    def _new(self, framework: str, python: str | None) -> Worker:
        channel = None if python else self._channels.get(framework)
        return Worker(framework, python=python, channel=channel)

    @contextlib.contextmanager
    def worker(self, framework: str, python: str | None = None) -> Iterator[Worker]:
        """Yield a worker, started if none is idle; ended if anything fails while it is used."""
        idle = self._idle.setdefault((framework, python), [])
        worker = idle.pop() if idle else self._new(framework, python)
        try:
            yield worker
        except BaseException:
            worker.close(at_once=True)
            raise
        idle.append(worker)

    def close(self, *, at_once: bool = False) -> None:
        """End all workers."""
        for idle in self._idle.values():
            while idle:
                idle.pop().close(at_once=at_once)

    def __enter__(self) -> Pool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close(at_once=kind is not None)


_kept: list[Pool] = []


@contextlib.contextmanager
def kept(pool: Pool) -> Iterator[None]:
    """Let everything in this process that compares models use one pool."""
    _kept.append(pool)
    try:
        yield
    finally:
        _kept.remove(pool)


@contextlib.contextmanager
def shared(pool: Pool | None = None) -> Iterator[Pool]:
    """Yield a pool: the one given, else the one that is kept, else one that ends with this."""
    if pool is not None or _kept:
        yield pool or _kept[-1]
        return
    with Pool() as own:
        yield own


def environment(framework: str, threads: int | None = None) -> dict[str, str]:
    """Return a child's environment: no TF32, deterministic kernels, a share of the cores."""
    given = str(threads or share())
    variables = {
        **_DEFAULTS,
        **os.environ,
        "OMP_NUM_THREADS": given,
        "OPENBLAS_NUM_THREADS": given,
        "NVIDIA_TF32_OVERRIDE": "0",
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        "FLAGS_cudnn_deterministic": "1",
        "FLAGS_embedding_deterministic": "1",
        "PYTHONIOENCODING": "utf-8",
        "GLOG_minloglevel": "2",
    }
    if framework == "torch":
        # The variable, 0 or 1, would overrule torch's own switches: with it `--precision tf32`
        # would run in float32 and always pass.
        del variables["NVIDIA_TF32_OVERRIDE"]
    return variables


def share() -> int:
    """Return the threads of one side: half of the cores, or fewer if OMP_NUM_THREADS is smaller.

    The sides run at the same time: with more threads than cores, they spin while they wait for
    each other, and both take three times as long.
    """
    return _limited(max(1, _cores() // 2))


def every_core() -> int:
    """Return the threads of a process that runs while no other does."""
    return _limited(_cores())


def _cores() -> int:
    known = hasattr(os, "sched_getaffinity")
    return len(os.sched_getaffinity(0)) if known else os.cpu_count() or 2


def _limited(threads: int) -> int:
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return min(threads, int(asked)) if asked.isdecimal() and int(asked) else threads


def _raised(error: dict[str, Any]) -> PorterError:
    leaves: list[type[PorterError]] = [PorterError, *PorterError.__subclasses__()]
    kinds = {kind.__name__: kind for kind in leaves}
    return kinds.get(error["kind"], PorterError)(error["message"], error.get("path"))
