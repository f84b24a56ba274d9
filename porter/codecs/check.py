"""Compare a file with the record that porter left of it: every byte, without the source."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from porter import codecs
from porter.codecs import safetensors
from porter.codecs.onnx import seal as onnx_seal
from porter.codecs.provenance import DIGESTS, SOURCES, _sealed
from porter.codecs.sharded import index as sharded
from porter.errors import InputError, printable
from porter.storage.checksums import Imprint
from porter.storage.digests import method_of, unknown
from porter.storage.input_file import InputFile
from porter.storage.progress import Advance
from porter.storage.read_back import differences
from porter.storage.sidecar import SUFFIX, json_object, read_beside
from porter.tensors import shared_tensors
from porter.tensors.state_dict import StateDict


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


def check(path: str | os.PathLike[str], *, progress: Advance | None = None) -> Checked:
    """Read every byte of a file again and compare it with the record that porter left.

    Raises `InputError` when there is no record, or one that makes no sense.
    """
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


def _check_inside(path: str, state: StateDict, progress: Advance | None) -> Checked:
    """Compare header and tensors with the digests in the metadata."""
    assert state.origin is not None
    files = [name for name in state.origin.files if not name.endswith(sharded.SUFFIX)]
    digests: dict[str, Any] = {}
    for name in files:
        digests |= json_object(_metadata_of(name, state).get(DIGESTS, "{}"), name)
    for alias, name in shared_tensors.aliases(state).items():
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


def _seal_holds(path: str, seal: object) -> bool:
    """Whether a record is, to the byte, what its own digest was taken of."""
    method = method_of(seal)
    with InputFile(path) as file:
        text = file.pread(0, file.size)
    head, found, tail = text.rpartition(str(seal).encode())
    return bool(found) and _sealed(head + unknown(method).encode() + tail, method) == text
