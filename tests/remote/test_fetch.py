"""Downloads: every fault is one error, every good byte is kept, nothing half appears."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

import porter
from porter.errors import InputError, PorterError, SystemFault, UsageError
from porter.remote import address, download, fetch, http

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
    url: str = ""

    def hand_out(self, path: str) -> list[str]:
        """Return the `Range` of each request for a path ("" where there was none)."""
        return [h.get("Range", "") for p, h in self.asked if p == path]


class Handler(BaseHTTPRequestHandler):
    site: Site
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        """Stay quiet."""

    def do_GET(self) -> None:
        site, path = self.site, self.path.partition("?")[0]
        site.asked.append((path, dict(self.headers.items())))
        self.close_connection = True
        if path in site.redirects:
            self.answer(302, {"Location": site.redirects[path]})
        elif path in site.statuses:
            self.answer(site.statuses[path], {})
        elif path not in site.files:
            self.answer(404, {})
        elif self.unchanged():
            self.answer(304, {})
        else:
            self.hand_out(site.files[path])

    def unchanged(self) -> bool:
        tag = self.headers.get("If-None-Match")
        if tag is not None:
            return tag == self.site.etag
        return self.headers.get("If-Modified-Since") == (self.site.modified or "never")

    def hand_out(self, body: bytes) -> None:
        site, status, start = self.site, 200, 0
        headers = dict(site.headers)
        if site.etag:
            headers["ETag"] = site.etag
        if site.modified:
            headers["Last-Modified"] = site.modified
        wanted = self.headers.get("Range")
        current = self.headers.get("If-Range") in (site.etag, site.modified)
        if wanted and site.ranges and current:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            if start >= len(body):
                self.answer(416, {})
                return
            status = 206
            headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
        part = body[start:]
        if site.chunked:
            headers["Transfer-Encoding"] = "chunked"
        elif site.said_length != -1:
            headers["Content-Length"] = str(site.said_length or len(part))
        self.answer(status, headers, framed=True)
        cut = site.cuts.pop(0) if site.cuts else len(part)
        if site.chunked:
            self.wfile.write(b"%x\r\n" % len(part) + part[:cut])
            if cut >= len(part):
                self.wfile.write(b"\r\n0\r\n\r\n")
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
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    made.url = f"http://127.0.0.1:{server.server_address[1]}"
    yield made
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own for each test, no proxies, no waiting."""
    monkeypatch.setenv("PORTER_CACHE_DIR", str(tmp_path / "cache"))
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setattr(download, "PAUSE", 0.001)
    return tmp_path / "cache"


def good(site: Site) -> str:
    return f"{site.url}/dir/model.safetensors"


def visible(cache: Path) -> list[str]:
    """Return the names of the files that a reader of the cache could take for checkpoints."""
    return sorted(p.name for p in cache.rglob("*") if p.is_file() and p.name[0] != ".")


def down(url: str) -> str:
    """Return an address on this machine where nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    return f"http://127.0.0.1:{port}{url.partition('//')[2][url.partition('//')[2].index('/') :]}"


# What is fetched


def test_an_address_is_read_like_a_path(site: Site, cache: Path) -> None:
    """`porter.open` gives the file's tensors, says where they came from, and keeps one copy."""
    state = porter.open(good(site))
    np.testing.assert_array_equal(state["w"].read(), WEIGHTS["w"])
    assert state.origin is not None
    assert state.origin.shown == good(site)
    assert state.origin.notes == ()
    assert Path(state.origin.path).read_bytes() == BODY
    assert visible(cache) == ["model.safetensors"]


def test_a_path_stays_a_path(tmp_path: Path) -> None:
    """Nothing is copied, and no address is claimed."""
    path = tmp_path / "a.safetensors"
    path.write_bytes(BODY)
    assert fetch.local(path) == fetch.Fetched(str(path), str(path))
    origin = porter.open(path).origin
    assert origin is not None
    assert origin.address == ""
    assert origin.shown == str(path)


def test_progress_reaches_the_length(site: Site) -> None:
    """The callback hears of every byte, and of how many there will be."""
    seen: list[tuple[str, int, int]] = []
    fetch.local(good(site), progress=lambda *values: seen.append(values))
    assert seen[-1] == ("downloading", len(BODY), len(BODY))
    assert [done for _, done, _ in seen] == sorted({done for _, done, _ in seen})


def test_a_query_is_used_but_neither_printed_nor_recorded(site: Site) -> None:
    """A signed address is as good as a password; two queries are two files."""
    one = fetch.local(f"{good(site)}?sig=secret")
    other = fetch.local(f"{good(site)}?sig=other")
    assert one.shown == good(site)
    assert one.path != other.path
    assert "secret" not in "".join(
        p.read_text() for p in Path(one.path).parent.glob(".*json") if p.is_file()
    )


