"""One HTTP request, made carefully: redirects counted, schemes checked, faults in one line.

Only the standard library is used; it is imported when a request is made, since few runs make one.
"""

from __future__ import annotations

import http.client
import re
import ssl
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from urllib import error, parse, request

from porter.errors import InputError, PorterError, SystemFault, printable
from porter.remote.bounded import Connection, Endless, Response, SecureConnection

REDIRECTS = 10
LONGEST_WAIT = 120.0
"""Seconds that a server may ask to wait before the next attempt."""
EXPIRED = "is refused now, and was not before: the keys or the token may have expired"
"""What is said of a refusal in the middle."""
_REDIRECTED = (301, 302, 303, 307, 308)
_BUSY = (408, 425, 429, 500, 502, 503, 504)
_SAFE = "/%:@!$&'()*+,;=~-._"


class Unreachable(SystemFault):
    """The network or the server fails: a cached copy may be used; `again` says to try again.

    `after` are the seconds that the server asks to wait before that.
    """

    def __init__(self, message: str, path: str, again: bool = False, after: float = 0.0) -> None:
        super().__init__(message, path)
        self.again = again
        self.after = after


class Denied(InputError):
    """The server wants a login, or refuses this one."""


def shown(url: str) -> str:
    """Return an address for people and for provenance: no fragment, no password and no query.

    The query of a signed address is as good as a password.
    """
    try:
        parts = parse.urlsplit(url)
    except ValueError:  # Malformed: cut where a query may begin, and without a password.
        return printable(re.sub("//[^/]*@", "//", re.split("[?#]", url)[0]))
    host = parts.netloc.rpartition("@")[2]
    return parse.urlunsplit((parts.scheme, host, parts.path, "", ""))


def checked(url: str) -> str:
    """Return an address fit for a request, quoted; `InputError` if it is none."""
    try:
        parts = parse.urlsplit(url)
        port = parts.port
    except ValueError as fault:
        raise InputError(f"is not an address: {printable(fault)}", shown(url)) from fault
    if parts.scheme.lower() not in ("http", "https") or not parts.hostname or port == 0:
        raise InputError("is not an http or https address", shown(url))
    if parts.username is not None or parts.password is not None:
        clean = parts._replace(netloc=parts.netloc.rpartition("@")[2])
        raise InputError(
            "no user or password in an address, please: it would be printed and recorded",
            shown(parse.urlunsplit(clean)),
        )
    try:
        parts.hostname.encode("idna")
    except UnicodeError as fault:
        raise InputError("is not an address: its host name is malformed", shown(url)) from fault
    try:
        path, query = parse.quote(parts.path, _SAFE), parse.quote(parts.query, _SAFE + "?")
    except UnicodeError as fault:
        raise InputError("is not an address: it is not UTF-8", printable(shown(url))) from fault
    return parse.urlunsplit((parts.scheme.lower(), parts.netloc, path, query, ""))


def without_secrets(text: str) -> str:
    """Return a message of a library without the queries and passwords of the addresses in it."""
    return re.sub(r"(\w+://)(?:[^\s/'\"@]*@)?([^\s'\"?#]*)[?#]?[^\s'\"]*", r"\1\2", text)


def get(url: str, headers: Mapping[str, str], timeout: float) -> Response:
    """Return the open answer to a GET: its status is 200, 206, 304 or 416.

    At most `REDIRECTS` redirects are followed, only to http and https, never from https to http.
    Raises `InputError` where the address is wrong or refused, `Unreachable` where the network or
    the server fails. `timeout` is in seconds, for each connection, all of an answer's headers, and
    each part of its body.
    """
    said, seen = shown(url), set[str]()
    for _ in range(REDIRECTS + 1):
        found = _answer(url, headers, timeout, said)
        if found.status not in _REDIRECTED:
            return found
        found.close()
        seen.add(url)
        url = _next(url, found.headers.get("Location"), said)
        if url in seen:
            raise InputError("redirects in a circle", said)
    raise InputError(f"redirects more than {REDIRECTS} times", said)


def _next(url: str, location: str | None, said: str) -> str:
    if not location:
        raise InputError("redirects to nowhere", said)
    try:
        target = checked(parse.urljoin(url, location.strip()))
    except (InputError, ValueError) as fault:
        where = printable(shown(location.strip()), 40)
        raise InputError(f"redirects to what porter does not read ({where})", said) from fault
    if url.startswith("https:") and not target.startswith("https:"):
        raise InputError("redirects from https to http, which anybody can alter", said)
    return target


