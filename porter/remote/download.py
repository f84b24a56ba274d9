"""Download a file into the cache: whole or not at all, resumed, checked, kept with its tag."""

from __future__ import annotations

import errno
import hashlib
import http.client
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from urllib import parse

from filelock import FileLock

from porter import __version__
from porter.errors import InputError, PorterError, SystemFault
from porter.remote.address import Address
from porter.remote.http import Unreachable, content_range, get
from porter.storage.input_file import InputFile
from porter.storage.progress import Progress

ATTEMPTS = 4
"""How often in a row a download may be cut without a byte gained."""
PAUSE = 1.0
"""Seconds before the second attempt; each next one waits twice as long."""
RESERVE = 64 << 20
"""Bytes of the disk that a download leaves free."""
_BLOCK = 1 << 20
_LARGEST_RECORD = 1 << 20


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """What is known of a downloaded file, or of the part of one."""

    url: str
    etag: str | None = None
    modified: str | None = None
    total: int | None = None
    sha256: str | None = None
    size: int = 0
    mtime_ns: int = 0
    date: str = ""

    @property
    def is_sound(self) -> bool:
        """Whether the fields, read from a file, have their types."""
        texts = (self.url, self.etag or "", self.modified or "", self.sha256 or "", self.date)
        numbers = (self.total or 0, self.size, self.mtime_ns)
        return all(type(x) is str for x in texts) and all(type(x) is int for x in numbers)

    @property
    def validator(self) -> str | None:
        """What `If-Range` takes: a strong tag, else the date."""
        strong = self.etag if self.etag and not self.etag.startswith("W/") else None
        return strong or self.modified


@dataclass(frozen=True, slots=True)
class Got:
    """The path of a file, and a note if its server could not be asked whether it changed."""

    path: str
    note: str = ""


class _Changed(Exception):
    """The file on the server changed since the partial download."""


def cache_folder() -> str:
    """Return the folder of downloads: in `PORTER_CACHE_DIR`, else in the user's cache."""
    root = os.environ.get("PORTER_CACHE_DIR")
    if not root:
        import platformdirs

        root = platformdirs.user_cache_dir("porter", appauthor=False)
    return os.path.join(os.path.abspath(root), "downloads")