def test_shards_come_with_their_index(site: Site) -> None:
    """An index of shards is followed, and the whole is one state dict."""
    parts = {f"m-{i}.safetensors": {f"t{i}": np.full(3, i, np.float32)} for i in (1, 2)}
    index = {"metadata": {}, "weight_map": {f"t{i}": f"m-{i}.safetensors" for i in (1, 2)}}
    site.files |= {f"/s/{name}": save(part) for name, part in parts.items()}
    site.files["/s/model.safetensors.index.json"] = json.dumps(index).encode()
    state = porter.open(f"{site.url}/s/model.safetensors.index.json")
    assert {name: t.read()[0] for name, t in state.items()} == {"t1": 1, "t2": 2}


@pytest.mark.parametrize("name", ["../../x", "/etc/passwd", "a/b", "", ".hidden", 3])
def test_an_index_cannot_reach_out_of_its_folder(site: Site, name: object) -> None:
    """Shards are in the folder of their index, or nothing is asked for."""
    site.files["/s/m.index.json"] = json.dumps({"weight_map": {"t": name}}).encode()
    with pytest.raises(InputError, match="not in the same folder"):
        fetch.local(f"{site.url}/s/m.index.json")
    assert len(site.asked) == 1


# What is kept


def test_a_copy_is_used_again_when_it_is_current(site: Site) -> None:
    """The second time the server is asked by the tag, and nothing is sent."""
    first = fetch.local(good(site))
    before = os.stat(first.path)
    assert fetch.local(good(site)) == first
    assert os.stat(first.path).st_ino == before.st_ino
    assert [h.get("If-None-Match") for _, h in site.asked] == [None, '"one"']


def test_a_changed_file_is_fetched_anew(site: Site) -> None:
    """Another tag means another file; who reads the old one keeps it."""
    first = fetch.local(good(site))
    with open(first.path, "rb") as old:
        site.files["/dir/model.safetensors"] = new = save({"w": np.zeros(3, np.float32)})
        site.etag = '"two"'
        second = fetch.local(good(site))
        assert Path(second.path).read_bytes() == new
        assert old.read() == BODY


def test_the_date_stands_in_for_a_missing_tag(site: Site) -> None:
    """`Last-Modified` is enough to ask by."""
    site.etag = None
    fetch.local(good(site))
    fetch.local(good(site))
    assert site.asked[1][1]["If-Modified-Since"] == site.modified


def test_an_altered_copy_is_fetched_anew(site: Site) -> None:
    """A file in the cache that is not what was put there is not trusted."""
    path = Path(fetch.local(good(site)).path)
    path.write_bytes(b"x" * len(BODY))
    assert Path(fetch.local(good(site)).path).read_bytes() == BODY
    assert "If-None-Match" not in site.asked[1][1]


