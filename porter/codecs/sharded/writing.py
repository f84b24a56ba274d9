"""A checkpoint in several files with an index: writing, so that it can be resumed.

Shards are finished one by one in the folder `.NAME.porter-parts` next to the target, each noted
in a journal with its digest. When all are complete they get their names, and the index comes
last: until then an old checkpoint of that name stays whole, and what reads by the index sees the
old one or the new one. A run that was killed leaves the folder; the same run again keeps the
shards that are complete and gives the same bytes. With a pool (`tasks`) the shards are written by
other processes, and the sources, of which each is read once more for its digest, by them too.
With another place than the folder, an address, each shard is sent there when it is finished.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from porter import __version__
from porter.codecs.sharded import index as sharded
from porter.codecs.sharded.folder import Folder, shard_names
from porter.codecs.sharded.index import SUFFIX
from porter.codecs.sharded.journal import Journal
from porter.codecs.writing import Output, complete
from porter.errors import InputError, UsageError, printable
from porter.storage import atomic_output
from porter.storage.atomic_output import Written
from porter.storage.digests import digest_of
from porter.storage.options import WriteOptions
from porter.storage.pieces import Piece
from porter.storage.read_back import sure
from porter.storage.tasks import Row, ShardPlace, Task, Work
from porter.tensors import shared_tensors
from porter.tensors.casts import CastTensor
from porter.tensors.lazy import LazyTensor
from porter.tensors.state_dict import StateDict

__all__ = ["FORMATS", "SUFFIX", "parse_size", "split", "write"]

FORMATS = ("safetensors", "torch")
Pieces = Callable[[StateDict, Mapping[str, str]], Iterable[Piece]]
_UNITS = {"": 1, "b": 1}
for _power, _letter in enumerate("kmgt", 1):
    _UNITS |= {_letter: 1000**_power, f"{_letter}b": 1000**_power, f"{_letter}ib": 1024**_power}
_SIZE = re.compile(r"\s*([0-9]{1,18}(?:\.[0-9]{1,18})?)\s*([a-z]*)\s*", re.IGNORECASE)


def parse_size(text: str | int) -> int:
    """Return the bytes of "5GB", "500MiB" or a number."""
    if isinstance(text, int):
        size = text
    else:
        match = _SIZE.fullmatch(text)
        unit = _UNITS.get(match[2].lower()) if match else None
        if match is None or unit is None:
            raise UsageError(f"{printable(text)!r} is not a size; write 5GB, 500MB or 2GiB")
        size = int(float(match[1]) * unit)
    if size < 1:
        raise UsageError(f"shards of {size} bytes have no room for a tensor")
    return size


def split(state: StateDict, limit: int) -> list[list[str]]:
    """Return the names of each shard: in order, at most `limit` bytes where a tensor fits.

    Shared tensors stay together, so that they stay shared.
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


def write(
    output: Output, format: str, pieces: Pieces, base: str, shards: list[list[str]]
) -> Written:
    """Write shards and their index; `base` is the path of one file, of which theirs are made.

    Raises `UsageError` when a run with other parameters was begun there and `force` is not set.
    """
    if format not in FORMATS:
        raise UsageError(f"{format} files have no shards; torch and safetensors files have", base)
    places = output.options.places or Folder
    run = _Run(output, format, pieces, base, shards, places(base))
    pool = output.options.pool
    if pool is not None and pool.is_worker:
        pool.run(run.work())
    with output.locked():
        return run.finish()


