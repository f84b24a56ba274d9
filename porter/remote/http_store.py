"""A file on an http or https server that sends parts of it."""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

from porter import __version__
from porter.errors import InputError, SystemFault
from porter.remote.address import Address
from porter.remote.bounded import Endless, Response
from porter.remote.http import EXPIRED, Denied, Unreachable, content_range, get

TIMEOUT = 30.0
"""Seconds to wait for a connection, and for each answer."""
ATTEMPTS = 4
"""How often in a row a transfer may be cut without a byte gained."""
PAUSE = 1.0
"""Seconds before the second attempt; each next one waits twice as long."""
SLOWEST = 1000.0
"""Bytes a second that an answer must have, after a while."""
PATIENCE = 60.0
"""That while, in seconds: each wait may be short, and the answer still never end."""
_BLOCK = 1 << 18
T = TypeVar("T")
_CHANGED = "changed while it was being read"


def headers(more: Mapping[str, str]) -> dict[str, str]:
    """Return the headers of a request."""
    plain = {"User-Agent": f"porter/{__version__}", "Accept": "*/*", "Accept-Encoding": "identity"}
    return {**plain, **more}


def sendable(header: str | None) -> str | None:
    """Return a header that can be sent back, None for one with control characters."""
    return header if header and header.isascii() and header.isprintable() else None


def refuse_compressed(answer: http.client.HTTPResponse, shown: str) -> None:
    """Raise `InputError` for an answer in another form than the file's own bytes."""
    if answer.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise InputError("is sent compressed, though that was not asked for", shown)


def received(answer: Response, most: int, shown: str) -> bytes:
    """Return the next bytes of an answer, none at its end; `Unreachable` when it breaks off."""
    try:
        return answer.part(most)
    except TimeoutError:
        raise Unreachable("does not go on: timed out", shown, again=True) from None
    except Endless:
        raise Unreachable("sends more around the file than of it", shown) from None
    except (OSError, ValueError, http.client.HTTPException):
        raise Unreachable("was cut while it was sent", shown, again=True) from None


class Pace:
    """The speed of a transfer, in one answer or many."""

    def __init__(self, shown: str) -> None:
        self._shown = shown
        self._began = time.monotonic()
        self._size = 0

    def add(self, nbytes: int) -> None:
        """Take note of bytes; `Unreachable` where they come too slowly to be waited for."""
        self._size += nbytes
        seconds = time.monotonic() - self._began
        if seconds > PATIENCE and self._size < SLOWEST * seconds:
            what = f"sends {self._size / seconds:,.0f} bytes a second, too few to be waited for"
            raise Unreachable(what, self._shown)


def open_store(source: Address) -> HttpStore | None:
    """Return the file at an address; None when the server does not send parts of it."""
    return persistently(lambda: _opened(source))


def persistently(call: Callable[[], T], gained: Callable[[], int] = lambda: 0) -> T:
    """Return what `call` returns; where the network fails, try again after a while.

    `gained` returns the bytes that came so far: attempts that gain some do not count.
    """
    failures = 0
    while True:
        before = gained()
        try:
            return call()
        except Unreachable as fault:
            failures = 0 if gained() > before else failures + 1
            if not fault.again or failures >= ATTEMPTS:
                raise
            if failures:
                time.sleep(max(fault.after, PAUSE * 2 ** (failures - 1)))


def _opened(source: Address) -> HttpStore | None:
    with get(source.url, headers({"Range": "bytes=0-0"}), TIMEOUT) as answer:
        span = content_range(answer.headers.get("Content-Range"))
        if answer.status != 206 or span is None or span[0] != 0 or not span[1]:
            return None
        refuse_compressed(answer, source.shown)
        etag, date = (sendable(answer.headers.get(key)) for key in ("ETag", "Last-Modified"))
        return HttpStore(source, span[1], etag, date)


class HttpStore:
    """Parts of one file, each answer compared with the first by its tag, date and length."""

    def __init__(self, source: Address, size: int, etag: str | None, date: str | None) -> None:
        self.shown = source.shown
        self.size = size
        self._url = source.url
        self._etag = etag
        self._date = date
        self.tag = etag or date or ""

    def read(self, start: int, end: int) -> bytes:
        """Return these bytes; what came before a connection broke is not asked for again."""
        data, pace = bytearray(), Pace(self.shown)
        persistently(lambda: self._receive(start + len(data), end, data, pace), lambda: len(data))
        return bytes(data)

    def check(self) -> None:
        """Ask for one byte: its answer has the tag, the date and the length."""
        self.read(0, 1)

    def _receive(self, at: int, end: int, data: bytearray, pace: Pace) -> None:
        wanted = end - at
        try:
            found = get(self._url, headers({"Range": f"bytes={at}-{end - 1}"}), TIMEOUT)
        except Denied as fault:  # It was not when the file was opened.
            raise SystemFault(EXPIRED, self.shown) from fault
        with found as answer:
            self._compare(answer, at)
            while wanted:
                block = received(answer, min(_BLOCK, wanted), self.shown)
                if not block:
                    raise Unreachable("was cut while it was sent", self.shown, again=True)
                data += block
                wanted -= len(block)
                if wanted:
                    pace.add(len(block))

    def _compare(self, answer: http.client.HTTPResponse, at: int) -> None:
        """Raise `InputError` unless an answer has the bytes from `at` on of the same file."""
        span = content_range(answer.headers.get("Content-Range"))
        etag, date = (sendable(answer.headers.get(key)) for key in ("ETag", "Last-Modified"))
        if answer.status != 206 or span is None or span[1] not in (self.size, None):
            raise InputError(_CHANGED, self.shown)
        if (etag, date if etag is None else None) != (
            self._etag,
            self._date if self._etag is None else None,
        ):
            raise InputError(_CHANGED, self.shown)
        if span[0] != at:
            raise InputError("is answered with a part that was not asked for", self.shown)
        refuse_compressed(answer, self.shown)
