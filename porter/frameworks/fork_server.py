"""Framework processes that are forked from one in which the framework is loaded.

To import a framework takes a second and 150 MB; a fork takes 5 ms and shares that memory. Only a
process with one thread and without CUDA is forked: torch and paddle start threads when they compute
first. Where an import does more, its children start anew.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import IO, TypeVar

T = TypeVar("T")

_MODULE = "porter.frameworks.worker"
IS_POSSIBLE = sys.platform == "linux"
_ANEW = "anew"
"""Argument of a server whose children import the framework again."""
_DEVICES = ("/dev/nvidia", "/dev/dxg")
"""Of CUDA, the second in Windows' Linux."""
_WAIT = 5.0
"""Seconds that a server gets to end before it is killed."""
_MESSAGE = 64
"""Bytes of a process id, or an exit code, at most."""


class ForkServer:
    """The process that is forked; it ends when nobody is left who has its `channel`."""

    def __init__(self, framework: str) -> None:
        self.framework = framework
        self._ours, self._its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def channel(self) -> int:
        """Descriptor for `Forked`; processes that use it are started with it."""
        return self._ours.fileno()

    @property
    def descriptor(self) -> int:
        """The end of the channel that only the server may have: without it, callers wait."""
        return self._its.fileno()

    def start(self, environment: Mapping[str, str]) -> None:
        """Start the process, which loads the framework when it is first asked for a child."""
        channel = self.descriptor
        self._process = subprocess.Popen(
            [*command(self.framework), str(channel)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment,
            pass_fds=[channel],
            start_new_session=True,
        )
        self._its.close()

    def close(self) -> None:
        """Give the channel up; without a server, processes that ask start anew."""
        self._ours.close()
        self._its.close()
        if self._process is not None:
            try:
                self._process.wait(_WAIT)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


def command(framework: str, python: str = sys.executable) -> list[str]:
    """Return the command that starts a framework's process."""
    # -P: a file of the working directory (torch.py, queue.py) is never imported
    return [python, "-P", "-m", _MODULE, framework]


class Forked:
    """A process that a fork server has started, with what `Worker` uses of a `Popen`.

    Raises `OSError` where the server has ended.
    """

    def __init__(self, channel: int, log: IO[bytes]) -> None:
        self.returncode: int | None = None
        self._pid = 0
        with contextlib.ExitStack() as ours, contextlib.ExitStack() as its:
            server = its.enter_context(
                socket.fromfd(channel, socket.AF_UNIX, socket.SOCK_SEQPACKET)
            )
            self._control, control = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            ours.enter_context(self._control)
            its.enter_context(control)
            stdin, into = os.pipe()
            its.callback(os.close, stdin)
            self.stdin = ours.enter_context(open(into, "w", encoding="utf-8"))
            out, stdout = os.pipe()
            its.callback(os.close, stdout)
            self.stdout = ours.enter_context(open(out, encoding="utf-8"))
            fds = [stdin, stdout, log.fileno(), control.fileno()]
            socket.send_fds(server, [b"+"], fds)
            ours.pop_all()

    @property
    def pid(self) -> int:
        """The process id, once the server has forked; 0 if it ended before."""
        self._pid = self._pid or self._message(None) or 0
        return self._pid

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit code when the process has ended; 1 if the server has ended before."""
        if self.returncode is None:
            self._pid = self._pid or self._message(timeout) or 0
            code = self._message(timeout)
            self.returncode = 1 if code is None else code
            self._control.close()
        return self.returncode

    def kill(self) -> None:
        """Kill the process, unless it has ended."""
        if self.returncode is None and self.pid:
            try:
                self.wait(0)
            except subprocess.TimeoutExpired:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.pid, signal.SIGKILL)

    def _message(self, timeout: float | None) -> int | None:
        """Return the next number that the server sends; None when it has ended."""
        self._control.settimeout(timeout)
        try:
            text = self._control.recv(_MESSAGE)
        except (TimeoutError, BlockingIOError):
            raise subprocess.TimeoutExpired(_MODULE, timeout or 0.0) from None
        return int(text) if text else None


def children(channel: int, framework: str, load: Callable[[], T], *, anew: bool) -> T | None:
    """Fork a child for each request; return in the children only, with what `load` returned.

    A child has the descriptors of its request as standard input, output and error. Where children
    start `anew`, nothing is loaded here, and none returns.
    """
    requests = socket.socket(fileno=channel)
    ended, wakes = socket.socketpair()
    for each in (ended, wakes):
        each.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    signal.set_wakeup_fd(wakes.fileno())
    controls: dict[int, socket.socket] = {}
    loaded: T | None = None
    while True:
        ready, _, _ = select.select([requests, ended], [], [])
        if ended in ready:
            ended.recv(1 << 16)
            _report(controls)
        if requests not in ready:
            continue
        if loaded is None and not anew:
            loaded = _loaded(load, [*command(framework), str(channel), _ANEW])
        message, fds, _, _ = socket.recv_fds(requests, 1, 4)
        if not message:
            os._exit(0)
        if (pid := os.fork()) == 0:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for unused in (requests, ended, wakes, *controls.values()):
                unused.close()
            _take(fds)
            if anew:
                os.execv(sys.executable, command(framework))
            return loaded
        *rest, control = fds
        for fd in rest:
            os.close(fd)
        controls[pid] = socket.socket(fileno=control)
        _tell(controls[pid], pid)


def _loaded(load: Callable[[], T], otherwise: list[str]) -> T:
    """Load the framework; become another server where this process may not be forked then."""
    is_fit = False
    try:
        loaded = load()
        is_fit = _is_fit()
    finally:
        if not is_fit:  # An import that has failed fails in each child, too, which reports it.
            os.execv(sys.executable, otherwise)
    return loaded


def _take(fds: Sequence[int]) -> None:
    """Use the descriptors of a request as standard input, output and error."""
    for number, fd in enumerate(fds[:3]):
        os.dup2(fd, number)
    for fd in fds:
        os.close(fd)


def _report(controls: dict[int, socket.socket]) -> None:
    """Send the exit codes of the children that have ended."""
    while controls:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        with controls.pop(pid) as control:
            _tell(control, os.waitstatus_to_exitcode(status))


def _tell(control: socket.socket, number: int) -> None:
    with contextlib.suppress(OSError):  # The process that asked may have ended.
        control.send(str(number).encode())


def _is_fit() -> bool:
    """Whether this process may be forked: it has one thread, and CUDA was not used.

    OpenBLAS, which NumPy loads, ends its threads before a fork, and starts them when it needs them.
    """
    if (pid := os.fork()) == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    if len(os.listdir("/proc/self/task")) > 1:
        return False
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # That of the listing.
            if os.readlink(f"/proc/self/fd/{fd}").startswith(_DEVICES):
                return False
    return True
