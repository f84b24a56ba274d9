"""Web addresses: what is checked before and after a request; every fault is one line."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest

import porter
from porter.errors import InputError, PorterError, SystemFault, UsageError
from porter.remote import address, fetch, http, http_store
from tests.remote.conftest import BODY, Site, good


def down(url: str) -> str:
    """Return an address on this machine where nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    return f"http://127.0.0.1:{port}{url.partition('//')[2][url.partition('//')[2].index('/') :]}"


def test_a_path_stays_a_path(tmp_path: Path) -> None:
    """Nothing is copied, and no address is claimed."""
    path = tmp_path / "a.safetensors"
    path.write_bytes(BODY)
    assert fetch.local(path) == fetch.Fetched(str(path), str(path))
    origin = porter.open(path).origin
    assert origin is not None
    assert origin.address == ""
    assert origin.shown == str(path)


@pytest.mark.parametrize(
    ("status", "error", "message"),
    [
        (404, InputError, r"is not there \(HTTP 404\)"),
        (410, InputError, "is not there"),
        (401, InputError, "if it needs a login"),
        (403, InputError, "if it needs a login"),
        (418, InputError, "HTTP 418"),
        (500, SystemFault, "the server fails"),
        (503, SystemFault, "the server fails"),
        (204, InputError, "HTTP 204"),
    ],
)
def test_statuses_are_one_line_each(
    site: Site, status: int, error: type[PorterError], message: str
) -> None:
    """Each refusal names the address and what it means."""
    site.statuses["/x.pth"] = status
    with pytest.raises(error, match=message) as caught:
        fetch.local(f"{site.url}/x.pth")
    assert str(caught.value).startswith(f"{site.url}/x.pth: ")
    assert "\n" not in str(caught.value)


def test_nobody_listening_is_one_line(site: Site) -> None:
    """A refused connection is the machine's fault, not the input's."""
    with pytest.raises(SystemFault, match="cannot be reached: Connection refused"):
        fetch.local(down(good(site)))


def test_a_server_that_does_not_answer_is_timed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for ever."""
    monkeypatch.setattr(http_store, "TIMEOUT", 0.05)
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        with pytest.raises(SystemFault, match="timed out"):
            fetch.local(f"http://127.0.0.1:{sock.getsockname()[1]}/a.pth")


def test_what_is_no_http_is_one_line() -> None:
    """Another protocol's server is named so."""

    def greet(sock: socket.socket) -> None:
        peer, _ = sock.accept()
        peer.sendall(b"SSH-2.0-OpenSSH_9.6\r\n")
        peer.close()

    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        thread = threading.Thread(target=greet, args=(sock,))
        thread.start()
        with pytest.raises(SystemFault, match=r"answers no HTTP|cannot be reached"):
            fetch.local(f"http://127.0.0.1:{sock.getsockname()[1]}/a.pth")
        thread.join()


def test_a_web_page_is_refused_under_its_address(site: Site) -> None:
    """A login page in place of weights is said to be one."""
    site.files["/w.pth"] = b"<!DOCTYPE html><html><body>Sign in</body></html>"
    with pytest.raises(InputError, match="is a web page") as caught:
        porter.open(f"{site.url}/w.pth?token=secret")
    assert str(caught.value).startswith(f"{site.url}/w.pth: ")


def test_compressed_answers_are_refused(site: Site) -> None:
    """They were not asked for, and a cut one could not be gone on with."""
    site.headers["Content-Encoding"] = "gzip"
    with pytest.raises(InputError, match="sent compressed"):
        fetch.local(good(site))


def test_redirects_are_followed(site: Site) -> None:
    """The file keeps the name that was asked for; relative targets are resolved."""
    site.redirects = {"/get/m.safetensors": "/hop", "/hop": good(site)}
    found = fetch.local(f"{site.url}/get/m.safetensors")
    assert Path(found.path).name == "m.safetensors"
    assert Path(found.path).read_bytes() == BODY


def test_redirects_are_counted(site: Site) -> None:
    """A circle and a chain without end are both refused."""
    site.redirects = {"/a": "/b", "/b": "/a"}
    with pytest.raises(InputError, match="in a circle"):
        fetch.local(f"{site.url}/a")
    site.redirects = {f"/{i}": f"/{i + 1}" for i in range(50)}
    with pytest.raises(InputError, match="more than 10 times"):
        fetch.local(f"{site.url}/0")


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("file:///etc/passwd", "does not read"),
        ("ftp://127.0.0.1/x", "does not read"),
        ("http://[::1", "does not read"),
        ("http://[x]/y", "does not read"),
        ("http://user:pw@127.0.0.1/x", "does not read"),
        ("", "to nowhere"),
    ],
)
def test_redirects_leave_http_never(site: Site, target: str, message: str) -> None:
    """A server cannot make porter read this machine's files, nor another protocol."""
    site.redirects = {"/a": target}
    with pytest.raises(InputError, match=message):
        fetch.local(f"{site.url}/a")