class _Place:
    """The files that belong to one address in the cache."""

    def __init__(self, source: Address) -> None:
        parts = parse.urlsplit(source.url)
        folder = (parts.scheme, parts.netloc.lower(), parts.path.rpartition("/")[0], parts.query)
        key = hashlib.sha256("\n".join(folder).encode()).hexdigest()[:20]
        host = "".join(c if c.isalnum() or c in ".-" else "_" for c in parts.netloc.lower())[:80]
        self.folder = os.path.join(cache_folder(), host, key)
        self.path = os.path.join(self.folder, source.name)
        hidden = os.path.join(self.folder, f".{source.name}")
        self.part, self.lock = f"{hidden}.part", f"{hidden}.lock"
        self.record, self.part_record = f"{hidden}.json", f"{hidden}.part.json"

    def known(self) -> CacheEntry | None:
        """Return the record of the whole file, None where the file is not what was recorded."""
        record = _load(self.record)
        try:
            status = os.stat(self.path)
        except OSError:
            return None
        same = record is not None and (record.size, record.mtime_ns) == (
            status.st_size,
            status.st_mtime_ns,
        )
        return record if same else None

    def begun(self) -> CacheEntry | None:
        """Return the record of a part that can be gone on with; `size` is what is there."""
        record = _load(self.part_record)
        with suppress(OSError):
            size = os.path.getsize(self.part)
            if record is not None and record.validator and size:
                return CacheEntry(**{**asdict(record), "size": size})
        return None

    def forget_part(self) -> None:
        """Remove a part and its record."""
        for path in (self.part_record, self.part):
            with suppress(FileNotFoundError):
                os.unlink(path)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock this address: another process waits, and then uses the finished download."""
        os.makedirs(self.folder, exist_ok=True)
        with FileLock(self.lock):
            yield


def download(source: Address, progress: Progress | None, timeout: float) -> Got:
    """Return a whole and current copy of the file at an address.

    Raises `InputError` where the server refuses, or sends something else than was meant;
    `SystemFault` where the network or the disk fails and no copy is kept.
    """
    place = _Place(source)
    try:
        with place.locked():
            try:
                return _kept_or_fetched(source, place, progress, timeout)
            finally:
                if place.begun() is None:  # Nothing can go on with it.
                    place.forget_part()
    except OSError as fault:
        full = fault.errno in (errno.ENOSPC, errno.EDQUOT)
        what = "the disk is full" if full else f"cannot be written: {fault.strerror}"
        raise SystemFault(f"{what} (PORTER_CACHE_DIR names another folder)", place.folder) from None


def _kept_or_fetched(
    source: Address, place: _Place, progress: Progress | None, timeout: float
) -> Got:
    known = place.known()
    if known is not None and source.sha256 is not None:
        if known.sha256 == source.sha256:
            return Got(place.path)  # no server can say more than the digest does
        known = None
    try:
        return _persistently(source, place, known, progress, timeout)
    except Unreachable as fault:
        if known is None:
            raise
        note = f"{fault.message}: {source.name} is the copy downloaded on {known.date}"
        return Got(place.path, note)


def _persistently(
    source: Address,
    place: _Place,
    known: CacheEntry | None,
    progress: Progress | None,
    timeout: float,
) -> Got:
    """Try until the file is there, or nothing more is gained by trying."""
    failures, changes, before = 0, 0, -1
    while True:
        begun = place.begun()
        have = begun.size if begun is not None else 0
        failures = failures + 1 if have <= before else 0
        before = have
        try:
            return _once(source, place, known, begun, progress, timeout)
        except _Changed:
            place.forget_part()
            before, changes = -1, changes + 1
            if changes == ATTEMPTS:
                raise Unreachable("changes while it is sent: try later", source.shown) from None
        except Unreachable as fault:
            if not fault.again or failures + 1 >= ATTEMPTS or (known is not None and not have):
                raise
            time.sleep(PAUSE * 2**failures)


def _once(
    source: Address,
    place: _Place,
    known: CacheEntry | None,
    begun: CacheEntry | None,
    progress: Progress | None,
    timeout: float,
) -> Got:
    with get(source.url, _headers(known, begun), timeout) as answer:
        if answer.status == 304:
            if known is None:
                raise InputError("is answered with HTTP 304, which was not asked for", source.shown)
            return Got(place.path)
        start, record = _begin(source, begun, answer)
        if answer.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise InputError("is sent compressed, though that was not asked for", source.shown)
        _check_space(source, place, start, record)
        digest = _receive(source, place, start, record, answer, progress)
    if source.sha256 is not None and digest != source.sha256:
        place.forget_part()
        raise InputError(f"its sha256 is {digest}, not {source.sha256}", source.shown)
    _publish(place, record, digest)
    return Got(place.path)


def _headers(known: CacheEntry | None, begun: CacheEntry | None) -> dict[str, str]:
    found = {"User-Agent": f"porter/{__version__}", "Accept": "*/*", "Accept-Encoding": "identity"}
    if begun is not None and begun.validator is not None:
        return {**found, "Range": f"bytes={begun.size}-", "If-Range": begun.validator}
    if known is not None and known.etag:
        found["If-None-Match"] = known.etag
    if known is not None and known.modified:
        found["If-Modified-Since"] = known.modified
    return found


def _begin(
    source: Address, begun: CacheEntry | None, answer: http.client.HTTPResponse
) -> tuple[int, CacheEntry]:
    """Return where the answer's bytes begin, and the record of the file that they are of."""
    etag, modified = (_sendable(answer.headers.get(key)) for key in ("ETag", "Last-Modified"))
    if answer.status == 416:
        if begun is None:
            raise InputError("is refused by the server (HTTP 416)", source.shown)
        raise _Changed
    if answer.status == 206:
        span = content_range(answer.headers.get("Content-Range"))
        if begun is None or span is None or span[0] != begun.size:
            raise InputError("is answered with a part that was not asked for", source.shown)
        if (etag or begun.etag) != begun.etag or (begun.total or span[1]) != span[1]:
            raise _Changed
        return begun.size, CacheEntry(source.shown, begun.etag, begun.modified, span[1])
    length = answer.headers.get("Content-Length", "")
    total = int(length) if length.isdecimal() and len(length) < 19 else None
    if total is None and not answer.chunked:
        # The end cannot be distinguished from a cut, so this copy is never treated as current.
        return 0, CacheEntry(source.shown)
    return 0, CacheEntry(source.shown, etag, modified, total)


