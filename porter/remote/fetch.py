"""Checkpoints at addresses: read by ranges, or fetched whole where that is needed.

Wherever a checkpoint is read, `read` takes a path or an address. Of a file at an address, what is
asked for is fetched and no more; there is no local copy. A file is fetched whole, into a temporary
one, where its server does not send parts, where `#sha256=HEX` after the address asks for a check
(nothing of it is read before), and where a program other than porter needs it (`local`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from porter.codecs.detect import container_of
from porter.errors import InputError, PorterError
from porter.remote.address import Address, address, check_scheme, is_url, local_path

if TYPE_CHECKING:
    from porter.remote.remote_file import Store
    from porter.storage.input_file import InputFile
    from porter.storage.progress import Progress
    from porter.tensors.state_dict import StateDict

_LARGEST_INDEX = 1 << 26
_PLAIN = r"[\w+=@-][\w.+=@-]{0,119}"
"""Names of shards that no server and no system spells in another way."""
_IN_BUCKETS = r"(?!\.)[^/\\\x00-\x1f\x7f]{1,200}"
"""A key is what it is."""


class Fetched(NamedTuple):
    """A file that is on this machine now."""

    path: str
    shown: str


class _Place(NamedTuple):
    """Where a checkpoint is read: a path, or the name of a file that is open."""

    path: str
    shown: str
    files: tuple[InputFile, ...] = ()
    """Kept open while the path is read."""
    notes: tuple[str, ...] = ()
    is_remote: bool = True


def local(given: str | os.PathLike[str], *, progress: Progress | None = None) -> Fetched:
    """Return where an INPUT is on this machine: a path as it is, an address fetched whole.

    Raises `InputError` where the address or what it gives is wrong, `SystemFault` where the
    network or the disk fails.
    """
    path = os.fspath(given)
    if not is_url(path):
        check_scheme(path)
        return Fetched(path, path)
    source = address(path)
    if (here := _here(source)) is not None:
        return here
    from porter.remote.download import download

    return Fetched(download(source, _store(source), progress), source.shown)


def size_of(url: str) -> int | None:
    """Return the bytes of the file at an address, None where its server does not say.

    Raises `InputError` where there is no file, `SystemFault` where the network fails.
    """
    source = address(url)
    if (here := _here(source)) is not None:
        return os.path.getsize(here.path)
    store = _store(source)
    return None if store is None else store.size


def detect(given: str | os.PathLike[str]) -> str:
    """Return the format of a file or folder at a path or address."""
    from porter.checkpoints.read import detect as detect_checkpoint

    place = _opened(os.fspath(given), None, None)
    with named(Fetched(place.path, place.shown)):
        return detect_checkpoint(place.path)


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
        given: Path of a file or folder, or address (`https`, `hf`, `s3`, `gs`, `az`, `file`,
            `memory`), of the checkpoint; of a file at an address, tensors are fetched when they
            are read.
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

    place = _opened(os.fspath(given), format, progress)
    with named(Fetched(place.path, place.shown)):
        state = read_checkpoint(place.path, key=key, format=format, strip=strip, uint16=uint16)
    if not place.is_remote:
        return state
    assert state.origin is not None
    notes = (*state.origin.notes, *place.notes)
    origin = replace(state.origin, notes=notes, address=place.shown, open_files=place.files)
    return StateDict(state, origin)


@contextmanager
def named(here: Fetched) -> Iterator[None]:
    """Say the address, not the place of a copy, in the errors of what is done inside."""
    try:
        yield
    except PorterError as error:
        if error.path == here.path:
            error.path = here.shown
        raise


def _opened(given: str, format: str | None, progress: Progress | None) -> _Place:
    """Return where a checkpoint can be read by position."""
    if not is_url(given):
        check_scheme(given)
        return _Place(given, given, is_remote=False)
    source = address(given)
    if (here := _here(source)) is not None:
        return _Place(here.path, here.shown, is_remote=source.scheme != "file")
    source, notes = _in_folder(source, format)
    first = _one(source, progress)
    files = [*first.files]
    for name in _shards(first.path, source.is_web):
        files += _one(source.sibling(name), progress, folder=os.path.dirname(first.path)).files
    return first._replace(files=tuple(files), notes=notes)


def _here(source: Address) -> Fetched | None:
    """Return what an address means that is on this machine already."""
    if source.scheme == "file":
        return Fetched(local_path(source), local_path(source))
    from porter.remote.hub_cache import cached

    path = cached(source)
    return None if path is None else Fetched(path, source.shown)


def _one(source: Address, progress: Progress | None, folder: str = "") -> _Place:
    """Open one file: by ranges, or as a temporary copy."""
    from porter.remote.download import download
    from porter.remote.remote_file import Copy, RemoteFile

    store = _store(source)
    if store is not None and store.size and source.sha256 is None:
        file = RemoteFile(store)
        return _Place(file.path, source.shown, (file,))
    path = download(source, store, progress)
    if folder:
        shard = Copy(path, f"{folder}/{source.name}")
        return _Place(shard.path, source.shown, (shard,))
    return _Place(path, source.shown)


def _store(source: Address) -> Store | None:
    if source.is_web:
        from porter.remote.http_store import open_store

        return open_store(source)
    from porter.remote.fsspec_store import FsspecStore, file_system

    return FsspecStore(source, file_system(source))


def _in_folder(source: Address, format: str | None) -> tuple[Address, tuple[str, ...]]:
    """Return the file that is meant: an address of a hub or a bucket may name a folder."""
    if source.is_web or container_of(source.name) is not None:
        return source, ()
    from porter.checkpoints.folder import weights
    from porter.remote.fsspec_store import listed_files

    names = listed_files(source)
    if names is None:
        return source, ()
    if source.sha256 is not None:
        raise InputError("is a folder: #sha256= is of one file", source.shown)
    place = weights(source.shown, names, format)
    if place is None:
        raise InputError("has no file of weights in it; give the address of one", source.shown)
    return address(f"{source.url.rstrip('/')}/{os.path.basename(place.path)}"), place.notes


def _shards(path: str, is_web: bool) -> list[str]:
    """Return the files that an index of shards names; none if it is not an index."""
    if not path.endswith(".index.json"):
        return []
    import json

    from porter.storage.input_file import open_input

    file = open_input(path)
    if file.size > _LARGEST_INDEX:
        return []
    try:
        names = set(json.loads(file.pread(0, file.size))["weight_map"].values())
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return []  # the codec says what is wrong with it
    plain = _PLAIN if is_web else _IN_BUCKETS
    safe = [name for name in names if isinstance(name, str) and re.fullmatch(plain, name)]
    if len(safe) != len(names):
        raise InputError("names shards that are not in the same folder", path)
    return sorted(safe)