@dataclass(slots=True)
class _Run:
    """One sharded output."""

    output: Output
    format: str
    pieces: Pieces
    base: str
    shards: list[list[str]]
    place: ShardPlace
    _known: str = ""
    paths: list[str] = field(init=False)
    """Of the shards, as they are named in the end."""
    names: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self.paths = sharded.names(self.base, len(self.shards))
        self.names = [os.path.basename(path) for path in self.paths]

    @property
    def index(self) -> str:
        return self.output.path

    def finish(self) -> Written:
        """Write the shards that are not complete, then publish all."""
        options, place = self.output.options, self.place
        ours = self._ours()
        place.check([*self.paths, self.index], self.output.inputs, options.force, ours)
        place.prepare()
        journal = self._journal()
        try:
            self._write(journal)
            found: dict[str, LazyTensor] = {}
            self.output.files.clear()  # In their order, whichever were kept of another run.
            for number, name in enumerate(self.names):
                path, row = place.where(name), journal.done[name]
                written = journal.written(name, path or self.paths[number])
                self.output.note(written.path, written)
                self.output.back |= row.get("back", {})
                _take_costs(self.output.state, row.get("casts", {}))
                found |= self.output.read(path) if path else self._again(number, row)
            self.output.prove(StateDict(found))
            found.clear()  # Not every system renames an open file.
            return self._publish(journal)
        except (InputError, UsageError):
            # Another run would fail at the same place: nothing here is worth keeping.
            place.discard()
            raise

    def _ours(self) -> set[str]:
        """Return the files that an earlier run of the same has left: they need no `force`."""
        journal = Journal(self.place)
        is_same = journal.is_published and journal.parameters == self._parameters()
        return {*journal.done, *([os.path.basename(self.index)] if is_same else ())}

    def _again(self, number: int, row: Row) -> dict[str, LazyTensor]:
        """Return what is in a shard that is not read again, made once more from the source.

        Its digests are those of the shard as it was read back.
        """
        part = {name: self.output.state[name] for name in self.shards[number]}
        digests = complete(part, row["tensors"])
        return {name: sure(tensor, digests.get(name, "")) for name, tensor in part.items()}

    def _journal(self) -> Journal:
        journal = Journal(self.place)
        parameters = self._parameters()
        if journal.parameters not in ("", parameters):
            if not self.output.options.force:
                what = "a run with other parameters, or of an input that has changed, was"
                what = f"{what} interrupted here; repeat it as it was, or --force starts anew"
                raise UsageError(what, self.base)
            journal.replaced |= journal.done.keys()
            journal.done.clear()
            journal.is_published = False
        journal.parameters = parameters
        journal.replaced |= self.place.listed()
        return journal

    def _parameters(self) -> str:
        """Return what two runs must have in common to share their shards."""
        inputs = self.output.inputs
        # Without the device: another machine has the same file on another one.
        stamps = [(atomic_output.named(i), atomic_output.stamp(i)[1:]) for i in inputs]
        return hashlib.sha256(json.dumps([self._asked(), stamps]).encode()).hexdigest()

    def _asked(self) -> str:
        """Return the digest of what does not change while the run goes on."""
        if not self._known:
            output = self.output
            rows: list[Any] = [
                __version__,
                self.format,
                output.options.method,
                sorted((output.metadata or {}).items()),
                output.metadata is None,
                [
                    [(n, output.state[n].dtype.name, output.state[n].shape) for n in names]
                    for names in self.shards
                ],
            ]
            self._known = hashlib.sha256(json.dumps(rows).encode()).hexdigest()
        return self._known

    def _write(self, journal: Journal) -> None:
        """Write the shards that are not complete: here, or by the processes of a pool."""
        pool = self.output.options.pool
        journal.save()
        if pool is None:
            for number in range(len(self.shards)):
                self._note(number, self._shard(number, self._about(number, journal)), journal)
            return
        pool.run(self.work(journal))
        if self._parameters() != journal.parameters:
            raise InputError("changed while it was being read", self.output.inputs_shown)

    def work(self, journal: Journal | None = None) -> Work:
        """Return the tasks; `journal` is that of the process that asks for them."""
        if journal is None:  # A worker is told its tasks.
            return Work([], self._do, lambda task, row: None)
        about = {"parameters": journal.parameters}
        sources = [Task("source", number, about) for number in range(len(self.output.sources))]
        shards = [
            Task("shard", number, about | self._about(number, journal))
            for number in range(len(self.shards))
        ]

        def done(task: Task, row: Row) -> None:
            if task.kind == "source":
                self.output.take_source(task.number, row)
            else:
                self._note(task.number, row, journal)

        # The digest of a source takes as long as all shards together, if there is one source.
        return Work([*sources, *shards], self._do, done)

    def _note(self, number: int, row: Row, journal: Journal) -> None:
        name = self.names[number]
        if journal.done.get(name) != row:  # It was not complete before.
            journal.note(name, row)

    def _do(self, task: Task) -> Row:
        """Do a task in the place of the process that has the journal."""
        if task.about["parameters"] != self._parameters():
            what = "is not what it is to the process that asked for it, or porter is not"
            raise InputError(what, self.output.inputs_shown)
        if task.kind == "source":
            return self.output.read_source(task.number)
        self.output.leave_sources()
        return self._shard(task.number, task.about)

    def _about(self, number: int, journal: Journal) -> Row:
        """Return what the journal has of a shard: its row, and the file that it replaces."""
        name = self.names[number]
        like = self.place.like(name, journal.replaced)
        return {"row": journal.done.get(name), "like": like}

    def _shard(self, number: int, about: Row) -> Row:
        """Return the row of a complete shard, written if it is not there yet."""
        name, output = self.names[number], self.output
        row: Row | None = about["row"]
        if row is not None and self.place.has(name, row):
            return row
        state, before = output.state, set(output.back)
        part = StateDict({tensor: state[tensor] for tensor in self.shards[number]}, state.origin)
        options = replace(output.options, force=True)
        pieces = self.pieces(part, output.metadata or {})
        written = output.file(
            self.place.begin(name), pieces, part, shard=True, options=options, like=about["like"]
        )
        return {
            "bytes": written.nbytes, "digest": written.digest, "tensors": dict(written.digests),
            "back": {name: text for name, text in output.back.items() if name not in before},
            "casts": _costs(part), **self.place.send(written.path),
        }  # fmt: skip

    def _publish(self, journal: Journal) -> Written:
        """Give the shards their names, write the record, then the index."""
        output = self.output
        with atomic_output.explained(self.index, output.state.nbytes):
            self.place.publish(journal.done)
        # The index that comes now is this run's, whether it can remove the journal or not.
        journal.is_published = True
        journal.save()
        nbytes = sum(size for size, _ in output.files.values())
        text = self._index_text()
        if method := output.options.method:
            output.files[os.path.basename(self.index)] = (len(text), digest_of(text, method))
        written = Written(self.index, nbytes, {}, (*self.paths, self.index))
        written = output.finished(written)
        options = WriteOptions(force=True, sync=output.options.sync)
        like = self.place.where(self.names[0])
        atomic_output.publish(self.index, [text], options, lock=False, like=like)
        stale = set(filter(shard_names(self.index).fullmatch, journal.replaced - {*self.names}))
        written = self.place.finish(written, journal.done, stale)
        self.place.remove()
        return written

    def _index_text(self) -> bytes:
        files = {
            tensor: name
            for name, tensors in zip(self.names, self.shards, strict=True)
            for tensor in tensors
        }
        return sharded.text_of(files, self.output.state.nbytes)


def _costs(part: StateDict) -> dict[str, list[float]]:
    """Return what the casts of a shard cost, which only the process that writes it sees."""
    return {
        name: [tensor.cost.max_error, tensor.cost.overflows]
        for name, tensor in part.items()
        if isinstance(tensor, CastTensor)
    }


def _take_costs(state: StateDict, costs: Mapping[str, list[float]]) -> None:
    for name, (error, overflows) in costs.items():
        tensor = state[name]
        if isinstance(tensor, CastTensor):
            tensor.cost.max_error, tensor.cost.overflows = error, int(overflows)
