"""Where a file came from, and the digests that show whether it is still what was written.

safetensors and ONNX carry it in their own metadata; beside any other file stands
`OUTPUT.porter.json`. The digests tell damage: a bit that flipped on a disk or on the way. They
are no signature, for whoever alters the file can alter the record with it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from json.encoder import encode_basestring as _quoted
from typing import Any

from porter.codecs import onnx_seal, safetensors, sharded, ties
from porter.codecs.beside import SCHEMA, SUFFIX, json_object, read_beside
from porter.codecs.digests import XXH3, digest_of, method_of, unknown
from porter.codecs.files import InputFile
from porter.codecs.imprint import Imprint
from porter.codecs.pieces import Body, Job, Progress
from porter.codecs.read_back import differences
from porter.codecs.source_digest import SourceDigest
from porter.errors import InputError, printable
from porter.tensor import StateDict

DIGESTS = "porter.digests"
"""Metadata key: {name: digest of the tensor's C-order little-endian bytes}, as JSON."""
SOURCES = "porter.source_digests"
"""Metadata key: {file name: digest of all its bytes}, as JSON."""


class Record:
    """The provenance of one output; the digests of the sources are taken while it is written."""

    def __init__(
        self, metadata: Mapping[str, str], sources: Iterable[str] = (), method: str = XXH3
    ) -> None:
        self.metadata = dict(metadata)
        self.method = method
        self._sources = list(dict.fromkeys(sources))
        self._unread = list(self._sources)
        self._digests: dict[str, str] = {}

    def jobs(self) -> Iterator[Job]:
        """Yield what must be run before `late` is final: the sources, in portions.

        The first file of an output that writes has them; who asks later gets none.
        """
        unread, self._unread = self._unread, []
        for path in unread:
            yield from self._source(path).jobs()

    def _source(self, path: str) -> SourceDigest:
        return SourceDigest(path, partial(self._digests.__setitem__, path), self.method)

    def late(self, bodies: Sequence[Body]) -> dict[str, str]:
        """Return the digests as metadata, of the same length before and after they are known."""
        known = {body.name: body.digest or unknown(self.method) for body in bodies}
        found = {DIGESTS: ties.compact(known)}
        if self._sources:
            found[SOURCES] = ties.compact(self.sources())
        return found

    def sources(self) -> dict[str, str]:
        """Return {file name: digest}; the name is the whole path where two would be the same."""
        names = [os.path.basename(path) for path in self._sources]
        shown = names if len(set(names)) == len(names) else self._sources
        return {
            printable(name): self._digests.get(path, unknown(self.method))
            for name, path in zip(shown, self._sources, strict=True)
        }

    def text(self, state: StateDict, files: Mapping[str, Imprint]) -> bytes:
        """Return what stands beside an output without metadata of its own, made of `files`."""
        record = {
            "schema": SCHEMA,
            "metadata": dict(sorted(self.metadata.items())),
            "sources": self.sources(),
            "tensors": {n: [t.dtype.name, list(t.shape)] for n, t in state.items()},
            "ties": ties.aliases(state),
            "files": {name: imprint.as_dict() for name, imprint in files.items()},
            "seal": unknown(self.method),
        }
        return _sealed(_lines(record).encode("utf-8") + b"\n", self.method)


def _sealed(text: bytes, method: str) -> bytes:
    """Return a record with its own digest in the place of the hyphens at its end."""
    head, hyphens, tail = text.rpartition(unknown(method).encode())
    assert hyphens
    return head + digest_of(text, method).encode() + tail


def _seal_holds(path: str, seal: object) -> bool:
    """Whether a record is, to the byte, what its own digest was taken of."""
    method = method_of(seal)
    with InputFile(path) as file:
        text = file.pread(0, file.size)
    head, found, tail = text.rpartition(str(seal).encode())
    return bool(found) and _sealed(head + unknown(method).encode() + tail, method) == text


def _lines(value: object, depth: int = 3, indent: str = "") -> str:
    """Return JSON with an entry a line, `depth` mappings deep.

    `json.dumps(indent=1)` puts every number on a line of its own, and is written in Python.
    """
    if type(value) is str:
        return _quoted(value)
    if type(value) is int:
        return str(value)
    if type(value) is list:
        return f"[{', '.join([_lines(item, -1) for item in value])}]"
    if depth < 0 or not isinstance(value, dict) or not value:
        return json.dumps(value, ensure_ascii=False)
    deeper = indent + " "
    rows = [
        f"{deeper}{_quoted(key)}: {_lines(below, depth - 1, deeper)}"
        for key, below in value.items()
    ]
    return "{\n" + ",\n".join(rows) + f"\n{indent}}}"


@dataclass(frozen=True, slots=True)
class Checked:
    """What became of comparing a file with its record."""

    path: str
    tensors: int
    """Tensors read and compared."""
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


def check(path: str | os.PathLike[str], *, progress: Progress | None = None) -> Checked:
    """Read every byte of a file again and compare it with the record that porter left.

    Raises `InputError` when there is no record, or one that makes no sense.
    """
    from porter import codecs

    name = os.fspath(path)
    beside = name + SUFFIX
    if os.path.exists(beside):
        return _check_beside(name, beside)
    state = codecs.read(name, strip=False)
    if state.origin is None or DIGESTS not in state.origin.metadata:
        raise InputError(f"has no record of its digests, and no {os.path.basename(beside)}", name)
    return _check_inside(name, state, progress)


def _check_beside(path: str, beside: str) -> Checked:
    """Compare the files of an output, byte for byte, with the record beside it."""
    record = read_beside(beside)
    files = record.get("files")
    tensors = record.get("tensors")
    if files == {}:
        raise InputError("was written without digests: there is nothing to compare with", path)
    if not isinstance(files, dict) or not isinstance(tensors, dict):
        raise InputError("the record of provenance makes no sense", beside)
    problems: list[str] = []
    for name, rows in files.items():
        try:
            imprint = Imprint.from_dict(rows)
            found = imprint.differences(os.path.join(os.path.dirname(path), os.path.basename(name)))
        except InputError as fault:
            found = [fault.message]
        several = f"{printable(name)}: " if len(files) > 1 else ""
        problems += [several + problem for problem in found]
    if not _seal_holds(beside, record.get("seal")):
        problems.append(f"the record {printable(os.path.basename(beside))} was altered")
    metadata, sources = _texts(record, "metadata", beside), _texts(record, "sources", beside)
    return Checked(path, len(tensors), metadata, sources, tuple(problems))


def _check_inside(path: str, state: StateDict, progress: Progress | None) -> Checked:
    """Compare header and tensors with the digests in the metadata."""
    assert state.origin is not None
    files = [name for name in state.origin.files if not name.endswith(sharded.SUFFIX)]
    digests: dict[str, Any] = {}
    for name in files:
        digests |= json_object(_metadata_of(name, state).get(DIGESTS, "{}"), name)
    for alias, name in ties.aliases(state).items():
        digests.setdefault(alias, digests.get(name))
    try:
        problems = differences(state, digests, state, progress)
        problems += _altered_headers(path, state, files)
    except InputError as fault:
        raise fault if fault.path else InputError(fault.message, path) from fault
    metadata = state.origin.metadata
    sources = json_object(metadata.get(SOURCES, "{}"), path)
    return Checked(path, len(state), metadata, sources, tuple(problems))


def _metadata_of(path: str, state: StateDict) -> Mapping[str, str]:
    assert state.origin is not None
    if state.origin.format == "onnx":
        return state.origin.metadata
    with InputFile(path) as file:
        return safetensors.read_header(file)[2]


def _altered_headers(path: str, state: StateDict, files: Iterable[str]) -> Iterator[str]:
    """Say what around the tensors is not as it was written."""
    assert state.origin is not None
    if state.origin.format == "onnx":
        seal = state.origin.metadata.get(onnx_seal.SEAL)
        if seal is None or not onnx_seal.is_intact(path, seal, state):
            yield "bytes outside of the tensors were altered"
        return
    for name in files:
        with InputFile(name) as file:
            if not safetensors.header_is_intact(file):
                yield f"the header of {printable(os.path.basename(name))} was altered"
    if path not in files:
        with InputFile(path) as file:
            index = sharded.read_index(file)
            if file.pread(0, file.size) != sharded.text_of(index.files, state.nbytes):
                yield "the index was altered"


def _texts(record: Mapping[str, Any], key: str, path: str) -> dict[str, str]:
    found = record.get(key)
    if not isinstance(found, dict) or not all(isinstance(v, str) for v in found.values()):
        raise InputError(f"the record of provenance has no sound {key}", path)
    return found
