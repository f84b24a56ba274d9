"""Small outputs that are brought to the disk together: one wait for many files.

Each is written and compared as by `atomic_output.publish`, under a hidden name. When the bytes of
all are on the disk each gets its name, and then the folders are brought there too.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import NamedTuple

from porter.errors import PorterError
from porter.storage.atomic_output import (
    Check,
    Input,
    OpenFile,
    Target,
    resolve,
    sync_folder,
    written,
)
from porter.storage.options import WriteOptions
from porter.storage.pieces import place

_MOST_THREADS = 8
"""Files that are waited for at a time: the file system takes one turn of the disk for them."""


class _Waiting(NamedTuple):
    statement: AbstractContextManager[OpenFile]
    file: OpenFile
    target: Target

    def leave(self, fault: Exception) -> PorterError:
        """Remove the file; return the error to report."""
        try:
            self.statement.__exit__(type(fault), fault, fault.__traceback__)
        except PorterError as error:
            return error
        assert isinstance(fault, PorterError), fault
        return fault


class Together:
    """Outputs that wait for the disk, each of one or several files."""

    def __init__(self) -> None:
        self._outputs: list[list[_Waiting]] = []

    def __len__(self) -> int:
        return len(self._outputs)

    def begin(self) -> None:
        """Begin an output: the files that follow get their names in order, or none of the rest."""
        self._outputs.append([])

    def write(
        self,
        path: str,
        data: bytes | bytearray,
        options: WriteOptions,
        *,
        inputs: Iterable[Input] = (),
        check: Check | None = None,
    ) -> str:
        """Write a file of the last output; return what `check` does. Raises as `publish`.

        If it fails, the output is given up.
        """
        sources = list(inputs)
        try:
            target, layout = resolve(path, sources, options.force), place([data])
            statement = written(target, layout, options, sources)
            self._outputs[-1].append(_Waiting(statement, statement.__enter__(), target))
            return check(self._outputs[-1][-1].file.name, layout) if check is not None else ""
        except PorterError as error:
            for waiting in self._outputs.pop():
                waiting.leave(error)
            raise

    def publish(self) -> list[PorterError | None]:
        """Give all outputs their names; return what went wrong with each, None for those that are
        on the disk."""
        outputs, self._outputs = self._outputs, []
        fault = _synced([waiting.file.fd for files in outputs for waiting in files])
        errors = [_named(files, fault) for files in outputs]
        folders = {w.target.folder: w.target.asked for files in outputs for w in files}
        for folder, asked in folders.items():
            try:
                sync_folder(folder, asked)
            except PorterError as error:
                errors = [known or error for known in errors]
        return errors


def _named(files: list[_Waiting], fault: OSError | None) -> PorterError | None:
    """Give the files of an output their names; after an error, the rest is removed."""
    failed: Exception | None = fault
    for waiting in files:
        if failed is not None:
            failed = waiting.leave(failed)
            continue
        try:
            waiting.statement.__exit__(None, None, None)
        except PorterError as error:
            failed = error
    assert failed is None or isinstance(failed, PorterError)
    return failed


def _synced(fds: list[int]) -> OSError | None:
    """Bring files to the disk, several at a time; return the first error."""
    waiting, faults = list(fds), list[OSError]()

    def work() -> None:
        while waiting and not faults:
            try:
                fd = waiting.pop()
            except IndexError:
                return
            try:
                os.fsync(fd)
            except OSError as fault:
                faults.append(fault)

    threads = [
        threading.Thread(target=work, name="porter-sync")
        for _ in range(min(_MOST_THREADS, len(fds)))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return faults[0] if faults else None
