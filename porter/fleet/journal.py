"""What a run has finished: a line of JSON each, on the disk before another job is begun.

The journal is in a folder next to the manifest, `.MANIFEST.fleet`. A run that was killed leaves at
most a line cut short, which is passed over.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from porter.codecs.check import check
from porter.codecs.detect import INDEX_SUFFIX
from porter.errors import InputError, PorterError, SystemFault
from porter.fleet.job import Job, Result
from porter.remote.address import is_url
from porter.remote.fetch import size_of
from porter.storage.file_digest import is_intact
from porter.storage.input_file import InputFile
from porter.storage.lock import locked
from porter.storage.sidecar import SUFFIX

_LARGEST = 1 << 31


class Journal:
    """The journal of one manifest, locked while a run writes it."""

    def __init__(self, manifest: str) -> None:
        folder, name = os.path.split(os.path.abspath(manifest))
        self.manifest = manifest
        self.folder = os.path.join(folder, f".{name}.fleet")
        self._path = os.path.join(self.folder, "journal.jsonl")
        self.reports = os.path.join(self.folder, "reports")
        """Folder of the verdicts."""
        self._fd = -1
        self.begun: dict[str, str] = {}
        """Name of a job that was begun to its fingerprint."""
        self._fingerprints: dict[str, str] = {}
        """Of jobs that this run has begun and not finished."""
        self.finished: dict[str, tuple[str, Result]] = {}
        """Name of a job to its fingerprint and its result."""

    @contextmanager
    def opened(self, resume: bool) -> Iterator[None]:
        """Lock and open the journal; without `resume` it begins anew.

        Raises `SystemFault` while another run of the manifest goes on.
        """
        try:
            os.makedirs(self.folder, exist_ok=True)
            with locked(self._path, self.manifest, busy="another run of it goes on"):
                if resume:
                    self._read()
                flags = os.O_WRONLY | os.O_CREAT | (os.O_APPEND if resume else os.O_TRUNC)
                self._fd = os.open(self._path, flags, 0o666)
                try:
                    if resume:
                        self._write({"resumed": True})
                    yield
                finally:
                    os.fsync(self._fd)
                    os.close(self._fd)
        except OSError as fault:
            raise SystemFault(f"cannot be written: {fault.strerror}", self.folder) from fault

    def begin(self, jobs: Iterable[Job]) -> None:
        """Note that jobs are about to be run; all rows are on the disk if their outputs will be."""
        todo = [*jobs]
        self._fingerprints |= {job.name: job.fingerprint for job in todo}
        fingerprints = self._fingerprints
        self._write(*({"begun": j.name, "fingerprint": fingerprints[j.name]} for j in todo))
        if any(job.arguments.get("sync", True) for job in todo):
            os.fsync(self._fd)

    def finish(self, results: Iterable[Result]) -> None:
        """Note what came of jobs that were begun."""
        known = self._fingerprints
        self._write(*({"finished": r.as_json(), "fingerprint": known.pop(r.name)} for r in results))

    def was_begun(self, job: Job) -> bool:
        """Whether an earlier run began it, so that its output is this manifest's."""
        return job.name in self.begun and self.begun[job.name] == job.fingerprint

    def done(self, job: Job) -> Result | None:
        """Return the result of a job that need not be run again: its output is still the same."""
        fingerprint, result = self.finished.get(job.name, ("", None))
        if result is None or fingerprint != job.fingerprint or not result.good:
            return None
        return result if not job.output or _is_intact(result) else None

    def _write(self, *rows: dict[str, Any]) -> None:
        os.write(self._fd, "".join([json.dumps(row) + "\n" for row in rows]).encode())

    def _read(self) -> None:
        try:
            with InputFile(self._path) as file:
                if file.size > _LARGEST:
                    raise InputError("the journal is too large", self._path)
                data = file.pread(0, file.size)
        except InputError as error:
            if os.path.lexists(self._path):
                raise error
            return
        for line in data.splitlines():
            with suppress(ValueError, TypeError, KeyError):  # Cut short when a run was killed.
                row = json.loads(line)
                if "begun" in row:
                    self.begun[row["begun"]] = row["fingerprint"]
                if "finished" in row:
                    result = Result.of(row["finished"])
                    self.finished[result.name] = row["fingerprint"], result


def _is_intact(result: Result) -> bool:
    """Whether an output, with all its shards, still is what was written."""
    try:
        if is_url(result.output):
            return _is_at_address(result)
        if os.path.exists(result.output + SUFFIX):
            return check(result.output).ok
        return is_intact(result.output, result.nbytes, result.digest)
    except PorterError:
        return False


def _is_at_address(result: Result) -> bool:
    """Whether an output is there, one file with its size: to compare it would be to fetch it."""
    size = size_of(result.output)
    return size == result.nbytes or result.output.endswith(INDEX_SUFFIX)
