"""One learnt conversion: what is copied where from a small file into another."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from stat import S_ISREG

import numpy as np

from porter import codecs
from porter.commands.convert import Conversion
from porter.commands.options import WriteKeywords, keys_of
from porter.errors import PorterError, SystemFault
from porter.fleet.alike import small_file
from porter.fleet.alike.record import RecordForm
from porter.fleet.alike.small_file import Buffer, Header
from porter.fleet.job import Job, Result, since
from porter.storage.digests import XXH3, digest_of
from porter.storage.input_file import Identity, identity, read_small
from porter.storage.options import WriteOptions
from porter.storage.positional import INPUT, read_into
from porter.storage.sidecar import SUFFIX
from porter.storage.together import Draft, Together
from porter.tensors.blocks import Array
from porter.tensors.lazy import LazyTensor, Strided

Pair = tuple[Array, Array]

LARGEST = 2 << 20
"""Bytes of a file that is small; others take longer to convert than to plan."""


class Form:
    """One learnt conversion, with room for one file before and after it.

    Raises `KeyError` for a conversion that does more than to copy and transpose, and `PorterError`
    as reading its files does.
    """

    def __init__(self, job: Job, done: Conversion, result: Result) -> None:
        arguments = dict(job.arguments)
        fields = {k: arguments[k] for k in keys_of(WriteKeywords) if k in arguments}
        self._options = WriteOptions(**fields)
        self._verify = bool(arguments.get("verify", True))
        self._row = result.as_json()
        state = small_file.placed(codecs.read(job.sources[0]))
        moved = done.plan.apply(state)
        format, metadata = codecs.detect(job.output), dict[str, str]()
        if is_named := format == "safetensors":
            origin = codecs.read(job.output).origin
            metadata |= origin.metadata if origin is not None else {}
        places = small_file.written(moved, format, metadata)
        self._source = Buffer(job.sources[0], small_file.ranges(state))
        self._output = Buffer(job.output, places)
        self._header = Header(bytes(self._output.data), job.sources[0]) if is_named else None
        self._read = bytearray(len(self._output.data))
        """The output as it was read back."""
        self._back = bytearray(self._source.data)
        """The source as that maps back to it."""
        moves = [_move(tensor, places[name][0]) for name, tensor in moved.items() if tensor.nbytes]
        self._there = [move(self._source.data, self._output.data) for move in moves]
        self._return = [move(self._back, self._read) for move in moves]
        record = done.written.record if done.written is not None else ""
        text = read_small(record, LARGEST) if record else b""
        self._record = RecordForm(text, self._options.method or XXH3) if text else None
        self._check_learnt(job, result, text)

    def _check_learnt(self, job: Job, result: Result, text: bytes) -> None:
        """Raise `KeyError` unless the output and its record follow from what was learnt."""
        output = bytes(self._output.data)
        if not self._source.is_of_form():
            raise KeyError
        self._output.data[:] = bytes(len(output))
        self._output.restore()
        self._transfer(self._header.of(job.sources[0]) if self._header else b"")
        again = self._record.text(*self._digests(job, result.digest)) if self._record else b""
        if self._output.data != output or again != text:
            raise KeyError

    @property
    def sync(self) -> bool:
        """Whether outputs are to be on the disk before they get their names."""
        return self._options.sync

    def apply(self, job: Job, together: Together) -> Result | None:
        """Convert another file; None if it is not of the form, or the output is not a new file."""
        begun, source, output = time.monotonic(), job.sources[0], job.output
        if any(map(os.path.lexists, (output, output + SUFFIX, source + SUFFIX))):
            return None
        known = self._read_source(source)
        if known is None or not self._source.is_of_form():
            return None
        header = self._header.of(source) if self._header else b""
        if header is None:
            return None
        draft = together.begin(output, source, known, self._options.sync)
        if draft is None:
            return None
        self._transfer(header)
        try:
            digest = self._write(job, draft)
        except PorterError:
            draft.remove()
            raise
        together.add(draft)
        own = {"name": job.name, "output": output, "digest": digest, "seconds": since(begun)}
        return Result(**{**self._row, **own})

    def _read_source(self, path: str) -> Identity | None:
        """Read a source; None for what is not a file of this size, or not a file that can be read.

        Whether it has changed meanwhile shows when its output gets its name.
        """
        try:
            fd = os.open(path, INPUT)
        except (OSError, ValueError):
            return None
        try:
            status = os.fstat(fd)
            size = len(self._source.data)
            if not S_ISREG(status.st_mode) or status.st_size != size:
                return None
            return identity(status) if read_into(fd, self._source.bytes, 0) == size else None
        except OSError:
            return None
        finally:
            os.close(fd)

    def _transfer(self, header: bytes | None) -> None:
        """Make the output in memory."""
        if header:
            self._output.bytes[: len(header)] = header
        for source, target in self._there:
            target[...] = source
        self._output.sum_up()

    def _write(self, job: Job, draft: Draft) -> str:
        """Write the output and its record, as `porter.codecs.writing.Output` does."""
        draft.write(job.output, self._output.data)
        digest = self._check(job.output, draft) if self._options.read_back else ""
        if self._record is not None:
            text = self._record.text(*self._digests(job, digest))
            draft.write(job.output + SUFFIX, text)
        return digest

    def _digests(self, job: Job, digest: str) -> tuple[str, str, str, list[str], str]:
        """Return what is in the record of an output: names and digests."""
        method = self._options.method
        tensors = self._output.tensors
        assert self._record is not None
        each = [digest_of(tensors[n], method) for n in self._record.names] if method else []
        of_source = digest_of(self._source.bytes, method) if method else ""
        return job.sources[0], job.output, of_source, each, digest

    def _check(self, output: str, draft: Draft) -> str:
        """Compare what was written with what was to be, and mapped back with the source."""
        if not draft.read_back(self._read) or self._read != self._output.data:
            raise SystemFault(
                "read-back check failed: bytes differ from what was written; output discarded"
                " (possible disk or memory error)",
                output,
            )
        if self._verify:
            self._map_back(output)
        method = self._options.method
        return digest_of(memoryview(self._read), method) if self._options.digests else ""

    def _map_back(self, output: str) -> None:
        self._back[:] = self._source.data  # All but the ranges that are now written.
        for back, written in self._return:
            back[...] = written
        if self._back != self._source.data:
            raise SystemFault("what was written does not map back to its source", output)


def _move(tensor: LazyTensor, to: int) -> Callable[[bytearray, bytearray], Pair]:
    """Return what makes views of a tensor in a source and in an output."""
    extent, strided = tensor.extent, tensor.strided
    if strided is None or (extent is None and tensor.dtype.itemsize not in (1, 2, 4, 8)):
        raise KeyError
    if extent is not None:
        strided = Strided(extent.file, extent.offset, (1,))
    shape = tensor.shape if extent is None else (extent.nbytes,)
    kind = np.dtype(f"u{tensor.dtype.itemsize if extent is None else 1}")

    def views(source: bytearray, output: bytearray) -> Pair:
        stored = np.ndarray(shape, kind, source, strided.offset, strided.strides)
        return stored, np.ndarray(shape, kind, output, to)

    return views
