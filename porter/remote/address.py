"""Addresses of checkpoints: distinguished from paths, checked, shown without secrets."""

from __future__ import annotations

import os
import re
from typing import NamedTuple

from porter.errors import InputError, UsageError, listed, printable

_DIGEST = r"sha256=([0-9a-fA-F]{64})"
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
SCHEMES = ("https", "http", "hf", "s3", "gs", "az", "file", "memory")
"""What an address may begin with."""


class Address(NamedTuple):
    """A checked address."""

    url: str
    """Without the fragment; of http, quoted, fit for a request."""
    shown: str
    """For people: without the query, which may contain a secret."""
    name: str
    """What a copy of the file is called."""
    sha256: str | None = None

    @property
    def scheme(self) -> str:
        """One of `SCHEMES`."""
        return self.url.partition("://")[0]

    @property
    def is_web(self) -> bool:
        """Whether it is an http or https address."""
        return self.scheme in ("http", "https")

    def sibling(self, name: str) -> Address:
        """Return the address of another file in the same folder, by the same query."""
        from urllib import parse

        if not self.is_web:
            return address(f"{self.url.rpartition('/')[0]}/{name}")
        parts = parse.urlsplit(self.url)
        path = f"{parts.path.rpartition('/')[0]}/{parse.quote(name)}"
        url = parse.urlunsplit(parts._replace(path=path))
        return address(url)


def is_url(given: str | os.PathLike[str]) -> bool:
    """Whether an INPUT is an address rather than a path."""
    name = os.fspath(given)
    scheme = _SCHEME.match(name) if "://" in name else None
    return scheme is not None and scheme[1].lower() in SCHEMES


def check_scheme(given: str) -> None:
    """Raise `UsageError` for an address of a system that porter does not read."""
    other = _SCHEME.match(given)
    if other is not None and not os.path.exists(given):
        raise UsageError(f"porter reads {listed(SCHEMES)} addresses, not {other[1]}", given)


def shown(given: str | os.PathLike[str]) -> str:
    """Return an INPUT as it is printed and recorded: an address without query and fragment."""
    if not is_url(given):
        return os.fspath(given)
    from porter.remote.http import shown as without_query

    return without_query(os.fspath(given))


def address(url: str) -> Address:
    """Read an address; `InputError` or `UsageError` if it cannot be one."""
    from urllib import parse

    from porter.remote import http

    whole, _, fragment = url.partition("#")
    digest = re.fullmatch(_DIGEST, fragment)
    if fragment and digest is None:
        raise UsageError(
            f"has the fragment #{printable(fragment, 40)}; only #sha256=HEX is allowed",
            http.shown(url),
        )
    if whole.lower().startswith(("http://", "https://")):
        made = http.checked(whole)
        last = parse.unquote(parse.urlsplit(made).path).rpartition("/")[2]
    else:
        made = _checked(whole)
        last = made.rstrip("/").rpartition("/")[2]
    name = re.sub(r"[^\w.+=@-]", "_", last).lstrip(".")[-120:] or "download"
    return Address(made, http.shown(made), name, digest[1].lower() if digest else None)


def local_path(source: Address) -> str:
    """Return the path that a `file` address means."""
    from urllib.request import url2pathname

    return url2pathname(source.url.removeprefix("file://"))


def _checked(url: str) -> str:
    """Return the address of a bucket, a hub or a system of fsspec; `InputError` if it is none."""
    from porter.remote import http

    scheme, _, rest = url.partition("://")
    place = rest.partition("/")[0]
    if not rest.strip("/") or not rest.isprintable():
        raise InputError("is not an address", printable(http.shown(url)))
    # Of a hub's repository, what follows the sign is its revision.
    if "@" in place and (scheme.lower() != "hf" or ":" in place.partition("@")[0]):
        clean = f"{scheme}://{rest.rpartition('@')[2]}"
        raise InputError(
            "no user or password in an address, please: it would be printed and recorded",
            http.shown(clean),
        )
    return f"{scheme.lower()}://{rest}"
