"""Compare a file with the record that porter left of it: every byte, without the source."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from porter import codecs
from porter.codecs.record import sealed
from porter.errors import InputError, listed, printable
from porter.storage import pieces
from porter.storage.digests import method_of, unknown
from porter.storage.file_digest import FileDigest
from porter.storage.input_file import InputFile
from porter.storage.pieces import Meter
from porter.storage.progress import Advance
from porter.storage.read_back import digests_of
from porter.storage.sidecar import EARLIER, SUFFIX, read_beside


@dataclass(frozen=True, slots=True)
class Checked:
    """The result of comparing a file with its record."""

    path: str
    tensors: int
    """Tensors on record."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)
    problems: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether every byte is what was written."""
        return not self.problems

    def as_dict(self) -> dict[str, Any]:
        """Return it for machines."""
        return {
            "ok": self.ok,
            "tensors": self.tensors,
            "sources": dict(self.sources),
            "problems": list(self.problems),
        }

    def __str__(self) -> str:
        if self.ok:
            return f"intact: {self.tensors} tensors have the digests that were recorded"
        return "NOT intact: " + "; ".join(self.problems)


def check(path: str | os.PathLike[str], *, progress: Advance | None = None) -> Checked:
    """Read every byte of a file again and compare it with the record that porter left.

    Raises `InputError` when there is no record, or a malformed one.
    """
    name = os.fspath(path)
    place = name + SUFFIX
    if not os.path.exists(place):
        raise InputError(f"has no record of its digests, {os.path.basename(place)}", name)
    record = read_beside(place)
    if record["schema"] == EARLIER:
        raise InputError("was recorded by an earlier version of porter: convert again", place)
    files, tensors = record.get("files"), record.get("tensors")
    if files == {}:
        raise InputError("was written without digests: there is nothing to compare with", name)
    if not isinstance(files, dict) or not isinstance(tensors, dict):
        raise InputError("the record of provenance is malformed", place)
    files = _renamed(files, os.path.basename(name), place)
    damaged = list(_damaged(os.path.dirname(name), files, place, progress))
    unread = [file for file, row in files.items() if not row["digest"]]
    problems = [problem for _, problem in damaged]
    if damaged or unread:
        altered = _altered(name, tensors, place)
        problems = altered or problems
    if not _is_sealed(place, record.get("digest")):
        problems.append(f"the record {printable(os.path.basename(place))} was altered")
    metadata, sources = _texts(record, "metadata", place), _texts(record, "sources", place)
    return Checked(name, len(tensors), metadata, sources, tuple(problems))


def _renamed(files: dict[str, Any], name: str, place: str) -> dict[str, Any]:
    """Return the files of a record, of which the only one may have been renamed with its record.

    `InputError` where the record of several files has none of this name: it is of another output.
    """
    if name in files:
        return files
    if len(files) > 1:
        raise InputError(f"is the record of {listed(files, 3)}: give them these names back", place)
    return dict(zip([name], files.values(), strict=False))


def _damaged(
    folder: str, files: Mapping[str, Any], place: str, progress: Advance | None
) -> Iterator[tuple[str, str]]:
    """Yield (file, problem) of the files that are not, to the byte, what was written."""
    for name, row in files.items():
        if not isinstance(row, dict) or [type(row.get(k)) for k in ("bytes", "digest")] != [
            int,
            str,
        ]:
            raise InputError("the record of provenance is malformed", place)
        where = f"{printable(name)}: " if len(files) > 1 else ""
        try:
            file = FileDigest(
                os.path.join(folder, os.path.basename(name)),
                method_of(row["digest"]) if row["digest"] else "xxh3",
            )
        except InputError as fault:
            yield name, where + fault.message
            continue
        if file.size != row["bytes"]:
            yield name, f"{where}{row['bytes']} bytes were written, {file.size} are found"
        elif row["digest"]:
            meter = Meter()
            jobs = (job.run for job in file.jobs(meter))
            pieces.run_all(jobs, meter, file.size, progress)
            if file.digest != row["digest"]:
                yield name, f"{where}bytes outside of the tensors were altered"


def _altered(path: str, tensors: Mapping[str, Any], place: str) -> list[str]:
    """Return the problems of single tensors, empty where all of them are what was written."""
    digests: dict[str, str] = {}
    for name, row in tensors.items():
        if not isinstance(row, list) or [type(x) for x in row] != [str, list, str]:
            raise InputError("the record of provenance is malformed", place)
        digests[name] = row[2]
    try:
        state = codecs.read(path, strip=False)
        known = {name: state[name] for name in digests if name in state}
        methods = {method_of(digest) for digest in digests.values()}
        actual = digests_of(known, method=methods.pop()) if methods else {}
    except InputError as fault:
        return [fault.message]
    wrong = [name for name, digest in digests.items() if actual.get(name) != digest]
    return [f"bytes differ from what was written: {listed(wrong)}"] if wrong else []


def _texts(record: Mapping[str, Any], key: str, path: str) -> dict[str, str]:
    value = record.get(key)
    if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
        raise InputError(f"the record of provenance has a malformed entry {key}", path)
    return value


def _is_sealed(path: str, digest: object) -> bool:
    """Whether a record is, to the byte, what its own digest was taken of."""
    method = method_of(digest)
    with InputFile(path) as file:
        text = file.pread(0, file.size)
    head, match, tail = text.rpartition(str(digest).encode())
    return bool(match) and sealed(head + unknown(method).encode() + tail, method) == text
