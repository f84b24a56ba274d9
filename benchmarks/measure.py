"""Run one process and account for it: wall time, processor time, peak anonymous memory.

Memory is what the process and its children allocate for themselves: `RssAnon` of
`/proc/PID/status`, sampled every few milliseconds and summed over the family. Pages of files,
mapped or cached, belong to the system and are not counted; nor is a peak shorter than the
interval between two samples. Pages that a fork shares count once in each process: of two workers
with forked frameworks that is up to 0.6 GB more than there is.
"""

from __future__ import annotations

import ctypes
import os
import resource
import subprocess
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_INTERVAL = 0.004
_REST = 100
"""How long to wait between two looks at the memory, by what a look takes: the processor belongs to
the case. Two workers on two cores lost 6 % of their time to looks without a rest."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One run of one process."""

    wall: float
    """Seconds."""
    user: float
    system: float
    memory: int
    """Peak of the anonymous memory of the process and its descendants, bytes."""
    own_memory: int
    """Of the process only."""


class Failed(Exception):
    """The process ended with another code than 0."""


def measure(argv: Sequence[str], folder: Path, limit: float = 1800) -> Sample:
    """Run a command in `folder` and return what it took; `Failed` with what it said."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "2",
        "PYTHONWARNINGS": "ignore",
        # Bytecode as an installation has it: modules are not compiled at every start.
        "PYTHONDONTWRITEBYTECODE": "",
        "PYTHONPYCACHEPREFIX": str(folder / "bytecode"),
    }
    _adopt_orphans()
    others = _children(os.getpid())
    with open(folder / "said.txt", "w+b") as said:
        start = time.perf_counter()
        process = subprocess.Popen(
            argv, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=said, stderr=said
        )
        watcher = _Watcher(process.pid)
        killer = threading.Timer(limit, process.kill)
        killer.start()
        try:
            _, status, usage = os.wait4(process.pid, 0)
        finally:
            wall = time.perf_counter() - start
            killer.cancel()
            watcher.stop()
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            said.seek(0)
            text = said.read().decode(errors="replace").strip().splitlines()
            raise Failed(f"exit code {process.returncode}: {' '.join(text[-3:])}")
    later = [*_orphans(others)]
    user = usage.ru_utime + sum(each.ru_utime for each in later)
    system = usage.ru_stime + sum(each.ru_stime for each in later)
    return Sample(wall, user, system, watcher.peak, watcher.own)


def _adopt_orphans() -> None:
    """Become the parent of what descendants leave, to account for it."""
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # Linux' PR_SET_CHILD_SUBREAPER.


def _orphans(others: Collection[int]) -> Iterator[resource.struct_rusage]:
    """Wait for what a command has left, `others` are not its; yield what each took."""
    while left := [pid for pid in _children(os.getpid()) if pid not in others]:
        yield os.wait4(left[0], 0)[2]


class _Watcher:
    """Samples the anonymous memory of a process and its descendants until it is stopped."""

    def __init__(self, pid: int) -> None:
        self.peak = self.own = 0
        self._pid = pid
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        pause = _INTERVAL
        while not self._ended.wait(pause):
            before = time.thread_time()
            each = [*map(_anonymous, _family(self._pid))]
            self.peak, self.own = max(self.peak, sum(each)), max(self.own, each[0])
            pause = max(_INTERVAL, (time.thread_time() - before) * _REST)

    def stop(self) -> None:
        self._ended.set()
        self._thread.join()


def _family(pid: int) -> list[int]:
    found, waiting = [], [pid]
    while waiting:
        one = waiting.pop()
        found.append(one)
        waiting += _children(one)
    return found


def _children(pid: int) -> list[int]:
    found: list[int] = []
    with suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):  # Each has those that it has started.
            found += map(int, Path(f"/proc/{pid}/task/{thread}/children").read_text().split())
    return found


def _anonymous(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/status") as status:
            for line in status:
                if line.startswith("RssAnon:"):
                    return int(line.split()[1]) << 10
    except (OSError, ProcessLookupError):
        pass
    return 0


def warm(paths: Sequence[Path]) -> None:
    """Bring files into the page cache, and what is waiting to be written to the disk."""
    os.sync()
    buffer = bytearray(8 << 20)
    for path in paths:
        with open(path, "rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def at_hand(folder: Path, nbytes: int) -> None:
    """See to it that the system has `nbytes` of memory at hand for what is written next.

    The host of a virtual machine takes back what has been free for a second or two, and gives it
    again at a tenth of the speed: a file is written and removed, and its pages are free and warm.
    It takes half of the memory at most.
    """
    nbytes = min(nbytes, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2)
    path = folder / "ballast.bin"
    block = bytes(1 << 20)
    try:
        with open(path, "wb", buffering=0) as file:
            for _ in range(0, nbytes, len(block)):
                file.write(block)
    finally:
        path.unlink()


def forget(paths: Iterable[Path]) -> None:
    """Let the page cache go of files, so that those of an earlier group are not in the way."""
    os.sync()
    for path in paths:
        fd = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(fd)


def machine() -> str:
    """Return the machine in words, without a name."""
    model = "an unknown processor"
    memory = 0.0
    with open("/proc/cpuinfo") as lines:
        for line in lines:
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    with open("/proc/meminfo") as lines:
        memory = int(next(lines).split()[1]) / (1 << 20)
    cores = len(os.sched_getaffinity(0))
    return f"{cores} cores of {model}, {memory:.0f} GiB of memory, Linux"


def file_system(folder: Path) -> str:
    """Return the type of the file system that a folder is on."""
    best, kind = "", "unknown"
    here = str(folder.resolve())
    with open("/proc/mounts") as lines:
        for line in lines:
            _, point, found, *_ = line.split()
            inside = here == point or here.startswith(point.rstrip("/") + "/")
            if inside and len(point) > len(best):
                best, kind = point, found
    return kind
