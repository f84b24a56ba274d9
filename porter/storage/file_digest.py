"""The digests of a file, taken in one pass: of all its bytes, and of runs of bytes within it.

The file is hashed in portions, each as a job that is due just before the tensors in it are
converted: what it has read is then still in the page cache, and the disk is read once. A tensor
that another job reads whole is hashed block by block while that job reads it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from functools import partial

from porter.storage.digests import XXH3, Digest, digest_of, method_of
from porter.storage.input_file import InputFile, open_input, watched
from porter.storage.pieces import WRITE_BLOCK, Meter, Task
from porter.tensors.blocks import scratch

_PORTION = 8 * WRITE_BLOCK

Run = tuple[int, int]
"""Offset and bytes."""


class FileDigest:
    """The digest of one file and of runs within it, in as many jobs as it has portions.

    `frame` is what must be found at the offsets given: all bytes that no run covers.
    """

    def __init__(
        self,
        path: str,
        method: str = XXH3,
        runs: Iterable[Run] = (),
        frame: Iterable[tuple[int, bytes]] = (),
    ) -> None:
        self.path = path
        self.size = open_input(path).size
        self.digest = ""
        """Of the whole file, once all jobs are done."""
        self.runs: dict[Run, str] = {}
        """Run to its digest."""
        self.altered = 0
        """Pieces of the frame that are not as they must be."""
        self._method = method
        self._file: InputFile | None = None  # Opened in its turn: there may be very many.
        self._whole = Digest(method)
        self._waiting = sorted(set(runs), reverse=True)
        self._open: list[tuple[int, Run, Digest]] = []
        self._frame = sorted(frame, key=lambda piece: -piece[0])
        self._reached = 0
        self._failed = False
        self._turn = threading.Condition()

    def jobs(self, meter: Meter | None = None, shared: Iterable[Task] = ()) -> list[Task]:
        """Return the jobs; each waits for the one before, which must have been begun.

        A job of `shared` reads a run of the file whole: its bytes are taken as it reads them.
        """
        jobs, at = [], 0
        for job in sorted(shared, key=lambda job: job.place):
            start = job.place[1]
            if start < at or start + job.whole > self.size:
                jobs.append(job)
                continue
            jobs += self._portions(at, start, meter)
            at = start + job.whole
            jobs.append(job._replace(run=partial(self._take, start, at, meter, job.run)))
        if at < self.size or not self.size:
            jobs += self._portions(at, max(self.size, 1), meter)
        return jobs

    def _portions(self, start: int, end: int, meter: Meter | None) -> Iterator[Task]:
        for at in range(start, end, _PORTION):
            stop = min(at + _PORTION, end, self.size)
            yield Task((self.path, at), partial(self._take, at, stop, meter))

    def places(self) -> Iterator[tuple[tuple[str, int, int], str]]:
        """Yield ((path, offset, bytes), digest) of the runs."""
        for (offset, nbytes), digest in self.runs.items():
            yield (self.path, offset, nbytes), digest

    def _take(
        self, start: int, end: int, meter: Meter | None, read: Callable[[], None] | None = None
    ) -> None:
        """Take the bytes from `start` to `end`: those that `read` reads, then the rest."""
        with self._turn:
            self._turn.wait_for(lambda: self._reached == start or self._failed)
        if self._failed:
            return  # The job that failed says why.

        def see(path: str, offset: int, block: memoryview) -> None:
            if path == self.path and start <= offset == self._reached < end:
                self._update(offset, block[: end - offset], end, meter)

        try:
            if read is not None:
                with watched(see):
                    read()
            self._read(end, meter)
        except BaseException:
            with self._turn:
                self._failed = True
                self._turn.notify_all()
            raise

    def _read(self, end: int, meter: Meter | None) -> None:
        """Read from where others have read to, up to `end`; an empty file is read as well."""
        if self._reached >= end > 0:
            return
        file = self._file = self._file or open_input(self.path)
        buffer = scratch(min(WRITE_BLOCK, end - self._reached))
        for offset in range(self._reached, end, WRITE_BLOCK):
            block = buffer[: end - offset]
            file.pread_into(offset, block)
            self._update(offset, block, end, meter)
        if not self.size:
            self._finish()

    def _update(self, offset: int, block: memoryview, end: int, meter: Meter | None) -> None:
        """Take the next block; the next job may begin when it reaches `end`."""
        self._whole.update(block)
        self._update_runs(offset, block)
        self._compare_frame(offset, block)
        if meter is not None:
            meter.add(len(block))
        reached = offset + len(block)
        if reached == self.size:
            self._finish()
        if reached < end:
            self._reached = reached
            return
        with self._turn:
            self._reached = reached
            self._turn.notify_all()

    def _finish(self) -> None:
        while self._waiting:  # Empty ones at the very end.
            self.runs[self._waiting.pop()] = digest_of(b"", self._method)
        self.digest = self._whole.text()
        if self._file is not None:
            self._file.close()
            self._file = None

    def _update_runs(self, offset: int, block: memoryview) -> None:
        """Take a block into the digests of the runs that it is part of."""
        still = []
        for end, run, digest in self._open:
            digest.update(block[: end - offset])
            if end > offset + len(block):
                still.append((end, run, digest))
            else:
                self.runs[run] = digest.text()
        while self._waiting and self._waiting[-1][0] < offset + len(block):
            run = self._waiting.pop()
            part = block[run[0] - offset :][: run[1]]
            if len(part) == run[1]:
                self.runs[run] = digest_of(part, self._method)
                continue
            digest = Digest(self._method)
            digest.update(part)
            still.append((run[0] + run[1], run, digest))
        self._open = still

    def _compare_frame(self, offset: int, block: memoryview) -> None:
        """Compare what of the frame is in a block; a piece may reach into the next."""
        while self._frame and self._frame[-1][0] < offset + len(block):
            at, piece = self._frame.pop()
            part = block[at - offset :][: len(piece)]
            self.altered += bytes(part) != piece[: len(part)]
            if len(part) < len(piece):
                self._frame.append((at + len(part), piece[len(part) :]))
                return


def is_intact(path: str, nbytes: int, digest: str) -> bool:
    """Whether a file has the size and, where it was read back, the digest that it had."""
    if not digest:
        return open_input(path).size == nbytes
    file = FileDigest(path, method_of(digest))
    for job in file.jobs():
        job.run()
    return file.size == nbytes and file.digest == digest
