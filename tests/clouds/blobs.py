"""A server of Azure's blobs on this machine, as far as porter's requests go.

It has block blobs, put whole or by blocks, ranges, lists, copies and conditions on tags, in memory,
and looks at no signature. The client is Microsoft's own.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.etree import ElementTree
from xml.sax.saxutils import escape

ACCOUNT = "dev"


@dataclass
class Blob:
    """One blob."""

    data: bytes
    date: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def headers(self) -> dict[str, str]:
        """What is said of it, but for its length."""
        tag = hashlib.md5(self.data + str(self.date).encode()).hexdigest()
        return {
            "ETag": f'"{tag}"',
            "Last-Modified": format_datetime(self.date, usegmt=True),
            "x-ms-blob-type": "BlockBlob",
            "x-ms-creation-time": format_datetime(self.date, usegmt=True),
            "x-ms-server-encrypted": "true",
            "x-ms-lease-state": "available",
        }


@dataclass
class Account:
    """What is stored, and what was asked."""

    containers: dict[str, dict[str, Blob]] = field(default_factory=dict)
    blocks: dict[tuple[str, str], dict[str, bytes]] = field(default_factory=dict)
    sent: int = 0
    """Bytes of blobs."""
    url: str = ""


class Handler(BaseHTTPRequestHandler):
    account: Account
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        """Stay quiet."""

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except ConnectionError:
            self.close_connection = True

    def parsed(self) -> tuple[str, str, dict[str, str]]:
        """Return container, name of a blob, and query."""
        parts = urlsplit(self.path)
        _, _, rest = unquote(parts.path).lstrip("/").partition("/")
        container, _, name = rest.partition("/")
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        return container, name, query

    def do_GET(self) -> None:
        container, name, query = self.parsed()
        blobs = self.account.containers.get(container)
        if not container:
            names = "".join(
                f"<Container><Name>{n}</Name></Container>" for n in self.account.containers
            )
            self.reply(
                200, f"<EnumerationResults><Containers>{names}</Containers></EnumerationResults>"
            )
        elif blobs is None:
            self.reply(404, error="ContainerNotFound")
        elif query.get("comp") == "list":
            self.listed(container, query)
        elif not name:
            self.reply(200, headers=Blob(b"").headers)
        elif name not in blobs:
            self.reply(404, error="BlobNotFound")
        else:
            self.hand_out(blobs[name])

    do_HEAD = do_GET

    def hand_out(self, blob: Blob) -> None:
        data, status, headers = blob.data, 200, dict(blob.headers)
        wanted = self.headers.get("x-ms-range") or self.headers.get("Range")
        if self.headers.get("If-Match", headers["ETag"]) != headers["ETag"]:
            self.reply(412, error="ConditionNotMet")
            return
        if wanted and data:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start, end = int(first), min(int(last or len(data) - 1), len(data) - 1)
            headers["Content-Range"] = f"bytes {start}-{end}/{len(data)}"
            data, status = data[start : end + 1], 206
        if self.command == "GET":
            self.account.sent += len(data)
        self.reply(status, data, headers | {"Content-Type": "application/octet-stream"})

    def listed(self, container: str, query: dict[str, str]) -> None:
        blobs = self.account.containers[container]
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        rows, folders = [], set()
        for name, blob in sorted(blobs.items()):
            rest = name.removeprefix(prefix)
            if not name.startswith(prefix):
                continue
            if delimiter and delimiter in rest:
                folders.add(prefix + rest.partition(delimiter)[0] + delimiter)
                continue
            said = blob.headers
            rows.append(
                f"<Blob><Name>{escape(name)}</Name><Properties><Content-Length>{len(blob.data)}"
                f"</Content-Length><Last-Modified>{said['Last-Modified']}</Last-Modified>"
                f"<Creation-Time>{said['Last-Modified']}</Creation-Time><Etag>{said['ETag']}</Etag>"
                "<BlobType>BlockBlob</BlobType></Properties></Blob>"
            )
        rows += [f"<BlobPrefix><Name>{escape(f)}</Name></BlobPrefix>" for f in sorted(folders)]
        begin = f'<EnumerationResults ContainerName="{container}">'
        body = f"{begin}<Blobs>{''.join(rows)}</Blobs><NextMarker/></EnumerationResults>"
        self.reply(200, body)

    def do_PUT(self) -> None:
        container, name, query = self.parsed()
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if query.get("restype") == "container":
            self.account.containers.setdefault(container, {})
            self.reply(201)
            return
        blobs = self.account.containers.get(container)
        if blobs is None:
            self.reply(404, error="ContainerNotFound")
            return
        there = self.account.blocks.setdefault((container, name), {})
        if query.get("comp") == "block":
            there[query["blockid"]] = body
            self.reply(201)
            return
        if self.headers.get("If-None-Match") == "*" and name in blobs:
            self.reply(409, error="BlobAlreadyExists")
            return
        source = self.headers.get("x-ms-copy-source")
        if source:
            path = unquote(urlsplit(source).path).lstrip("/").partition("/")[2]
            home, _, old = path.partition("/")
            body = self.account.containers[home][old].data
        elif query.get("comp") == "blocklist":
            body = b"".join(there[row.text or ""] for row in ElementTree.fromstring(body))
            there.clear()
        blobs[name] = Blob(body)
        copied = {"x-ms-copy-id": "1", "x-ms-copy-status": "success"} if source else {}
        self.reply(202 if source else 201, headers=blobs[name].headers | copied)

    def do_DELETE(self) -> None:
        container, name, _ = self.parsed()
        blobs = self.account.containers.get(container, {})
        if name not in blobs:
            self.reply(404, error="BlobNotFound")
            return
        del blobs[name]
        self.reply(202)

    def reply(
        self,
        status: int,
        body: bytes | str = b"",
        headers: dict[str, str] | None = None,
        error: str = "",
    ) -> None:
        data = body.encode() if isinstance(body, str) else body
        if error:
            data = f"<Error><Code>{error}</Code><Message>{error}</Message></Error>".encode()
        self.send_response(status)
        given = {"Content-Type": "application/xml", **(headers or {})}
        given |= {"x-ms-version": "2021-12-02", "x-ms-request-id": "1"}
        if error:
            given["x-ms-error-code"] = error
        for key, value in given.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


@contextmanager
def running() -> Iterator[Account]:
    """Run the server."""
    account = Account()
    handler = type("OneHandler", (Handler,), {"account": account})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        account.url = f"http://127.0.0.1:{server.server_address[1]}/{ACCOUNT}"
        yield account
        server.shutdown()
