"""Fetch a whole file into a temporary one: complete, or an error and nothing."""

from __future__ import annotations

import atexit
import errno
import hashlib
import http.client
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from typing import NamedTuple

from porter.errors import InputError, SystemFault
from porter.remote import http_store
from porter.remote.address import Address
from porter.remote.bounded import Response
from porter.remote.http import Unreachable, get
from porter.remote.http_store import (
    Pace,
    headers,
    persistently,
    received,
    refuse_compressed,
)
from porter.remote.remote_file import CHUNK, Store
from porter.storage.progress import Progress

RESERVE = 64 << 20
"""Bytes of the disk that a download leaves free."""
_BLOCK = 1 << 20
_OTHER_FOLDER = "PORTER_CACHE_DIR or TMPDIR names another folder"


class _Copied(NamedTuple):
    path: str
    sha256: str


_whole: dict[tuple[str, str], _Copied] = {}
"""Address, and SHA-256 or the server's tag and date, to the copy that has them."""


@cache
def _folder(base: str) -> str:
    os.makedirs(base, exist_ok=True)
    folder = tempfile.mkdtemp(prefix="porter-download-", dir=base)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def download(source: Address, store: Store | None, progress: Progress | None) -> str:
    """Return the path of a whole copy, which is removed when the process ends.

    Without a `store`, the server sends the file from its beginning only. Raises `InputError` where
    the server refuses or sends something else than was meant, `SystemFault` where the network or
    the disk fails.
    """
    if source.sha256 is not None and (known := _whole.get((source.url, source.sha256))):
        return known.path  # The digest says what it is, whatever the server has now.
    path = base = os.environ.get("PORTER_CACHE_DIR") or tempfile.gettempdir()
    try:
        path = os.path.join(tempfile.mkdtemp(dir=_folder(base)), source.name)
        if store:
            copied = _Copied(path, _from_store(store, path, progress))
        else:
            copied = _plainly(source, path, progress)
        if source.sha256 is not None and copied.sha256 != source.sha256:
            raise InputError(f"its sha256 is {copied.sha256}, not {source.sha256}", source.shown)
    except BaseException as error:
        if path != base:
            with suppress(OSError):
                os.unlink(path)
        if isinstance(error, OSError):
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            what = "the disk is full" if full else f"cannot be written: {error.strerror}"
            raise SystemFault(f"{what} ({_OTHER_FOLDER})", path) from None
        raise
    if source.sha256 is not None:
        _whole[source.url, source.sha256] = copied
    return copied.path


def _from_store(store: Store, path: str, progress: Progress | None) -> str:
    blocks = (store.read(at, min(at + CHUNK, store.size)) for at in range(0, store.size, CHUNK))
    return _written(path, blocks, store.size, store.shown, progress)


def _plainly(source: Address, path: str, progress: Progress | None) -> _Copied:
    """Fetch by one request, again from the beginning where it is cut.

    A file whose tag or date is that of a copy is not fetched again: one command reads it several
    times.
    """

    def fetch() -> _Copied:
        with get(source.url, headers({}), http_store.TIMEOUT) as answer:
            if answer.status != 200:
                what = f"is answered with HTTP {answer.status}, which was not asked for"
                raise InputError(what, source.shown)
            refuse_compressed(answer, source.shown)
            total = _length(answer)
            tags = [answer.headers.get(key, "") for key in ("ETag", "Last-Modified")]
            state = f"{total} {tags}" if any(tags) else ""
            known = _whole.get((source.url, state))
            if known is not None and os.path.exists(known.path):
                return known
            blocks = _blocks(answer, total, source.shown)
            copied = _Copied(path, _written(path, blocks, total, source.shown, progress))
            if state:
                _whole[source.url, state] = copied
            return copied

    return persistently(fetch)


def _length(answer: http.client.HTTPResponse) -> int | None:
    length = answer.headers.get("Content-Length", "")
    return int(length) if length.isdecimal() and len(length) < 19 else None


def _blocks(answer: Response, total: int | None, shown: str) -> Iterator[bytes]:
    """Yield what is received; a connection that breaks is an error, as an early end is."""
    size, pace = 0, Pace(shown)
    while block := received(answer, _BLOCK, shown):
        size += len(block)
        pace.add(len(block))
        yield block
    if total is not None and size < total:
        raise Unreachable(f"was cut at byte {size:,} of {total:,}", shown, again=True)


def _written(
    path: str, blocks: Iterator[bytes], total: int | None, shown: str, progress: Progress | None
) -> str:
    """Write blocks to a file while there is room; return their SHA-256."""
    if total is not None:
        _check_room(path, total, f"has {total:,} bytes", shown)
    digest, size = hashlib.sha256(), 0
    with open(path, "wb") as file:
        for block in blocks:
            size += len(block)
            # A server may announce no length, others may write too.
            _check_room(path, len(block), f"has sent {size:,} bytes", shown)
            file.write(block)
            digest.update(block)
            if progress is not None:
                progress("downloading", size, total or 0)
    return digest.hexdigest()


def _check_room(path: str, nbytes: int, what: str, shown: str) -> None:
    folder = os.path.dirname(path)
    free = shutil.disk_usage(folder).free - RESERVE
    if nbytes > free:
        raise SystemFault(
            f"{what}, {folder} has room for {max(free, 0):,} ({_OTHER_FOLDER})", shown
        )
