"""Checkpoints at http and https addresses: downloaded once, kept, asked for again by their tag.

Wherever a checkpoint is read, `local` and `read` take a path or an address. A download goes to
the user's cache (or `PORTER_CACHE_DIR`), appears there whole or not at all, and goes
on where it was cut. What is kept is used again when the server says that it is still the same,
or, with a note, when the server cannot be reached. `#sha256=HEX` after an address is checked.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from porter.errors import InputError, PorterError, UsageError
from porter.remote.address import address, is_url

if TYPE_CHECKING:
    from porter.storage.progress import Progress
    from porter.tensors.state_dict import StateDict

TIMEOUT = 30.0
"""Seconds to wait for a connection, and for each answer."""

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


class Fetched(NamedTuple):
    """A file that is here now."""

    path: str
    shown: str
    notes: tuple[str, ...] = ()


def local(given: str | os.PathLike[str], *, progress: Progress | None = None) -> Fetched:
    """Return where an INPUT is on this machine: a path as it is, an address downloaded.

    With an index of shards (`*.index.json`) come the shards that it names.
    Raises `InputError` where the address or what it gives is wrong, `SystemFault` where the
    network or the disk fails.
    """
    path = os.fspath(given)
    if not is_url(path):
        other = _SCHEME.match(path)
        if other is not None and not os.path.exists(path):
            raise UsageError(f"porter reads http and https addresses, not {other[1]}", path)
        return Fetched(path, path)
    from porter.remote import download

    found = address(path)
    got = download.download(found, progress, TIMEOUT)
    notes = [got.note]
    for name in _shards(got.path):
        part = download.download(found.sibling(name), progress, TIMEOUT)
        notes.append(part.note)
    return Fetched(got.path, found.shown, tuple(dict.fromkeys(note for note in notes if note)))


def read(
    given: str | os.PathLike[str],
    *,
    key: str | None = None,
    format: str | None = None,
    strip: bool = True,
    uint16: str = "auto",
    progress: Progress | None = None,
) -> StateDict:
    """Open a checkpoint without reading a tensor.

    Parameters:
        given: Path of a file or folder, or http or https address, of the checkpoint; `local`
            describes downloads.
        key: Name of one of several state dicts in the file.
        format: Format of the file (a key of `porter.codecs.CODECS`), where its suffix means
            another one.
        strip: Remove prefixes that wrappers put before all names (`module.`).
        uint16: Meaning of Paddle's two-byte elements: "auto" (what the file says), "uint16" or
            "bfloat16".
        progress: Called with a step's name, the bytes done and the bytes in all (downloads).

    Returns a `StateDict`, an ordered mapping of names to `LazyTensor`s, and its `origin`.
    Raises `InputError` for a file that is refused, `SystemFault` if network or disk fail.
    """
    from porter.checkpoints.read import read as read_checkpoint
    from porter.tensors.state_dict import StateDict

    here = local(given, progress=progress)
    with named(here):
        state = read_checkpoint(here.path, key=key, format=format, strip=strip, uint16=uint16)
    if not is_url(given):
        return state
    assert state.origin is not None
    origin = replace(
        state.origin,
        notes=(*state.origin.notes, *here.notes),
        stale=here.notes,
        address=here.shown,
    )
    return StateDict(state, origin)


@contextmanager
def named(here: Fetched) -> Iterator[None]:
    """Say the address, not the place in the cache, in the errors of what is done inside."""
    try:
        yield
    except PorterError as error:
        if error.path == here.path:
            error.path = here.shown
        raise


def stale(*states: StateDict) -> tuple[str, ...]:
    """Return the notes on downloads whose server could not be asked again."""
    return tuple(note for state in states if state.origin for note in state.origin.stale)


def _shards(path: str) -> list[str]:
    """Return the files that an index of shards names; none if it is not an index."""
    if not path.endswith(".index.json") or os.path.getsize(path) > 1 << 26:
        return []
    import json

    from porter.storage.input_file import read_small

    try:
        names = set(json.loads(read_small(path, 1 << 26))["weight_map"].values())
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return []  # the codec says what is wrong with it
    safe = [n for n in names if isinstance(n, str) and re.fullmatch(r"[\w+=@-][\w.+=@-]{0,119}", n)]
    if len(safe) != len(names):
        raise InputError("names shards that are not in the same folder", path)
    return sorted(safe)
