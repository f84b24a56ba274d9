"""The conversions that a process has learnt."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from porter import codecs
from porter.commands.convert import Conversion
from porter.errors import PorterError
from porter.fleet.alike.form import LARGEST, Form
from porter.fleet.job import Job, Result
from porter.planning.custom_table import is_table
from porter.remote.address import is_url
from porter.storage.input_file import Identity, now
from porter.storage.together import Together

Key = tuple[tuple[str, Any], ...]
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
        self._kinds: dict[tuple[Key, Identity | None], Kind] = {}
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


def key_of(job: Job) -> Key | None:
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
    return tuple([item for item in arguments.items() if item[0] not in _OF_ONE])


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


def _state_of_table(job: Job) -> Identity | None:
    """Return what tells one state of a custom table from another."""
    name = job.arguments.get("architecture")
    return now(name) if name is not None and is_table(name) else None
