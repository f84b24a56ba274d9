"""Write a state dict as one file or several, read it back, prove it and record it.

Every writer hands the pieces of its files to `Output.file`; `porter.codecs.write` does it for
the formats that only need a state dict, `porter.onnx.export.write` for models.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any, Protocol

from porter.codecs import record
from porter.errors import InputError, SystemFault
from porter.storage import atomic_output
from porter.storage.atomic_output import Input, Written
from porter.storage.digests import XXH3
from porter.storage.file_digest import FileDigest
from porter.storage.input_file import InputFile
from porter.storage.lock import locked
from porter.storage.options import WriteOptions
from porter.storage.own_file import OwnFile
from porter.storage.pieces import Layout, Piece
from porter.storage.read_back import Place, Proof, Returned, differences, digests_of, runs_in
from porter.storage.sidecar import SUFFIX, read_beside, refuse_foreign
from porter.tensors import shared_tensors
from porter.tensors.lazy import Extent, LazyTensor
from porter.tensors.state_dict import StateDict


class Reader(Protocol):
    """How a codec reads."""

    def __call__(self, file: InputFile, /, *, strip: bool = True) -> StateDict: ...


class Output:
    """One output on its way: its files, what was written of each, and the one record."""

    def __init__(
        self,
        state: StateDict,
        path: str,
        read: Reader,
        options: WriteOptions,
        *,
        metadata: Mapping[str, str] | None,
        inputs: Iterable[Input],
        proof: Proof | None = None,
    ) -> None:
        self.state = state
        self.path = path
        """Where the last file goes."""
        self.options = options
        self.inputs = list(inputs)
        self.metadata = _with_left_out(metadata, options)
        """What the output says of itself, in its own metadata where the format has some."""
        self.digests: dict[str, str] = {}
        """Of the tensors written so far, by name."""
        self.files: dict[str, tuple[int, str]] = {}
        """Name of a file to its bytes and its digest."""
        self.returned: Returned | None = None
        self.back: dict[str, str] = {}
        """Digests of the source's tensors as the files written so far map back to them."""
        self._read = read
        self._proof = proof if options.read_back and options.digests else None
        self._known: dict[Place, str] = {}
        self._runs: dict[tuple[int, int], str] = {}
        recorded = metadata is not None and options.record
        self._record = path + SUFFIX if recorded else ""
        hashed = map(atomic_output.named, self.inputs) if recorded or self._proof else ()
        tensors = self._proof.source if self._proof else None
        self._sources = record.Sources(hashed, options.method, tensors)

    @property
    def sources(self) -> list[str]:
        """The files whose digests are taken."""
        return self._sources.paths

    @property
    def inputs_shown(self) -> str:
        """The first file that is read, for an error."""
        return atomic_output.named(self.inputs[0]) if self.inputs else self.path

    def read_source(self, number: int) -> dict[str, Any]:
        """Read one of the sources through; return its digest and those of the runs in it."""
        return self._sources.row(number)

    def take_source(self, number: int, row: Mapping[str, Any]) -> None:
        """Take what another process has read of one of the sources."""
        self._sources.take(number, row)

    def leave_sources(self) -> None:
        """Leave it to others to read the sources through."""
        self._sources.leave()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the output while its files and its record are written."""
        with locked(atomic_output.followed(self.path), self.path):
            if self._record:
                refuse_foreign(self._record)
            yield

    def file(
        self,
        path: str,
        pieces: Iterable[Piece],
        expected: Mapping[str, LazyTensor],
        *,
        opaque: bool = False,
        shard: bool = False,
        last: bool = False,
        options: WriteOptions | None = None,
        like: str = "",
    ) -> Written:
        """Write one file, in which a reader must find `expected`.

        An `opaque` one cannot be read without another; when the `last` one is complete, the
        output is mapped back to its source, and a `shard` as far as it has all that a tensor of
        the source needs. `like` is that of `publish`.
        """

        def check(name: str, layout: Layout) -> str:
            digests = dict(self.digests)
            if self.options.digests:
                digests |= {body.name: body.digest for body in layout.bodies}
            found = _stored(name, layout) if opaque else self._readable(name)
            result = self._check(name, layout, expected, found, digests, shard or last)
            if last:
                self._compare()
            return result

        options = options or self.options
        written = atomic_output.publish(
            path, pieces, options, inputs=self.inputs, also=self._sources.unread(),
            check=check if options.read_back else None, lock=False, like=like,
            # A run that is killed before its record is written leaves no record of another file.
            replacing=self._remove_record if last else None,
        )  # fmt: skip
        self.note(path, written)
        return written

    def read(self, path: str) -> StateDict:
        """Read a finished file of the output."""
        return self._read(OwnFile(path), strip=False)

    def _readable(self, path: str) -> StateDict:
        """Read a finished file under its temporary name; `InputError` names the output."""
        try:
            return self.read(path)
        except InputError as error:
            what = f"porter would not read what it writes: {error.message}; nothing was written"
            raise InputError(what, self.path) from error

    def note(self, path: str, written: Written) -> None:
        """Take a finished file into the record."""
        self.digests |= written.digests
        self._known |= {(path, *run): digest for run, digest in self._runs.items()}
        self._runs = {}
        self.files[os.path.basename(path)] = (written.nbytes, written.digest)

    def move(self, path: str, new: str) -> None:
        """Give a finished file another name, in place of a file of that name."""
        with atomic_output.explained(new, 0):
            os.replace(path, new)
        self._known = {
            (new if place[0] == path else place[0], *place[1:]): digest
            for place, digest in self._known.items()
        }
        self.files[os.path.basename(new)] = self.files.pop(os.path.basename(path))

    def finished(self, written: Written, files: Iterable[str] = ()) -> Written:
        """Write the record and return what the output is; `files` were written before the last."""
        digests = complete(self.state, self.digests)
        written = replace(written, digests=digests, returned=self.returned)
        paths = [*files, *written.files]
        if not self._record:
            self._remove_record()
            return replace(written, files=tuple(paths))
        self._read_sources()
        text = record.text_of(
            self.metadata or {}, self._sources.digests(), self.state, digests, self.files,
            self.options.method,
        )  # fmt: skip
        options = WriteOptions(force=True, sync=self.options.sync)
        atomic_output.publish(self._record, [text], options, lock=False)
        return replace(written, files=(self._record, *paths), record=self._record)

    def _remove_record(self) -> None:
        """Remove the record of a file that was replaced."""
        with suppress(InputError, OSError):
            read_beside(self.path + SUFFIX)
            os.unlink(self.path + SUFFIX)

    def prove(self, found: StateDict) -> None:
        """Map the rest of what was written back to its source: tensors in several shards."""
        if self._proof is not None:
            back = self._proof.back(found)
            rest = {name: tensor for name, tensor in back.items() if name not in self.back}
            self.back |= digests_of(rest, method=self.options.method, known=self._known)
            self._compare()

    def _check(
        self,
        path: str,
        layout: Layout,
        expected: Mapping[str, LazyTensor],
        found: Mapping[str, LazyTensor],
        written: Mapping[str, str],
        maps_back: bool,
    ) -> str:
        """Read a finished file through once; return the digest of all its bytes."""
        method = self.options.method
        back = dict(self._proof.back(found)) if self._proof is not None and maps_back else {}
        runs = runs_in(path, [*found.values(), *back.values()])
        file = FileDigest(path, method or XXH3, runs if method else (), layout.frame())
        wanted = {(False, name): tensor for name, tensor in found.items()}
        wanted |= {(True, name): tensor for name, tensor in back.items()}
        taken = digests_of(
            wanted if method else {}, self.options.advance("reading back"),
            method=method or XXH3, files=[file], known=self._known,
        )  # fmt: skip
        actual = {name: digest for (is_back, name), digest in taken.items() if not is_back}
        problems = ["bytes outside of the tensors were altered"] if file.altered else []
        problems += differences(expected, found, complete(expected, written) or None, actual)
        if problems:
            raise SystemFault(
                f"read-back check failed: {'; '.join(problems)}; output discarded"
                " (possible disk or memory error)",
                self.path,
            )
        self._runs = file.runs
        self.back |= {name: digest for (is_back, name), digest in taken.items() if is_back}
        return file.digest if method else ""

    def _compare(self) -> None:
        """Note what was read of the source next to what the output maps back to."""
        if self._proof is None:
            return
        back = self.back
        self._read_sources()
        source = {name: tensor for name, tensor in self._proof.source.items() if name in back}
        known = self._sources.known()
        read = digests_of(source, method=self.options.method, known=known)
        self.returned = Returned(read, back)

    def _read_sources(self) -> None:
        """Read sources that no file was written from, because all shards were complete."""
        for file in self._sources.unread():
            for job in file.jobs():
                job.run()


def _with_left_out(
    metadata: Mapping[str, str] | None, options: WriteOptions
) -> Mapping[str, str] | None:
    if metadata is None or not options.left_out:
        return metadata
    return {**metadata, "porter.without": options.left_out}


def _stored(path: str, layout: Layout) -> dict[str, LazyTensor]:
    """Return the tensors of a file that only porter knows the layout of."""
    file = OwnFile(path)
    return {
        body.name: LazyTensor.stored(
            body.tensor.dtype, body.tensor.shape, Extent(file, body.offset, body.nbytes)
        )
        for body in layout.bodies
    }


def complete(state: Mapping[str, LazyTensor], digests: Mapping[str, str]) -> dict[str, str]:
    """Return the digests of all tensors, if any were taken.

    A shared tensor has that of the one written for it.
    """
    if not digests:
        return {}
    aliases = shared_tensors.aliases(state)
    return {name: digests.get(name) or digests[aliases[name]] for name in state}
