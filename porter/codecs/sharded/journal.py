"""The journal of a sharded output: which shards are complete, and which files they replace."""

from __future__ import annotations

import json
import os
from typing import Any

from porter.storage.atomic_output import Written
from porter.storage.tasks import ShardPlace


class Journal:
    """The complete shards, in a file that is replaced after each of them."""

    def __init__(self, place: ShardPlace) -> None:
        self._place = place
        rows = _rows(place.load())
        self.parameters = str(rows.get("parameters", ""))
        self.done: dict[str, dict[str, Any]] = rows.get("done", {})
        """Name of a shard to its `bytes`, its `digest` and those of its `tensors`.

        Also those of the source's tensors as they come `back` from it, what its `casts` cost, and
        what its place tells it by.
        """
        self.is_published = rows.get("published") is True
        """Whether the index may be there already: an output that only has to be tidied up."""
        self.replaced = set(rows.get("replaced", ()))
        """Names of the shards of a checkpoint that is replaced: they are removed at the end."""

    def note(self, name: str, row: dict[str, Any]) -> None:
        """Add a complete shard."""
        self.done[name] = row
        self.save()

    def save(self) -> None:
        """Replace the journal in its place."""
        rows = {
            "parameters": self.parameters, "done": self.done, "replaced": sorted(self.replaced),
            "published": self.is_published,
        }  # fmt: skip
        self._place.save(json.dumps(rows).encode())

    def written(self, name: str, path: str) -> Written:
        """Return what was written of a complete shard."""
        row = self.done[name]
        return Written(path, row["bytes"], row["tensors"], (path,), row["digest"])


def _rows(text: bytes) -> dict[str, Any]:
    """Return the rows of a journal, none when there is none or it is malformed."""
    try:
        rows = json.loads(text or b"null")
    except (ValueError, RecursionError):
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
