"""Answers of a server that take a bounded time and a bounded number of bytes.

The standard library bounds each wait for the network and each line of a header: an answer whose
headers come a byte every few seconds, or that begins with interim answers (100) or ends with
trailers for ever, takes as long as its server likes.
"""

from __future__ import annotations

import http.client
import io
import socket
import ssl
import time
from contextlib import suppress
from functools import cache
from typing import Any

LARGEST_HEAD = 256 << 10
"""Bytes of status and headers, of interim answers and of a proxy's, together."""
_FRAMING = 1 << 20
"""Bytes of sizes of chunks and of trailers, for each part of a body."""


class Endless(http.client.HTTPException):
    """An answer has more around its body than a server has a reason to send."""


class _Socket(io.RawIOBase):
    """What is received, until a moment and up to a number of bytes."""

    def __init__(self, raw: Any, sock: socket.socket) -> None:
        self._raw = raw
        self._sock = sock
        self._timeout = sock.gettimeout()
        self.allow(LARGEST_HEAD)

    def allow(self, nbytes: int) -> None:
        """Receive so many bytes more in the time of one wait."""
        self._left = nbytes
        self._until = None if self._timeout is None else time.monotonic() + self._timeout

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if self._left <= 0:
            raise Endless
        if self._until is not None:
            wait = self._until - time.monotonic()
            if wait <= 0:
                raise TimeoutError("timed out")
            self._sock.settimeout(wait)
        size: int | None = self._raw.readinto(buffer)
        self._left -= size or 0
        return size

    def close(self) -> None:
        if not self.closed:
            with suppress(OSError):  # A tunnel's socket is used on, by TLS.
                self._sock.settimeout(self._timeout)
            self._raw.close()
        super().close()


class Response(http.client.HTTPResponse):
    """An answer whose headers are bounded, and each part of its body."""

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        buffered: Any = self.fp
        self._socket = _Socket(buffered.detach(), sock)
        self.fp = io.BufferedReader(self._socket)

    def part(self, most: int) -> bytes:
        """Return the next bytes of the body, none at its end."""
        self._socket.allow(most + _FRAMING)
        return self.read1(most)


class Connection(http.client.HTTPConnection):
    """A connection whose answers, that of a proxy included, are bounded."""

    response_class = Response


class SecureConnection(http.client.HTTPSConnection):
    """The same by TLS, whose handshake the standard library bounds as a whole."""

    response_class = Response

    def __init__(self, host: str, **more: Any) -> None:
        super().__init__(host, context=_context(), **more)


@cache
def _context() -> ssl.SSLContext:
    """Return what all connections have in common; to load the certificates takes 25 ms."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context
