"""The journal of a sharded output: which shards are complete, and which files they replace."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

from porter.errors import PorterError
from porter.storage import atomic_output
from porter.storage.atomic_output import Written
from porter.storage.file_digest import is_intact
from porter.storage.input_file import read_small
from porter.storage.options import WriteOptions

_LARGEST = 1 << 30


class Journal:
    """The complete shards, in a file that is replaced after each of them."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        rows = _rows(folder)
        self.parameters = str(rows.get("parameters", ""))
        self.done: dict[str, dict[str, Any]] = rows.get("done", {})
        """Name of a shard to its `bytes`, its `digest` and those of its `tensors`.

        Also those of the source's tensors as they come `back` from it, and what its `casts` cost.
        """
        self.replaced = set(rows.get("replaced", ()))
        """Names of the shards of a checkpoint that is replaced: they are removed at the end."""

    def note(self, name: str, row: dict[str, Any]) -> None:
        """Add a complete shard."""
        self.done[name] = row
        self.save()

    def save(self) -> None:
        """Write the journal to its file."""
        rows = {
            "parameters": self.parameters, "done": self.done, "replaced": sorted(self.replaced)
        }  # fmt: skip
        text = json.dumps(rows).encode()
        path = os.path.join(self.folder, "journal.json")
        atomic_output.publish(path, [text], WriteOptions(force=True), lock=False)

    def written(self, name: str, path: str) -> Written:
        """Return what was written of a complete shard."""
        row = self.done[name]
        return Written(path, row["bytes"], row["tensors"], (path,), row["digest"])

    def remove(self) -> None:
        """Take away the folder with what is in it."""
        with suppress(OSError):
            for name in os.listdir(self.folder):
                os.unlink(os.path.join(self.folder, name))
            os.rmdir(self.folder)


def is_there(name: str, row: Mapping[str, Any] | None, folders: Iterable[str]) -> bool:
    """Whether one of the folders has a complete shard, as the row of it says."""
    for folder in folders if row is not None else ():
        assert row is not None
        with suppress(PorterError):
            if is_intact(os.path.join(folder, name), row["bytes"], row["digest"]):
                return True
    return False


def _rows(folder: str) -> dict[str, Any]:
    """Return the journal of a folder, empty when there is none or it is malformed."""
    try:
        rows = json.loads(read_small(os.path.join(folder, "journal.json"), _LARGEST))
    except (PorterError, ValueError, RecursionError):
        return {}
    return rows if _is_journal(rows) else {}


def _is_journal(rows: object) -> bool:
    if not isinstance(rows, dict):
        return False
    done, replaced = rows.get("done"), rows.get("replaced", [])
    return (
        isinstance(done, dict)
        and all(map(_is_row, done.values()))
        and isinstance(replaced, list)
        and all(isinstance(name, str) and os.path.basename(name) == name for name in replaced)
    )


def _is_row(row: object) -> bool:
    """Whether a row is what `Journal.note` writes."""
    if not isinstance(row, dict):
        return False
    return (
        type(row.get("bytes")) is int
        and type(row.get("digest")) is str
        and "tensors" in row
        and all(_are_digests(row.get(key, {})) for key in ("tensors", "back"))
        and _are_costs(row.get("casts", {}))
    )


def _are_digests(value: object) -> bool:
    return isinstance(value, dict) and all(type(digest) is str for digest in value.values())


def _are_costs(value: object) -> bool:
    return isinstance(value, dict) and all(
        isinstance(cost, list) and len(cost) == 2 and all(isinstance(n, int | float) for n in cost)
        for cost in value.values()
    )
