"""A web server on this machine that does what a test tells it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from safetensors.numpy import save

from porter.remote import http_store
from tests.buckets import bucket, server

__all__ = ["bucket", "server"]

WEIGHTS = {"w": np.arange(40_000, dtype=np.float32).reshape(200, 200)}
BODY = save(WEIGHTS)


@dataclass
class Site:
    """What the server does, and what it was asked."""

    files: dict[str, bytes] = field(default_factory=dict)
    etag: str | None = '"one"'
    modified: str | None = "Mon, 01 Jan 2024 00:00:00 GMT"
    ranges: bool = True
    cuts: list[int] = field(default_factory=list)
    """Bytes after which each next answer's connection is cut."""
    said_length: int | None = None
    chunked: bool = False
    headers: dict[str, str] = field(default_factory=dict)
    statuses: dict[str, int] = field(default_factory=dict)
    redirects: dict[str, str] = field(default_factory=dict)
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    sent: int = 0
    """Bytes of files."""
    refusals: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    """Status and headers of the next answers."""
    expires_after: int = -1
    """Bytes of files after which all is refused."""
    drip: float = 0.0
    """Seconds between the bytes of a file."""
    changes_after: int = -1
    """Bytes of files after which the file changes."""
    url: str = ""


class Handler(BaseHTTPRequestHandler):
    site: Site
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        """Stay quiet."""

    def do_GET(self) -> None:
        site, path = self.site, self.path.partition("?")[0]
        site.asked.append((path, dict(self.headers.items())))
        self.close_connection = True
        if site.refusals:
            self.answer(*site.refusals.pop(0))
        elif 0 <= site.expires_after <= site.sent:
            self.answer(403, {})
        elif path in site.redirects:
            self.answer(302, {"Location": site.redirects[path]})
        elif path in site.statuses:
            self.answer(site.statuses[path], {})
        elif path not in site.files:
            self.answer(404, {})
        else:
            self.hand_out(site.files[path])

    def hand_out(self, body: bytes) -> None:
        site, status, start = self.site, 200, 0
        headers = dict(site.headers)
        if site.etag:
            headers["ETag"] = site.etag
        if site.modified:
            headers["Last-Modified"] = site.modified
        wanted, end = self.headers.get("Range"), len(body)
        if wanted and site.ranges:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start, end = int(first), min(int(last) + 1, len(body))
            if start >= len(body):
                self.answer(416, {})
                return
            status = 206
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(body)}"
        part = body[start:end]
        if site.chunked:
            headers["Transfer-Encoding"] = "chunked"
        elif site.said_length != -1:
            headers["Content-Length"] = str(site.said_length or len(part))
        self.answer(status, headers, framed=True)
        is_probe = wanted == "bytes=0-0"
        cut = site.cuts.pop(0) if site.cuts and not is_probe else len(part)
        site.sent += 0 if is_probe else min(cut, len(part))
        if 0 <= site.changes_after <= site.sent:
            site.etag = '"two"'
        if site.chunked:
            self.wfile.write(b"%x\r\n" % len(part) + part[:cut])
            if cut >= len(part):
                self.wfile.write(b"\r\n0\r\n\r\n")
        elif site.drip and not is_probe:
            for at in range(len(part)):
                self.wfile.write(part[at : at + 1])
                time.sleep(site.drip)
        else:
            self.wfile.write(part[:cut])

    def answer(self, status: int, headers: dict[str, str], framed: bool = False) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if not framed:
            self.send_header("Content-Length", "0")
        self.send_header("Connection", "close")
        self.end_headers()


@pytest.fixture
def site() -> Iterator[Site]:
    """A server on this machine, with one good file."""
    made = Site({"/dir/model.safetensors": BODY})
    handler = type("OneHandler", (Handler,), {"site": made})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # A client that gives up.
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    made.url = f"http://127.0.0.1:{server.server_address[1]}"
    yield made
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def plain_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxies, no waiting."""
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setattr(http_store, "PAUSE", 0.001)


def good(site: Site) -> str:
    """Return the address of the file."""
    return f"{site.url}/dir/model.safetensors"
