"""Addresses of checkpoints: distinguished from paths, checked, shown without secrets."""

from __future__ import annotations

import os
import re
from typing import NamedTuple

from porter.errors import UsageError, printable

_DIGEST = re.compile(r"sha256=([0-9a-fA-F]{64})")


class Address(NamedTuple):
    """A checked http or https address."""

    url: str
    """Without the fragment, quoted, fit for a request."""
    shown: str
    """For people: without the query, which may contain a secret."""
    name: str
    """What the file is called in the cache."""
    sha256: str | None = None

    def sibling(self, name: str) -> Address:
        """Return the address of another file in the same folder, by the same query."""
        from urllib import parse

        parts = parse.urlsplit(self.url)
        path = f"{parts.path.rpartition('/')[0]}/{parse.quote(name)}"
        url = parse.urlunsplit(parts._replace(path=path))
        return address(url)


def is_url(given: str | os.PathLike[str]) -> bool:
    """Whether an INPUT is an address rather than a path."""
    return os.fspath(given).lower().startswith(("http://", "https://"))


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
    digest = _DIGEST.fullmatch(fragment)
    if fragment and digest is None:
        raise UsageError(
            f"has the fragment #{printable(fragment, 40)}; only #sha256=HEX is allowed",
            http.shown(url),
        )
    made = http.checked(whole)
    last = parse.unquote(parse.urlsplit(made).path).rpartition("/")[2]
    name = re.sub(r"[^\w.+=@-]", "_", last).lstrip(".")[-120:] or "download"
    return Address(made, http.shown(made), name, digest[1].lower() if digest else None)
