"""What the bytes of a written file are: its size, each tensor's run, and the frame around them.

The digest of the frame (headers, pickle, directories: every byte that is no tensor's) and those
of the tensors hold every bit of the file, and cost no second pass over it when it is written.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from porter.errors import InputError, listed
from porter.storage import pieces
from porter.storage.digests import XXH3, Digest, digest_of, method_of
from porter.storage.input_file import InputFile, Window
from porter.storage.pieces import Body, Late, Layout, Meter
from porter.tensors.blocks import room

Run = tuple[int, int, str]
"""Offset, bytes, digest."""
_SHORT = 1024
"""Bytes of a piece of the frame that is read with its neighbours: many lie close together."""


@dataclass(frozen=True, slots=True)
class Imprint:
    """The bytes of one file."""

    nbytes: int
    frame: str
    """Digest of all bytes outside of the runs."""
    runs: Mapping[str, Run]
    """Name of a tensor to where its bytes are."""

    @classmethod
    def of(cls, plan: Layout, method: str = XXH3) -> Imprint:
        """Return the imprint of what was written."""
        digest = Digest(method)
        for data in _frame(plan):
            digest.update(data)
        runs = {body.name: (body.offset, body.nbytes, body.digest) for body in plan.bodies}
        return cls(plan.nbytes, digest.text(), runs)

    def as_dict(self) -> dict[str, Any]:
        """Return it for a JSON file."""
        runs = {name: list(run) for name, run in self.runs.items()}
        return {"bytes": self.nbytes, "frame": self.frame, "runs": runs}

    @classmethod
    def from_dict(cls, rows: object) -> Imprint:
        """Return what `as_dict` gave; `InputError` when it makes no sense."""
        if not isinstance(rows, dict) or not isinstance(rows.get("runs"), dict):
            raise InputError("no record of a file's bytes")
        nbytes, frame = rows.get("bytes"), rows.get("frame")
        runs: dict[str, Run] = {}
        for name, run in rows["runs"].items():
            sound = isinstance(run, list) and [type(x) for x in run] == [int, int, str]
            if not sound or not 0 <= run[0] <= run[0] + run[1]:
                raise InputError("a record of a file's bytes that makes no sense")
            runs[name] = (run[0], run[1], run[2])
        if type(nbytes) is not int or type(frame) is not str:
            raise InputError("a record of a file's bytes that makes no sense")
        return cls(nbytes, frame, runs)

    def differences(self, path: str, *, frame_only: bool = False) -> list[str]:
        """Return how the file at `path` differs from this, empty when it does not."""
        with InputFile(path) as file:
            if file.size != self.nbytes:
                return [f"{self.nbytes} bytes were written, there are {file.size}"]
            problems = []
            frame = gaps((run[:2] for run in self.runs.values()), self.nbytes)
            if not _has(file, frame, self.frame):
                problems.append("bytes outside of the tensors were altered")
            if not frame_only:
                altered = self._altered(file)
                problems += [f"other bytes than were written: {listed(altered)}"] if altered else []
            file.check_unchanged()
        return problems

    def _altered(self, file: InputFile) -> list[str]:
        found: dict[str, bool] = {}

        def compare(name: str, run: Run) -> None:
            offset, nbytes, digest = run
            with meter.small if nbytes < pieces.WRITE_BLOCK else meter.large:
                found[name] = _has(file, [(offset, nbytes)], digest)
            meter.add(nbytes)

        meter = Meter()
        jobs = (partial(compare, name, run) for name, run in self.runs.items())
        pieces.run_all(jobs, meter, self.nbytes)
        return [name for name in self.runs if not found[name]]


def _frame(plan: Layout) -> Iterator[bytes | bytearray]:
    """Yield the bytes of a written plan that are no tensor's, in order."""
    last = iter(plan.last)
    late = next(last, None)
    for job in plan.jobs:
        for offset, piece in job.parts:
            while late is not None and late.offset < offset:
                yield late.made
                late = next(last, None)
            if isinstance(piece, Late):
                yield piece.made
            elif not isinstance(piece, Body):
                yield piece
    while late is not None:
        yield late.made
        late = next(last, None)


def _has(file: InputFile, ranges: Iterable[tuple[int, int]], expected: str) -> bool:
    """Whether the bytes of some ranges have a digest, by whatever method it was taken."""
    digest, window = Digest(method_of(expected)), Window(file)
    for start, nbytes in ranges:
        if nbytes <= _SHORT:
            digest.update(window.pread(start, nbytes))
        else:
            take(file, start, nbytes, digest)
    return digest.text() == expected


def take(file: InputFile, start: int, nbytes: int, digest: Digest) -> None:
    """Take a range of a file into a digest, a block at a time."""
    end = start + nbytes
    buffer = room(min(nbytes, pieces.WRITE_BLOCK), start)
    for offset in range(start, end, pieces.WRITE_BLOCK):
        block = buffer[: end - offset]
        file.pread_into(offset, block)
        digest.update(block)


def gaps(runs: Iterable[tuple[int, int]], size: int) -> Iterator[tuple[int, int]]:
    """Yield (offset, bytes) of what no run, given as (offset, bytes), covers of a file."""
    reached = 0
    for offset, nbytes in sorted(runs):
        if offset > reached:
            yield reached, offset - reached
        reached = max(reached, offset + nbytes)
    if size > reached:
        yield reached, size - reached


def frame_of(data: bytes, method: str = XXH3) -> Imprint:
    """Return the imprint of a file without tensors."""
    return Imprint(len(data), digest_of(data, method), {})
