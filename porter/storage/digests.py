"""The digests of a tensor's bytes: XXH3-128, at the speed of memory, or SHA-256.

XXH3 tells damage and mistakes, not malice: whoever can alter a file can alter the digest beside
it. SHA-256 is for who keeps the digests elsewhere, and takes longer than the conversion.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

import xxhash

from porter.errors import InputError, UsageError, listed, printable

try:  # Several times faster than zlib, and the same results.
    from isal import isal_zlib
except ModuleNotFoundError:  # pragma: no cover - `make bare` runs without it
    _crc: ModuleType = zlib
else:
    _crc = isal_zlib


def _sha256(data: bytes | memoryview = b"") -> Any:
    import hashlib  # Takes longer to load than most files take to be looked into.

    return hashlib.sha256(data)


def _sha256_of(data: bytes | memoryview) -> str:
    return str(_sha256(data).hexdigest())


XXH3, SHA256 = "xxh3", "sha256"
_METHODS: dict[str, tuple[str, int, Callable[..., Any], Callable[..., str]]] = {
    XXH3: ("xxh3-128:", 32, xxhash.xxh3_128, xxhash.xxh3_128_hexdigest),
    SHA256: ("sha256:", 64, _sha256, _sha256_of),
}
"""Prefix of the text, hex digits behind it, what computes it, and what does so in one call."""
METHODS = tuple(_METHODS)


class Digest:
    """A running digest by one of `METHODS`."""

    __slots__ = ("_prefix", "_state")

    def __init__(self, method: str = XXH3) -> None:
        self._prefix, _, make, _ = _METHODS[method]
        self._state = make()

    def update(self, data: bytes | bytearray | memoryview) -> None:
        """Take in the next bytes."""
        self._state.update(data)

    def text(self) -> str:
        """Return the digest of what was taken in: the method's name, a colon, hex digits."""
        return f"{self._prefix}{self._state.hexdigest()}"


def digest_of(data: bytes | memoryview, method: str = XXH3) -> str:
    """Return the digest of bytes at hand."""
    prefix, _, _, digits = _METHODS[method]
    return prefix + digits(data)


def unknown(method: str) -> str:
    """Return what holds the place of a digest until it is known."""
    prefix, digits, _, _ = _METHODS[method]
    return "-" * (len(prefix) + digits)


def method_of(digest: object) -> str:
    """Return the method that a recorded digest was taken by; `InputError` for none of porter's."""
    for method, (prefix, digits, _, _) in _METHODS.items():
        fits = isinstance(digest, str) and digest.startswith(prefix)
        if fits and len(str(digest)) == len(prefix) + digits:
            return method
    raise InputError(f"a digest that porter does not know: {printable(digest)}")


def check_method(method: str) -> None:
    """Raise `UsageError` for a method that there is not."""
    if method not in METHODS:
        raise UsageError(f"no digest is called {printable(method)}; there are {listed(METHODS)}")


crc32: Callable[..., int] = _crc.crc32
"""Return the CRC-32 of bytes, going on from a second argument."""
