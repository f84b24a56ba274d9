"""What a file is made of, and the threads that write it.

A codec says what stands in its file from the first byte to the last, as pieces: `bytes`,
`Body` (the elements of one tensor) and `Late` (bytes known only when bodies are written: a
checksum, a digest). All sizes are known beforehand, so every piece has its place before a
tensor is read, and tensors are written side by side, each block read, hashed, checked and
written while it is warm. One block and, for a tensor that is not as it lies on disk, the
tensor itself is what a thread holds.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple, Protocol, TypeAlias

from porter.storage.digests import XXH3, Digest, crc32, digest_of
from porter.storage.page_cache import Wake, is_too_large
from porter.storage.positional import write_at
from porter.storage.progress import Advance
from porter.tensors.blocks import free_lent, scratch
from porter.tensors.lazy import SMALL, Extent, LazyTensor

WRITE_BLOCK = 1 << 20
"""Bytes read, hashed and written at a time: they stay in a core's own cache."""

MOST_HELD = 50 << 20
"""Bytes of tensors that must be held as a whole, in all threads."""


@dataclass(slots=True, eq=False)
class Body:
    """The elements of one tensor, C order, little endian, under the name of its digest."""

    name: str
    tensor: LazyTensor
    checksum: bool = False
    """Whether a CRC-32 is wanted."""
    offset: int = -1
    """Where the first byte stands in the file, once placed."""
    crc32: int = 0
    """Beforehand of what precedes it in the same zip member, afterwards of both."""
    digest: str = ""

    @property
    def nbytes(self) -> int:
        """Bytes that it takes."""
        return self.tensor.nbytes


@dataclass(slots=True, eq=False)
class Late:
    """`nbytes` bytes that `make` returns when the next body is written, or when all are."""

    nbytes: int
    make: Callable[[], bytes]
    last: bool = False
    """Wait for every body of the file, not for the one that comes next."""
    offset: int = -1
    made: bytes = b""
    """What was written."""


Piece: TypeAlias = bytes | bytearray | Body | Late


class Task(NamedTuple):
    """Something that is run while a file is written, when its place in a source is reached."""

    place: tuple[str, int]
    """File and offset of what it reads."""
    run: Callable[[], None]
    whole: int = 0
    """Bytes from there on that it reads in order before all else; 0 where it reads otherwise."""


class Follower(Protocol):
    """Whoever reads a file from beginning to end, or is shown what others read of it."""

    @property
    def path(self) -> str:
        """The file."""

    def jobs(self, meter: Meter | None = None, shared: Iterable[Task] = ()) -> list[Task]:
        """Return jobs that read all of the file; those of `shared` are among them."""


@dataclass(slots=True)
class _Job:
    """A run of pieces that one thread writes."""

    start: int
    nbytes: int = 0
    parts: list[tuple[int, bytes | bytearray | Body | Late]] = field(default_factory=list)
    has_hole: bool = False
    """A piece that is made at the end, and not part of this job, stands within it."""


@dataclass(slots=True)
class Layout:
    """Pieces in their places."""

    nbytes: int
    jobs: list[_Job]
    last: list[Late]
    bodies: list[Body]

    def frame(self) -> Iterator[tuple[int, bytes]]:
        """Yield (offset, bytes) of all that is not a tensor's, once it was written."""
        for late in self.last:
            yield late.offset, late.made
        for job in self.jobs:
            for offset, piece in job.parts:
                if isinstance(piece, Late):
                    yield offset, piece.made
                elif not isinstance(piece, Body):
                    yield offset, bytes(piece)


def place(pieces: Iterable[Piece]) -> Layout:
    """Give every piece its offset, and cut the file into jobs of about one block."""
    plan = Layout(0, [], [], [])
    job = _Job(0)
    bound = False  # a `Late` waits for its body, which must go into the same job
    for piece in pieces:
        size = len(piece) if isinstance(piece, bytes | bytearray) else piece.nbytes
        if job.nbytes and job.nbytes + size > WRITE_BLOCK and not bound:
            plan.jobs.append(job)
            job = _Job(plan.nbytes)
        bound = False
        if isinstance(piece, Body):
            piece.offset = plan.nbytes
            plan.bodies.append(piece)
        if isinstance(piece, Late):
            piece.offset = plan.nbytes
            bound = not piece.last
        if isinstance(piece, Late) and piece.last:
            plan.last.append(piece)
            job.has_hole = True
        else:
            job.parts.append((plan.nbytes, piece))
        job.nbytes += size
        plan.nbytes += size
    plan.jobs.append(job)
    return plan


