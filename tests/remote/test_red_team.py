"""Servers that mean harm: every answer ends, in time and in bytes, and no secret is printed."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from http.server import ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path

import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

import porter
from porter.errors import InputError, PorterError, SystemFault
from porter.remote import bounded, fetch, fsspec_store, http, http_store
from porter.remote.address import address
from tests.remote.conftest import BODY, WEIGHTS, Handler, Site, good

Serve = Callable[..., str]
OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """Start a server that sends bytes without end, with a pause before each; give its address."""
    monkeypatch.setattr(http_store, "TIMEOUT", 0.3)
    socks: list[socket.socket] = []
    threads: list[threading.Thread] = []
    asked: list[bytes] = []

    def answer(peer: socket.socket, first: bytes, more: bytes, pause: float) -> None:
        with peer, suppress(OSError):
            asked.append(peer.recv(1 << 16))
            for part in (first, *[more] * 10_000):
                peer.sendall(part)
                time.sleep(pause)

    def begin(first: bytes, more: bytes, pause: float = 0.0) -> str:
        sock = socket.create_server(("127.0.0.1", 0))
        socks.append(sock)

        def accept() -> None:
            with suppress(OSError):
                while True:
                    peer, _ = sock.accept()
                    peer.settimeout(5)
                    threading.Thread(
                        target=answer, args=(peer, first, more, pause), daemon=True
                    ).start()

        threads.append(threading.Thread(target=accept, daemon=True))
        threads[-1].start()
        return f"http://127.0.0.1:{sock.getsockname()[1]}/x.pth"

    begin.asked = asked  # type: ignore[attr-defined]
    yield begin
    for sock in socks:
        sock.shutdown(socket.SHUT_RDWR)
        sock.close()
    for thread in threads:
        thread.join()


def refused(url: str, message: str, seconds: float = 15.0) -> None:
    """Check that an address is given up in time, in one line."""
    begun = time.monotonic()
    with pytest.raises(SystemFault, match=message) as caught:
        porter.open(url)
    assert time.monotonic() - begun < seconds
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("first", "more"),
    [
        (b"", b"H"),
        (OK, b"X"),
        (OK, b"X: y\r\n"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (CHUNKED + b"0\r\n", b"X"),
        (CHUNKED, b"0"),
    ],
)
def test_an_answer_that_drips(first: bytes, more: bytes, serve: Serve) -> None:
    """Each byte comes in time and the end never: the whole has the time of one wait."""
    refused(serve(first, more, 0.05), "timed out")


@pytest.mark.parametrize(
    ("first", "more", "message"),
    [
        (b"", b"H" * 9999, "answers no HTTP"),
        (OK, b"X" * 9999, "answers no HTTP"),
        (OK, b"X: y\r\n" * 999, "answers no HTTP"),
        (OK, b"X: " + b"y" * 9999 + b"\r\n", "sends headers without end"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 999, "sends headers without end"),
        (b"", b"HTTP/1.1 100 Continue\r\nX: " + b"y" * 9999 + b"\r\n\r\n", "without end"),
        (CHUNKED + b"0\r\n", b"X: y\r\n" * 9999, "sends more around the file than of it"),
        (CHUNKED, b"1;" + b"y" * 60_000 + b"\r\nx\r\n", "too few to be waited for"),
        (CHUNKED, b"0" * 9999, "was cut while it was sent"),
    ],
)
def test_an_answer_without_end(
    first: bytes, more: bytes, message: str, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However fast it comes."""
    monkeypatch.setattr(http_store, "PATIENCE", 0.3)
    monkeypatch.setattr(http_store, "SLOWEST", 1e6)
    refused(serve(first, more), message)


def test_a_handshake_that_drips(serve: Serve) -> None:
    """TLS has the time of one wait as a whole."""
    url = serve(b"\x16\x03\x03\x40\x00\x02", b"\0", 0.05)
    refused(url.replace("http:", "https:"), "timed out")