def _answer(url: str, headers: Mapping[str, str], timeout: float, said: str) -> Response:
    try:
        found = _opener().open(request.Request(url, headers=dict(headers)), timeout=timeout)
    except error.HTTPError as fault:
        if fault.code in (304, 416, *_REDIRECTED):
            return fault  # type: ignore[return-value]  # an HTTPError is a response as well
        fault.close()
        raise _refused(fault, said) from fault
    except error.URLError as fault:
        raise _failed(fault.reason, said) from fault
    except (OSError, http.client.HTTPException) as fault:
        raise _failed(fault, said) from fault
    except ValueError as fault:  # Of the address of a proxy in the environment, for example.
        what = printable(without_secrets(str(fault)))
        raise Unreachable(f"cannot be asked for: {what}", said) from fault
    assert isinstance(found, Response)
    if found.status not in (200, 206):
        found.close()
        raise InputError(f"is answered with HTTP {found.status}", said)
    return found


def _opener() -> request.OpenerDirector:
    """Return an opener without redirects, files or FTP; proxies are those of the environment."""
    made = request.OpenerDirector()
    for handler in (
        request.ProxyHandler(),
        _Handler(),
        _SecureHandler(),
        request.HTTPErrorProcessor(),
        request.HTTPDefaultErrorHandler(),
        request.UnknownHandler(),
    ):
        made.add_handler(handler)
    return made


class _Handler(request.HTTPHandler):
    def http_open(self, req: request.Request) -> http.client.HTTPResponse:
        return self.do_open(Connection, req)


class _SecureHandler(request.HTTPSHandler):
    def https_open(self, req: request.Request) -> http.client.HTTPResponse:
        return self.do_open(SecureConnection, req)


def _refused(fault: error.HTTPError, said: str) -> PorterError:
    if fault.code in (404, 410):
        return InputError(f"is not there (HTTP {fault.code})", said)
    if fault.code in (401, 402, 403, 407, 451):
        return Denied(
            f"is refused by the server (HTTP {fault.code}): if it needs a login,"
            " download it by hand",
            said,
        )
    busy = fault.code in _BUSY
    if busy or fault.code >= 500:
        wait = _asked_wait(fault.headers.get("Retry-After"))
        if wait > LONGEST_WAIT:
            what = (
                f"the server is busy (HTTP {fault.code}) and asks to wait {wait:,.0f} s: try then"
            )
            return Unreachable(what, said)
        return Unreachable(f"the server fails (HTTP {fault.code}): try later", said, busy, wait)
    return InputError(f"is refused by the server (HTTP {fault.code})", said)


def _asked_wait(header: str | None) -> float:
    """Return the seconds of a `Retry-After`, a number or a date; 0 where it is neither."""
    text = (header or "").strip()
    if text.isdecimal() and text.isascii():
        return float(text[:9])
    try:
        then = parsedate_to_datetime(text)
        return max(0.0, then.timestamp() - time.time())
    except (TypeError, ValueError, OverflowError):
        return 0.0


def _failed(reason: object, said: str) -> PorterError:
    """Return what a fault of the network means, in one line."""
    if isinstance(reason, ssl.SSLCertVerificationError):
        return SystemFault(f"its certificate is not trusted: {reason.verify_message}", said)
    if isinstance(reason, http.client.InvalidURL):
        return InputError("is not an address: it contains a space or a control character", said)
    if isinstance(reason, TimeoutError):
        return Unreachable("does not answer: timed out", said, again=True)
    if isinstance(reason, Endless):
        return Unreachable("sends headers without end", said)
    if isinstance(reason, http.client.HTTPException):
        return Unreachable("answers no HTTP", said)
    text = reason.strerror if isinstance(reason, OSError) and reason.strerror else str(reason)
    lost = isinstance(reason, ConnectionResetError | ConnectionAbortedError | BrokenPipeError)
    what = printable(without_secrets(text))
    return Unreachable(f"cannot be reached: {what}", said, again=lost)


def content_range(header: str | None) -> tuple[int, int | None] | None:
    """Read `bytes 100-199/200`: (first byte, bytes in all), None if it is malformed."""
    found = re.fullmatch(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)", (header or "").strip())
    if found is None:
        return None
    return int(found[1]), None if found[3] == "*" else int(found[3])