def write(
    fd: int,
    plan: Layout,
    progress: Advance | None = None,
    also: Iterable[Follower] = (),
    digests: str = XXH3,
) -> None:
    """Write every piece at its place; the first error of a thread is raised here.

    The sources are read from their beginnings to their ends, whatever the order of the output.
    `also` is run by the same threads; pieces that wait for the end wait for it too. `digests` is
    the method of the tensors' digests, "" for none.
    """
    followers = list(also)
    if plan.nbytes <= _LITTLE and not (followers or plan.bodies or plan.last):
        for offset, made in plan.frame():
            write_at(fd, made, offset)
        return
    writer = _Writer(fd, digests, Wake(is_too_large(plan.nbytes)))
    jobs = [Task(_place(job), partial(writer.job, job), _whole(job)) for job in plan.jobs]
    run_all((job.run for job in in_order(jobs, followers)), writer, plan.nbytes, progress)
    for late in plan.last:
        write_at(fd, _made(late), late.offset)


def in_order(
    jobs: Iterable[Task], followers: Iterable[Follower], meter: Meter | None = None
) -> list[Task]:
    """Return all jobs by the places that they read, with those of the followers of the files.

    A large run that a job reads whole is read once for both. Otherwise, of two jobs at one place,
    the follower's is first: a source is hashed before it is converted.
    """
    reading = {follower.path: follower for follower in followers}
    shared: dict[str, list[Task]] = {path: [] for path in reading}
    rest: list[Task] = []
    for job in jobs:
        followed = job.whole > 2 * WRITE_BLOCK and job.place[0] in reading
        (shared[job.place[0]] if followed else rest).append(job)
    first = [job for path, each in reading.items() for job in each.jobs(meter, shared[path])]
    return sorted([*first, *rest], key=lambda job: job.place)


def _whole(job: _Job) -> int:
    """Return the bytes of a run that a job reads whole, before it writes any of them."""
    bodies = [piece for _, piece in job.parts if isinstance(piece, Body)]
    return bodies[0].nbytes if len(bodies) == 1 and bodies[0].tensor.is_read_whole else 0


def _place(job: _Job) -> tuple[str, int]:
    """Return where in a source the first tensor of a job is."""
    for _, piece in job.parts:
        if isinstance(piece, Body):
            return piece.tensor.place or ("", 0)
    return ("", 0)


class Meter:
    """Bytes done so far, and whether to stop; shared by threads.

    `small` is held while many small tensors are worked on: two threads that both make one short
    system call after another spend their time handing the interpreter's lock to each other.
    """

    def __init__(self) -> None:
        self.done = 0
        self.stopped = False
        self.small = threading.Lock()
        self.large = nullcontext()
        self.budget = Budget(MOST_HELD)
        self._lock = threading.Lock()

    def add(self, nbytes: int) -> None:
        """Count bytes; raise `Cancelled` when another thread has failed."""
        if self.stopped:
            raise Cancelled
        with self._lock:
            self.done += nbytes


class Budget:
    """Bytes that threads may hold together; who would hold more waits for the others."""

    def __init__(self, nbytes: int) -> None:
        self._free = self._all = nbytes
        self._changed = threading.Condition()

    @contextmanager
    def taken(self, nbytes: int) -> Iterator[None]:
        """Hold `nbytes`, or all there is if that is less."""
        wanted = min(nbytes, self._all)
        if wanted:
            with self._changed:
                self._changed.wait_for(lambda: self._free >= wanted)
                self._free -= wanted
        try:
            yield
        finally:
            if wanted:
                with self._changed:
                    self._free += wanted
                    self._changed.notify_all()


class Cancelled(Exception):
    """Another thread failed first."""


