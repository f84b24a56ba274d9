"""Checkpoints at http and https addresses: downloaded once, kept, asked for again by their tag.

Wherever a checkpoint is read, `local` and `read` take a path or an address. A download goes to
the user's cache (`PORTER_CACHE_DIR` says where else), appears there whole or not at all, and goes
on where it was cut. What is kept is used again when the server says that it is still the same,
or, with a note, when the server cannot be reached. `#sha256=HEX` behind an address is held.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from porter.errors import InputError, PorterError, UsageError, printable

if TYPE_CHECKING:
    from porter.tensor import StateDict

Progress = Callable[[str, int, int], None]
"""Called with what is done, the bytes done and the bytes in all (0: unknown)."""

TIMEOUT = 30.0
"""Seconds to wait for a connection, and for each answer."""

COPY = "is the copy downloaded on"
"""What the note of a download says that the server could not be asked about."""

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_DIGEST = re.compile(r"sha256=([0-9a-fA-F]{64})")


class Address(NamedTuple):
    """A checked http or https address."""

    url: str
    """Without the fragment, quoted, fit for a request."""
    shown: str
    """For people: without the query, which may hold a secret."""
    name: str
    """What the file is called in the cache."""
    sha256: str | None = None

    def beside(self, name: str) -> Address:
        """Return the address of another file in the same folder, by the same query."""
        from urllib import parse

        parts = parse.urlsplit(self.url)
        path = f"{parts.path.rpartition('/')[0]}/{parse.quote(name)}"
        url = parse.urlunsplit(parts._replace(path=path))
        return address(url)


class Fetched(NamedTuple):
    """A file that is here now."""

    path: str
    shown: str
    notes: tuple[str, ...] = ()


def is_url(given: str | os.PathLike[str]) -> bool:
    """Whether an INPUT is an address rather than a path."""
    return os.fspath(given).lower().startswith(("http://", "https://"))


def shown(given: str | os.PathLike[str]) -> str:
    """Return an INPUT as it is printed and recorded: an address without query and fragment."""
    if not is_url(given):
        return os.fspath(given)
    from porter._http import shown as without_query

    return without_query(os.fspath(given))


def address(url: str) -> Address:
    """Read an address; `InputError` or `UsageError` if it cannot be one."""
    from urllib import parse

    from porter import _http

    whole, _, fragment = url.partition("#")
    digest = _DIGEST.fullmatch(fragment)
    if fragment and digest is None:
        raise UsageError(
            f"behind # stands {printable(fragment, 40)}; only #sha256= and 64 hex digits may",
            _http.shown(url),
        )
    made = _http.checked(whole)
    last = parse.unquote(parse.urlsplit(made).path).rpartition("/")[2]
    name = re.sub(r"[^\w.+=@-]", "_", last).lstrip(".")[-120:] or "download"
    return Address(made, _http.shown(made), name, digest[1].lower() if digest else None)


def local(given: str | os.PathLike[str], *, progress: Progress | None = None) -> Fetched:
    """Return where an INPUT lies on this machine: a path as it is, an address downloaded.

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
    from porter import _download

    found = address(path)
    got = _download.download(found, progress, TIMEOUT)
    notes = [got.note]
    for name in _shards(got.path):
        part = _download.download(found.beside(name), progress, TIMEOUT)
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
    """Return the state dict of a checkpoint at a path or address, its tensors not yet read.

    See `porter.codecs.read` for `key`, `format`, `strip` and `uint16`; `local` says what a
    download does. Raises `InputError` for what is refused, `SystemFault` where the network or
    the disk fails.
    """
    from porter import codecs
    from porter.tensor import StateDict

    here = local(given, progress=progress)
    with named(here):
        state = codecs.read(here.path, key=key, format=format, strip=strip, uint16=uint16)
    if not is_url(given):
        return state
    assert state.origin is not None
    notes = (*state.origin.notes, *here.notes)
    return StateDict(state, replace(state.origin, notes=notes, address=here.shown))


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
    """Return what is to be said of downloads that could not be asked for again."""
    origins = [state.origin for state in states if state.origin is not None]
    return tuple(note for origin in origins if origin.address for note in origin.notes
                 if COPY in note)  # fmt: skip


def _shards(path: str) -> list[str]:
    """Return the files that an index of shards names; none if it is no index."""
    if not path.endswith(".index.json") or os.path.getsize(path) > 1 << 26:
        return []
    import json

    try:
        with open(path, encoding="utf-8") as file:
            names = set(json.load(file)["weight_map"].values())
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return []  # the codec says what is wrong with it
    safe = [n for n in names if isinstance(n, str) and re.fullmatch(r"[\w+=@-][\w.+=@-]{0,119}", n)]
    if len(safe) != len(names):
        raise InputError("names shards that do not lie beside it", path)
    return sorted(safe)
