"""Write a state dict as one file or as shards, with its provenance, and read it back.

`porter.codecs.write` is `save` with the format's own pieces and reader.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

from porter.codecs.provenance import Record
from porter.errors import SystemFault
from porter.storage import atomic_output
from porter.storage.atomic_output import Input, Written
from porter.storage.checksums import Imprint
from porter.storage.digests import XXH3
from porter.storage.input_file import InputFile
from porter.storage.pieces import Piece, Task
from porter.storage.progress import Advance, Progress
from porter.storage.read_back import differences
from porter.storage.sidecar import OWN_METADATA, SUFFIX, refuse_foreign
from porter.tensors import shared_tensors
from porter.tensors.lazy import LazyTensor
from porter.tensors.state_dict import StateDict
from porter.tensors.strided_view import as_stored


class Pieces(Protocol):
    """What a codec writes."""

    def __call__(self, state: StateDict, metadata: Mapping[str, str], /) -> Iterable[Piece]: ...


class Reader(Protocol):
    """What a codec reads."""

    def __call__(self, file: InputFile, /, *, strip: bool = True) -> StateDict: ...


@dataclass(frozen=True, slots=True)
class Saver:
    """How one file of a format is written, and how it is read back."""

    format: str
    pieces: Pieces
    read: Reader
    read_back: bool = True
    progress: Progress | None = None
    sync: bool = True
    digests: str = XXH3
    """The method of the digests, "" for none."""
    layout: str = "contiguous"

    def save(
        self,
        state: StateDict,
        path: str,
        *,
        force: bool,
        inputs: Iterable[Input],
        metadata: Mapping[str, str] | None,
        record: Record | None = None,
        also: Iterable[Task] = (),
        turn: AbstractContextManager[object] | None = None,
    ) -> Written:
        """Write one file and, where `metadata` is given, its provenance.

        Several files of one output share a `record`, and so the digests of the sources; `also` is
        run meanwhile, and they write in `turn`.
        """
        sources = list(inputs)
        if record is None and metadata is not None:
            record = self.record(metadata, sources)
        beside = path + SUFFIX if record and self._beside else ""
        if beside:
            refuse_foreign(beside)
        written = atomic_output.publish(
            path,
            self._pieces(state, metadata or {}, record),
            inputs=sources,
            force=force,
            also=record.jobs() if record and self.digests else also,
            check=partial(self._check, state),
            progress=self._moved("writing"),
            sync=self.sync,
            digests=self.digests,
            turn=turn,
        )
        written = replace(written, digests=complete(state, written.digests))
        if record is None or not beside:
            return written
        assert written.imprint is not None
        files = {os.path.basename(path): written.imprint} if self.digests else {}
        atomic_output.publish(beside, [record.text(state, files)], force=True, sync=self.sync)
        return replace(written, files=(beside, *written.files))

    def record(self, metadata: Mapping[str, str], inputs: Iterable[Input]) -> Record:
        """Return the provenance of an output, the digests of its sources not yet taken."""
        sources = map(atomic_output.named, inputs) if self.digests else ()
        return Record(metadata, sources, self.digests or XXH3)

    @property
    def _beside(self) -> bool:
        """Whether provenance goes into a file beside the output."""
        return self.format not in OWN_METADATA

    def _pieces(
        self, state: StateDict, metadata: Mapping[str, str], record: Record | None
    ) -> Iterable[Piece]:
        if self.layout != "contiguous":
            return self.pieces(state, metadata, layout=self.layout)  # type: ignore[call-arg]
        if record is None or self._beside or not self.digests:
            return self.pieces(state, metadata)
        return self.pieces(state, metadata, late=record.late, method=self.digests)  # type: ignore[call-arg]

    def _check(self, state: StateDict, path: str, imprint: Imprint) -> None:
        """Read the finished file as anybody would, and compare it with what was meant."""
        if not self.read_back:
            return
        digests = None
        if self.digests:
            digests = complete(state, {name: run[2] for name, run in imprint.runs.items()})
        expected: Mapping[str, LazyTensor] = state
        found: Mapping[str, LazyTensor] = self.read(InputFile(path), strip=False)
        problems = imprint.differences(path, frame_only=True)
        if self.layout == "view":
            expected, found = as_stored(expected, found, self.format)
        problems += differences(expected, digests, found, self._moved("reading back"))
        if problems:
            raise SystemFault(
                f"what was written is not what was meant ({'; '.join(problems)});"
                " the memory or the disk may be faulty: nothing was kept",
                path,
            )

    def _moved(self, what: str) -> Advance | None:
        progress = self.progress
        if progress is None:
            return None
        return lambda done, total: progress(what, done, total)


def complete(state: StateDict, digests: Mapping[str, str]) -> dict[str, str]:
    """Return the digests of all tensors, if any were taken.

    A tied one has that of the tensor written for it.
    """
    if not digests:
        return {}
    aliases = shared_tensors.aliases(state)
    return {name: digests.get(name) or digests[aliases[name]] for name in state}
