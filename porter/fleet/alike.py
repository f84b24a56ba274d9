"""Conversions of files that differ in the values of their tensors only.

What a conversion does follows from the bytes around the tensors: names, shapes, dtypes, order. It
is learnt from one file; another of the same size, all of whose bytes but the elements and the
checksums over them are the same, is converted by copying and transposing the same ranges. Whatever
is otherwise is left to `porter.convert`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from stat import S_ISREG

import numpy as np

from porter import codecs
from porter.commands.convert import Conversion
from porter.commands.options import WriteKeywords, keys_of
from porter.errors import PorterError, SystemFault
from porter.fleet import alike_file
from porter.fleet.alike_file import Buffer, Header
from porter.fleet.alike_record import RecordForm
from porter.fleet.job import Job, Result, since
from porter.planning.custom_table import is_table
from porter.remote.address import is_url
from porter.storage.digests import XXH3, digest_of
from porter.storage.input_file import Identity, identity, now, read_small
from porter.storage.options import WriteOptions
from porter.storage.positional import INPUT, read_into
from porter.storage.sidecar import SUFFIX
from porter.storage.together import Draft, Together
from porter.tensors.blocks import Array
from porter.tensors.lazy import LazyTensor, Strided

Pair = tuple[Array, Array]

LARGEST = 2 << 20
"""Bytes of a file that is small; others take longer to convert than to plan."""
_OPTIONS = {"architecture", "source", "output", "from_", "to", "verify", "force",
            "read_back", "sync", "digests", "digest", "record"}  # fmt: skip
"""Options of conversions that are learnt."""
_OF_ONE = ("source", "output")
_SOURCES = ("torch", "paddle", "safetensors")
_TARGETS = ("torch", "paddle", "safetensors")
_MOST = 8
"""Forms that are kept, and tries to learn one for the same options."""


@dataclass(eq=False, slots=True)
class Kind:
    """The conversions with the same options, and what was learnt of them."""

    forms: list[Form] = field(default_factory=list)
    seen: int = 0


class Alike:
    """The conversions that a process has learnt."""

    def __init__(self) -> None:
        self._kinds: dict[tuple[str, Identity | None], Kind] = {}
        self._together = Together()
        self._waiting: list[str] = []
        self._has_synced = False

    def kind(self, job: Job) -> Kind | None:
        """Return what is known of conversions like this one; None for one that is never learnt."""
        key = key_of(job)
        return None if key is None else self._kinds.setdefault((key, _state_of_table(job)), Kind())

    def convert(self, job: Job, kind: Kind) -> Result | None:
        """Convert as was learnt; None where this is another file, with nothing written.

        The output gets its name by `rest`, with others.
        """
        for form in kind.forms:
            result = form.apply(job, self._together)
            if result is not None:
                self._waiting.append(job.name)
                self._has_synced = form.sync
                return result
        return None

    @property
    def waits_for_disk(self) -> bool:
        """Whether outputs wait that are to be on the disk."""
        return self._has_synced and bool(self._waiting)

    def rest(self) -> dict[str, PorterError]:
        """Give what waits its names; return {job: error}."""
        names, self._waiting = self._waiting, []
        errors = self._together.publish()
        return {n: error for n, error in zip(names, errors, strict=True) if error is not None}

    def learn(self, job: Job, kind: Kind, done: Conversion, result: Result) -> None:
        """Learn from a conversion, unless it is the first of its kind: others may never come."""
        if not _is_plain(done):
            return
        kind.seen += 1
        known = sum(len(each.forms) for each in self._kinds.values())
        if not 1 < kind.seen <= _MOST or known >= _MOST:
            return
        with suppress(PorterError, KeyError):
            kind.forms.append(Form(job, done, result))


def key_of(job: Job) -> str | None:
    """Return what conversions that are alike have in common; None for a job that is never learnt.

    Proofs by models and addresses are not learnt.
    """
    if job.command != "convert" or job.preset is not None or not _OPTIONS.issuperset(job.arguments):
        return None
    arguments = job.arguments
    if is_url(job.output) or is_url(job.sources[0]):
        return None
    if arguments.get("verify", True) and not arguments.get("read_back", True):
        return None  # What proves the weights is read after the output has its name.
    return repr([item for item in arguments.items() if item[0] not in _OF_ONE])


def _is_plain(done: Conversion) -> bool:
    """Whether a conversion wrote tensors of its source only, into one small file."""
    plan = done.plan
    made = plan.filled or plan.computed or plan.copied or plan.kept or plan.dropped
    written, origin = done.written, done.origin
    return (
        done.verdict is None and done.ok and not made and not plan.constants()
        and done.graph is None and not done.made_source
        and written is not None and len(written.files) == 1 + bool(written.record)
        and written.nbytes <= LARGEST and origin.format in _SOURCES
        and codecs.detect(done.output) in _TARGETS
        and not (origin.prefix or origin.wrapper or origin.address or origin.metadata)
        and len(origin.files) == 1 and os.path.getsize(origin.path) <= LARGEST
    )  # fmt: skip


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
        state = alike_file.placed(codecs.read(job.sources[0]))
        moved = done.plan.apply(state)
        format, metadata = codecs.detect(job.output), dict[str, str]()
        if is_named := format == "safetensors":
            origin = codecs.read(job.output).origin
            metadata |= origin.metadata if origin is not None else {}
        places = alike_file.written(moved, format, metadata)
        self._source = Buffer(job.sources[0], alike_file.ranges(state))
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


def _state_of_table(job: Job) -> Identity | None:
    """Return what tells one state of a custom table from another."""
    name = job.arguments.get("architecture")
    return now(name) if name is not None and is_table(name) else None


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