def test_the_copy_is_used_offline_and_says_so(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a network the last copy serves, with a note."""
    fetch.local(good(site))

    def no_network(url: str, headers: object, timeout: float) -> None:
        raise http.Unreachable("cannot be reached: no route", url)

    monkeypatch.setattr(download, "get", no_network)
    origin = porter.open(good(site)).origin
    assert origin is not None
    assert len(origin.notes) == 1
    assert "no route: model.safetensors is the copy downloaded on 20" in origin.notes[0]


def test_the_copy_is_used_when_the_server_fails(site: Site) -> None:
    """A busy server is no reason to stop when a copy is there; a missing file is."""
    fetch.local(good(site))
    site.statuses["/dir/model.safetensors"] = 503
    assert "HTTP 503" in fetch.local(good(site)).notes[0]
    site.statuses["/dir/model.safetensors"] = 404
    with pytest.raises(InputError, match="404"):
        fetch.local(good(site))


def test_a_digest_makes_the_server_unneeded(site: Site) -> None:
    """What has the digest that was asked for is right whatever any server says."""
    url = f"{good(site)}#sha256={hashlib.sha256(BODY).hexdigest()}"
    fetch.local(url)
    fetch.local(url)
    assert len(site.asked) == 1


# What goes wrong on the way


@pytest.mark.parametrize("chunked", [False, True])
def test_a_dropped_connection_is_gone_on_with(site: Site, chunked: bool) -> None:
    """What came is kept, and the rest is asked for by `Range` and `If-Range`."""
    site.cuts, site.chunked = [1000, 2000], chunked
    assert Path(fetch.local(good(site)).path).read_bytes() == BODY
    assert site.hand_out("/dir/model.safetensors") == ["", "bytes=1000-", "bytes=3000-"]
    assert site.asked[1][1]["If-Range"] == '"one"'


def test_a_second_run_goes_on_where_the_first_was_cut(site: Site, cache: Path) -> None:
    """A connection that gains nothing any more is an error; nothing half appears."""
    site.cuts = [5000, *[0] * 20]
    with pytest.raises(SystemFault, match=r"cut at byte 5,000 of 160,\d+; a second run goes on"):
        fetch.local(good(site))
    assert visible(cache) == []
    assert len(site.asked) == download.ATTEMPTS + 1
    site.cuts, site.asked = [], []
    assert Path(fetch.local(good(site)).path).read_bytes() == BODY
    assert site.hand_out("/dir/model.safetensors") == ["bytes=5000-"]
    assert not list(cache.rglob("*.part"))


def test_a_file_that_changed_meanwhile_is_not_mixed(site: Site) -> None:
    """A part of the old file is thrown away when the server has a new one."""
    site.cuts = [5000, *[0] * 20]
    with pytest.raises(SystemFault):
        fetch.local(good(site))
    new = save({"w": np.zeros((300, 300), np.float32)})
    site.cuts, site.etag, site.files["/dir/model.safetensors"] = [], '"two"', new
    assert Path(fetch.local(good(site)).path).read_bytes() == new


def test_a_server_that_ignores_if_range_is_found_out(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part with another tag is not put behind the one that is here."""
    site.cuts = [5000, *[0] * 20]
    with pytest.raises(SystemFault):
        fetch.local(good(site))
    new = bytes(reversed(BODY))
    site.cuts, site.etag, site.files["/dir/model.safetensors"] = [], '"two"', new
    get = download.get

    def forgetful(url: str, headers: dict[str, str], timeout: float) -> object:
        known = {**headers, "If-Range": '"two"'} if "Range" in headers else headers
        return get(url, known, timeout)

    monkeypatch.setattr(download, "get", forgetful)
    assert Path(fetch.local(good(site)).path).read_bytes() == new


def test_a_server_without_ranges_starts_over(site: Site) -> None:
    """An answer with the whole file replaces the part."""
    site.cuts, site.ranges = [1000], False
    assert Path(fetch.local(good(site)).path).read_bytes() == BODY


def test_without_a_tag_or_date_nothing_is_resumed(site: Site) -> None:
    """Nothing would say that the rest belongs to the same file."""
    site.cuts, site.etag, site.modified = [1000], None, None
    assert Path(fetch.local(good(site)).path).read_bytes() == BODY
    assert site.hand_out("/dir/model.safetensors") == ["", ""]


def test_a_weak_tag_does_not_resume(site: Site) -> None:
    """`W/` says that bytes may differ; the date is asked by instead."""
    site.etag, site.cuts = 'W/"one"', [1000]
    fetch.local(good(site))
    assert site.asked[1][1]["If-Range"] == site.modified


def test_a_length_that_never_comes_is_an_error(site: Site, cache: Path) -> None:
    """A server that announces more than it sends leaves no file."""
    site.said_length, site.ranges = len(BODY) + 1000, False
    with pytest.raises(SystemFault, match="cut at byte"):
        fetch.local(good(site))
    assert visible(cache) == []


def test_an_unknown_length_is_read_to_the_end_and_not_kept_for_current(site: Site) -> None:
    """Where nothing tells the end from a cut, the file is asked for again each time."""
    site.said_length = -1
    assert Path(fetch.local(good(site)).path).read_bytes() == BODY
    fetch.local(good(site))
    assert "If-None-Match" not in site.asked[1][1]


def test_a_finished_part_is_not_asked_to_go_on(site: Site) -> None:
    """A part that is whole already (killed before it got its name) is fetched anew, not stuck."""
    site.cuts = [5000, *[0] * 20]
    with pytest.raises(SystemFault):
        fetch.local(good(site))
    place = download._Place(address.address(good(site)))
    Path(place.part).write_bytes(BODY)
    site.cuts = []
    assert Path(fetch.local(good(site)).path).read_bytes() == BODY


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


def test_a_busy_server_is_asked_again(site: Site) -> None:
    """503 is worth a few attempts, 404 is not."""
    site.statuses = {"/a.pth": 503, "/b.pth": 404}
    for name in ("a", "b"):
        with pytest.raises(PorterError):
            fetch.local(f"{site.url}/{name}.pth")
    asked = [path for path, _ in site.asked]
    assert asked.count("/a.pth") == download.ATTEMPTS
    assert asked.count("/b.pth") == 1


def test_nobody_listening_is_one_line(site: Site) -> None:
    """A refused connection is the machine's fault, not the input's."""
    with pytest.raises(SystemFault, match="cannot be reached: Connection refused"):
        fetch.local(down(good(site)))


def test_a_server_that_does_not_answer_is_timed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for ever."""
    monkeypatch.setattr(fetch, "TIMEOUT", 0.05)
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


def test_a_wrong_digest_leaves_nothing(site: Site, cache: Path) -> None:
    """The file that came is not the file that was meant."""
    with pytest.raises(InputError, match=f"its sha256 is {hashlib.sha256(BODY).hexdigest()}, not"):
        fetch.local(f"{good(site)}#sha256={'0' * 64}")
    assert visible(cache) == []
    assert not list(cache.rglob("*.part"))


def test_a_right_digest_is_held_across_a_cut(site: Site) -> None:
    """The digest is of the whole file, whatever pieces it came in."""
    site.cuts = [777]
    digest = hashlib.sha256(BODY).hexdigest().upper()
    assert Path(fetch.local(f"{good(site)}#sha256={digest}").path).read_bytes() == BODY


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


def test_a_full_disk_is_seen_before_the_download(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bytes needed and the bytes there are said, and not one is fetched."""
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=70 << 20))
    site.said_length, site.ranges = 10 << 20, False
    with pytest.raises(SystemFault, match=r"10,485,760 bytes to download, .*PORTER_CACHE_DIR"):
        fetch.local(good(site))


