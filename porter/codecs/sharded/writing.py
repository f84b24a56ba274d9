"""A checkpoint in several files with an index: writing, so that it can be taken up again.

Shards are finished one by one in the folder `.NAME.porter-parts` beside the target, each noted
in a journal with its digest. When all are there they get their names, and the index comes last:
until then an old checkpoint of that name stays whole, and what reads by the index sees the old
one or the new one. A run that was killed leaves the folder; the same run again takes up what is
finished and gives the same bytes.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import threading
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

from porter import __version__
from porter.codecs.provenance import Record
from porter.codecs.saving import Saver
from porter.codecs.sharded import index as sharded
from porter.errors import InputError, PorterError, SystemFault, UsageError, printable
from porter.storage import atomic_output
from porter.storage.atomic_output import Input, Written
from porter.storage.checksums import Imprint, frame_of
from porter.storage.input_file import InputFile
from porter.storage.pieces import Cancelled
from porter.storage.progress import Progress
from porter.storage.sidecar import OWN_METADATA, SUFFIX, refuse_foreign
from porter.tensors import shared_tensors
from porter.tensors.state_dict import StateDict

FORMATS = ("safetensors", "torch")
_AT_ONCE = 2
"""Shards on their way: one that is written, one that is brought to the disk."""
_UNITS = {"": 1, "b": 1}
for _power, _letter in enumerate("kmgt", 1):
    _UNITS |= {_letter: 1000**_power, f"{_letter}b": 1000**_power, f"{_letter}ib": 1024**_power}
_SIZE = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([a-z]*)\s*", re.IGNORECASE)


def parse_size(text: str | int) -> int:
    """Return the bytes that "5GB", "500MiB" or a number stand for."""
    if isinstance(text, int):
        size = text
    else:
        match = _SIZE.fullmatch(text)
        unit = _UNITS.get(match[2].lower()) if match else None
        if match is None or unit is None:
            raise UsageError(f"{printable(text)!r} is no size; write 5GB, 500MB or 2GiB")
        size = int(float(match[1]) * unit)
    if size < 1:
        raise UsageError(f"shards of {size} bytes hold nothing")
    return size


def split(state: StateDict, limit: int) -> list[list[str]]:
    """Return the names of each shard: in order, at most `limit` bytes where a tensor fits.

    Tied tensors stay together, so that they stay tied.
    """
    groups: dict[str, list[str]] = {}
    aliases = shared_tensors.aliases(state)
    for name in state:
        groups.setdefault(aliases.get(name, name), []).append(name)
    shards: list[list[str]] = []
    filled = limit
    for names in groups.values():
        size = sum(state[name].nbytes for name in names)
        if not shards or filled + size > limit:
            shards.append([])
            filled = 0
        shards[-1] += names
        filled += size
    return shards


def save(
    saver: Saver,
    state: StateDict,
    path: str,
    limit: int,
    *,
    force: bool,
    metadata: Mapping[str, str] | None,
    inputs: Iterable[Input],
) -> Written:
    """Write shards of at most `limit` bytes and their index, or one file where one is enough.

    Raises `UsageError` when a run with other parameters was begun there and `force` is not set.
    """
    base = path.removesuffix(sharded.SUFFIX)
    shards = split(state, limit)
    if len(shards) == 1:
        return saver.save(state, base, force=force, inputs=inputs, metadata=metadata)
    if saver.format not in FORMATS:
        raise UsageError(f"{saver.format} files have no shards; torch and safetensors have", path)
    return _Run(saver, state, base, shards, force, metadata, list(inputs)).finish()


@dataclass(slots=True)
class _Run:
    """One sharded output."""

    saver: Saver
    state: StateDict
    base: str
    shards: list[list[str]]
    force: bool
    metadata: Mapping[str, str] | None
    inputs: list[Input]

    @property
    def index(self) -> str:
        return self.base + sharded.SUFFIX

    @property
    def folder(self) -> str:
        head, tail = os.path.split(os.path.realpath(self.base))
        return os.path.join(head, f".{tail}.porter-parts")

    @property
    def names(self) -> list[str]:
        return sharded.names(self.base, len(self.shards))

    def finish(self) -> Written:
        for path in (*self.names, self.index):
            atomic_output.resolve(path, self.inputs, self.force or self._is_ours(path))
        if self.metadata is not None and self._beside:
            refuse_foreign(self.index + SUFFIX)
        record = self.saver.record(self.metadata or {}, self.inputs)
        with _locked(self.folder, self.base) as folder:
            journal = self._journal(folder)
            try:
                self._write(journal, record)
                return self._publish(journal, record)
            except (InputError, UsageError):
                # Another run would fail at the same place: nothing here is worth keeping.
                journal.remove()
                raise

    def _is_ours(self, path: str) -> bool:
        """Whether a shard got its name in a run that was interrupted after it."""
        return os.path.basename(path) in _Journal.peek(self.folder)

    @property
    def _beside(self) -> bool:
        return self.saver.format not in OWN_METADATA

    def _journal(self, folder: str) -> _Journal:
        journal = _Journal(folder)
        parameters = self._parameters()
        if journal.parameters not in ("", parameters):
            if not self.force:
                what = "a run with other parameters, or of an input that has changed, was"
                what = f"{what} interrupted here; repeat it as it was, or --force starts anew"
                raise UsageError(what, self.base)
            journal.done.clear()
            journal.digests.clear()
        journal.parameters = parameters
        return journal

    def _parameters(self) -> str:
        """Return what two runs must have in common to share their shards."""
        rows: list[Any] = [
            __version__,
            self.saver.format,
            self.saver.layout,
            self.saver.digests,
            sorted((self.metadata or {}).items()),
            self.metadata is None,
            [(atomic_output.named(i), atomic_output.stamp(i)) for i in self.inputs],
            [
                [(n, self.state[n].dtype.name, self.state[n].shape) for n in names]
                for names in self.shards
            ],
        ]
        text = json.dumps(rows).encode()
        return hashlib.sha256(text).hexdigest()

    def _write(self, journal: _Journal, record: Record) -> None:
        """Finish every shard: while one is brought to the disk and read back, the next is written.

        Writing itself is one shard's turn, whose tensors are done side by side: what is held does
        not grow with the shards, and the sources are read once, in order.
        """
        flight = _Flight(self.saver.progress)
        with ThreadPoolExecutor(_AT_ONCE, "porter-shard") as pool:
            shards = [
                pool.submit(self._shard, number, journal, record, flight)
                for number in range(len(self.shards))
            ]
            try:
                for shard in as_completed(shards):
                    shard.result()
            except BaseException:
                flight.stop()
                for shard in shards:
                    shard.cancel()
                raise

    def _shard(self, number: int, journal: _Journal, record: Record, flight: _Flight) -> None:
        path, names = self.names[number], self.shards[number]
        name = os.path.basename(path)
        turn = flight.turn(number)
        if journal.has(name, os.path.dirname(self.index)):
            with turn:
                return
        part = StateDict({tensor: self.state[tensor] for tensor in names}, self.state.origin)
        inside = None if self._beside else self.metadata
        written = replace(self.saver, progress=flight.moved).save(
            part,
            os.path.join(journal.folder, name),
            force=True,
            inputs=self.inputs,
            metadata=inside,
            record=None if inside is None else record,
            also=record.jobs() if self._beside else (),
            turn=turn,
        )
        journal.note(name, written)

    def _publish(self, journal: _Journal, record: Record) -> Written:
        """Give the shards their names, then write the index."""
        home = os.path.dirname(os.path.realpath(self.base))
        old = _listed(self.index)
        with atomic_output.explained(self.index, self.state.nbytes):
            with suppress(FileNotFoundError):
                os.unlink(self.index)
            for path in self.names:
                part = os.path.join(journal.folder, os.path.basename(path))
                if os.path.exists(part):
                    os.rename(part, os.path.join(home, os.path.basename(path)))
        atomic_output.sync_folder(home, self.index)
        digests = {name: journal.digests[name] for name in self.state if journal.digests}
        files = list(self.names)
        if self.metadata is not None and self._beside:
            for job in record.jobs():
                job.run()
            beside = self.index + SUFFIX
            text = self._index_text()
            imprints = {}
            if method := self.saver.digests:
                index = {os.path.basename(self.index): frame_of(text, method)}
                imprints = {**journal.imprints(), **index}
            atomic_output.publish(beside, [record.text(self.state, imprints)], force=True)
            files.append(beside)
        atomic_output.publish(self.index, [self._index_text()], force=True)
        for name in old - {os.path.basename(path) for path in self.names}:
            with suppress(OSError):
                os.unlink(os.path.join(home, name))
        nbytes = journal.nbytes
        journal.remove()
        return Written(self.index, nbytes, digests, (*files, self.index))

    def _index_text(self) -> bytes:
        files = {
            tensor: os.path.basename(path)
            for path, names in zip(self.names, self.shards, strict=True)
            for tensor in names
        }
        return sharded.text_of(files, self.state.nbytes)


class _Flight:
    """What the shards that are on their way share: whose turn it is, and whether to stop."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._next = 0
        self._stopped = False
        self._changed = threading.Condition()

    @contextmanager
    def turn(self, number: int) -> Iterator[None]:
        """Wait for the shards before `number`, so that sources are read from the beginning."""
        with self._changed:
            self._changed.wait_for(lambda: self._next == number or self._stopped)
        self.check()
        try:
            yield
        finally:
            with self._changed:
                self._next = number + 1
                self._changed.notify_all()

    def stop(self) -> None:
        """Have every shard raise `Cancelled` soon."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def check(self) -> None:
        """Raise `Cancelled` when another shard has failed."""
        if self._stopped:
            raise Cancelled

    def moved(self, what: str, done: int, total: int) -> None:
        """Pass progress on; stop here when another shard has failed."""
        self.check()
        if self._progress is not None:
            self._progress(what, done, total)


def _listed(index: str) -> set[str]:
    """Return the shards of the checkpoint that is replaced, as far as their names say so."""
    stem = os.path.splitext(os.path.basename(index.removesuffix(sharded.SUFFIX)))[0]
    with suppress(PorterError), InputFile(index) as file:
        names = set(sharded.read_index(file).files.values())
        return {name for name in names if re.fullmatch(re.escape(stem) + r"-\d+-of-\d+\.\w+", name)}
    return set()


class _Journal:
    """What is finished, in a file that is replaced after each shard."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.parameters = ""
        self.done: dict[str, dict[str, Any]] = {}
        self.digests: dict[str, str] = {}
        self._lock = threading.Lock()
        rows = _Journal.load(folder)
        if rows:
            self.parameters = str(rows["parameters"])
            self.done = rows["done"]
            self.digests = rows["digests"]

    @staticmethod
    def load(folder: str) -> dict[str, Any]:
        """Return the journal of a folder, empty when there is none that makes sense."""
        try:
            with open(os.path.join(folder, "journal.json"), encoding="utf-8") as file:
                rows = json.load(file)
        except (OSError, ValueError):
            return {}
        sound = isinstance(rows, dict) and rows.keys() == {"parameters", "done", "digests"}
        return rows if sound else {}

    @staticmethod
    def peek(folder: str) -> set[str]:
        """Return the names of finished shards."""
        return set(_Journal.load(folder).get("done", ()))

    def has(self, name: str, home: str) -> bool:
        """Whether a shard is finished and still what it was, here or under its final name."""
        row = self.done.get(name)
        if row is None:
            return False
        for folder in (self.folder, home or "."):
            with suppress(PorterError):
                if not Imprint.from_dict(row).differences(os.path.join(folder, name)):
                    return True
        return False

    def note(self, name: str, written: Written) -> None:
        """Add a finished shard."""
        assert written.imprint is not None
        with self._lock:
            self.done[name] = written.imprint.as_dict()
            self.digests |= written.digests
            rows = {"parameters": self.parameters, "done": self.done, "digests": self.digests}
            text = json.dumps(rows).encode()
            atomic_output.publish(os.path.join(self.folder, "journal.json"), [text], force=True)

    def imprints(self) -> dict[str, Imprint]:
        """Return what the shards are, in the order of their names."""
        return {name: Imprint.from_dict(row) for name, row in sorted(self.done.items())}

    @property
    def nbytes(self) -> int:
        """Bytes of all shards."""
        return sum(row["bytes"] for row in self.done.values())

    def remove(self) -> None:
        """Take away the folder with what is in it."""
        with suppress(OSError):
            for name in os.listdir(self.folder):
                os.unlink(os.path.join(self.folder, name))
            os.rmdir(self.folder)


@contextmanager
def _locked(folder: str, base: str) -> Iterator[str]:
    """Make the folder for parts and hold its lock."""
    try:
        os.makedirs(folder, exist_ok=True)
        fd = os.open(os.path.join(folder, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as fault:
        raise SystemFault(f"cannot be written: {fault.strerror}", base) from fault
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as fault:
        os.close(fd)
        busy = fault.errno in (errno.EWOULDBLOCK, errno.EACCES)
        why = "is being written by another process" if busy else f"cannot be locked: {fault}"
        raise SystemFault(why, base) from fault
    try:
        yield folder
    finally:
        os.close(fd)
