"""The digest of all bytes of an ONNX model that are no tensor's, in the model's own metadata.

The file of external data belongs to it: what stands between its tensors is digested too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from porter.codecs.protobuf import Span, Walker
from porter.storage.checksums import gaps, take
from porter.storage.digests import Digest, method_of, unknown
from porter.storage.input_file import InputFile
from porter.tensors.lazy import LazyTensor

SEAL = "porter.frame_digest"
"""Metadata key of the digest; hyphens stand where it stands itself."""
_NOTES = 14

Run = tuple[int, int]
"""Offset and bytes."""


def sealed(before: bytes, notes: bytes, behind: Iterable[bytes], method: str) -> bytes:
    """Return a model's metadata, hyphens in them, with the digest in the place of the hyphens.

    `before` and `behind` is what stands around them, and what belongs to the model elsewhere.
    """
    digest = Digest(method)
    for part in (before, notes, *behind):
        digest.update(part)
    return notes.replace(_entry(unknown(method)), _entry(digest.text()), 1)


def is_intact(path: str, seal: str, tensors: Mapping[str, LazyTensor]) -> bool:
    """Whether all bytes of a model around its tensors are those that porter wrote."""
    method = method_of(seal)
    digest = Digest(method)
    runs: dict[str, set[Run]] = {path: set()}
    for extent in (tensor.extent for tensor in tensors.values()):
        if extent is not None:
            runs.setdefault(extent.file.path, set()).add((extent.offset, extent.nbytes))
    with InputFile(path) as file:
        place = _place(file, seal)
        for start, nbytes in gaps({*runs.pop(path), (place, len(seal))}, file.size):
            if start == place + len(seal):
                digest.update(unknown(method).encode())
            take(file, start, nbytes, digest)
    for other, covered in runs.items():
        digest.update(frame_of(other, covered, method).encode())
    return digest.text() == seal


def frame_of(path: str, runs: Iterable[Run], method: str) -> str:
    """Return the digest of what no run of a file covers."""
    digest = Digest(method)
    with InputFile(path) as file:
        for start, nbytes in gaps(runs, file.size):
            take(file, start, nbytes, digest)
    return digest.text()


def _entry(seal: str) -> bytes:
    """Return how key and digest stand in the metadata."""
    return SEAL.encode() + bytes([0x12, len(seal)]) + seal.encode()


def _place(file: InputFile, seal: str) -> int:
    """Return where the digest stands in the metadata, which the reader has found there."""
    entry = _entry(seal)
    for part in Walker(file).fields(Span(0, file.size)):
        start = part.span.end - len(entry)
        if part.number == _NOTES and file.pread(max(start, 0), len(entry)) == entry:
            return part.span.end - len(seal)
    return file.size  # It is written otherwise than porter would write it.