class _Writer(Meter):
    def __init__(self, fd: int, digests: str, wake: Wake) -> None:
        super().__init__()
        self._wake = wake
        self._fd = fd
        self._digests = digests

    def job(self, job: _Job) -> None:
        if job.nbytes > 2 * WRITE_BLOCK:
            self._in_blocks(job)
        else:
            with self.small:
                self._at_once(job)
        if self._wake.active:
            for extent in self._read(job):
                self._wake.done(extent.file.fileno(), extent.offset, extent.nbytes)
            self._wake.done(self._fd, job.start, job.nbytes)

    @staticmethod
    def _read(job: _Job) -> Iterator[Extent]:
        """Yield what a job has read of the sources."""
        for _, piece in job.parts:
            tensor = piece.tensor if isinstance(piece, Body) else None
            found = None if tensor is None else tensor.extent or tensor.strided
            if tensor is not None and found is not None:
                yield Extent(found.file, found.offset, tensor.nbytes)

    def _at_once(self, job: _Job) -> None:
        """Gather small pieces and write them by one call."""
        buffer = scratch(job.nbytes)
        if job.has_hole:
            buffer[:] = bytes(job.nbytes)
        late: list[Late] = []
        for offset, piece in job.parts:
            at = offset - job.start
            if isinstance(piece, Body):
                small = piece.nbytes <= SMALL
                for block in (self._whole(piece),) if small else self._blocks(piece):
                    buffer[at : at + len(block)] = block
                    at += len(block)
            elif isinstance(piece, Late):
                late.append(piece)
            else:
                buffer[at : at + len(piece)] = piece
        for piece in late:
            at = piece.offset - job.start
            buffer[at : at + piece.nbytes] = _made(piece)
        write_at(self._fd, buffer, job.start)
        self.add(len(buffer))

    def _in_blocks(self, job: _Job) -> None:
        late: list[Late] = []
        for offset, piece in job.parts:
            if isinstance(piece, Body):
                for block in self._blocks(piece):
                    write_at(self._fd, block, offset)
                    offset += len(block)
                    self.add(len(block))
            elif isinstance(piece, Late):
                late.append(piece)
            else:
                write_at(self._fd, piece, offset)
                self.add(len(piece))
        for piece in late:
            write_at(self._fd, _made(piece), piece.offset)
            self.add(piece.nbytes)

    def _whole(self, body: Body) -> bytes:
        """Return a small tensor's bytes, and note their digest and checksum."""
        data = body.tensor.whole()
        assert len(data) == body.nbytes, (body.name, len(data), body.nbytes)
        if self._digests:
            body.digest = digest_of(data, self._digests)
        if body.checksum:
            body.crc32 = crc32(data, body.crc32)
        return data

    def _blocks(self, body: Body) -> Iterator[memoryview]:
        """Yield a tensor's bytes, and note their digest and checksum."""
        if self.stopped:
            raise Cancelled
        digest = Digest(self._digests or XXH3)
        value, total = body.crc32, 0
        with self.budget.taken(body.tensor.held):
            for block in body.tensor.blocks(WRITE_BLOCK):
                if self._digests:
                    digest.update(block)
                if body.checksum:
                    value = crc32(block, value)
                total += len(block)
                yield block
        assert total == body.nbytes, (body.name, total, body.nbytes)
        body.digest = digest.text() if self._digests else ""
        body.crc32 = value


def _made(late: Late) -> bytes:
    late.made = late.make()
    assert len(late.made) == late.nbytes, (len(late.made), late.nbytes)
    return late.made


_LITTLE = 2 * WRITE_BLOCK
"""Bytes that one thread works on sooner than others are started."""
_most_threads = [4]


def use_threads(count: int) -> None:
    """Let this process use no more threads: others of this machine use its share of the cores."""
    _most_threads[0] = max(1, count)


def workers() -> int:
    """Return how many threads are worth having: memory, not arithmetic, is what limits."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2
    return min(_most_threads[0], cores)


def _run_here(
    jobs: Iterable[Callable[[], None]], meter: Meter, total: int, progress: Advance | None
) -> None:
    try:
        for job in jobs:
            job()
            if progress is not None:
                progress(meter.done, total)
    finally:
        free_lent()


def run_all(
    jobs: Iterable[Callable[[], None]],
    meter: Meter,
    total: int,
    progress: Advance | None = None,
) -> None:
    """Run the jobs over a few threads; stop them all at the first error and raise it.

    They are begun in their order, each when a thread is free. A little work is done by the thread
    that calls: to start others would take longer.
    """
    if workers() == 1 or total <= _LITTLE:
        _run_here(jobs, meter, total, progress)
        return
    # What the standard library has for it takes longer to load than most files to be read.
    waiting, turn = iter(jobs), threading.Lock()
    faults: list[BaseException] = []

    def work() -> None:
        try:
            while not meter.stopped:
                with turn:
                    job = next(waiting, None)
                if job is None:
                    return
                job()
        except BaseException as fault:  # noqa: BLE001 - it is raised by the thread that waits
            faults.append(fault)
            meter.stopped = True

    threads = [threading.Thread(target=work, name=f"porter_{n}") for n in range(workers())]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive():
                thread.join(0.1)
                if progress is not None:
                    progress(meter.done, total)
    finally:
        meter.stopped = meter.stopped or any(thread.is_alive() for thread in threads)
        for thread in threads:
            if thread.ident is not None:
                thread.join()
        free_lent()
    if faults:
        raise faults[0]