def test_https_is_never_left_for_http() -> None:
    """What began encrypted stays so."""
    with pytest.raises(InputError, match="from https to http"):
        http._next("https://a.example/x", "http://a.example/x", "https://a.example/x")


def test_the_environment_s_proxy_is_used(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """`http_proxy` is asked for the whole address."""
    monkeypatch.setenv("http_proxy", site.url)
    site.files["http://weights.example/m.safetensors"] = BODY
    found = fetch.local("http://weights.example/m.safetensors")
    assert Path(found.path).read_bytes() == BODY


@pytest.mark.parametrize(
    ("url", "error", "message"),
    [
        ("http://", InputError, "not an http or https address"),
        ("http://[::1/x", InputError, "is not an address"),
        ("http://[::1#x", UsageError, "only #sha256="),
        ("http://me:secret@[::1/x?y", InputError, "is not an address"),
        ("http://\u2100.com/#x", UsageError, "only #sha256="),
        ("http://a.example/\udcff.pth", InputError, "not UTF-8"),
        ("http://a.example:99999/x", InputError, "is not an address"),
        ("http://a.example:x/x", InputError, "is not an address"),
        ("http://a..example/x.pth", InputError, "malformed"),
        ("https://me:secret@a.example/x.pth", InputError, "no user or password"),
        ("http://a.example/x.pth#md5=1", UsageError, "only #sha256="),
        ("http://a.example/x.pth#sha256=12", UsageError, "only #sha256="),
        ("ftp://host/x.pth", UsageError, "not ftp"),
        ("s3://me:secret@bucket/x.pth", InputError, "no user or password"),
        ("s3://", InputError, "is not an address"),
    ],
)
def test_bad_addresses_are_one_line(url: str, error: type[PorterError], message: str) -> None:
    """Nothing is asked of a network for an address that cannot be one."""
    with pytest.raises(error, match=message) as caught:
        fetch.local(url)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/a/b%20c.pth", "b_c.pth"),
        ("/a/..%2F..%2Fetc%2Fx.pth", "x.pth"),
        ("/", "download"),
        ("/a/...pth", "pth"),
        ("/a/\N{GREEK SMALL LETTER ALPHA}.pth", "\N{GREEK SMALL LETTER ALPHA}.pth"),
        ("/" + "x" * 500 + ".pth", "x" * 116 + ".pth"),
    ],
)
def test_names_of_copies_are_harmless(path: str, name: str) -> None:
    """No address can choose where its copy is."""
    assert address.address(f"http://a.example{path}").name == name


def test_a_busy_server_is_asked_again(site: Site) -> None:
    """503 is worth a few attempts, 404 is not."""
    site.statuses = {"/a.pth": 503, "/b.pth": 404}
    for name in ("a", "b"):
        with pytest.raises(PorterError):
            porter.open(f"{site.url}/{name}.pth")
    asked = [path for path, _ in site.asked]
    assert asked.count("/a.pth") == http_store.ATTEMPTS
    assert asked.count("/b.pth") == 1


def test_a_tag_with_control_characters_is_not_sent_back() -> None:
    """A header that no request may have is not kept."""
    assert http_store.sendable('"a\r\n b"') is None
    assert http_store.sendable('"\N{LATIN SMALL LETTER E WITH ACUTE}"') is None
    assert http_store.sendable('"one"') == '"one"'


def test_every_call_takes_an_address(site: Site, tmp_path: Path) -> None:
    """Convert, inspect, diff, load_model and repack read addresses; provenance names them."""
    porter.init("shunted-t", tmp_path / "s.pth")
    site.files["/shunted.pth"] = (tmp_path / "s.pth").read_bytes()
    url = f"{site.url}/shunted.pth"
    out = tmp_path / "o.safetensors"
    done = porter.convert("shunted-t", f"{url}?sig=1", out, from_="torch", to="safetensors",
                          verify=False)  # fmt: skip
    assert done.source == url
    origin = porter.open(out).origin
    assert origin is not None
    assert origin.metadata["porter.source"] == url
    assert porter.inspect(url).matches[0].architecture.name == "shunted-t"
    assert porter.diff(url, out).equal
    model = porter.load_model("shunted-t", url)
    assert not model.training
    packed = porter.repack(url, tmp_path / "r.safetensors")
    assert packed.origin.address == url
    with pytest.raises(PorterError, match=f"^{url}: it fits shunted-t as torch; does not fit"):
        porter.convert("shunted-s", url, tmp_path / "x.pdparams", from_="torch", to="paddle")


def test_forward_proof_runs_on_what_is_at_an_address(site: Site, tmp_path: Path) -> None:
    """The proof by outputs needs no copy of the source."""
    porter.init("deit-tiny-224", tmp_path / "s.pth")
    site.files["/s.pth"] = (tmp_path / "s.pth").read_bytes()
    done = porter.convert("deit-tiny-224", f"{site.url}/s.pth", tmp_path / "o.pdparams")
    assert done.verdict is not None
    assert done.verdict.passed
    assert done.ok