def _sendable(header: str | None) -> str | None:
    """Return a header that can be sent back, None for one with control characters."""
    return header if header and header.isascii() and header.isprintable() else None


def _check_space(source: Address, place: _Place, start: int, record: CacheEntry) -> None:
    free = _free(place)
    if record.total is not None and record.total - start > free:
        raise SystemFault(
            f"has {record.total - start:,} bytes to download, {place.folder} has room for"
            f" {max(free, 0):,} (PORTER_CACHE_DIR names another folder)",
            source.shown,
        )


def _free(place: _Place) -> int:
    """Return the bytes that a download may still take."""
    return shutil.disk_usage(place.folder).free - RESERVE


def _check_room(source: Address, place: _Place, size: int, record: CacheEntry) -> None:
    """Stop while the reserve is free: a server may announce no length, others may write too."""
    if _free(place) >= 0:
        return
    if record.total is None:
        place.forget_part()
    raise SystemFault(
        f"has sent {size:,} bytes, {place.folder} has no room for more"
        " (PORTER_CACHE_DIR names another folder)",
        source.shown,
    )


def _receive(
    source: Address,
    place: _Place,
    start: int,
    record: CacheEntry,
    answer: http.client.HTTPResponse,
    progress: Progress | None,
) -> str:
    """Append the answer to the part; return the SHA-256 of the whole."""
    digest = hashlib.sha256()
    with open(place.part, "r+b" if start else "w+b") as file:
        for block in iter(lambda: file.read(min(_BLOCK, start - file.tell())), b""):
            digest.update(block)
        if file.tell() != start:
            raise _Changed
        file.truncate()
        _save(place.part_record, record)
        try:
            for block in _blocks(source, answer):
                _check_room(source, place, file.tell() + len(block), record)
                file.write(block)
                digest.update(block)
                if progress is not None:
                    progress("downloading", file.tell(), record.total or 0)
        finally:
            file.flush()
            os.fsync(file.fileno())
        size = file.tell()
    if record.total is not None and size < record.total:
        raise Unreachable(
            f"was cut at byte {size:,} of {record.total:,}; a second run goes on from there",
            source.shown,
            again=True,
        )
    if record.total is not None and size > record.total:
        place.forget_part()
        raise InputError(f"sends more than the {record.total:,} bytes it announced", source.shown)
    return digest.hexdigest()


def _blocks(source: Address, answer: http.client.HTTPResponse) -> Iterator[bytes]:
    """Yield what is received; a fault of the connection ends it as an early end does."""
    while True:
        try:
            block = answer.read1(_BLOCK)
        except http.client.IncompleteRead as fault:
            yield fault.partial
            raise Unreachable("was cut while it was sent", source.shown, again=True) from None
        except TimeoutError:
            raise Unreachable("does not go on: timed out", source.shown, again=True) from None
        except (OSError, ValueError, http.client.HTTPException):
            raise Unreachable("was cut while it was sent", source.shown, again=True) from None
        if not block:
            return
        yield block


def _publish(place: _Place, record: CacheEntry, digest: str) -> None:
    """Give a whole file its name and its record."""
    status = os.stat(place.part)
    date = time.strftime("%Y-%m-%d")
    with suppress(FileNotFoundError):
        os.unlink(place.record)  # an old record must not describe a new file
    os.replace(place.part, place.path)
    _save(
        place.record,
        CacheEntry(
            record.url,
            record.etag,
            record.modified,
            status.st_size,
            digest,
            status.st_size,
            status.st_mtime_ns,
            date,
        ),
    )
    with suppress(FileNotFoundError):
        os.unlink(place.part_record)
    _sync_folder(place.folder)


def _sync_folder(path: str) -> None:
    """Write a folder's entries to the disk, on systems where a folder can be opened."""
    if not hasattr(os, "O_DIRECTORY"):  # Windows
        return
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _save(path: str, record: CacheEntry) -> None:
    temporary = f"{path}.new"
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump(asdict(record), file)
    os.replace(temporary, path)


def _load(path: str) -> CacheEntry | None:
    """Return a record, None if it is missing or malformed."""
    try:
        with InputFile(path) as file:
            body = json.loads(file.pread(0, min(file.size, _LARGEST_RECORD)))
        entry = CacheEntry(**body) if isinstance(body, dict) else None
    except (PorterError, ValueError, TypeError, RecursionError):
        return None
    return entry if entry is not None and entry.is_sound else None