@pytest.mark.parametrize("etag", ['"one"', None])
def test_an_answer_without_a_length_leaves_the_reserve(
    site: Site, cache: Path, monkeypatch: pytest.MonkeyPatch, etag: str | None
) -> None:
    """A body without announced length is given up, and removed, before the disk is full."""
    usage = shutil.disk_usage("/")
    size = 100_000  # Of the disk, without the reserve.

    def free(path: str) -> object:
        parts = [p.stat().st_size for p in cache.rglob("*.part")]
        return usage._replace(free=download.RESERVE + size - sum(parts))

    monkeypatch.setattr(shutil, "disk_usage", free)
    monkeypatch.setattr(download, "_BLOCK", 4096)
    site.chunked, site.etag, site.modified = True, etag, None
    site.files["/dir/model.safetensors"] = bytes(1 << 22)
    with pytest.raises(SystemFault, match=r"no room for more.*PORTER_CACHE_DIR"):
        fetch.local(good(site))
    assert not list(cache.rglob("*.part"))


def test_a_part_that_cannot_be_continued_is_removed(site: Site, cache: Path) -> None:
    """Without a tag nothing continues a part, so it does not stay in the cache."""
    site.etag = site.modified = None
    site.chunked, site.cuts = True, [1000] * 10
    with pytest.raises(SystemFault, match="was cut"):
        fetch.local(good(site))
    assert not list(cache.rglob("*.part*"))


def test_a_tag_with_control_characters_is_not_sent_back(site: Site) -> None:
    """A header that no request may have is not kept."""
    assert download._sendable('"a\r\n b"') is None
    assert download._sendable('"\N{LATIN SMALL LETTER E WITH ACUTE}"') is None
    assert download._sendable('"one"') == '"one"'


@pytest.mark.parametrize("record", ["[" * 100_000, "[]", '{"url": 5}', '{"url": "a", "size": "b"}'])
def test_a_damaged_record_of_a_copy_is_passed_over(site: Site, cache: Path, record: str) -> None:
    """A copy whose record is damaged is fetched again."""
    path = Path(fetch.local(good(site)).path)
    path.with_name(f".{path.name}.json").write_text(record)
    assert fetch.local(good(site)).path == str(path)
    assert "If-None-Match" not in site.asked[1][1]


def test_a_cache_that_cannot_be_written_is_one_line(site: Site, cache: Path) -> None:
    """The folder is named, and what names another."""
    cache.write_bytes(b"a file, not a folder")
    with pytest.raises(SystemFault, match=r"cannot be written: .*PORTER_CACHE_DIR"):
        fetch.local(good(site))


# Redirects, proxies, addresses


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
        ("s3://bucket/x.pth", UsageError, "not s3"),
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
def test_names_in_the_cache_are_harmless(path: str, name: str) -> None:
    """No address can choose where in the cache, or outside it, its file lies."""
    assert address.address(f"http://a.example{path}").name == name


def test_two_at_once_share_one_download(site: Site) -> None:
    """Threads or processes that want the same file wait for one another."""
    found: list[bytes] = []
    threads = [
        threading.Thread(
            target=lambda: found.append(Path(fetch.local(good(site)).path).read_bytes())
        )
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [BODY] * 4
    assert sum("If-None-Match" not in headers for _, headers in site.asked) == 1


# Everywhere a checkpoint is read


def test_every_call_takes_an_address(site: Site, tmp_path: Path) -> None:
    """Convert, inspect, diff and load_model read addresses; provenance names the address."""
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
    site.statuses["/shunted.pth"] = 503
    note = porter.diff(url, out).notes[0]
    assert "is the copy downloaded on" in note
    with pytest.warns(UserWarning, match="is the copy downloaded on"):
        porter.load_model("shunted-t", url)
    site.statuses.clear()
    with pytest.raises(PorterError, match=f"^{url}: does not fit"):
        porter.load_model("shunted-b", url)