@pytest.mark.parametrize(
    ("first", "more", "pause", "message"),
    [
        (b"HTTP/1.1 200 OK\r\n", b"X: y\r\n", 0.05, "timed out"),
        (b"HTTP/1.1 200 OK\r\n", b"X: y\r\n" * 9999, 0.0, "sends headers without end"),
        (b"HTTP/1.1 407 Log in\r\n\r\n", b"", 0.0, "407 Log in"),
        (b"HTTP/1.1 407 http://me:secret@x?a=secret\x1b[1m\r\n\r\n", b"", 0.0, "407 http://x"),
    ],
)
def test_a_proxy_that_means_harm(
    first: bytes, more: bytes, pause: float, message: str, serve: Serve,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Its answers are bounded too; the password for it is sent to it and not printed."""
    place = serve(first, more, pause).partition("//")[2].partition("/")[0]
    monkeypatch.setenv("https_proxy", f"http://me:secret@{place}")
    refused("https://weights.example/x.pth", message)
    (request, *_) = serve.asked  # type: ignore[attr-defined]
    assert request.startswith(b"CONNECT weights.example:443")
    assert b"Proxy-Authorization: Basic" in request


def test_a_proxy_is_left_out_where_it_is_said(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """`no_proxy` names hosts that are asked themselves; a proxy that is none is one line."""
    monkeypatch.setenv("http_proxy", "http://me:secret@127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert set(porter.open(good(site))) == {"w"}
    for proxy in ("http://me:secret@127.0.0.1:1", "http://me:secret@[::", "secret://x y"):
        monkeypatch.setenv("http_proxy", proxy)
        monkeypatch.setenv("no_proxy", "")
        with pytest.raises(PorterError) as caught:
            porter.open(good(site))
        assert "\n" not in str(caught.value)
        assert "secret@" not in str(caught.value)


def test_redirects_are_bounded_together(serve: Serve, site: Site) -> None:
    """Of several answers each has its time, and there are not many."""
    site.redirects = {f"/{i}": f"/{i + 1}" for i in range(9)}
    site.redirects["/9"] = serve(OK, b"X: y\r\n", 0.05)
    refused(f"{site.url}/0", "timed out")


@pytest.mark.parametrize(
    "span",
    [
        "bytes 1-160079/160080", "bytes 0-160079/160081", "bytes 0-160079/0", "bytes */160080",
        "bytes 0-160079", "bytes 0-9999999999999999999999/160080", "0-1/2", "",
    ],
)  # fmt: skip
def test_a_range_that_is_another_one(
    span: str, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bytes of another place, or of another file, are not taken."""
    state = porter.open(good(site))
    real = Handler.answer

    def answer(self: Handler, status: int, headers: dict[str, str], framed: bool = False) -> None:
        real(self, status, headers | {"Content-Range": span}, framed)

    monkeypatch.setattr(Handler, "answer", answer)
    with pytest.raises(InputError, match=r"changed while it was being read|was not asked for"):
        state["w"].read()


def test_parts_that_are_smaller_or_larger_than_asked_for(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rest of a smaller one is asked for, the rest of a larger one left."""
    real, less = Handler.hand_out, True

    def hand_out(self: Handler, body: bytes) -> None:
        first, _, last = self.headers["Range"].removeprefix("bytes=").partition("-")
        end = min(int(first) + 30_000, int(last)) if less else len(body) - 1
        self.headers.replace_header("Range", f"bytes={first}-{end}")
        real(self, body)

    monkeypatch.setattr(Handler, "hand_out", hand_out)
    np.testing.assert_array_equal(porter.open(good(site))["w"].read(), WEIGHTS["w"])
    less = False
    np.testing.assert_array_equal(porter.open(good(site))["w"].read(), WEIGHTS["w"])


def test_a_part_answered_by_the_whole(site: Site) -> None:
    """A server that sends parts once and the whole file then is not believed."""
    state = porter.open(good(site))
    site.ranges = False
    with pytest.raises(InputError, match="changed while it was being read"):
        state["w"].read()


def test_an_address_of_version_six() -> None:
    """A literal one has brackets."""
    made = Site({"/x.safetensors": BODY})
    handler = type("OneHandler", (Handler,), {"site": made})
    kind = type("Six", (ThreadingHTTPServer,), {"address_family": socket.AF_INET6})
    with kind(("::1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        url = f"http://[::1]:{server.server_address[1]}/x.safetensors"
        state = porter.open(url)
        np.testing.assert_array_equal(state["w"].read(), WEIGHTS["w"])
        assert state.origin is not None
        assert state.origin.shown == url
        server.shutdown()
    with pytest.raises(InputError, match="is not an address"):
        fetch.local("http://[::1%25eth0/x.pth")


def test_headers_of_a_usual_size(site: Site) -> None:
    """Cookies and policies of some ten thousand bytes are no attack."""
    site.headers = {f"X-{i}": "y" * 1000 for i in range(60)}
    assert sum(map(len, site.headers.values())) < bounded.LARGEST_HEAD
    assert set(porter.open(good(site))) == {"w"}


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("403 for url 'https://cdn.x/a?X-Amz-Signature=secret'", "403 for url 'https://cdn.x/a'"),
        ("via http://me:secret@proxy:80/ failed", "via http://proxy:80/ failed"),
        ("https://a/b#secret", "https://a/b"),
        ("https://a/b@c/d e?f", "https://a/b@c/d e?f"),
        ("no address: what?", "no address: what?"),
    ],
)
def test_messages_of_libraries_are_cleaned(text: str, clean: str) -> None:
    """A signed address in the error of a library is as good as a password."""
    assert http.without_secrets(text) == clean
    with (
        pytest.raises(SystemFault, match="cannot be read") as caught,
        fsspec_store.faults(address("s3://bucket/x.pth")),
    ):
        raise OSError(text)
    assert "secret" not in str(caught.value)


def test_credentials_before_a_repository_are_refused() -> None:
    """A hub's address may have a revision, and nothing else before it."""
    with pytest.raises(InputError, match="no user or password") as caught:
        porter.open("hf://me:secret@org/repo/x.pth")
    assert "secret" not in str(caught.value)


def certificate(path: Path) -> Path:
    """Write a certificate of 127.0.0.1, signed by itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    place = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    now, day = datetime.now(UTC), timedelta(days=1)
    made = x509.CertificateBuilder(name, name, key.public_key(), 1, now - day, now + day)
    signed = made.add_extension(place, critical=False).sign(key, hashes.SHA256())
    form, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    pem = serialization.Encoding.PEM
    path.write_bytes(key.private_bytes(pem, form, plain) + signed.public_bytes(pem))
    return path


def test_an_encrypted_server(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A certificate that is trusted is read by, one that is not is one line; never http instead."""
    made = Site({"/x.safetensors": BODY})
    handler = type("OneHandler", (Handler,), {"site": made})
    own = certificate(tmp_path / "own.pem")
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(own)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        server.handle_error = lambda *_: None  # type: ignore[method-assign]
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        url = f"https://127.0.0.1:{server.server_address[1]}/x.safetensors"
        with pytest.raises(SystemFault, match="its certificate is not trusted: self"):
            porter.open(url)
        trusting = ssl.create_default_context(cafile=own)
        monkeypatch.setattr(bounded, "_context", lambda: trusting)
        np.testing.assert_array_equal(porter.open(url)["w"].read(), WEIGHTS["w"])
        made.redirects = {"/y": good(site)}
        with pytest.raises(InputError, match="from https to http"):
            porter.open(url.replace("/x.safetensors", "/y"))
        server.shutdown()
